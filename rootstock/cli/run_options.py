"""Options of commands that compute in a run folder, and of all that write files of structures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.common import merge_options, options, refuse_unused
from rootstock.cli.job_plans import show_jobs, show_parsl
from rootstock.cli.jobs import AskedJobs, jobs_options
from rootstock.cli.parameter_types import Place
from rootstock.cli.run_arguments import claim_results, device_words, setup_arguments
from rootstock.cli.run_end import near
from rootstock.cli.run_folder import Announce, Run, compute, refuse_read_only
from rootstock.cli.run_line import show_line
from rootstock.cli.run_workers import AskedWorkers, show_plan, show_what, workers_options
from rootstock.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rootstock.root.lock import Report
    from rootstock.simulations.pool.slots import Slot
    from rootstock.simulations.runs.begin import Asked, Make
    from rootstock.simulations.runs.elements import Element
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.records import RunRecord
    from rootstock.simulations.runs.source import Source

element_option = click.option(
    "--element", metavar="I/N",
    help="Compute share I of N; several processes or jobs can each compute one [default: 1/1].",
)  # fmt: skip
stop_option = click.option("--stop-on-error", is_flag=True, help="Stop at the first structure that fails.")


@dataclass(frozen=True)
class NewRun:
    """The options of a command that computes in a run folder, which may be there already.

    Attributes
    ----------
    folder : Path
    element : str or None
        As it was given.
    stop_on_error : bool
    workers : AskedWorkers or None
    jobs : AskedJobs or None
        Which compute it; None: this process does.
    """

    folder: Path
    element: str | None
    stop_on_error: bool
    workers: AskedWorkers | None = None
    jobs: AskedJobs | None = None

    @classmethod
    def asked_for(
        cls, run_folder: Path | None, element: str | None, workers: AskedWorkers | None, jobs: AskedJobs | None, *,
        stop_on_error: bool,
    ) -> NewRun | None:  # fmt: skip
        """Return what `run_options` ask for; None without ``--run``, ``--workers`` and ``--gpus``.

        Parameters
        ----------
        run_folder, element, workers, jobs, stop_on_error
            As click passes them.

        Raises
        ------
        ConfigurationError
            If the folder's name looks like an option, or options are given that are for run folders only.
        """
        if run_folder is not None and str(run_folder).startswith("-"):
            raise ConfigurationError(
                f"{run_folder} begins with a dash, as options do, so other commands could not name that run folder.",
                "Name it otherwise: --run FOLDER",
            )
        if run_folder is None and (workers is not None or jobs is not None):
            run_folder = _default_folder(click.get_current_context())
        if run_folder is None:
            refuse_unused({"element": "is for --run.", "stop_on_error": "is for --run: other commands always stop."})
            return None
        return cls(run_folder, element, stop_on_error, workers, jobs)

    def compute(
        self, kind: str, model: str, names: tuple[str, ...], settings: Mapping[str, Any], *,
        calculator: Callable[..., Any], out: Path | None, overwrite: bool, file_format: str | None,
        drawn: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Compute what the folder lacks; see `compute`.

        Parameters
        ----------
        kind, model, names, settings
            As for `rootstock.simulations.runs.begin.Asked`.
        calculator : callable
            As `calculator_options` makes it.
        out, overwrite, file_format
            As click passes them.
        drawn : mapping, optional
            As for `Asked`; what holds is told.
        """
        from rootstock.simulations.runs.begin import Asked, begin, check_asked, check_out, find_run
        from rootstock.simulations.runs.elements import Element
        from rootstock.simulations.runs.export import check_export
        from rootstock.simulations.runs.folder import RunFolder
        from rootstock.simulations.runs.making import check_ours
        from rootstock.simulations.structures import check_there

        given = click.get_current_context().params
        setup, device = setup_arguments(given["calc_kwargs"]), given["device"]
        element = Element.parse(self.element) if self.element else Element()
        for name in names:
            check_there(name)
        there = find_run(self.folder)
        path = out or (near(Path(there.out)) if there else self._default_out())
        asked = Asked(kind, model, names, file_format, settings, setup, device, path, drawn or {})
        # A file that is in the way is the last thing to be told of: what else is wrong may be the reason for it.
        if there is not None:
            check_asked(self.folder, there, asked)
            refuse_read_only(self.folder, element, out=out)
        elif self.folder.is_dir():
            check_ours(self.folder)
        if self.jobs is not None and (
            self.jobs.dry_run or there is None or len(RunFolder(self.folder, there).missing())
        ):
            self._submit(self.jobs, asked, there, lambda build: calculator(model, build=build), overwrite=overwrite)
            return
        places = self._find_places(there, element, lambda build: calculator(model, build=build))
        check_out(path, names)
        check_export(self.folder, path, overwrite=overwrite)
        if self.workers is not None and self.workers.dry_run:
            _show_plan(self, asked, element, places)
            return
        claim_results(self.folder, element, path)
        more = device_words(there.device if there else device)
        run = Run(
            self.folder, element, self.stop_on_error, out=path, overwrite=overwrite, more=more, model=model,
            workers=self.workers, places=places,
        )  # fmt: skip
        compute(
            run,
            lambda show, announce: begin(
                self.folder, asked, lambda build: calculator(model, build=build), show,
                _telling(asked.drawn, announce),
            ),
        )  # fmt: skip

    def _submit(
        self, jobs: AskedJobs, asked: Asked, there: RunRecord | None, make: Make, *, overwrite: bool
    ) -> None:  # fmt: skip
        """Have jobs compute what the folder lacks, which is made if it is not there."""
        from rootstock.config.site import users_site
        from rootstock.root.layout import RootLayout
        from rootstock.simulations.runs.begin import begin, check_out, naming_rebase
        from rootstock.simulations.runs.elements import Element
        from rootstock.simulations.runs.export import check_export
        from rootstock.simulations.runs.folder import RunFolder
        from rootstock.simulations.submission.identity import identity

        with naming_rebase(self.folder, there), closing(make(there.build if there else None)) as calc:
            site = users_site(RootLayout(Path(calc.parameters["root"])), strict=True)
            jobs.check(site, self.folder, calc.parameters["device"])
            identity(calc)
        check_out(asked.out, asked.names)
        check_export(self.folder, asked.out, overwrite=overwrite)
        run = Run(
            self.folder, Element(), self.stop_on_error, out=asked.out, overwrite=overwrite,
            more=device_words(there.device if there else asked.device), model=asked.model, jobs=jobs,
        )  # fmt: skip
        words = partial(jobs.words, run, other_file=bool(there and os.path.realpath(asked.out) != there.out))
        if jobs.dry_run:
            sizes, todo = _what(self, asked, Element())
            show_what(self.folder, asked.model, sizes, todo, asked.out)
            held = RunFolder(self.folder, there) if there else None
            places = held.places(held.missing()) if held else todo
            show_parsl(jobs, site, todo) if jobs.by_parsl else show_jobs(
                jobs, *jobs.prepare(site, self.folder, places, words), todo
            )
            return

        def opened(show: Report, announce: Announce) -> AbstractContextManager[tuple[RunFolder, Source, Any]]:
            return begin(self.folder, asked, make, show, _telling(asked.drawn, announce), identity)

        if jobs.by_parsl:
            claim_results(self.folder, Element(), asked.out)
            compute(run, opened)
            return
        with show_line() as line, opened(line.tell, run.announce) as (folder, _, _):
            plan, prepared = jobs.prepare(site, self.folder, folder.places(folder.missing()), words)
        jobs.submit(folder, plan, prepared, asked.out)

    def _find_places(self, there: RunRecord | None, element: Element, make: Make) -> list[Slot]:
        """Return where workers compute, and see that there is such a model before anything is written."""
        from rootstock.simulations.runs.begin import naming_rebase
        from rootstock.simulations.runs.folder import RunFolder

        if there is not None and (self.workers is None or not len(RunFolder(self.folder, there).missing(element))):
            return []
        with naming_rebase(self.folder, there), closing(make(there.build if there else None)) as calc:
            return self.workers.find_places(calc) if self.workers else []

    def _default_out(self) -> Path:
        """Return the file beside the folder that has its name."""
        folder = Path(os.path.abspath(self.folder))
        name = folder.name.removesuffix(_ENDING)
        return near(folder.with_name(f"{name}.extxyz")) if name else Path("results.extxyz")


def _telling(drawn: Mapping[str, Any], announce: Announce) -> Announce:
    """Return what announces a run, and then tells which of its settings nobody asked for."""

    def announced(folder: RunFolder | None, structures: int) -> None:
        announce(folder, structures)
        held = drawn if folder is None else folder.record.settings
        for name in drawn:
            click.echo(f"{name} {held[name]}, as the run folder keeps it.", err=True)

    return announced


def _show_plan(run: NewRun, asked: Asked, element: Element, slots: Sequence[Slot]) -> None:
    """Show what would be computed by workers of this node."""
    sizes, todo = _what(run, asked, element)
    show_plan(run.folder, asked.model, sizes, todo, slots, asked.out)


def _what(run: NewRun, asked: Asked, element: Element) -> tuple[NDArray[np.int64], int]:
    """Return the sizes of all structures, and how many are to be computed; for a new run a temporary one is made."""
    from rootstock.simulations.runs.begin import find_run
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.input_table import read_sizes
    from rootstock.simulations.runs.source import Source, index_input

    if (there := find_run(run.folder)) is not None:
        return read_sizes(run.folder, there.structures), len(RunFolder(run.folder, there).missing(element))
    with tempfile.TemporaryDirectory() as folder:
        said = index_input(Path(folder), asked.names, asked.format, lambda text: None)  # noqa: ARG005
        sizes = Source(Path(folder), said).atoms_of
    return sizes, len(element.owned(sizes))


_ENDING = ".run"  # of folders that nobody has named


def _default_folder(context: click.Context) -> Path:
    """Return the run folder of a command that names none."""
    from rootstock.simulations.structures import results_stem

    names, command = context.params["structures"], str(context.info_name)
    if len(names) > 1:
        raise ConfigurationError(
            f"The results of {len(names)} files go into one run folder, which has no name yet.", "Name it: --run FOLDER"
        )
    ending = {"singlepoint": "results", "relax": "relaxed"}.get(command, command)
    return Path(f"{results_stem(names[0])}-{ending}{_ENDING}")


run_options = options(
    click.option(
        "--run", "run_folder", type=Place(readable=False, path_type=Path), metavar="FOLDER",
        help="Run folder for many structures: results are kept as they are computed, structures that fail do not stop "
        "the others, and the same command continues after an interruption. --out is then .extxyz, .db, .npz or .csv "
        "[default: FOLDER.extxyz, beside FOLDER].",
    ),
    element_option,
    stop_option,
    workers_options,
    jobs_options,
    merge_options("run", NewRun.asked_for, "run_folder", "element", "workers", "jobs", "stop_on_error"),
)  # fmt: skip
