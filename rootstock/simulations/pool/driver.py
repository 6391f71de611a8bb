"""One driver of a pool: a calculator with its worker, optimizers, and parts of the run folder.

It obeys the pool alone: what a batch system or a terminal sends to all processes of a job does nothing here. When the
pool is gone, it ends at once, and its worker after it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.calculators.calculator import PropertyNotImplementedError

from rootstock.errors import ConfigurationError, RootError, RootstockError
from rootstock.interfaces.calculator import RootstockCalculator
from rootstock.root.signals import start_thread
from rootstock.simulations.pool.feed import FromPool
from rootstock.simulations.pool.wire import Wire
from rootstock.simulations.runs.carry_out import check_calculator
from rootstock.simulations.runs.compute import Computation
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.input_table import read_sizes
from rootstock.simulations.runs.recorder import Recorder
from rootstock.simulations.runs.source import Source
from rootstock.worker.signals import outlive

_TOLD_S = 5.0
_RECORDING_S = 5.0  # of the time before the end: what an interrupted computation has reached is recorded then
_DEAD = 70  # exit code of a driver whose pool is gone


def main() -> None:
    """Serve the pool at the other end of the socket whose descriptor is the last argument."""
    outlive()
    wire = Wire(socket.socket(fileno=int(sys.argv[-1])))
    try:
        code = _serve(wire)
    except (RootstockError, PropertyNotImplementedError, OSError) as error:
        told = _told(error)
        wire.send(error=described(told))
        code = told.exit_code
    wire.send(end=True)
    sys.exit(code)


def _told(error: Exception) -> RootstockError:
    """Return an error of ours for one that comes of the structures' file, or of what is asked for."""
    if isinstance(error, OSError) and not isinstance(error, RootstockError):
        return RootError(f"{error.filename or 'The system'}: {error.strerror or error}.")
    return error if isinstance(error, RootstockError) else ConfigurationError(str(error))


def described(error: RootstockError) -> dict[str, Any]:
    """Return what the pool is told of an error.

    Parameters
    ----------
    error : RootstockError
    """
    said = {name: str(getattr(error, name, "")) for name in ("message", "hint", "log", "tail", "remote_traceback")}
    return {"type": type(error).__name__, **said}


class _ToPool(logging.Handler):
    """Passes on what the calculator tells people, and now and then what a simulation does."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(logging.INFO)
        self._wire, self._told = wire, time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING and record.name.startswith("rootstock.simulations"):
            if time.monotonic() - self._told < _TOLD_S:  # the pool writes it down
                return
            self._told = time.monotonic()
        self._wire.send(**{"warn" if record.levelno >= logging.WARNING else "say": record.getMessage()})


class _Interrupt:
    """Lets SIGINT raise KeyboardInterrupt once the pool has asked for the end; before that it does nothing."""

    def __init__(self) -> None:
        self.wanted = False
        signal.signal(signal.SIGINT, self._came)

    def _came(self, number: int, frame: Any) -> None:
        if self.wanted:
            self.wanted = False
            signal.default_int_handler(number, frame)

    def send(self) -> None:
        self.wanted = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _serve(wire: Wire) -> int:
    begin = _begin(wire)
    logger = logging.getLogger("rootstock")
    logger.addHandler(_ToPool(wire))
    logger.setLevel(logging.INFO)
    folder = RunFolder.open(Path(begin["folder"]))
    recorder = Recorder(folder.path, lambda indices: wire.send(recorded=list(indices)))
    feed = FromPool(
        lambda atoms: wire.send(want=atoms), lambda index: wire.send(back=index), recorder.sync,
        read_sizes(folder.path, folder.record.structures),
    )  # fmt: skip
    interrupt = _Interrupt()
    start_thread(threading.Thread(target=_listen, args=(wire, feed, interrupt), name="rootstock-pool", daemon=True))
    if begin["processors"]:
        os.sched_setaffinity(0, begin["processors"])
    try:
        with RootstockCalculator(**begin["calculator"]) as calc:
            gpu = check_calculator(folder, calc)
            info = calc.info()
            said = {key: info.get(key) for key in ("device", "gpu_uuid", "threads", "pid", "start_s")}
            wire.send(ready={"gpu": gpu, **said})
            source = Source(folder.path, folder.record.input)
            try:
                Computation(folder, source, calc, recorder, gpu, begin["stop_on_error"]).run(feed)
                source.check_unchanged()
            finally:
                recorder.close()
    except KeyboardInterrupt:
        if not feed.stopped:
            raise
    return 0


def _begin(wire: Wire) -> Mapping[str, Any]:
    while (messages := wire.receive()) is not None:
        for message in messages:
            begin: Mapping[str, Any] = message["begin"]
            return begin
    os._exit(_DEAD)


def _listen(wire: Wire, feed: FromPool, interrupt: _Interrupt) -> None:
    """Take what the pool says, in a thread of its own, until the pool is gone; parts of the run need no end."""
    try:
        while (messages := wire.receive()) is not None:
            for message in messages:
                _obey(message, feed, interrupt)
    except Exception:  # noqa: BLE001  # nobody would hear of the pool's end any more
        traceback.print_exc()
    os._exit(_DEAD)


def _obey(message: Mapping[str, Any], feed: FromPool, interrupt: _Interrupt) -> None:
    if "take" in message:
        feed.come(message["take"])
    elif "none" in message:
        feed.come(())
    elif "stop" in message:
        feed.stop()
        timer = threading.Timer(max(message["stop"] - _RECORDING_S, message["stop"] / 2), interrupt.send)
        timer.daemon = True
        start_thread(timer)
