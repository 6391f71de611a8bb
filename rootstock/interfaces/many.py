"""Many structures, one calculator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from ase import Atoms

from rootstock.client.batch_arrays import require_atoms
from rootstock.client.evaluated import Evaluated
from rootstock.client.many import USUAL, ManyStructures
from rootstock.client.session import WorkerSession
from rootstock.errors import ConfigurationError, RootstockError, WorkerError
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
        for index, structure in enumerate(kept):
            require_atoms(index, structure)
        done: dict[int, Evaluated] = {}
        for each in self._all(kept, self.iter_many(kept, properties, ordered=False)):
            done[each.index] = each
            if on_done is not None:
                on_done(each)
        return [done[index] for index in range(len(kept))]

    @staticmethod
    def _all(images: Sequence[Atoms], results: Iterator[Evaluated]) -> Iterator[Evaluated]:
        """Yield results, and after an error that ends them, which structures are left."""
        left = set(range(len(images)))
        try:
            for each in results:
                left.discard(each.index)
                yield each
        except WorkerError as error:
            if len(left) == len(images):
                raise
            lost = error
        for index in sorted(left):
            yield Evaluated.lost(index, lost, images[index])

    def iter_many(
        self,
        images: Iterable[Atoms],
        properties: Sequence[str] | None = USUAL,
        *,
        ordered: bool = True,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Evaluated]:
        """Compute properties of many structures, keeping few of them in memory.

        Between two structures the calculator may be used for other atoms, also by other threads.

        Parameters
        ----------
        images : iterable of ase.Atoms
            It is read as structures are computed, some thousand ahead at most. Results have a copy of each; those of a
            list or tuple the object itself.
        properties : sequence of str, optional
            As in `evaluate_many`.
        ordered : bool
            Whether they come in the order of `images`; otherwise as soon as each is done. Before an error is raised,
            what is done comes in any case.
        stopped : callable
            Is asked now and then, also by an exchange that is going on, whether to compute no more; what is done by
            then still comes. MPI ranks must all say the same.

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
        many = self.many_structures(properties, stopped)
        if not isinstance(images, Sequence):  # whoever makes them one by one may make them of the same object
            images = (atoms.copy() if isinstance(atoms, Atoms) else atoms for atoms in images)
        done = many.run(images)
        return in_order(done) if ordered else done

    def many_structures(
        self, properties: Sequence[str] | None, stopped: Callable[[], bool] = lambda: False
    ) -> ManyStructures:
        """Return what computes many structures again and again. Asking starts the worker.

        Parameters
        ----------
        properties : sequence of str or None
            As in `iter_many`.
        stopped : callable
            As there.

        Raises
        ------
        PropertyNotImplementedError
            If the model does not compute one of `properties`.
        WorkerError
            If no worker can be started.
        """
        if getattr(self.calculate, "__func__", None) is not ProxyCalculator.calculate:
            raise ConfigurationError(
                f"{type(self).__name__} has a calculate() of its own, which many structures at once would go without.",
                "Compute them one by one: atoms.calc = calc; atoms.get_potential_energy().",
            )
        self._sync_parameters()
        return ManyStructures(self._session, properties, stopped)

    def renew(self) -> None:
        """End the worker, also for copies of this calculator: the next call starts another one."""
        self._session.renew()


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
