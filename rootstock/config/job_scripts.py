"""Job scripts, from the templates of each scheduler: a user's own, and those that compute run folders."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootstock.config.amounts import clock, megabytes_of
from rootstock.config.clusters import Cluster
from rootstock.config.render import template_variables
from rootstock.config.site import Site
from rootstock.config.templates import render_template
from rootstock.errors import RenderError

JOB_KINDS = ("single", "several", "array")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_MEANINGS = ("cpus", "gpus", "memory", "nodes")
# What starts one process on each node of a job, and lets the others go on when one has ended, or its node. Since 22.05
# that of Slurm neither passes on how many processors a task has nor leaves it unbound, unless it is told to.
_LAUNCHERS = {
    "slurm": "srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --cpus-per-task={cpus} --cpu-bind=none "
    "--no-kill --kill-on-bad-exit=0",
    "pbs": "mpiexec -n {nodes} --ppn 1",
    "flux": "flux run --nodes={nodes} --ntasks={nodes} --exclusive -o cpu-affinity=off -o exit-timeout=none",
}


@dataclass(frozen=True)
class Nodes:
    """The part of a cluster that a job takes.

    Attributes
    ----------
    number : int
        Of nodes.
    gpus, cpus : int
        On each.
    """

    number: int
    gpus: int
    cpus: int

    def memory(self, cluster: Cluster) -> str:
        """Return how a job asks for the memory of one of them; empty: it does not.

        Parameters
        ----------
        cluster : Cluster
        """
        if cluster.whole_nodes and cluster.scheduler == "slurm":
            return "0"  # all that the node has
        if not cluster.memory_per_gpu:
            return ""
        parts = self.gpus or math.ceil(self.cpus / cluster.cpus_per_gpu)  # of processors alone: their part of the node
        megabytes = megabytes_of(cluster.memory_per_gpu) * parts
        return f"{megabytes}mb" if cluster.scheduler == "pbs" else f"{megabytes}M"

    def fill(self, text: str, cluster: Cluster, key: str) -> str:
        """Return a setting with its placeholders filled.

        Parameters
        ----------
        text : str
        cluster : Cluster
        key : str
            The setting, for messages.

        Raises
        ------
        RenderError
            If it holds one that has no meaning, or whose value nobody has said.
        """
        found = {*_PLACEHOLDER.findall(text)}
        if unknown := sorted(found - {*_MEANINGS}):
            raise RenderError(
                f"{key} holds {{{unknown[0]}}}, which has no meaning there: {text!r}.",
                f"Write {{{'}, {'.join(_MEANINGS[:-1])}}} or {{nodes}} there, or the number itself.",
            )
        memory = self.memory(cluster)
        if "memory" in found and not memory:
            raise RenderError(
                f"{key} holds {{memory}}, and nobody has said how much: {text!r}.", "Set jobs.batch.memory-per-gpu."
            )
        values = {"nodes": self.number, "gpus": self.gpus, "cpus": self.cpus, "memory": memory}
        return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), text)


@dataclass(frozen=True)
class RunJob:
    """A job that computes a run folder.

    Attributes
    ----------
    command : sequence of str
        What computes one share, without the number of the share.
    shares : int
        How many shares the run is divided into: tasks of an array, or nodes of one job.
    nodes : Nodes
        Of one job, or of one task.
    seconds : int
        How long each may take.
    options : sequence of str
        Of the scheduler.
    name : str
        Of the job, by which it can be found.
    logs : Path
        The folder for what it says.
    """

    command: Sequence[str]
    shares: int
    nodes: Nodes
    seconds: int
    options: Sequence[str]
    name: str
    logs: Path


def render_run_job(site: Site, job: RunJob, *, version: str) -> str:
    """Render the script of a job that computes a run folder.

    Parameters
    ----------
    site : Site
    job : RunJob
    version : str
        Of Rootstock.

    Raises
    ------
    RenderError
        As `render_job`.
    """
    cluster = site.cluster
    tasks = job.shares if job.nodes.number == 1 else 1
    files = {"slurm": "%A_%a.out" if tasks > 1 else "%j.out", "pbs": "", "flux": "{{id}}.out"}
    variables = _resources(cluster, job.nodes) | {
        "command": shlex.join(job.command),
        "shares": job.shares,
        "seconds": job.seconds,
        "launcher": job.nodes.fill(
            cluster.launcher or _LAUNCHERS.get(cluster.scheduler, ""), cluster, "jobs.batch.launcher"
        ),
        "name": job.name,
        "output": f"{job.logs}/{files.get(cluster.scheduler, '')}",
        "walltime": f"{job.seconds}s" if cluster.scheduler == "flux" else clock(job.seconds),
        "tasks": tasks,
        "concurrent": cluster.concurrent_max if tasks > cluster.concurrent_max else 0,
        "options": tuple(job.options),
    }
    return _render(site, version, variables)


def render_job(
    site: Site,
    kind: str,
    *,
    version: str,
    script: str = "run.py",
    gpus: int = 4,
    cpus: int | None = None,
    tasks: int = 10,
    walltime: str = "01:00:00",
    options: Sequence[str] = (),
) -> str:
    """Render a job script of a user's own for the cluster's scheduler.

    Parameters
    ----------
    site : Site
    kind : {'single', 'several', 'array'}
        One process with one GPU; one with `gpus` of them; `tasks` processes with one each, whose number, from 0, is
        their argument. Where there are no GPUs it is the CPUs that count.
    version : str
        As for `rootstock.config.render.render_modulefiles`.
    script : str
        The user's Python script.
    gpus : int
        GPUs of a job of kind 'several'.
    cpus : int, optional
        CPUs for each GPU; by default as many as the cluster's file says.
    tasks : int
        Length of an array, 2 or more.
    walltime : str
        Time limit, as the scheduler writes it.
    options : sequence of str
        Further options of the scheduler, such as ``--account=m1234``.

    Returns
    -------
    str

    Raises
    ------
    RenderError
        If the cluster has no scheduler, a value cannot be written, or a template is wrong.
    """
    cluster = site.cluster
    if kind not in JOB_KINDS:
        raise RenderError(f"Unknown kind of job {kind!r}.", f"There are {', '.join(JOB_KINDS)}.")
    if kind == "array" and tasks < 2:
        raise RenderError(f"An array of {tasks}: PBS refuses it.", "Use kind 'single', or at least 2 tasks.")
    if kind == "array" and cluster.scheduler == "flux":
        raise RenderError("Flux has no arrays of jobs.", "Use kind 'single'.")
    tasks = tasks if kind == "array" else 1
    width = gpus if kind == "several" else 1
    nodes = Nodes(1, 0 if cluster.accelerator == "cpu" else width, (cpus or cluster.cpus_per_gpu) * width)
    variables = _resources(cluster, nodes) | {
        "command": "",
        "script": script,
        "name": "rootstock",
        "output": "rootstock-{{id}}.out"
        if cluster.scheduler == "flux"
        else f"rootstock-{'%A_%a' if tasks > 1 else '%j'}.out",
        "walltime": walltime,
        "tasks": tasks,
        "concurrent": 0,
        "options": (*site_options(cluster), *options),
    }
    return _render(site, version, variables)


def check_jobs(site: Site, version: str) -> None:
    """Refuse settings and templates with which no job script can be rendered. Errors are those of `render_job`.

    Parameters
    ----------
    site : Site
    version : str
    """
    scheduler = site.cluster.scheduler
    if scheduler == "none":
        return
    for kind in JOB_KINDS:
        if (scheduler, kind) != ("flux", "array"):
            render_job(site, kind, version=version)
    for number in (1, 2):
        job = RunJob(["rootstock"], 2, Nodes(number, 1, 1), 60, (), "rootstock", Path("/"))
        render_run_job(site, job, version=version)


def site_options(cluster: Cluster, *, partition: str | None = None, account: str | None = None) -> list[str]:
    """Return the options of the scheduler that a cluster's jobs need.

    Parameters
    ----------
    cluster : Cluster
    partition, account : str, optional
        In place of those of the cluster's file.
    """
    words = {
        "slurm": ("--partition=", "--account="), "pbs": ("-q ", "-A "), "flux": ("--queue=", "--bank="),
    }.get(cluster.scheduler, ("", ""))  # fmt: skip
    values = (partition or cluster.partition, account or cluster.account)
    return [*(f"{word}{value}" for word, value in zip(words, values, strict=True) if value), *cluster.batch_options]


def _resources(cluster: Cluster, nodes: Nodes) -> dict[str, Any]:
    return {
        "nodes": nodes.number,
        "gpus": nodes.gpus,  # of each node, as the CPUs
        "cpus": nodes.cpus,
        "memory": nodes.memory(cluster),
        "directives": [nodes.fill(text, cluster, "jobs.directives") for text in cluster.directives],
    }


def _render(site: Site, version: str, job: dict[str, Any]) -> str:
    cluster = site.cluster
    if cluster.scheduler == "none":
        raise RenderError(f"Cluster {cluster.name!r} has no scheduler.", "Set jobs.scheduler to slurm, pbs or flux.")
    return render_template(f"{cluster.scheduler}.sh.j2", template_variables(site, version, job), site.templates)
