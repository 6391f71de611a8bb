"""Interpreters in the root: which ones builds may use, how one gets there, and who uses it."""

from __future__ import annotations

import functools
import json
import platform
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from rootstock import __version__
from rootstock.builds.bytecode import compile_bytecode
from rootstock.builds.interpreters import MANAGED, Interpreter, movable_interpreter, own_interpreters
from rootstock.builds.subprocesses import short_of_space
from rootstock.builds.uv import Uv, python_downloads, uv_version
from rootstock.builds.variables import clean_variables
from rootstock.config.clusters import Cluster
from rootstock.config.site import Site
from rootstock.errors import BuildError, ConfigurationError
from rootstock.root.checksums import read_contents
from rootstock.root.layout import ANY_ROOT, INTERPRETER_RECORD, STAGING, RootLayout
from rootstock.root.lock import Report
from rootstock.root.permissions import may_remove, remove_tree
from rootstock.root.published import interpreter_of
from rootstock.root.records import now, user_name


@dataclass(frozen=True)
class NewPython:
    """An interpreter that is to be put into the root.

    Attributes
    ----------
    interpreter : Interpreter
        As it will be there.
    source : Path or None
        The folder that is copied; None: uv fetches it.
    """

    interpreter: Interpreter
    source: Path | None = None

    @property
    def target(self) -> Path:
        """Its folder in the root."""
        return Path(self.interpreter.prefix)

    def describe(self, root: Path) -> str:
        """Say in a line what is to be done."""
        name = self.target.relative_to(root)
        if self.source is not None:
            return f"put an interpreter into {name}"
        return f"fetch Python {self.interpreter.version} into {name} from {self.interpreter.address}"


def plan_copy(original: Interpreter, layout: RootLayout, name: str = "") -> NewPython:
    """Return how an interpreter that may be moved comes into a root.

    Parameters
    ----------
    original : Interpreter
        Where it is now.
    layout : RootLayout
    name : str
        Name of its folder in the root; by default made from its version.
    """
    target = layout.interpreter(name or f"cpython-{original.version}-{platform.machine()}")
    return NewPython(Interpreter(str(target / "bin" / "python3"), original.version, str(target)), Path(original.prefix))


def root_interpreters(site: Site) -> list[Interpreter]:
    """Return the interpreters of a root, and those that can be fetched into it; the best first.

    Raises
    ------
    BuildError
        If uv cannot say what can be fetched.
    ConfigurationError
        If the setting ``python.version`` is no version.
    """
    interpreters = own_interpreters(site.layout.python)
    if MANAGED in site.cluster.interpreters:
        _check_settings(site.cluster)
        prefixes = {interpreter.prefix for interpreter in interpreters}
        downloads = python_downloads(site.cluster, site.layout.python)
        interpreters += [download for download in downloads if download.prefix not in prefixes]
        interpreters.sort(key=functools.partial(_rank, Version(site.cluster.python_version).release))
    return interpreters


def _check_settings(cluster: Cluster) -> None:
    if not re.fullmatch(r"3\.\d+(\.\d+)?", cluster.python_version):
        raise ConfigurationError(f"The setting python.version is {cluster.python_version!r}; it must be as 3.12 is.")
    mirror, downloads = cluster.python_mirror, cluster.python_downloads
    if mirror and "://" not in mirror:
        raise ConfigurationError(
            f"The setting python.mirror is {mirror!r}; it must be an address.", "A folder is one as file:///path is."
        )
    if downloads and "://" not in downloads and not Path(downloads).is_absolute():
        raise ConfigurationError(
            f"The setting python.downloads is {downloads!r}; it must be an absolute path or an address."
        )


def _rank(release: tuple[int, ...], interpreter: Interpreter) -> tuple[object, ...]:
    """Rank a release first, then newer ones upwards, then older ones downwards; of one, those that are in the root."""
    version = Version(interpreter.version).release
    fits, minor = version[: len(release)] == release, version[:2]
    older = minor < release[:2]
    distance = -minor[1] if older else minor[1]
    return (not fits, older, distance, bool(interpreter.download), [-part for part in version])


def install_interpreter(site: Site, python: NewPython, uv: Uv, *, report: Report) -> None:
    """Put an interpreter into the root: staged, tried, compiled, sealed, and given its name by one rename.

    Parameters
    ----------
    site : Site
    python : NewPython
    uv : Uv
        Fetches it.
    report : callable
        Is given a line for each step.

    Raises
    ------
    BuildError
        If it cannot be fetched, or is none that builds can use. Nothing is left then.
    """
    target, label = python.target, f"python {python.interpreter.version}"
    for leftover in filter(may_remove, site.layout.python.glob(f"{STAGING}*")):
        remove_tree(leftover)
    # Beside its place: to move a folder that nobody may write to into another one takes root's rights.
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=site.layout.python))
    broken = staging.with_name(f"{staging.name}-broken")
    try:
        if python.source is not None:
            report(f"{label}: copying")
            shutil.copytree(python.source, staging, symlinks=True, dirs_exist_ok=True)
            _name_place(staging, _anywhere(target.name), target)
        else:
            report(f"{label}: fetching {python.interpreter.address}")
            _fetch(site, python.interpreter, staging, uv)
            _name_place(staging, staging, target)
        if (version := movable_interpreter(staging).version) != python.interpreter.version:
            raise BuildError(f"{python.interpreter.address or python.source} holds Python {version}.")
        report(f"{label}: compiling")
        contents = compile_bytecode(
            staging, read_contents(staging), clean_variables(), umask=uv.umask, programs=uv.programs, log=uv.log
        )
        record = {
            "schema": 1, "version": python.interpreter.version, "from": python.interpreter.address or "a bundle",
            "uv": uv_version(), "rootstock": __version__, "put_by": user_name(), "put_on": platform.node(),
            "put_at": now(), "files_sha256": contents.write(staging), "links": contents.links,
        }  # fmt: skip
        (staging / INTERPRETER_RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        site.access.make_immutable(staging)
        if target.exists():  # it did not run, or it would be used as it is
            target.rename(broken)
        staging.rename(target)
        report(f"{label}: ready")
    finally:
        for folder in (staging, broken):
            remove_tree(folder)


def bundle_interpreter(site: Site, python: NewPython, folder: Path, uv: Uv, *, report: Report) -> None:
    """Put an interpreter into a bundle, for `install_interpreter` to copy it from on another machine.

    One that is fetched is put into the root too, where it only has to run. One that is there already is copied as it
    is: its place may be called as much else in it is.

    Parameters
    ----------
    site : Site
    python : NewPython
    folder : Path
        It is put into a folder of its own in this one.
    uv : Uv
        Fetches it.
    report : callable
        Is told when it is fetched.

    Raises
    ------
    BuildError
        If it cannot be fetched.
    """
    target = python.target
    carried = folder / target.name
    if python.source is not None:
        shutil.copytree(python.source, carried, symlinks=True)
        return
    report(f"python {python.interpreter.version}: fetching {python.interpreter.address}")
    site.layout.python.mkdir(parents=True, exist_ok=True)
    _fetch(site, python.interpreter, target, uv)
    shutil.copytree(target, carried, symlinks=True)
    _name_place(carried, target, _anywhere(target.name))


def _anywhere(name: str) -> Path:
    """Return what stands for an interpreter's place until it has one."""
    return RootLayout(ANY_ROOT).interpreter(name)


def _fetch(site: Site, interpreter: Interpreter, place: Path, uv: Uv) -> None:
    # uv keeps files of its own beside what it fetches.
    with tempfile.TemporaryDirectory(prefix=STAGING, dir=site.layout.python) as folder:
        try:
            uv.install_python(interpreter.download, Path(folder), site.cluster)
        except BuildError as error:
            raise BuildError(
                f"Cannot fetch Python {interpreter.version} from {interpreter.address}.\n{error.message}",
                short_of_space(site.layout.python)
                or f"The setting python.mirror ({site.cluster.python_mirror!r} now) says where "
                "it is fetched; python.interpreter can name a Python that is there already.",
            ) from error
        fetched = Path(folder, interpreter.download)
        _name_place(fetched, fetched, place)
        fetched.rename(place)


def _name_place(folder: Path, before: Path, after: Path) -> None:
    """Write an interpreter's place anew into what names it: what compilers are told."""
    old, new = str(before).encode(), str(after).encode()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if old in content and b"\0" not in content:
                path.write_bytes(content.replace(old, new))


def users(layout: RootLayout) -> dict[str, list[tuple[str, str]]]:
    """Return the interpreters that Rootstock has put into a root, each with the builds that are made on it.

    Returns
    -------
    dict of str to list of (str, str)
        Name of the interpreter's folder -> name and digest of each build.
    """
    records = sorted(layout.python.glob(f"[!.]*/{INTERPRETER_RECORD}"))
    builds: dict[str, list[tuple[str, str]]] = {record.parent.name: [] for record in records}
    for build in sorted(layout.all_builds.glob("*/[!.]*")):
        if name := interpreter_of(layout, build):
            builds[name].append((build.parent.name, build.name))
    return builds
