"""A GPU that was asked for and cannot be there is refused at once, and nothing else is."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import zipfile
from pathlib import Path

import pytest
from ase.build import bulk

from rootstock import RootstockCalculator
from rootstock.errors import ConfigurationError, DeviceError, ModelError
from rootstock.simulations.provenance import note_calculator
from rootstock.worker.device import check_device
from tests.support.commands import ordinary, run
from tests.support.environment_files import header
from tests.support.needs import need

VERSIONS = {
    "cuda": "cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\nxpu: Optional[str] = None\n",
    "rocm": "cuda: Optional[str] = None\nhip: Optional[str] = '6.4.43483'\nxpu: Optional[str] = None\n",
    "xpu": "cuda = None\nhip = None\nxpu = '20250302'\n",
    "cpu": "cuda: Optional[str] = None\nhip: Optional[str] = None\n",
    "unknown": "nothing that we know\n",
}


def node(folder: Path, *devices: str, torch: str = "cuda", driver: str = "", **variables: str):
    """Return the arguments that describe a node: its devices, torch, driver, and the job's variables."""
    for name in ("dev", "proc/driver/nvidia", "torch"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in devices:
        path = folder / "dev" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    if driver:
        (folder / "proc/driver/nvidia/version").write_text(driver)
    (folder / "torch/version.py").write_text(f"__version__ = '2.9.0'\ndebug = False\n{VERSIONS[torch]}")
    return variables, folder / "dev", folder / "proc", {"torch": folder / "torch"}


@pytest.mark.parametrize("name", ["", "-1", "NoDevFiles", "none", " ", "-1,0"])
def test_a_variable_that_hides_every_gpu(tmp_path: Path, name: str) -> None:
    with pytest.raises(DeviceError, match="no GPU is visible: every GPU is hidden") as caught:
        check_device("cuda", *node(tmp_path, "nvidia0", CUDA_VISIBLE_DEVICES=name, SLURM_JOB_ID="77"))
    assert f"CUDA_VISIBLE_DEVICES={name!r}" in caught.value.message
    assert "SLURM_JOB_ID=77" in caught.value.message
    assert "--gres=gpu:1" in caught.value.hint and "device='cpu'" in caught.value.hint


@pytest.mark.parametrize(
    "names",
    ["0", "3", "0,1", "GPU-8e14b6d2-3c7e-4d6b-9d2e-5a1f7a3f8f3d", "MIG-4b5a1f7a-0000-5d6b-9d2e-5a1f7a3f8f3d",
     "MIG-GPU-8e14b6d2-3c7e-4d6b-9d2e-5a1f7a3f8f3d/1/0", None],
)  # fmt: skip
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "CUDA"])
def test_gpus_by_number_and_by_name(tmp_path: Path, names: str | None, device: str) -> None:
    variables = {} if names is None else {"CUDA_VISIBLE_DEVICES": names}
    check_device(device, *node(tmp_path, "nvidia0", "nvidiactl", **variables))


def test_a_number_beyond_those_that_are_visible(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="'cuda:1' was asked for, but CUDA_VISIBLE_DEVICES='3' leaves 1 visible"):
        check_device("cuda:1", *node(tmp_path, "nvidia3", CUDA_VISIBLE_DEVICES="3"))
    check_device("cuda:1", *node(tmp_path, "nvidia3", CUDA_VISIBLE_DEVICES="GPU-1,GPU-2"))
    check_device("cuda:1", *node(tmp_path, "nvidia3"))  # no variable: the driver knows how many there are


def test_a_node_without_gpus(tmp_path: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"there is no .*/nvidia\[0-9\]\* \(node \S+, CUDA_VISIBLE_DEVICES not set, no"
    ):
        check_device("cuda", *node(tmp_path, "nvidiactl"))
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\nGCC version: 12\n"
    with pytest.raises(DeviceError, match=r"driver: NVIDIA UNIX x86_64 Kernel Module  570.86.15"):
        check_device("cuda", *node(tmp_path, driver=version))


REFUSED = """
import sys
from pathlib import Path
from rootstock.errors import DeviceError
from rootstock.worker.device import check_device
folder = Path(sys.argv[1])
try:
    check_device("cuda", {}, folder / "dev", folder / "proc", {"torch": folder / "torch"})
except DeviceError as error:
    print(error)
"""


def test_devices_that_the_job_may_not_open(tmp_path: Path) -> None:
    """As Slurm's control groups close them to a job that did not ask for one."""
    node(tmp_path, "nvidia0")
    (tmp_path / "dev/nvidia0").chmod(0)
    done = run(*ordinary(), sys.executable, "-c", REFUSED, tmp_path, check=True)
    assert "nvidia0 may not be opened" in done.stdout


@pytest.mark.parametrize("substitute", ["dxg", "nvhost-gpu", "nvmap"])
def test_what_stands_for_nvidias_devices(tmp_path: Path, substitute: str) -> None:
    check_device("cuda", *node(tmp_path, substitute))


def test_other_makers(tmp_path: Path) -> None:
    check_device("cuda", *node(tmp_path / "a", "kfd", torch="rocm", HIP_VISIBLE_DEVICES="0"))
    with pytest.raises(DeviceError, match="there is no .*/kfd .*HIP_VISIBLE_DEVICES not set"):
        check_device("cuda", *node(tmp_path / "b", "nvidia0", torch="rocm"))
    check_device("xpu", *node(tmp_path / "c", "dri/renderD128", torch="xpu"))
    with pytest.raises(DeviceError, match="there is no .*/dri/renderD"):
        check_device("xpu:1", *node(tmp_path / "d", torch="xpu"))


@pytest.mark.parametrize(("device", "torch"), [("cuda", "cpu"), ("cuda:0", "cpu"), ("xpu", "cuda"), ("cuda", "xpu")])
def test_a_torch_that_was_built_for_something_else(tmp_path: Path, device: str, torch: str) -> None:
    built = "processors only" if torch == "cpu" else torch
    with pytest.raises(DeviceError, match=f"this environment's torch is built for {built}"):
        check_device(device, *node(tmp_path, "nvidia0", torch=torch))


def test_what_is_not_looked_at(tmp_path: Path) -> None:
    nothing = node(tmp_path, torch="unknown", CUDA_VISIBLE_DEVICES="")
    for device in ("cpu", "mps", "meta", "npu:0", "tpu"):
        check_device(device, *nothing)
    check_device("cuda", *nothing[:3], {})  # an environment without a library for GPUs
    check_device("cuda", *node(tmp_path, "nvidia0", torch="unknown"))


def torch_wheel(folder: Path, version: str) -> None:
    """Write a torch that cannot be imported, to see that nobody tries."""
    files = {"torch/__init__.py": "raise SystemExit('torch was imported')\n", "torch/version.py": VERSIONS[version]}
    info = "torch-2.9.0.dist-info"
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: torch\nVersion: 2.9.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    hashes = {
        name: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        for name, text in files.items()
    }
    files[f"{info}/RECORD"] = "".join(f"{n},sha256={h},{len(files[n].encode())}\n" for n, h in hashes.items())
    with zipfile.ZipFile(folder / "torch-2.9.0-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


@pytest.mark.parametrize(("torch", "message"), [("cuda", "no GPU is visible: there is no"), ("cpu", "processors only")])
def test_a_worker_is_refused_before_torch_is_imported(personal: Path, tmp_path: Path, torch: str, message: str) -> None:
    if torch == "cuda":  # the other one is refused wherever it is
        need(not list(Path("/dev").glob("nvidia[0-9]*")), "a machine without a GPU")
    torch_wheel(tmp_path, torch)
    path = tmp_path / f"needs_{torch}.py"
    wheel = tmp_path / "torch-2.9.0-py3-none-any.whl"
    path.write_text(
        header("[tool.uv.sources]", f'torch = {{ path = "{wheel}" }}', dependencies=("ase>=3.23", "torch"))
        + "import torch\n\ndef setup(model, device):\n    pass\n"
    )
    calc = RootstockCalculator(environment=path, model="", root=personal)
    with pytest.raises(DeviceError, match=message) as caught:
        calc.start()
    assert "Traceback" not in str(caught.value)
    with pytest.raises(RuntimeError, match=message):
        calc.start()
    calc.set(device="cpu")
    with pytest.raises(RuntimeError, match="torch was imported"):
        calc.start()


def test_a_model_that_needs_no_gpu_is_not_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default device is 'cuda', and these ignore it; the names of GPUs reach the worker as they are."""
    names = "GPU-8e14b6d2-3c7e-4d6b-9d2e-5a1f7a3f8f3d,MIG-4b5a1f7a-0000-5d6b-9d2e-5a1f7a3f8f3d"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    with RootstockCalculator("emt", root=root) as calc:
        variables = Path(f"/proc/{calc.info()['pid']}/environ").read_text()
        assert re.search(rf"(^|\0)CUDA_VISIBLE_DEVICES={names}\0", variables)
        assert calc.info()["device"] == "cpu"  # what computes, whatever was asked for
        assert calc.info()["gpu"] is None


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "cpu", "mps", "xpu:1", "something else"])
def test_the_device_reaches_setup_as_it_is(make, device: str) -> None:
    calc = make(setup="raise ValueError(f'device is {device!r}')", device=device)
    with pytest.raises(RuntimeError, match=f"device is {device!r}"):
        calc.start()


@pytest.mark.parametrize(("device", "lost"), [("cuda", True), ("cuda:1", True), ("cpu", False)])
def test_a_lost_gpu_takes_the_worker_along(make, tmp_path: Path, device: str, lost: bool) -> None:
    """After some errors CUDA refuses all else: until the process ends, every computation would fail."""
    broken = tmp_path / "broken"
    setup = f"""
        import types

        def synchronize(which):
            assert which == {device!r}
            if os.path.exists({str(broken)!r}):
                raise RuntimeError("CUDA error: device-side assert triggered")

        cuda = types.SimpleNamespace(is_initialized=lambda: True, synchronize=synchronize)
        sys.modules["torch"] = types.SimpleNamespace(cuda=cuda)
        return Calculator()
        """
    body = f"""
        if os.path.exists({str(broken)!r}):
            print("Assertion `index < size` failed.", flush=True)
            raise ArithmeticError("what the library says of it")
        """
    calc, atoms = make(body, setup, device=device), bulk("Cu")
    calc.calculate(atoms, ["energy"])
    worker = calc.info()["pid"]
    broken.touch()
    with pytest.raises(ModelError, match="what the library says of it") as caught:
        calc.calculate(atoms, ["energy"])
    assert ("The next call starts a new one" in caught.value.hint) == lost
    assert ("Assertion `index < size` failed." in caught.value.tail) == lost
    broken.unlink()
    calc.calculate(atoms, ["energy"])
    assert (calc.info()["pid"] != worker) == lost


@pytest.mark.parametrize(("moves", "computes_on"), [("at the start", "cuda:1"), ("later", "cuda:1"), ("never", "cpu")])
def test_what_has_computed_is_told(make, moves: str, computes_on: str) -> None:
    """A model may move to its device when it first computes, or leave it out of account."""
    setup = f"""
        import types

        torch = sys.modules["torch"] = types.SimpleNamespace(used=1000 * ({moves!r} == "at the start"))
        torch.cuda = types.SimpleNamespace(
            is_initialized=lambda: True, get_device_name=lambda which: "a GPU",
            max_memory_allocated=lambda which: torch.used if which == "cuda:1" else 0,
        )
        return Calculator()
        """
    calc = make(f"sys.modules['torch'].used += 1000 * ({moves!r} == 'later')", setup, device="cuda:1")
    atoms = bulk("Cu")
    calc.calculate(atoms, ["energy"])
    assert calc.info()["device"] == calc.device == computes_on
    assert calc.parameters["device"] == "cuda:1"
    note_calculator(atoms, calc)
    assert atoms.info["rootstock_device"] == computes_on


@pytest.mark.parametrize(("device", "meant"), [("cdua:1", "cuda"), ("cup", "cpu"), ("gup", "gpu")])
def test_a_misspelt_device_is_refused(root: Path, device: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=f"device='{device}' is unknown. Did you mean '{meant}'?"):
        RootstockCalculator("emt", root=root, device=device).start()


def test_a_library_that_does_not_tell_ends_no_worker(make) -> None:
    setup = """
        import types

        def refuse(which):
            raise RuntimeError("Expected one of cpu, cuda")

        cuda = types.SimpleNamespace(is_initialized=lambda: True, max_memory_allocated=refuse)
        sys.modules["torch"] = types.SimpleNamespace(cuda=cuda)
        return Calculator()
        """
    calc = make(setup=setup, device="CUDA")
    for _ in range(2):
        calc.calculate(bulk("Cu"), ["energy"])
    assert calc.info()["device"] == "CUDA"


@pytest.mark.parametrize(("backend", "computes_on"), [("gpu", "cuda"), ("cpu", "cpu"), (None, "cpu")])
def test_what_jax_computes_on(make, backend: str | None, computes_on: str) -> None:
    setup = f"""
        import types

        bridge = types.SimpleNamespace(backends_are_initialized=lambda: {backend!r} is not None)
        sys.modules["jax._src.xla_bridge"] = bridge
        sys.modules["jax"] = types.SimpleNamespace(default_backend=lambda: {backend!r})
        return Calculator()
        """
    calc = make(setup=setup, device="cuda")
    calc.calculate(bulk("Cu"), ["energy"])
    assert calc.info()["device"] == computes_on
