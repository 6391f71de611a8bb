"""A comparison as text: tables of at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rootstock.root.disk_usage import number_of

if TYPE_CHECKING:
    from rootstock.simulations.comparison.comparison import Comparison

_LONGEST = 30  # characters of a name: a model may be a path


def report(comparison: Comparison, worst: int) -> Iterator[str]:
    """Yield the lines that a person reads.

    Parameters
    ----------
    comparison : Comparison
    worst : int
        How many structures to list.
    """
    if not comparison.complete:
        yield "INCOMPLETE: not every model was asked for every structure.\n"
    yield from _models(comparison)
    yield from _energies(comparison)
    yield from _offsets(comparison)
    yield from _pairs(comparison)
    if worst:
        yield from _worst(comparison, worst)


def _models(comparison: Comparison) -> Iterator[str]:
    rows = [
        (name, each.computed, len(each.failures), _fixed(each.start_s, 1), _fixed(each.computing_s, 1),
         _fixed(each.computed / each.computing_s if each.computing_s else None, 1))
        for name, each in comparison.models.items()
    ]  # fmt: skip
    yield number_of(len(comparison.structures), "structure")
    yield from _table(("model", "computed", "failed", "start s", "computing s", "structures/s"), rows)
    if carried := comparison.carried:
        words = [f"{name} of {number_of(count, 'structure')}" for name, count in carried.items()]
        yield f"data: {', '.join(words)}"


def _energies(comparison: Comparison) -> Iterator[str]:
    from rootstock.simulations.comparison.agreement import statistics

    rows, remarks = [], []
    for name, each in comparison.energies.items():
        before, left = statistics(each.difference), statistics(each.rest)
        compared = left["structures"] if left else 0
        fitted = each.offsets.fitted if each.offsets else 0
        rows.append((name, compared, fitted, *_milli(left, "mae", "rmse", "max"), *_milli(before, "mean", "mae")))
        if before and before["structures"] > compared:
            remarks.append(_not_compared(name, fitted, before["structures"], compared))
    if not rows or not comparison.reference_answers.computed:
        if rows:
            yield f"\nEnergies are not compared: {comparison.reference}, their reference, has computed none."
        return
    yield f"\nEnergies against {comparison.reference}, in meV/atom: what is left after the fit of offsets"
    yield from _table(("model", "structures", "offsets", "MAE", "RMSE", "max", "before: mean", "MAE"), rows)
    yield from remarks


def _not_compared(name: str, fitted: int, given: int, compared: int) -> str:
    """Return why structures say nothing of agreement: their residual is zero whatever the energies are."""
    if not compared:
        return (
            f"{_short(name)}: {number_of(given, 'structure')} for {number_of(fitted, 'fitted offset')} say nothing of "
            "agreement: the fit takes\n  all of their differences, whatever they are."
        )
    return (
        f"{_short(name)}: {given - compared:,} structures left out, such as the only one with some element: the fit "
        "takes all\n  of their differences."
    )


def _offsets(comparison: Comparison) -> Iterator[str]:
    fits = {name: each.offsets for name, each in comparison.energies.items() if each.offsets}
    if not fits:
        return
    symbols = list(dict.fromkeys(symbol for fit in fits.values() for symbol in (*fit.elements, *fit.undetermined)))
    formulas = list(dict.fromkeys(formula for fit in fits.values() for formula in fit.together))
    rows = [(symbol, *(_fixed(fit.elements.get(symbol), 6) for fit in fits.values())) for symbol in symbols]
    rows += [(f"{name} together", *(_fixed(fit.together.get(name), 6) for fit in fits.values())) for name in formulas]
    yield "\nFitted offsets, in eV for each atom of an element"
    yield from _table(("", *fits), rows)
    if formulas:
        undetermined = dict.fromkeys(symbol for fit in fits.values() for symbol in fit.undetermined)
        yield (
            f"The structures do not tell the offsets of {', '.join(undetermined)} apart. Only their sums are\n"
            "  determined, in eV for each formula unit."
        )


def _pairs(comparison: Comparison) -> Iterator[str]:
    found = [each for each in comparison.pairs if each.structures or each.stress_structures]
    if not found:
        yield "\nForces are not compared: no two models have computed those of a structure."
        return
    yield "\nForces, in eV/Å, and stress, in GPa"
    yield from _table(
        ("models", "", "structures", "MAE", "RMSE", "cosine", "of stress", "MAE"),
        [
            (*each.models, each.structures, _fixed(each.forces_mae, 4), _fixed(each.forces_rmse, 4),
             _fixed(each.forces_cosine, 4), each.stress_structures, _fixed(each.stress_mae, 4))
            for each in found
        ],
        left=2,
    )  # fmt: skip


def _worst(comparison: Comparison, worst: int) -> Iterator[str]:
    from rootstock.simulations.comparison.answers import name_of

    rows = []
    for each in comparison.disagreements()[:worst]:
        atoms = comparison.structures[each.index]
        energy = None if each.energy is None else 1000 * each.energy
        rows.append((
            name_of(atoms, each.index), atoms.get_chemical_formula(), _fixed(energy, 2), each.energy_of,
            _fixed(each.force, 4), *(each.force_of or ("", "")),
        ))  # fmt: skip
    if rows:
        yield "\nLargest disagreements: energy after the fit, in meV/atom; two forces on an atom, in eV/Å"
        yield from _table(
            ("structure", "formula", "energy", "of", "force", "between", "and"), rows, left=2, texts=(3, 5, 6)
        )  # fmt: skip


def _table(
    head: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1, texts: Sequence[int] = ()
) -> Iterator[str]:  # fmt: skip
    """Yield the lines of a table; the first columns, and `texts`, are aligned on the left."""
    cells = [[_short(str(cell)) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(
            f"{cell:{'<' if k < left or k in texts else '>'}{width}}"
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()  # fmt: skip


def _milli(values: dict[str, Any] | None, *names: str) -> list[str]:
    return [_fixed(1000 * values[name] if values else None, 2) for name in names]


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # no -0.00


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"...{text[3 - _LONGEST :]}"
