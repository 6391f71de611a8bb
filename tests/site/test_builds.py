"""Builds: several side by side, what each says of itself, and that two of one lock are alike."""

from __future__ import annotations

import hashlib
import json
import marshal
import os
import shutil
import signal
import sys
import threading
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from rootstock.builds.bytecode import KEPT, compile_bytecode
from rootstock.builds.subprocesses import Programs
from rootstock.root.checksums import check_build, read_contents
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree
from rootstock.root.records import active_build, read_build
from rootstock.root.signals import ENDING, start_thread, thread_pool
from tests.support.commands import SITE, ordinary, read_until, run, started
from tests.support.environment_files import header
from tests.support.needs import need_program
from tests.support.processes import cut_off, stop_tree, wait_until_none_at
from tests.support.tiny_root import PACKAGES, SETUP, TinyRoot, make_wheel, write_wheel
from tests.support.tracing import quiet_environment

ALPHA, BETA = PACKAGES


@pytest.fixture
def three(tmp_path):
    """Return a root with the files of three environments, and the command that installs them."""
    root = TinyRoot.create(tmp_path / "root", tmp_path / "wheels")
    root.layout.environment_file("tiny").unlink()
    for name, packages in {"one": (ALPHA,), "two": (BETA,), "three": (ALPHA, BETA)}.items():
        uv = ("[tool.uv]", "no-index = true", f'find-links = ["{root.wheels}"]')
        root.layout.environment_file(name).write_text(header(*uv, dependencies=packages) + SETUP)
    where = ["--cluster", "local", "--root", str(root.path)]
    command = [*ordinary(), str(SITE), "install", "--yes", *where, "--no-client"]
    for name in ("one", "two", "three"):
        command += ["--env", name]
    return root, command


def active(root):
    return {path.name for path in root.layout.all_active.iterdir() if not path.name.startswith(".")}


def test_environments_are_built_side_by_side(three):
    root, command = three
    done = run(*command, "--jobs", "3")
    assert done.returncode == 0, done.stderr
    assert active(root) == {"one", "two", "three"}
    steps = [line.split(" ", 1)[1] for line in done.stderr.splitlines() if line[:2].isdigit()]
    # All have begun before one is ready, and every line says whose it is.
    assert {line.partition(":")[0] for line in steps[: steps.index(next(s for s in steps if "ready" in s))]} == {
        "one", "two", "three",
    }  # fmt: skip
    for name in ("one", "two", "three"):
        assert check_build(active_build(root.layout.active(name))) == []
    # One change of the root, however many builds.
    assert [path.name for path in root.layout.generations.iterdir()] == ["1.json"]
    assert "nothing to do" in run(*command).stdout


@pytest.mark.parametrize("broken", [["two"], ["one", "two"]])
def test_a_build_that_fails_does_not_lose_the_others(three, broken):
    root, command = three
    for name in broken:
        file = root.layout.environment_file(name)
        file.write_text(file.read_text().replace("dependencies = [", 'dependencies = ["nowhere", '))
    done = run(*command)
    assert done.returncode == 14
    assert active(root) == {"one", "two", "three"} - {*broken}
    assert f"{len(broken)} of 3 builds failed; the others are in use.\n" in done.stderr
    for name in broken:
        assert f"{name}: uv lock failed" in done.stderr
    assert root.leftovers() == []
    for name in broken:
        file = root.layout.environment_file(name)
        file.write_text(file.read_text().replace('"nowhere", ', ""))
    assert run(*command).returncode == 0
    assert active(root) == {"one", "two", "three"}


def test_an_interruption_ends_all(three):
    root, command = three
    with started([*command, "--jobs", "3"]) as process:
        read_until(process, "installing")
        assert cut_off(process, signal.SIGINT) == 130  # alone: those that it has started are its to end
    wait_until_none_at(root.layout.all_builds)
    assert not list(root.layout.all_builds.glob("*/.*"))
    assert run(*command).returncode == 0
    assert active(root) == {"one", "two", "three"}


def blocks(status, number):
    """Tell whether a thread blocks a signal, by its file `status` under /proc."""
    mask = next(line for line in status.read_text().splitlines() if line.startswith("SigBlk:"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


def test_only_the_first_thread_takes_the_signal_of_an_interruption(three):
    """The kernel may give it to any other that takes it, and the first one would wait on for uv."""
    _, command = three
    with started([*command, "--jobs", "3"]) as process:
        read_until(process, "installing")
        stop_tree(process.pid)
        threads = {int(task.name): task / "status" for task in Path(f"/proc/{process.pid}/task").iterdir()}
        takers = {thread for thread, status in threads.items() if not all(blocks(status, each) for each in ENDING)}
        assert len(threads) > 1
        assert takers == {process.pid}


def mask():
    """Return the signals that this thread blocks."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_threads_take_no_signal_from_their_first_moment_on():
    before, masks = mask(), []
    thread = threading.Thread(target=lambda: masks.append(mask()))
    start_thread(thread)
    thread.join()
    with thread_pool(2) as pool:
        masks += [future.result() for future in [pool.submit(mask) for _ in range(4)]]
    assert len(masks) == 5 and all(each >= {*ENDING} for each in masks)
    assert mask() == before


def test_a_pool_for_which_there_is_no_room(monkeypatch):
    """It is an error, and those threads that were started wait for no other."""
    start, room = threading.Thread.start, iter([True, True])

    def start_some(thread):
        if not next(room, False):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    with pytest.raises(RuntimeError, match="can't start new thread"), thread_pool(4):
        pass


def test_what_another_thread_starts_takes_signals(tmp_path):
    with thread_pool(1) as pool:
        status = pool.submit(Programs().run, ["cat", "/proc/self/status"], os.environ).result()
    (tmp_path / "status").write_text(status)
    assert not any(blocks(tmp_path / "status", each) for each in ENDING)


# -- what a build says of itself

SIX = header(dependencies=("six==1.16.0", "colorama; sys_platform == 'win32'")) + SETUP
SIX_SHA256 = "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254"


@pytest.fixture(scope="module")
def six(site, tmp_path_factory):
    """Return the command that builds one environment from PyPI, and its root."""
    base = tmp_path_factory.mktemp("six")
    (base / "six.py").write_text(SIX)
    command = ("install", "--cluster", "local", "--root", base / "root", "--env", base / "six.py", "--no-client")
    site(*command)
    return RootLayout(base / "root"), command


def test_the_record_names_every_source(six):
    layout, _ = six
    build = active_build(layout.active("six"))
    record = read_build(build)
    assert record.sources == [
        {"package": "six", "version": "1.16.0", "file": "six-1.16.0-py2.py3-none-any.whl", "sha256": SIX_SHA256}
    ]
    inside = [path for path in build.rglob("*") if path.name not in ("SHA256SUMS", "build.json")]
    assert record.inodes == len(inside) + 1
    assert record.bytes == sum(path.stat().st_size for path in inside if path.is_file() and not path.is_symlink())
    assert (record.built_on, record.python.count(".")) == (os.uname().nodename, 2)
    assert record.interpreter and record.uv and record.built_by and record.built_at and record.lock_sha256


def test_the_bill_of_materials(six):
    layout, _ = six
    build = active_build(layout.active("six"))
    bill = json.loads((build / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert bill["serialNumber"].startswith("urn:uuid:")
    assert {key: bill["metadata"]["component"][key] for key in ("type", "name", "version")} == {
        "type": "application", "name": "six", "version": build.name,
    }  # fmt: skip
    # What is installed and nothing else: colorama is for another system.
    (part,) = bill["components"]
    assert (part["type"], part["name"], part["purl"]) == ("library", "six", "pkg:pypi/six@1.16.0")
    hashes = {found["content"] for reference in part["externalReferences"] for found in reference["hashes"]}
    assert SIX_SHA256 in hashes
    refs = {bill["metadata"]["component"]["bom-ref"], part["bom-ref"]}
    assert {entry["ref"] for entry in bill["dependencies"]} == refs
    assert all(set(entry.get("dependsOn", ())) <= refs for entry in bill["dependencies"])


def test_builds_of_a_lock_are_alike_to_the_last_byte(tmp_path):
    """With numpy, which has compiled modules, and so much Python that several processes share it.

    The second is in another root, and is made on a single processor; the third takes its bytecode from there.
    """
    file = tmp_path / "arrays.py"
    file.write_text(header(dependencies=("numpy",)) + SETUP)
    single = (need_program("taskset", "util-linux"), "--cpu-list", str(min(os.sched_getaffinity(0))))
    lists = []
    for prefix, root in (((), "root"), (single, "somewhere/else"), ((), "somewhere/else")):
        layout = RootLayout(tmp_path / root)
        where = ("--cluster", "local", "--root", layout.root)
        command = (*ordinary(), SITE, "install", "--yes", *where, "--env", file, "--no-client")
        run(*prefix, *command, check=True, timeout=600)
        shutil.copy(layout.environment_file("arrays").with_suffix(".py.lock"), tmp_path)
        build = active_build(layout.active("arrays"))
        lists.append((build / "SHA256SUMS").read_text().splitlines())
        modules, compiled = modules_of(build)
        assert len(modules) > 200 and compiled == modules
        remove_tree(build)
    assert [line for line in lists[0] if line not in lists[1]] == []
    assert lists[0] == lists[1] == lists[2]


def modules_of(build):
    """Return the modules of a build, but for packages' tests of themselves, and those of which there is bytecode."""
    [packages] = build.glob("lib/python*/site-packages")
    sources = [path.relative_to(packages) for path in packages.rglob("*.py")]
    cached = {path.relative_to(packages) for path in packages.rglob("*.pyc")}
    tag = next(iter(cached)).name.split(".")[-2]
    compiled = {path for path in sources if path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc" in cached}
    assert len(compiled) == len(cached)
    return {path for path in sources if not {"test", "tests"} & {*path.parent.parts}}, compiled


def test_bytecode_is_used_as_it_is_and_says_where_the_build_is(six):
    layout, _ = six
    build = active_build(layout.active("six"))
    ask = "import six; print(six.__cached__, six.add_metaclass.__code__.co_filename)"
    done = run(build / "bin" / "python", "-I", "-c", ask, env=quiet_environment(), check=True)
    cached, source = done.stdout.split()
    assert source == str(next(build.glob("lib/python*/site-packages/six.py")))
    assert Path(cached).read_bytes()[4:8] == bytes([1, 0, 0, 0])  # by hash, and not compared with the source
    assert os.fsencode(layout.root) not in Path(cached).read_bytes()  # so other builds can have it, too


@pytest.fixture
def kept(tmp_path):
    """Return a root with a build, the bytecode of that build that is kept for others, and a package for another one."""
    root = TinyRoot.create(tmp_path / "root", tmp_path / "wheels")
    make_wheel(root.wheels, BETA, payload=b"x = 2\n")
    assert root.install().returncode == 0
    folder = root.layout.uv_cache / KEPT
    assert folder.stat().st_mode & 0o077 == 0
    entries = [path for path in folder.iterdir() if b"rsalpha" in path.read_bytes()]
    root.require(*PACKAGES)
    return root, entries


def bytecode(root, package):
    return {path.read_bytes() for path in root.active().glob(f"lib/python*/site-packages/{package}/__pycache__/*.pyc")}


def test_what_was_compiled_for_a_build_is_taken_for_the_next(kept):
    root, [entry] = kept
    mark = marshal.dumps([b"mark"] * 4)
    entry.write_bytes(hashlib.sha256(mark).digest() + mark)
    assert root.install().returncode == 0
    assert bytecode(root, ALPHA) == {b"mark"}
    assert len(bytecode(root, BETA)) == 4  # which the first did not have


def test_in_an_admins_own_cache_it_is_theirs_alone(tmp_path):
    """Whoever else may install into this root: the same cache may serve others."""
    root = TinyRoot.create(tmp_path / "root", tmp_path / "wheels")
    cache = tmp_path / "uv"
    group = ("--group", str(os.getegid()), "--set", "access.writers=group", "--set", "access.readers=group")
    done = run(*root.install_command, *group, "--set", f"uv.cache={cache}", env=quiet_environment())
    assert done.returncode == 0, done.stderr
    assert (root.layout.all_builds.stat().st_mode & 0o7777) == 0o2770
    assert ((cache / KEPT).stat().st_mode & 0o7777) == 0o700
    assert list((cache / KEPT).iterdir())


def test_what_was_compiled_of_another_source_is_not_taken(kept):
    root, _ = kept
    make_wheel(root.wheels, ALPHA, "2.0", b"x = 3\n")
    root.require(f"{ALPHA}==2.0")
    assert root.install().returncode == 0
    done = run(root.active() / "bin" / "python", "-I", "-c", "import rsalpha; print(rsalpha.x)", check=True)
    assert done.stdout == "3\n"


@pytest.mark.parametrize("damage", [b"", b"half", None])
def test_kept_bytecode_that_is_damaged_is_made_anew(kept, damage):
    root, [entry] = kept
    good = entry.read_bytes()
    entry.write_bytes(good[: len(good) // 2] if damage == b"half" else good[:-1] + b"!" if damage is None else damage)
    before = bytecode(root, ALPHA)
    assert root.install().returncode == 0
    assert bytecode(root, ALPHA) == before
    assert entry.read_bytes() == good


def test_bytecode_that_cannot_be_kept_is_no_obstacle(kept):
    root, [entry] = kept
    entry.unlink()
    entry.mkdir()
    assert root.install().returncode == 0
    assert root.imports() == " ".join(PACKAGES)
    logs = "".join(path.read_text() for path in root.layout.log.glob("*install*"))
    assert f"Cannot keep bytecode in {entry.parent}: Is a directory." in logs


class Limited(Programs):
    """Run programs with little memory."""

    def run(self, command, *arguments):
        return super().run([need_program("prlimit", "util-linux"), f"--as={64 * 2**20}", *command], *arguments)


def test_a_lack_of_memory_is_not_kept_for_the_next(tmp_path):
    prefix, kept = tmp_path / "prefix", tmp_path / "kept"
    packages = prefix / f"lib/python3.{sys.version_info.minor}/site-packages"
    for folder in (packages, prefix / "bin", kept):
        folder.mkdir(parents=True)
    (prefix / "bin" / "python3").symlink_to(sys.executable)
    (packages / "large.py").write_text("x = [" + "f(1, 2, 3), " * 50_000 + "]\n")
    said: list[str] = []
    with_little, after = (
        compile_bytecode(
            prefix, read_contents(prefix), dict(os.environ), umask=0o077, programs=programs, log=said.append, kept=kept
        )
        for programs in (Limited(), Programs())
    )  # fmt: skip
    module = f"{packages.relative_to(prefix)}/large.py"
    assert said == [f"Cannot compile {module}: MemoryError."]
    assert cache_from_source(module) in after.hashes.keys() - with_little.hashes.keys()


def test_bytecode_that_a_wheel_brings_is_replaced(tmp_path):
    root = TinyRoot.create(tmp_path / "root", tmp_path / "wheels")
    theirs = f"rsalpha/__pycache__/__init__.{sys.implementation.cache_tag}.pyc"
    write_wheel(root.wheels, ALPHA, "2.0", {"rsalpha/__init__.py": b"x = 1\n", theirs: b"theirs"})
    for packages in ((ALPHA,), PACKAGES, (ALPHA, "rsgamma")):  # compiled, and twice taken from the first
        make_wheel(root.wheels, "rsgamma")
        root.require(*packages)
        done = root.install()
        assert done.returncode == 0, done.stderr
        assert b"theirs" not in bytecode(root, ALPHA)  # and `active`, in there, compares all files with their hashes
        assert {path.read_bytes() for path in root.layout.uv_cache.glob(f"archive-v0/*/{theirs}")} == {b"theirs"}


def test_a_module_that_is_no_python_of_this_version_is_left_as_it_is(tmp_path):
    root = TinyRoot.create(tmp_path / "root", tmp_path / "wheels")
    make_wheel(root.wheels, ALPHA, "2.0", b"print 'of old'\n")
    done = root.install()
    assert done.returncode == 0, done.stderr
    assert root.imports() == ALPHA
