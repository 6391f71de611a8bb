"""Whether the device that was asked for is there, before a library of gigabytes is imported to find out."""

from __future__ import annotations

import errno
import importlib.util
import itertools
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rootstock.errors import DeviceError

# Environments without any of these compute on the processor whatever the device is called: they are not refused.
_LIBRARIES = ("torch", "jax", "tensorflow")

# Of what these compute on nobody can be asked that would not change it.
_TELL_NOTHING = ("tensorflow", "cupy", "warp", "openmm", "pycuda", "paddle")

# For each kind of GPU: the variables that choose among them, the devices that the kernel has, and what else may stand
# for them (WSL, NVIDIA's Tegra). Intel's and AMD's share /dev/dri with any graphics card, so only its lack says much.
_VARIABLES = {
    "cuda": ("CUDA_VISIBLE_DEVICES",),
    "rocm": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    "xpu": ("ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR"),
}
_DEVICES = {"cuda": "nvidia[0-9]*", "rocm": "kfd", "xpu": "dri/renderD*"}
_SUBSTITUTES = {"cuda": ("dxg", "nvhost-gpu", "nvgpu", "nvmap"), "rocm": ("dxg",), "xpu": ("dxg",)}


def check_device(
    device: str,
    variables: Mapping[str, str] = os.environ,
    dev: Path = Path("/dev"),
    proc: Path = Path("/proc"),
    installed: Mapping[str, Path] | None = None,
) -> None:
    """Refuse a GPU that is certainly not there. In doubt, the model's own library decides.

    Parameters
    ----------
    device : str
        As torch names it: ``cuda``, ``cuda:1``, ``xpu``. Others are not looked at.
    variables, dev, proc
        Where to look.
    installed : Mapping[str, Path], optional
        GPU libraries of this environment: name -> folder. By default those that could be imported.

    Raises
    ------
    DeviceError
        If the environment computes with a GPU library, and that is built for processors only, the variables hide every
        GPU or the one of that number, or the kernel has none.
    """
    kind = device.lower().partition(":")[0]
    if kind not in ("cuda", "xpu"):
        return
    installed = _installed() if installed is None else installed
    if not installed:
        return
    kinds = built_for(installed.get("torch"))
    if kinds is not None and kind not in kinds:
        raise DeviceError(
            f"device={device!r} was asked for, but this environment's torch is built for "
            f"{' and '.join(sorted(kinds)) or 'processors only'}.",
            "Use device='cpu', or ask the site's admin for a build with the torch of this machine's GPUs.",
        )
    kind = "rocm" if kind == "cuda" and kinds is not None and "rocm" in kinds else kind
    if error := missing_gpu(device, kind, variables, dev, proc):
        raise error


def require_device(device: str) -> None:
    """Refuse a GPU of which there is none on this machine, whatever is to use it.

    Raises
    ------
    DeviceError
    """
    kind = device.lower().partition(":")[0]
    # torch calls AMD's GPUs as it calls NVIDIA's.
    errors = [missing_gpu(device, name) for name in {"cuda": ("rocm", "cuda"), "xpu": ("xpu",)}.get(kind, ())]
    if errors and errors[-1] is not None and all(errors):
        raise errors[-1]


def missing_gpu(
    device: str,
    kind: str,
    variables: Mapping[str, str] = os.environ,
    dev: Path = Path("/dev"),
    proc: Path = Path("/proc"),
) -> DeviceError | None:
    """Return the error for a GPU that is certainly not there; None if it may be.

    Parameters
    ----------
    device : str
        As torch names it.
    kind : str
        ``cuda``, ``rocm`` or ``xpu``.
    variables, dev, proc
        Where to look.
    """
    settings = [f"{name}={variables[name]!r}" for name in _VARIABLES[kind] if name in variables]
    visible = _visible(variables) if kind == "cuda" else None
    number = device.partition(":")[2]
    if visible and number.isdecimal() and int(number) >= visible:
        return DeviceError(
            f"device={device!r} was asked for, but {settings[0]} leaves {visible} visible. They are numbered from 0 "
            "among those, whatever their own numbers are.",
            f"Use {' or '.join(f'cuda:{i}' for i in range(visible))}; 'cuda' is the first.",
        )
    reason = "every GPU is hidden" if visible == 0 else _no_device(kind, dev)
    if not reason:
        return None
    jobs = [f"{name}={variables[name]}" for name in ("SLURM_JOB_ID", "PBS_JOBID") if name in variables]
    where = ", ".join([f"node {platform.node()}", *jobs, *(settings or [f"{_VARIABLES[kind][0]} not set"])])
    return DeviceError(
        f"device={device!r} was asked for, but no GPU is visible: {reason} ({where}{_driver(kind, proc)}).",
        "Ask the batch system for one (Slurm: --gres=gpu:1), or compute on the processor: device='cpu'.",
    )


def _visible(variables: Mapping[str, str]) -> int | None:
    """Count the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves visible; None if it is not set.

    It lists numbers or names (``GPU-...``, ``MIG-...``), and ends at the first entry that is neither, such as ``-1``
    or Slurm's ``NoDevFiles`` (CUDA C++ Programming Guide, environment variables).
    """
    if "CUDA_VISIBLE_DEVICES" not in variables:
        return None
    entries = [entry.strip() for entry in variables["CUDA_VISIBLE_DEVICES"].split(",")]
    return len(list(itertools.takewhile(re.compile(r"\d|GPU-|MIG-").match, entries)))


def _no_device(kind: str, dev: Path) -> str:
    """Say why this process can open no GPU; empty if it perhaps can."""
    if sys.platform != "linux" or any((dev / name).exists() for name in _SUBSTITUTES[kind]):
        return ""
    devices = sorted(dev.glob(_DEVICES[kind]))
    refused = [path for path in devices if not _opens(path)]
    if not devices:
        return f"there is no {dev / _DEVICES[kind]}"
    return f"{refused[0]} may not be opened" if refused == devices else ""


def _opens(device: Path) -> bool:
    """Tell whether a device may be opened: a batch system's control groups allow a job its own GPUs only."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return error.errno not in (errno.EPERM, errno.EACCES)
    return True


def _driver(kind: str, proc: Path) -> str:
    if kind != "cuda":
        return ""
    try:
        lines = (proc / "driver" / "nvidia" / "version").read_text().splitlines()
    except OSError:
        return ", no NVIDIA driver"
    return f", driver: {lines[0].partition(':')[2].strip()}" if lines else ""


def _installed() -> dict[str, Path]:
    specs = {name: importlib.util.find_spec(name) for name in _LIBRARIES}
    return {name: Path(spec.origin).parent for name, spec in specs.items() if spec is not None and spec.origin}


def built_for(torch: Path | None) -> set[str] | None:
    """Return the kinds of GPU that torch is built for, as its version.py says; None where that is not known."""
    try:
        text = (torch / "version.py").read_text(encoding="utf-8") if torch is not None else ""
    except OSError:
        return None
    flags = dict(re.findall(r"^(cuda|hip|xpu)\b[^=\n]*=\s*(.+?)\s*$", text, re.MULTILINE))
    if "cuda" not in flags:
        return None
    names = {"cuda": {"cuda"}, "hip": {"cuda", "rocm"}, "xpu": {"xpu"}}  # torch for ROCm says "cuda" too
    return set().union(*(names[key] for key, value in flags.items() if value not in ("None", "''", '""')))


def lost_gpu(device: str) -> bool:
    """Tell whether the GPU refuses whatever this process asks of it from now on.

    So does CUDA after a failed assertion, an illegal access or a time-out on the device: its runtime API says of such
    an error that the process "must be terminated and relaunched". Too little memory is no such error.
    """
    kind = device.lower().partition(":")[0]
    library: Any = getattr(sys.modules.get("torch"), kind if kind in ("cuda", "xpu") else "", None)
    if not getattr(library, "is_initialized", bool)():  # also if no library was imported, or not to its end
        return False
    try:
        library.synchronize(device)
    except Exception:
        return True
    return False


def computing_device(device: str) -> str | None:
    """Return what the model that was loaded computes on; None where only its first result tells.

    A model may ignore its device, and one of numpy alone computes on the processor whatever it is called. Where a
    library tells nothing, it is what was asked for.

    Parameters
    ----------
    device : str
        What was asked for.
    """
    try:
        return _computing_device(device)
    except Exception:  # an answer that nobody needs must not end a worker
        return device


def _computing_device(device: str) -> str | None:
    kind, torch = device.lower().partition(":")[0], sys.modules.get("torch")
    if kind == "cpu":
        return "cpu"
    if any(name in sys.modules for name in _TELL_NOTHING):
        return device
    bridge = sys.modules.get("jax._src.xla_bridge")
    used = bridge is not None and bridge.backends_are_initialized()  # the next question would do that
    if used and sys.modules["jax"].default_backend() != "cpu":
        return device
    library: Any = getattr(torch, kind, None)
    if torch is not None and not hasattr(library, "max_memory_allocated"):
        return device
    if torch is not None and library.is_initialized() and library.max_memory_allocated(device):
        return device
    return "cpu" if torch is bridge is None else None
