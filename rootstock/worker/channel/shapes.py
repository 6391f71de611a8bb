"""Shapes of extra results, as environment files write them: ``scalar``, ``per-atom``, ``3N,3N``, ``models,N,3``.

Neither numpy nor ASE is imported here: listing models reads these, and must stay quick.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_WORDS = {"scalar": "", "per-atom": "N"}
_DIMENSION = re.compile(r"(?P<factor>[1-9][0-9]{0,8})?(?P<atoms>N)?|(?P<word>[a-z][a-z_]*)")
_MOST = 8  # dimensions
GRAMMAR = "scalar, per-atom, or dimensions such as N,3 and models,3N,3N"


class Dimension(NamedTuple):
    """One dimension.

    Attributes
    ----------
    word : str
        Names one of any size; empty for others.
    factor : int
        The size, or how many for each atom.
    of_atoms : bool
        Whether it grows with the number of atoms.
    """

    word: str
    factor: int = 1
    of_atoms: bool = False

    def size(self, atoms: int) -> int | None:
        """Return the size for so many atoms; None for any."""
        return None if self.word else self.factor * (atoms if self.of_atoms else 1)


class Shape(tuple[Dimension, ...]):
    """The dimensions of a result; none of a single number."""

    __slots__ = ()

    @property
    def per_atom(self) -> bool:
        """Whether each atom has a number, or some whose number does not depend on how many atoms there are."""
        return bool(self) and self[0] == Dimension("", 1, of_atoms=True) and not any(each.of_atoms for each in self[1:])

    def fits(self, shape: tuple[int, ...], atoms: int) -> bool:
        """Tell whether an array of some shape is one of this kind.

        Parameters
        ----------
        shape : tuple of int
        atoms : int
            How many there are.
        """
        sizes = [dimension.size(atoms) for dimension in self]
        return len(sizes) == len(shape) and all(a is None or a == b for a, b in zip(sizes, shape, strict=True))

    def words(self, atoms: int) -> str:
        """Return what `fits` expects, for messages; `atoms` is how many there are."""
        sizes = (dimension.word or str(dimension.size(atoms)) for dimension in self)
        return f"({', '.join(sizes)}{',' if len(self) == 1 else ''})"


def parse_shape(text: str) -> Shape:
    """Read a shape.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> parse_shape("models, 3N").fits((5, 6), atoms=2)
    True
    >>> parse_shape("per-atom").words(atoms=2)
    '(2,)'
    """
    if not isinstance(text, str):
        raise ValueError("it is no string")  # of what came over the channel, too
    parts = [each.strip() for each in _WORDS.get(text.strip(), text).split(",")]
    if parts == [""] and text.strip() == "scalar":
        return Shape()
    found = [_DIMENSION.fullmatch(each) if each and each not in _WORDS else None for each in parts]
    if None in found or len(parts) > _MOST:
        raise ValueError(f"it is none of {GRAMMAR}")
    return Shape(
        Dimension(match["word"] or "", int(match["factor"] or 1), match["atoms"] is not None)
        for match in found
        if match is not None
    )
