"""Two versions of Rootstock in one root, used through real modules."""

from __future__ import annotations

import json
import platform
import re
import shutil
from pathlib import Path

import pytest

from rootstock import __version__
from rootstock.builds.uv import find_uv
from rootstock.config.packaged import FOLDERS, PACKAGE, data_folder
from rootstock.root.layout import RootLayout
from tests.support.commands import ROOTSTOCK, run

pytestmark = pytest.mark.xdist_group("upgrade")  # two versions in one root take a minute to install

NEWER = "2099.10.0"


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """Return ``rootstock-site`` of a newer version, installed from a wheel of a changed copy."""
    folder = tmp_path_factory.mktemp("newer")
    checkout = folder / "checkout"
    shutil.copytree(PACKAGE, checkout / "rootstock", ignore=shutil.ignore_patterns("__pycache__", "_data"))
    for name in FOLDERS:
        shutil.copytree(data_folder(name), checkout / name)
    for name in ("pyproject.toml", "README.md", "LICENSE", "rootstock_commands.py"):
        shutil.copy(PACKAGE.parent / name, checkout)
    init = checkout / "rootstock/__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{NEWER}"', init.read_text()))
    uv = find_uv()
    run(uv, "build", "--wheel", "--out-dir", folder, checkout, check=True)
    run(uv, "venv", folder / "venv", check=True)
    run(uv, "pip", "install", "--python", folder / "venv/bin/python", *folder.glob("*.whl"), check=True)
    return folder / "venv/bin/rootstock-site"


@pytest.fixture(scope="module")
def upgraded(newer, site, like_root, tiny_text, tmp_path_factory):
    """Return a root that holds both versions, and was made by the older."""
    path = tmp_path_factory.mktemp("upgraded") / "root"
    (path.parent / "tiny.py").write_text(tiny_text)
    site("install", "--cluster", "local", "--root", path, "--env", path.parent / "tiny.py", "--yes", *like_root)
    said = run(newer, "install", "--root", path, "--yes", check=True).stdout
    assert f"  write modulefiles/rootstock/{NEWER}.lua\n" in said
    assert "  build rootstock-client with Python 3." in said
    assert ".modulerc" not in said
    assert "build emt" not in said  # which the cluster's own list has, and nobody asked for
    return path


VERSION = 'python -c "import rootstock; print(rootstock.__version__)"'


def versions(system, root, *modules):
    """Return what each module puts on PATH: the version that Python imports there, and what the command line says."""
    said = []
    for module in modules:
        done = system.shell(RootLayout(root).modulepath, f"module load {module} && {VERSION} && rootstock --version")
        assert done.returncode == 0, done.stderr
        imported, command = done.stdout.splitlines()
        assert command == f"rootstock, version {imported}"
        said.append(imported)
    return said


def test_both_versions_work_and_the_default_stays(modules, upgraded):
    names = ("rootstock", f"rootstock/{__version__}", f"rootstock/{NEWER}")
    assert versions(modules, upgraded, *names) == [__version__, __version__, NEWER]


def test_the_default_is_chosen_apart(modules, site, upgraded, newer):
    said = run(newer, "default", NEWER, "--root", upgraded, "--yes", check=True).stdout
    assert f"  make {NEWER} the default version, instead of {__version__}\n" in said
    assert versions(modules, upgraded, "rootstock", f"rootstock/{__version__}") == [NEWER, __version__]
    activation = RootLayout(upgraded).activation("sh")
    assert run("sh", "-c", f". {activation} && {VERSION}", cwd=upgraded, check=True).stdout == f"{NEWER}\n"
    done = site("install", "--root", upgraded)
    assert done.stdout == f"{upgraded}: nothing to do.\n"
    assert f"Note: tiny: left to rootstock {NEWER}, which this root holds as well and which is newer." in done.stderr
    # The older version can be made the default, and gone back to, by either.
    run(newer, "rollback", "--root", upgraded, "--yes", check=True)
    assert versions(modules, upgraded, "rootstock") == [__version__]


def test_a_default_that_somebody_has_edited_changes_all_the_same(modules, site, upgraded):
    """What they wrote is kept aside."""
    for name in (".modulerc", ".modulerc.lua"):
        with (RootLayout(upgraded).modules / name).open("a") as file:
            file.write("\n")
    said = site("default", NEWER, "--root", upgraded).stdout
    assert "replace modulefiles/rootstock/.modulerc, put your edits into aside/" in said
    assert versions(modules, upgraded, "rootstock") == [NEWER]
    site("default", __version__, "--root", upgraded)
    assert versions(modules, upgraded, "rootstock") == [__version__]


def test_modulefiles_of_another_version_stay(site, upgraded):
    done = site("install", "--root", upgraded, "--set", "contact=ann@example.org")
    assert f"Note: The modulefiles of rootstock {NEWER} stay as they are." in done.stderr


def test_the_older_version_says_what_the_root_holds(site, upgraded):
    status = json.loads(site("status", "--root", upgraded, "--json").stdout)
    assert (status["versions"], status["default"]) == (sorted([__version__, NEWER]), __version__)
    assert status["idle_builds"] == 0


def test_a_version_that_is_not_there(site, upgraded):
    done = site("default", "1.2.3", "--root", upgraded, check=False)
    assert done.returncode == 10
    held = f"{__version__}, {NEWER}"
    assert done.stderr.startswith(f"Error: {upgraded} does not hold rootstock 1.2.3; it holds {held}.\n")


def test_clients_are_not_collected(site, upgraded):
    done = site("gc", "--root", upgraded, "--keep", "1", "--older-than", "0", "--dry-run", "--json")
    assert json.loads(done.stdout)["builds"] == []


def put_anew(path, content):
    """Write a file of a build, which is a link to one in uv's cache: that must stay as it is."""
    mode, folder_mode = path.stat().st_mode, path.parent.stat().st_mode
    path.parent.chmod(0o755)
    path.unlink()
    path.write_bytes(content)
    path.chmod(mode)
    path.parent.chmod(folder_mode)


def test_the_files_of_the_clients_are_looked_at(site, upgraded):
    trees = (f"tiny, {platform.machine()}-cpu (main)", f"client {__version__}", f"client {NEWER}")
    as_published = "".join(f"{tree}: as published\n" for tree in trees)
    assert site("verify", "--files", "--root", upgraded).stdout == as_published
    build = RootLayout(upgraded).client(NEWER).resolve()
    path = next(build.glob("lib/python3*/site-packages/rootstock/interfaces/calculator.py"))
    content = path.read_bytes()
    put_anew(path, content + b"# a slip\n")
    done = site("verify", "--files", "--root", upgraded, check=False)
    assert (done.returncode, f"client {NEWER}: 1 file is wrong\n" in done.stdout) == (10, True)
    said = run(ROOTSTOCK, "doctor", "--full", "--root", upgraded)
    assert said.returncode == 10
    assert f"client {NEWER} is damaged: {path.relative_to(build)}: is not the file that was published" in said.stdout
    put_anew(path, content)
    assert site("verify", "--files", "--root", upgraded).stdout == as_published


def test_nothing_is_writable_by_everybody(upgraded):
    assert not [path for path in Path(upgraded).rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o002]
