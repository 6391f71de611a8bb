"""What a run is bound to: `run.json`."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rootstock import __version__
from rootstock.config.model_string import did_you_mean
from rootstock.errors import ConfigurationError, LaterRecordError, LockBusyError, RootError
from rootstock.root.holder import Holder
from rootstock.root.record_files import Record, read_record
from rootstock.root.records import now
from rootstock.simulations.claims import claim_files
from rootstock.simulations.output import replacing, seen_from, whole_path
from rootstock.simulations.runs.differences import differences

KINDS = ("singlepoint", "relax", "md")
FORMAT = 1
MOST = 2**31  # structures of a run
_NAME = "run.json"
MAKING = "making.json"  # the process that makes the run
_NAME_IT = "Name the folder that was given with --run."
_CHANGING_S = 60.0  # how long another process may take to change the record
_PINS = ("build", "environment_sha256")


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """What a run is bound to, and what it needs to go on.

    Attributes
    ----------
    kind : {'singlepoint', 'relax', 'md'}
    settings : dict
        Of what is done with each structure: arguments of `Relaxation` or `Dynamics`, or ``properties``.
    model : str
        As the user named it.
    structures : int
        How many there are.
    input : dict
        The files of structures, as they were when the run was made.
    root : str
    environment : str
    environment_sha256 : str
        Of its file.
    build : str or None
        Digest of the build; None of a model that runs without one.
    weights : list of dict
        ``path``, ``bytes`` and ``sha256`` of each file.
    setup_kwargs : dict
        Further arguments of ``setup()``.
    device : str
        That of the first command, which others use where they name none. It binds nobody.
    threads : list of int
        Numbers of CPU threads with which workers have computed, in the order of their first use. They bind nobody.
    out : str
        The file that results are exported to at the end; with its whole path.
    rootstock, created : str
        Version of Rootstock, and time.
    earlier : list of dict
        Builds, environments and weights before each `rebase`.
    format : int
        Of the folder.
    """

    kind: str
    settings: dict[str, Any]
    model: str
    structures: int
    input: dict[str, Any] = field(default_factory=dict)
    root: str = ""
    environment: str = ""
    environment_sha256: str = ""
    build: str | None = None
    weights: list[dict[str, Any]] = field(default_factory=list)
    setup_kwargs: dict[str, Any] = field(default_factory=dict)
    device: str = "cuda"
    threads: list[int] = field(default_factory=list)
    out: str = ""
    rootstock: str = __version__
    created: str = field(default_factory=now)
    earlier: list[dict[str, Any]] = field(default_factory=list)
    format: int = FORMAT


def run_file(folder: Path) -> Path:
    """Return the file that says what a run is bound to.

    Parameters
    ----------
    folder : Path
    """
    return folder / _NAME


def read_run(folder: Path) -> RunRecord:
    """Read what a run is bound to.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    ConfigurationError
        If the folder holds no run, or one that this version cannot read.
    """
    path = run_file(folder)
    hint = "Copy it from a backup, if there is one. The results are in the part-*.extxyz of the folder."
    try:
        record = read_record(RunRecord, path, hint)
    except LaterRecordError:
        raise
    except RootError as error:
        if isinstance(error.__cause__, OSError):
            error.hint = f"{_NAME_IT} Its owner says who may read it."
        raise ConfigurationError(error.message, error.hint) from error
    if record is None and (maker := _maker(folder)):
        raise ConfigurationError(
            f"The run {folder} is being made by {maker}.",
            "Wait a moment, and ask again. If it has ended, type its command again.",
        )
    if record is None:
        what = "holds no run: it has no run.json" if folder.is_dir() else "is not there" if not folder.exists() else ""
        raise ConfigurationError(
            f"The folder {folder} {what}." if what else f"{folder} is not a folder.",
            f"{_NAME_IT}{did_you_mean(folder.name, _runs_beside(folder))}",
        )
    wrong = ""
    if record.kind not in KINDS:
        wrong = f"kind must be one of {', '.join(KINDS)}, not {record.kind[:40]!r}"
    elif not 0 <= record.structures <= MOST:
        wrong = f"structures must be a number from 0 to {MOST}, not {record.structures}"
    elif record.format != FORMAT:
        wrong = f"this version knows format {FORMAT}, not {record.format}"
    if wrong:
        raise ConfigurationError(f"Cannot read {path}: {wrong}.", hint)
    return replace(record, out=whole_path(folder, record.out))


def _maker(folder: Path) -> Holder | None:
    """Return the process that makes a run, as far as anybody here can tell."""
    try:
        maker = read_record(Holder, folder / MAKING, "")
    except RootError:
        return None
    return None if maker is None or maker.ended else maker


def _runs_beside(folder: Path) -> list[str]:
    """Return the names of run folders beside a folder; none if nobody can tell."""
    with contextlib.suppress(OSError):
        return [each.name for each in folder.absolute().parent.iterdir() if run_file(each).is_file()]
    return []


def check_same_run(folder: Path, record: RunRecord, wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with a run in another way than it began.

    Parameters
    ----------
    folder : Path
    record : RunRecord
        What the run is bound to.
    wanted : mapping
        Entries of a record, as they are asked for now.

    Raises
    ------
    ConfigurationError
        It names the first entry that differs, and both values.
    """
    old = asdict(record)
    for name, before, now_ in differences({name: old[name] for name in wanted}, json.loads(json.dumps(dict(wanted)))):
        raise ConfigurationError(
            f"{folder} holds another run: {name} is {_shown(before)} there, and {_shown(now_)} now.",
            "Give this one a folder of its own, with --run; or go on with what the folder holds: "
            f"rootstock run continue {shlex.quote(str(folder))}",
        )


def check_same_model(folder: Path, record: RunRecord, info: Mapping[str, Any]) -> None:
    """Refuse to go on with another build, environment or other weights than a run began with.

    Parameters
    ----------
    folder : Path
    record : RunRecord
    info : mapping
        As `RootstockCalculator.info` returns it.

    Raises
    ------
    ConfigurationError
        It names what differs.
    """
    pinned, found = _pins(asdict(record)), _pins(info)
    for name, before, now_ in differences(pinned, found):
        raise ConfigurationError(
            f"{folder} was begun with another model: {name} was {_shown(before)}, and is {_shown(now_)} now.",
            "Results of both would be mixed. To accept that, which the folder then records: "
            f"rootstock run continue --rebase {shlex.quote(str(folder))}",
        )


def rebase(folder: Path, info: Mapping[str, Any]) -> RunRecord:
    """Bind a run to another build and other weights, and keep in mind what it was bound to before.

    Parameters
    ----------
    folder : Path
    info : mapping
        As `RootstockCalculator.info` returns it.

    Raises
    ------
    ConfigurationError
        If the folder holds no run.
    LockBusyError
        If another process is changing the record, for a minute.
    OutputError
        If the record cannot be written; it is as before then.
    """

    def changed(record: RunRecord) -> RunRecord:
        before = {"until": now(), **{name: getattr(record, name) for name in (*_PINS, "weights", "rootstock")}}
        return replace(
            record, **{name: info.get(name) or getattr(RunRecord, name) for name in _PINS},
            weights=list(info.get("weights") or []), rootstock=__version__, earlier=[*record.earlier, before],
        )  # fmt: skip

    return _change(folder, changed)


def note_threads(folder: Path, threads: int | None) -> None:
    """Keep in mind with how many CPU threads results are computed: their last digits may depend on that.

    Parameters
    ----------
    folder : Path
    threads : int or None
        None where nobody knows.

    Raises
    ------
    LockBusyError, ConfigurationError, OutputError
        As from `rebase`.
    """
    if threads is None or threads in read_run(folder).threads:
        return

    def changed(record: RunRecord) -> RunRecord:
        return record if threads in record.threads else replace(record, threads=[*record.threads, threads])

    _change(folder, changed)


def _change(folder: Path, changed: Callable[[RunRecord], RunRecord]) -> RunRecord:
    """Replace the record; of several processes that do so, each sees what the one before has written."""
    command = shlex.join(["rootstock", *sys.argv[1:]])
    deadline = time.monotonic() + _CHANGING_S
    while True:
        try:
            with claim_files([run_file(folder)], command):
                fresh = changed(read_run(folder))
                with replacing(run_file(folder)) as file:
                    file.write_text(replace(fresh, out=seen_from(folder, fresh.out)).to_json())
                return fresh
        except LockBusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _pins(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model is known by: where its weights lie does not count."""
    weights = {str(Path(str(file.get("path"))).name): file.get("sha256") for file in said.get("weights") or []}
    return {**{name: said.get(name) or "none" for name in _PINS}, "weights": weights}


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
