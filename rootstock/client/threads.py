"""How many threads a worker should run, and how many the process that has it."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from rootstock.worker.descendants import parent_of

logger = logging.getLogger("rootstock")

_WORKER = "worker/__main__.py"
# How many processes an MPI launcher started on this node: Hydra (MPICH, Intel MPI), Open MPI, MVAPICH.
_LOCAL_RANKS = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")


def thread_count(for_all_ranks: bool = False) -> int:
    """Return how many threads one more worker of this process should run.

    It is what ``OMP_NUM_THREADS`` says. Without it, it is what this process may use (`processors`), shared among the
    workers that run there already, or among the ranks of an MPI program that are not bound to processors of their own,
    each with a worker: unless this one worker is `for_all_ranks`, which sleep while it computes.

    Threads beyond the processors make each other wait: two workers with two threads each on two cores have been seen
    to run sixty times slower.
    """
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list says it for nested regions, too
    if said.isdecimal() and int(said):
        return int(said)
    ranks = 1 if for_all_ranks else _ranks_here(os.environ)
    return max(1, processors(os.environ) // max(1 + _workers_here(), ranks))


# They are read when a library is loaded or first called, and outrank OMP_NUM_THREADS.
OF_LIBRARIES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def keep_to_one_thread() -> None:
    """Let numpy, which must not be loaded yet, run one thread in this process; workers are told theirs.

    Commands compute with small matrices only, such as in the relaxation of a cell. Threads that share these wait for
    each other, and for those of the worker: forty times the time of a step has been seen.
    """
    os.environ.update(dict.fromkeys(OF_LIBRARIES, "1"))


class ThreadWatch:
    """Sees once whether threads of this process are busy for most of the time between the calls of a worker.

    Attributes
    ----------
    next : int
        The number of calls at which to look; 0: never again.
    """

    _STEPS = 50
    _told = False

    def __init__(self) -> None:
        self.next = 1
        self._begun = (0.0, 0.0, 0.0)

    def look(self, in_calls: float) -> None:
        """Look at what has passed since the first call, and tell of it if it is the caller's threads.

        Parameters
        ----------
        in_calls : float
            Seconds that all calls took.
        """
        now = (time.perf_counter(), time.process_time(), in_calls)
        if self.next == 1:
            self._begun, self.next = now, 1 + self._STEPS
            return
        self.next = 0
        passed, busy, inside = (after - before for after, before in zip(now, self._begun, strict=True))
        if self._told or any(os.environ.get(name) == "1" for name in OF_LIBRARIES):
            return
        if message := self.judge(passed, busy, inside):
            ThreadWatch._told = True
            logger.warning(message)

    @classmethod
    def judge(cls, passed: float, busy: float, inside: float) -> str:
        """Return what to tell the caller; empty if the threads of this process are not what takes the time.

        Parameters
        ----------
        passed : float
            Seconds that some steps took.
        busy : float
            Seconds that all processors together worked for this process.
        inside : float
            Seconds in which this process waited for the worker, busy or not.
        """
        outside = passed - inside
        if outside < 2 * inside or outside < 0.005 * cls._STEPS or busy - inside < 1.5 * outside:
            return ""
        step, part = passed / cls._STEPS * 1e3, outside / cls._STEPS * 1e3
        return (
            f"{part:.0f} ms of each step of {step:.0f} ms pass outside of the model, with "
            f"{(busy - inside) / outside:.1f} processors busy in this process. Threads that numpy starts for small "
            "matrices, as in the relaxation of a cell, can cost far more than they bring. Before Python starts: "
            "export OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1. The worker's threads stay what they are."
        )


def processors(
    variables: Mapping[str, str], proc: Path = Path("/proc/self/cgroup"), cgroups: Path = Path("/sys/fs/cgroup")
) -> int:
    """Return how many processors this process may use.

    The least of: those it is bound to, the quota of its control group (containers have one), and what Slurm gave the
    task (``SLURM_CPUS_PER_TASK``), which says more than the binding where a job's tasks share theirs.

    Parameters
    ----------
    variables : Mapping[str, str]
        The environment.
    proc, cgroups : Path
        The file that names this process's control groups, and the folder that holds all of them.
    """
    bound = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    limits = [bound, *_quotas(proc, cgroups)]
    if variables.get("SLURM_CPUS_PER_TASK", "").isdecimal():
        limits.append(int(variables["SLURM_CPUS_PER_TASK"]))
    return max(1, min(limits))


def _quotas(proc: Path, cgroups: Path) -> Iterator[int]:
    """Return the quotas of a control group and those around it, in whole processors, rounded up."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = cgroups / "cpu" if controllers else cgroups  # version 1 has a hierarchy for each controller
        group = top / path.lstrip("/")
        for folder in (group, *group.parents[: len(group.relative_to(top).parts)]):
            quota, period = _quota(folder, bool(controllers))
            if quota > 0 and period > 0:
                yield math.ceil(quota / period)


def _quota(folder: Path, first_version: bool) -> tuple[int, int]:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if first_version else ("cpu.max",)
    try:
        quota, period = " ".join((folder / name).read_text() for name in names).split()
        return int(quota), int(period)
    except (OSError, ValueError):  # there is none ("max"), or it cannot be seen from inside a container
        return 0, 0


def _workers_here() -> int:
    """Count the workers of this user that share processors with this process, whoever started them."""
    if sys.platform != "linux":
        return 0
    mine, user = os.sched_getaffinity(0), os.getuid()
    found: dict[int, tuple[int, bool]] = {}
    try:
        entries = list(os.scandir("/proc"))
    except OSError:  # such as no descriptors left, which the start of a worker says better
        return 0
    for entry in entries:
        try:
            if not entry.name.isdecimal() or entry.stat().st_uid != user:
                continue
            pid, process = int(entry.name), Path(entry.path)
            program, *arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if any(word.endswith(_WORKER) for word in arguments[:4]) and not program.endswith("uv"):
                found[pid] = parent_of(process), not mine.isdisjoint(os.sched_getaffinity(pid))
        except OSError:  # it has ended
            continue
    guards = {parent for parent, _ in found.values()}
    return sum(shares for pid, (_, shares) in found.items() if pid not in guards)


def _ranks_here(variables: Mapping[str, str]) -> int:
    """Return how many ranks of an MPI program share the processors of this one; 1 if it is bound to its own."""
    ranks = next((int(variables[name]) for name in _LOCAL_RANKS if variables.get(name, "").isdecimal()), 1)
    if ranks > 1 and sys.platform == "linux" and os.sched_getaffinity(os.getppid()) != os.sched_getaffinity(0):
        return 1
    return ranks
