"""Compile what a build holds to bytecode, so that it depends on nothing but the build's files and its place.

uv can do that as well, but it notes the place where a build is made, which is another one each time, and the times of
files. Here bytecode names the place where the build will be, and is not compared with its source, which never changes:
`rootstock.root.checksums` knows both. So two builds of a lock are alike to the last byte.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rootstock.builds.subprocesses import Programs

_BATCH, _FILE = 2**21, 2**11  # bytes of source that are compiled at a time, and what a file costs beside its bytes
# Packages' tests of themselves are up to half of their modules, and no worker imports them.
_TESTS = {"test", "tests"}


def compile_bytecode(
    prefix: Path, place: Path, variables: dict[str, str], *, umask: int, programs: Programs, log: Callable[[str], None]
) -> None:
    """Compile every module in an environment, or of an interpreter, but for the tests of packages.

    Parameters
    ----------
    prefix : Path
        Its folder.
    place : Path
        Where it will be.
    variables : dict
        What the compiler's environment is.
    umask : int
        For the files.
    programs : Programs
    log : callable
        Is given what the compiler says. A file that is no Python of this version is left as it is.
    """
    libraries = [folder for folder in prefix.glob("lib*/python*") if not folder.parent.is_symlink()]
    modules = [
        (path.stat().st_size, path)
        for library in libraries
        for path in library.rglob("*.py")
        if _TESTS.isdisjoint(path.relative_to(library).parts[:-1]) and path.is_file()
    ]
    # No packages' own start-up code (-S), and no chance in the order of sets.
    command = [str(prefix / "bin" / "python3"), "-S", "-s", "-Wignore", "-c", _PROGRAM, str(prefix), str(place)]
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "modules")
        listed.write_text("\0\0".join("\0".join(batch) for batch in _batches(modules)), "utf-8", "surrogateescape")
        settings = {**variables, "PYTHONHASHSEED": "0"}
        programs.run([*command, str(listed), str(_processors())], settings, log, umask, Path(folder))


def _batches(modules: Iterable[tuple[int, Path]]) -> Iterator[list[str]]:
    """Deal out modules, those that take longest first: what processors share is small at the end."""
    batch, cost = [], 0
    for size, path in sorted(modules, key=lambda module: (-module[0], module[1])):
        batch.append(str(path))
        cost += size + _FILE
        if cost > _BATCH:
            yield batch
            batch, cost = [], 0
    if batch:
        yield batch


# What a module is compiled to depends a little on what its process compiled before (which names Python has already).
# Each batch has a fresh copy of one process, so it comes out the same on any number of processors.
_PROGRAM = """
import ctypes, os, py_compile, sys

prefix, place, listed, processors = sys.argv[1:]
first = os.getpid()

def compile_batch(paths):
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)  # end with the first process, however it ends
    for path in paths:
        if os.getppid() != first:
            return 1
        try:
            py_compile.compile(
                path, dfile=place + path[len(prefix):], quiet=2,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        except OSError as error:
            print(f"Cannot compile {path}: {error.strerror}.", flush=True)
            return 1
    return 0

def end_of_one():
    return os.waitstatus_to_exitcode(os.wait()[1]) == 0

running, fine = 0, True
with open(listed, encoding="utf-8", errors="surrogateescape") as file:
    batches = [batch.split("\\0") for batch in file.read().split("\\0\\0") if batch]
for batch in batches:
    if running == int(processors):
        running, fine = running - 1, end_of_one() and fine
    if not fine:
        break
    if os.fork() == 0:
        code = 1
        try:
            code = compile_batch(batch)
        finally:
            os._exit(code)
    running += 1
while running:
    running, fine = running - 1, end_of_one() and fine
sys.exit(not fine)
"""


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
