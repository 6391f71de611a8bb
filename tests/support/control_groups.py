"""Control groups, version 1: processes that are frozen, and that have little memory."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.needs import need
from tests.support.processes import wait_for

_GROUPS = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def control_group(kind: str, prefix: str = "rootstock-test-") -> Iterator[Path]:
    """Make a control group, which with those inside of it must be empty at the end of the block or be so soon."""
    parent = _GROUPS / kind
    need(os.access(parent / "cgroup.procs", os.W_OK), f"a writable {parent} (control groups, version 1)")
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield folder
    finally:
        lists = list(folder.rglob("cgroup.procs"))
        wait_for(lambda: not any(each.read_text() for each in lists), f"the end of the processes in {folder}")
        for each in reversed(lists):  # rglob gives a folder before those in it
            each.parent.rmdir()


@contextlib.contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Freeze processes, which ignore even SIGKILL then; they must end soon after the block."""
    with control_group("freezer") as folder:
        state = folder / "freezer.state"
        try:
            for pid in pids:
                (folder / "cgroup.procs").write_text(str(pid))
            state.write_text("FROZEN")
            wait_for(lambda: state.read_text().strip() == "FROZEN", f"the frost of {pids}")
            yield
        finally:
            state.write_text("THAWED")
