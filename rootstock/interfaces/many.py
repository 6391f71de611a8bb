"""Many structures, one calculator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from ase import Atoms

from rootstock.client.evaluated import Evaluated
from rootstock.client.many import USUAL, ManyStructures
from rootstock.client.session import WorkerSession
from rootstock.errors import ConfigurationError, RootstockError
from rootstock.interfaces.base import ProxyCalculator


class ManyCalculator(ProxyCalculator):
    """The part of a calculator that computes many structures."""

    _session: WorkerSession

    def evaluate_many(
        self,
        images: Iterable[Atoms],
        properties: Sequence[str] | None = USUAL,
        *,
        on_done: Callable[[Evaluated], None] | None = None,
    ) -> list[Evaluated]:
        """Compute properties of many structures.

        Models whose calculator has ``calculate_batch`` compute several together, in the size that is fastest and fits
        into memory; ``info()["batches"]`` says whether this one does. The numbers then may differ from those of single
        calls by rounding. Others compute one structure after the other: those numbers are the same, bit for bit, on a
        processor.

        Parameters
        ----------
        images : iterable of ase.Atoms
            They may differ in everything. Their calculators, if they have some, are not used.
        properties : sequence of str, optional
            By ASE's names. None: energy, forces, and the stress of structures that have one.
        on_done : callable, optional
            Is given each structure when it is done, perhaps in another order.

        Returns
        -------
        list of Evaluated
            In the order of `images`. A structure that fails does not keep the others from being computed. If no worker
            can be started any more, those that are left have that error.

        Raises
        ------
        PropertyNotImplementedError
            If the model does not compute one of `properties`.
        WorkerError
            If no worker can be started at all.
        """
        kept = list(images)
        done: dict[int, Evaluated] = {}
        try:
            for each in self.iter_many(kept, properties, ordered=False):
                done[each.index] = each
                if on_done is not None:
                    on_done(each)
        except RootstockError as error:
            if not done:
                raise
            for index, structure in enumerate(kept):
                if index not in done:
                    done[index] = Evaluated.lost(index, error, structure)
                    if on_done is not None:
                        on_done(done[index])
        return [done[index] for index in range(len(kept))]

    def iter_many(
        self, images: Iterable[Atoms], properties: Sequence[str] | None = USUAL, *, ordered: bool = True
    ) -> Iterator[Evaluated]:
        """Compute properties of many structures, keeping few of them in memory.

        Between two structures the calculator may be used for other atoms, also by other threads.

        Parameters
        ----------
        images : iterable of ase.Atoms
            It is read as structures are computed, some thousand ahead at most.
        properties : sequence of str, optional
            As in `evaluate_many`.
        ordered : bool
            Whether they come in the order of `images`; otherwise as soon as each is done. Before an error is raised,
            what is done comes in any case.

        Yields
        ------
        Evaluated

        Raises
        ------
        PropertyNotImplementedError
            If the model does not compute one of `properties`.
        WorkerError
            If no worker can be started, or each ends. What was yielded holds.
        """
        if getattr(self.calculate, "__func__", None) is not ProxyCalculator.calculate:
            raise ConfigurationError(
                f"{type(self).__name__} has a calculate() of its own, which many structures at once would go without.",
                "Compute them one by one: atoms.calc = calc; atoms.get_potential_energy().",
            )
        self._sync_parameters()
        done = ManyStructures(self._session, properties).run(images)
        return in_order(done) if ordered else done


def in_order(done: Iterator[Evaluated]) -> Iterator[Evaluated]:
    """Hold what is done until its turn has come."""
    early: dict[int, Evaluated] = {}
    coming = 0
    try:
        for each in done:
            early[each.index] = each
            while coming in early:
                yield early.pop(coming)
                coming += 1
    except RootstockError:
        yield from map(early.pop, sorted(early))
        raise
