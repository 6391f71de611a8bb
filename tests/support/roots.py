"""What tests put into roots: an environment that was never built, and a process that holds the lock."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rootstock.config.environment_file import read_source
from rootstock.root.layout import RootLayout
from rootstock.root.records import BuildRecord
from tests.support.commands import DEADLINE_S, clean_environment

_HOLD = """
import sys
from pathlib import Path
from rootstock.root.layout import RootLayout
from rootstock.root.lock import AdminContext, admin_lock
with admin_lock(RootLayout(Path(sys.argv[1])), AdminContext("rootstock-site build mace", report=print)):
    print("held", flush=True)
    sys.stdin.read()
"""


def put_environment(layout: RootLayout, file: Path, record: BuildRecord) -> BuildRecord:
    """Put an environment into a root as an installation leaves it, but for the installed packages."""
    source = read_source(file)
    (layout.environments / file.name).write_text(source.text)
    record = replace(record, name=source.name, header=source.summary())
    build = layout.build(source.name, record.digest)
    build.mkdir(parents=True)
    (build / "environment.py").write_text(source.text)
    (build / "build.json").write_text(record.to_json())
    layout.active(source.name).symlink_to(f"../builds/{source.name}/{record.digest}")
    return record


@contextlib.contextmanager
def holder(root: Path, *prefix: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Hold the lock of a root in a process of its own, until its input ends; give it, and what it said before."""
    command = [*prefix, sys.executable, "-c", _HOLD, str(root)]
    with subprocess.Popen(
        command, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        said = []
        for line in process.stdout:
            if line == "held\n":
                break
            said.append(line.strip())
        else:
            raise AssertionError(f"it ended without the lock: {said}")
        try:
            yield process, said
        finally:
            process.stdin.close()
            process.wait(DEADLINE_S)
