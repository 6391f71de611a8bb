"""Many structures, one calculator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ase import Atoms

from rootstock.client.evaluated import Evaluated, FailureClass
from rootstock.client.inputs import Inputs
from rootstock.client.session import WorkerSession
from rootstock.errors import ConfigurationError, ModelError, NonFiniteError
from rootstock.worker.channel.memory import PROPERTY_BITS

USUAL = ("energy", "forces")


class ManyStructures:
    """The part of a calculator that computes many structures."""

    _session: WorkerSession
    _sync_parameters: Callable[[], None]

    def evaluate_many(
        self,
        images: Iterable[Atoms],
        properties: Sequence[str] | None = USUAL,
        *,
        on_done: Callable[[Evaluated], None] | None = None,
    ) -> list[Evaluated]:
        """Compute properties of many structures.

        Parameters
        ----------
        images : iterable of ase.Atoms
        properties : sequence of str, optional
            By ASE's names. None: energy, forces, and the stress of structures that have one.
        on_done : callable, optional
            Is given each structure when it is done, perhaps in another order.

        Returns
        -------
        list of Evaluated
            In the order of `images`. A structure that fails does not keep the others from being computed.
        """
        done = []
        for each in self.iter_many(images, properties):
            if on_done is not None:
                on_done(each)
            done.append(each)
        return done

    def iter_many(self, images: Iterable[Atoms], properties: Sequence[str] | None = USUAL) -> Iterator[Evaluated]:
        """Compute properties of many structures, keeping few of them in memory.

        Yields
        ------
        Evaluated
            In the order of `images`.
        """
        self._sync_parameters()
        session = self._session
        for index, atoms in enumerate(images):
            asked = properties
            if asked is None:
                periodic = atoms.cell.rank == 3 and atoms.pbc.any() and "stress" in session.properties()
                asked = (*USUAL, "stress") if periodic else USUAL
            bits = sum(PROPERTY_BITS[name] for name in asked)
            inputs, results, failed = Inputs(), None, None
            try:
                inputs.update(atoms)
                results = session.evaluate(inputs, bits, bits)
            except (ConfigurationError, ModelError, NonFiniteError) as error:
                failed = error
            found: dict[str, Any] | None = results
            yield Evaluated(index, found, failed, atoms, None if failed is None else FailureClass.STRUCTURE)
