"""What ASE loads of us by itself, through the entry point ``ase.ioformats``: a file format and a calculator's name.

ASE reads that entry point when `ase.io` is imported, which ``ase run`` does before it looks for its calculator. It has
no entry point for calculators.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from ase.calculators import calculator
from ase.utils.plugins import ExternalIOFormat

FORMAT = ExternalIOFormat(
    desc="Reference structures of a Rootstock environment file, with their published values",
    code="+F",
    module="rootstock.interfaces.ase_plugins",
)


def make(**arguments: Any) -> Any:
    """Return a `RootstockCalculator`; its module is loaded now, and not by everybody who imports `ase.io`."""
    from rootstock.interfaces.calculator import RootstockCalculator

    return RootstockCalculator(**arguments)


make.nolabel = True  # type: ignore[attr-defined]  # ASE passes a label to every calculator that does not say this
if "rootstock" not in calculator.external_calculators:
    calculator.register_calculator_class("rootstock", make)


def read_rootstock_references(file: IO[str], index: slice) -> list[Any]:
    """Read the structures that an environment file verifies its builds with.

    Their published values are the results of a calculator; names and sources are in ``atoms.info``.

    Parameters
    ----------
    file : file
        The environment file, open.
    index : slice
        Which of the structures.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    from rootstock.config.environment_file import read_source

    images = []
    for reference in read_source(Path(file.name)).references()[index]:
        atoms = Atoms(**reference.structure, info={"name": reference.name, "source": reference.source})
        atoms.calc = SinglePointCalculator(atoms, **reference.expected)
        images.append(atoms)
    return images
