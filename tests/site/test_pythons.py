"""Interpreters under the root: fetched by uv from a mirror, run by everybody, removed when no build needs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from rootstock.builds.interpreters import own_interpreters
from rootstock.root.checksums import check_build, check_interpreter, read_contents
from rootstock.root.permissions import remove_tree
from tests.support.commands import ROOTSTOCK, SITE, read_until, run, started
from tests.support.environment_files import header
from tests.support.folders import once_per_run, open_to_readers, small_disk
from tests.support.mirror import Mirror
from tests.support.needs import need_program, need_root
from tests.support.processes import cut_off, wait_until_none_at
from tests.support.tiny_root import ENVIRONMENT, PACKAGES, SETUP, TinyRoot

OUTSIDER = 65534


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """Return a mirror that has a copy of the system's Python, for `Mirror.like`."""
    done = run("/usr/bin/python3", "-c", "import platform; print(platform.python_version())", check=True)
    version = done.stdout.strip()
    folder = once_per_run(tmp_path_factory, "mirror", lambda folder: Mirror.create(folder / "mirror", version))
    return Mirror(folder / "mirror", version)


@pytest.fixture
def mirror(tmp_path, packed):
    return packed.like(tmp_path / "mirror")


@pytest.fixture
def tiny(tmp_path):
    """Return a root with an environment that is built in a second, which other users can get to."""
    open_to_readers(tmp_path)
    return TinyRoot.create(tmp_path / "root", tmp_path / "wheels")


def install(tiny, *options, prefix=()):
    return run(*prefix, *tiny.install_command, "--set", "access.readers=world", *options)


@pytest.fixture(scope="module")
def kept(tmp_path_factory, packed):
    """Return a root with a build on a fetched interpreter, and a copy of it as it was."""
    base = tmp_path_factory.mktemp("managed")
    open_to_readers(base)
    tiny = TinyRoot.create(base / "root", base / "wheels")
    done = install(tiny, *packed.settings())
    assert done.returncode == 0, done.stderr
    shutil.copytree(tiny.path, base / "kept", symlinks=True)
    return tiny, base / "kept"


@pytest.fixture
def managed(kept):
    """Return a root with a build on an interpreter from `packed`, at the same path for each test that changes it."""
    tiny, copy = kept
    remove_tree(tiny.path)
    shutil.copytree(copy, tiny.path, symlinks=True)
    return tiny


# Of the tests that use it, in one process.
together = pytest.mark.xdist_group("pythons")


def pythons(tiny):
    """Return what lies in the folder of interpreters, leftovers too."""
    return sorted(path.name for path in tiny.layout.python.iterdir()) if tiny.layout.python.is_dir() else []


def test_a_build_on_a_fetched_interpreter(tiny, mirror):
    home = tiny.path.parent / "home"
    home.mkdir()
    plan = install(tiny, *mirror.settings(), "--dry-run")
    key = mirror.key()
    line = next(line for line in plan.stdout.splitlines() if "fetch Python" in line)
    assert f"fetch Python {mirror.version} into python/{key} from {mirror.folder.as_uri()}" in line
    assert re.search(r"about \d+ MB and \d+ files", line)
    assert not tiny.layout.python.exists()
    done = install(tiny, *mirror.settings(), prefix=["env", f"HOME={home}"])
    assert done.returncode == 0, done.stderr
    steps = [line.split(" ", 1)[1] for line in done.stderr.splitlines() if f"python {mirror.version}: " in line]
    assert [step.split()[2] for step in steps] == ["fetching", "compiling", "ready"]
    # uv's own files are not left, neither here nor in the home of whoever installs.
    assert pythons(tiny) == [key]
    assert list(home.iterdir()) == []
    python = tiny.layout.interpreter(key)
    assert (tiny.active() / "bin" / "python").resolve().parent == python / "bin"
    assert tiny.imports() == PACKAGES[0]
    assert [path for path in python.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o222] == []
    # Its library is compiled, for where it is: readers could not do that.
    ask = "import json.tool as t; print(t.__cached__, t.main.__code__.co_filename)"
    cached, source = run(python / "bin" / "python3", "-I", "-c", ask).stdout.split()
    assert Path(cached).read_bytes()[4:8] == bytes([1, 0, 0, 0])
    assert Path(source).is_relative_to(python)
    assert f'"{python}/lib"' in next(python.rglob(mirror.sysconfig)).read_text()
    record = json.loads(tiny.layout.interpreter_record(key).read_text())
    assert (record["version"], record["from"].startswith(mirror.folder.as_uri())) == (mirror.version, True)
    again = install(tiny)
    assert again.stdout == f"{tiny.path}: nothing to do.\n"
    said = run(SITE, "status", "--root", tiny.path).stdout
    assert f"interpreter {key}: 1 build on it\n" in said


@together
def test_another_user_runs_it(managed, packed):
    need_root()
    need_program("setpriv", "util-linux")
    command = [
        managed.active() / "bin" / "python",
        "-I",
        "-B",
        "-c",
        "import ssl, sqlite3, ctypes, rsalpha; print('runs')",
    ]
    user = ["setpriv", f"--reuid={OUTSIDER}", f"--regid={OUTSIDER}", "--clear-groups"]
    done = run(*user, *command, cwd="/")
    assert done.stdout == "runs\n", done.stderr


def test_each_environment_gets_the_release_that_it_needs(tiny, mirror):
    """Only planned: one of these interpreters is really there."""
    mirror.offer("3.10.4", "3.11.8", "3.11.9", "3.12.3", "3.13.1", "3.14.0")
    wanted = {">=3.10": "3.12.3", ">=3.13": "3.13.1", ">3.13.1": "3.14.0", "<3.12": "3.11.9", "<3.11": "3.10.4"}
    for number, requires in enumerate(wanted):
        tiny.layout.environment_file(f"e{number}").write_text(header(dependencies=(), python=requires) + SETUP)
    names = [f"--env=e{number}" for number in range(len(wanted))]
    options = ["--cluster", "local", "--root", tiny.path, "--no-client", *names, "--dry-run", "--json"]

    def plan(*settings):
        done = run(SITE, "install", *options, *settings)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    found = plan(*mirror.settings(version="3.12"))
    assert [build["python"] for build in found["builds"]] == [*wanted.values()]
    assert {python["version"] for python in found["pythons"]} == {*wanted.values()}
    assert all(python["room"]["bytes"] > 0 for python in found["pythons"])
    exact = plan(*mirror.settings(version="3.11.8"))
    assert [build["python"] for build in exact["builds"]] == ["3.11.8", "3.13.1", "3.14.0", "3.11.8", "3.10.4"]
    # A path that comes first is taken where it can be.
    given = plan(*mirror.settings(interpreter=f"{os.path.realpath('/usr/bin/python3')},managed", version="3.12"))
    assert mirror.version in [build["python"] for build in given["builds"]]
    assert given["builds"][1]["python"] == "3.13.1"


@together
@pytest.mark.parametrize("what", ["", "bin"])
def test_an_interpreter_that_is_gone_or_broken_comes_back(managed, packed, what):
    build = managed.active()
    python = managed.layout.interpreter(packed.key())
    if what:  # the rest stays in its place, as nobody may write to it
        python.chmod(0o755)
    remove_tree(python / what)
    if what:
        python.chmod(0o555)
    plan = install(managed, "--dry-run").stdout
    assert f"fetch Python {packed.version}" in plan
    assert "build tiny" not in plan
    assert install(managed).returncode == 0
    assert managed.active() == build
    assert managed.imports() == PACKAGES[0]
    assert pythons(managed) == [packed.key()]


@together
def test_a_file_of_it_that_is_not_what_was_put_there_is_named(managed, packed):
    python = managed.layout.interpreter(packed.key())
    listed = run("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS", cwd=python)
    assert (listed.returncode, listed.stderr) == (0, "")
    verify = [SITE, "verify", "--files", "--root", managed.path]
    clean = run(*verify)
    assert clean.stdout.endswith(f"(main): as published\ninterpreter {packed.key()}: as published\n"), clean.stderr
    library = next(python.glob("lib/python3*/wsgiref"))
    for path in (library, library / "headers.py"):
        path.chmod(0o755)
    (library / "headers.py").write_text("evil = 1\n")
    (library / "evil.py").write_text("")
    (library / "validate.py").unlink()
    done = run(*verify, "--env", ENVIRONMENT)
    inside = library.relative_to(python)
    assert done.returncode == 10
    assert done.stdout.endswith(
        f"interpreter {packed.key()}: 3 files are wrong\n"
        f"  {inside}/evil.py: was not there when the rest was published\n"
        f"  {inside}/headers.py: is not the file that was published\n"
        f"  {inside}/validate.py: is missing\n"
    )
    assert f"Other files than were published are in {python}." in done.stderr
    doctor = run(ROOTSTOCK, "doctor", "--full", "--json", "--root", managed.path)
    assert doctor.returncode == 10, doctor.stderr
    failure, whole = [each for each in json.loads(doctor.stdout)["findings"] if each["check"] == "files"]
    assert whole["reason"] == f"{ENVIRONMENT}: as published (every file)"
    assert failure["reason"].startswith(f"interpreter {packed.key()} is damaged: {inside}/evil.py: was not")
    assert failure["remedy"].endswith(f"rootstock-site repair --root {managed.path}")
    # As that says: where it is damaged, and where a repair was cut off between two renames.
    sums = (python / "SHA256SUMS").read_text()
    assert run(SITE, "repair", "--root", managed.path, "--yes").returncode == 0
    assert ((python / "SHA256SUMS").read_text(), run(*verify).stdout) == (sums, clean.stdout)
    python.rename(python.with_name(".staging-x-broken"))
    assert run(*verify).returncode == 10
    done = run(SITE, "repair", "--root", managed.path, "--yes")
    assert done.returncode == 0, done.stderr
    assert f"fetch Python {packed.version} into python/{packed.key()} from " in done.stdout
    assert run(*verify).stdout == clean.stdout
    assert pythons(managed) == [packed.key()]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda record: record.write_text("{"), "interpreter.json: cannot be read"),
        (lambda record: record.write_text("[]"), "interpreter.json: cannot be read"),
        (lambda record: record.write_text("{}"), "SHA256SUMS: is not the file that was published"),
        (lambda record: record.with_name("SHA256SUMS").unlink(), "SHA256SUMS: is missing"),
    ],
)
def test_without_a_record_nothing_vouches_for_it(tmp_path, spoil, problem):
    """Only the files matter here: this is no interpreter."""
    (tmp_path / "library.py").write_text("")
    digest = read_contents(tmp_path).write(tmp_path)
    record = tmp_path / "interpreter.json"
    record.write_text(json.dumps({"files_sha256": digest, "links": {}}))
    assert check_interpreter(tmp_path) == []
    spoil(record)
    assert [str(each) for each in check_interpreter(tmp_path)] == [problem]


# -- locks, which are for one Python


def scope(tiny):
    return re.search('^requires-python = "(.*)"$', tiny.layout.lock_file(ENVIRONMENT).read_text(), re.MULTILINE)[1]


@together
def test_a_lock_is_for_the_python_that_an_installation_takes(managed, packed):
    pretend(managed.layout.python, "3.13.1")
    options = ("--root", managed.path, "--env", ENVIRONMENT)
    assert run(SITE, "install", *options, "--no-client", "--yes").stdout == f"{managed.path}: nothing to do.\n"
    minor = packed.version.rpartition(".")[0]
    for more in (["--check"], ["--upgrade", "--yes"]):
        done = run(SITE, "lock", *options, *more)
        assert (done.returncode, scope(managed)) == (0, f"=={minor}.*"), done.stdout + done.stderr
    assert run(SITE, "install", *options, "--no-client", "--yes").stdout == f"{managed.path}: nothing to do.\n"


def test_a_lock_is_for_a_python_that_is_yet_to_be_fetched(tiny, mirror):
    """Resolved with the one that is there: of the interpreter that is to be fetched there is no archive."""
    mirror.offer("3.13.1", "3.12.9")
    empty = ("--no-client", "--set", "environments=", *mirror.settings(version="3.12"))
    done = run(SITE, "install", "--yes", "--cluster", "local", "--root", tiny.path, *empty)
    assert done.returncode == 0, done.stderr
    options = ("--root", tiny.path, "--env", ENVIRONMENT)
    done = run(SITE, "lock", *options, "--yes", "--upgrade")
    assert done.returncode == 0, done.stderr
    assert scope(tiny) == "==3.12.*"
    assert pythons(tiny) == []
    plan = json.loads(run(SITE, "install", *options, "--no-client", "--dry-run", "--json").stdout)
    assert [build["python"] for build in plan["builds"]] == ["3.12.9"]
    assert run(SITE, "lock", *options, "--check").returncode == 0


# -- failures


def wrong_hash(mirror):
    mirror.offer(mirror.version, sha256="0" * 64)


def another_version(mirror):
    other = f"{mirror.version.rpartition('.')[0]}.77"
    shutil.copy(mirror.archive(mirror.version), mirror.archive(other))
    mirror.offer(other)


@pytest.mark.parametrize(
    ("prepare", "changes", "message"),
    [
        (wrong_hash, {}, "Hash mismatch"),
        (another_version, {}, "holds Python"),
        (lambda mirror: mirror.archive(mirror.version).unlink(), {}, "The setting python.mirror ('file://"),
        (
            lambda mirror: None,
            {"mirror": "http://127.0.0.1:{port}/nothing"},
            "The setting python.mirror ('http://127.0.0.1:",
        ),
        (lambda mirror: mirror.list.unlink(), {}, "The setting python.downloads is '/"),
        (lambda mirror: mirror.list.write_text("[]"), {}, "The setting python.downloads is '/"),
        (lambda mirror: mirror.offer("3.9.1"), {}, "managed: none that is in the root or can be fetched is >=3.10"),
    ],
)
def test_what_cannot_be_fetched_is_one_clear_error(tiny, mirror, prepare, changes, message):
    file = tiny.layout.environment_file("tiny")
    file.write_text(file.read_text().replace("# dependencies", '# requires-python = ">=3.10"\n# dependencies', 1))
    prepare(mirror)
    with socket.socket() as nobody:  # has a port, and does not listen
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        done = install(tiny, *mirror.settings(**{key: text.format(port=port) for key, text in changes.items()}))
    assert done.returncode == 14, done.stdout + done.stderr
    assert done.stderr.count("Error: ") == 1
    assert message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert pythons(tiny) == []
    assert not list(tiny.layout.all_active.glob("*"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"version": "three"}, "The setting python.version is 'three'; it must be as 3.12 is."),
        ({"mirror": "/software/mirror"}, "The setting python.mirror is '/software/mirror'; it must be an address."),
        ({"downloads": "list.json"}, "The setting python.downloads is 'list.json'; it must be an absolute path"),
    ],
)
def test_a_wrong_setting(tiny, mirror, setting, message):
    done = install(tiny, *mirror.settings(**setting))
    assert done.returncode == 3
    assert message in done.stderr


@pytest.mark.parametrize("step", ["fetching", "compiling", "ready"])
def test_killed_while_it_is_put_there(tiny, mirror, step):
    command = [*tiny.install_command, *mirror.settings()]
    with started(command) as process:
        read_until(process, f"python {mirror.version}: {step}")
        assert cut_off(process, signal.SIGKILL) == -signal.SIGKILL
        wait_until_none_at(tiny.layout.python)
    there = [name for name in pythons(tiny) if not name.startswith(".")]
    assert there in ([], [mirror.key()])
    assert all(tiny.layout.interpreter_record(name).is_file() for name in there)
    done = install(tiny)
    assert done.returncode == 0, done.stderr
    assert pythons(tiny) == [mirror.key()] or step == "ready"
    assert tiny.imports() == PACKAGES[0]


def test_a_full_disk(tmp_path, mirror):
    """It is full only when the work has begun, by a program of the site's: what is known before is refused before."""
    with small_disk(tmp_path / "small", "size=300m", "mode=755") as small:
        tiny = TinyRoot.create(small / "root", tmp_path / "wheels")
        hook = tiny.layout.hook("pre", "install")
        hook.parent.mkdir()
        hook.write_text(f"#!/bin/sh\nhead -c 295m /dev/zero > {small}/ballast || true\n")
        hook.chmod(0o755)
        done = run(*tiny.install_command, *mirror.settings())
        assert done.returncode in (14, 16), done.stderr
        assert done.stderr.count("Error: ") == 1
        assert re.search("No space left on device|is nearly full", done.stderr), done.stderr
        assert pythons(tiny) == []
        hook.unlink()
        (small / "ballast").unlink()
        done = run(*tiny.install_command)
        assert done.returncode == 0, done.stderr
        assert check_build(tiny.active()) == []


# -- the end of one


@together
def test_gc_removes_what_no_build_uses(managed, packed):
    collect = [SITE, "gc", "--root", managed.path, "--older-than", "0", "--keep", "1", "--yes"]
    assert run(*collect).returncode == 0
    assert pythons(managed) == [packed.key()]
    by_hand = managed.layout.python / "by-hand"
    by_hand.mkdir()
    (managed.layout.python / ".staging-left").mkdir()
    assert install(managed, "--set", f"python.interpreter={os.path.realpath('/usr/bin/python3')}").returncode == 0
    plan = run(*collect, "--dry-run").stdout
    assert f"remove interpreter {packed.key()}: no build uses it\n" in plan
    assert "remove python/.staging-left, left by a command that was cut off\n" in plan
    assert run(*collect).returncode == 0
    assert pythons(managed) == ["by-hand"]
    assert managed.imports() == PACKAGES[0]


def pretend(folder, version):
    """Put a program into a folder of interpreters that says it is one."""
    program = folder / version / "bin" / "python3"
    program.parent.mkdir(parents=True)
    answer = ascii(["cpython", version, str(program), str(folder / version), False])
    program.write_text(f"#!/bin/sh\ncat <<.\n{answer}\n.\n")
    program.chmod(0o755)


def test_of_a_roots_own_the_newest_comes_first(tmp_path):
    for version in ("3.9.18", "3.12.4", "3.11.9"):
        pretend(tmp_path, version)
    assert [found.version for found in own_interpreters(tmp_path)] == ["3.12.4", "3.11.9", "3.9.18"]


def test_the_python_of_a_virtual_environment_is_refused_by_its_name(tiny, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", check=True)
    done = install(tiny, "--set", f"python.interpreter={tmp_path}/venv/bin/python", "--dry-run")
    assert done.returncode == 14
    base = os.path.realpath(sys._base_executable)
    found = re.search(r"belongs to a virtual environment; use its base interpreter: (.*)", done.stderr)
    assert found, done.stderr
    assert os.path.realpath(found[1]) == base


def test_a_bundle_brings_what_managed_stands_for(tiny, mirror, tmp_path):
    need_root()
    need_program("unshare", "util-linux")
    bundle, settings = tmp_path / "tiny.bundle", mirror.settings()
    file = tiny.layout.environment_file(ENVIRONMENT)
    made = run(SITE, "bundle", "create", bundle, "--cluster", "local", "--no-client", "--env", file, *settings)
    assert made.returncode == 0, made.stderr
    assert f"python {mirror.version}: fetching " in made.stderr
    shutil.rmtree(mirror.folder)
    for wheel in tiny.wheels.iterdir():
        wheel.unlink()
    other = TinyRoot(tmp_path / "other", tiny.wheels)
    command = ["unshare", "--net", *other.install_command, "--bundle", bundle, *settings]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert pythons(other) == [mirror.key()]
    python = other.layout.interpreter(mirror.key())
    assert (other.active() / "bin" / "python").resolve().is_relative_to(python)
    assert other.imports() == PACKAGES[0]
    [told] = python.glob(f"lib/python3.*/{mirror.sysconfig}")
    assert f'"prefix": "{python}"' in told.read_text()
    assert run(*command).stdout == f"{other.path}: nothing to do.\n"


@together
def test_a_root_that_was_moved_runs_again_after_an_installation(managed):
    moved = TinyRoot(managed.path.with_name("moved"), managed.wheels)
    managed.path.rename(moved.path)
    try:
        status = run(SITE, "status", "--root", moved.path)
        assert status.returncode == 10
        assert f"\nplace: {moved.path} was installed as {managed.path}:" in status.stdout
        with pytest.raises(FileNotFoundError):  # its interpreter was at the old place
            moved.imports()
        run(SITE, "install", "--yes", "--root", moved.path, check=True)
        assert moved.imports() == PACKAGES[0]
        assert run(SITE, "status", "--root", moved.path).returncode == 0
        back = run(SITE, "rollback", "--root", moved.path, "--yes")  # to a build that does not run here
        assert back.returncode == 10 and f"is made on {managed.path}/python/" in back.stderr
        texts = [path.read_text() for path in (*moved.layout.modules.iterdir(), *moved.layout.activations.iterdir())]
        assert not [text for text in texts if f"{managed.path}/" in text or f'{managed.path}"' in text]
    finally:
        moved.path.rename(managed.path)
