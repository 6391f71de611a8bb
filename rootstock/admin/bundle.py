"""Bundles: one file that holds all that an installation fetches, for machines without a network.

A bundle is made where there is a network, for the processor and the Python of the machine that makes it. It is a tar
file::

    SHA256SUMS          hashes of all that follows, as `sha256sum -c` checks them
    LINKS               symbolic links to be made
    bundle.json         what it is for, and the settings of its cluster
    bootstrap.sh        makes the first rootstock-site on a machine that has only Python
    environments/       environment files and their locks
    client.lock         the lock of the environment that the module puts on PATH
    wheels/             every package, ours and uv's included
    python/             interpreters, if any were put in

Whoever unpacks one checks every file against ``SHA256SUMS``, and the hash of that list, which is the bundle's own,
against what they were told.
"""

from __future__ import annotations

import errno
import platform
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import parse_wheel_filename

from rootstock import __version__
from rootstock.admin.bundle_archive import LIST_LIMIT, unpack
from rootstock.builds.interpreters import Interpreter
from rootstock.builds.locking import quoted
from rootstock.builds.own_wheel import WHEEL_NAME
from rootstock.builds.plan import CLIENT, BuildPlan, client_lock, client_requirement
from rootstock.builds.wheel_tags import best_wheel, minor_version
from rootstock.config.clusters import Scope
from rootstock.config.model_string import is_environment_name
from rootstock.config.setting_values import value_text
from rootstock.config.site import Site
from rootstock.errors import BundleError, RootstockError
from rootstock.root.layout import ANY_ROOT, RootLayout
from rootstock.root.managed_files import sha256
from rootstock.root.plain_files import parse_json, read_bytes
from rootstock.root.record_files import parse_record

SCHEMA = 2
MANIFEST, BOOTSTRAP = "bundle.json", "bootstrap.sh"
ENVIRONMENTS, CLIENT_LOCK, WHEELS, PYTHON = "environments", "client.lock", "wheels", "python"


@dataclass(frozen=True)
class Manifest:
    """``bundle.json``: what a bundle is for.

    Attributes
    ----------
    machine : str
        The processor.
    cluster : str
        The cluster that it was made for.
    settings : dict
        What was set of it there, by dotted key, as TOML would have it.
    client : bool
        Whether it holds what the module needs.
    environments : tuple of str
    python : dict of str to str
        Name of a build -> the version of Python that its packages are for, such as 3.12.
    wheels : dict of str to tuple of str
        The same -> its packages.
    """

    machine: str
    cluster: str
    settings: dict[str, Any]
    client: bool
    environments: tuple[str, ...]
    python: dict[str, str]
    wheels: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle.

    Attributes
    ----------
    path : Path
        The file.
    folder : Path
        Where it was unpacked.
    digest : str
        The hash of its list of hashes.
    manifest : Manifest
    """

    path: Path
    folder: Path
    digest: str
    manifest: Manifest

    @property
    def scope(self) -> Scope:
        """Its cluster and the settings of that."""
        cluster, settings = self.manifest.cluster, {**self.manifest.settings, "environments": [*self.environments]}
        return Scope(str(self.path), {cluster: settings}, cluster)

    def outranked(self, site: Site) -> list[str]:
        """Return what other files than the bundle say differently of its cluster: a line for each setting.

        Parameters
        ----------
        site : Site
            As it would be installed.
        """
        cluster, lines = site.cluster, []
        for key, value in self.manifest.settings.items() if cluster.name == self.manifest.cluster else ():
            origin, used = cluster.origins[key], cluster.settings()[key]
            theirs, ours = map(value_text, (value, used))
            if theirs != ours and origin != "argument" and key != "environments":  # which the root records
                lines.append(f"{key} is {ours!r}, as {origin} says; the bundle has {theirs!r}: --set {key}={theirs}")
        return lines

    def _extras(self) -> list[str]:
        extras = self.manifest.settings.get("client.extras", [])
        return [*map(str, extras)] if isinstance(extras, list | tuple) else []

    @property
    def wheels(self) -> Path:
        """The folder of packages, for `rootstock.builds.make.stage`."""
        return self.folder / WHEELS

    @property
    def environments(self) -> tuple[str, ...]:
        """Names of the environments that it can build."""
        return self.manifest.environments

    def environment(self, name: str) -> Path:
        """Return the file of one of them."""
        return self.folder / ENVIRONMENTS / f"{name}.py"

    @property
    def pythons(self) -> list[Path]:
        """The folders of the interpreters that it brings along, by the names that they have in a root."""
        return sorted((self.folder / PYTHON).glob("*"))

    def best_first(self, name: str, interpreters: Iterable[Interpreter]) -> list[Interpreter]:
        """Return interpreters, those first that a build's packages are for.

        Parameters
        ----------
        name : str
            Name of the build.
        interpreters : iterable of Interpreter
        """
        version = self.manifest.python.get(name)
        return sorted(interpreters, key=lambda interpreter: minor_version(interpreter.version) != version)

    def files(self, layout: RootLayout, names: Container[str]) -> dict[Path, bytes]:
        """Return what a root must hold before environments can be built from this: their files, and all locks.

        Parameters
        ----------
        layout : RootLayout
        names : container of str
            Environments; those that the bundle does not hold are left out.
        """
        contents = {}
        for name in [name for name in self.environments if name in names]:
            path = self.environment(name)
            contents[layout.environment_file(name)] = path.read_bytes()
            contents[layout.lock_file(name)] = path.with_name(f"{name}.py.lock").read_bytes()
        if self.manifest.client:
            lock = (self.folder / CLIENT_LOCK).read_text(encoding="utf-8")
            contents[client_lock(layout)] = lock.replace(quoted(ANY_ROOT), quoted(layout.root)).encode()
        return contents

    def check(self, plan: BuildPlan) -> None:
        """Refuse a build that this bundle does not hold the packages for.

        Raises
        ------
        BundleError
            If the bundle was made for other machines, another Python, or without this environment.
        """
        names = {*self.environments, *([CLIENT] if self.manifest.client else [])}
        if plan.name not in names:
            raise BundleError(f"The bundle holds no {plan.name!r}. It holds: {', '.join(sorted(names))}.")
        minor, made_for = minor_version(plan.interpreter.version), self.manifest.python[plan.name]
        if minor != made_for:
            raise BundleError(
                f"The bundle holds {plan.name!r} for Python {made_for}; this is Python {minor}.",
                "Name another interpreter with --set python.interpreter=PATH, or make a bundle with this one.",
            )
        if plan.source is None and sha256((self.wheels / WHEEL_NAME).read_bytes()) not in plan.recipe:
            raise BundleError(
                f"The bundle was made by another build of rootstock {__version__} than this one.",
                f"Use the rootstock-site that its {BOOTSTRAP} makes.",
            )
        extras = self._extras()
        if plan.source is None and client_requirement(extras) not in plan.recipe:
            raise BundleError(
                f"The bundle was made with client.extras = {extras}, and the root is to have others.",
                f"Say --set client.extras={','.join(extras)}, or make a bundle with those.",
            )
        for wheel in self.manifest.wheels[plan.name]:
            if not best_wheel([wheel], minor):
                raise BundleError(
                    f"{wheel} does not run on this machine, whose C library is {' '.join(platform.libc_ver())}.",
                    "Make the bundle on a machine whose C library is as old as this one's.",
                )


def unpack_bundle(path: Path, folder: Path, digest: str = "") -> Bundle:
    """Unpack a bundle, and check all of it.

    Parameters
    ----------
    path : Path
        The file.
    folder : Path
        An empty folder. What it holds after an error is not to be used.
    digest : str
        What `create_bundle` returned. Without it nothing tells a bundle from one that somebody else made.

    Raises
    ------
    BundleError
        If a file is missing, was changed or does not belong there (it names the file), or the bundle was made by
        another version or for another processor.
    """
    try:
        actual = unpack(path, folder, digest)
        data = parse_json(read_bytes(folder / MANIFEST, LIST_LIMIT))
        version = data.get("rootstock")
        if (data.get("schema"), version) != (SCHEMA, __version__):  # another version's may be anything
            raise BundleError(
                f"{path} was made by rootstock {version}; this is {__version__}.",
                f"Use the rootstock-site that its {BOOTSTRAP} makes.",
            )
        manifest = parse_record(Manifest, data, MANIFEST)
        _check(manifest, folder)
    except RootstockError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BundleError(
                f"There is no room to unpack {path} into {folder}: {error.strerror}.",
                "It takes as much again as the file: TMPDIR=/path/with/room rootstock-site install ...",
            ) from error
        raise BundleError(f"{path} cannot be unpacked: {error}.") from error
    except (ValueError, AttributeError) as error:
        raise BundleError(f"{path} is no bundle that `bundle create` made: {error}.") from error
    if manifest.machine != platform.machine():
        raise BundleError(
            f"The bundle is for {manifest.machine}; this is {platform.machine()}.", "Make one on a machine like this."
        )
    return Bundle(path, folder, actual, manifest)


def _check(manifest: Manifest, folder: Path) -> None:
    """Refuse what a bundle says of files that it does not hold, and names that would lead elsewhere.

    Raises
    ------
    ValueError
        It says which.
    """
    if not manifest.cluster or not manifest.cluster.isprintable() or "/" in manifest.cluster:
        raise ValueError(f"{manifest.cluster!r} cannot name a cluster")
    if tables := [key for key, value in manifest.settings.items() if isinstance(value, dict)]:
        raise ValueError(f"the setting {tables[0]!r} is a table, not a value")
    builds = (*manifest.environments, *([CLIENT] if manifest.client else []))
    if len({*manifest.environments}) < len(manifest.environments):
        raise ValueError(f"{MANIFEST} lists an environment twice")
    needed = [f"{WHEELS}/{WHEEL_NAME}", CLIENT_LOCK] if manifest.client else []
    for name in manifest.environments:
        if not is_environment_name(name) or name == CLIENT:
            raise ValueError(f"{name!r} cannot name an environment")
        needed += [f"{ENVIRONMENTS}/{name}.py", f"{ENVIRONMENTS}/{name}.py.lock"]
    for name in builds:
        if not re.fullmatch(r"\d{1,3}\.\d{1,3}", manifest.python.get(name, "")):
            raise ValueError(f"{MANIFEST} does not say for which Python {name!r} is")
        if name not in manifest.wheels:
            raise ValueError(f"{MANIFEST} does not list the packages of {name!r}")
        for wheel in manifest.wheels[name]:
            parse_wheel_filename(wheel)
            needed.append(f"{WHEELS}/{wheel}")
    for name in needed:
        if not (folder / name).is_file():
            raise ValueError(f"it lacks {name!r}")
    if hidden := [path.name for path in (folder / PYTHON).glob(".*")]:
        raise ValueError(f"{hidden[0]!r} cannot name an interpreter")
