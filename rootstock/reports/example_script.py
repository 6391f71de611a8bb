"""A Python script that computes with a model: of a structure that the model has the elements for."""

from __future__ import annotations

from collections.abc import Sequence

from rootstock.config.demands import GPU, example_lines, setup_words
from rootstock.reports.model import Model

_CRYSTALS = ("Cu", "Si", "Ar")  # what people know; others follow where a model has none of these
_MOLECULES = {"H2O": {"H", "O"}, "CH4": {"H", "C"}, "N2": {"N"}}


def example_script(model: Model, elements: Sequence[str], device: str) -> str:
    """Return a script that prints an energy and forces.

    Parameters
    ----------
    model : Model
    elements : sequence of str
        Those that the model takes; empty if nobody knows, or for any.
    device : str
    """
    maker, atoms = _structure(elements, molecule="charge" in model.needs)
    words = ", ".join(f'"{word}": "NAME"' for word in setup_words(model.needs))
    options = f", setup_kwargs={{{words}}}" if words else ""
    device = "cuda" if GPU in model.needs and device == "cpu" else device
    return "\n".join(
        [
            f"from {'ase' if maker == 'Atoms' else 'ase.build'} import {maker}",
            "from rootstock import RootstockCalculator",
            "",
            f"atoms = {maker}({atoms})",
            *example_lines(model.needs),
            f'with RootstockCalculator(model="{model.model}", device="{device}"{options}) as calc:',
            "    atoms.calc = calc",
            "    print(atoms.get_potential_energy(), atoms.get_forces())",
        ]
    )


def _structure(elements: Sequence[str], *, molecule: bool) -> tuple[str, str]:
    """Return the name of ASE's that makes a structure of some elements, and its arguments."""
    crystals = [f'"{symbol}", cubic=True' for symbol in _CRYSTALS if not elements or symbol in elements]
    molecules = [f'"{name}"' for name, needed in _MOLECULES.items() if not elements or needed <= {*elements}]
    kinds = {"molecule": molecules, "bulk": crystals} if molecule else {"bulk": crystals, "molecule": molecules}
    for maker, arguments in kinds.items():
        if arguments:
            return maker, arguments[0]
    return _elementary(elements)


def _elementary(elements: Sequence[str]) -> tuple[str, str]:
    """Return a crystal of one element, or two atoms where ASE knows no simple crystal."""
    from ase.data import atomic_numbers, reference_states  # here, since few models need it

    for symbol in elements:
        lattice = (reference_states[atomic_numbers[symbol]] or {}).get("symmetry")
        if lattice in ("fcc", "bcc", "diamond"):
            return "bulk", f'"{symbol}", cubic=True'
        if lattice == "hcp":
            return "bulk", f'"{symbol}"'
    return "Atoms", f'"{elements[0]}2", positions=[(0, 0, 0), (0, 0, 2)]'
