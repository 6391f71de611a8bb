"""``rootstock compare``: the same structures with several models."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rootstock.cli.common import cluster_options, json_option, show_json
from rootstock.cli.compare_table import report
from rootstock.cli.parameter_types import MODEL, REFERENCE, Place, Whole, Word
from rootstock.cli.progress_line import show_meanwhile
from rootstock.cli.run_arguments import claim_outputs
from rootstock.cli.run_end import failure_line
from rootstock.cli.several import Files, Several
from rootstock.cli.simulations import Simulation, device_option, format_option, overwrite_option, threads_option
from rootstock.errors import ConfigurationError, RootstockError, SomeFailedError
from rootstock.root.disk_usage import number_of

if TYPE_CHECKING:
    from rootstock.root.lock import Report
    from rootstock.simulations.comparison.answers import Answers
    from rootstock.simulations.comparison.comparison import Comparison

_DATA = "data"
_SHOWN = 5  # failures that are listed
_FIRST_AFTER_S = 2.0  # a worker that is not ready by then is told of


@click.command(cls=Simulation)
@click.argument("structures", cls=Files, nargs=-1, metavar="STRUCTURE...")
@click.option(
    "--models",
    cls=Several,
    type=MODEL,
    metavar="MODEL...",
    help="Models to compare. They compute one after the other, each in a worker of its own.",
)
@click.option(
    "--against",
    type=REFERENCE,
    metavar="MODEL|data",
    help="Reference for energies: a model, or 'data' for the energies, forces and stresses in the files "
    "[default: the first of --models].",
)
@click.option(
    "--properties",
    cls=Several,
    type=Word(("energy", "forces", "stress")),
    metavar="NAME...",
    help="Properties to compare: energy, forces, stress [default: all that the models compute; stress of "
    "periodic structures].",
)
@click.option(
    "--worst",
    type=Whole(0),
    default=10,
    show_default=True,
    metavar="N",
    help="Number of structures to list, largest disagreements first.",
)
@click.option(
    "--out",
    "-o",
    type=Place(dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Output file for all numbers: .csv, a row for each structure and model, or .json; repeatable.",
)
@click.option(
    "--spread",
    type=Place(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Output file, .extxyz or .traj, for the structures with info['forces_spread']: the largest standard "
    "deviation of the models' forces on an atom, in eV/Å.",
)
@overwrite_option
@format_option
@cluster_options
@device_option("cuda", "cuda")
@threads_option
@json_option
def compare(
    structures: tuple[str, ...], models: tuple[str, ...], against: str | None, properties: tuple[str, ...],
    worst: int, out: tuple[Path, ...], spread: Path | None, overwrite: bool, file_format: str | None, as_json: bool,
    **place: Any,
) -> None:  # fmt: skip
    """Compare models on the same structures.

    STRUCTURE is a file in any format that ASE reads. FILE@INDEX selects frames, as in ASE. Total energies of different
    models differ by an offset for each element: it is fitted and printed, and what is left is compared. Structures that
    a model fails for are left out of its numbers, and counted; the exit code is then 22. --json prints all numbers.

    \b
    Examples:
      rootstock compare candidates.xyz --models mace-medium chgnet sevennet
      rootstock compare dft.extxyz --models mace-medium chgnet --against data --out errors.csv
      rootstock compare 'run.traj@::10' --models mace-small mace-medium --spread spread.extxyz
    """
    _require_both(structures, models)
    names = [*([against] if against and against not in (_DATA, *models) else []), *models]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ConfigurationError(f"{twice[0]} is named twice.")
    from rootstock.interfaces.calculator import RootstockCalculator
    from rootstock.simulations.comparison.compare import begin, require_some
    from rootstock.simulations.comparison.files import check_spread, check_table
    from rootstock.simulations.structures import check_there, read_structures

    for name in structures:
        check_there(name)
    for path in out:
        check_table(path, structures, overwrite=overwrite)
    claim_outputs(*out, *([spread] if spread else []))
    images = read_structures(structures, file_format)
    if spread is not None:
        check_spread(spread, images, len(names), properties, overwrite=overwrite)
    comparison = begin(images, names, against, properties)
    calculators = {name: RootstockCalculator(model=name, **place) for name in names}  # one that is unknown is told now
    try:
        _compute(comparison, calculators, properties)
    except BaseException:
        comparison = dataclasses.replace(comparison, complete=False)
        if any(answers.computed for answers in comparison.models.values()):
            _keep(comparison, out, spread, None if as_json else worst)
        raise
    require_some(comparison)
    unwritten = _write(comparison, out, spread)  # first: whoever reads the tables may end before
    if as_json:
        show_json(comparison.to_dict())
    else:
        click.echo("\n".join(report(comparison, worst)))
    if unwritten:
        raise unwritten[0]
    for answers in comparison.models.values():
        if answers.error is not None:
            raise answers.error
    if comparison.failed:
        raise _some_failed(comparison)


def _require_both(structures: Sequence[str], models: Sequence[str]) -> None:
    """Refuse a line without files or models; it is answered with the line that was meant."""
    if structures and models:
        return
    from rootstock.simulations.structures import structure_file

    given = [*structures, *models]
    files = [name for name in given if structure_file(name).is_file()]
    others = [name for name in given if name not in files]
    line = ["rootstock", "compare", *(files or ["STRUCTURE"]), "--models", *(others or ["MODEL", "MODEL"])]
    missing = "models" if structures else "files of structures"
    raise click.UsageError(f"Which {missing}? Files come first, then --models. Run:\n  {shlex.join(line)}")


def _compute(comparison: Comparison, calculators: Mapping[str, Any], properties: Sequence[str]) -> None:
    """Ask one model after the other, and show how far they are."""
    total = len(comparison.structures)
    for number, (name, calculator) in enumerate(calculators.items(), 1):
        title, answers = f"{number} of {len(calculators)}, {name}: ", comparison.models[name]
        with contextlib.closing(calculator), show_meanwhile(_FIRST_AFTER_S) as show:
            show(f"{title}starting")
            told = functools.partial(_told, show, title, total)
            answers.ask(calculator, comparison.structures, properties, told)
        click.echo(title + _summary(answers), err=True)


def _told(show: Report, title: str, total: int, done: int) -> None:
    show(f"{title}{done:,} of {total:,} structures")


def _summary(answers: Answers) -> str:
    if answers.error is not None:
        return f"nothing computed: {answers.error.message.splitlines()[0]}"
    start = "" if answers.start_s is None else f"start {answers.start_s:.1f} s, then "
    failed = f", {len(answers.failures):,} failed" if answers.failures else ""
    return f"{start}{number_of(answers.computed, 'structure')} in {answers.computing_s:.1f} s{failed}"


def _write(comparison: Comparison, out: Sequence[Path], spread: Path | None) -> list[RootstockError]:
    """Write all files, and return the errors of those that could not be written."""
    from rootstock.simulations.comparison.files import write_table
    from rootstock.simulations.writing import write_structures

    errors = []
    for path in [*out, *([spread] if spread else [])]:
        try:
            if path is spread:
                write_structures(path, comparison.with_spread())
                known = sum(each is not None for each in comparison.forces_spread)
                models = ", ".join(comparison.committee) or "no model"
                said = f"forces_spread of {known:,} (forces of {models})"
            else:
                write_table(path, comparison)
                said = number_of(len(comparison.models), "model")
        except RootstockError as error:
            errors.append(error)
        else:
            click.echo(f"{path}: {number_of(len(comparison.structures), 'structure')}, {said}", err=True)
    return errors


def _keep(comparison: Comparison, out: Sequence[Path], spread: Path | None, worst: int | None) -> None:
    """Keep what there is of a comparison that does not come to its end: in files beside those that it would have."""
    from rootstock.simulations.driver import unused
    from rootstock.simulations.output import beside

    if out or spread:
        partial = {path: unused(beside(path, f".partial{path.suffix}")) for path in (*out, spread) if path}
        for error in _write(comparison, [partial[path] for path in out], spread and partial[spread]):
            click.echo(error.message, err=True)
    elif worst is not None:
        click.echo("\n".join(report(comparison, worst)))


def _some_failed(comparison: Comparison) -> SomeFailedError:
    rows = [row for row in comparison.rows() if row["failure"]]
    lines = [
        failure_line({**row, "structure": f"{row['structure']}, {row['model']}", "class": row["failure"]})
        for row in rows[:_SHOWN]
    ]  # fmt: skip
    if len(rows) > _SHOWN:
        lines.append(f"and {len(rows) - _SHOWN:,} more")
    total = len(comparison.structures) * len(comparison.models)
    text = "\n  ".join([f"{len(rows):,} of {total:,} calculations failed, and are left out of all numbers:", *lines])
    return SomeFailedError(text, "All of them, with their messages, are in the file that --out FILE.csv writes.")
