"""Packages are fetched from a server that cuts connections, asks who one is, and sends one elsewhere."""

from __future__ import annotations

import base64
import hashlib
import platform
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rootstock.builds.wheel_tags import Wheel, best_wheel, wheels_of
from rootstock.errors import BundleError

CONTENT = bytes(range(256)) * 1000
LOGIN = "Basic " + base64.b64encode(b"ann:secret").decode()


class Handler(BaseHTTPRequestHandler):
    """What the path says, as often as ``{times}`` says; then the content."""

    def do_GET(self):
        kind, _, times = self.path.strip("/").partition("-")
        self.server.seen.append((self.path, self.headers["Authorization"]))
        asked = sum(path == self.path for path, _ in self.server.seen)
        if kind == "login" and self.headers["Authorization"] != LOGIN:
            self.send_error(401)
        elif kind == "elsewhere":
            self.send_response(302)
            # By another name: credentials are for the host that they are of.
            self.send_header("Location", f"http://localhost:{self.server.server_port}/plain")
            self.end_headers()
        elif kind == "cut" and asked <= int(times):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:1000])
        elif kind == "chunks" and asked <= int(times):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"100\r\n" + CONTENT[:99])
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(b"other" + CONTENT[5:] if kind == "other" else CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as it:
        it.seen = []
        Handler.protocol_version = "HTTP/1.1"
        threading.Thread(target=it.serve_forever, daemon=True).start()
        yield it
        it.shutdown()


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    """Fetch a path from the server, and return what is there then; whoever runs the tests may have a login for it."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").touch(0o600)

    def call(path):
        url = f"http://127.0.0.1:{server.server_port}/{path}"
        Wheel("a.whl", url, hashlib.sha256(CONTENT).hexdigest()).fetch(tmp_path)
        return (tmp_path / "a.whl").read_bytes()

    return call


@pytest.mark.parametrize("path", ["plain", "elsewhere", "cut-1", "cut-2", "chunks-2"])
def test_a_package_is_fetched(fetch, path):
    assert fetch(path) == CONTENT


@pytest.mark.parametrize(
    ("path", "message", "asked"),
    [
        ("cut-9", r"Cannot fetch http://127\.0\.0\.1:\d+/cut-9: it ended after 1000 of 256000 bytes", 3),
        ("chunks-9", r"Cannot fetch http://127\.0\.0\.1:\d+/chunks-9: IncompleteRead", 3),
        ("other", "is not the file that the lock names: ", 1),
        ("login", "HTTP Error 401", 3),
    ],
)
def test_what_cannot_be_had_is_one_clear_error(fetch, server, path, message, asked):
    with pytest.raises(BundleError, match=message):
        fetch(path)
    assert len(server.seen) == asked


def test_credentials_are_those_of_netrc_and_for_that_host_only(fetch, server, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password secret\n")
    assert fetch("login") == CONTENT
    server.seen.clear()
    assert fetch("elsewhere") == CONTENT
    assert server.seen == [("/elsewhere", LOGIN), ("/plain", None)]


def test_a_disk_that_is_full_is_no_fault_of_the_server(fetch, server, tmp_path):
    (tmp_path / "a.whl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        fetch("plain")
    assert len(server.seen) == 1


def wheels(*names, algorithm="sha256"):
    return ", ".join(f'{{ url = "http://127.0.0.1/{name}", hashes = {{ {algorithm} = "00" }} }}' for name in names)


@pytest.fixture
def chosen(tmp_path):
    """Return the names of the wheels that are taken of a package, by what its lock says of it."""

    def call(*packages, python="3.11.2"):
        lock = tmp_path / "pylock.toml"
        lock.write_text(
            'lock-version = "1.0"\ncreated-by = "uv"\nrequires-python = ">=3.10"\n'
            + "".join(f'[[packages]]\nname = "{name}"\nversion = "1"\n{said}\n' for name, said in packages)
        )
        return [wheel.name for wheel in wheels_of(lock, python)]

    return call


def test_an_index_without_sha256_is_refused(chosen):
    with pytest.raises(BundleError, match=r"gives no SHA-256 of it"):
        chosen(("a", f"wheels = [{wheels('a-1-py3-none-any.whl', algorithm='md5')}]"))


MACHINE = platform.machine()
# What fits Python 3.11 here, best first, and what does not.
FITTING = [
    f"a-1-cp311-cp311-manylinux_2_17_{MACHINE}.whl",
    f"a-1-cp311-abi3-manylinux_2_17_{MACHINE}.whl",
    f"a-1-cp310-abi3-manylinux_2_17_{MACHINE}.whl",
    f"a-1-py3-none-manylinux_2_17_{MACHINE}.whl",
    "a-1-py3-none-any.whl",
]
OTHERS = [
    f"a-1-cp312-cp312-manylinux_2_17_{MACHINE}.whl", f"a-1-cp310-cp310-manylinux_2_17_{MACHINE}.whl",
    "a-1-cp311-cp311-win_amd64.whl",
]  # fmt: skip


@pytest.mark.parametrize("best", range(len(FITTING)))
@pytest.mark.parametrize("step", [1, -1], ids=["best first", "best last"])
def test_the_wheel_of_a_package_that_is_the_best_for_this_machine(chosen, best, step):
    names = [*FITTING[best:], *OTHERS][::step]
    assert chosen(("a", f"wheels = [{wheels(*names)}]")) == [FITTING[best]]
    assert best_wheel([*names, "a-1.tar.gz"], "3.11") == FITTING[best]


def test_the_interpreter_of_the_build_counts_and_not_the_one_that_runs_this(chosen):
    each = [wheels(f"{name}-1-cp{n}-cp{n}-manylinux_2_17_{MACHINE}.whl") for name, n in (("old", 310), ("new", 399))]
    packages = (
        ("old", f"marker = \"python_version < '3.99'\"\nwheels = [{each[0]}]"),
        ("new", f"marker = \"python_full_version >= '3.99.3'\"\nwheels = [{each[1]}]"),
        ("other", f"marker = \"sys_platform == 'win32'\"\nwheels = [{wheels('other-1-cp310-cp310-win32.whl')}]"),
    )
    assert [name.partition("-")[0] for name in chosen(*packages, python="3.10.2")] == ["old"]
    assert [name.partition("-")[0] for name in chosen(*packages, python="3.99.3")] == ["new"]
    assert chosen(*packages, python="3.99.2") == []


SOURCE = 'url = "http://127.0.0.1/a-1.tar.gz", hashes = { sha256 = "00" }'


@pytest.mark.parametrize(
    "said",
    [
        f"sdist = {{ {SOURCE} }}\nwheels = [{wheels(*OTHERS)}]",
        f"sdist = {{ {SOURCE} }}",
        f"archive = {{ {SOURCE} }}",
        f"archive = {wheels(OTHERS[0])}",
        'vcs = { type = "git", url = "http://127.0.0.1/a", commit-id = "00" }',
        'directory = { path = "/a" }',
    ],
)
def test_a_package_without_a_wheel_that_fits(chosen, said):
    with pytest.raises(BundleError, match=r"a 1 has no wheel for Python 3\.11 on this machine.*\n.*uv\.find-links=DIR"):
        chosen(("b", f"wheels = [{wheels('b-1-py3-none-any.whl')}]"), ("a", said))


@pytest.mark.parametrize(
    ("said", "python"),
    [
        (f"wheels = [{wheels(*OTHERS)}]", "3.11.2"),  # it cannot even be built
        (f"wheels = [{wheels('a.whl')}]", "3.11.2"),
        ("wheels = [{ url = 'http://127.0.0.1/a-1-py3-none-any.whl', hashes = {} }]", "3.11.2"),
        (f"wheels = [{wheels(FITTING[-1])}]", "3.9.2"),
    ],
)
def test_a_lock_of_which_nothing_can_be_chosen(chosen, said, python):
    minor = python.rpartition(".")[0]
    with pytest.raises(BundleError, match=rf"A lock has no packages for Python {minor} on this machine: \w.*\n"):
        chosen(("a", said), python=python)
    assert best_wheel(OTHERS, "3.11") == ""


def test_a_wheel_that_is_named_by_itself(tmp_path, chosen):
    """By its address, as ours is, or by a path from where the lock is."""
    path = f'archive = {{ path = "dist/{FITTING[0]}", hashes = {{ sha256 = "00" }} }}'
    assert chosen(("a", path)) == [FITTING[0]]
    (wheel,) = wheels_of(tmp_path / "pylock.toml", "3.11.2")
    assert (wheel.url, wheel.sha256) == ((tmp_path / "dist" / FITTING[0]).as_uri(), "00")
    local = "a-1+cpu-py3-none-any.whl"
    assert chosen(("b", f"archive = {wheels(local.replace('+', '%2B'))}")) == [local]
