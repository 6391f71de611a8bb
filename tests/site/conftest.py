"""The real programs that renderings are for: Lmod, Environment Modules and the shells."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rootstock.config.clusters import Cluster
from rootstock.config.environment_file import packaged_source
from rootstock.config.render import render_activation, render_default, render_modulefiles
from rootstock.config.site import Site as RootSite
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree
from rootstock.root.records import read_build
from rootstock.root.weights import Weights, WeightsFile, write_weights
from tests.conftest import Site, run_slurm
from tests.support.commands import Done, bare_environment, run
from tests.support.environment_files import header
from tests.support.folders import once_per_run, open_to_readers
from tests.support.needs import need, need_program
from tests.support.nodes import GATED, Person, Seen
from tests.support.roots import put_environment
from tests.support.slurm import Slurm
from tests.support.tiny_root import SETUP, write_wheel

LMOD = Path("/usr/share/lmod/lmod")

# What each module system keeps for itself in a shell's environment.
LMOD_OWN = ("_LMFILES_", "LOADEDMODULES", "_ModuleTable", "__LMOD_", "LMOD_")
TMOD_OWN = ("_LMFILES_", "LOADEDMODULES", "__MODULES_", "MODULES_")


@dataclass(frozen=True)
class ModuleSystem:
    """A module system, and how bash comes to know it."""

    name: str
    init: str
    own: tuple[str, ...]
    folder: Path

    def shell(self, tree: Path, script: str, **variables: str) -> Done:
        """Run `script` in bash, where ``module`` finds the modulefiles under `tree`."""
        command = ("bash", "--norc", "--noprofile", "-c", f"{self.init}\n{script}")
        env = bare_environment(self.folder, MODULEPATH=str(tree)) | variables
        return run(*command, env=env, cwd=self.folder)

    def environment(self, tree: Path, script: str, **variables: str) -> dict[str, str]:
        """Return the environment that `script` leaves, without what the module system keeps there for itself."""
        done = self.shell(tree, f"{script} >&2; env -0", **variables)
        assert done.returncode == 0, done.stderr
        pairs = (pair.split("=", 1) for pair in done.stdout.split("\0") if pair)
        return {name: value for name, value in pairs if name != "_" and not name.startswith(self.own)}


@pytest.fixture
def bare(tmp_path: Path) -> Callable[..., Done]:
    """Return the function that runs a command in `tmp_path`, in a bare environment with more variables."""
    return lambda *command, **variables: run(*command, env=bare_environment(tmp_path, **variables), cwd=tmp_path)


@pytest.fixture(scope="session")
def lmod(tmp_path_factory: pytest.TempPathFactory) -> ModuleSystem:
    need(LMOD.is_dir(), "Lmod (apt-get install lmod)")
    # Lmod keeps what it has found in a home if that took long, and later tests would read it.
    init = f"export LMOD_IGNORE_CACHE=1; . {LMOD}/init/bash"
    return ModuleSystem("lmod", init, LMOD_OWN, tmp_path_factory.mktemp("lmod"))


@pytest.fixture(scope="session")
def tmod(tmp_path_factory: pytest.TempPathFactory) -> ModuleSystem:
    """Environment Modules, unpacked only: Debian's package conflicts with that of Lmod."""
    tclsh = need_program("tclsh8.6", "tcl8.6")
    commands = sorted(Path("/usr/lib").glob("*/modulecmd.tcl"))
    if not commands:

        def fetch(folder: Path) -> None:
            script = "apt-get -qq download environment-modules && dpkg -x environment-modules_*.deb ."
            done = run("sh", "-c", script, cwd=folder)
            need(done.returncode == 0, f"Environment Modules (`apt-get download` said: {done.stderr})")

        folder = once_per_run(tmp_path_factory, "environment-modules", fetch)
        commands = sorted(folder.glob("usr/lib/*/modulecmd.tcl"))
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
        site = RootSite(RootLayout(said or at), cluster, tuple(template_dirs))
        texts = render_default(site, default or versions[0])
        for version in versions:
            texts |= render_modulefiles(site, version) | render_activation(site, version)
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


# Long enough that a test can change a byte in the middle.
SIX = b"""\
\"\"\"What stands in for a well-known package of one module, so that nothing is fetched.\"\"\"

__version__ = "1.17.0"


def add_metaclass(metaclass):
    return lambda cls: metaclass(cls.__name__, cls.__bases__, dict(cls.__dict__))
"""


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the text of an environment file whose one package, six, lies in a folder that everybody can read."""
    folder = tmp_path_factory.mktemp("wheels")
    open_to_readers(folder)
    write_wheel(folder, "six", "1.17.0", {"six.py": SIX}).chmod(0o644)
    return header("[tool.uv]", "no-index = true", f'find-links = ["{folder}"]', dependencies=("six",)) + SETUP


@pytest.fixture
def tiny(tiny_text: str, tmp_path: Path) -> Path:
    """Return an environment file that is built in a second and verified by nothing."""
    path = tmp_path / "tiny.py"
    path.write_text(tiny_text)
    path.chmod(0o644)  # whatever the umask, as other users install it too
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
def _pristine_tiny(site: Site, tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> Pristine:
    base = tmp_path_factory.mktemp("tiny")
    (base / "tiny.py").write_text(tiny_text)
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


@pytest.fixture
def mace_root(tiny_root: Path) -> RootLayout:
    """Return a root with MACE, as an admin would have built it for GPUs, and the weights of two of its models."""
    layout = RootLayout(tiny_root)
    record = read_build(layout.active("tiny").resolve())
    packages = {"mace_torch": "0.3.16", "ase": "3.29.0", "torch": "2.13.0", "numpy": "2.4.6", "e3nn": "0.4.4"}
    assert record
    checks = [{"model": "small", "reference": "NaCl", "source": "janus-core", "reason": "no weights", "passed": None}]
    record = replace(record, accelerator="cuda", serves="cuda", packages=packages, verification=checks)
    record = put_environment(layout, packaged_source("mace").path, record)
    for model in ("medium-mpa-0", "small"):
        file = layout.cache / f"xdg/mace/{model}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(model)
        layout.weights("mace").mkdir(parents=True, exist_ok=True)
        weights = Weights("mace", model, (WeightsFile.of(file, layout.root),), (), record.digest, "now", "ann", "here")
        write_weights(layout, weights, 0o644)
    (layout.cache / "xdg/mace/small").unlink()
    return layout


# -- three nodes of Slurm


@pytest.fixture(scope="session")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Return a cluster for tests of the group "nodes"."""
    yield from run_slurm(tmp_path_factory, nodes=3, timeout_s=60, kill_wait_s=300)


@pytest.fixture(scope="session")
def person(
    three_nodes: Slurm, site: Site, like_root: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Person:
    """Return one who computes with a root for jobs of Slurm, by a model that has a gate."""
    base = tmp_path_factory.mktemp("nodes")
    open_to_readers(base)
    (base / "gated.py").write_text(header() + GATED)
    settings = (
        "jobs.scheduler=slurm", "hardware.accelerator=cuda", "jobs.batch.gpus-per-node=2", "jobs.batch.cpus-per-gpu=1",
        "jobs.batch.walltime=00:10:00", "jobs.batch.kill-wait=300", "client.extras=parsl",
    )  # fmt: skip
    options = [word for setting in settings for word in ("--set", setting)]
    site("install", "--cluster", "local", "--root", base / "root", "--env", base / "gated.py", *like_root, *options)
    return Person(three_nodes, base / "root")


@pytest.fixture
def seen(three_nodes: Slurm, person: Person) -> Iterator[Seen]:
    """Look at all processes of jobs again and again, and leave the cluster as it was at the end."""
    seen, end = Seen(), threading.Event()

    def look() -> None:
        while not end.wait(0.1):
            seen.look([each for each in three_nodes.processes() if "SLURM_JOB_ID" in each.variables])

    thread = threading.Thread(target=look)
    thread.start()
    yield seen
    end.set()
    thread.join()
    person.allow(10**6)
    three_nodes.clear()
    for node, state in three_nodes.nodes().items():
        if state not in ("idle", "comp"):
            with contextlib.suppress(KeyError):  # it is dead
                three_nodes.kill_node(node)
            three_nodes.revive_node(node)
