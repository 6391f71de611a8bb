"""Molecular dynamics of each structure of a run, which goes on from its restart file."""

from __future__ import annotations

import logging
import shlex
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from rootstock.client.evaluated import FailureClass
from rootstock.client.reported import failure_class
from rootstock.errors import ConfigurationError, NonFiniteError, OutputError, RootstockError, WorkerError
from rootstock.simulations.dynamics import Dynamics, Simulation, files_of
from rootstock.simulations.output import naming
from rootstock.simulations.provenance import SOURCE
from rootstock.simulations.runs.aside import put_back, set_aside
from rootstock.simulations.runs.feed import Feed
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.frames_index import read_frame
from rootstock.simulations.second_try import renewed
from rootstock.simulations.writing import check_structures

if TYPE_CHECKING:
    from rootstock.simulations.runs.compute import Computation

logger = logging.getLogger(__name__)
FOLDER = "md"
_TOLD_S = 0.5  # between two steps that are told
_DIGITS = 6  # of the index in the names of files, or as many as the last one has


def seed_of(seed: int, index: int) -> int:
    """Return the seed of one structure of a run: all 53 bits that every reader of JSON keeps.

    Parameters
    ----------
    seed : int
        Of the run.
    index : int
        Of the structure.

    >>> seed_of(5, 0), seed_of(5, 1)
    (7645935436168217, 3381174520779030)
    """
    return int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)[0]) >> 11


def prefix_of(folder: RunFolder, index: int) -> Path:
    """Return how the names of a structure's files begin.

    Parameters
    ----------
    folder : RunFolder
    index : int
    """
    digits = max(_DIGITS, len(str(folder.record.structures - 1)))
    return folder.path / FOLDER / f"{index:0{digits}d}"


def simulate_each(run: Computation, feed: Feed) -> None:
    """Simulate structures, one after the other, until there are no more or somebody asks to stop.

    Parameters
    ----------
    run : Computation
    feed : Feed

    Raises
    ------
    ConfigurationError, OutputError, WorkerError
        As from `Computation.run`.
    """
    settings = run.folder.settings(Dynamics)
    with naming(run.folder.path / FOLDER):
        (run.folder.path / FOLDER).mkdir(exist_ok=True)
    while not feed.stopped and (indices := feed.take(1, wait=True)):
        for index in indices:
            if (atoms := run.read(index)) is None:
                continue
            info, arrays = set_aside(atoms)
            atoms.info.update({name: info[name] for name in (SOURCE,) if name in info})  # in all files, as of one alone
            one = _One(run, feed, index, settings)
            try:
                final = one.finish(atoms)
            except OutputError as error:
                hint = error.hint.rpartition(" (")[0] or error.hint  # without options that a run does not have
                error.hint = f"{hint.rstrip('.')}. The same command goes on from the restart file."
                raise
            except (ConfigurationError, WorkerError) as error:
                kind = failure_class(error)
                one.explain(error, kind)
                run.fail(index, kind, error, atoms)
                continue
            if final is None:
                return
            put_back(final, info, arrays, moved=True)
            run.add(index, final, steps=settings.steps)


@dataclass
class _One:
    """One simulation of a run."""

    run: Computation
    feed: Feed
    index: int
    settings: Dynamics
    simulation: Simulation | None = None
    told: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.settings = replace(self.settings, seed=seed_of(self.settings.seed, self.index))
        self.prefix = prefix_of(self.run.folder, self.index)

    def finish(self, atoms: Atoms) -> Atoms | None:
        """Return the final structure with its results; None if somebody asked to stop before."""
        if (final := self._final(atoms)) is not None:
            return final  # something ended the process before that was recorded
        lost_after = -2  # the step of the restart file when a worker was lost, or failed
        while True:
            self.simulation = None
            try:
                self.simulation = self._begin(atoms)
                if not self.simulation.run(on_step=self._on_step):
                    return None
                break
            except WorkerError as error:  # a fresh one goes on; if it comes no further, that is the structure's fault
                saved = -1 if self.simulation is None or self.simulation.saved is None else self.simulation.saved
                if not renewed(self.run.calculator, error) or saved <= lost_after:
                    raise
                lost_after = saved
            except RootstockError:
                raise
            except (ArithmeticError, ValueError) as error:  # of an integrator whose numbers are none any more
                raise NonFiniteError(f"The step failed: {type(error).__name__}: {error}.") from error
        if (final := self._final(atoms)) is None:
            raise OutputError(f"{self._file('final')} was just written, and holds something else.", "Look at the disk.")
        return final

    def _on_step(self, now: Simulation) -> bool:
        if (at := time.monotonic()) - self.told > _TOLD_S:
            self.told = at
            logger.info("%s: step %d of %d", self.run.source.name(self.index), now.step, now.settings.steps)
        return not self.feed.stopped

    def _begin(self, atoms: Atoms) -> Simulation:
        if not self._file("restart").exists():
            check_structures(self._file("traj"), [atoms])
            return _OfRun(atoms, self.run.calculator, self.settings, str(self.prefix))
        try:
            return _OfRun.resume(
                self.run.calculator, self.settings, str(self.prefix), start=atoms, seed=self.settings.seed
            )
        except ConfigurationError as error:
            error.hint = f"To begin this one anew: rm {shlex.quote(str(self.prefix))}-* && {self._retry}"
            raise

    def _final(self, atoms: Atoms) -> Atoms | None:
        """Return what the final file holds; None if that is not there, or damaged: it is written again then."""
        try:
            final = read_frame(self._file("final").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        same = len(final) == len(atoms) and (final.numbers == atoms.numbers).all() and final.calc is not None
        return final if same else None

    def explain(self, error: RootstockError, kind: FailureClass) -> None:
        """Let an error say how far the simulation was, where its files are, and how to go on."""
        if self.simulation is None or self.simulation.saved is None:
            return
        error.message = f"after step {self.simulation.step} ({self.prefix}-*): {error.message}"
        if kind is FailureClass.INFRASTRUCTURE:  # of which the command says how to go on
            return
        hints = [error.hint] if error.hint else []
        if isinstance(error, NonFiniteError):
            hints.append("If it has become unstable, use a shorter --timestep, with another --run.")
        hints.append(f"{self._retry} goes on after step {self.simulation.saved}.")
        error.hint = "\n".join(hints)

    @property
    def _retry(self) -> str:
        return f"rootstock run retry-failed {shlex.quote(str(self.run.folder.path))}"

    def _file(self, name: str) -> Path:
        return files_of(str(self.prefix))[name]


class _OfRun(Simulation):
    """A simulation whose errors say nothing of the options of a single one."""

    def how_to_go_on(self, error: RootstockError) -> str:  # noqa: ARG002
        return ""
