"""Whether what uv has installed is what the wheels say: each file by the hash in its wheel's RECORD.

uv compares a wheel with its hash when it fetches it, and unpacks it into its cache, whose files it takes from then on
as they are. What became of them since is seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rootstock.builds.package_cache import DamagedPackagesError
from rootstock.builds.uv import Uv
from rootstock.config.requirements import normalized
from rootstock.errors import BuildError
from rootstock.root.checksums import Contents, hash_file
from rootstock.root.lock import Report
from rootstock.root.wheel_records import RECORD, WRONG_RECORD, read_rows, wheel_folders
from rootstock.worker.device import built_for

_T = TypeVar("_T")
_NAMED = ("METADATA", "WHEEL")  # every wheel has them, and its RECORD names them: else lines of it are lost


@dataclass(frozen=True)
class Installed:
    """What was installed into a build.

    Attributes
    ----------
    files : int
    packages : dict of str to str
        Name -> version.
    others : tuple of str
        Files that no wheel names, and nothing that we know of has made.
    """

    files: int
    packages: dict[str, str]
    others: tuple[str, ...] = field(default=())


def check_records(build: Path, contents: Contents, known: Container[str] = ()) -> Installed:
    """Compare every installed file with the hash in its wheel's RECORD.

    Parameters
    ----------
    build : Path
    contents : Contents
        Of that build.
    known : container of str
        Files that are of no wheel.

    Raises
    ------
    DamagedPackagesError
        If files are missing or differ, or a RECORD cannot be read; with the packages, and a file of each.
    BuildError
        If nothing is installed.
    """
    packages, wrong, named = dict[str, str](), dict[str, str](), set[str]()
    for folder in wheel_folders(build):
        name, _, version = folder.stem.partition("-")
        packages[name] = version
        try:
            rows = list(read_rows(build, folder))
        except WRONG_RECORD:
            wrong[name] = f"{RECORD} of {name} {version} cannot be read"
            continue
        paths = {row.path for row in rows}
        named |= paths
        inside = folder.relative_to(build)
        if lost := next((file for file in _NAMED if f"{inside}/{file}" not in paths), None):
            wrong[name] = f"{RECORD} of {name} {version} does not name {lost}"
        for row in rows:
            found = contents.hashes.get(row.path)
            if found is None:
                wrong.setdefault(name, f"{row.path} is missing")
            elif row.digest and row.digest != (
                found if row.algorithm == "sha256" else hash_file(f"{build}/{row.path}", row.algorithm)
            ):
                wrong.setdefault(name, f"{row.path} is not the file that {name} {version} was published with")
    if wrong:
        raise DamagedPackagesError(wrong)
    if not packages:
        raise BuildError(f"{build} holds no packages.")
    others = sorted(path for path in contents.hashes if path not in named and path not in known)
    return Installed(len(named), dict(sorted(packages.items())), tuple(others))


def with_whole_packages(step: Callable[[Container[str]], _T], uv: Uv, report: Report) -> _T:
    """Do what needs packages out of uv's cache; those that are found damaged there are fetched again.

    Parameters
    ----------
    step : callable
        Is told which were.
    uv : Uv
    report : callable
        Is given a line for each time.

    Raises
    ------
    BuildError
        If one is damaged that was just fetched.
    """
    fetched = set[str]()
    while True:
        try:
            return step(fetched)
        except DamagedPackagesError as error:
            uv.log(error.message)
            if fetched.intersection(error.packages):
                raise BuildError(
                    f"{error.message}\nIt was fetched again, and is the same.",
                    f"A wrong file is in {uv.wheels or 'the index or folder that it comes from'}.",
                ) from error
            report(f"{', '.join(sorted(error.packages))}: damaged in {uv.cache}; fetching again")
            uv.forget(error.packages)
            fetched.update(error.packages)
        except BuildError as error:
            if error.hint or not fetched or "No space left" in error.message:
                raise
            raise BuildError(
                error.message,
                f"Damaged in {uv.cache}, and to be fetched again: {', '.join(sorted(fetched))}. Run the same command "
                "where they can be, or with --bundle FILE.",
            ) from error


def accelerator_of(folder: Path, packages: Iterable[str], asked: str) -> str:
    """Return the accelerator that the packages of an environment compute on.

    Parameters
    ----------
    folder : Path
        The environment.
    packages : iterable of str
        The names of its packages.
    asked : str
        What it was made for; returned where nothing tells.
    """
    names = {normalized(name) for name in packages}
    if "torch" in names:
        kinds = built_for(next(folder.glob("lib/python*/site-packages/torch"), None))
        if kinds is None:
            return asked
        if "rocm" in kinds:  # which torch calls cuda as well
            return "rocm"
        return asked if asked in kinds else next(iter(sorted(kinds)), "cpu")
    if "jax" in names:
        plugins = (kind for kind in ("cuda", "rocm") if any(name.startswith(f"jax-{kind}") for name in names))
        return next(plugins, "cpu")
    return asked if "tensorflow" in names else "cpu"
