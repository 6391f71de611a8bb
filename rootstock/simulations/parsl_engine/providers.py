"""What submits Parsl's jobs to a batch system: each job has one node, or a part of one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from parsl.launchers import SimpleLauncher
from parsl.providers import PBSProProvider, SlurmProvider
from parsl.providers.base import ExecutionProvider

from rootstock.config.amounts import clock
from rootstock.config.clusters import Cluster
from rootstock.simulations.runs.schedulers import FILTERS
from rootstock.simulations.submission.plan import JobPlan
from rootstock.simulations.submission.send import outranks

_EXCLUDE = "#SBATCH --exclude="
_SBATCH = ("--ntasks=1", "--cpus-per-task={cpus}")


class _Slurm(SlurmProvider):
    """Parsl's, without variables by which Slurm's programs would do something else than they are asked for."""

    def execute_wait(self, cmd: str, timeout: float | None = None) -> tuple[int, str, str]:
        script = Path(shlex.split(cmd)[-1])
        text = script.read_text() if cmd.startswith("sbatch ") else ""
        words = [f"-u {name}" for name in os.environ if name.startswith(FILTERS) or outranks(text, name)]
        command = f"env {' '.join(words)} {cmd}" if words else cmd
        return super().execute_wait(command, timeout)  # type: ignore[no-any-return, no-untyped-call]


def job_options(cluster: Cluster, plan: JobPlan) -> list[str]:
    """Return what each job asks of the scheduler, as lines of its script.

    Parameters
    ----------
    cluster : Cluster
    plan : JobPlan
    """
    asked = [plan.nodes.fill(text, cluster, "jobs.directives") for text in cluster.directives]
    memory = plan.nodes.memory(cluster)
    if cluster.scheduler == "slurm":
        asked = asked or [
            *(plan.nodes.fill(text, cluster, "") for text in _SBATCH), f"--gres=gpu:{plan.nodes.gpus}",
            *([f"--mem={memory}"] if memory else []),
        ]  # fmt: skip
        return [f"#SBATCH {line}" for line in (*asked, *plan.options)]
    asked = asked or [
        f"-l select=1:ncpus={plan.nodes.cpus}:ngpus={plan.nodes.gpus}" + (f":mem={memory}" if memory else "")
    ]
    return [f"#PBS {line}" for line in (*asked, *plan.options)]


def provider(cluster: Cluster, plan: JobPlan) -> ExecutionProvider:
    """Return what submits jobs.

    Parameters
    ----------
    cluster : Cluster
        With Slurm or PBS.
    plan : JobPlan
    """
    begin: dict[str, Any] = {
        "nodes_per_block": 1, "init_blocks": plan.shares, "min_blocks": 0, "max_blocks": plan.shares,
        "walltime": clock(plan.seconds), "launcher": SimpleLauncher(debug=False), "cmd_timeout": 60,
        "worker_init": f"export ROOTSTOCK_DEADLINE=$(( $(date +%s) + {plan.seconds} ))",
        "scheduler_options": "\n".join(job_options(cluster, plan)),
    }  # fmt: skip
    if cluster.scheduler == "slurm":
        return _Slurm(exclusive=False, **begin)
    made = PBSProProvider(**begin)
    # Parsl asks for nodes in a line of its own, beside which PBS allows no other one: ours says it all.
    template = made.template_string.splitlines(keepends=True)
    made.template_string = "".join(line for line in template if "-l select=" not in line)
    return made


def leave_out(made: ExecutionProvider | None, nodes: Iterable[str]) -> None:
    """Have no more jobs submitted to some nodes, where the batch system has an option for that: Slurm has.

    Parameters
    ----------
    made : ExecutionProvider or None
        What `provider` returned; of any other nothing is changed.
    nodes : iterable of str
    """
    if isinstance(made, _Slurm):
        lines = made.scheduler_options.split("\n")
        # Of several lines the last one would count.
        before = [line.removeprefix(_EXCLUDE) for line in lines if line.startswith(_EXCLUDE)]
        if new := [node for node in nodes if node not in ",".join(before).split(",")]:
            kept = [line for line in lines if not line.startswith(_EXCLUDE)]
            made.scheduler_options = "\n".join([*kept, _EXCLUDE + ",".join([*before, *new])])
