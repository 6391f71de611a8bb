"""A start that fails for lack of weights, which an admin can fetch, and one that fails for lack of anything else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rootstock import RootstockCalculator
from rootstock.errors import MissingWeightsError, WorkerStartError
from rootstock.root.layout import RootLayout
from rootstock.root.records import active_build, read_build
from tests.conftest import Site
from tests.support.commands import run
from tests.support.environment_files import header
from tests.support.folders import once_per_run

pytestmark = pytest.mark.xdist_group("lacking")  # some change the root that all share

# huggingface_hub says in its own words that a file is neither in its cache nor may be fetched.
DEPENDENCIES = ("ase>=3.23", "huggingface_hub")
FILE = """
import dataclasses, os, subprocess, urllib.request
from ase.calculators.emt import EMT

def unfetched():
    urllib.request.urlopen("http://weights.invalid/model")

def compiler():
    subprocess.run(["no-such-compiler", "kernel.cu"], check=True)

def data():
    open("/opt/tables/params.json")

def sibling():
    open(os.path.join(os.path.dirname(__file__), "params.txt"))

def module():
    import no_such_module

def cache():
    raise FileNotFoundError(f"there is no {os.environ['HF_HOME']}/model.pt")

def cache_inside():
    try:
        open(os.environ["HF_HOME"] + "/model.pt")
    except OSError as error:
        raise RuntimeError("cannot load the model") from error

def hub():
    from huggingface_hub import hf_hub_download
    hf_hub_download("somebody/model", "model.pt")

def network():
    unfetched()

def network_unsaid():
    try:
        unfetched()
    except OSError:
        pass
    raise RuntimeError("no model")

def optional_import_then_network():
    try:
        import no_such_module
    except ImportError:
        network_unsaid()

def network_from():
    try:
        unfetched()
    except OSError as error:
        raise FileNotFoundError("no model") from error

@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    path: str

def handled_without_attributes():
    try:
        raise Frozen("here")
    except Frozen:
        network()

def telemetry_then_module():
    try:
        unfetched()
    except OSError:
        pass
    try:
        import no_such_module
    except ImportError:
        raise RuntimeError("install no_such_module")

def telemetry_then_compiler():
    try:
        unfetched()
    except OSError:
        pass
    compiler()

def setup(model, device="cpu"):
    globals()[model or "hub"]()
    return EMT()
"""
WEIGHTS = (
    "cache",
    "cache_inside",
    "hub",
    "network",
    "network_from",
    "network_unsaid",
    "optional_import_then_network",
    "handled_without_attributes",
)
OTHERS = ("compiler", "data", "sibling", "module", "telemetry_then_module", "telemetry_then_compiler")
REFERENCE = """\
[[tool.rootstock.references]]
name = "copper"
model = "MODEL"
needs_weights = true
source = "none"
symbols = "Cu"
pbc = [true, true, true]
cell = [[3.6, 0, 0], [0, 3.6, 0], [0, 0, 3.6]]
positions = [[0, 0, 0]]
"""


@pytest.fixture(scope="session")
def root(site: Site, like_root: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    def install(base: Path) -> None:
        (base / "lacking.py").write_text(header(dependencies=DEPENDENCIES) + FILE)
        options = ("--cluster", "local", "--no-client", "--env", base / "lacking.py", *like_root)
        site("install", "--root", base / "root", *options)

    return once_per_run(tmp_path_factory, "lacking", install) / "root"


@pytest.mark.parametrize("model", WEIGHTS)
def test_weights_are_missing(root: Path, model: str) -> None:
    with pytest.raises(MissingWeightsError, match="rootstock-site warm"):
        RootstockCalculator(f"lacking-{model}", root=root, device="cpu").start()


@pytest.mark.parametrize("model", OTHERS)
def test_something_else_is_missing(root: Path, model: str) -> None:
    with pytest.raises(WorkerStartError, match="could not start: .*(No such file|no_such_module)") as caught:
        RootstockCalculator(f"lacking-{model}", root=root, device="cpu").start()
    assert not isinstance(caught.value, MissingWeightsError)


def test_only_weights_may_be_missing_from_what_is_published(
    root: Path, site: Site, like_root: tuple[str, ...], tmp_path: Path
) -> None:
    path, layout = tmp_path / "verified.py", RootLayout(root)
    (tmp_path / "params.txt").touch()  # it is beside the file that is installed, and beside no build
    options = ("install", "--root", root, "--no-client", "--env", path, *like_root)
    for model, missing in (("compiler", "'no-such-compiler'"), ("sibling", "/environment.py")):
        path.write_text(header(REFERENCE.replace("MODEL", model), dependencies=DEPENDENCIES) + FILE)
        done = site(*options, check=False)
        assert done.returncode == WorkerStartError.exit_code
        assert "No such file or directory: " in done.stderr and missing in done.stderr
        assert active_build(layout.active("verified")) is None
    path.write_text(header(REFERENCE.replace("MODEL", "hub"), dependencies=DEPENDENCIES) + FILE)
    assert "not verified, for lack of weights: copper" in site(*options).stderr
    build = active_build(layout.active("verified"))
    record = read_build(build) if build else None
    assert record is not None and [check["passed"] for check in record.verification] == [None]


def test_a_reference_that_does_not_say_that_it_needs_weights_is_named(
    root: Path, site: Site, like_root: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "unsaid.py"
    references = REFERENCE.replace("MODEL", "network") + REFERENCE.replace("MODEL", "network").replace(
        '"copper"', '"the same"'
    ).replace("needs_weights = true\n", "")
    path.write_text(header(references, dependencies=DEPENDENCIES) + FILE)
    done = site("install", "--root", root, "--no-client", "--env", path, *like_root, check=False)
    assert done.returncode == MissingWeightsError.exit_code
    # At once, and all of it at the end.
    first, _, rest = done.stderr.partition("unsaid: failed: The weights of model 'network'")
    assert rest and "needs_weights" not in first
    assert f"In {path}, needs_weights is not set for reference 'the same' (number 2)." in rest
    assert "add to it: needs_weights = true" in rest and "Nothing else is wrong then" in rest
    assert "--env unsaid --model network" in rest
    [log] = sorted((root / "log").iterdir())[-1:]
    assert "unsaid: failed: The weights of model 'network'" in log.read_text()


REFUSED = """
import gc, socket, sys, weakref
from rootstock.worker.guard import SetupGuard

class Weights:
    pass

def setup():
    weights = Weights()
    loaded.append(weakref.ref(weights))
    try:
        socket.getaddrinfo("weights.invalid", 443)
    except ConnectionRefusedError:
        pass

loaded = []
with SetupGuard(sys.argv[1], sys.argv[1] + "/cache", offline=True):
    setup()
gc.collect()
print(loaded[0]())
"""


def test_a_refusal_keeps_nothing_in_memory(tmp_path: Path) -> None:
    assert run(sys.executable, "-c", REFUSED, tmp_path, check=True).stdout == "None\n"
