"""A root with each kind of damage, as every command that reports sees it: it says what is wrong and what to do."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ase.build import bulk

from rootstock import RootstockCalculator, __version__
from rootstock.client.resolve import resolve
from rootstock.errors import RootError
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree
from tests.conftest import Site
from tests.support.commands import SITE, Done, bare_environment, run
from tests.support.folders import open_to_readers, small_disk
from tests.support.needs import need_program, need_root
from tests.support.roots import holder

pytestmark = pytest.mark.xdist_group("damage")

OUTSIDER = 54321
STRANGER = 23456

# The commands; {root}, {page} and {model} are filled in.
COMMANDS: Mapping[str, Sequence[str]] = {
    "status": ("rootstock-site", "status"),
    "doctor": ("rootstock", "doctor", "--wait", "300"),
    "verify": ("rootstock-site", "verify"),
    "files": ("rootstock-site", "verify", "--files"),
    "list": ("rootstock", "list"),
    "show": ("rootstock", "show", "{model}"),
    "page": ("rootstock-site", "page", "-o", "{page}"),
}
OTHERS: Mapping[str, Sequence[str]] = {
    "full": ("rootstock", "doctor", "--full"),
    "why": ("rootstock", "why-not", "{model}"),
    "json": ("rootstock-site", "status", "--json"),
}
INSTALL, REPAIR = "rootstock-site install --root {root}", "rootstock-site repair --root {root} --env lj"

Said = tuple[int, Sequence[str]]  # an exit code, and what a command must say


def everywhere(code: int, *texts: str, **others: Said) -> dict[str, Said]:
    """Return what each command says: `texts`, and what there is of the rest, which is of emt; with `code`, or with 0
    where the rest is all that somebody wants, unless the command is named."""
    usual = {
        "status": (code, (*texts, "environment emt: build ")),
        "doctor": (0, (*texts, "emt: built for")),
        "verify": (code, (*texts, "emt (cpu): 17 passed")),
        "files": (code, (*texts, "emt, ")),
        "list": (0, (*texts, "emt ase ")),
        "show": (code, texts),
        "page": (0, (*texts, "1 model of 1 environment")),
    }
    return {**usual, **others}


@dataclass(frozen=True)
class Damage:
    """A kind of damage: how it is done and undone, as whom and where commands are run, and what they must say."""

    do: Callable[[Path], contextlib.AbstractContextManager[object]]
    said: Mapping[str, Said]
    prefix: Sequence[str] = ()
    at: Callable[[Path], Path] = field(default=lambda root: root)
    model: str = "lj-argon"  # that `show` is asked for


@contextlib.contextmanager
def moved_aside(path: Path) -> Iterator[None]:
    aside = path.with_name(f"{path.name}-aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


@contextlib.contextmanager
def with_text(path: Path, change: Callable[[str], str]) -> Iterator[None]:
    """Give a file another text; it may be shared with another root, which keeps its own."""
    with moved_aside(path):
        path.write_text(change(path.with_name(f"{path.name}-aside").read_text()))
        try:
            yield
        finally:
            path.unlink()


def lj(root: Path) -> Path:
    return (root / "active/lj").resolve()


def as_later_version(text: str) -> str:
    record = json.loads(text)
    record["rootstock"], record["file_list"] = "2099.1.0", record.pop("files")
    return json.dumps(record)


@contextlib.contextmanager
def broken_files(root: Path) -> Iterator[None]:
    new = root / "environments/broken.py"
    new.write_text("no header\n")
    try:
        with with_text(root / "environments/lj.py", lambda text: text.replace("# ///\n", "", 1)):
            yield
    finally:
        new.unlink()


@contextlib.contextmanager
def owned(path: Path, uid: int) -> Iterator[None]:
    need_root()
    os.chown(path, uid, -1)
    try:
        yield
    finally:
        os.chown(path, 0, -1)


@contextlib.contextmanager
def closed(path: Path, mode: int, gid: int) -> Iterator[None]:
    need_root()
    before = path.stat()
    os.chown(path, -1, gid)
    path.chmod(mode)
    try:
        yield
    finally:
        os.chown(path, -1, before.st_gid)
        path.chmod(before.st_mode & 0o7777)


@contextlib.contextmanager
def full(root: Path) -> Iterator[None]:
    """Let a root lie on a file system that has no room left."""
    with moved_aside(root), small_disk(root, "size=800m"):  # whose folder is empty again when the root comes back
        shutil.copytree(root.with_name(f"{root.name}-aside"), root, symlinks=True, dirs_exist_ok=True)
        with (root / "log/all-the-rest").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**20))
        yield


@contextlib.contextmanager
def killed(root: Path) -> Iterator[None]:
    """Leave what an installation leaves that was killed: the lock's record, and a build that is not whole."""
    with with_lock_of_a_dead_process(root):
        staging = root / "builds/lj/.staging-x"
        shutil.copytree(lj(root) / "bin", staging / "bin", symlinks=True)
        try:
            yield
        finally:
            remove_tree(staging)


@contextlib.contextmanager
def with_lock_of_a_dead_process(root: Path) -> Iterator[None]:
    with holder(root) as (process, _):
        process.kill()
        process.wait()
    try:
        yield
    finally:
        (root / "locks/admin.json").unlink()


@contextlib.contextmanager
def with_file(path: Path, text: str) -> Iterator[None]:
    """Put a file where there is none; folders that are made for it go with it."""
    new = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    try:
        yield
    finally:
        path.unlink()
        for folder in new:
            folder.rmdir()


@contextlib.contextmanager
def dangling_environment(root: Path) -> Iterator[None]:
    link = root / "environments/dang.py"
    link.symlink_to("nowhere.py")
    try:
        yield
    finally:
        link.unlink()


def newest_run(root: Path) -> Path:
    return root / "verification/lj" / lj(root).name / "99999999T000000Z-here-1.json"


@contextlib.contextmanager
def with_folder(path: Path) -> Iterator[None]:
    """Let a folder lie where a file was."""
    with moved_aside(path):
        path.mkdir()
        try:
            yield
        finally:
            path.rmdir()


AS_OUTSIDER = ("setpriv", "--reuid", str(OUTSIDER), "--regid", str(OUTSIDER), "--clear-groups")
READ_ONLY = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"')

lost = "{root}/active/lj is missing: generation 1 put build "
dangling = "{root}/active/lj leads to {root}/builds/lj/"
moved = "{root}-aside was installed as {root}: its modulefiles"
DAMAGES = {
    "missing link": Damage(lambda root: moved_aside(root / "active/lj"), everywhere(10, lost, INSTALL)),
    "dangling link": Damage(
        lambda root: moved_aside(lj(root)), everywhere(10, dangling, "which is not there", INSTALL)
    ),
    "broken environment file": Damage(
        broken_files,
        {
            **everywhere(10, "{root}/environments/broken.py has 0 headers"),
            "status": (10, ["environments/broken.py: ", "environments/lj.py: ", "environment lj: build "]),
            "doctor": (0, ["broken.py has 0 headers", "{root}/environments/lj.py", "The build of lj that is in use"]),
            "files": (0, ["lj, "]),
            "show": (0, ["lj-argon: "]),
            "page": (0, ["broken.py has 0 headers", "3 models of 2 environments"]),
        },
    ),
    "truncated record": Damage(
        lambda root: with_text(lj(root) / "build.json", lambda text: text[:100]),
        everywhere(10, "Cannot read {root}/builds/lj/", REPAIR, files=(10, ["build.json: cannot be read"])),
    ),
    "record of a later version": Damage(
        lambda root: with_text(lj(root) / "build.json", as_later_version),
        everywhere(
            10,
            "Cannot read {root}/builds/lj/",
            f"rootstock 2099.1.0 wrote it, this is {__version__}: module load rootstock/2099.1.0",
            files=(10, ["build.json: cannot be read"]),
        ),
    ),
    "damaged record of weights": Damage(
        lambda root: with_file(root / "weights/lj/other.json", "{"),
        {
            **everywhere(
                10, "Cannot read {root}/weights/lj/other.json: ", "rootstock-site warm --root {root} --env lj"
            ),
            "list": (0, ["Cannot read {root}/weights/lj/other.json: ", "lj-argon ase ", "emt ase "]),
            "show": (0, ["Cannot read {root}/weights/lj/other.json: ", "lj-argon: "]),
            "doctor": (0, ["warning weights Cannot read {root}/weights/lj/other.json: ", "emt, lj: built for"]),
            "verify": (0, ["lj (cpu): 14 passed", "emt (cpu): 17 passed"]),
            "files": (0, ["lj, ", "emt, "]),
            "page": (0, ["weights/lj/other.json is not on the page: Cannot read", "3 models of 2 environments"]),
        },
    ),
    "damaged record of a verification": Damage(
        lambda root: with_file(newest_run(root), "[]"),
        {
            **everywhere(10, "Cannot read {root}/verification/lj/", "An admin may remove it: rm "),
            "list": (0, ["Cannot read {root}/verification/lj/", "lj-argon ase ", "none no"]),
            "show": (0, ["Cannot read {root}/verification/lj/", "lj-argon: ", "verified no"]),
            "doctor": (0, ["emt, lj: built for"]),
            "verify": (0, ["lj (cpu): 14 passed", "emt (cpu): 17 passed"]),
            "files": (0, ["lj, ", "emt, "]),
            "page": (0, ["Cannot read {root}/verification/lj/", "3 models of 2 environments"]),
        },
    ),
    "damaged newest generation": Damage(
        lambda root: with_file(root / "generations/2.json", "{"),
        {
            **{name: (0, []) for name in COMMANDS},
            "status": (
                10,
                ["generations/2.json: Cannot read {root}/", "mv {root}/generations/2.json"],
            ),
            "page": (0, ["generations/2.json is not on the page: Cannot read", "3 models of 2 environments"]),
        },
    ),
    "dangling environment file": Damage(
        dangling_environment,
        {
            **everywhere(10, "{root}/environments/dang.py leads to nowhere.py, which is not there"),
            "doctor": (0, ["{root}/environments/dang.py leads to nowhere.py, which is not there", "a worker of"]),
            "files": (0, ["lj, "]),
            "show": (3, ["{root}/environments/dang.py leads to nowhere.py, which is not there"]),
            "page": (0, ["{root}/environments/dang.py leads to nowhere.py, which is not there", "of 2 environments"]),
        },
        model="dang",
    ),
    "settings that cannot be read": Damage(
        lambda root: with_text(
            root / "clusters.toml", lambda text: text.replace('[clusters."local"]\n', '[clusters."local"]\nnotes = 3\n')
        ),
        {
            "doctor": (0, ["warning layout {root}/clusters.toml", "a worker of "]),
            "list": (0, ["lj-argon ase ", "emt ase "]),
        },
    ),
    "a folder in place of the settings": Damage(
        lambda root: with_folder(root / "clusters.toml"),
        {
            "doctor": (0, ["Cannot read the cluster registry {root}/clusters.toml: it is a folder", "a worker of "]),
            "list": (0, ["lj-argon ase ", "emt ase "]),
        },
    ),
    "moved root": Damage(
        lambda root: moved_aside(root),
        {
            **{name: (0, []) for name in COMMANDS},
            "status": (10, [moved, "rootstock-site install --root {root}-aside"]),
            "doctor": (0, [moved, "rootstock-site install --root {root}-aside"]),
        },
        at=lambda root: root.with_name(f"{root.name}-aside"),
    ),
    "foreign owner": Damage(
        lambda root: owned(lj(root), STRANGER),
        {
            **{name: (0, []) for name in COMMANDS},
            "status": (10, [f"belongs to {STRANGER}, who is no admin of this root", "chown -hR root {root}/"]),
            "doctor": (0, [f"belongs to {STRANGER}, who is no admin of this root", "chown -hR root {root}/"]),
            "verify": (
                10,
                [f"belongs to {STRANGER}: you would run whatever they write there", "chown -hR root {root}/"],
            ),
        },
    ),
    "unreadable build": Damage(
        lambda root: closed(lj(root), 0o550, STRANGER),
        everywhere(10, "{root}/builds/lj/", "does not let you in: its mode is 0550", f"to the group {STRANGER}"),
        prefix=AS_OUTSIDER,
    ),
    "full disk": Damage(
        full,
        {
            **{name: (0, []) for name in COMMANDS},
            "status": (10, ["room: The file system of {root} is full: 0 MB", "gc --root {root} --dry-run"]),
            "doctor": (0, ["The file system of {root} is full: 0 MB", "gc --root {root} --dry-run"]),
            "verify": (0, ["the results are not stored: No space left on device", "emt (cpu): 17 passed"]),
        },
    ),
    "stale lock": Damage(
        with_lock_of_a_dead_process,
        {
            **{name: (0, []) for name in COMMANDS},
            "status": (10, ["last command: ", "the lock is free, its last holder was killed: ", "command again"]),
        },
    ),
    "killed install": Damage(
        killed,
        {
            **{name: (0, []) for name in COMMANDS},
            "status": (
                10,
                [
                    "holder was killed: ",
                    "It has left 1 unfinished folder of builds",
                    "command again",
                    "gc --root {root}",
                ],
            ),
        },
    ),
    "read-only file system": Damage(
        lambda _: contextlib.nullcontext(),
        {
            **{name: (0, []) for name in COMMANDS},
            "status": (0, ["read-only on this node"]),
            "doctor": (0, ["the root is mounted read-only on this node"]),
            "verify": (0, ["the results are not stored: Read-only file system"]),
        },
        prefix=(*READ_ONLY, "{root}"),
    ),
}


@pytest.fixture(scope="module")
def copy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root with emt and lj that looks as if it had been installed here; its files are shared with `root`."""
    folder = tmp_path_factory.mktemp("damage")
    open_to_readers(folder)
    path = folder / "root"
    shutil.copytree(root, path, symlinks=True, copy_function=os.link)
    for name in ("clusters.toml", "locks/admin.lock"):
        text = (path / name).read_text()
        (path / name).unlink()
        (path / name).write_text(text.replace(str(root), str(path)))
    for place in path.rglob("*"):
        if place.is_dir() and not place.is_symlink():
            place.chmod(0o755)
    yield path
    remove_tree(path)


@pytest.fixture
def ask(copy: Path, tmp_path: Path) -> Callable[..., Done]:
    """Run a command of the root's own client, perhaps below another program."""
    open_to_readers(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    work.chmod(0o777)
    programs = SITE.parent

    def call(root: Path, prefix: Sequence[str], name: str, model: str = "lj-argon") -> Done:
        if prefix:
            need_root()
            need_program(prefix[0], "util-linux")
        program, *options = (
            part.format(root=root, page=work / "page", model=model) for part in {**COMMANDS, **OTHERS}[name]
        )
        before = [part.format(root=root) for part in prefix]
        place = (root / f"client/{__version__}/bin") if before[:1] == ["setpriv"] else programs
        env = bare_environment(work, TMPDIR=str(work))
        return run(*before, place / program, *options, "--root", root, env=env, cwd="/")

    return call


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_and_the_rest_goes_on(kind: str, copy: Path, ask: Callable[..., Done]) -> None:
    damage = DAMAGES[kind]
    wrong = []
    with damage.do(copy):
        root = damage.at(copy)
        for name, (code, texts) in damage.said.items():
            done = ask(root, damage.prefix, name, damage.model)
            said = done.stdout + done.stderr
            assert "Traceback" not in said, said
            missing = [text for text in texts if text.format(root=copy) not in " ".join(said.split())]
            if done.returncode != code or missing:
                wrong.append(f"{name}: exit code {done.returncode}, not {code}; not said: {missing}\n{said}")
    assert not wrong, "\n\n".join(wrong)


def test_no_calculator_makes_up_for_a_link_that_somebody_removed(copy: Path) -> None:
    """As root, or in a root of one's own, uv could install other packages than those that were verified."""
    with moved_aside(copy / "active/lj"), pytest.raises(RootError, match="active/lj is missing: generation 1 put"):
        RootstockCalculator("lj-argon", root=copy, device="cpu").get_property("energy", bulk("Ar", cubic=True))


def test_uv_makes_an_environment_only_if_none_was_ever_built(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    new = copy / "environments/new.py"
    new.write_text((copy / "environments/emt.py").read_text())
    try:
        for _ in range(2):
            assert resolve(RootLayout(copy), "new").build is None
        (said,) = [record.getMessage() for record in caplog.records]
        assert said.startswith(f"Environment 'new' has no build in {copy}: uv installs its packages when a worker")
        (copy / "builds/new").symlink_to("emt")
        with pytest.raises(RootError, match=r"no build in use in .*: it was taken out of use\. 1 build of it is there"):
            resolve(RootLayout(copy), "new")
    finally:
        new.unlink()
        (copy / "builds/new").unlink(missing_ok=True)


def test_a_job_goes_on_though_one_environment_does_not_start(copy: Path, ask: Callable[..., Done]) -> None:
    """`doctor` starts the worker of the smallest build; where that does not work, of the next."""
    for name in ("emt", "lj"):
        with moved_aside((copy / "active" / name).resolve() / "bin/python"):
            done = ask(copy, (), "doctor")
            assert "does not run" in done.stdout or "No such file or directory" in done.stdout
            other = "lj" if name == "emt" else "emt"
            assert f"ok interpreters {other}: Python 3" in " ".join(done.stdout.split())
            assert f"a worker of {other} was ready" in done.stdout
            assert done.returncode == 10  # `bin/python` is missing, and that is a file of the build
            told = [line for line in done.stdout.splitlines() if line.startswith("failed")]
            assert all(line.split()[1] == "files" for line in told), told


def test_a_job_goes_on_though_the_copy_of_an_environment_file_is_broken(copy: Path, ask: Callable[..., Done]) -> None:
    """That is found before a worker starts, and the next build is tried all the same."""
    for name, other in (("emt", "lj"), ("lj", "emt")):
        build = (copy / "active" / name).resolve()
        with with_text(build / "environment.py", lambda _: "no header\n"):
            said = ask(copy, (), "doctor").stdout
        assert f"a worker of {other} was ready" in said, said
        assert f"{build}/environment.py has 0 headers" in said


def test_a_damaged_record_of_weights_keeps_nothing_from_running(copy: Path, ask: Callable[..., Done]) -> None:
    """`why-not` says that the model runs, and warns; `doctor --full` is for admins."""
    path = RootLayout(copy).weights_record("lj", "argon")
    with with_file(path, "{"):
        for name, code in (("why", 0), ("full", 10)):
            done = ask(copy, (), name)
            assert (done.returncode, f"Cannot read {path}" in done.stdout) == (code, True), done.stdout


def test_each_problem_has_a_name_for_programs(copy: Path, ask: Callable[..., Done]) -> None:
    """One broken file of an environment without a build is told once."""
    with with_lock_of_a_dead_process(copy), with_file(copy / "environments/broken.py", "no header\n"):
        status = json.loads(ask(copy, (), "json").stdout)
    assert (status["schema"], sorted(status["problems"])) == (2, ["environments/broken.py", "last-command"])
    with moved_aside(copy):
        moved = copy.with_name(f"{copy.name}-aside")
        status = json.loads(ask(moved, (), "json").stdout)
    assert sorted(status["problems"]) == ["place"]


@pytest.mark.parametrize("target", ["/etc", "tiny", "../builds/tiny", "../builds/tiny/gone", None])
def test_an_installation_mends_a_link_that_leads_elsewhere(tiny_root: Path, site: Site, target: str | None) -> None:
    link = tiny_root / "active/tiny"
    before = os.readlink(link)
    link.unlink()
    if target:
        link.symlink_to(target)
    status = site("status", "--root", tiny_root, check=False)
    assert status.returncode == 10
    assert f"\ntiny: {link} {'leads to' if target else 'is missing'}" in status.stdout
    site("install", "--root", tiny_root, "--no-client")
    assert os.readlink(link) == before
    assert site("status", "--root", tiny_root).returncode == 0


def test_one_environment_keeps_no_other_from_its_weights(tiny_root: Path, site: Site) -> None:
    layout = RootLayout(tiny_root)
    text = layout.environment_file("tiny").read_text()
    for name in ("cut", "lost"):
        layout.environment_file(name).write_text(text)
    layout.environment_file("lost").write_text(text.replace('"six"', '"no-such-package-anywhere"'))
    layout.environment_file("broken").write_text("no header\n")
    site("install", "--root", tiny_root, "--no-client", "--env", "cut")
    build = layout.active("cut").resolve()
    build.chmod(0o755)
    (build / "build.json").chmod(0o644)
    (build / "build.json").write_text("{")
    done = site("warm", "--root", tiny_root, "--dry-run", check=False)
    assert done.returncode == 10
    for name in ("cut", "lost", "broken"):
        assert f"{name} is left out: " in done.stderr
    assert "no-such-package-anywhere" in done.stderr
    assert "the weights of tiny " in done.stdout and "of lost" not in done.stdout
    # Who names one is told of that one, and nothing is done.
    assert site("warm", "--root", tiny_root, "--env", "lost", "--dry-run", check=False).returncode == 14


LOOK = """
import sys
from pathlib import Path
from rootstock.errors import RootError
from rootstock.root.in_use import link_problems
from rootstock.root.layout import RootLayout
from rootstock.root.variants import variant_link
layout = RootLayout(Path(sys.argv[1]))
print(*map(str, link_problems(layout).values()))
try:
    variant_link(layout, "lj", "aarch64", "cuda")
except RootError as error:
    print(error)
"""


def test_a_build_that_one_may_not_look_at_is_not_taken_for_gone(copy: Path) -> None:
    """Else an admin who is not in its group would build it again, for everybody to read."""
    client = (copy / "client" / __version__).resolve()
    with closed(lj(copy), 0o550, STRANGER), closed(client, 0o550, STRANGER):
        said = run(*AS_OUTSIDER, SITE.parent / "python", "-c", LOOK, copy, cwd="/", check=True).stdout
    assert said.count("does not let you in: its mode is 0550") == 3 and "leads to no build" not in said, said


def test_a_file_that_is_gone_and_a_record_of_a_later_version(tiny_root: Path, site: Site) -> None:
    layout = RootLayout(tiny_root)
    file, build = layout.environment_file("tiny"), layout.active("tiny").resolve()
    with moved_aside(file):
        status = site("status", "--root", tiny_root, check=False)
        assert (status.returncode, "\nenvironments/tiny.py: it is missing. An admin" in status.stdout) == (10, True)
    build.chmod(0o755)
    record = build / "build.json"
    record.chmod(0o644)
    record.write_text(as_later_version(record.read_text()))
    text = record.read_text()
    done = site("repair", "--root", tiny_root, check=False)  # it does not put its own in place of that
    assert done.returncode == 14 and "rootstock 2099.1.0 wrote it" in done.stderr + done.stdout
    assert record.read_text() == text
