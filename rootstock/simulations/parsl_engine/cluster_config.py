"""Parsl's configuration for a cluster, from its file."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from parsl.config import Config
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.jobs.error_handlers import windowed_error_handler
from parsl.launchers import SimpleLauncher
from parsl.providers import LocalProvider

from rootstock.client.own_python import own_python
from rootstock.config.cluster_settings import Cluster
from rootstock.config.clusters import find_root, get_cluster
from rootstock.config.site import users_site
from rootstock.errors import ConfigurationError
from rootstock.root.layout import RootLayout
from rootstock.root.user_folders import user_folder
from rootstock.simulations.parsl_engine.addresses import own_addresses
from rootstock.simulations.parsl_engine.executor import Executor
from rootstock.simulations.parsl_engine.providers import provider
from rootstock.simulations.parsl_engine.retries import cost_of_retry
from rootstock.simulations.submission.plan import JobPlan, Request, plan_jobs
from rootstock.simulations.submission.submit import check_folder

_MANAGER = "parsl.executors.high_throughput.process_worker_pool"
_MANY = 10**9  # structures: nobody knows yet how many there are
_DRAIN_S = 120  # before the end of a job its workers take no more tasks


def config(
    cluster: str | None = None,
    gpus: int = 1,
    *,
    root: str | os.PathLike[str] | None = None,
    walltime: str | None = None,
    account: str | None = None,
    partition: str | None = None,
    qos: str | None = None,
    reservation: str | None = None,
    gpu_type: str | None = None,
    options: Sequence[str] = (),
    run_dir: str | os.PathLike[str] | None = None,
    stall_limit: float = 300.0,
    label: str = "rootstock",
) -> Config:
    """Return Parsl's configuration for a cluster.

    It has one executor: jobs of one node each, in which every worker has one GPU and keeps its models loaded. A job
    has a whole node where the cluster's file says that jobs get whole nodes, else one GPU.

    Parameters
    ----------
    cluster : str, optional
        A registered cluster; ``auto`` for the one that this machine's name fits. By default that of `root`.
    gpus : int
        How many compute at a time. Where there is no scheduler, how many workers there are on this machine.
    root : path, optional
        A root. With neither: ``ROOTSTOCK_ROOT``, ``ROOTSTOCK_CLUSTER``, or the default cluster of the user's registry.
    walltime, account, partition, qos, reservation, gpu_type : str, optional
        Of the jobs. By default as the cluster's file says.
    options : sequence of str
        Further options of the scheduler, such as ``--constraint=gpu80``.
    run_dir : path, optional
        Where Parsl keeps its logs and scripts: a folder that all nodes see. By default in the user's cache folder.
    stall_limit : float [s]
        After so much time in which nothing goes on though workers are there, all tasks fail.
    label : str
        The executor's name.

    Returns
    -------
    parsl.Config

    Raises
    ------
    ConfigurationError
        If the cluster is unknown, has a scheduler for which Parsl has no provider here (Flux), or needs an account; or
        if `run_dir` has a name that schedulers do not take.

    Examples
    --------
    >>> import parsl  # doctest: +SKIP
    >>> from rootstock.parsl import config, evaluate  # doctest: +SKIP
    >>> with parsl.load(config(cluster="della", gpus=16)):  # doctest: +SKIP
    ...     futures = [evaluate(atoms, model="mace-medium") for atoms in structures]
    """
    if gpus < 1:
        raise ConfigurationError(f"gpus is {gpus}; it must be at least 1.", "For example: gpus=4")
    settings = _settings(cluster, root)
    place = Path(run_dir or user_folder("XDG_CACHE_HOME", "~/.cache") / "parsl").absolute()
    request = Request(gpus, walltime, account, partition, qos, reservation, gpu_type, options)
    where: dict[str, Any]
    if settings.scheduler == "none":
        where = {
            "provider": LocalProvider(init_blocks=1, max_blocks=1, launcher=SimpleLauncher(debug=False)),
            "address": "127.0.0.1", "max_workers_per_node": gpus,
        }  # fmt: skip
    else:
        plan = blocks(settings, request)
        check_folder(place, settings.scheduler)
        where = {
            "provider": provider(settings, plan), "max_workers_per_node": plan.nodes.gpus,
            "drain_period": max(plan.seconds - _DRAIN_S, plan.seconds // 2),
            "address": min(own_addresses(settings.interface)) if settings.interface else None,
        }  # fmt: skip
    executor = Executor(
        label=label, stall_limit=stall_limit, launch_cmd=_launch_command(),
        interchange_launch_cmd=own_python("rootstock.simulations.parsl_engine.interchange", "main"),
        cores_per_worker=1e-6, prefetch_capacity=0, heartbeat_period=15, heartbeat_threshold=60, encrypted=True,
        block_error_handler=windowed_error_handler, **where,
    )  # fmt: skip
    return Config(
        executors=[executor], retries=2, retry_handler=cost_of_retry, exit_mode="wait", usage_tracking=0,
        run_dir=str(place),
        initialize_logging=False,  # of all that it does, which is a hundred megabytes after some accidents
    )  # fmt: skip


def _settings(cluster: str | None, root: str | os.PathLike[str] | None) -> Cluster:
    if cluster:
        return get_cluster(cluster)
    if (path := find_root(cluster, root)) is None:
        raise ConfigurationError(
            "Neither a cluster nor a root is named.", "For example: config(cluster='della', gpus=16)"
        )
    return users_site(RootLayout(path)).cluster


def blocks(cluster: Cluster, request: Request, todo: int = _MANY) -> JobPlan:
    """Return the jobs that Parsl submits, each with one node or a part of one.

    Parameters
    ----------
    cluster : Cluster
    request : Request
    todo : int
        How many structures are to be computed.

    Raises
    ------
    ConfigurationError
        As `plan_jobs`; and if the cluster has Flux.
    """
    if cluster.scheduler == "flux":
        raise ConfigurationError(
            f"Cluster {cluster.name!r} has Flux, for which Parsl's workers cannot be started from here.",
            "Compute a run folder with jobs of the scheduler's: --engine array. Or start Python within an allocation, "
            "with a cluster whose scheduler is none.",
        )
    # A block is one job of its own, whatever the cluster says about arrays.
    return plan_jobs(replace(cluster, arrays=True, array_max=0), request, todo)


def _launch_command() -> str:
    """Return what a job runs: a block of ours, with Parsl's manager. Nothing of it is looked for in PATH."""
    block = [_quoted(word) for word in own_python("rootstock.simulations.parsl_engine.block", "main")]
    manager = [_quoted(sys.executable), "-P", "-m", _MANAGER]
    arguments = DEFAULT_LAUNCH_CMD.partition(" ")[2]
    return " ".join([*block, "{logdir}", "{{block_id}}", *manager, arguments])


def _quoted(word: str) -> str:
    """Return a word for a shell in which Parsl fills in, twice, what is in braces."""
    return shlex.quote(word).replace("{", "{{{{").replace("}", "}}}}")
