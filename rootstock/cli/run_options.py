"""Options of commands that compute in a run folder, and of all that write files of structures."""

from __future__ import annotations

import ast
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.common import merge_options, options, refuse_unused
from rootstock.cli.parameter_types import Place
from rootstock.cli.run_end import near
from rootstock.cli.run_folder import Announce, Run, compute, refuse_read_only
from rootstock.cli.run_workers import AskedWorkers, show_plan, workers_options
from rootstock.errors import ConfigurationError, LockBusyError

if TYPE_CHECKING:
    from rootstock.simulations.pool.slots import Slot
    from rootstock.simulations.runs.begin import Asked, Make
    from rootstock.simulations.runs.elements import Element
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.records import RunRecord

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
    """

    folder: Path
    element: str | None
    stop_on_error: bool
    workers: AskedWorkers | None = None

    @classmethod
    def asked_for(
        cls, run_folder: Path | None, element: str | None, workers: AskedWorkers | None, *, stop_on_error: bool
    ) -> NewRun | None:
        """Return what `run_options` ask for; None without ``--run`` and ``--workers``.

        Parameters
        ----------
        run_folder, element, workers, stop_on_error
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
        if run_folder is None and workers is not None:
            run_folder = _default_folder(click.get_current_context())
        if run_folder is None:
            refuse_unused({"element": "is for --run.", "stop_on_error": "is for --run: other commands always stop."})
            return None
        return cls(run_folder, element, stop_on_error, workers)

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
    """Show what would be computed; a run that is not there is made in a temporary folder."""
    from rootstock.simulations.runs.begin import find_run
    from rootstock.simulations.runs.folder import RunFolder
    from rootstock.simulations.runs.input_table import read_sizes
    from rootstock.simulations.runs.source import Source, index_input

    if (there := find_run(run.folder)) is not None:
        sizes = read_sizes(run.folder, there.structures)
        todo = len(RunFolder(run.folder, there).missing(element))
    else:
        with tempfile.TemporaryDirectory() as folder:
            said = index_input(Path(folder), asked.names, asked.format, lambda text: None)  # noqa: ARG005
            sizes = Source(Path(folder), said).atoms_of
        todo = len(element.owned(sizes))
    show_plan(run.folder, asked.model, sizes, todo, slots, asked.out)


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
    merge_options("run", NewRun.asked_for, "run_folder", "element", "workers", "stop_on_error"),
)  # fmt: skip


def device_words(known: str) -> str:
    """Return the options that let another command compute where this one does, as text behind it.

    Parameters
    ----------
    known : str
        The device that it takes where none is named.
    """
    given = click.get_current_context().params
    device = "" if given["device"] in (None, known) else f" --device {shlex.quote(given['device'])}"
    return device + (f" --threads {given['threads']}" if given["threads"] else "")


def setup_arguments(text: str | None) -> dict[str, Any]:
    """Return the arguments of ``setup()`` that somebody gave as a dict, as Python writes it.

    Parameters
    ----------
    text : str or None

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    try:
        setup = ast.literal_eval(text) if text else {}
        if not isinstance(setup, dict):
            raise ValueError
    except (ValueError, SyntaxError) as error:
        raise ConfigurationError(
            f"--calc-kwargs {text} is not a dictionary, as Python writes it.",
            "For example: --calc-kwargs \"{'default_dtype': 'float64'}\"",
        ) from error
    return setup


def claim_outputs(*paths: Path) -> None:
    """Keep other commands from writing some files, until this command ends.

    Parameters
    ----------
    *paths : Path
    """
    from rootstock.simulations.claims import claim_files

    click.get_current_context().with_resource(claim_files(paths, shlex.join(["rootstock", *sys.argv[1:]])))


def claim_results(folder: Path, element: Element, path: Path) -> None:
    """Keep other commands from writing the results of a run, if this one computes all of it.

    Parameters
    ----------
    folder : Path
    element : Element
    path : Path
        The file for results.

    Raises
    ------
    LockBusyError
        If another command computes this run, or writes that file.
    """
    from rootstock.simulations.runs.elements import refuse_busy

    if element.of > 1:
        return
    try:
        claim_outputs(path)
    except LockBusyError:
        if folder.is_dir():
            refuse_busy(folder, element)
        raise
