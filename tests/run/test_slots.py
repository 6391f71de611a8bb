"""Which GPUs, or groups of processors, the drivers of a node get."""

from __future__ import annotations

import os
import pickle
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rootstock import RootstockCalculator
from rootstock.client.count_devices import COUNTER, count_devices
from rootstock.client.process import Launch
from rootstock.client.threads import processors
from rootstock.config.cluster_settings import Cluster
from rootstock.config.clusters import cluster_from, packaged_scopes
from rootstock.errors import ConfigurationError, DeviceError
from rootstock.simulations.pool.slots import Slot, check_devices, divide_processors, find_slots
from tests.run.conftest import Make, start_of
from tests.support.commands import run

GPU = "GPU-8e14b6d2-3c7e-4d6b-9d2e-5a1f7a3f8f3d"
MIG = "MIG-4b5a1f7a-0000-5d6b-9d2e-5a1f7a3f8f3d"
OLD_MIG = f"MIG-{GPU}/1/0"
CHOOSE = {
    "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK",
}  # fmt: skip
CLUSTERS = {kind: Cluster("some", {}, accelerator=kind) for kind in ("cuda", "rocm", "xpu", "cpu")}


def nobody() -> int:
    raise AssertionError("GPUs were counted")


def slots(
    variables: dict[str, str], workers: int | None = None, device: str = "cuda", count: Any = nobody, **arguments: Any
) -> list[Slot]:
    given = {"threads": None, "cluster": None} | arguments
    return find_slots(workers, device=device, count=count, variables=variables, **given)


def chosen(found: list[Slot]) -> list[tuple[str, str]]:
    """Return the variable that each slot sets, and to what; see that all others are removed."""
    for slot in found:
        assert set(slot.variables) == CHOOSE
        assert slot.processors == ()
    return [(name, value) for slot in found for name, value in slot.variables.items() if value is not None]


CUDA, HIP, ROCR, ZE = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0", ["0"]),
        ("2,0,3", ["2", "0", "3"]),
        (" 1 , 2", ["1", "2"]),
        (f"{GPU},{MIG}", [GPU, MIG]),
        (f"{OLD_MIG},MIG-{GPU}/2/0", [OLD_MIG, f"MIG-{GPU}/2/0"]),
        ("GPU-8e14,3", ["GPU-8e14", "3"]),
        ("0,2,-1,1", ["0", "2"]),
        ("5,NoDevFiles,6", ["5"]),
        ("1,,2", ["1"]),
        ("1,\u0663", ["1"]),  # a digit, but not of CUDA's
        ("0,1;rm", ["0"]),
        ("00,1", ["00", "1"]),
    ],
)
def test_names_of_nvidias_gpus(text: str, names: list[str]) -> None:
    found = slots({CUDA: text})
    assert chosen(found) == [(CUDA, name) for name in names]
    assert [slot.name for slot in found] == [f"GPU {name}" if name[0].isdecimal() else name for name in names]
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize(
    ("variables", "accelerator", "expected"),
    [
        ({ROCR: "0,1"}, "rocm", [(ROCR, "0"), (ROCR, "1")]),
        ({ROCR: "4,GPU-dead", HIP: "0,1", CUDA: "0,1"}, "rocm", [(ROCR, "4"), (ROCR, "GPU-dead")]),
        ({HIP: "2", CUDA: "3"}, "rocm", [(HIP, "2")]),  # HIP counts by itself, and its number is kept
        ({CUDA: "2,3"}, "rocm", [(CUDA, "2"), (CUDA, "3")]),
        ({ROCR: "0", ZE: "0"}, None, [(ROCR, "0")]),
        ({HIP: "1"}, "cpu", [(HIP, "1")]),
        ({ROCR: "4,5", CUDA: "0,1", "GPU_DEVICE_ORDINAL": "0"}, None, [(CUDA, "0"), (CUDA, "1")]),
        ({ROCR: "4,5", CUDA: "0"}, "cuda", [(CUDA, "0")]),  # Slurm may set those of every maker
    ],
)  # fmt: skip
def test_amds_gpus_by_one_variable(
    variables: dict[str, str], accelerator: str | None, expected: list[tuple[str, str]]
) -> None:
    assert chosen(slots(variables, cluster=CLUSTERS.get(accelerator or ""))) == expected
    if accelerator in ("cuda", "rocm"):  # what the build computes on outranks the cluster
        assert chosen(slots(variables, accelerator=accelerator, cluster=CLUSTERS["cpu"])) == expected


def test_intels_gpus_and_tiles() -> None:
    assert chosen(slots({ZE: "0.1, 1,2.0"}, device="xpu")) == [(ZE, "0.1"), (ZE, "1"), (ZE, "2.0")]
    kept = {ZE: "0,1", "ONEAPI_DEVICE_SELECTOR": "level_zero:gpu"}
    assert len(slots(kept, device="xpu")) == 2
    with pytest.raises(ConfigurationError, match="ONEAPI_DEVICE_SELECTOR='level_zero:1,2' chooses GPUs by number") as e:
        slots({"ONEAPI_DEVICE_SELECTOR": "level_zero:1,2"}, device="xpu")
    assert "export ZE_AFFINITY_MASK=" in e.value.hint


@pytest.mark.parametrize("text", ["", " ", "-1", "NoDevFiles", "none", "0x1", ",0", "GPU-", "\n"])
def test_a_variable_that_names_no_gpu(text: str) -> None:
    with pytest.raises(DeviceError, match="No GPU is visible: CUDA_VISIBLE_DEVICES=") as caught:
        slots({CUDA: text})
    assert repr(text) in caught.value.message and "device='cpu'" in caught.value.hint


@pytest.mark.parametrize(("text", "right"), [("0,1,0", "0,1"), ("1,01,2", "1,2"), (f"{GPU},{GPU.upper()}", GPU)])
def test_a_gpu_that_is_named_twice(text: str, right: str) -> None:
    with pytest.raises(ConfigurationError, match="twice") as caught:
        slots({CUDA: text})
    assert f"export CUDA_VISIBLE_DEVICES={right}." in caught.value.hint


def test_gpus_that_are_counted() -> None:
    assert chosen(slots({}, count=lambda: 3)) == [(CUDA, "0"), (CUDA, "1"), (CUDA, "2")]
    assert chosen(slots({}, count=lambda: 1, cluster=CLUSTERS["rocm"])) == [(ROCR, "0")]
    assert chosen(slots({CUDA: "7"}, device="xpu", count=lambda: 2)) == [(ZE, "0"), (ZE, "1")]
    with pytest.raises(DeviceError, match="No GPU was found: CUDA_VISIBLE_DEVICES is not set, and") as caught:
        slots({}, count=lambda: 0)
    assert "export CUDA_VISIBLE_DEVICES=0,1" in caught.value.hint
    with pytest.raises(DeviceError, match="ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES are not"):
        slots({}, count=lambda: 0, accelerator="rocm")


def test_the_gpus_of_nodes_that_are_given_whole() -> None:
    """On such machines only the user's own scripts set a variable; where one is set, it holds."""
    polaris, frontier = (cluster_from(packaged_scopes(), name) for name in ("polaris", "frontier"))
    assert chosen(slots({}, cluster=polaris)) == [(CUDA, str(number)) for number in range(4)]
    assert chosen(slots({}, cluster=frontier)) == [(ROCR, str(number)) for number in range(8)]
    assert chosen(slots({CUDA: "2"}, cluster=polaris)) == [(CUDA, "2")]
    shared = replace(polaris, whole_nodes=False)
    assert chosen(slots({}, cluster=shared, count=lambda: 1)) == [(CUDA, "0")]


def test_several_workers_of_a_gpu_do_not_follow_each_other() -> None:
    names = {CUDA: "3,MIG-x"}
    assert [slot.name for slot in slots(names, workers_per_gpu=2)] == [
        "GPU 3, worker 1", "MIG-x, worker 1", "GPU 3, worker 2", "MIG-x, worker 2",
    ]  # fmt: skip
    assert [value for _, value in chosen(slots(names, 3, workers_per_gpu=2))] == ["3", "MIG-x", "3"]
    assert [value for _, value in chosen(slots(names, 1))] == ["3"]
    with pytest.raises(ConfigurationError, match=r"3 workers are too many for 2 GPUs \(CUDA_VISIBLE_DEVICES: 3, MIG-x"):
        slots(names, 3)
    with pytest.raises(ConfigurationError) as caught:
        slots(names, 5, workers_per_gpu=2)
    assert caught.value.hint == "Use --workers 4, or let them share: --workers-per-gpu 3"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ({"device": "cuda:1"}, "device='cuda:1' is one GPU", "Use device='cuda'. Which GPUs: the names"),
        ({"device": "mps"}, "device='mps'", "leave --workers away"),
        ({"device": "cpu", "workers_per_gpu": 2}, "--workers-per-gpu is for GPUs", "--workers 2"),
        ({"workers": 0}, "workers is 0", "--workers 1"),
        ({"workers": -3, "device": "cpu"}, "workers is -3", "--workers 1"),
        ({"workers": 10**9, "device": "cpu"}, "1000000000 workers are too many", "Use --workers auto"),
        ({"threads": 0}, "threads is 0", "--threads 1"),
        ({"workers_per_gpu": 0}, "workers-per-gpu is 0", "--workers-per-gpu 1"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        slots({CUDA: "0,1"}, **arguments)
    assert message in caught.value.message and hint in caught.value.hint


def test_threads_of_a_gpus_worker() -> None:
    found = slots({CUDA: "0,1", "SLURM_CPUS_PER_TASK": "1"})
    assert {slot.threads for slot in found} == {1}
    assert {slot.threads for slot in slots({CUDA: "0,1"}, threads=7)} == {7}
    assert {slot.threads for slot in slots({CUDA: "0,1", "OMP_NUM_THREADS": "5,2"})} == {5}


TEN = [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("bound", "workers", "threads", "expected"),
    [
        ([5], None, None, [("processors 5", (5,), 1)]),
        ([0, 1], None, None, [("processors 0", (0,), 1), ("processors 1", (1,), 1)]),
        ([0, 1, 2, 3], None, None, [("processors 0-1", (0, 1), 2), ("processors 2-3", (2, 3), 2)]),
        (TEN, None, None, [("processors 0-4", (0, 1, 2, 3, 4), 4), ("processors 5,8-11", (5, 8, 9, 10, 11), 4)]),
        (TEN, 4, None, [("processors 0-1", (0, 1), 2), ("processors 2-4", (2, 3, 4), 2),
                        ("processors 5,8", (5, 8), 2), ("processors 9-11", (9, 10, 11), 2)]),
        (TEN, None, 6, [("processors 0-5,8-11", tuple(TEN), 6)]),
        (TEN, 1, 20, [("worker 1", (), 20)]),  # as one worker without a pool: it is what was asked for
        ([0, 1], 3, None, [("worker 1", (), 1), ("worker 2", (), 1), ("worker 3", (), 1)]),
        ([], None, None, [("worker 1", (), 1), ("worker 2", (), 1)]),  # where no process is bound
    ],
)  # fmt: skip
def test_groups_of_processors(bound: list[int], workers: int | None, threads: int | None, expected: Any) -> None:
    found = divide_processors(bound, len(bound) or 2, workers, threads)
    assert [(slot.name, slot.processors, slot.threads) for slot in found] == expected
    assert all(slot.variables == {} for slot in found)


def test_processors_that_others_may_count_on() -> None:
    """Where the batch system gives fewer than the binding has, nobody knows which: nothing is bound."""
    found = divide_processors(TEN, 4, None, None)
    assert [(slot.processors, slot.threads) for slot in found] == [((), 2), ((), 2)]


def test_more_threads_than_processors() -> None:
    with pytest.raises(ConfigurationError, match="4 workers with threads=3 each need 12 processors, .* 10") as caught:
        divide_processors(TEN, 10, 4, 3, "threads=3")
    assert caught.value.hint == "Use --workers 3, or --threads 2"


def test_the_processors_of_this_process() -> None:
    available = processors({})
    many = slots({"OMP_NUM_THREADS": "1,4"}, device="cpu")
    assert [slot.threads for slot in many] == [1] * available
    if sys.platform == "linux" and len(os.sched_getaffinity(0)) == available:
        assert [slot.processors for slot in many] == [(number,) for number in sorted(os.sched_getaffinity(0))]
    assert [slot.threads for slot in slots({"SLURM_CPUS_PER_TASK": "1"}, device="cpu")] == [1]
    with pytest.raises(ConfigurationError, match=f"2 workers with OMP_NUM_THREADS={available + 1} each"):
        slots({"OMP_NUM_THREADS": str(available + 1)}, 2, "cpu")


def test_two_workers_on_one_gpu_are_refused() -> None:
    four = slots({CUDA: "0,1,2,3"})
    check_devices(four, ["GPU-a", "GPU-b", None, None], 1)
    with pytest.raises(DeviceError, match=r"GPU 0, GPU 1 and GPU 3 are the same GPU \(GPU-a\)") as caught:
        check_devices(four, ["GPU-a", "GPU-a", "GPU-b", "GPU-a"], 1)
    assert "--workers-per-gpu 3" in caught.value.hint
    shared = slots({CUDA: "0,1"}, workers_per_gpu=2)
    check_devices(shared, ["GPU-a", "GPU-b"] * 2, 2)
    with pytest.raises(DeviceError, match="GPU 0, worker 1, GPU 1, worker 1 and GPU 0, worker 2 are the same"):
        check_devices(shared, ["GPU-a", "GPU-a", "GPU-a", "GPU-b"], 2)
    parts = slots({CUDA: f"{MIG},{OLD_MIG}"})
    check_devices(parts, ["GPU-a", "GPU-a"], 1)  # as CUDA may say it: both are parts of one


# -- what a worker says of its GPU

TORCH = """
    import types

    def properties(which):
        assert which == {device!r}
        return {properties}

    library = types.SimpleNamespace(
        is_initialized=lambda: True, get_device_name=lambda which: "a GPU", get_device_properties=properties,
        max_memory_allocated=lambda which: 1,
    )
    torch = types.SimpleNamespace(version=types.SimpleNamespace(hip={hip!r}), **{{{kind!r}: library}})
    sys.modules["torch"] = torch
    return Calculator()
    """


@pytest.mark.parametrize(
    ("device", "uuid", "hip", "expected"),
    [
        ("cuda:1", GPU.removeprefix("GPU-"), None, GPU),
        ("cuda", "6162", "6.4", "6162"),
        ("xpu", "8680a4bd", None, "8680a4bd"),
        ("cuda", "00000000-0000-0000", None, None),
        ("cuda", None, None, None),  # an older torch
    ],
)
def test_a_worker_tells_its_gpus_uuid(
    make: Make, device: str, uuid: str | None, hip: str | None, expected: str | None
) -> None:
    properties = f"types.SimpleNamespace(uuid={uuid!r})" if uuid else "types.SimpleNamespace()"
    kind = device.partition(":")[0]
    calc = make(setup=TORCH.format(device=device, properties=properties, hip=hip, kind=kind), device=device)
    info = calc.info()
    assert info["gpu_uuid"] == expected
    assert info["gpu"] == ("a GPU" if kind == "cuda" else None)


def test_who_computes_on_processors_has_no_uuid(emt: RootstockCalculator) -> None:
    assert emt.info()["gpu_uuid"] is None


# -- counting, in an environment of its own

FAKE = """
import os, sys, time, types
print("noise", flush=True)
what = os.environ["WHAT"]
if what == "raises":
    raise ImportError("libcuda.so.1: wrong version")
if what == "crashes":
    os.abort()
if what == "hangs":
    print("begun", flush=True)
    time.sleep(600)
class cuda:
    def device_count():
        return 99  # by NVIDIA's management library
class xpu:
    def device_count():
        return 12
class _C:
    def _cuda_getDeviceCount():
        print("more noise", file=sys.stderr, flush=True)
        return int(what)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment that has a torch."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "torch").mkdir()
    (site / "torch/__init__.py").write_text(textwrap.dedent(FAKE))
    return folder / "bin/python"


@pytest.fixture
def launch(emt: RootstockCalculator, python: Path) -> Callable[[str], Launch]:
    def of(what: str) -> Launch:
        base, _ = start_of(emt)
        command = (str(python), *base.command[1:])
        return replace(base, command=command, variables={**base.variables, "WHAT": what})

    return of


def test_gpus_are_counted_by_the_models_own_library(
    launch: Callable[[str], Launch], emt: RootstockCalculator, make: Make
) -> None:
    assert count_devices(launch("4"), "cuda") == 4
    assert count_devices(launch("4"), "xpu") == 12
    assert count_devices(start_of(emt)[0], "cuda") == 0  # no library for GPUs
    assert count_devices(start_of(make())[0], "xpu") == 0  # uv finds the Python


@pytest.mark.parametrize(
    ("what", "message", "tail"),
    [
        ("raises", "its Python exited with code 1", "libcuda.so.1: wrong version"),
        ("crashes", "its Python was killed by SIGABRT", "noise"),
        ("no number", "its Python exited with code 1", "ValueError"),
    ],
)
def test_a_library_that_cannot_count(launch: Callable[[str], Launch], what: str, message: str, tail: str) -> None:
    with pytest.raises(DeviceError, match="environment 'emt'") as caught:
        count_devices(launch(what), "cuda")
    assert message in caught.value.message and tail in caught.value.tail
    assert "export CUDA_VISIBLE_DEVICES=0,1" in caught.value.hint
    assert Path(caught.value.log).exists()


def test_counting_ends_in_time(launch: Callable[[str], Launch]) -> None:
    with pytest.raises(DeviceError, match="was not done after 1 s"):
        count_devices(launch("hangs"), "cuda", seconds=1.0)


def test_counting_ends_by_itself_where_nobody_waits(python: Path, emt: RootstockCalculator) -> None:
    done = run(python, "-I", "-B", COUNTER, "cuda", "1", env={"WHAT": "hangs"})
    assert done.returncode < 0
