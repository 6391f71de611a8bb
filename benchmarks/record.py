"""What a benchmark writes with ``--json`` and `plot.py` reads: where and when it ran, and its rows."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ase
import numpy as np

from rootstock import __version__


def new(benchmark: str, **more: str) -> dict[str, Any]:
    """Return the record of a run that begins now, without rows, and print where it runs.

    ``load`` is the load average over a minute. At the start it is what the machine did besides the benchmark. `more` is
    recorded as it is.
    """
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "ase": ase.__version__,
        "rootstock": __version__,
        **more,
        "load": {"start": round(os.getloadavg()[0], 2)},
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items() if name != "load"), end=", ")
    print(f"load average {machine['load']['start']}", flush=True)
    date = datetime.now(UTC).isoformat(timespec="minutes")
    return {"benchmark": benchmark, "date": date, "machine": machine, "rows": []}


def write(record: dict[str, Any], path: Path | None) -> None:
    """Write a record whose run has ended, if there is where to."""
    record["machine"]["load"]["end"] = round(os.getloadavg()[0], 2)
    if path is not None:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
