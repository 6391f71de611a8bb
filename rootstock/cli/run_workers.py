"""Options for several workers in a run folder, and what is shown and asked while these compute."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import click

from rootstock.cli.common import merge_options, options, refuse_unused
from rootstock.cli.parameter_types import Completed, Finite, Whole
from rootstock.cli.run_line import Line, duration
from rootstock.cli.signals import handle_signals
from rootstock.errors import ConfigurationError
from rootstock.root.signals import SIGNALS_TO_END

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from rootstock.interfaces.calculator import RootstockCalculator
    from rootstock.simulations.pool.run import PoolRun, Workers
    from rootstock.simulations.pool.slots import Slot

_AGAIN_S = 5.0  # signals of a batch system come more than once; those within this time are one


@dataclass(frozen=True)
class AskedWorkers:
    """The options of a command about workers.

    Attributes
    ----------
    number : int or None
        None: as many as there are GPUs, or groups of processors.
    per_gpu : int
    grace : float [s]
    limit : int or None
    dry_run : bool
    """

    number: int | None
    per_gpu: int
    grace: float
    limit: int | None
    dry_run: bool

    @classmethod
    def asked_for(
        cls, workers: str | None, workers_per_gpu: int | None, grace: float | None, limit: int | None, *, dry_run: bool
    ) -> AskedWorkers | None:
        """Return what `workers_options` ask for; None without ``--workers``.

        Parameters
        ----------
        workers, workers_per_gpu, grace, limit, dry_run
            As click passes them.

        Raises
        ------
        ConfigurationError
            If ``--workers`` is no number, or options are given that are for it only.
        """
        if workers is None:
            only = "is for --workers only."
            submitted = click.get_current_context().params.get("gpus") is not None
            names = ("grace", "limit") if submitted else ("workers_per_gpu", "grace", "limit", "dry_run")
            refuse_unused(dict.fromkeys(names, only if submitted else "is for --workers and --gpus only."))
            return None
        number = None if workers == "auto" else int(workers) if workers.isdecimal() and len(workers) < 7 else 0
        if number == 0:
            raise ConfigurationError(
                f"--workers {workers} is no number of workers.", "Write --workers 4, or --workers auto."
            )
        return cls(number, workers_per_gpu or 1, 30.0 if grace is None else grace, limit, dry_run)

    def settings(self) -> Workers:
        """Return them for a pool."""
        from rootstock.simulations.pool.run import Workers

        return Workers(self.number, self.per_gpu, self.grace, self.limit)

    def find_places(self, calculator: RootstockCalculator) -> list[Slot]:
        """Return where they compute, before anything else takes time.

        Parameters
        ----------
        calculator : RootstockCalculator
        """
        from rootstock.simulations.pool.run import find_places

        return find_places(calculator, self.settings())

    def words(self) -> str:
        """Return the options that let another command do the same, as text behind it."""
        words = f" --workers {'auto' if self.number is None else self.number}"
        return words + (f" --workers-per-gpu {self.per_gpu}" if self.per_gpu > 1 else "")


workers_options = options(
    click.option(
        "--workers", type=Completed("number", lambda _: ("auto",)), metavar="N|auto",
        help="Compute with several workers of this node. auto: one for each GPU of the job; on processors, as many as "
        "fit with their --threads [default: one]. Results go to a run folder, by default one with the name of the "
        "structures.",
    ),
    click.option(
        "--workers-per-gpu", type=Whole(1), metavar="N",
        help="With --workers or --gpus: how many share a GPU [default: 1].",
    ),
    click.option(
        "--grace", type=Finite(0), metavar="SECONDS",
        help="With --workers: how long these may take to end, once a signal or the end of the job asks them to "
        "[default: 30].",
    ),
    click.option(
        "--limit", type=Whole(1), metavar="N",
        help="With --workers: compute N structures of all sizes, and estimate how long the whole takes.",
    ),
    click.option(
        "--dry-run", is_flag=True,
        help="With --workers or --gpus: show what would be computed where, and the job script; start nothing.",
    ),
    merge_options("workers", AskedWorkers.asked_for, "workers", "workers_per_gpu", "grace", "limit", "dry_run"),
)  # fmt: skip


def compute_with(run: PoolRun, slots: Sequence[Slot], line: Line, *, stop_on_error: bool) -> bool:
    """Compute with several workers, and show how far they are.

    Parameters
    ----------
    run : PoolRun
    slots : sequence of Slot
    line : Line
    stop_on_error : bool

    Returns
    -------
    bool
        Whether everything was computed; False if a signal has ended it before.
    """
    line.tell(f"starting {places(slots)}")
    with count_signals() as came:
        return run.compute(
            slots, recorded=line.add, stop_on_error=stop_on_error, states=line.states,
            warn=lambda text: click.echo(text, err=True), signals=came,
        )  # fmt: skip


def show_what(run: Path, model: str, sizes: NDArray[np.int64], todo: int, out: Path) -> None:
    """Print what would be computed.

    Parameters
    ----------
    run : Path
        The folder.
    model : str
    sizes : numpy.ndarray
        How many atoms each structure has.
    todo : int
        How many structures are to be computed.
    out : Path
        Where results would go.
    """
    from rootstock.root.disk_usage import number_of

    same = len(sizes) and sizes.min() == sizes.max()
    found = (
        f"{'' if same else f'{sizes.min():,} to '}{number_of(int(sizes.max()), 'atom')} each" if len(sizes) else "none"
    )
    click.echo(f"{run}: {number_of(len(sizes), 'structure')} ({found}) with {model}; {todo:,} to compute")
    click.echo(f"results: {out}")


def show_plan(run: Path, model: str, sizes: NDArray[np.int64], todo: int, slots: Sequence[Slot], out: Path) -> None:
    """Print what would be computed, and where on this node.

    Parameters
    ----------
    run, model, sizes, todo, out
        As for `show_what`.
    slots : sequence of Slot
    """
    show_what(run, model, sizes, todo, out)
    slots = slots[:todo]
    click.echo(places(slots) if slots else "no worker")
    for slot in slots:
        if variables := [f"{name}={value}" for name, value in slot.variables.items() if value is not None]:
            without = ", ".join(name for name, value in slot.variables.items() if value is None)
            click.echo(f"  {slot.name}: {' '.join(variables)}, without {without}")
    click.echo("Nothing was started.")


def places(slots: Sequence[Slot]) -> str:
    """Return where workers compute, in words.

    Parameters
    ----------
    slots : sequence of Slot
    """
    threads = {slot.threads for slot in slots}
    each = f"{next(iter(threads))} thread{'s' if threads != {1} else ''} each" if len(threads) == 1 else "threads vary"
    names = ", ".join(slot.name for slot in slots[:8]) + (" ..." if len(slots) > 8 else "")
    return f"{len(slots)} worker{'s' if len(slots) > 1 else ''} ({names}; {each})"


@contextlib.contextmanager
def count_signals() -> Iterator[Callable[[], int]]:
    """Yield what tells how many times the end was asked for, by signals of which some that come together are one."""
    came: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # as signal wants it
        now = time.monotonic()
        if not came or number == signal.SIGINT or now - came[0] > _AGAIN_S:
            came.append(now)

    with handle_signals(note, signal.SIGINT, *SIGNALS_TO_END):
        yield lambda: len(came)


def estimate(done: int, seconds: float, left: int, slots: Sequence[Slot], used: int) -> str:
    """Return how long the rest of a run takes, by a trial.

    Parameters
    ----------
    done : int
        How many structures were computed.
    seconds : float
        In which time.
    left : int
        How many are left.
    slots : sequence of Slot
        Where workers will compute.
    used : int
        How many of them have computed: a trial of few structures does not need all.

    >>> from rootstock.simulations.pool.slots import Slot
    >>> slots = [Slot(f"GPU {k % 2}, worker {k // 2}", {"CUDA_VISIBLE_DEVICES": str(k % 2)}, (), 4) for k in range(4)]
    >>> estimate(20, 40.0, 2000, slots, 4)
    'The other 2,000 structures take about 1 h 07 min with 4 workers: 2.2 GPU hours'
    >>> estimate(2, 40.0, 100, slots[:2], 1)
    'The other 100 structures take about 17 min with 2 workers: 0.56 GPU hours'
    """
    takes = seconds * left / done * used / len(slots)
    places = len({tuple(slot.variables.items()) for slot in slots}) if slots[0].variables else len(slots)
    hours = takes * places / 3600
    what = "GPU" if slots[0].variables else "worker"
    workers = f"{len(slots)} worker{'s' if len(slots) > 1 else ''}"
    shown = f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"
    return f"The other {left:,} structures take about {duration(takes)} with {workers}: {shown} {what} hours"
