"""Which GPUs a job may use, by their names in its own variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from rootstock.config.cluster_settings import Cluster
from rootstock.errors import ConfigurationError, DeviceError

# For each kind of GPU: the variables that choose among them, the one that counts first. All are removed from a driver's
# environment but one. NVIDIA_VISIBLE_DEVICES is none of them: it speaks to who makes a container, and to nobody inside.
# With AMD's, HIP counts within those that ROCR leaves: both set leave other ones, or none at all.
_VARIABLES = {
    "cuda": ("CUDA_VISIBLE_DEVICES",),
    "rocm": ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    "xpu": ("ZE_AFFINITY_MASK",),
}
_OTHERS = ("GPU_DEVICE_ORDINAL",)  # of OpenCL
_ALL = tuple(dict.fromkeys(name for names in _VARIABLES.values() for name in names)) + _OTHERS

# A number, a name (GPU-..., MIG-..., abbreviated or not), or one of Intel's tiles.
_NAME = {
    "cuda": re.compile(r"\d+|(GPU|MIG)-[0-9a-zA-Z/-]+", re.ASCII),
    "rocm": re.compile(r"\d+|GPU-[0-9a-zA-Z-]+", re.ASCII),
    "xpu": re.compile(r"\d+(\.\d+)*", re.ASCII),
}


def gpu_kind(device: str, accelerator: str | None, variables: Mapping[str, str]) -> str:
    """Return whose GPUs a device is of: ``cuda``, ``rocm`` or ``xpu``.

    Parameters
    ----------
    device : str
        ``cuda``, which is also what torch calls AMD's, or ``xpu``.
    accelerator : str or None
        What the build computes on, or the cluster has; None, or ``cpu``: the job's variables decide.
    variables : Mapping[str, str]
        The job's. Slurm may set those of all makers: only the lack of NVIDIA's tells anything.
    """
    if device == "xpu" or accelerator in ("cuda", "rocm"):
        return "xpu" if device == "xpu" else str(accelerator)
    amd = "CUDA_VISIBLE_DEVICES" not in variables and any(name in variables for name in _VARIABLES["rocm"])
    return "rocm" if amd else "cuda"


def gpu_names(
    kind: str, cluster: Cluster | None, count: Callable[[], int], variables: Mapping[str, str]
) -> tuple[str, list[str]]:
    """Return the variable that chooses among a job's GPUs, and their names as it has them, or would have.

    Parameters
    ----------
    kind : str
        ``cuda``, ``rocm`` or ``xpu``.
    cluster : Cluster or None
        Its settings say how many GPUs a node has, where jobs get whole nodes.
    count : callable
        Returns how many the model's own library sees; it is called only if nothing else tells.
    variables : Mapping[str, str]
        The job's.

    Raises
    ------
    ConfigurationError
        If one is named twice, or another variable chooses in a way that cannot be divided.
    DeviceError
        If there is none.
    """
    _refuse_selector(kind, variables)
    for variable in _VARIABLES[kind]:
        if variable in variables:
            return variable, _listed(kind, variable, variables[variable])
    number = _given_whole(cluster) or count()
    variable = _VARIABLES[kind][0]
    if number < 1:
        raise DeviceError(
            f"No GPU was found: {_enumerated(_VARIABLES[kind], 'and')} {'is' if len(_VARIABLES[kind]) == 1 else 'are'} "
            "not set, and the model's own library sees none.",
            f"Ask the batch system for some (Slurm: --gres=gpu:4), or name them: export {variable}=0,1. Or compute on "
            "processors: --device cpu (in Python: device='cpu').",
        )
    return variable, [str(index) for index in range(number)]


def only(variable: str, name: str) -> dict[str, str | None]:
    """Return what a driver's environment says so that it sees one GPU: a variable to set, and those to remove.

    Parameters
    ----------
    variable, name : str
    """
    return {**dict.fromkeys(_ALL), variable: name}


def _given_whole(cluster: Cluster | None) -> int:
    """Return how many GPUs a job has for certain; 0 if that is not known."""
    return cluster.gpus_per_node if cluster and cluster.whole_nodes else 0


def _listed(kind: str, variable: str, text: str) -> list[str]:
    """Return the names in a variable. It ends at the first entry that is none, such as ``-1`` or ``NoDevFiles``.

    So CUDA reads it (CUDA C++ Programming Guide, environment variables), and so do the others.
    """
    names: list[str] = []
    for entry in text.split(","):
        if not _NAME[kind].fullmatch(name := entry.strip()):
            break
        names.append(name)
    if not names:
        raise DeviceError(
            f"No GPU is visible: {variable}={text!r} names none.",
            "Ask the batch system for some (Slurm: --gres=gpu:4), or compute on processors: "
            "--device cpu (in Python: device='cpu').",
        )
    same = [str(int(name)) if name.isdecimal() else name.lower() for name in names]
    if twice := next((name for index, name in enumerate(names) if same[index] in same[:index]), None):
        unique = ",".join(name for index, name in enumerate(names) if same[index] not in same[:index])
        raise ConfigurationError(
            f"{variable}={text!r} names GPU {twice} twice.",
            f"Name each once: export {variable}={unique}. Several workers on each: --workers-per-gpu 2",
        )
    return names


def _refuse_selector(kind: str, variables: Mapping[str, str]) -> None:
    """Refuse a selector of SYCL's that counts: it does so among the GPUs that ZE_AFFINITY_MASK leaves, which is one."""
    selector = variables.get("ONEAPI_DEVICE_SELECTOR", "")
    if kind == "xpu" and re.search(r"\d", selector.replace("level_zero_v2", "")):
        raise ConfigurationError(
            f"ONEAPI_DEVICE_SELECTOR={selector!r} chooses GPUs by number, so each worker of several would see another "
            "one, or none.",
            "Choose by the other variable: unset ONEAPI_DEVICE_SELECTOR; export ZE_AFFINITY_MASK=0,1",
        )


def _enumerated(words: tuple[str, ...], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
