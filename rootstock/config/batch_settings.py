"""What a cluster file says about jobs that compute run folders: how large, how long, on which nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rootstock.config.amounts import megabytes_of, seconds_of
from rootstock.config.setting_values import setting
from rootstock.errors import ConfigurationError


def _check_longest(table: Mapping[str, str]) -> None:
    for nodes, text in table.items():
        if not nodes.isascii() or not nodes.isdecimal() or not int(nodes):
            raise ConfigurationError(f"{nodes!r} is no number of nodes.", 'Write {"1" = "24:00:00"}.')
        seconds_of(text)


def _check_options(options: Iterable[str]) -> None:
    for option in options:
        if not option.startswith("-"):
            raise ConfigurationError(f"{option!r} is no option of a scheduler.", "Write it as --constraint=gpu80.")


def _check_types(table: Mapping[str, str]) -> None:
    _check_options(table.values())


def _check_least_one(number: int) -> None:
    if number < 1:
        raise ConfigurationError(f"{number} is too few.", "Write 1 or more.")


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """The settings ``jobs.batch`` of a cluster."""

    whole_nodes: bool = setting(
        "jobs.batch.whole-nodes", False, "Whether a job gets whole nodes, whatever it asks for."
    )
    gpus_per_node: int = setting("jobs.batch.gpus-per-node", 0, "How many GPUs a node has, as a job counts them.")
    cpus_per_gpu: int = setting(
        "jobs.batch.cpus-per-gpu", 8, "How many processors a job asks for with each GPU.", check=_check_least_one
    )
    memory_per_gpu: str = setting(
        "jobs.batch.memory-per-gpu", "", "The memory of the node that a job asks for with each GPU, such as `64G`. "
        "Empty: the scheduler's default.", check=megabytes_of,
    )  # fmt: skip
    partition: str = setting("jobs.batch.partition", "", "The partition or queue. Empty: the scheduler's default.")
    account: str = setting("jobs.batch.account", "", "The project that pays. Users set their own.")
    account_required: bool = setting("jobs.batch.account-required", False, "Whether every job needs an account.")
    batch_options: tuple[str, ...] = setting(
        "jobs.batch.options", (), "Further options of the scheduler, such as `--qos=regular`.", check=_check_options
    )
    gpu_types: Mapping[str, str] = setting(
        "jobs.batch.gpu-types",
        {},
        "What `--gpu-type NAME` adds to the options: a table of name to option.",
        check=_check_types,
    )
    walltime: str = setting(
        "jobs.batch.walltime", "04:00:00", "How long a job may take, where nobody says.", check=seconds_of
    )
    walltime_max: Mapping[str, str] = setting(
        "jobs.batch.walltime-max", {}, "How long a job may take at most: a time; or a table of number of nodes, from "
        "which it holds, to time.", check=_check_longest,
    )  # fmt: skip
    arrays: bool = setting(
        "jobs.batch.arrays", True, "Whether one job for each share of a run may be submitted, as an array. If not, one "
        "job takes all nodes. Flux has no arrays.",
    )  # fmt: skip
    array_max: int = setting("jobs.batch.array-max", 0, "How many tasks an array may have. 0: nobody says.")
    concurrent_max: int = setting("jobs.batch.concurrent-max", 0, "How many tasks run at a time. 0: as many as can.")
    queued_max: int = setting(
        "jobs.batch.queued-max", 0, "How many jobs and tasks a user may have in the queue. 0: nobody says."
    )
    launcher: str = setting(
        "jobs.batch.launcher", "", "What starts one process on each of a job's `{nodes}`, such as `mpiexec -n {nodes} "
        "--ppn 1`. Empty: the scheduler's usual way.",
    )  # fmt: skip
    kill_wait: int = setting(
        "jobs.batch.kill-wait", 0, "How many seconds a cancelled job has to end before it is killed. 0: the "
        "scheduler's default (Slurm 30, PBS 10, Flux 5).",
    )  # fmt: skip
    mps: str = setting(
        "jobs.batch.mps", "none", "Whether NVIDIA's MPS runs on the nodes, so that workers that share a GPU compute at "
        "the same time: `node` says that the site starts it.",
        ("none", "node"),
    )  # fmt: skip
    interface: str = setting(
        "jobs.batch.interface", "", "The network interface of login nodes by which compute nodes reach them, such as "
        "`bond0`. Only Parsl needs it. Empty: Parsl finds one.",
    )  # fmt: skip

    def longest(self, nodes: int) -> int | None:
        """Return how many seconds a job may take at most; None if nobody says.

        Parameters
        ----------
        nodes : int
            Of the job.
        """
        from_nodes = [(int(least), text) for least, text in self.walltime_max.items() if int(least) <= nodes]
        return seconds_of(max(from_nodes)[1]) if from_nodes else None
