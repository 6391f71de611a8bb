"""The places on a node at which drivers compute: GPUs, or groups of processors."""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rootstock.client.threads import processors
from rootstock.config.cluster_settings import Cluster
from rootstock.errors import ConfigurationError, DeviceError
from rootstock.simulations.pool.slot_names import gpu_kind, gpu_names, only

_FEW_THREADS = 4  # of a worker on processors: several with few threads have been seen to be faster than one with all
_CROWD = 4  # workers for each processor: beyond that somebody has mistyped


@dataclass(frozen=True)
class Slot:
    """Where one driver computes, with its worker.

    Attributes
    ----------
    name : str
        For people, such as ``GPU 0``, ``MIG-...`` or ``processors 0-3``; no two slots have the same.
    variables : Mapping[str, str or None]
        What is set in the driver's environment before it starts; None: what is removed.
    processors : tuple of int
        Those to which the driver binds itself, and so its worker; empty: it leaves its binding alone.
    threads : int
        Of the worker's numerical libraries.
    """

    name: str
    variables: Mapping[str, str | None]
    processors: tuple[int, ...]
    threads: int


def find_slots(
    workers: int | None,
    *,
    device: str,
    threads: int | None,
    workers_per_gpu: int = 1,
    cluster: Cluster | None,
    count: Callable[[], int],
    accelerator: str | None = None,
    variables: Mapping[str, str] = os.environ,
) -> list[Slot]:
    """Divide what this job may use of this node.

    Parameters
    ----------
    workers : int or None
        How many. None: one for each GPU, or on processors as many as have some threads each.
    device : str
        ``cuda``, ``xpu`` or ``cpu``, as torch calls them.
    threads : int or None
        Of each worker. None: what ``OMP_NUM_THREADS`` says, or its share of the processors.
    workers_per_gpu : int
        How many share a GPU.
    cluster : Cluster or None
        The settings of the cluster.
    count : callable
        Returns how many GPUs the model's own library sees; called only if neither the job's variables nor the cluster
        tell.
    accelerator : str, optional
        What the model's build computes on, such as ``rocm``. By default what the cluster has.
    variables : Mapping[str, str]
        The job's.

    Returns
    -------
    list of Slot
        GPUs in the order of the job's variable; several workers of one GPU do not follow each other.

    Raises
    ------
    ConfigurationError
        If so many workers or threads have no room, or the device is none that can be divided.
    DeviceError
        If there is no GPU.
    """
    for name, number in (("workers", workers), ("threads", threads), ("workers-per-gpu", workers_per_gpu)):
        if number is not None and number < 1:
            raise ConfigurationError(f"{name} is {number}; it must be at least 1.", f"For example: --{name} 1")
    kind = shared_kind(device)
    threads, said = (threads, f"threads={threads}") if threads else _threads_said(variables)
    available = processors(variables)
    if kind == "cpu":
        if workers_per_gpu > 1:
            raise ConfigurationError(
                "--workers-per-gpu is for GPUs, and the device is 'cpu'.", "Say how many in all: --workers 2"
            )
        bound = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        return divide_processors(bound, available, workers, threads, said)
    maker = gpu_kind(kind, accelerator or (cluster.accelerator if cluster else None), variables)
    variable, names = gpu_names(maker, cluster, count, variables)
    return _on_gpus(variable, names, workers, workers_per_gpu, threads, available)


def shared_kind(device: str) -> str:
    """Return which kind of device several workers share out.

    Parameters
    ----------
    device : str

    Raises
    ------
    ConfigurationError
        If it is none that they can share out.
    """
    kind = device.lower().partition(":")[0]
    if kind not in ("cpu", "cuda", "xpu"):
        raise ConfigurationError(
            f"Several workers cannot share out device={device!r}.",
            "They can share out 'cuda' (NVIDIA's and AMD's GPUs), 'xpu' (Intel's) and 'cpu'. With any other device, "
            "leave --workers away.",
        )
    if ":" in device and kind != "cpu":
        raise ConfigurationError(
            f"device={device!r} is one GPU, and the workers of a pool each take another.",
            f"Use device={kind!r}. Which GPUs: the names in the job's own variable, such as CUDA_VISIBLE_DEVICES=1",
        )
    return kind


def check_devices(slots: Sequence[Slot], uuids: Sequence[str | None], workers_per_gpu: int) -> None:
    """Refuse workers that compute on the same GPU, though they were to have one each.

    Parameters
    ----------
    slots : sequence of Slot
    uuids : sequence of str or None
        What each slot's worker says of its GPU; None: it does not know.
    workers_per_gpu : int
        How many were to share one.

    Raises
    ------
    DeviceError
        If more share one.
    """
    # CUDA may report the UUID of the whole GPU for each of its parts: of those, the names tell which are the same.
    parts = [next((name for name in slot.variables.values() if name and name.startswith("MIG-")), "") for slot in slots]
    found = [(uuid, part) for uuid, part in zip(uuids, parts, strict=True)]
    for (uuid, part), times in Counter(found).items():
        if uuid and times > workers_per_gpu:
            same = [slot.name for slot, theirs in zip(slots, found, strict=True) if theirs == (uuid, part)]
            raise DeviceError(
                f"{', '.join(same[:-1])} and {same[-1]} are the same GPU ({uuid}).",
                "The job's variable may name one GPU in two ways, or the environment file chooses by itself. If they "
                f"shall share it: --workers-per-gpu {times}",
            )


def _on_gpus(
    variable: str, names: Sequence[str], workers: int | None, workers_per_gpu: int, threads: int | None, available: int
) -> list[Slot]:
    """Return slots on GPUs, first one of each."""
    slots = len(names) * workers_per_gpu
    if workers is not None and workers > slots:
        each = -(-workers // len(names))
        raise ConfigurationError(
            f"{workers} workers are too many for {_gpus(len(names))} ({variable}: {', '.join(names)}) with "
            f"{workers_per_gpu} on each.",
            f"Use --workers {slots}, or let them share: --workers-per-gpu {each}",
        )
    slots = workers or slots
    return [
        Slot(
            _gpu(names[index % len(names)]) + (f", worker {index // len(names) + 1}" if workers_per_gpu > 1 else ""),
            only(variable, names[index % len(names)]),
            (),
            threads or max(1, available // slots),
        )
        for index in range(slots)
    ]


def divide_processors(
    bound: Sequence[int], available: int, workers: int | None, threads: int | None, said: str = ""
) -> list[Slot]:
    """Divide processors among workers.

    Parameters
    ----------
    bound : sequence of int
        Those that this process is bound to, in their order; empty if that is not known.
    available : int
        How many it may use of them.
    workers, threads : int or None
        How many, and of how many threads each; None: as many as have room, and a few.
    said : str
        Who has said how many threads, for the message.

    Returns
    -------
    list of Slot
        All of `bound` is divided. If the process may use fewer, or more workers were asked for than there is room, they
        are not bound: the kernel knows better who runs where.

    Raises
    ------
    ConfigurationError
        If several workers would run more threads than there are processors, or there are very many workers.
    """
    if workers is not None and workers > _CROWD * available:
        raise ConfigurationError(
            f"{workers} workers are too many for {available} processor{'s' * (available > 1)}.",
            "Use --workers auto, or at most one for each.",
        )
    if workers is None:
        each = threads or min(_FEW_THREADS, max(1, available // 2))
        workers = max(1, available // each)
    else:
        each = threads or max(1, available // workers)
    if workers > 1 and each > 1 and workers * each > available:
        raise ConfigurationError(
            f"{workers} workers with {said} each need {workers * each} processors, and this process may use "
            f"{available}. Threads beyond the processors wait for each other.",
            f"Use --workers {max(1, available // each)}, or --threads {max(1, available // workers)}",
        )
    if len(bound) != available or workers * each > available:  # a quota: others may count on the same processors
        return [Slot(f"worker {index + 1}", {}, (), each) for index in range(workers)]
    edges = [index * available // workers for index in range(workers + 1)]
    groups = [tuple(bound[start:stop]) for start, stop in itertools.pairwise(edges)]
    return [Slot(f"processors {_ranges(group)}", {}, group, each) for group in groups]


def _threads_said(variables: Mapping[str, str]) -> tuple[int | None, str]:
    first = variables.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list says it for nested regions, too
    return (int(first), f"OMP_NUM_THREADS={first}") if first.isdecimal() and int(first) else (None, "")


def _gpu(name: str) -> str:
    return f"GPU {name}" if name[0].isdecimal() else name


def _gpus(number: int) -> str:
    return "1 GPU" if number == 1 else f"{number} GPUs"


def _ranges(numbers: Sequence[int]) -> str:
    """Write numbers as Linux does: ``0-3,8``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
