"""What only a GPU can show: the models on the device that ROOTSTOCK_TEST_DEVICE names, ``cuda`` by default.

It needs Linux, an NVIDIA GPU that nobody else uses, its driver, ``nvidia-smi``, about 15 GB of disk, and either network
for torch with CUDA and the models, or MODELS_ROOT: a root that holds such builds already. UV_FIND_LINKS must not name a
folder with a torch for processors only. ``make test-gpu`` runs it; without PYTHON312 it leaves ORB out.

With ROOTSTOCK_TEST_DEVICE=cpu the same tests run without a GPU, all but those of ``CUDA_VISIBLE_DEVICES``; memory is
then short because the worker is given less, by a limit on its address space.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from rootstock import RootstockCalculator
from rootstock.calculator import Evaluated, FailureClass
from rootstock.config.environment_file import packaged_source
from rootstock.errors import DeviceError, ModelError, WorkerDiedError
from rootstock.worker.device import missing_gpu
from tests.conftest import Site
from tests.models.cases import CASES
from tests.models.conftest import Build, Direct, Make, exactly, rock_salt, torch_settings
from tests.support.commands import run
from tests.support.environment_files import header
from tests.support.needs import need, need_program

DEVICE = os.environ.get("ROOTSTOCK_TEST_DEVICE", "cuda")
ON_GPU = DEVICE.startswith("cuda")
MODELS = [name for name in CASES if CASES[name].mark and CASES[name].gpu]
DEVICES = [(name, DEVICE) for name in MODELS] + [("chgnet", "cuda:0")] * (DEVICE == "cuda")
WANTED = ["energy", "forces", "stress"]
ROOM_ON_CPU = 512 * 2**20
FREED_S, FREED_MB = 30.0, 50  # how soon a driver has the memory of a process back, and what may differ

ASSERTS = (
    header(dependencies=("ase>=3.23", "torch"))
    + """\
import torch
from ase.calculators.emt import EMT


class Asserting(EMT):
    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        index = torch.tensor([atoms.info.get("index", 0)], device=self.device)
        self.results["energy"] += float(torch.zeros(4, device=self.device)[index].sum())


def setup(model, device="cuda"):
    calculator = Asserting()
    calculator.device = device
    return calculator
"""
)

# A model with little of the GPU's memory. (On a processor, the worker's address space is limited instead.)
SHORT = """

_setup = setup


def setup(model, device="cuda", **options):
    calculator = _setup(model, device, **options)
    if device.startswith("cuda"):
        torch.cuda.set_per_process_memory_fraction(0.03)
    return calculator
"""

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]
only_cuda = pytest.mark.skipif(not ON_GPU, reason=f"{DEVICE} is no GPU of NVIDIA's")


Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Print a line that people see though the test passes."""

    def line(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")  # noqa: T201

    return line


@pytest.fixture(scope="module", autouse=True)
def gpu() -> None:
    """Say what is missing before gigabytes are fetched."""
    missing = missing_gpu(DEVICE, "cuda") if ON_GPU else None
    need(missing is None, f"{missing and missing.message} ROOTSTOCK_TEST_DEVICE=cpu runs what needs none.")


@pytest.fixture(scope="module")
def root(build: Build) -> Path:
    return build("chgnet")


@pytest.fixture
def calc(root: Path) -> Iterator[RootstockCalculator]:
    with RootstockCalculator("chgnet", root=root, device=DEVICE, threads=1) as calc:
        yield calc


def path_of_a_simulation(start: Atoms) -> list[Atoms]:
    structures = [start, start.repeat((2, 2, 2))]
    for seed in range(4):
        atoms = structures[-1].copy()
        atoms.rattle(0.03, seed=seed)
        structures.append(atoms)
    return structures


def compute(calc: RootstockCalculator, atoms: Atoms, wanted: Sequence[str] = WANTED) -> list[list[str]]:
    calc.calculate(atoms, [*wanted])
    return exactly(*(calc.results[name] for name in wanted))


@pytest.mark.parametrize(("name", "device"), DEVICES)
def test_the_librarys_own_numbers(
    build: Build, direct: Direct, make_model: Make, name: str, device: str, say: Say
) -> None:
    """Bit for bit, if the library finds the same bits twice itself: a GPU may add up in another order each time."""
    root, case = build(name), CASES[name]
    model = str(make_model(name)) if "MODEL" in case.direct else ""
    structures = path_of_a_simulation(case.start())
    # Of some, what the library gives is no stress: it comes last, and is left out.
    runs = [direct(name, case.code(model, device), structures) for _ in range(2)]
    expected, again = ([numbers[: len(case.wanted)] for numbers in each] for each in runs)
    full = f"{name}-{model}" if model else name
    options = dict(case.options)
    with RootstockCalculator(full, root=root, device=device, threads=1, setup_kwargs=options) as calc:
        found = [compute(calc, atoms, case.wanted) for atoms in structures]
        info = calc.info()
    assert info["device"] == device
    assert bool(info["gpu"]) == ON_GPU
    spread = max(apart(*pair) for pair in zip(expected, again, strict=True))
    ours = max(apart(*pair) for pair in zip(found, expected, strict=True))
    say(
        f"{name}, {device}, {info['gpu']}: the library's own results differ by {spread:.3g} from run to run, "
        f"ours from them by {ours:.3g}"
    )
    if spread == 0:
        assert found == expected
    else:
        assert ours < max(1e-4, 10 * spread)


def apart(first: list[list[str]], second: list[list[str]]) -> float:
    """Return the largest difference of two lists of exact numbers."""
    pairs = zip(first, second, strict=True)
    return max(float(np.abs(np.subtract(*(list(map(float.fromhex, each)) for each in pair))).max()) for pair in pairs)


@only_cuda
@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_gpu_is_an_error_at_once(root: Path, hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    with pytest.raises(DeviceError, match=f"CUDA_VISIBLE_DEVICES={hidden!r}"):  # torch says something else
        RootstockCalculator("chgnet", root=root, device=DEVICE).start()


@only_cuda
def test_a_gpu_by_its_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = run(need_program("nvidia-smi", "nvidia-smi"), "-L", check=True).stdout
    [name, *_] = re.findall(r"UUID: ((?:GPU|MIG)-[^)]+)\)", listed)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)
    with RootstockCalculator("chgnet", root=root, device="cuda:0") as calc:
        assert calc.get_potential_energy(rock_salt()) < 0
        assert calc.info()["gpu"]
    with pytest.raises(DeviceError, match="leaves 1 visible"):
        RootstockCalculator("chgnet", root=root, device="cuda:1").start()


def test_a_structure_too_large_for_the_memory(calc: RootstockCalculator, say: Say) -> None:
    small = rock_salt()
    before, worker = compute(calc, small), calc.info()["pid"]
    if not ON_GPU:
        pages = int(Path(f"/proc/{worker}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + ROOM_ON_CPU
        resource.prlimit(worker, resource.RLIMIT_AS, (limit, limit))
    error = first_failure(calc)
    say(f"{DEVICE}: {type(error).__name__}: {error.message}")
    if isinstance(error, ModelError):  # else the system ended the worker
        assert re.search(r"memory|alloc", str(error), re.IGNORECASE)
        assert calc.info()["pid"] == worker
    again = compute(calc, small)
    assert apart(again, before) <= (1e-4 if ON_GPU else 0)


def test_an_assertion_on_the_device(build: Build, site: Site, tmp_path: Path, say: Say) -> None:
    """CUDA then refuses the process all else: the worker ends, and the next call starts another."""
    root = build("chgnet")
    file = tmp_path / "asserts.py"
    file.write_text(ASSERTS)
    site("install", "--cluster", "local", "--root", root, "--env", file, *torch_settings())
    atoms = bulk("Cu")
    with RootstockCalculator("asserts", root=root, device=DEVICE) as calc:
        calc.calculate(atoms, ["energy"])
        worker, energy = calc.info()["pid"], calc.results["energy"]
        atoms.info["index"] = 5
        with pytest.raises(ModelError) as caught:
            calc.calculate(atoms, ["energy"])
        say(f"{DEVICE}: {caught.value}")
        assert ("The next call starts a new one" in caught.value.hint) == ON_GPU
        assert re.search(r"device-side assert" if ON_GPU else r"index 5 is out of bounds", str(caught.value))
        del atoms.info["index"]
        calc.calculate(atoms, ["energy"])
        assert calc.results["energy"] == energy
        assert (calc.info()["pid"] != worker) == ON_GPU


@only_cuda
@pytest.mark.parametrize("how", ["closed", "killed"])
def test_the_memory_is_given_back(root: Path, how: str, say: Say) -> None:
    """Also that of a worker that was killed while it computed."""
    before = memory_in_use()
    with RootstockCalculator("chgnet", root=root, device=DEVICE) as calc:
        calc.calculate(rock_salt(), WANTED)
        worker = calc.info()["pid"]
        assert memory_in_use() > before + FREED_MB
        begun = time.monotonic()
        if how == "killed":
            threading.Timer(2.0, os.kill, (worker, signal.SIGKILL)).start()
            with pytest.raises(WorkerDiedError):
                compute_for_ever(calc)
        else:
            calc.close()
        say(f"{DEVICE}: {how} within {time.monotonic() - begun:.2f} s")
        deadline = time.monotonic() + FREED_S
        while memory_in_use() > before + FREED_MB and time.monotonic() < deadline:
            time.sleep(0.2)
        assert memory_in_use() <= before + FREED_MB
        if how == "killed":
            calc.calculate(rock_salt(), WANTED)
            assert calc.info()["pid"] != worker


def compute_for_ever(calc: RootstockCalculator) -> NoReturn:
    while True:
        calc.calculate(rock_salt().repeat(6), WANTED)


def memory_in_use() -> int:
    """Return the megabytes that are in use on the first GPU."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(run(*command, check=True).stdout)


def first_failure(calc: RootstockCalculator) -> ModelError | WorkerDiedError:
    for repeats in (8, 16, 24, 32, 40):
        try:
            calc.calculate(rock_salt().repeat(repeats), WANTED)
        except (ModelError, WorkerDiedError) as error:
            return error
    pytest.fail("512000 atoms fit into the memory: this test needs a larger structure")


@pytest.mark.parametrize("repeats", [1, 3, 5])
def test_time_of_a_call(calc: RootstockCalculator, repeats: int, say: Say) -> None:
    """Say what calls cost; how fast a machine is cannot fail, but every call must be counted."""
    atoms = rock_salt().repeat(repeats)
    for seed in range(10):
        atoms.rattle(0.001, seed=seed)
        calc.calculate(atoms, WANTED)
    calls, info = calc.info()["calls"], calc.info()
    assert calls["count"] == 10
    say(f"{DEVICE}, {info['gpu'] or info['host']}, {len(atoms)} atoms: {calls}")


def cells(count: int) -> list[Atoms]:
    """Return rock salt of 8, 16 or 24 atoms, each rattled in its own way."""
    images = []
    for seed in range(count):
        atoms = rock_salt().repeat((1, 1, 1 + seed % 3))
        atoms.rattle(0.05, seed=seed)
        images.append(atoms)
    return images


def one_by_one(calc: RootstockCalculator, images: list[Atoms]) -> list[dict[str, Any]]:
    found = []
    for atoms in images:
        calc.calculate(atoms, WANTED)
        found.append(dict(calc.results))
    return found


def same(done: list[Evaluated], single: list[dict[str, Any]]) -> None:
    """Compare with single calls; the tolerances are those of single precision on a GPU."""
    assert [each.error for each in done] == [None] * len(single)
    for each, results in zip(done, single, strict=True):
        assert each.results is not None
        assert each.results["energy"] == pytest.approx(results["energy"], abs=1e-5 * len(each.structure))
        assert np.abs(each.results["forces"] - results["forces"]).max() < 1e-3
        assert np.abs(each.results["stress"] - results["stress"]).max() < 1e-4


@pytest.mark.parametrize("name", ["chgnet", "mace"])
def test_batches(build: Build, make_model: Make, name: str, say: Say) -> None:
    """The numbers are those of single calls; how much faster they come is told, and promised nowhere."""
    model = f"mace-{make_model('mace', '0', 'released')}" if name == "mace" else name
    sizes = (1, 8, 32, 128, 512) if ON_GPU else (1, 8)
    images = cells(max(sizes))
    with RootstockCalculator(model, root=build(name), device=DEVICE, threads=1) as calc:
        same(calc.evaluate_many(images, WANTED), one_by_one(calc, images))
        for size in sizes:
            some, begun = images[:size], time.perf_counter()
            one_by_one(calc, some)
            loop, begun = time.perf_counter() - begun, time.perf_counter()
            calc.evaluate_many(some, WANTED)
            many = time.perf_counter() - begun
            say(
                f"{DEVICE}, {model.partition('-')[0]}, {size} structures, {sum(map(len, some))} atoms: one by one "
                f"{loop / size * 1e3:.2f} ms each, together {many / size * 1e3:.2f} ms, {loop / many:.1f} times faster"
            )
        info = calc.info()["batches"]
        say(f"{name}: {info}")
    assert info["hook"] and not info["refusals"]


def test_batches_with_little_memory(build: Build, site: Site, tmp_path: Path, say: Say) -> None:
    """Parts get smaller until they fit; no structure that fits alone fails, and the worker goes on."""
    root = build("chgnet")
    file = tmp_path / "short.py"
    file.write_text(packaged_source("chgnet").path.read_text() + SHORT)
    site("install", "--cluster", "local", "--root", root, "--env", file, *torch_settings())
    images = cells(512 if ON_GPU else 48)
    with RootstockCalculator("short", root=root, device=DEVICE, threads=1) as calc:
        single, worker = one_by_one(calc, images[:8]), calc.info()["pid"]
        if not ON_GPU:
            pages = int(Path(f"/proc/{worker}/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + ROOM_ON_CPU
            resource.prlimit(worker, resource.RLIMIT_AS, (limit, limit))
        done = calc.evaluate_many(images, WANTED)
        say(f"{DEVICE}: {calc.info()['batches']}")
        assert [each.error for each in done] == [None] * len(images)
        same(done[:8], single)
        if ON_GPU:
            assert calc.info()["pid"] == worker
            (large,) = calc.evaluate_many([rock_salt().repeat(16)], WANTED)
            assert large.failure is FailureClass.RESOURCE
            same(calc.evaluate_many(images[:8], WANTED), single)
