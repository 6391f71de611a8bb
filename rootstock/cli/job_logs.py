"""What the logs of jobs say at their ends."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

_LOGS = 200  # of an array that are read, so that nobody waits long
_END = 16384  # bytes of each
_SHOWN = 3
_OURS = (".sh", ".json")
_LAST = re.compile(
    r"^(Error: .*|The job is about to end: .*|Ending: what is unfinished is recorded|slurmstepd\S* error: .*)",
    re.MULTILINE,
)


def last_words(folder: Path) -> list[str]:
    """Return with what the jobs of a run ended that were submitted last, the most frequent first, and where that is.

    Parameters
    ----------
    folder : Path
        Of the run.
    """
    from rootstock.root.disk_usage import number_of
    from rootstock.simulations.runs.submissions import folder_of, submissions

    if not (before := submissions(folder)):
        return []
    place = folder_of(folder, before[-1].number)
    logs = sorted(path for path in place.iterdir() if path.suffix not in _OURS)  # PBS names them as it likes
    ends = Counter(filter(None, map(_last, logs[:_LOGS])))
    lines = [f"{number_of(count, 'job')} said: {text}" for text, count in ends.most_common(_SHOWN)]
    return [*lines, f"Logs of the jobs: {place}"]


def _last(log: Path) -> str:
    """Return the last line of a log that says how the job ended; empty if there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _END))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    found: list[str] = _LAST.findall(text)
    return next((line for line in reversed(found) if line.startswith("Error: ")), found[-1] if found else "")[:300]
