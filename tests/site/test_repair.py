"""``rootstock-site repair``, and packages that are damaged in uv's cache."""

from __future__ import annotations

import json
import os
import shutil
import signal
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ase.build import bulk

from rootstock import RootstockCalculator
from rootstock.admin.bundle_create import create_bundle
from rootstock.builds.make import stage
from rootstock.builds.plan import plan_environment
from rootstock.builds.uv import Uv
from rootstock.config.clusters import get_cluster
from rootstock.config.environment_file import read_source
from rootstock.config.site import Site
from rootstock.errors import BuildError
from rootstock.root.checksums import check_build
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree
from rootstock.root.records import active_build
from tests.support.commands import ROOTSTOCK, SITE, Done, ordinary, run
from tests.support.folders import open_to_readers, small_disk
from tests.support.needs import need_root
from tests.support.tiny_root import ENVIRONMENT, PACKAGES, TinyRoot, write_wheel
from tests.support.tracing import at_change, changes_made_by

INSIDE = "rsalpha/one.py"


@pytest.fixture
def tiny(tmp_path: Path) -> TinyRoot:
    """Return a root with a build in use."""
    root = TinyRoot.create(tmp_path / "root", tmp_path / "wheels")
    done = root.install()
    assert done.returncode == 0, done.stderr
    return root


def repair(root: TinyRoot, *options: str | Path) -> Done:
    return run(*repair_command(root, *options))


def repair_command(root: TinyRoot, *options: str | Path) -> list[str]:
    return [*ordinary(), str(SITE), "repair", "--root", str(root.path), "--yes", *map(str, options)]


def packages(build: Path) -> Path:
    return next(build.glob("lib/python*/site-packages"))


def opened(path: Path) -> Path:
    """Return a file or folder of a build that its owner may change now, as a slip would."""
    for each in (path.parent, path):
        each.chmod(0o755)
    return path


def cut(path: Path) -> None:
    os.truncate(opened(path), 1)


def published(build: Path) -> dict[str, bytes]:
    return {name: (build / name).read_bytes() for name in ("SHA256SUMS", "build.json")}


# -- packages in uv's cache


def damage_of(what: str) -> Callable[[Path, Path], object]:
    """Return what damages a cached package, given its folder and its RECORD."""

    def no_file(path: Path, other: Callable[[Path], object] = lambda path: None) -> None:
        path.unlink()
        other(path)

    return {
        "a file cut short": lambda folder, record: cut(folder / INSIDE),
        "a file missing": lambda folder, record: no_file(folder / INSIDE),
        "a folder in its place": lambda folder, record: no_file(folder / INSIDE, Path.mkdir),
        "a pipe in its place": lambda folder, record: no_file(folder / INSIDE, os.mkfifo),
        "one more file": lambda folder, record: (folder / "sitecustomize.py").write_text("import evil\n"),
        "no RECORD": lambda folder, record: no_file(record),
        "an empty RECORD": lambda folder, record: no_file(record, Path.touch),
        "half a RECORD": lambda folder, record: os.truncate(record, record.stat().st_size // 2),
        "no text as RECORD": lambda folder, record: record.write_bytes(b'\0\xff,,,"'),
        "a RECORD of one line": lambda folder, record: record.write_text(record.read_text().splitlines()[0] + "\n"),
        "no METADATA": lambda folder, record: no_file(record.with_name("METADATA")),
        "nothing": lambda folder, record: remove_tree(folder),
        "an empty folder": lambda folder, record: (remove_tree(folder), folder.mkdir()),
        "a pointer of other bytes": lambda folder, record: [
            path.write_bytes(b"xx") for path in folder.parents[1].rglob("*.rev")
        ],
    }[what]


DAMAGES = (
    "a file cut short", "a file missing", "a folder in its place", "a pipe in its place", "one more file", "no RECORD",
    "an empty RECORD", "half a RECORD", "no text as RECORD", "a RECORD of one line", "no METADATA", "nothing",
    "an empty folder", "a pointer of other bytes",
)  # fmt: skip


class Staging:
    """Installs an environment again and again into one root, with one cache, and publishes nothing."""

    def __init__(self, root: TinyRoot) -> None:
        self.site = Site(root.layout, get_cluster("local"))
        self.root, self.lines = root, list[str]()

    def stage(self) -> None:
        self.lines.clear()
        uv = Uv(self.site.layout.uv_cache, lambda line: None)
        plan = plan_environment(self.site, read_source(self.root.layout.environment_file(ENVIRONMENT)))
        stage(self.site, plan, uv, report=self.lines.append).discard()

    def cached(self, name: str) -> Path:
        [folder] = [path for path in self.site.layout.uv_cache.glob("archive-v*/*") if (path / name).is_dir()]
        return folder


def test_a_damaged_package_is_fetched_again_by_itself(tmp_path: Path) -> None:
    staging = Staging(TinyRoot.create(tmp_path / "root", tmp_path / "wheels"))
    staging.root.require(*PACKAGES)
    staging.root.layout.all_active.mkdir()
    staging.stage()
    assert staging.lines == ["locking", "installing", "checking files", "compiling"]
    for what in DAMAGES:
        folder, other = staging.cached("rsalpha"), staging.cached("rsbeta")
        damage_of(what)(folder, next(folder.glob("*.dist-info")) / "RECORD")
        staging.stage()
        said = [line for line in staging.lines if "fetching again" in line]
        # uv names one after the other, whichever it comes to first.
        assert f"rsalpha: damaged in {staging.site.layout.uv_cache}; fetching again" in said, what
        # Found before anything is compiled; and what is whole is not fetched.
        assert staging.lines[-3:] == ["installing", "checking files", "compiling"], what
        assert staging.lines.count("compiling") == 1, what
        if what != "a pointer of other bytes":  # of all packages
            assert len(said) == 1 and staging.cached("rsbeta") == other, what
        assert sorted(path.name for path in (staging.cached("rsalpha") / "rsalpha").iterdir()) == [
            "__init__.py", "one.py", "three.py", "two.py",
        ]  # fmt: skip


def test_what_is_wrong_where_it_comes_from_is_one_error(tiny: TinyRoot) -> None:
    """A wheel that holds another file than it says; and one whose RECORD does not name all of it, as some are made."""
    staging = Staging(tiny)
    for name, modules in (("rsgamma", {"rsgamma/__init__.py": b""}), ("rsdelta", {"rsdelta/__init__.py": b""})):
        wheel = write_wheel(tiny.wheels, name, "1.0", modules)
        with zipfile.ZipFile(wheel) as archive:
            files = {entry: archive.read(entry) for entry in archive.namelist()}
        files["rsgamma/__init__.py" if name == "rsgamma" else "rsdelta/more.py"] = b"x = 2\n"
        with zipfile.ZipFile(wheel, "w") as archive:
            for entry, content in files.items():
                archive.writestr(entry, content)
    tiny.require("rsgamma")
    with pytest.raises(BuildError) as caught:
        staging.stage()
    assert "rsgamma/__init__.py is not the file that rsgamma 1.0 was published with" in caught.value.message
    assert caught.value.message.endswith("It was fetched again, and is the same.")
    assert caught.value.hint == "A wrong file is in the index or folder that it comes from."
    assert "compiling" not in staging.lines
    tiny.require("rsdelta")
    staging.stage()
    assert staging.lines[-1] == "compiling"
    assert tiny.leftovers() == []


def test_a_root_shares_files_with_its_own_cache_only(tmp_path: Path) -> None:
    """Two roots with one cache had the modes of the one that was installed last."""
    for name, readers in (("open", "world"), ("closed", "owner")):
        root = TinyRoot.create(tmp_path / name, tmp_path / "wheels")
        settings = ("--set", f"uv.cache={tmp_path}/cache", "--set", f"access.readers={readers}")
        run(*root.install_command, *settings, check=True)
    files = [packages(TinyRoot(tmp_path / name, tmp_path).active()) / INSIDE for name in ("open", "closed")]
    assert [(oct(path.stat().st_mode & 0o777), path.stat().st_nlink) for path in files] == [("0o444", 1), ("0o400", 1)]
    # In a root, a file is there once, and nobody may write to it in the cache either.
    tiny = TinyRoot.create(tmp_path / "root", tmp_path / "wheels")
    assert tiny.install().returncode == 0
    [cached] = tiny.layout.uv_cache.glob(f"archive-v*/*/{INSIDE}")
    assert cached.samefile(packages(tiny.active()) / INSIDE)
    assert cached.stat().st_mode & 0o222 == 0


# -- builds


def test_one_damaged_file_of_several_builds(tiny: TinyRoot) -> None:
    """It is one inode in the cache, in the build in use, in the one to go back to, and in another environment's."""
    first = tiny.active()
    shutil.copy(tiny.layout.environment_file(ENVIRONMENT), tiny.layout.environment_file("other"))
    run(*tiny.install_command, "--env", "other", check=True)
    tiny.require(*PACKAGES)
    run(*tiny.install_command, check=True)
    second, other = tiny.active(), active_build(tiny.layout.active("other"))
    assert other is not None
    builds = [other, second, first]
    before = [published(build) for build in builds]
    cut(packages(first) / INSIDE)
    assert all(check_build(build) for build in builds)
    found = run(SITE, "verify", "--files", "--root", tiny.path)
    assert found.returncode == 10
    assert found.stderr.endswith(f"rootstock-site repair --root {tiny.path} makes what is damaged again.\n")
    said = run(ROOTSTOCK, "doctor", "--full", "--root", tiny.path).stdout
    assert f"An admin runs: rootstock-site repair --root {tiny.path} --env other" in said
    planned = json.loads(repair(tiny, "--dry-run", "--json").stdout)
    assert [each["folder"] for each in planned["damaged"]] == [str(build.resolve()) for build in builds]
    assert all(check_build(build) for build in builds)
    asked = repair(tiny, "--dry-run", "--env", "other").stdout.splitlines()
    file = (packages(other) / INSIDE).relative_to(other)
    line = f"  make other, build {other.name} again ({file}: is not the file that was published)"
    assert asked == [f"{tiny.path}:", line]
    done = repair(tiny)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("rsalpha: damaged in") == 1  # the others get the new one
    assert [published(build) for build in builds] == before
    assert [check_build(build) for build in builds] == [[], [], []]
    assert (tiny.leftovers(), tiny.writable()) == ([], [])
    assert len({(packages(build) / INSIDE).stat().st_ino for build in builds}) == 1
    again = repair(tiny)
    assert (again.returncode, again.stdout) == (0, f"{tiny.path}: nothing to do.\n")


@pytest.mark.parametrize(
    "names",
    [("build.json",), ("SHA256SUMS",), ("recipe.py", "recipe.py.lock", "environment.py"), ("sbom.cdx.json",),
     ("build.json", "SHA256SUMS", "recipe.py", "recipe.py.lock", "environment.py", "pyvenv.cfg"), ("bin", "lib"), ()],
)  # fmt: skip
def test_whatever_of_a_build_is_damaged(tiny: TinyRoot, names: tuple[str, ...]) -> None:
    """What it was made from is elsewhere in the root, too; the build's name says whether that is the same."""
    build = tiny.active()
    sums = (build / "SHA256SUMS").read_bytes()
    if not names:
        remove_tree(build)
    for name in names:
        opened(build / name)
        remove_tree(build / name) if (build / name).is_dir() else (build / name).write_text("{")
    done = repair(tiny)
    assert done.returncode == 0, done.stderr
    assert tiny.active() == build
    assert (build / "SHA256SUMS").read_bytes() == sums
    assert tiny.imports() == PACKAGES[0]
    assert tiny.leftovers() == []


def test_what_cannot_be_made_again_is_said_with_what_to_do(tiny: TinyRoot) -> None:
    build = tiny.active()
    before = published(build)
    # Nothing holds any more what it was made from.
    tiny.layout.lock_file(ENVIRONMENT).write_text("version = 1\n")
    opened(build / "recipe.py.lock").write_text("")
    done = repair(tiny)
    assert done.returncode == 14
    assert done.stdout.startswith(f"{tiny.path}: nothing to do.\n  cannot repair tiny, build {build.name}: what it was")
    assert done.stderr.endswith(
        f"Error: Cannot repair tiny, build {build.name}: what it was made from is damaged too, and is nowhere else in "
        "the root.\nTo have others made in their place, remove their folders, then: rootstock-site install --env tiny\n"
    )
    assert published(build) == before
    assert repair(tiny, "--env", "nothing").returncode == 4


def test_without_its_packages_nothing_is_changed(tiny: TinyRoot, tmp_path: Path) -> None:
    """No network: it says what is to be fetched. A bundle has it."""
    build = tiny.active()
    before = published(build)
    bundle = tmp_path / "tiny.bundle"
    source = read_source(tiny.layout.environment_file(ENVIRONMENT))
    digest = create_bundle(get_cluster("local"), [source], bundle, client=False)
    cut(packages(build) / INSIDE)
    for wheel in tiny.wheels.iterdir():
        wheel.unlink()
    done = repair(tiny)
    assert done.returncode == 14
    assert f"Error: tiny, build {build.name} is as damaged as before: " in done.stderr
    assert done.stderr.endswith(
        "to be fetched again: rsalpha. Run the same command where they can be, or with --bundle FILE.\n"
    )
    assert (published(build), len(check_build(build)), tiny.leftovers()) == (before, 1, [])
    done = repair(tiny, "--bundle", bundle, "--digest", digest)
    assert done.returncode == 0, done.stderr
    assert tiny.active() == build
    assert published(build) == before


def test_killed_at_any_change(tiny: TinyRoot, tmp_path: Path) -> None:
    build = tiny.active()
    before, kept = published(build), tmp_path / "kept"
    cut(packages(build) / INSIDE)
    shutil.copytree(tiny.path, kept, symlinks=True)
    command = repair_command(tiny)
    changes = [change for change in changes_made_by(command, tmp_path / "log") if f"builds/{ENVIRONMENT}" in change[2]]
    renames = [(name, number) for name, number, _ in changes if name == "rename"]
    assert len(renames) == 2
    last = {name: number for name, number, _ in changes if name not in ("rename", "symlink")}
    for point in (*renames, *last.items()):
        remove_tree(tiny.path)
        shutil.copytree(kept, tiny.path, symlinks=True)
        assert run(*at_change(*point, "SIGKILL"), *command).returncode == -signal.SIGKILL, point
        # What is there is the old one or the new one; or, between two renames, nothing.
        there = os.path.lexists(build)
        assert there or point == renames[1], point
        done = repair(tiny)
        assert done.returncode == 0, (point, done.stderr)
        assert tiny.active() == build
        assert published(build) == before, point
        assert tiny.imports() == PACKAGES[0]


def test_a_full_disk(tmp_path: Path) -> None:
    need_root()
    with small_disk(tmp_path / "small", "size=16m", "nr_inodes=2000", "mode=755") as small:
        root = TinyRoot.create(small / "root", tmp_path / "wheels")
        assert root.install().returncode == 0
        build = root.active()
        before = published(build)
        cut(packages(build) / INSIDE)
        ballast = small / "ballast"
        status = os.statvfs(small)
        with ballast.open("wb") as file:
            file.write(b"\0" * (status.f_bavail * status.f_frsize - 24 * 1024))
        done = repair(root)
        assert done.returncode in (10, 14, 16), done.stderr
        assert (done.stderr.count("Error: "), "Traceback" in done.stderr) == (1, False), done.stderr
        assert (published(build), len(check_build(build)), root.leftovers()) == (before, 1, [])
        ballast.unlink()
        assert repair(root).returncode == 0
        assert root.active() == build


def test_while_a_worker_computes_and_the_module_is_loaded(
    site: Callable[..., Done], like_root: tuple[str, ...], tmp_path: Path
) -> None:
    """The client's own build is repaired as well, and by the wheel in the root."""
    open_to_readers(tmp_path)
    root = tmp_path / "root"
    site("install", "--cluster", "local", "--root", root, "--env", "emt", "--yes", *like_root)
    layout = RootLayout(root)
    atoms = bulk("Cu", cubic=True)
    with RootstockCalculator("emt", root=root, device="cpu") as calculator:
        energy = calculator.get_potential_energy(atoms)
        client = active_build(next(layout.clients.iterdir()))
        build = active_build(layout.active("emt"))
        assert build and client
        for path in (packages(build) / "ase/units.py", packages(client) / "rootstock/errors.py"):
            opened(path).write_text("raise SystemExit\n")
        done = site("repair", "--root", root, "--yes")
        assert "make client" in done.stdout and "make emt" in done.stdout
        atoms.rattle(0.01)
        calculator.get_potential_energy(atoms)
    with RootstockCalculator("emt", root=root, device="cpu") as calculator:
        assert calculator.get_potential_energy(bulk("Cu", cubic=True)) == energy
    assert (check_build(build), check_build(client)) == ([], [])
    run(client / "bin" / "rootstock", "list", "--root", root, check=True)


def test_two_repairs_at_once(tiny: TinyRoot) -> None:
    build = tiny.active()
    cut(packages(build) / INSIDE)
    with ThreadPoolExecutor() as pool:
        both = [each.result() for each in [pool.submit(repair, tiny, "--wait", "60") for _ in range(2)]]
    assert [done.returncode for done in both] == [0, 0], both
    said = "".join(done.stderr for done in both)
    assert said.count("putting it in place") == 1
    assert tiny.active() == build
