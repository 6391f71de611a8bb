"""Computes a run folder by Parsl."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parsl.config import Config

from rootstock.simulations.output import unwritten
from rootstock.simulations.parsl_engine.engine import running
from rootstock.simulations.parsl_engine.head import Head
from rootstock.simulations.parsl_engine.providers import leave_out
from rootstock.simulations.parsl_engine.seen import Hears
from rootstock.simulations.parsl_engine.shard import GO_ON, Order
from rootstock.simulations.pool.run import PoolRun
from rootstock.simulations.runs.carry_out import check_settings
from rootstock.simulations.runs.engine_jobs import FOLDER, engine_jobs, forget_engine_jobs
from rootstock.simulations.runs.source import Source
from rootstock.simulations.runs.submissions import bad_nodes, short_names
from rootstock.simulations.runs.worker_states import telling_states


def compute_run(
    run: PoolRun, config: Config, *, recorded: Callable[[Sequence[int]], object], stop_on_error: bool = False,
    **hears: Any,
) -> bool:  # fmt: skip
    """Compute what is missing in a run folder by workers of Parsl's, and record it.

    Parameters
    ----------
    run : PoolRun
        Of its `workers`, `grace` and `limit` count.
    config : parsl.Config
        As `rootstock.parsl.config` returns it; its `run_dir` is best a folder ``engine`` in the run folder.
    recorded : callable
        Is given indices that are on the disk.
    stop_on_error : bool
        Whether the first structure that fails ends it.
    **hears
        ``states``, ``warn`` and ``signals`` of `Hears`.

    Returns
    -------
    bool
        Whether everything was computed; False if somebody has ended it before.

    Raises
    ------
    LockBusyError
        If another process computes this element.
    ConfigurationError, OutputError
        If the run cannot go on. What was recorded stays.
    WorkerError
        If no worker can compute, structures could not be computed, by no fault of their own, or Parsl has failed or
        stalled.
    """
    check_settings(run.folder)
    with run.folder.recorder(run.element, recorded) as recorder:
        if not len(run.todo("any other")):
            return True
        told = Hears(recorded, **hears)
        with (
            telling_states(run.folder.path, run.element) as tell,
            _orders(run.folder.path / FOLDER) as orders,
        ):
            _cancel_left_jobs(run.folder.path, told.warn)
            states = told.states

            def both(said: Mapping[str, str]) -> None:
                states(said)
                tell(said)

            told.states = both
            order = Order(str(run.folder.path.absolute()), {**run.calculator.parameters}, str(orders), stop_on_error)
            source = Source(run.folder.path, run.folder.record.input)
            with running(config) as (kernel, executor):
                leave_out(executor.provider, short_names(bad_nodes(run.folder.path)))
                return Head(run, source, order, recorder, told).run(kernel, executor)


@contextlib.contextmanager
def _orders(folder: Path) -> Iterator[Path]:
    """Yield the file by which workers know that they may go on; those of heads before this one may not any more."""
    orders = folder / f"orders-{secrets.token_hex(8)}"
    try:
        folder.mkdir(exist_ok=True)
        for other in folder.glob("orders-*"):
            other.unlink(missing_ok=True)
        orders.write_bytes(GO_ON)
    except OSError as error:
        raise unwritten(folder, error) from error
    try:
        yield orders.absolute()
    finally:
        with contextlib.suppress(OSError):
            orders.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()  # nothing of an engine is left


def _cancel_left_jobs(folder: Path, warn: Callable[[str], object]) -> None:
    """Cancel what a head has left that was killed: jobs that wait before ours, or have not missed it yet."""
    if left := engine_jobs(folder):
        warn(f"Cancelling jobs of a command that was killed: {' '.join(job.id for job in left)}")
        for job in left:
            job.cancel()
    forget_engine_jobs(folder)
