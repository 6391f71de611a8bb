"""Runs for Python programs: a command that computes in the background, and what it has computed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from rootstock import errors
from rootstock.client.evaluated import Evaluated, FailureClass
from rootstock.client.own_python import own_python
from rootstock.client.reported import error_class
from rootstock.client.scratch import last_lines
from rootstock.client.threads import OF_LIBRARIES
from rootstock.errors import ConfigurationError, LockBusyError, NotConvergedError, RootstockError, SomeFailedError
from rootstock.simulations.lockstep.relaxed import Relaxed
from rootstock.simulations.relax import Relaxation
from rootstock.simulations.runs.cancel import cancel
from rootstock.simulations.runs.command_words import relaxation_words
from rootstock.simulations.runs.elements import running
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.frames_index import read_frame
from rootstock.simulations.runs.index import Status
from rootstock.simulations.runs.records import run_file
from rootstock.simulations.runs.source import Source
from rootstock.simulations.runs.submissions import submissions, submitted

_LOOK_S = 0.2
_ASK_S = 10.0  # the same where the scheduler is asked
_DONE = (0, NotConvergedError.exit_code, SomeFailedError.exit_code)  # with which commands end that computed everything


class Run:
    """Many structures that are computed in the background, by as many workers as this node has room for.

    It is what ``rootstock relax --workers`` and ``rootstock singlepoint --workers`` do: results are in a run folder,
    and ``rootstock run status FOLDER`` shows how far it is. It goes on when this Python ends; `Run.open` finds it.

    Parameters
    ----------
    folder : path
        The run folder.
    command : sequence of str
        What is typed after ``rootstock`` to compute it.

    Examples
    --------
    >>> run = rootstock.Run.relax("many.xyz", model="mace-medium", workers="auto")  # doctest: +SKIP
    >>> run.start()  # doctest: +SKIP
    >>> run.wait()  # doctest: +SKIP
    >>> relaxed = [each.atoms for each in run.results() if each.error is None]  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str], command: Sequence[str]) -> None:
        self.folder, self.command = Path(folder), list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    @classmethod
    def relax(
        cls, structures: str | os.PathLike[str] | Sequence[str], *, model: str, settings: Relaxation | None = None,
        **options: Any,
    ) -> Self:  # fmt: skip
        """Relax the structures of files.

        Parameters
        ----------
        structures : path or sequence of path
            Files, as ``rootstock relax`` takes them.
        model : str
        settings : Relaxation, optional
        **options
            As for `singlepoint`.
        """
        words = relaxation_words(asdict(settings or Relaxation()))
        return cls._new("relax", "relaxed", structures, model, words, **options)

    @classmethod
    def singlepoint(
        cls, structures: str | os.PathLike[str] | Sequence[str], *, model: str, properties: Sequence[str] = (),
        **options: Any,
    ) -> Self:  # fmt: skip
        """Compute properties of the structures of files.

        Parameters
        ----------
        structures : path or sequence of path
            Files, as ``rootstock singlepoint`` takes them.
        model : str
        properties : sequence of str
            By default energy, forces, and the stress of periodic structures.
        **options
            ``run``, the folder; ``workers``, a number or ``'auto'``; ``cluster``, ``root``, ``device``, ``threads``,
            ``calc_kwargs``, ``out`` and ``format``, as the command's.
        """
        words = ["--properties", ",".join(properties)] if properties else []
        return cls._new("singlepoint", "results", structures, model, words, **options)

    @classmethod
    def _new(
        cls, kind: str, ending: str, structures: Any, model: str, words: Sequence[str], *,
        run: str | os.PathLike[str] | None = None, workers: int | str = "auto", **more: Any,
    ) -> Self:  # fmt: skip
        files = [os.fspath(structures)] if isinstance(structures, str | os.PathLike) else [*map(os.fspath, structures)]
        if run is None and len(files) != 1:
            raise ConfigurationError(f"A run of {len(files)} files needs a name.", "Give one: run='screening'")
        folder = Path(run if run is not None else f"{Path(files[0]).stem}-{ending}.run")
        known = ("cluster", "root", "device", "threads", "calc_kwargs", "out", "format")
        if unknown := [name for name in more if name not in known]:
            raise ConfigurationError(
                f"{kind}() knows no {unknown[0]!r}.", f"It knows run, workers, {', '.join(known)}."
            )
        given = {name: value for name, value in more.items() if value is not None}
        options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return cls(folder, [kind, model, *files, *words, "--run", str(folder), "--workers", str(workers), *options])

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Return the run of a folder that is there.

        Parameters
        ----------
        folder : path

        Raises
        ------
        ConfigurationError
            If it holds none.
        """
        RunFolder.open(Path(folder))
        return cls(folder, ["run", "continue", str(folder), "--workers", "auto"])

    def start(self) -> None:
        """Begin to compute, or go on where it was ended; returns at once.

        Raises
        ------
        LockBusyError
            If it is being computed.
        """
        if self.is_running():
            raise LockBusyError(f"{self.folder} is being computed.", "Wait for it: run.wait()")
        self._cancelled = False
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*own_python("rootstock.cli", "rootstock"), *self.command], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, env={**os.environ, **dict.fromkeys(OF_LIBRARIES, "1")},
            )  # fmt: skip

    @property
    def log(self) -> Path:
        """The file that holds what the command says."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def is_running(self) -> bool:
        """Return whether some process computes it, or a job does or may yet.

        Of jobs about which nobody here can tell, as when the scheduler does not answer, it is thought that they do
        while structures are missing.
        """
        if self._process is not None and self._process.poll() is None:
            return True
        if not run_file(self.folder).exists():
            return False
        jobs = submitted(self.folder)
        if any(found.runs for found in running(self.folder)) or any(each.queue for each in jobs):
            return True
        return any(each.queue is None for each in jobs) and bool(self._counts()["missing"])

    def _counts(self) -> dict[str, int]:
        return RunFolder.open(self.folder).progress().counts()

    def wait(self, timeout: float | None = None) -> dict[str, int]:
        """Wait until nothing computes it any more.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Returns
        -------
        dict
            How many structures are ``done``, ``not_converged``, ``missing``, ``failed_structure`` and
            ``failed_resource``.

        Raises
        ------
        TimeoutError
            If it is still being computed.
        RootstockError
            If it was ended by an error; the message is what the command said.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while self.is_running():
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"{self.folder} is still being computed after {timeout} s.")
            pause = _ASK_S if self._process is None and submissions(self.folder) else _LOOK_S
            time.sleep(pause if until is None else max(0.0, min(pause, until - time.monotonic())))
        if self._process is not None and not self._cancelled and (code := self._process.returncode) not in _DONE:
            raise _error_of(code, self.log)
        return self._counts()

    def cancel(self) -> None:
        """End what computes it; what was computed is recorded, and `start` goes on from there."""
        if self._process is not None and self._process.poll() is None:
            self._cancelled = True
            self._process.terminate()  # it may not have come to the folder yet
            self._process.wait()
        elif run_file(self.folder).exists():
            cancel(self.folder)

    def results(self) -> Iterator[Evaluated]:
        """Yield what became of each structure that was computed, in the order of the input, also while the run goes on.

        Yields
        ------
        Evaluated
            ``atoms`` has the results; of a structure that failed, ``error`` says why. Of a relaxation it is a
            `Relaxed`.

        Raises
        ------
        ConfigurationError
            If there is no such run folder.
        """
        folder = RunFolder.open(self.folder)
        source, progress = Source(folder.path, folder.record.input), folder.progress()
        failures = {each["index"]: each for each in folder.failures()}
        relaxes, left = folder.record.kind == "relax", iter(sorted(failures))
        coming = next(left, None)
        for index, data in folder.frames():
            while coming is not None and coming < index:
                yield _failed(source, failures[coming], relaxes=relaxes)
                coming = next(left, None)
            atoms = read_frame(data)
            results, atoms.calc = dict(atoms.calc.results), None
            if not relaxes:
                yield Evaluated(index, results, None, atoms)
                continue
            if progress.statuses[index] == Status.MISSING:  # it was recorded meanwhile
                progress = folder.progress()
            yield Relaxed(index, results, None, atoms, None, bool(atoms.info["converged"]), int(progress.steps[index]))
        while coming is not None:
            yield _failed(source, failures[coming], relaxes=relaxes)
            coming = next(left, None)


Run.__module__ = "rootstock"  # where it is imported from


def _failed(source: Source, said: Mapping[str, Any], *, relaxes: bool) -> Evaluated:
    error = error_class(str(said["error"]))(said["message"])
    structure: Any = None
    with contextlib.suppress(ConfigurationError):  # one that cannot be read
        structure = source[said["index"]]
    kind = Relaxed if relaxes else Evaluated
    return kind(said["index"], None, error, structure, FailureClass(said["class"]))


def _error_of(code: int, log: Path) -> RootstockError:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RootstockError)]
    kind = next((kind for kind in kinds if kind.exit_code == code), RootstockError)
    _, found, said = last_lines(log).rpartition("Error: ")
    return kind(said.strip() if found else f"The command ended with exit code {code}.", f"All that it said: {log}")
