"""Wait until a worker has loaded its model."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rootstock.client.process import WorkerProcess
from rootstock.config.model_string import is_path
from rootstock.errors import DeviceError, MissingWeightsError, WorkerError, WorkerProtocolError, WorkerStartError
from rootstock.root.weights import HOME, how_to_fetch
from rootstock.worker.channel.endpoint import PeerGoneError
from rootstock.worker.channel.failures import Failure, FailureCode, decode_failure
from rootstock.worker.channel.frames import Frame, Kind
from rootstock.worker.channel.running_time import running_time

if TYPE_CHECKING:
    from rootstock.root.lock import Report

logger = logging.getLogger("rootstock")

HEARTBEAT_S = 30.0
_LATE_FRAMES = 100  # a worker sends a handful in all


def wait_until_ready(
    process: WorkerProcess,
    setup: Mapping[str, Any],
    timeout: float,
    on_progress: Report | None,
    heartbeat: float = HEARTBEAT_S,
    clock: Callable[[], float] = running_time,
) -> dict[str, Any]:
    """Tell a worker what to load, and wait for it.

    Parameters
    ----------
    process : WorkerProcess
    setup : Mapping[str, Any]
        Environment file, model, device and options.
    timeout : float
        Seconds from now until the model must be loaded.
    on_progress : callable or None
        Is given each stage. None: stages are logged, and a warning if the start takes long.
    heartbeat : float
        Every how many seconds.
    clock : callable
        The time in seconds; it is looked at whenever something came, and at each heartbeat.

    Returns
    -------
    dict
        What the worker says about itself.

    Raises
    ------
    DeviceError
        If the device is not there.
    MissingWeightsError
        If the model's weights are not in the root; with the command that fetches them.
    WorkerStartError
        If it ends, fails, or is not ready in time. It says how far it came.
    WorkerProtocolError
        If what it sends is not what a worker sends.
    """
    begun = last_warning = clock()
    late = 0
    tell = on_progress or functools.partial(logger.info, "worker: %s")
    stage = "starting the interpreter" if process.launch.mode == "build" else "waiting for uv and the interpreter"
    try:
        process.endpoint.send(Frame(Kind.SETUP), dict(setup), timeout=timeout)
        while True:
            now = clock()
            if on_progress is None and now - last_warning >= heartbeat:
                last_warning = now
                _warn(process, now - begun, stage)
            # What has already come is read though the time is over: this process may itself have been stopped.
            remaining = max(0.0, begun + timeout - now)
            if (late := late + (not remaining)) > _LATE_FRAMES:
                raise TimeoutError
            try:
                frame, content = process.hear(min(remaining, heartbeat))
            except TimeoutError:
                if remaining > heartbeat:
                    continue
                raise
            if frame.kind == Kind.READY and isinstance(content.get("properties"), list):
                return content
            if frame.kind == Kind.FAILURE:
                raise _failure(process, setup["model"], decode_failure(content))
            if frame.kind != Kind.PROGRESS:
                raise WorkerProtocolError(f"Expected READY, received kind {frame.kind}.")
            stage = str(content.get("stage", ""))
            tell(stage)
    except PeerGoneError:
        raise process.died(WorkerStartError, f"during the start ({stage})") from None
    except WorkerProtocolError as error:
        process.explain(error)
        raise
    except TimeoutError:
        pass  # or it did not read, or stopped in the middle of a frame
    too_late = WorkerStartError(
        f"The worker {process.title} was not ready after {timeout:.0f} s; it stopped at: {stage}.",
        "A first start from a cold file system can take long: pass a larger start_timeout=.",
    )
    too_late.timed_out = True
    raise process.explain(too_late)


def _warn(process: WorkerProcess, seconds: float, stage: str) -> None:
    logger.warning(
        "Still starting a worker %s after %.0f s (%s). Its output: %s", process.title, seconds, stage, process.log
    )


def _failure(process: WorkerProcess, model: str, report: Failure) -> WorkerError:
    """Return the error for what a worker reported."""
    if report.code is FailureCode.NO_DEVICE:
        return DeviceError(report.message, report.hint)
    if report.code is FailureCode.MISSING_WEIGHTS and not is_path(model):
        name, root = process.launch.name, process.launch.layout.root
        if process.launch.home:  # the place where an admin finds them
            place = str(process.launch.layout.cache / HOME)
            report = replace(report, message=report.message.replace(str(process.launch.home), place))
        lack = f"The weights of model {model or '(default)'!r} of environment {name!r} are not in {root}"
        error = process.failure(MissingWeightsError, lack, report)
        error.hint = how_to_fetch(root, name, model)
        return error
    return process.failure(WorkerStartError, f"The worker {process.title} could not start", report)
