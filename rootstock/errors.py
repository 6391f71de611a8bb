"""Every error that Rootstock raises on purpose.

::

    RootstockError
    ├── ConfigurationError (ValueError)          a wrong argument, variable, cluster file or environment file
    ├── UnknownEnvironmentError (FileNotFoundError)
    ├── RootError                                the root is missing, is not a root, or cannot be read or written
    │   ├── LaterRecordError                     a later version of Rootstock wrote a record of it
    │   └── LockBusyError                        another admin is changing the root
    ├── NotConvergedError                        a relaxation did not reach its aim; the result is written
    ├── SomeFailedError                          some of many structures failed; the others are recorded
    ├── OutputError                              a file of results could not be written, as on a full disk
    ├── SiteError                                a step of the installation failed, such as writing a file
    │   ├── BundleError
    │   ├── BuildError
    │   ├── WeightsError                         weights could not be fetched
    │   ├── VerificationError
    │   ├── RenderError
    │   └── HookError
    └── WorkerError (RuntimeError)
        ├── WorkerStartError                     the worker never became ready
        │   ├── MissingWeightsError              the model's weights are not in the root
        │   └── DeviceError                      there is no such device where the worker runs
        ├── WorkerDiedError                      the worker's process ended
        ├── WorkerTimeoutError (TimeoutError)    no answer within the deadline; the worker was replaced
        ├── WorkerProtocolError                  the other end broke the protocol
        ├── ModelError                           the model raised an exception; the worker lives
        │   ├── UnsupportedPropertyError         the model does not compute what was asked for
        │   └── OutOfMemoryError                 the atoms do not fit into the memory of the device
        └── NonFiniteError (ArithmeticError)     NaN or infinity went in or came out

Each says what happened, where, and the next thing to try. ``exit_code`` is what the command lines end with
(the table is in docs/reference/exit-codes.md, made from here).
"""

from __future__ import annotations


class RootstockError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    message : str
        What went wrong, and where.
    hint : str, optional
        The next command to run or thing to change. It is shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigurationError(RootstockError, ValueError):
    """A wrong argument, variable, cluster file or environment file."""

    exit_code = 3


class UnknownEnvironmentError(RootstockError, FileNotFoundError):
    """No environment of that name or path."""

    exit_code = 4


class RootError(RootstockError):
    """The root is missing, is not a Rootstock root, or cannot be read or written."""

    exit_code = 10


class LaterRecordError(RootError):
    """A later version of Rootstock wrote a record that this one cannot read."""


class LockBusyError(RootError):
    """Another process is changing the root, or writing the same file."""

    exit_code = 11


class NotConvergedError(RootstockError):
    """A relaxation did not reach its aim; its last step is written all the same."""

    exit_code = 21


class SomeFailedError(RootstockError):
    """Some of many structures failed; the results of the others are recorded."""

    exit_code = 22


class OutputError(RootstockError):
    """A file of results could not be written, as on a full disk."""

    exit_code = 16


class SchedulerError(RootstockError):
    """The batch system did not take a job, or does not answer."""

    exit_code = 23


class SiteError(RootstockError):
    """A step of the installation failed, such as writing a file: the disk is full, or a quota used up."""

    exit_code = 16


class BundleError(SiteError):
    """A bundle could not be made, was changed, or is for something else."""

    exit_code = 13


class BuildError(SiteError):
    """An environment could not be locked, installed or checked."""

    exit_code = 14


class WeightsError(SiteError):
    """Weights could not be fetched, or a worker does not find those that were."""

    exit_code = 12


class VerificationError(SiteError):
    """A worker computed other numbers than the references say."""

    exit_code = 15


class RenderError(SiteError):
    """A template could not be rendered with the cluster's values."""

    exit_code = 17


class HookError(SiteError):
    """A program of the site's own, run before or after a change, failed."""

    exit_code = 19


class WorkerError(RootstockError, RuntimeError):
    """Something about the worker of a calculator.

    Parameters
    ----------
    message, hint : str
        As for `RootstockError`.
    log : str
        Path of the file that holds what the worker printed; empty where there is none.
    tail : str
        Its last lines.
    remote_type, remote_traceback : str
        Class and traceback of the exception in the worker, where there was one.

    Attributes
    ----------
    log, tail, remote_type, remote_traceback : str
        The same.
    code : str
        What kind of failure the worker reported, as the page on wire protocols lists them; empty if it reported none.
    """

    code = ""

    exit_code = 18

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        log: str = "",
        tail: str = "",
        remote_type: str = "",
        remote_traceback: str = "",
    ) -> None:
        super().__init__(message, hint)
        self.log = log
        self.tail = tail
        self.remote_type = remote_type
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        return "\n".join(filter(None, (super().__str__(), self.details)))

    @property
    def details(self) -> str:
        """What the worker said: its traceback, its last lines, and where all of it is; empty if there is none."""
        parts = []
        if self.remote_traceback:
            parts.append(f"In the worker:\n{self.remote_traceback.rstrip()}")
        if self.tail:
            parts.append("Last lines of its output:\n" + "\n".join("  | " + line for line in self.tail.splitlines()))
        if self.log:
            parts.append(f"Full output of the worker: {self.log}")
        return "\n".join(parts)


class WorkerStartError(WorkerError):
    """The worker never became ready.

    Attributes
    ----------
    timed_out : bool
        Whether it was only not ready in time.
    """

    timed_out = False


class MissingWeightsError(WorkerStartError):
    """The model's weights are not in the root."""


class DeviceError(WorkerStartError):
    """There is no such device where the worker runs, or the environment was not built for it."""


class WorkerDiedError(WorkerError):
    """The worker's process ended.

    Attributes
    ----------
    returncode : int or None
        Exit code as `subprocess` gives it: negative for a signal; None if it is not known.
    """

    returncode: int | None = None


class WorkerTimeoutError(WorkerError, TimeoutError):
    """No answer within the deadline; the worker was ended, and the next call starts a new one."""


class WorkerProtocolError(WorkerError):
    """The other end sent something that the protocol does not allow."""


class ModelError(WorkerError):
    """The model raised an exception, and can be asked again.

    The worker lives, unless the exception made the GPU refuse it all else; the next call then starts another one.
    """


class UnsupportedPropertyError(ModelError):
    """The model does not compute what was asked for, or not for these atoms."""


class OutOfMemoryError(ModelError):
    """The atoms do not fit into the memory of the device, or of the node."""


class NonFiniteError(WorkerError, ArithmeticError):
    """NaN or infinity in what was sent to a model, or in what it returned."""
