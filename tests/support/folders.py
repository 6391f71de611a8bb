"""Folders of tests: open to other users, small, or made once for all processes of a run."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.commands import run
from tests.support.needs import need, need_root


def open_to_readers(folder: Path) -> None:
    """Let other users reach a folder of ours; pytest makes its own private."""
    for each in (folder, *folder.parents):
        if each.stat().st_uid == os.getuid() and each.stat().st_mode & 0o055 != 0o055:
            each.chmod(0o755)


@contextlib.contextmanager
def small_disk(folder: Path, *options: str) -> Iterator[Path]:
    """Lay a file system of its own over a folder, which is made if it is not there."""
    need_root()
    folder.mkdir(exist_ok=True)
    mounted = run("mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder)
    need(mounted.returncode == 0, f"the right to mount ({mounted.stderr.strip()})")
    try:
        yield folder
    finally:
        run("umount", "--lazy", folder, check=True)


@contextlib.contextmanager
def nobody_opens(file: Path) -> Iterator[None]:
    """Let whoever opens a file wait, as on a file system that hangs: the kernel asks us, and we do not answer."""
    need_root()
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.fanotify_init(0x04, os.O_RDONLY)  # FAN_CLASS_CONTENT
    need(descriptor >= 0, f"fanotify ({os.strerror(ctypes.get_errno())})")
    try:
        marked = libc.fanotify_mark(descriptor, 0x01, ctypes.c_uint64(0x10000), -100, bytes(file))  # ADD, OPEN_PERM
        need(marked == 0, f"fanotify with permission events ({os.strerror(ctypes.get_errno())})")
        yield
    finally:
        os.close(descriptor)


def once_per_run(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that is made once, by whichever process of a run comes first.

    Parameters
    ----------
    factory : pytest.TempPathFactory
    name : str
    make : callable
        Fills the folder, which exists and is empty; the others wait for its end.
    """
    own = factory.getbasetemp()
    # With pytest-xdist each process has a folder of its own below that of the run.
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    finished = folder.with_name(f"{name}.finished")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not finished.exists():
            folder.mkdir(exist_ok=True)  # what failed in another process is tried again
            make(folder)
            finished.touch()
    return folder
