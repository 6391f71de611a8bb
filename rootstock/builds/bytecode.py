"""Compile what a build holds to bytecode, which depends on nothing but its sources and the interpreter.

uv can do that as well, but it notes the place where a build is made, which is another one each time, and the times of
files. Here bytecode is not compared with its source, which never changes: `rootstock.root.checksums` knows both. So two
builds of a lock are alike to the last byte, and what was compiled for one is kept beside uv's packages for the next.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from rootstock.builds.subprocesses import Programs
from rootstock.root.checksums import Contents, read_contents
from rootstock.root.lock import Report

# Of a package cache; `uv cache prune` removes it, and what is missing is compiled again.
KEPT = "rootstock-bytecode"

_BATCH, _FILE = 2**21, 2**11  # bytes of source that are compiled at a time, and what a file costs beside its bytes
# Packages' tests of themselves are up to half of their modules, and no worker imports them.
_TESTS = {"test", "tests"}


def compile_bytecode(
    prefix: Path,
    contents: Contents,
    variables: Mapping[str, str],
    *,
    umask: int,
    programs: Programs,
    log: Report,
    kept: Path | None = None,
) -> Contents:
    """Compile every module in an environment, or of an interpreter, but for the tests of packages.

    Parameters
    ----------
    prefix : Path
        Its folder.
    contents : Contents
        What is in it.
    variables : mapping
        What the compiler's environment is.
    umask : int
        For the files.
    programs : Programs
    log : callable
        Is given what the compiler says. A file that is no Python of this version is left as it is.
    kept : Path, optional
        A folder of bytecode that earlier builds have left: it is taken from there, and what is new is left for others.

    Returns
    -------
    Contents
        What is in the folder then.
    """
    # No packages' own start-up code (-S), and no chance in the order of sets.
    command = [str(prefix / "bin" / "python3"), "-S", "-s", "-Wignore", "-c", _PROGRAM, str(prefix), str(kept or "")]
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "modules")
        modules = _batches(prefix, contents.hashes)
        batches = ("\0".join(f"{contents.hashes[path]} {path}" for path in batch) for batch in modules)
        listed.write_text("\0\0".join(batches), "utf-8", "surrogateescape")
        settings = {**variables, "PYTHONHASHSEED": "0"}
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        programs.run([*command, str(listed), str(processors)], settings, log, umask, Path(folder))
    # A wheel may bring bytecode, and an interpreter that was run may have left some: ours is in its place now.
    others = {path: digest for path, digest in contents.hashes.items() if not path.endswith(".pyc")}
    return read_contents(prefix, replace(contents, hashes=others))


def _batches(prefix: Path, paths: Iterable[str]) -> list[list[str]]:
    """Deal out modules, those of one package together, and the largest batches first.

    What processors share is small at the end, and other builds with the same package have the same batches.
    """
    packages: dict[tuple[str, ...], list[tuple[int, str]]] = {}
    for path in paths:
        parts = path.split("/")
        if re.match(r"lib\w*/python[^/]*/.*\.py$", path) and _TESTS.isdisjoint(parts[2:-1]):
            package = tuple(parts[: 4 if parts[2] == "site-packages" else 3])  # a folder, or a module of one file
            packages.setdefault(package, []).append(((prefix / path).stat().st_size, path))
    batches = []
    for modules in packages.values():
        batch, cost = list[str](), 0
        for size, path in sorted(modules, key=lambda module: (-module[0], module[1])):
            batch.append(path)
            cost += size + _FILE
            if cost > _BATCH:
                batches.append((cost, batch))
                batch, cost = [], 0
        batches.append((cost, batch))
    return [batch for _, batch in sorted(batches, key=lambda pair: (-pair[0], pair[1])) if batch]


# What a module is compiled to depends a little on what its process compiled before (which names Python has already).
# Each batch has a fresh copy of one process, so it comes out the same on any number of processors, and in any build.
# Code names its file by the path in the build: Python puts the file's own name there when it imports it.
# A kept batch follows its hash, so that half of one is as good as none, however the writing ended.
_PROGRAM = """
import contextlib, ctypes, hashlib, importlib.util, marshal, os, py_compile, sys

program = sys.orig_argv[sys.orig_argv.index("-c") + 1]
prefix, kept, listed, processors = sys.argv[1:]
first = os.getpid()

def finish(modules):
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)  # end with the first process, however it ends
    paths = [module.split(" ", 1)[1] for module in modules]
    targets = [os.path.join(prefix, importlib.util.cache_from_source(path)) for path in paths]
    key = "\\0".join([program, sys.version, sys.implementation.cache_tag, *modules])
    entry = kept and os.path.join(kept, digest(os.fsencode(key)).hex())
    codes = take(entry) if kept else None
    if codes is not None:
        for target, code in zip(targets, codes):
            if code:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(target)  # one that a wheel brought is uv's, too
                with open(target, "wb") as file:
                    file.write(code)
        return
    codes, lasting = [], True
    for path in paths:
        if os.getppid() != first:
            os._exit(1)
        try:
            target = py_compile.compile(
                os.path.join(prefix, path), dfile=path, doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
            codes.append(read(target))
        except py_compile.PyCompileError as error:
            codes.append(b"")
            if error.exc_type_name in ("MemoryError", "RecursionError"):  # not the file's fault
                print(f"Cannot compile {path}: {error.exc_type_name}.", flush=True)
                lasting = False
    if kept and lasting:
        keep(entry, codes)

def digest(content):
    return hashlib.sha256(content).digest()

def read(path):
    with open(path, "rb") as file:
        return file.read()

def take(entry):
    with contextlib.suppress(OSError):
        content = read(entry)
        if content[:32] == digest(content[32:]):
            return marshal.loads(content[32:])

def keep(entry, codes):
    content = marshal.dumps(codes)
    try:
        with open(entry, "wb") as file:
            file.write(digest(content) + content)
    except OSError as error:
        print(f"Cannot keep bytecode in {kept}: {error.strerror}.", flush=True)

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
            finish(batch)
            code = 0
        except Exception as error:
            print(f"Cannot compile {batch[0].split(' ', 1)[1]} and what follows it: {error!r}.", flush=True)
        finally:
            os._exit(code)
    running += 1
while running:
    running, fine = running - 1, end_of_one() and fine
sys.exit(not fine)
"""
