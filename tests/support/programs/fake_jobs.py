"""Jobs of the programs that stand in for PBS and Flux: a folder each, and a process that runs what is in it.

A folder ``jobs/NUMBER`` holds ``job.json``, written before the job's process is started, ``status.json``, which only
that process writes, and ``cancel`` or ``cancel-INDEX``, with which others ask it to end the job or one of its tasks.
While there is a file ``hold`` beside ``jobs``, no job starts; once there is a file ``stop``, all end at once.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATE = Path(os.environ["FAKE_BATCH_STATE"])
_LOOK_S = 0.02


class RefusedError(Exception):
    """What a program says against what it was asked for, and the code with which it ends."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Job:
    """A job.

    Attributes
    ----------
    number : int
    folder : Path
    """

    number: int

    @property
    def folder(self) -> Path:
        return STATE / "jobs" / str(self.number)

    @property
    def said(self) -> dict[str, Any]:
        """What its submission said, of which these programs need some themselves.

        They are ``tasks``, the indices of an array, or those of one that is none: ``[None]``; ``concurrent``, how many
        of them may run at a time; ``after``, the numbers of jobs that must have ended; and ``seconds``, the longest
        time, if there is one.
        """
        return dict(json.loads((self.folder / "job.json").read_text()))

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """What its tasks do, by their indices, which are empty for a job that is no array.

        A state is ``H`` (held until others have ended), ``Q`` (queued), ``R`` (running) or ``F`` (finished); what has
        finished has a ``code`` (of a signal: negative) and a ``reason`` (``exit``, ``cancel``, ``time``).
        """
        return dict(json.loads((self.folder / "status.json").read_text()))

    @property
    def finished(self) -> bool:
        return all(task["state"] == "F" for task in self.tasks.values())

    def cancel(self, index: int | None) -> None:
        """Ask for the end of the job, or of one of its tasks."""
        (self.folder / ("cancel" if index is None else f"cancel-{index}")).touch()


def submit(said: dict[str, Any], script: str) -> Job:
    """Make a job and start its process."""
    (STATE / "jobs").mkdir(exist_ok=True)
    for number in itertools.count(12):  # nobody shall take it for the number of something else
        job = Job(number)
        try:
            job.folder.mkdir()
        except FileExistsError:
            continue
        break
    (job.folder / "script").write_text(script)
    _write(job.folder / "job.json", said)
    with (STATE / "programs.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, sys.argv[0], "run-job", str(job.number)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
        )  # fmt: skip
    while not (job.folder / "status.json").exists():  # so that whoever waits for the end of all jobs knows of it
        time.sleep(_LOOK_S)
    return job


def jobs() -> Iterator[Job]:
    """Yield all jobs, in the order of their submission."""
    found = (STATE / "jobs").glob("[0-9]*/status.json")
    yield from (Job(number) for number in sorted(int(path.parent.name) for path in found))


def find(number: int) -> Job | None:
    """Return a job, if there is such a one."""
    return Job(number) if (STATE / "jobs" / str(number) / "status.json").exists() else None


class Running:
    """The process of a job: it starts the job's tasks, and sees to their end.

    Parameters
    ----------
    job : Job
    start : callable
        Starts a task, given its index and the numbers of its GPUs; it must be the first process of a session.
    gpus : int
        How many each task has.
    tell : callable
        Tells a task that it is to end, given its session.
    grace_s : float
        After which time they are killed.
    ended : callable
        What is done when a task has ended, given its index, its code and the reason.
    """

    def __init__(
        self, job: Job, start: Callable[[int | None, list[int]], subprocess.Popen[bytes]], *, gpus: int,
        tell: Callable[[int], None], grace_s: float, ended: Callable[[int | None, int, str], None],
    ) -> None:  # fmt: skip
        self.job, self.start, self.gpus, self.ended = job, start, gpus, ended
        self.tell, self.grace_s = tell, grace_s
        self.said = job.said
        self.tasks = {_key(index): {"state": "Q"} for index in self.said["tasks"]}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.begun: dict[str, float] = {}
        self.asked: dict[str, tuple[float, str]] = {}  # when a task was asked to end, and why

    def until_its_end(self) -> None:
        with (STATE / "alive").open("w") as alive:
            fcntl.flock(alive, fcntl.LOCK_SH)  # whoever gets it for itself knows that no job is left
            _write(self.job.folder / "status.json", self.tasks)
            while not all(task["state"] == "F" for task in self.tasks.values()):
                before = json.dumps(self.tasks)
                for index in self.said["tasks"]:
                    self._look_after(index)
                if json.dumps(self.tasks) != before:
                    _write(self.job.folder / "status.json", self.tasks)
                time.sleep(_LOOK_S)

    def _look_after(self, index: int | None) -> None:
        key, task = _key(index), self.tasks[_key(index)]
        if task["state"] == "R":
            self._watch(index)
        elif task["state"] != "F" and (self._cancelled(index) or (STATE / "stop").exists()):
            self._finish(index, -signal.SIGTERM, "cancel")
        elif task["state"] != "F":
            waits = [number for number in self.said["after"] if (job := find(number)) and not job.finished]
            running = sum(each["state"] == "R" for each in self.tasks.values())
            task["state"] = "H" if waits else "Q"
            if not waits and running < (self.said["concurrent"] or running + 1) and not (STATE / "hold").exists():
                task["gpus"] = _take_gpus(self.gpus, f"{self.job.number}.{key}")
                self.processes[key] = self.start(index, task["gpus"])
                self.begun[key] = time.monotonic()
                task |= {"state": "R", "pid": self.processes[key].pid}

    def _watch(self, index: int | None) -> None:
        key = _key(index)
        process, now = self.processes[key], time.monotonic()
        if (code := process.poll()) is not None:
            self._finish(index, code, self.asked.get(key, (0, "exit"))[1])
            return
        if (STATE / "stop").exists():
            signal_session(process.pid, signal.SIGKILL)
        limit = self.said.get("seconds")
        if key not in self.asked:
            reason = "cancel" if self._cancelled(index) else "time" if limit and now > self.begun[key] + limit else ""
            if reason:
                self.asked[key] = (now, reason)
                self.tell(process.pid)
        elif now > self.asked[key][0] + self.grace_s:
            signal_session(process.pid, signal.SIGKILL)

    def _finish(self, index: int | None, code: int, reason: str) -> None:
        key = _key(index)
        began = key in self.processes
        if began:
            signal_session(self.processes[key].pid, signal.SIGKILL)  # what the script has left
            _give_back_gpus(f"{self.job.number}.{key}")
            self.ended(index, code, reason)
        self.tasks[key] |= {"state": "F", "code": code, "reason": reason, "began": began}

    def _cancelled(self, index: int | None) -> bool:
        return (self.job.folder / "cancel").exists() or (self.job.folder / f"cancel-{index}").exists()


def of_session(session: int) -> list[int]:
    """Return the processes of a session, zombies aside."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(path.parent.name))
    return found


def wait_for_all(ranks: list[subprocess.Popen[bytes]], hand_on: dict[int, int], ended: Callable[[float], bool]) -> int:
    """Wait for processes, hand signals on to them, and return the worst code.

    Parameters
    ----------
    ranks : list of subprocess.Popen
    hand_on : dict
        What they get for what this process gets.
    ended : callable
        Tells whether those that are left are to end, given the time since the first one did.
    """

    def tell(number: int, _frame: object = None) -> None:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(hand_on[number])

    for number in hand_on:
        signal.signal(number, tell)
    first: float | None = None
    told = False
    while any(rank.poll() is None for rank in ranks):
        if first is None and any(rank.poll() is not None for rank in ranks):
            first = time.monotonic()
        if first is not None and not told and ended(time.monotonic() - first):
            tell(signal.SIGTERM)
            told = True
        time.sleep(_LOOK_S)
    return max(rank.returncode if rank.returncode >= 0 else 128 - rank.returncode for rank in ranks)


def copy(source: Path, target: Path) -> None:
    """Copy what a job has printed to where it is to be, and forget it."""
    shutil.copyfile(source, target)
    source.unlink()


def signal_session(session: int, number: signal.Signals) -> None:
    """Send a signal to all processes of a session."""
    for pid in of_session(session):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _take_gpus(number: int, owner: str) -> list[int]:
    """Return numbers of GPUs that no other task has: there are always enough."""
    folder = STATE / "gpus"
    folder.mkdir(exist_ok=True)
    taken: list[int] = []
    for gpu in itertools.count():
        if len(taken) == number:
            return taken
        try:
            with (folder / str(gpu)).open("x") as file:
                file.write(owner)
        except FileExistsError:
            continue
        taken.append(gpu)
    raise AssertionError


def _give_back_gpus(owner: str) -> None:
    for path in (STATE / "gpus").iterdir():
        if path.read_text() == owner:
            path.unlink()


def _key(index: int | None) -> str:
    return "" if index is None else str(index)


def _write(path: Path, data: Any) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(data))
    new.replace(path)
