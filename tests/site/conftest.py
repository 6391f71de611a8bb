"""The real programs that renderings are for: Lmod, Environment Modules and the shells."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from rootstock.config.clusters import Cluster
from rootstock.config.render import render_activation, render_default, render_modulefiles
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree
from tests.conftest import Site

LMOD = Path("/usr/share/lmod/lmod")

# What each module system keeps for itself in a shell's environment.
LMOD_OWN = ("_LMFILES_", "LOADEDMODULES", "_ModuleTable", "__LMOD_", "LMOD_")
TMOD_OWN = ("_LMFILES_", "LOADEDMODULES", "__MODULES_", "MODULES_")


def _missing(what: str, remedy: str) -> None:
    """Skip the test; where the CI runs, which installs everything, fail it."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{what} is missing: {remedy}")


def _require(program: str, package: str) -> str:
    """Return the path of a program of the system."""
    path = shutil.which(program)
    if path is None:
        _missing(program, f"apt-get install {package}")
    return str(path)


def _run(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, with a bare environment as a batch job may have."""
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}
    return subprocess.run(
        command, cwd=folder, env=bare | dict(environment or {}), capture_output=True, text=True, timeout=60, check=False
    )


@dataclass(frozen=True)
class ModuleSystem:
    """A module system, and how bash comes to know it."""

    name: str
    init: str
    own: tuple[str, ...]
    folder: Path

    def shell(self, tree: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `script` in bash, where ``module`` finds the modulefiles under `tree`."""
        command = ["bash", "--norc", "--noprofile", "-c", f"{self.init}\n{script}"]
        return _run(command, self.folder, {"MODULEPATH": str(tree)} | environment)

    def environment(self, tree: Path, script: str, **environment: str) -> dict[str, str]:
        """Return the environment that `script` leaves, without what the module system keeps there for itself."""
        done = self.shell(tree, f"{script} >&2; env -0", **environment)
        assert done.returncode == 0, done.stderr
        pairs = (pair.split("=", 1) for pair in done.stdout.split("\0") if pair)
        return {name: value for name, value in pairs if name != "_" and not name.startswith(self.own)}


@pytest.fixture(scope="session")
def require() -> Callable[[str, str], str]:
    """Return the function that finds a program, given the package that has it."""
    return _require


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return the function that runs a command in `tmp_path`, given more variables for its environment."""
    return lambda *command, **environment: _run(command, tmp_path, environment)


@pytest.fixture(scope="session")
def lmod(tmp_path_factory: pytest.TempPathFactory) -> ModuleSystem:
    if not LMOD.is_dir():
        _missing("Lmod", "apt-get install lmod")
    return ModuleSystem("lmod", f". {LMOD}/init/bash", LMOD_OWN, tmp_path_factory.mktemp("lmod"))


@pytest.fixture(scope="session")
def tmod(tmp_path_factory: pytest.TempPathFactory) -> ModuleSystem:
    """Environment Modules, unpacked only: Debian's package conflicts with that of Lmod."""
    tclsh = _require("tclsh8.6", "tcl8.6")
    folder = tmp_path_factory.mktemp("tmod")
    commands = sorted(Path("/usr/lib").glob("*/modulecmd.tcl"))
    if not commands:
        download = subprocess.run(
            "apt-get -qq download environment-modules && dpkg -x environment-modules_*.deb .",
            shell=True, cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        commands = sorted(folder.glob("usr/lib/*/modulecmd.tcl"))
        if not commands:
            _missing("Environment Modules", f"apt-get update, for `apt-get download` said: {download.stderr}")
    init = f'module() {{ eval "$({tclsh} {commands[0]} bash "$@")"; }}'
    return ModuleSystem("tmod", init, TMOD_OWN, tmp_path_factory.mktemp("work"))


@pytest.fixture(params=["lmod", "tmod"])
def modules(request: pytest.FixtureRequest) -> ModuleSystem:
    """Each of the two module systems."""
    system: ModuleSystem = request.getfixturevalue(request.param)
    return system


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Return a function that writes renderings to a root, with a client that says its version, and returns the root."""

    def write(
        cluster: Cluster,
        *versions: str,
        default: str = "",
        at: Path = tmp_path / "root",
        said: Path | None = None,
        template_dirs: Sequence[Path] = (),
    ) -> Path:
        # `said` is the root that the renderings speak of; they lie under `at` all the same.
        texts = render_default(cluster, said or at, version=default or versions[0], template_dirs=template_dirs)
        for version in versions:
            texts |= render_modulefiles(cluster, said or at, version=version, template_dirs=template_dirs)
            texts |= render_activation(cluster, said or at, version=version, template_dirs=template_dirs)
            bin_folder = RootLayout(at).client(version) / "bin"
            bin_folder.mkdir(parents=True, exist_ok=True)
            for program in ("rootstock", "python"):
                (bin_folder / program).write_text(f'#!/bin/sh\necho "{program} of {version}" "$@"\n')
                (bin_folder / program).chmod(0o755)
        for path, text in texts.items():
            target = at / path.relative_to(said or at)
            target.parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                target.write_text(text, encoding="utf-8")
        return at

    return write


TINY = """\
# /// script
# requires-python = ">=3.10"
# dependencies = ["six"]
# ///
def setup(model, device="cpu"):
    raise NotImplementedError
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Return an environment file that is built in a second and verified by nothing."""
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return path


@dataclass(frozen=True)
class Pristine:
    """A root that is installed once and put back, at the same path, for each test that changes it."""

    root: Path
    kept: Path

    @classmethod
    def install(cls, site: Site, base: Path, *options: str | Path) -> Pristine:
        site("install", "--cluster", "local", "--root", base / "root", "--no-client", *options)
        shutil.copytree(base / "root", base / "kept", symlinks=True)
        return cls(base / "root", base / "kept")

    def fresh(self) -> Path:
        remove_tree(self.root)
        shutil.copytree(self.kept, self.root, symlinks=True)
        return self.root


@pytest.fixture(scope="session")
def _pristine_tiny(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Pristine:
    base = tmp_path_factory.mktemp("tiny")
    (base / "tiny.py").write_text(TINY)
    return Pristine.install(site, base, "--env", base / "tiny.py")


@pytest.fixture(scope="session")
def _pristine_bare(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Pristine:
    return Pristine.install(site, tmp_path_factory.mktemp("bare"), "--set", "environments=")


@pytest.fixture
def tiny_root(_pristine_tiny: Pristine) -> Path:
    """Return a root with the environment tiny, which the test may change."""
    return _pristine_tiny.fresh()


@pytest.fixture
def bare_root(_pristine_bare: Pristine) -> Path:
    """Return a root without any environment, which the test may change."""
    return _pristine_bare.fresh()
