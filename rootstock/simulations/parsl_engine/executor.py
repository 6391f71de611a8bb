"""Parsl's executor, which notices what Parsl does not: an interchange that is gone, and that nothing goes on."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import zmq
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import HTEXFuture
from parsl.jobs.states import TERMINAL_STATES, JobState
from parsl.providers.errors import SubmitException

from rootstock.errors import RootstockError, WorkerError
from rootstock.root.signals import start_thread
from rootstock.simulations.parsl_engine.addresses import own_addresses
from rootstock.simulations.parsl_engine.program_end import at_end
from rootstock.simulations.parsl_engine.reasons import AGAIN, as_new, gone, in_python, jobs_fail, stalled
from rootstock.simulations.runs.engine_jobs import forget_engine_jobs, note_engine_job
from rootstock.simulations.runs.schedulers import Job
from rootstock.simulations.submission.send import is_late, refusal

_SCHEDULERS = {"slurm": "slurm", "pbspro": "pbs"}  # by Parsl's names
_LOOK_S = 1.0
_ANSWER_S = 30.0  # in which an interchange that lives answers by far
_LAST_S = 10.0  # that a program which ends waits for a job that is being submitted, and then for the end of all


class Executor(HighThroughputExecutor):
    """Parsl's HighThroughputExecutor, with limits of ours.

    Parameters
    ----------
    stall_limit : float [s]
        After so much time in which workers are there, and none computes, ends a task or records anything, all fails.
    **options
        As for Parsl's. Without ``address``, workers try all of this node's.
    """

    def __init__(self, *, stall_limit: float = 300.0, **options: Any) -> None:
        address = options.pop("address", None)
        super().__init__(address=address or "127.0.0.1", **options)
        if address is None:  # workers find out which one leads here; Parsl would ask a service in the internet, too
            self.address, self.all_addresses = None, own_addresses()
        self.stall_limit, self.of_command = stall_limit, False  # whether a command of ours has made it
        self._ending = threading.Event()
        self._lock = threading.RLock()  # futures that are given up call back
        self._submitting = threading.Lock()
        self._foreign = 0  # tasks that are not ours: how long these take, nobody knows
        self._noted = 0
        self._seen: tuple[Any, ...] = ()
        self._since = time.monotonic()
        self._watcher: threading.Thread | None = None
        self._put: Callable[[Any], object]
        self._not_at_end: Callable[[], object] = lambda: None

    # -- what others ask

    @property
    def slots(self) -> int:
        """How many workers compute at a time, once all of its jobs run."""
        assert self.provider is not None
        return int(self.provider.max_blocks * self.provider.nodes_per_block * self.workers_per_node)

    def note(self) -> None:
        """Take note that something goes on."""
        self._noted += 1

    def check(self) -> None:
        """Raise what has ended all, if something has.

        Raises
        ------
        WorkerError
        """
        if self.bad_state_is_set:
            raise self.reason()

    def reason(self) -> RootstockError:
        """Return what has ended all, each time as an error that nobody has raised yet."""
        error = self._executor_exception
        if not isinstance(error, RootstockError):
            return jobs_fail(error, self.run_dir)
        return as_new(error) if self.of_command else in_python(error)

    def give_up(self, error: RootstockError) -> None:
        """Let all tasks fail, and end the jobs.

        Parameters
        ----------
        error : RootstockError
        """
        with self._lock:
            if self.bad_state_is_set:
                return
            self.set_bad_state_and_fail_all(error)
        self._cancel()

    def close_block(self, block: str) -> None:
        """End a job; another one takes its place as long as there is work.

        Parameters
        ----------
        block : str
        """
        assert self.provider is not None
        with contextlib.suppress(Exception):  # it has ended, or the batch system does not answer
            self._hold_block(block)  # type: ignore[no-untyped-call]
            self.provider.cancel([self.blocks_to_job_id[block]])

    # -- what Parsl calls

    @property
    def executor_exception(self) -> Exception | None:
        """What has ended all, as Parsl raises it for each task that comes later."""
        return self.reason() if self._executor_exception is not None else None

    def set_bad_state_and_fail_all(self, exception: Exception) -> None:
        """Let all tasks fail, now and later.

        Parameters
        ----------
        exception : Exception
        """
        self._executor_exception = exception
        self._executor_bad_state.set()
        for task in [*self.tasks.values()]:
            with contextlib.suppress(Exception):  # it has ended at the same moment
                task.set_exception(self.reason())

    def start(self) -> None:
        """Start the interchange, and watch it; see to it that the jobs end with this program."""
        self._not_at_end = at_end(self._end_with_program)
        self.interchange_launch_cmd = [*self.interchange_launch_cmd, str(os.getpid())]  # which it ends with
        super().start()  # type: ignore[no-untyped-call]
        self.outgoing_q.zmq_socket.setsockopt(zmq.SNDTIMEO, int(_LOOK_S * 1000))
        self._put = self.outgoing_q.put
        self.outgoing_q.put = self._put_or_fail  # type: ignore[method-assign]
        self._watcher = threading.Thread(target=self._watch, name="rootstock-parsl", daemon=True)
        start_thread(self._watcher)

    def scale_out_facade(self, n: int) -> list[str]:
        """Submit jobs.

        Parameters
        ----------
        n : int
            How many.
        """
        with self._submitting:
            return super().scale_out_facade(n)

    def submit(
        self, func: Callable[..., Any], resource_specification: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HTEXFuture:
        """Hand a task to the workers.

        Parameters
        ----------
        func, resource_specification, *args, **kwargs
            As Parsl has them.
        """
        future = super().submit(func, resource_specification, *args, **kwargs)
        if not str(getattr(func, "__module__", "")).startswith("rootstock."):
            with self._lock:
                self._foreign += 1
            future.add_done_callback(self._foreign_ended)
        return future

    def connected_managers(self) -> list[dict[str, Any]]:
        """Return the managers that the interchange knows; none if it is gone."""
        return self._ask("MANAGERS")

    def connected_blocks(self) -> list[str]:
        """Return the blocks that the interchange has ever known; none if it is gone."""
        return self._ask("CONNECTED_BLOCKS")

    def shutdown(self, timeout: float = 10.0) -> None:
        """End the interchange, and what is left of tasks and jobs.

        Parameters
        ----------
        timeout : float [s]
            For the interchange.
        """
        self._ending.set()
        if self.tasks:
            self.give_up(WorkerError("Parsl was ended before this was computed.", AGAIN))
        if self.bad_state_is_set:  # then Parsl leaves its jobs alone; whoever gave up may not have come that far
            self._cancel()
        forget_engine_jobs(Path(self.run_dir))  # whoever goes on has nothing to cancel
        super().shutdown(timeout)
        self._not_at_end()

    def _launch_block(self, block_id: str) -> Any:
        self.check()
        try:
            job = super()._launch_block(block_id)
        except SubmitException as error:  # Parsl tries again, in vain if the first one is refused
            said = str(error.stderr or error.stdout or error.message)
            if not self.blocks_to_job_id and self.provider is not None and not is_late(said):
                self.give_up(refusal(_SCHEDULERS[self.provider.label], said))
            raise
        if self.provider is not None and (scheduler := _SCHEDULERS.get(self.provider.label)):
            note_engine_job(Path(self.run_dir), Job(scheduler, str(job)))  # for others, also if this process is killed
        return job

    def _end_with_program(self) -> None:
        """Cancel the jobs of a program that ends without `shutdown`: they would notice only a minute later."""
        assert self.provider is not None
        self._ending.set()
        self._executor_bad_state.set()  # no more jobs; nobody waits for the tasks
        self._submitting.acquire(timeout=_LAST_S)  # a job that is being submitted has no number yet
        self.provider.cmd_timeout = _LAST_S  # type: ignore[attr-defined]
        self._cancel()
        if self.interchange_proc is not None:
            self.interchange_proc.kill()

    # -- the watch

    def _ask(self, what: str) -> list[Any]:
        if self._interchange_ended() or not self.command_client.ok:
            return []
        answer: list[Any] = self.command_client.run(what, timeout_s=_ANSWER_S)
        return answer

    def _put_or_fail(self, message: Any) -> None:
        """Send a task to the interchange, for which Parsl would wait for ever if it is gone."""
        while True:
            with contextlib.suppress(zmq.Again):
                self._put(message)
                return
            if self._interchange_ended():
                self.give_up(gone())
            self.check()

    def _interchange_ended(self) -> bool:
        return self.interchange_proc is None or self.interchange_proc.poll() is not None

    def _foreign_ended(self, future: Future[Any]) -> None:  # noqa: ARG002  # as futures want it
        with self._lock:
            self._foreign -= 1

    def _cancel(self) -> None:
        """Cancel all jobs that have not ended, by one command: there may be many, and little time."""
        assert self.provider is not None
        states = dict(self._status)
        jobs = [
            job for block, job in [*self.blocks_to_job_id.items()]
            if block not in states or states[block].state not in TERMINAL_STATES
        ]  # fmt: skip
        if jobs:
            with contextlib.suppress(Exception):  # such as a batch system that does not answer
                self.provider.cancel(jobs)

    def _watch(self) -> None:
        while not self._ending.wait(_LOOK_S) and not self.bad_state_is_set:
            if self._interchange_ended():
                self.give_up(gone())
            elif not self.command_client.ok:
                self.give_up(WorkerError("Parsl's interchange does not answer any more.", AGAIN))
            elif self._stalled():
                self.give_up(stalled(self.stall_limit))

    def _stalled(self) -> bool:
        now = time.monotonic()
        if self._foreign or not self.tasks or not _runs(self._status):
            self._since = now
            return False
        seen = (self._task_counter - len(self.tasks), self._noted)
        if seen != self._seen[:2]:
            self._seen, self._since = (*seen, self._times()), now
        elif now - self._since > self.stall_limit:
            if (times := self._times()) == self._seen[2]:
                return True
            self._seen, self._since = (*seen, times), now
        return False

    def _times(self) -> dict[str, float]:
        """Return when a worker of each block was last seen to compute; clocks of several nodes are not compared."""
        with contextlib.suppress(OSError):
            return {each.name: each.stat().st_mtime for each in Path(self.worker_logdir).glob("busy-*")}
        return {}


def _runs(status: Mapping[str, Any]) -> bool:
    return any(each.state == JobState.RUNNING for each in status.values())
