"""Options by which commands have jobs of the site's scheduler compute a run folder, and what they do then."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.common import merge_options, options, refuse_unused
from rootstock.cli.job_plans import tell_plan
from rootstock.cli.parameter_types import Whole, Word
from rootstock.cli.run_workers import AskedWorkers, count_signals
from rootstock.errors import ConfigurationError

if TYPE_CHECKING:
    from rootstock.cli.run_folder import Run
    from rootstock.cli.run_line import Line
    from rootstock.config.site import Site
    from rootstock.simulations.pool.run import PoolRun
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.submission.plan import JobPlan, Request
    from rootstock.simulations.submission.submit import Prepared

_ENGINES = ("array", "parsl")
_MANY = 10**9  # structures: before anybody has counted them


@dataclass(frozen=True)
class AskedJobs:
    """The options of a command about jobs.

    Attributes
    ----------
    request : Request
    engine : {'array', 'parsl'}
    workers_per_gpu : int
    dry_run : bool
    """

    request: Request
    engine: str
    workers_per_gpu: int
    dry_run: bool

    @classmethod
    def asked_for(cls, gpus: int | None, engine: str | None, force: bool, **asked: Any) -> AskedJobs | None:
        """Return what `jobs_options` ask for; None without ``--gpus``.

        Parameters
        ----------
        gpus, engine, force, **asked
            As click passes them.

        Raises
        ------
        ConfigurationError
            If options are given that do not go together.
        """
        if gpus is None:
            force_said = "is for --gpus only; existing files are replaced by --overwrite."
            refuse_unused(dict.fromkeys((*asked, "engine"), "is for --gpus only.") | {"force": force_said})
            return None
        refuse_unused(
            {
                "workers": "is for this node, and --gpus has jobs compute; in each, all of its GPUs do.",
                "as_json": "says at the end what a run holds, and with --gpus the command ends before that: ask "
                "'rootstock run status --json' then.",
                "element": "is for one of several processes, and --gpus divides the run itself.",
            }
        )
        from rootstock.simulations.submission.plan import Request

        given, times = click.get_current_context().params, asked.pop("until_done")
        if engine == "parsl":
            refuse_unused(
                {
                    "until_done": "is for --engine array: with Parsl this process stays until all is computed.",
                    "workers_per_gpu": "is for --engine array: Parsl's workers have a GPU each.",
                }
            )
        request = Request(gpus, **asked, until_done=times or 1, force=force)
        return cls(request, engine or "array", given["workers_per_gpu"] or 1, given["dry_run"])

    def words(self, run: Run, grace: float, *, other_file: bool) -> list[str]:
        """Return what is typed after ``rootstock`` to compute one share in a job, without the number of the share.

        Parameters
        ----------
        run : Run
        grace : float [s]
        other_file : bool
            Whether results go to another file than the run says.
        """
        workers = AskedWorkers(None, self.workers_per_gpu, grace, None, dry_run=False)
        words = ["run", "retry-failed" if run.retry_failed else "continue", str(run.path.absolute())]
        words += [*shlex.split(run.more + workers.words()), "--grace", f"{grace:g}"]
        words += ["--stop-on-error"] if run.stop_on_error else []
        words += ["--out", os.path.abspath(run.out)] if run.out is not None and other_file else []
        return [*words, *(["--overwrite"] if run.overwrite else [])]

    @property
    def by_parsl(self) -> bool:
        """Whether this process stays, and hands out the work by Parsl."""
        return self.engine == "parsl"

    def same(self) -> str:
        """Return the options that let another command do the same by Parsl, as text behind it."""
        return f" --gpus {self.request.gpus} --engine parsl"

    def compute(self, run: PoolRun, line: Line, *, stop_on_error: bool) -> bool:
        """Compute a run by Parsl, and show how far it is.

        Parameters
        ----------
        run : PoolRun
        line : Line
        stop_on_error : bool

        Returns
        -------
        bool
            Whether everything was computed; False if a signal has ended it before.
        """
        from rootstock.simulations.parsl_engine.cluster_config import config
        from rootstock.simulations.parsl_engine.compute import compute_run
        from rootstock.simulations.runs.engine_jobs import FOLDER
        from rootstock.simulations.submission.submit import refuse_computed

        path, asked = run.folder.path, dict(vars(self.request))
        refuse_computed(path, force=asked.pop("force"), by_parsl=True)
        asked.pop("until_done")
        line.tell("starting Parsl")
        settled = config(root=run.calculator.parameters["root"], run_dir=path / FOLDER, **asked)
        with count_signals() as came:
            return compute_run(
                run, settled, recorded=line.add, stop_on_error=stop_on_error, states=line.states,
                warn=lambda text: click.echo(text, err=True), signals=came,
            )  # fmt: skip

    def check(self, site: Site, folder: Path, device: str) -> None:
        """Refuse what the cluster does not allow, before anything else takes time, and anything is written.

        Parameters
        ----------
        site : Site
        folder : Path
            Of the run.
        device : str
            Where models are to compute.

        Raises
        ------
        ConfigurationError
            If that is a processor; and as `plan_jobs`.
        """
        from rootstock.simulations.parsl_engine import require_parsl
        from rootstock.simulations.pool.slots import shared_kind
        from rootstock.simulations.submission.plan import plan_jobs
        from rootstock.simulations.submission.submit import check_folder

        if self.by_parsl:
            require_parsl()
        if shared_kind(device) == "cpu":
            raise ConfigurationError(
                "--gpus asks for GPUs, and the device is 'cpu'.",
                "Name another one: --device cuda. On processors compute with --workers, in a job of your own.",
            )
        plan_jobs(site.cluster, self.request, _MANY)
        check_folder(folder, site.cluster.scheduler)

    def prepare(
        self, site: Site, folder: Path, todo: int | Sequence[int], words: Callable[[float], list[str]]
    ) -> tuple[JobPlan, Prepared]:
        """Return the jobs that compute a run, and what would be submitted.

        Parameters
        ----------
        site : Site
        folder : Path
        todo : int or sequence of int
            What is to be computed, as for `plan_jobs`.
        words : callable
            Returns `words`, given the grace.
        """
        from rootstock.simulations.submission.plan import plan_jobs
        from rootstock.simulations.submission.submit import prepare

        plan = plan_jobs(site.cluster, self.request, todo)
        return plan, prepare(folder, site, plan, words(plan.grace))

    def submit(self, folder: RunFolder, plan: JobPlan, prepared: Prepared, out: Path) -> None:
        """Submit the jobs of a run, and say how to follow them.

        Parameters
        ----------
        folder : RunFolder
        plan : JobPlan
        prepared : Prepared
        out : Path
            The file that results go to.
        """
        from rootstock.simulations.submission.submit import submit_run

        submit_run(folder.path, plan, prepared, force=self.request.force, tell=click.echo)
        tell_plan(self, plan, prepared)
        shown = shlex.quote(str(folder.path))
        click.echo(f"See how far it is:  rootstock run status {shown} --watch")
        click.echo(f"End it:             rootstock run cancel {shown}")
        click.echo(f"Results go to {out} when all are computed.")


def _text(name: str, metavar: str, said: str) -> Callable[..., Any]:
    return click.option(name, metavar=metavar, help=f"With --gpus: {said}.")


jobs_options = options(
    click.option(
        "--gpus", type=Whole(1), metavar="N",
        help="Compute with N GPUs of the cluster: submit jobs to its scheduler, and end. The run folder says how far "
        "they are.",
    ),
    _text("--walltime", "TIME", "how long a job may take, as 04:00:00, 90m or 4h [default: the cluster's]"),
    _text("--account", "NAME", "the project that pays"),
    _text("--partition", "NAME", "the partition or queue"),
    _text("--qos", "NAME", "the quality of service"),
    _text("--reservation", "NAME", "a reservation"),
    _text("--gpu-type", "NAME", "the kind of GPU, by the names in the cluster's file"),
    click.option(
        "--option", "options", multiple=True, metavar="OPTION",
        help="With --gpus: a further option of the scheduler, as in a job script; repeatable.",
    ),
    click.option(
        "--until-done", type=Whole(1), metavar="N",
        help="With --gpus: submit up to N times, each after the end of the jobs before; those that find nothing to do "
        "end at once [default: 1].",
    ),
    click.option(
        "--engine", type=Word(_ENGINES),
        help="With --gpus: what distributes the work. array: the scheduler alone. parsl: Parsl, from this process, "
        "which stays [default: array].",
    ),
    click.option(
        "--force", is_flag=True,
        help="With --gpus: submit though other jobs may compute the run. What two compute both costs twice.",
    ),
    merge_options(
        "jobs", AskedJobs.asked_for, "gpus", "walltime", "account", "partition", "qos", "reservation", "gpu_type",
        "options", "until_done", "engine", "force",
    ),
)  # fmt: skip
