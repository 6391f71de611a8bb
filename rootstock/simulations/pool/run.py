"""Computes what is missing in a run with several workers of this node."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rootstock.client.count_devices import count_devices
from rootstock.client.evaluated import FailureClass
from rootstock.config.site import users_site
from rootstock.errors import ConfigurationError, RootstockError
from rootstock.interfaces.arguments import worker_spec
from rootstock.root.layout import RootLayout
from rootstock.root.records import read_build
from rootstock.simulations.pool.plan import GRACE_S, Plan, Told
from rootstock.simulations.pool.pool import Pool
from rootstock.simulations.pool.slots import Slot, find_slots
from rootstock.simulations.pool.work import Work
from rootstock.simulations.runs.carry_out import check_settings
from rootstock.simulations.runs.elements import Element
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.index import WITH_RESULTS
from rootstock.simulations.runs.input_table import read_sizes
from rootstock.simulations.runs.recorder import describe
from rootstock.simulations.runs.source import Source
from rootstock.simulations.runs.submissions import keep_off_bad_nodes, note_bad_node
from rootstock.simulations.runs.worker_states import telling_states

if TYPE_CHECKING:
    from rootstock.config.cluster_settings import Cluster
    from rootstock.interfaces.calculator import RootstockCalculator

# When a job ends, in seconds since 1970: a job script of ours says the first one, Slurm the other one.
_DEADLINES = ("ROOTSTOCK_DEADLINE", "SLURM_JOB_END_TIME")


@dataclass(frozen=True)
class Workers:
    """The workers that somebody asks for.

    Attributes
    ----------
    number : int or None
        How many; None: one for each GPU of the job, or for each group of processors.
    per_gpu : int
        How many share a GPU.
    grace : float [s]
        How long an end may take that somebody asks for.
    limit : int or None
        How many structures are computed at most, of all sizes.
    """

    number: int | None = None
    per_gpu: int = 1
    grace: float = GRACE_S
    limit: int | None = None


@dataclass(frozen=True)
class PoolRun:
    """A run that several workers compute.

    Attributes
    ----------
    folder : RunFolder
    calculator : RootstockCalculator
        Each driver makes one like it. This one starts no worker.
    workers : Workers
    element : Element
    retry_failed : bool
        Whether structures that failed before are computed again.
    """

    folder: RunFolder
    calculator: RootstockCalculator
    workers: Workers
    element: Element
    retry_failed: bool = False

    def todo(self, gpu: str) -> NDArray[np.int64]:
        """Return the indices of what is to be computed, the largest structures first.

        Parameters
        ----------
        gpu : str
            The kind of GPU.
        """
        missing = self.folder.missing(self.element, retry_failed=self.retry_failed, gpu=gpu or None)[::-1]
        if (limit := self.workers.limit) is not None and limit < len(missing):
            missing = missing[np.linspace(0, len(missing) - 1, limit).round().astype(np.int64)]
        return missing

    def compute(
        self, slots: Sequence[Slot], *, recorded: Callable[[Sequence[int]], object],
        states: Callable[[Mapping[str, str]], object] = lambda _: None, stop_on_error: bool = False, **told: Any,
    ) -> bool:  # fmt: skip
        """Compute, and record results.

        Parameters
        ----------
        slots : sequence of Slot
        recorded : callable
            Is given indices that are on the disk.
        states : callable
            Is given what each driver does, when that changes.
        stop_on_error : bool
            Whether the first structure that fails ends it.
        **told
            ``warn`` and ``signals`` of `Told`.

        Returns
        -------
        bool
            Whether everything was computed; False if somebody has ended it before.

        Raises
        ------
        LockBusyError
            If another process computes this element.
        ConfigurationError, OutputError, WorkerError
            As `Pool.run`.
        """
        check_settings(self.folder)  # before any driver is started
        atoms_of = read_sizes(self.folder.path, self.folder.record.structures)
        source = Source(self.folder.path, self.folder.record.input)
        before = self.folder.progress().statuses
        with self.folder.recorder(self.element, recorded) as recorder:
            if not len(self.todo("any other")):
                return True  # and no driver is started

            def missing(indices: Sequence[int]) -> list[int]:
                statuses = self.folder.progress().statuses
                return [index for index in indices if statuses[index] == before[index]]  # nothing new is known of them

            def fail(index: int, kind: FailureClass, error: RootstockError) -> None:
                structure = source.name(index)
                with suppress(ConfigurationError):
                    structure = describe(source[index], structure)
                recorder.fail(index, kind, error, structure)
                recorder.sync()

            plan = Plan(
                slots=slots, begin=lambda slot: self._begin(slot, stop_on_error=stop_on_error),
                work=lambda gpu: Work(self.todo(gpu).tolist(), atoms_of, len(slots)),
                workers_per_gpu=self.workers.per_gpu, stop_on_error=stop_on_error, grace=self.workers.grace,
                deadline=deadline_of(os.environ),
            )  # fmt: skip
            given_up: dict[str, str] = {}

            def closed(place: str, said: str) -> None:
                given_up[place] = said
                if self.folder.progress().count(*WITH_RESULTS):  # else it may be the model that fails everywhere
                    note_bad_node(self.folder.path, platform.node(), given_up)

            with telling_states(self.folder.path, self.element) as tell:

                def both(said: Mapping[str, str]) -> None:
                    states(said)
                    tell(said)

                told_by = Told(recorded=recorded, missing=missing, fail=fail, states=both, closed=closed, **told)
                try:
                    return Pool(plan, told_by).run()
                finally:
                    if given_up:  # before this job makes room for the next one
                        keep_off_bad_nodes(self.folder.path)

    def _begin(self, slot: Slot, *, stop_on_error: bool) -> Mapping[str, Any]:
        return {
            "folder": str(self.folder.path.absolute()), "processors": list(slot.processors),
            "stop_on_error": stop_on_error, "calculator": {**self.calculator.parameters, "threads": slot.threads},
        }  # fmt: skip


def find_places(calculator: RootstockCalculator, workers: Workers) -> list[Slot]:
    """Return where workers compute.

    Parameters
    ----------
    calculator : RootstockCalculator
        It starts no worker.
    workers : Workers

    Raises
    ------
    ConfigurationError
        If so many have no room.
    DeviceError
        If there is no GPU.
    """
    arguments = dict(calculator.parameters)
    build = arguments.pop("build")

    launch = worker_spec(arguments, build).model.launch(threads=1)
    record = read_build(launch.build) if launch.build else None
    return find_slots(
        workers.number, device=arguments["device"], threads=arguments["threads"], workers_per_gpu=workers.per_gpu,
        cluster=_cluster_of(Path(arguments["root"])), count=lambda: count_devices(launch, arguments["device"]),
        accelerator=record.computes_on if record else None,
    )  # fmt: skip


def deadline_of(variables: Mapping[str, str]) -> float | None:
    """Return when the job ends, in seconds since 1970; None if nobody says.

    Parameters
    ----------
    variables : Mapping[str, str]
        The job's.

    Raises
    ------
    ConfigurationError
        If what a variable says is no time.
    """
    for name in _DEADLINES:
        if said := variables.get(name):
            try:
                return float(said)
            except ValueError:
                raise ConfigurationError(
                    f"{name}={said} is no time in seconds since 1970.", f"Remove it: unset {name}"
                ) from None
    return None


def _cluster_of(root: Path) -> Cluster | None:
    """Return the settings of a root's cluster; None where nobody knows it."""
    with suppress(RootstockError):
        return users_site(RootLayout(root)).cluster
    return None
