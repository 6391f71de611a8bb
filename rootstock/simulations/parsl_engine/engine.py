"""Parsl as long as something needs it, and its end, which nothing may hold up."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import threading
from collections.abc import Iterator

from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel

from rootstock.errors import ConfigurationError, WorkerError
from rootstock.root.signals import start_thread
from rootstock.simulations.parsl_engine.executor import Executor

_END_S = 60.0


@contextlib.contextmanager
def running(config: Config) -> Iterator[tuple[DataFlowKernel, Executor]]:
    """Yield Parsl with a configuration, and its executor. After an end without error its files are removed.

    Parameters
    ----------
    config : parsl.Config
        Of `rootstock.parsl.config`.

    Raises
    ------
    ConfigurationError
        If it has no executor of ours.
    """
    executor = next((each for each in config.executors if isinstance(each, Executor)), None)
    if executor is None:
        raise ConfigurationError(
            "This configuration of Parsl's has no executor of Rootstock's.", "Make one: rootstock.parsl.config(...)"
        )
    executor.of_command = True
    kernel = DataFlowKernel(config)
    try:
        yield kernel, executor
    except BaseException:
        end(kernel, executor)
        raise
    if end(kernel, executor):
        shutil.rmtree(kernel.run_dir, ignore_errors=True)


def end(kernel: DataFlowKernel, executor: Executor) -> bool:
    """End Parsl, its interchange and its jobs, and tell whether it came to its end in time.

    Parameters
    ----------
    kernel : DataFlowKernel
    executor : Executor
    """
    ended = threading.Event()

    def clean_up() -> None:
        with contextlib.suppress(Exception):  # what is left is ended below
            kernel.cleanup()
        ended.set()

    start_thread(threading.Thread(target=clean_up, name="rootstock-parsl-end", daemon=True))
    if not (in_time := ended.wait(_END_S)):
        executor.give_up(WorkerError("Parsl does not come to its end."))
    if (interchange := executor.interchange_proc) is not None:
        interchange.kill()
        interchange.wait()
    atexit.unregister(kernel.atexit_cleanup)
    return in_time
