"""How a run is divided into jobs: how many, how large, how long, and what the scheduler is told of each."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rootstock.config.amounts import clock, seconds_of
from rootstock.config.clusters import Cluster
from rootstock.config.job_scripts import Nodes, site_options
from rootstock.errors import ConfigurationError

_TRIED = 50  # numbers of shares
_KILL_WAIT_S = {"slurm": 30, "pbs": 10, "flux": 5}
_NODES = {"slurm": "--exclude={}", "flux": "--requires=not host:{}"}  # PBS has no such option
_TIME = re.compile(r"--time(-limit)?\b|-t\b|-l\s*walltime\b")
_NO_QOS = {"flux": "Flux has no --qos; choose a queue: --partition NAME"}
_NO_RESERVATION = {"pbs": "PBS has a queue for each reservation: --partition NAME", "flux": "Use --option."}


@dataclass(frozen=True)
class Request:
    """What somebody asks of the scheduler.

    Attributes
    ----------
    gpus : int
        How many compute at a time.
    walltime, account, partition, qos, reservation, gpu_type : str or None
        None: as the cluster's file says.
    options : sequence of str
        Further options of the scheduler.
    until_done : int
        How many times the jobs are submitted, each time after the end of those before.
    force : bool
        Whether jobs are submitted though others may compute the run.
    """

    gpus: int
    walltime: str | None = None
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    reservation: str | None = None
    gpu_type: str | None = None
    options: Sequence[str] = ()
    until_done: int = 1
    force: bool = False


@dataclass(frozen=True)
class JobPlan:
    """Jobs that compute a run.

    Attributes
    ----------
    scheduler : {'slurm', 'pbs', 'flux'}
    shares : int
        How many shares the run has: tasks of an array, or nodes of one job.
    nodes : Nodes
        Of one task, or of the one job.
    seconds : int
        How long each may take.
    grace : float [s]
        How long the scheduler waits for what it has asked to end, less a little.
    options : list of str
        Of the scheduler.
    times : int
        How many times they are submitted.
    """

    scheduler: str
    shares: int
    nodes: Nodes
    seconds: int
    grace: float
    options: list[str]
    times: int = 1

    @property
    def gpus(self) -> int:
        """How many GPUs compute at a time."""
        return self.shares * self.nodes.gpus

    @property
    def hours(self) -> float:
        """How many GPU hours one submission takes at most."""
        return self.gpus * self.seconds / 3600

    def __str__(self) -> str:
        if self.nodes.number > 1:
            return f"one job of {self.shares} nodes with {self._each}, {self.limits}"
        return f"an array of {self.jobs}" if self.shares > 1 else self.jobs

    @property
    def jobs(self) -> str:
        """How many jobs there are, and how large, where each computes a share, in words."""
        many = f"{self.shares:,} jobs" if self.shares > 1 else "one job"
        return f"{many} with {self._each}, {self.limits}"

    @property
    def limits(self) -> str:
        """What they take at most, in words."""
        again = f", up to {self.times} times" if self.times > 1 else ""
        hours = f"{self.hours * self.times:,.1f}".removesuffix(".0")
        unit = "GPU hour" if hours == "1" else "GPU hours"
        return f"for {clock(self.seconds)} at most{again}: {hours} {unit} at most"

    @property
    def _each(self) -> str:
        return f"{self.nodes.gpus} GPU{'s' * (self.nodes.gpus > 1)}{' each' * (self.shares > 1)}"


def plan_jobs(cluster: Cluster, request: Request, todo: int | Sequence[int]) -> JobPlan:
    """Divide a run into jobs.

    Parameters
    ----------
    cluster : Cluster
    request : Request
    todo : int or sequence of int
        How many structures are to be computed; or of each, which one it is among all of the run by size.

    Raises
    ------
    ConfigurationError
        If the cluster has no scheduler or no GPUs, or what is asked for is more than it allows.
    """
    scheduler, batch = cluster.scheduler, f"[clusters.{cluster.name}.jobs.batch]"
    if scheduler == "none":
        raise ConfigurationError(
            f"Cluster {cluster.name!r} has no scheduler (jobs.scheduler is none).",
            "To use this machine only: --workers auto.",
        )
    if cluster.accelerator == "cpu":
        raise ConfigurationError(
            f"Cluster {cluster.name!r} has no GPUs (hardware.accelerator is cpu).",
            "On processors compute with --workers auto, in jobs of your own with --element.",
        )
    if (cluster.whole_nodes or not _has_arrays(cluster)) and not cluster.gpus_per_node:
        raise ConfigurationError(
            f"Nobody has said how many GPUs a node of {cluster.name!r} has.",
            f"Write it into ~/.config/rootstock/clusters.toml:\n{batch}\ngpus-per-node = 4",
        )
    together = cluster.whole_nodes or (request.gpus > 1 and not _has_arrays(cluster))
    each = cluster.gpus_per_node if together else 1
    shares = math.ceil(request.gpus / each)
    shares = max(1, min(shares, todo)) if isinstance(todo, int) else best_shares(todo, shares)
    each = each if cluster.whole_nodes else min(each, request.gpus)
    number = 1 if _has_arrays(cluster) else shares
    _check_numbers(cluster, shares if number == 1 else 1, request.until_done)
    return JobPlan(
        scheduler, shares, Nodes(number, each, each * cluster.cpus_per_gpu), _seconds(cluster, request, number),
        0.8 * kill_wait(cluster), options_of(cluster, request), request.until_done,
    )  # fmt: skip


def best_shares(places: Sequence[int], most: int) -> int:
    """Return into how many shares a run is best divided, by what is left of it.

    Shares deal out all structures of a run by size (`rootstock.simulations.runs.elements.Element`). If one of four jobs
    was lost, all that is left is in one share of four; three shares have a third of it each.

    Parameters
    ----------
    places : sequence of int
        Of what is left, in the order by size of all structures of the run.
    most : int
        How many shares there may be.

    >>> best_shares(range(100), 4), best_shares(range(1, 100, 4), 4), best_shares([7, 8], 16)
    (4, 3, 2)
    """
    left = np.asarray(places, np.int64)
    most = max(1, min(most, len(left)))
    largest = {n: int(np.bincount(left % n).max()) for n in range(most, max(most // 2, most - _TRIED), -1) if len(left)}
    return min(largest, key=lambda n: (largest[n], -n), default=1)


def kill_wait(cluster: Cluster) -> int:
    """Return how many seconds a cancelled job has to end before it is killed.

    Parameters
    ----------
    cluster : Cluster
    """
    return cluster.kill_wait or _KILL_WAIT_S.get(cluster.scheduler, 30)


def without_nodes(scheduler: str, hosts: Sequence[str]) -> list[str]:
    """Return the option by which jobs do not run on some nodes; none where the scheduler has no such option.

    Parameters
    ----------
    scheduler : str
    hosts : sequence of str
    """
    return [_NODES[scheduler].format(",".join(sorted(hosts)))] if hosts and scheduler in _NODES else []


def options_of(cluster: Cluster, request: Request) -> list[str]:
    """Return what the scheduler is told beside the size of a job.

    Parameters
    ----------
    cluster : Cluster
    request : Request

    Raises
    ------
    ConfigurationError
        If an account is missing, or something is asked for that the scheduler does not have.
    """
    scheduler = cluster.scheduler
    own = os.environ.get("SBATCH_ACCOUNT") if scheduler == "slurm" else None
    if cluster.account_required and not (request.account or cluster.account or own):
        raise ConfigurationError(
            f"Jobs on {cluster.name} need an account: the project that pays.",
            "Name it: --account NAME. Or once for all, in ~/.config/rootstock/clusters.toml:\n"
            f'[clusters.{cluster.name}.jobs.batch]\naccount = "NAME"',
        )
    options = site_options(cluster, partition=request.partition, account=request.account)
    if request.gpu_type is not None:
        if request.gpu_type not in cluster.gpu_types:
            known = ", ".join(cluster.gpu_types) or "none"
            raise ConfigurationError(
                f"{cluster.name} has no GPUs called {request.gpu_type!r}; its file names {known}.",
                "Name one of them; or say it in the scheduler's own words: --option '--constraint=...'",
            )
        options.append(cluster.gpu_types[request.gpu_type])
    for value, name, missing, word in (
        (request.qos, "--qos", _NO_QOS, "-l qos=" if scheduler == "pbs" else "--qos="),
        (request.reservation, "--reservation", _NO_RESERVATION, "--reservation="),
    ):
        if value and scheduler in missing:
            raise ConfigurationError(f"{name} {value} is for Slurm, and this is {scheduler}.", missing[scheduler])
        options += [f"{word}{value}"] if value else []
    for name in ("partition", "account", "qos", "reservation"):
        if " " in (value := getattr(request, name) or ""):
            raise ConfigurationError(f"--{name} {value!r} is no name.", "Name it alone; further options: --option")
    for option in (*options, *request.options):
        if _TIME.match(option):
            raise ConfigurationError(f"--option {option!r} is about time.", "Use --walltime: jobs must know their end.")
        if not option.isprintable() or not option.startswith("-"):
            raise ConfigurationError(
                f"{option!r} is no option of a scheduler.",
                f"Write it as in a job script: --option {shlex.quote('--constraint=gpu80')}",
            )
    return [*options, *request.options]


def _has_arrays(cluster: Cluster) -> bool:
    return cluster.arrays and cluster.scheduler != "flux"


def _check_numbers(cluster: Cluster, jobs: int, times: int) -> None:
    each = cluster.gpus_per_node if cluster.whole_nodes else 1
    if cluster.array_max and jobs > cluster.array_max:
        raise ConfigurationError(
            f"{jobs:,} jobs are too many for an array on {cluster.name}, which has {cluster.array_max:,} at most.",
            f"Ask for fewer: --gpus {cluster.array_max * each}",
        )
    if cluster.queued_max and jobs * times > cluster.queued_max:
        raise ConfigurationError(
            f"{jobs * times:,} jobs are too many: {cluster.name} takes {cluster.queued_max:,} of a user at a time.",
            f"Ask for fewer: --gpus {max(1, cluster.queued_max // times) * each}",
        )


def _seconds(cluster: Cluster, request: Request, nodes: int) -> int:
    longest = cluster.longest(nodes)
    seconds = seconds_of(request.walltime or cluster.walltime)
    if longest is None or seconds <= longest:
        return seconds
    if request.walltime:
        of = f"of {nodes} nodes " if nodes > 1 else ""
        raise ConfigurationError(
            f"--walltime {request.walltime} is too long: a job {of}on {cluster.name} has {clock(longest)} at most.",
            f"Write --walltime {clock(longest)}; what is missing then is computed by the next one (--until-done 2).",
        )
    return longest
