"""Two versions of Rootstock in one root, used through real modules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rootstock import __version__
from rootstock.builds.uv import find_uv
from rootstock.config.packaged import FOLDERS, PACKAGE, data_folder
from rootstock.root.layout import RootLayout
from tests.conftest import SITE, clean_environment

NEWER = "99.10.0"


def run(*command):
    done = subprocess.run(
        command, env=clean_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """Return ``rootstock-site`` of a newer version, installed from a wheel of a changed copy."""
    folder = tmp_path_factory.mktemp("newer")
    checkout = folder / "checkout"
    shutil.copytree(PACKAGE, checkout / "rootstock", ignore=shutil.ignore_patterns("__pycache__", "_data"))
    for name in FOLDERS:
        shutil.copytree(data_folder(name), checkout / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PACKAGE.parent / name, checkout)
    init = checkout / "rootstock/__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{NEWER}"', init.read_text()))
    uv = find_uv()
    run(uv, "build", "--wheel", "--out-dir", folder, checkout)
    run(uv, "venv", folder / "venv")
    run(uv, "pip", "install", "--python", folder / "venv/bin/python", *folder.glob("*.whl"))
    return folder / "venv/bin/rootstock-site"


@pytest.fixture(scope="module")
def upgraded(newer, root, tmp_path_factory):
    """Return a root that holds both versions, and was made by the older."""
    path = tmp_path_factory.mktemp("upgraded") / "root"
    # The packages of the clients are in the cache of the other root.
    shutil.copytree(root / "cache/uv", path / "cache/uv", symlinks=True)
    run(SITE, "install", "--cluster", "local", "--root", path, "--set", "environments=")
    said = run(newer, "install", "--root", path)
    assert f"  write modulefiles/rootstock/{NEWER}.lua\n" in said
    assert "  build rootstock-client with Python 3." in said
    assert ".modulerc" not in said
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


def test_the_default_is_chosen_apart(modules, upgraded, newer):
    said = run(newer, "default", NEWER, "--root", upgraded)
    assert f"  make {NEWER} the default version, instead of {__version__}\n" in said
    assert versions(modules, upgraded, "rootstock", f"rootstock/{__version__}") == [NEWER, __version__]
    activation = RootLayout(upgraded).activation("sh")
    said = subprocess.check_output(["sh", "-c", f". {activation} && {VERSION}"], text=True, cwd=upgraded)
    assert said == f"{NEWER}\n"
    assert run(SITE, "install", "--root", upgraded) == f"{upgraded}: nothing to do.\n"
    # The older version can be made the default, and gone back to, by either.
    run(newer, "rollback", "--root", upgraded)
    assert versions(modules, upgraded, "rootstock") == [__version__]


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


def test_the_files_of_the_clients_are_looked_at(site, upgraded):
    as_published = f"client {__version__}: as published\nclient {NEWER}: as published\n"
    assert site("verify", "--files", "--root", upgraded).stdout == as_published
    build = RootLayout(upgraded).client(NEWER).resolve()
    path = next(build.glob("lib/python3*/site-packages/rootstock/interfaces/calculator.py"))
    mode, content = path.stat().st_mode, path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content + b"# a slip\n")
    done = site("verify", "--files", "--root", upgraded, check=False)
    assert (done.returncode, f"client {NEWER}: 1 file is wrong\n" in done.stdout) == (15, True)
    said = subprocess.run(
        [SITE.with_name("rootstock"), "doctor", "--full", "--root", upgraded],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode == 14
    assert f"client {NEWER} is damaged: {path.relative_to(build)}: is not the file that was published" in said.stdout
    path.write_bytes(content)
    path.chmod(mode)
    assert site("verify", "--files", "--root", upgraded).stdout == as_published


def test_nothing_is_writable_by_everybody(upgraded):
    assert not [path for path in Path(upgraded).rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o002]
