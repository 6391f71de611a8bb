"""Compile what a build holds to bytecode, so that it depends on nothing but the build's files and its place.

uv can do that as well, but it notes the place where a build is made, which is another one each time, and the times of
files. Here bytecode names the place where the build will be, and is not compared with its source, which never changes:
`rootstock.integrity` knows both. So two builds of a lock are alike to the last byte.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rootstock.programs import Programs


def compile_bytecode(
    prefix: Path, place: Path, variables: dict[str, str], *, umask: int, programs: Programs, log: Callable[[str], None]
) -> None:
    """Compile every module in an environment.

    Parameters
    ----------
    prefix : Path
        The environment.
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
    sites = [site for site in prefix.glob("lib*/python*/site-packages") if not site.parents[1].is_symlink()]
    modules = [path for site in sites for path in site.rglob("*.py") if path.is_file()]
    modules.sort(key=lambda path: (-path.stat().st_size, path))
    # No packages' own start-up code (-S), and no chance in the order of sets.
    command = [str(prefix / "bin" / "python"), "-S", "-s", "-Wignore", "-c", _PROGRAM, str(prefix), str(place)]
    settings = {**variables, "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(_processors()) as pool:

        def work(number: int) -> None:
            listed = Path(folder, str(number))
            listed.write_text("\0".join(map(str, modules[number :: _processors()])), "utf-8", "surrogateescape")
            programs.run([*command, str(listed)], settings, log, umask, Path(folder))

        list(pool.map(work, range(min(_processors(), len(modules)))))


_PROGRAM = """
import py_compile, sys
prefix, place, listed = sys.argv[1:]
with open(listed, encoding="utf-8", errors="surrogateescape") as file:
    for path in file.read().split("\\0"):
        try:
            py_compile.compile(
                path, dfile=place + path[len(prefix):], quiet=2,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        except OSError as error:
            sys.exit(f"Cannot compile {path}: {error.strerror}.")
"""


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
