"""What a test needs of the machine: where that is missing it is skipped, and fails in CI, which provides everything."""

from __future__ import annotations

import os
import shutil

import pytest


def need(condition: object, what: str) -> None:
    """Skip a test that this machine cannot run; fail it where ``CI`` is set, to whatever."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must provide this: {what}")
    pytest.skip(what)


def need_root() -> None:
    need(os.geteuid() == 0, "the rights of root")


def need_program(program: str, package: str) -> str:
    """Return the path of a program, given the Debian package that has it."""
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    need(path, f"the program {program} (apt-get install {package})")
    return str(path)


def need_programs(**packages: str) -> None:
    """Ask for programs, each given with the Debian package that has it."""
    for program, package in packages.items():
        need_program(program, package)
