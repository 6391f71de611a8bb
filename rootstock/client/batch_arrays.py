"""What a client puts into the shared memory of a batch, and what it takes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from rootstock.client.extra_results import ExtraReader, with_extras
from rootstock.client.inputs import Inputs, first_bad
from rootstock.client.shared_arrays import Result, sections
from rootstock.errors import ConfigurationError, NonFiniteError
from rootstock.worker.channel.batch_memory import FAILED, BatchMemory
from rootstock.worker.channel.memory import INPUT_BITS, INPUTS, PROPERTY_BITS, Section, SharedMemory

_REST = tuple(enumerate(INPUTS[1:], start=1))


class Question(NamedTuple):
    """What is asked of one structure.

    Attributes
    ----------
    number : int
        Its place among all structures.
    inputs : Inputs
        What the model is given.
    asked : int
        Properties, as bits.
    structure : ase.Atoms
        The caller's own object.
    atoms : int
        How many it has.
    """

    number: int
    inputs: Inputs
    asked: int
    structure: Atoms
    atoms: int


def require_atoms(number: int, structure: object) -> None:
    """Refuse what is no structure.

    Parameters
    ----------
    number : int
        Its place.
    structure : object

    Raises
    ------
    ConfigurationError
    """
    if not isinstance(structure, Atoms):
        raise ConfigurationError(f"Structure {number} is a {type(structure).__name__}, and no ase.Atoms.")


class BatchArrays:
    """The client's side of a batch's memory.

    Parameters
    ----------
    memory : SharedMemory
    title : str
        What the worker is of, for messages.
    extras : ExtraReader, optional
    """

    def __init__(self, memory: SharedMemory, title: str, extras: ExtraReader | None = None) -> None:
        self._extras = extras
        self.memory, self._title = BatchMemory(memory), title
        self._questions: Sequence[Question] = ()
        self._views: dict[str, NDArray[Any]] = {}
        self._ends: list[int] = []

    def put(self, questions: Sequence[Question]) -> dict[str, Any]:
        """Put structures into the memory, and return what the worker is told beside it.

        Raises
        ------
        WorkerError
            If there is no memory for so many atoms.
        """
        counts = [question.atoms for question in questions]
        self.memory.grow(sum(counts), len(counts))
        self._questions = questions
        self._views = views = self.memory.views(sum(counts), len(counts))
        views["stop"][...] = 0
        views["counts"][...] = counts
        views["found"][...] = 0
        if self._extras:
            views["extras"][...] = 0
        views["asked"][...] = [question.asked for question in questions]
        self._ends = np.cumsum(counts).tolist()
        np.concatenate([question.inputs.positions for question in questions], out=views["positions"])
        present = [INPUT_BITS["positions"]] * len(questions)
        for number, section in _REST:
            given: list[Any] = [question.inputs.rest[number - 1] for question in questions]
            if None not in given:
                views[section.name].reshape(-1)[...] = np.frombuffer(b"".join(given), section.dtype)
                present = [bits | 1 << number for bits in present]
            elif given != [None] * len(given):
                self._put_some(section, given, counts)
                present = [bits | (data is not None) << number for bits, data in zip(present, given, strict=True)]
        views["present"][...] = present
        info = {str(k): question.inputs.rest.info for k, question in enumerate(questions) if question.inputs.rest.info}
        return {"structures": len(questions), "room": list(self.memory.room), "info": info}

    def _put_some(self, section: Section, given: list[bytes | None], counts: list[int]) -> None:
        """Put a section that some structures have and others lack."""
        view = self._views[section.name]
        for data, count, end in zip(given, counts, self._ends, strict=True):
            if data is not None:
                view[end - count : end] = np.frombuffer(data, section.dtype).reshape(count, *section.shape)

    def done(self, begin: int, end: int) -> list[bool]:
        """Return which of some structures are done: those that have results, or have failed.

        Parameters
        ----------
        begin, end : int
            The first one, and the first one behind them.
        """
        return (self._views["found"][begin:end] != 0).tolist()  # type: ignore[no-any-return]

    def results(self, begin: int, end: int) -> list[Result | NonFiniteError | None]:
        """Take results out.

        Parameters
        ----------
        begin, end : int
            The first structure, and the first one behind them.

        Returns
        -------
        list
            For each its results; an error if something that was asked for is not finite; None if
            it failed, or is not done.
        """
        found: list[int] = self._views["found"][begin:end].tolist()
        outcomes: list[Any] = [{} if bits > 0 else None for bits in found]
        first = self._ends[begin] - self._questions[begin].atoms if begin < end else 0
        every = 0
        for bits in found:
            every |= bits if bits != FAILED else 0
        for section in sections(every & sum(PROPERTY_BITS.values())):
            name, bit = section.name, PROPERTY_BITS[section.name]
            block = self._views[name][first : self._ends[end - 1]] if section.per_atom else self._views[name][begin:end]
            finite = bool(np.isfinite(block).all())
            scalars = None if section.per_atom or section.shape else block.tolist()
            for k, bits in enumerate(found):
                if bits <= 0 or not bits & bit or not isinstance(outcomes[k], dict):
                    continue
                if scalars is not None:
                    value = scalars[k]
                elif section.per_atom:
                    last = self._ends[begin + k] - first
                    value = block[last - self._questions[begin + k].atoms : last].copy()
                else:
                    value = block[k].copy()
                if finite or np.isfinite(value).all():
                    outcomes[k][name] = value
                elif bit & self._questions[begin + k].asked:
                    outcomes[k] = NonFiniteError(
                        f"The model {self._title} returned NaN or infinity in {name}{first_bad(np.asarray(value))}.",
                        "Overlapping atoms and structures far from its training data do this.",
                    )
        if self._extras:
            self._add_extras(self._extras, outcomes, begin)
        return outcomes

    def _add_extras(self, reader: ExtraReader, outcomes: list[Any], begin: int) -> None:
        places: list[int] = self._views["extras"].tolist()
        for k, outcome in enumerate(outcomes):
            if isinstance(outcome, dict):
                try:
                    atoms = self._questions[begin + k].atoms
                    extra = reader.of_structure(places[begin + k], self.memory.end, atoms)
                except NonFiniteError as error:
                    outcomes[k] = error
                else:
                    outcomes[k] = with_extras(outcome, extra)
