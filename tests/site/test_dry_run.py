"""A dry run ends as the run would that it stands for; and what makes an installation fail changes nothing."""

from __future__ import annotations

import os
import re
import signal
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import Site
from tests.support.commands import SITE, Done, clean_environment, read_until, run, started
from tests.support.environment_files import header
from tests.support.folders import small_disk
from tests.support.needs import need_root
from tests.support.processes import wait_until_none_at
from tests.support.tiny_root import SETUP, make_wheel, write_wheel

Words = Sequence[str | Path]


def file(folder: Path, *tables: str, needs: str = "") -> Path:
    """Write an environment file that needs nothing, or one package."""
    path = folder / "small.py"
    path.write_text(header(*tables, dependencies=(needs,) if needs else ()) + SETUP)
    return path


def closed_parent(folder: Path) -> Words:
    (folder / "closed").mkdir(mode=0o555)
    return ["--root", folder / "closed/root", "--env", file(folder)]


def closed_root(folder: Path) -> Words:
    (folder / "root").mkdir(mode=0o555)
    return ["--root", folder / "root", "--env", file(folder)]


def parent_is_a_file(folder: Path) -> Words:
    (folder / "file").touch()
    return ["--root", folder / "file/root", "--env", file(folder)]


def root_is_a_file(folder: Path) -> Words:
    (folder / "file").touch()
    return ["--root", folder / "file", "--env", file(folder)]


def root_is_a_dangling_link(folder: Path) -> Words:
    (folder / "root").symlink_to("nowhere")
    return ["--root", folder / "root", "--env", file(folder)]


def read_only_file_system(folder: Path) -> Words:
    need_root()
    place = folder / "read-only"
    place.mkdir()
    for options in (["--bind", place], ["-o", "remount,bind,ro"]):
        run("mount", *options, place, check=True)
    return ["--root", place / "root", "--env", file(folder)]


def unknown_template(folder: Path) -> Words:
    (folder / "templates").mkdir()
    (folder / "templates/slurm.sh.j2").write_text("{{ nothing }}")
    return [*new(folder, "jobs.scheduler=slurm"), "--template-dir", folder / "templates"]


def broken_lock(folder: Path) -> Words:
    file(folder, needs="six").with_name("small.py.lock").write_text("<html>")
    return ["--root", folder / "root", "--env", folder / "small.py"]


def wrong_reference(folder: Path) -> Words:
    return ["--root", folder / "root", "--env", file(folder, "[[tool.rootstock.references]]", 'structure = "Cu"')]


def new(folder: Path, *settings: str, needs: str = "") -> list[str | Path]:
    """Return what makes a root with some settings."""
    words = [word for setting in settings for word in ("--set", setting)]
    return ["--root", folder / "root", "--env", file(folder, needs=needs), *words]


ELSEWHERE = "\nChoose another --root."
CASES: dict[str, tuple[Callable[[Path], Words], int, str]] = {
    "closed parent": (closed_parent, 10, f"Cannot make the root .*/root: you may not write to .*/closed.{ELSEWHERE}"),
    "closed root": (closed_root, 10, f"Cannot make the root .*/root: you may not write to .*/root.{ELSEWHERE}"),
    "parent is a file": (parent_is_a_file, 10, "Cannot make the root .*/file/root: .*/file is no folder"),
    "root is a file": (root_is_a_file, 10, "Cannot make the root .*/file: .*/file is no folder"),
    "dangling link": (root_is_a_dangling_link, 10, "is a link to nowhere, which leads to no folder"),
    "read-only": (read_only_file_system, 16,
                  f"Cannot make the root .*: .*/read-only is on a read-only file system.{ELSEWHERE}"),
    "placeholder": (
        lambda folder: ["--root", folder / "SHARED/root", "--env", file(folder)], 3,
        "SHARED in the root .* stands for a folder whose name only your site knows",
    ),
    "placeholder at the end": (
        lambda folder: ["--root", folder / "SHARED", "--env", file(folder)], 3, "path with that name: --root .*/NAME\n",
    ),
    "unknown environment": (lambda folder: ["--root", folder / "root", "--set", "environments=emtx"], 4,
                            "This package has no environment 'emtx'"),
    "unknown model": (lambda folder: new(folder, "models=emtx-small"), 4, "emtx-small"),
    "model that an environment has not": (
        lambda folder: new(folder, "models=lj-xenon2"), 3, "Environment 'lj' has no model 'xenon2'"
    ),
    "find-links": (lambda folder: new(folder, "uv.find-links=/nowhere", needs="six"), 14, "directory: /nowhere"),
    "a package that is nowhere": (
        lambda folder: new(folder, "uv.default-index=file:///nowhere", needs="six"), 14, "no versions of six",
    ),
    "constraint": (lambda folder: new(folder, "uv.constraints=six of one", needs="six"), 14, "six of one"),
    "requirement": (lambda folder: new(folder, needs="six of one"), 14, "six of one"),
    "settings that uv lacks": (
        lambda folder: ["--root", folder / "root", "--env", file(folder, "[tool.uv]", "nothing = 1", needs="six")], 14,
        "unknown field `nothing`",
    ),
    "relative cache": (lambda folder: new(folder, "uv.cache=cache"), 3, "uv.cache is 'cache'; it must be an absolute"),
    "cache that cannot be made": (lambda folder: new(folder, "uv.cache=/proc/cache"), 10, "cache: Permission denied"),
    "directives": (
        lambda folder: new(folder, "jobs.scheduler=slurm", "jobs.directives=--gpus={gpu}"), 17,
        "jobs.directives holds {gpu}, which has no meaning there: '--gpus={gpu}'",
    ),
    "template": (unknown_template, 17, "slurm.sh.j2, line 1: 'nothing' is undefined"),
    "lock": (broken_lock, 14, "Failed to parse .*/small.py.lock"),
    "reference": (wrong_reference, 3, "references.. number 1: unknown key 'structure'"),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Return a folder, in which nothing is mounted any more when the test ends."""
    yield tmp_path
    if (tmp_path / "read-only").is_dir():  # `os.path.ismount` sees no mount within one file system
        run("umount", tmp_path / "read-only", check=True)


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_ends_as_the_run_itself(site: Site, place: Path, case: str) -> None:
    words, code, message = CASES[case]
    options = words(place)
    before = sorted(place.rglob("*"))

    def outcome(*more: str) -> tuple[int, str]:
        done = site("install", "--cluster", "local", "--no-client", *options, *more, check=False)
        assert sorted(place.rglob("*")) == before
        return done.returncode, re.sub(
            r"^\d\d:\d\d:\d\d .*\n|/\.staging-\w+|rootstock-uv-\w+", "", done.stderr, flags=re.M
        )

    dry = outcome("--dry-run")
    assert dry == outcome()
    assert dry[0] == code, dry[1]
    assert re.search(message, dry[1]), dry[1]


def test_a_dry_run_finds_that_the_client_cannot_be_built(site: Site, tmp_path: Path) -> None:
    install = ("install", "--cluster", "local", "--root", tmp_path / "root", "--set", "environments=",
               "--set", "uv.default-index=file:///nowhere")  # fmt: skip
    for more in (["--dry-run"], []):
        done = site(*install, *more, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (14, False)
        assert "rootstock-client: locking" in done.stderr
        assert not (tmp_path / "root").exists()


# -- settings that make an installation fail


def settings(root: Path) -> str:
    return (root / "clusters.toml").read_text()


@pytest.fixture
def failing(site: Site, tiny_root: Path) -> Callable[..., Done]:
    """Return how a setting is given to a root of one environment; what fails changes no file of it."""

    def install(*options: str) -> Done:
        before = settings(tiny_root), sorted(tiny_root.rglob("*"))
        done = site("install", "--root", tiny_root, "--no-client", *options, check=False)
        assert (settings(tiny_root), sorted(tiny_root.rglob("*"))) == before
        return done

    return install


@pytest.mark.parametrize(
    ("setting", "code"),
    [("uv.find-links=/nowhere", 14), ("uv.constraints=six<0", 14), ("python.interpreter=/nowhere", 14),
     ("environments=tiny,emtx", 4), ("models=emtx", 4)],
)  # fmt: skip
def test_a_setting_that_makes_an_installation_fail_is_not_kept(failing, site, tiny_root, setting, code):
    assert failing("--set", setting).returncode == code
    assert "nothing to do" in site("install", "--root", tiny_root, "--no-client").stdout


def test_a_setting_that_makes_a_build_fail_is_not_kept(site: Site, tiny_root: Path, tmp_path: Path) -> None:
    """Where it is seen only when the packages are there."""
    wheel = write_wheel(tmp_path, "six", "1.18.0", {"six.py": b"x = 1\n"})
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, b"x = 2\n" if name == "six.py" else content)
    before = settings(tiny_root)
    tried = ("--set", f"uv.find-links={tmp_path}", "--set", "uv.constraints=six>=1.18")
    done = site("install", "--root", tiny_root, "--no-client", *tried, check=False)
    assert done.returncode == 14 and "the settings of before are in clusters.toml again" in done.stderr
    assert settings(tiny_root) == before
    assert "nothing to do" in site("install", "--root", tiny_root, "--no-client").stdout


def test_other_settings_are_kept_when_an_environment_cannot_be_built(site: Site, tiny_root: Path) -> None:
    text = (tiny_root / "environments/tiny.py").read_text()
    (tiny_root / "environments/tiny.py").write_text(text.replace('"six"', '"rsnowhere"'))
    done = site("install", "--root", tiny_root, "--no-client", "--set", "contact=Ann", check=False)
    assert done.returncode == 14
    assert 'contact = "Ann"' in settings(tiny_root)


def test_what_a_setting_cannot_have_caused_does_not_refuse_it(site: Site, tiny_root: Path) -> None:
    other = tiny_root / "environments/env001.py"
    other.write_text((tiny_root / "environments/tiny.py").read_text())
    site("install", "--root", tiny_root, "--no-client", "--env", "env001")
    other.write_text("no header")
    done = site("install", "--root", tiny_root, "--no-client", "--set", "uv.constraints=six<9", check=False)
    assert "env001" in done.stderr and done.returncode == 3, done.stderr
    assert '"six<9"' in settings(tiny_root)
    # What it can have caused is told without the rest.
    done = site("install", "--root", tiny_root, "--no-client", "--set", "uv.constraints=six<0", check=False)
    assert (done.returncode, "env001" in done.stderr) == (14, False), done.stderr
    assert '"six<9"' in settings(tiny_root)


# -- how builds are locked


class Handler(SimpleHTTPRequestHandler):
    """Answers requests for the lists of packages when so many have been made."""

    together: threading.Barrier

    def do_GET(self) -> None:
        if self.path.count("/") == 2:
            with suppress(threading.BrokenBarrierError):
                self.together.wait(timeout=30)
        super().do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def two(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Words, threading.Barrier]]:
    """Return two environments with a package each, and whom its index waits for: that many requests at a time."""
    together = threading.Barrier(request.param)
    handler = partial(type("", (Handler,), {"together": together}), directory=str(tmp_path / "index"))
    options: list[str | Path] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index = ("[[tool.uv.index]]", f'url = "http://127.0.0.1:{server.server_port}/"', "default = true")
        for name in ("rsone", "rstwo"):
            (tmp_path / "index" / name).mkdir(parents=True)
            make_wheel(tmp_path / "index" / name, name)
            (tmp_path / f"{name}.py").write_text(header(*index, dependencies=(name,)) + SETUP)
            options += ["--env", tmp_path / f"{name}.py"]
        yield options, together
        together.abort()
        server.shutdown()


@pytest.mark.parametrize("two", [2], indirect=True)
def test_several_builds_are_locked_at_a_time(site: Site, tmp_path: Path, two: tuple[Words, threading.Barrier]) -> None:
    options, together = two
    where = ("install", "--cluster", "local", "--root", tmp_path / "root", "--no-client", "--dry-run", "--jobs", "2")
    done = site(*where, *options)
    assert not together.broken, "each was asked for when the other had been locked"
    lines = [line for line in done.stdout.splitlines() if line.startswith("  build ")]
    assert [line.split()[1] for line in lines] == ["rsone", "rstwo"]


@pytest.mark.parametrize("two", [3], indirect=True)
def test_an_interruption_ends_what_is_locked(tmp_path: Path, two: tuple[Words, threading.Barrier]) -> None:
    options, _ = two
    where = ("--cluster", "local", "--root", tmp_path / "root", "--no-client", "--dry-run", "--jobs", "2")
    with started([SITE, "install", *where, *options]) as process:
        read_until(process, "locking")
        read_until(process, "locking")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        wait_until_none_at(tmp_path / "root")


def test_a_root_that_cannot_be_written_is_refused_before_anything_is_locked(site: Site, tiny_root: Path) -> None:
    other = tiny_root / "environments/other.py"
    other.write_text((tiny_root / "environments/tiny.py").read_text())
    tiny_root.chmod(0o555)
    try:
        done = site("install", "--root", tiny_root, "--env", "other", "--no-client", check=False)
    finally:
        tiny_root.chmod(0o755)
    assert done.returncode == 10
    assert f"Error: You may not change {tiny_root}.\nDo this as one of the root's admins." in done.stderr
    assert "locking" not in done.stderr


# -- other commands


@pytest.mark.parametrize("command", [["gc", "--keep", "1", "--older-than", "0"], ["lock"], ["rollback"]])
@pytest.mark.parametrize("why", ["closed", "read-only"])
def test_other_commands_end_so_too(site: Site, tiny_root: Path, command: list[str], why: str) -> None:
    need_root()
    text = (tiny_root / "environments/tiny.py").read_text()
    (tiny_root / "environments/tiny.py").write_text(f"{text}\n")
    site("install", "--root", tiny_root, "--no-client")
    (tiny_root / "environments/tiny.py.lock").unlink()
    with ExitStack() as after:
        if why == "closed":
            after.callback(tiny_root.chmod, 0o755)
            tiny_root.chmod(0o555)
        else:
            run("mount", "--bind", tiny_root, tiny_root, check=True)
            after.callback(run, "umount", "--lazy", tiny_root, check=True)
            run("mount", "-o", "remount,bind,ro", tiny_root, check=True)
        ends = [site(*command, "--root", tiny_root, *more, check=False) for more in (["--dry-run"], [])]
    said = [[line for line in done.stderr.splitlines() if line.startswith("Error")] for done in ends]
    assert (ends[0].returncode, said[0]) == (ends[1].returncode, said[1])
    assert ends[0].returncode == (10 if why == "closed" else 16), ends[0].stderr


def test_a_full_folder_for_temporary_files_is_told(site: Site, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "size=64k") as small:
        status = os.statvfs(small)
        (small / "ballast").write_bytes(b"\0" * (status.f_bavail * status.f_frsize - 8192))
        install = ("install", "--cluster", "local", "--no-client", *new(tmp_path, needs="six"))
        done = site(*install, "--dry-run", check=False, environment=clean_environment(TMPDIR=str(small)))
    assert done.returncode == 16, done.stderr
    assert "No space left on device" in done.stderr
    assert "Name a folder with room: TMPDIR=/path rootstock-site ..." in done.stderr
