"""How many GPUs a model's own library sees, by a short process in its environment."""

from __future__ import annotations

import contextlib
import json
import signal

from rootstock.client.child_process import ChildProcess
from rootstock.client.exit_status import cannot_start, describe_exit
from rootstock.client.process import Launch
from rootstock.client.scratch import last_lines
from rootstock.config.packaged import PACKAGE
from rootstock.errors import DeviceError, WorkerStartError
from rootstock.worker.channel.running_time import running_time
from rootstock.worker.signals import OF_A_JOB

COUNT_S = 300.0  # torch on a cold file system takes minutes
COUNTER = PACKAGE / "worker" / "count_devices.py"
_LOOK_S = 1.0


class _Counter(ChildProcess):
    """The short process. It holds nothing that outlives it, and ends by itself if this one is killed."""

    def __init__(self, launch: Launch, kind: str, seconds: float) -> None:
        super().__init__(f"Counting the GPUs for {launch.name}", f"{launch.name}-gpus", None)
        self._launch, self._arguments = launch, (kind, str(round(seconds) + 1))

    def _cannot_start(self, error: OSError) -> WorkerStartError:
        return cannot_start(self._launch.command[0], error)

    def _open(self, output: int, inherited: contextlib.ExitStack) -> None:  # noqa: ARG002
        command = [*self._launch.command, str(COUNTER), *self._arguments]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, OF_A_JOB)  # whoever gets these decides what ends
        try:
            self._run(command, output, env=dict(self._launch.variables))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def count_devices(launch: Launch, device: str, seconds: float = COUNT_S) -> int:
    """Return how many GPUs the libraries of a model's environment see, with the variables that its worker has.

    Parameters
    ----------
    launch : Launch
        How a worker of the model is started.
    device : str
        ``cuda`` or ``xpu``.
    seconds : float
        For how long it may take.

    Raises
    ------
    DeviceError
        If that library fails, or is not done in time.
    WorkerStartError
        If the environment's Python does not start.
    """
    process = _Counter(launch, device.lower().partition(":")[0], seconds)
    try:
        process.start()
        code, until = None, running_time() + seconds
        while code is None and (left := until - running_time()) > 0:
            code = process.wait(min(left, _LOOK_S))
            process.shorten_log()
    finally:
        process.end(0.0)
    number = _answer(last_lines(process.log))
    if code == 0 and number is not None:
        process.drop_log()
        return number
    how = f"was not done after {seconds:.0f} s" if code is None else describe_exit(code)
    error = DeviceError(
        f"The GPUs that environment {launch.name!r} sees could not be counted: its Python {how}.",
        "Name them, then nobody needs to count: export CUDA_VISIBLE_DEVICES=0,1 (AMD: ROCR_VISIBLE_DEVICES, Intel: "
        "ZE_AFFINITY_MASK).",
    )
    raise process.explain(error)


def _answer(text: str) -> int | None:
    """Return the number in the last line that has one: libraries print what they like before and after it."""
    for line in reversed(text.splitlines()):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return int(json.loads(line)["devices"])
    return None
