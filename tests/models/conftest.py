"""A root with the environments of real models, and the same models without Rootstock.

Where UV_FIND_LINKS points to a folder with a wheel of torch, that one is used: the CPU's is a tenth of the GPU's.
MODELS_ROOT names a root to keep and to use again; building takes most of the time of these tests.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from rootstock.client.resolve import resolve
from rootstock.root.layout import RootLayout
from rootstock.root.weights import write_variables
from tests.conftest import Site
from tests.models import tested
from tests.models.cases import CASES
from tests.models.structures import has_stress, rock_salt, varied  # noqa: F401  # tests take them from here, too
from tests.support.commands import run
from tests.support.folders import open_to_readers
from tests.support.needs import need

PROGRAMS = Path(__file__).parent / "programs"
# What a batch system or a container says about the GPU: libraries without Rootstock must see the same one.
GPU_VARIABLES = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH") if name in os.environ}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

# How far what is computed together may be from what is computed one by one: in single precision, sums of other lengths
# are rounded differently.
TOLERANCES = {
    "energy": 2e-5, "free_energy": 2e-5, "forces": 2e-5, "stress": 1e-6, "energies": 2e-5, "magmoms": 1e-5,
    "charges": 1e-6, "dipole": 1e-5,
}  # fmt: skip

Build = Callable[[str], Path]
Make = Callable[..., Path]
Fetched = Callable[[str], str]
Numbers = list[list[list[str]]]
Direct = Callable[[str, str, Sequence[Atoms]], Numbers]
Call = tuple[str, dict[str, object], str]


SEEN = tested.Seen()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SEEN, "models-tested")


@pytest.fixture(scope="session", autouse=True)
def table() -> Iterator[None]:
    """Write what these tests have seen into the file that MODELS_TABLE names, if it does."""
    yield
    if file := os.environ.get(tested.FILE):
        SEEN.write(Path(file))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave all tests of models to one process: others would build them again."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.xdist_group("models"))


def torch_settings() -> list[str]:
    """Return the site's settings for uv that choose the torch at hand."""
    folder = os.environ.get("UV_FIND_LINKS", "")
    wheels = sorted(Path(folder).glob("torch-*.whl")) if folder else []
    if not wheels:
        return []
    version = wheels[-1].name.split("-")[1].partition("+")[0]
    return ["--set", f"uv.find-links={folder}", "--set", f"uv.constraints=torch=={version}"]


def settings_for(name: str) -> list[str]:
    """Return the site's settings to build an environment with."""
    return [] if name == "orb" else torch_settings()


def put_python_into(root: Path) -> None:
    """Copy the Python that ORB needs into a root, as an admin does: all readers of the root can run it there."""
    program = os.environ.get("PYTHON312", "")
    need(program, "PYTHON312, an interpreter for ORB")
    if not (root / "python").is_dir():
        command = [program, "-c", "import sys; print(sys.base_prefix)"]
        prefix = run(*command, check=True).stdout.strip()
        shutil.copytree(prefix, root / "python" / "3.12", symlinks=True, ignore=shutil.ignore_patterns("test"))


@pytest.fixture(scope="session")
def build(site: Site, shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build an environment, once, and return its root, which everybody may read: one for all, but ORB's.

    ORB has a Python and a torch of its own. EMT and Lennard-Jones are those of all tests, and so is the client. The
    real ones import matplotlib, by way of pymatgen for example.
    """
    kept = os.environ.get("MODELS_ROOT")
    base = Path(kept) if kept else tmp_path_factory.mktemp("models") / "root"
    done: set[str] = set()

    def install(name: str) -> Path:
        if name in ("emt", "lj"):
            SEEN.roots[name] = shared_root
            return shared_root
        path = base.with_name(f"{base.name}-orb") if name == "orb" else base
        if name not in done:
            put_given_weights_into(path, name)
            if name == "orb":
                put_python_into(path)
            options = ("--env", name, "--no-client", "--set", "access.readers=world", *settings_for(name))
            site("install", "--cluster", "local", "--root", path, *options)
            open_to_readers(path)
            done.add(name)
        SEEN.roots[name] = path
        return path

    return install


def put_given_weights_into(root: Path, name: str) -> None:
    """Copy released weights into a root that is to be built, so that references are checked with them."""
    folder, case = os.environ.get("MODELS_WEIGHTS", ""), CASES[name]
    if not (folder and case.given) or not (source := Path(folder, case.given)).exists():
        return
    path = root / "cache" / case.weights[1]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, path) if source.is_dir() else shutil.copyfile(source, path)


def given(name: str) -> Path:
    """Return the path of released weights that somebody has brought here, for models of which none are made."""
    folder, file = os.environ.get("MODELS_WEIGHTS", ""), CASES[name].given
    need(folder, "MODELS_WEIGHTS, a folder with released weights")
    path = Path(folder, file)
    need(path.exists(), f"{path}: released weights of {name}")
    return path


@pytest.fixture(scope="session")
def models_root(build: Build) -> Path:
    """Return a root with CHGNet, built and verified."""
    return build("chgnet")


def run_in(
    root: Path, name: str, program: str, *arguments: str | Path, variables: Mapping[str, str] | None = None
) -> str:
    """Run one of our programs with the interpreter of an environment's build; return what it prints."""
    python = root / "active" / name / "bin" / "python"
    own = {**ONE_THREAD, **GPU_VARIABLES, "PATH": "/usr/bin:/bin", **write_variables(root.parent / "scratch")}
    arguments = ("-I", "-W", "ignore", PROGRAMS / program, *arguments)
    return run(python, *arguments, env=variables or own, check=True, timeout=600).stdout


def call_setup(root: Path, name: str, *calls: Call) -> list[str]:
    """Call ``setup(model, "cpu", **options)`` as a worker would, and evaluate an expression of the `calculator`.

    Returns
    -------
    list of str
        For each call its value, or the error.
    """
    launch = resolve(RootLayout(Path(root)), name, mode="build").launch()
    printed = run_in(root, name, "setups.py", launch.environment_file, json.dumps(calls), variables=launch.variables)
    answers: list[str] = json.loads(printed.partition("RESULT")[2])
    return answers


@pytest.fixture(scope="session")
def make_model(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Write a small model with random weights, once, by the classes of the library itself, and return its path."""

    @functools.cache
    def make(name: str, *arguments: str) -> Path:
        root = build(name)  # also where its weights are not here: the table tells of the build
        if CASES[name].given:
            return given(name)
        path = tmp_path_factory.mktemp(name) / "tiny.model"
        run_in(root, name, f"make_{name.partition('@')[0]}.py", path, *arguments)
        return path

    return make


@pytest.fixture
def fetched(build: Build, make_model: Make) -> Iterator[Fetched]:
    """Put a small model with random weights where a library keeps those of a released one; return the latter's name."""
    new: list[Path] = []

    def put(name: str) -> str:
        released, place = CASES[name].weights
        if not released:
            return ""
        path = build(name) / "cache" / place
        if path.exists():  # weights that were given
            return released
        new.append([path, *(folder for folder in path.parents if not folder.exists())][-1])
        path.parent.mkdir(parents=True, exist_ok=True)
        model = make_model(name)
        if "snapshots" in path.parts:  # as Hugging Face's library keeps what it fetches
            revision = path.parts[path.parts.index("snapshots") + 1]
            refs = Path(str(path).partition("/snapshots/")[0], "refs")
            refs.mkdir()
            (refs / "main").write_text(revision)
        shutil.copytree(model, path) if model.is_dir() else shutil.copyfile(model, path)
        return released

    yield put
    for path in new:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="session")
def direct(build: Build) -> Direct:
    """Compute structures with the library's own calculator, in its environment, without Rootstock."""

    def compute(name: str, code: str, structures: Sequence[Atoms]) -> Numbers:
        text = json.dumps([as_arguments(atoms) for atoms in structures])
        printed = run_in(build(name), name, "direct.py", code, text)
        numbers: Numbers = json.loads(printed.partition("RESULT")[2])
        return numbers

    return compute


def as_arguments(atoms: Atoms) -> dict[str, list[object]]:
    """Return the arguments of `ase.Atoms` that make these atoms, exactly."""
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.tolist(),
        "pbc": atoms.pbc.tolist(),
    }


def exactly(*values: object) -> list[list[str]]:
    """Return every bit of some numbers, as `direct` gives them."""
    return [[float(number).hex() for number in np.ravel(value)] for value in values]


class DeadProxy:
    """A proxy that takes connections and never answers: a download would hang, and would be noticed."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def was_asked(self) -> bool:
        try:
            self._listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[DeadProxy]:
    """Lead every download to a proxy that tells whether it was asked."""
    proxy = DeadProxy()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield proxy
    proxy.close()
