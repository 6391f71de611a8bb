"""Receive, compute, answer."""

from __future__ import annotations

import os
import platform
import sys
import time
from math import inf
from pathlib import Path
from typing import Any

from rootstock.errors import DeviceError, WorkerProtocolError
from rootstock.worker.channel.endpoint import Endpoint, PeerGoneError
from rootstock.worker.channel.failures import FailureCode, encode_failure
from rootstock.worker.channel.frames import Frame, Kind
from rootstock.worker.channel.memory import SharedMemory
from rootstock.worker.description import describe
from rootstock.worker.device import check_device, computing_device, lost_gpu
from rootstock.worker.guard import SetupGuard

_CLIENT_PATIENCE_S = 60.0  # for the rest of a frame that has begun


def serve(endpoint: Endpoint, memory: SharedMemory) -> None:
    """Answer a client until it says goodbye or is gone.

    Whatever an environment file or a model raises is reported to the client, and the worker goes on.

    Parameters
    ----------
    endpoint : Endpoint
    memory : SharedMemory

    Raises
    ------
    WorkerProtocolError
        If the client sends something else than it should.
    """
    try:
        frame, content = _receive(endpoint)
        if frame.kind != Kind.SETUP:
            raise WorkerProtocolError(f"Expected SETUP, received kind {frame.kind}.")
        offline = os.environ.get("HF_HUB_OFFLINE") == "1"
        try:
            root, cache = content["root"], content["cache"]
            guard = SetupGuard(root, cache, offline=offline, patience=content.get("patience", 0.0))
        except (KeyError, TypeError, ValueError) as error:
            raise WorkerProtocolError(f"Received SETUP without folders that are paths: {error!r}.") from error
        try:
            evaluator, told = _set_up(endpoint, memory, content, guard)
        except BaseException as error:
            report = encode_failure(error, _code_of_start(error, guard))
            endpoint.send(Frame(Kind.FAILURE), report, timeout=inf)
            return
        _answer(endpoint, evaluator, content, told)
    except PeerGoneError:
        return


def _receive(endpoint: Endpoint) -> tuple[Frame, dict[str, Any]]:
    return endpoint.receive(inf, _CLIENT_PATIENCE_S)


def _set_up(endpoint: Endpoint, memory: SharedMemory, content: dict[str, Any], guard: SetupGuard) -> tuple[Any, bool]:
    """Load the model and say what it offers; return what evaluates, and whether it was said what computes."""
    started = time.perf_counter()
    check_device(content["device"])
    endpoint.send(Frame(Kind.PROGRESS), {"stage": "importing ase"})
    from rootstock.worker.environment_file import call_setup, load_setup
    from rootstock.worker.evaluate import Evaluator
    from rootstock.worker.extra_results import ExtraResults
    from rootstock.worker.results import offered_properties

    endpoint.send(Frame(Kind.PROGRESS), {"stage": "running the environment file"})
    setup = load_setup(content["environment"])
    endpoint.send(Frame(Kind.PROGRESS), {"stage": f"loading the model on {content['device']}"})
    with guard:
        calculator = call_setup(setup, content["model"], content["device"], content["options"])
    offered = offered_properties(calculator, content.get("listed"))
    extras = ExtraResults(declared, offered) if (declared := content.get("extras")) else None
    ready = {
        "properties": offered,
        "calculator": type(calculator).__name__,
        "batch": callable(getattr(calculator, "calculate_batch", None)),
        "pid": os.getpid(),
        "host": platform.node(),
        "executable": sys.executable,
        **describe(content["device"]),
        "setup_s": time.perf_counter() - started,
        "opened": guard.opened,
        "asked": list(guard.addresses),
        "versions": {"python": platform.python_version(), **_versions()},
    }
    endpoint.send(Frame(Kind.READY), ready)
    return Evaluator(calculator, memory, offered, extras), ready["device"] is not None


def _answer(endpoint: Endpoint, evaluator: Any, setup: dict[str, Any], told: bool) -> None:
    from rootstock.worker.failure_codes import code_of  # now: there may be no descriptor when it is needed

    device, extras, memory = setup["device"], evaluator.extras, evaluator.memory
    batches = None  # whoever is asked single questions loads nothing for many
    while True:
        frame, content = _receive(endpoint)
        if frame.kind == Kind.CLOSE:
            return
        if frame.kind == Kind.BATCH:
            told, batches = _answer_batch(endpoint, evaluator, batches, frame, content, device, told)
            continue
        if frame.kind == Kind.CALL:
            _answer_call(endpoint, evaluator, frame, content, setup)
            continue
        if frame.kind != Kind.EVALUATE:
            raise WorkerProtocolError(f"Expected EVALUATE, BATCH or CALL, received kind {frame.kind}.")
        more = None
        try:
            properties = evaluator.evaluate(frame, content.get("info", ""))
            if extras:
                more = extras.put(evaluator.calculator.results, frame.atoms, memory.fd, memory.end)
        except BaseException as error:
            evaluator.atoms = None  # whatever state the model is in, it is told everything anew
            code = FailureCode.LOST_GPU if lost_gpu(device) else code_of(error)
            if isinstance(error, OSError) and memory.capacity != frame.capacity:
                code = FailureCode.CANNOT_SERVE  # the worker, and not its model, has no descriptor or memory left
            report = encode_failure(error, code)
            endpoint.send(Frame(Kind.FAILURE, sequence=frame.sequence), report, timeout=inf)
        else:
            answer = Frame(Kind.RESULT, properties, 0, 0, 0, frame.sequence, frame.atoms, frame.capacity)
            said = {"extras": more} if more else None
            if not told:  # the first answer says what has computed, unless that was known before
                said, told = {**(said or {}), "device": computing_device(device) or "cpu"}, True
            endpoint.send(answer, said, timeout=inf)
            evaluator.restore()


def _answer_call(
    endpoint: Endpoint, evaluator: Any, frame: Frame, content: dict[str, Any], setup: dict[str, Any]
) -> None:
    """Answer a CALL frame."""
    from rootstock.worker.failure_codes import code_of

    answer = Frame(Kind.RESULT, sequence=frame.sequence)
    try:
        from rootstock.worker.method_call import call_method

        value = call_method(evaluator, setup.get("methods", ()), frame, content)
    except BaseException as error:
        code = FailureCode.LOST_GPU if lost_gpu(setup["device"]) else code_of(error)
        answer, value = answer._replace(kind=Kind.FAILURE), encode_failure(error, code)
    evaluator.forget()  # whatever the method has done, the next question tells everything anew
    endpoint.send(answer, value, timeout=inf)


def _answer_batch(
    endpoint: Endpoint, evaluator: Any, batches: Any, frame: Frame, content: dict[str, Any], device: str, told: bool
) -> tuple[bool, Any]:
    """Answer a BATCH frame; return whether it was said what computes, and what answers the next one."""
    try:
        from rootstock.worker.batch import BatchEvaluator, LostGpuError

        batches = batches or BatchEvaluator(evaluator, endpoint, device)
        try:
            answer = batches.evaluate(frame, content)
        except LostGpuError as error:
            endpoint.send(Frame(Kind.FAILURE, sequence=frame.sequence), error.failure, timeout=inf)
            return told, batches
    except PeerGoneError:
        raise
    except BaseException as error:
        # What a model raises is told of its structure. Here the worker has no descriptor or memory left, or the frame
        # makes no sense.
        code = FailureCode.CANNOT_SERVE if isinstance(error, OSError) else FailureCode.MODEL
        endpoint.send(Frame(Kind.FAILURE, sequence=frame.sequence), encode_failure(error, code), timeout=inf)
        return told, batches
    if not told:
        answer["device"] = computing_device(device) or "cpu"
    endpoint.send(Frame(Kind.RESULT, sequence=frame.sequence), answer, timeout=inf)
    return True, batches


def _code_of_start(error: BaseException, guard: SetupGuard) -> FailureCode:
    if isinstance(error, DeviceError):
        return FailureCode.NO_DEVICE
    return FailureCode.MISSING_WEIGHTS if guard.lacks_weights(error) else FailureCode.SETUP


def _versions() -> dict[str, str]:
    """Return the version of every distribution here, from the names of their folders: no file is read."""
    stems = [entry.stem for path in sys.path if os.path.isdir(path) for entry in Path(path).glob("*.dist-info")]
    return dict(sorted((stem.partition("-")[0], stem.partition("-")[2]) for stem in stems))
