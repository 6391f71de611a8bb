"""Bundles: one file that holds all that an installation fetches, for machines without a network.

A bundle is made where there is a network, for the processor and the Python of the machine that makes it. It is a tar
file::

    SHA256SUMS          hashes of all that follows, as `sha256sum -c` checks them
    LINKS               symbolic links to be made
    bundle.json         what it is for
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
import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootstock import __version__
from rootstock.admin.bundle_archive import SUMS, pack, unpack
from rootstock.builds.interpreters import MANAGED, Interpreter, movable_interpreter
from rootstock.builds.own_wheel import WHEEL_NAME, wheel_bytes
from rootstock.builds.plan import CLIENT, BuildPlan, client_lock, plan_client, plan_environment
from rootstock.builds.root_interpreters import NewPython, carry, copied, root_interpreters
from rootstock.builds.uv import Uv
from rootstock.builds.wheel_tags import Wheel, minor_version, runs_here, wheels_of
from rootstock.config.clusters import Cluster
from rootstock.config.environment_file import EnvironmentSource
from rootstock.errors import BundleError, RootstockError
from rootstock.root.layout import ANY_ROOT, RootLayout
from rootstock.root.records import now

SCHEMA = 1
_KEYS = {"machine", "client", "environments", "python", "wheels"}
_MANIFEST, _BOOTSTRAP = "bundle.json", "bootstrap.sh"
_ENVIRONMENTS, _CLIENT_LOCK, _WHEELS, _PYTHON = "environments", "client.lock", "wheels", "python"

_BOOTSTRAP_TEXT = f"""\
#!/bin/sh
# Makes an environment that has rootstock-site, from this folder alone:  sh bootstrap.sh DIR [PYTHON]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${{1:?usage: sh bootstrap.sh DIR [PYTHON]}}
version=VERSION # the packages are for this one
[ $# -gt 1 ] || set -- "$target" "python$version" python3 "$here"/{_PYTHON}/*/bin/"python$version"
shift
for python in "$@" ""; do
    "$python" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' $version 2>/dev/null && break
done
if [ -z "$python" ]; then
    echo "No Python $version, which these packages are for. Tried: $*" >&2
    echo "Name one: sh $here/{_BOOTSTRAP} $target /path/to/python$version" >&2
    exit 13
fi
(cd "$here" && sha256sum --check --quiet {SUMS})
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m zipfile -e "$here"/{_WHEELS}/UV "$scratch"
uv=$(echo "$scratch"/uv-*.data/scripts/uv)
chmod +x "$uv"
export UV_NO_CONFIG=1 UV_CACHE_DIR="$scratch/cache" UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
clear=
if [ -f "$target/pyvenv.cfg" ]; then clear=--clear; fi # it was made by an earlier bundle
"$uv" venv --quiet $clear --python "$python" "$target"
"$uv" pip install --quiet --offline --no-index --find-links "$here/{_WHEELS}" --python "$target/bin/python" \\
    "rootstock=={__version__}"
echo "$target/bin/rootstock-site"
"""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle.

    Attributes
    ----------
    folder : Path
    digest : str
        The hash of its list of hashes.
    manifest : Mapping[str, Any]
        ``bundle.json``.
    """

    folder: Path
    digest: str
    manifest: Mapping[str, Any]

    @property
    def wheels(self) -> Path:
        """The folder of packages, for `rootstock.builds.make.make_build`."""
        return self.folder / _WHEELS

    @property
    def environments(self) -> tuple[str, ...]:
        """Names of the environments that it can build."""
        return tuple(self.manifest["environments"])

    @property
    def pythons(self) -> list[Path]:
        """The folders of the interpreters that it brings along, by the names that they have in a root."""
        return sorted((self.folder / _PYTHON).glob("*"))

    def suits(self, name: str, interpreter: Interpreter) -> bool:
        """Tell whether the packages for a build are for this interpreter."""
        return bool(self.manifest["python"].get(name) == minor_version(interpreter.version))

    def files(self, layout: RootLayout, names: Iterable[str]) -> dict[Path, bytes]:
        """Return what a root must hold before environments can be built from this: their files, and all locks.

        Of `names`, those that it holds.
        """
        found, wanted = {}, set(names)
        for name in [name for name in self.environments if name in wanted]:
            path = self.folder / _ENVIRONMENTS / f"{name}.py"
            found[layout.environment_file(name)] = path.read_bytes()
            found[layout.lock_file(name)] = path.with_name(f"{name}.py.lock").read_bytes()
        if self.manifest["client"]:
            lock = (self.folder / _CLIENT_LOCK).read_text(encoding="utf-8")
            found[client_lock(layout)] = lock.replace(_quoted(ANY_ROOT), _quoted(layout.root)).encode()
        return found

    def check_machine(self) -> None:
        """Refuse a bundle that was made for other processors."""
        if self.manifest["machine"] != platform.machine():
            raise BundleError(
                f"The bundle is for {self.manifest['machine']}; this is {platform.machine()}.",
                "Make one on a machine like this.",
            )

    def check(self, plan: BuildPlan) -> None:
        """Refuse a build that this bundle does not hold the packages for.

        Raises
        ------
        BundleError
            If the bundle was made for other machines, another Python, or without this environment.
        """
        known = {*self.environments, *([CLIENT] if self.manifest["client"] else [])}
        if plan.name not in known:
            raise BundleError(f"The bundle holds no {plan.name!r}. It holds: {', '.join(sorted(known))}.")
        minor, made_for = minor_version(plan.interpreter.version), self.manifest["python"][plan.name]
        if minor != made_for:
            raise BundleError(
                f"The bundle holds {plan.name!r} for Python {made_for}; this is Python {minor}.",
                "Name another interpreter with --set python.interpreter=PATH, or make a bundle with this one.",
            )
        ours = self.wheels / WHEEL_NAME
        if plan.source is None and hashlib.sha256(ours.read_bytes()).hexdigest() not in plan.recipe:
            raise BundleError(
                f"The bundle was made by another build of rootstock {__version__} than this one.",
                f"Use the rootstock-site that its {_BOOTSTRAP} makes.",
            )
        for wheel in self.manifest["wheels"][plan.name]:
            if not runs_here(wheel, minor):
                raise BundleError(
                    f"{wheel} does not run on this machine, whose C library is {' '.join(platform.libc_ver())}.",
                    "Make the bundle on a machine whose C library is as old as this one's.",
                )


def create_bundle(
    cluster: Cluster,
    sources: Sequence[EnvironmentSource],
    path: Path,
    *,
    client: bool = True,
    python: Path | None = None,
    report: Report = lambda _: None,
    log: Report = lambda _: None,
) -> str:
    """Fetch all that an installation needs, and put it into one file.

    Parameters
    ----------
    cluster : Cluster
        Its package indexes, constraints and interpreter are used.
    sources : sequence of EnvironmentSource
        The environments. A lock beside an environment's file is kept.
    path : Path
        The file to write.
    client : bool
        Whether to put in what `bootstrap.sh` and the module need.
    python : Path, optional
        The folder of an interpreter that may be moved, to be put in. Without it those that the cluster's setting
        ``managed`` stands for are fetched and put in.
    report, log : callable
        Are given a line for each step, and every line that uv prints.

    Returns
    -------
    str
        The bundle's digest, to be told to those who unpack it.

    Raises
    ------
    BundleError
        If a package has no wheel for this machine, or cannot be fetched.
    """
    _check_name(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        folder, layout = Path(scratch, "bundle"), RootLayout(Path(scratch, "root"))
        for part in (folder / _ENVIRONMENTS, folder / _WHEELS, layout.runtime(__version__)):
            part.mkdir(parents=True)
        uv = Uv(Path(scratch, "cache"), log)
        manifest: dict[str, Any] = {
            "schema": SCHEMA,
            "rootstock": __version__,
            "created": now(),
            "machine": platform.machine(),
            "client": client,
            "environments": [source.name for source in sources],
            "python": {},
            "wheels": {},
        }
        own = [movable_interpreter(python)] if python is not None else root_interpreters(layout, cluster)
        plans: list[tuple[BuildPlan, Path, Path | None]] = []
        for source in sources:
            (folder / _ENVIRONMENTS / f"{source.name}.py").write_text(source.text, encoding="utf-8")
            lock = folder / _ENVIRONMENTS / f"{source.name}.py.lock"
            plans.append((plan_environment(layout, cluster, source, own), lock, source.path.with_name(lock.name)))
        if client:
            plans.append((_put_client(folder, layout, cluster, own), folder / _CLIENT_LOCK, None))
        used = dict.fromkeys(plan.interpreter for plan, _, _ in plans)
        if python is not None and used and own[0] not in used:
            raise BundleError(
                f"No build would use the interpreter in {python}: python.interpreter is "
                f"{', '.join(cluster.interpreters)}.",
                f"Leave --python out, or add --set python.interpreter={MANAGED}.",
            )
        fetched = [interpreter for interpreter in used if interpreter.download]
        for new in [copied(own[0], layout)] if python is not None else map(NewPython, fetched):
            carry(new, folder / _PYTHON, layout, cluster, uv, report=report)
        for plan, lock, existing in plans:
            report(f"{plan.name}: locking")
            wheels = _lock(plan, existing, lock, layout, uv)
            manifest["python"][plan.name] = minor_version(plan.interpreter.version)
            manifest["wheels"][plan.name] = [wheel.name for wheel in wheels]
            for found in wheels:
                if not (folder / _WHEELS / found.name).exists():
                    report(f"{plan.name}: fetching {found.name}")
                    found.fetch(folder / _WHEELS)
        if client:
            _put_bootstrap(folder, manifest["python"][CLIENT], manifest["wheels"][CLIENT])
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return pack(folder, path)


def _check_name(path: Path) -> None:
    if any(character in '"\\' or not character.isprintable() for character in str(path)):
        raise BundleError(
            f"The name {str(path)!r} cannot stand in a lock, which is made beside it.",
            "Name a file whose path is without quotation marks, backslashes and line breaks; it can be moved.",
        )


def _put_client(folder: Path, layout: RootLayout, cluster: Cluster, own: Sequence[Interpreter]) -> BuildPlan:
    """Put in ourselves, and return how the client is built."""
    wheel, ours = wheel_bytes(), layout.runtime(__version__) / WHEEL_NAME
    for target in (ours, folder / _WHEELS / WHEEL_NAME):
        target.write_bytes(wheel)
    return plan_client(layout, cluster, ours, hashlib.sha256(wheel).hexdigest(), own)


def _put_bootstrap(folder: Path, minor: str, wheels: Sequence[str]) -> None:
    """Put in what a machine begins with that has nothing of ours."""
    uv = next(name for name in wheels if name.startswith("uv-"))
    text = _BOOTSTRAP_TEXT.replace("=VERSION ", f"={minor} ", 1).replace("/UV ", f"/{uv} ", 1)
    (folder / _BOOTSTRAP).write_text(text, encoding="utf-8")


def _quoted(path: Path) -> str:
    """Return a path as it stands in a string of a lock."""
    return json.dumps(str(path), ensure_ascii=False)[1:-1]


def _lock(plan: BuildPlan, existing: Path | None, lock: Path, layout: RootLayout, uv: Uv) -> list[Wheel]:
    """Write the lock of a build, and return the wheels that it asks for."""
    with tempfile.TemporaryDirectory() as scratch:
        recipe, listed = Path(scratch, "recipe.py"), Path(scratch, "pylock.toml")
        recipe.write_text(plan.recipe, encoding="utf-8")
        if existing is not None and existing.is_file():
            shutil.copy(existing, f"{recipe}.lock")
        uv.lock(recipe, plan.interpreter.path)
        uv.export(recipe, listed, plan.interpreter.path)
        text = Path(f"{recipe}.lock").read_text(encoding="utf-8")
        lock.write_text(text.replace(_quoted(layout.root), _quoted(ANY_ROOT)), encoding="utf-8")
        return [wheel for wheel in wheels_of(listed, plan.interpreter.version) if wheel.name != WHEEL_NAME]


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
        If a file is missing, was changed or does not belong there. It names the file.
    """
    try:
        actual = unpack(path, folder, digest)
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        schema, version, lacks = manifest.get("schema"), manifest.get("rootstock"), _KEYS - manifest.keys()
    except RootstockError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BundleError(
                f"There is no room to unpack {path} into {folder}: {error.strerror}.",
                "It takes as much again as the file: TMPDIR=/path/with/room rootstock-site install ...",
            ) from error
        raise BundleError(f"{path} cannot be unpacked: {error}.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is no bundle that `bundle create` made: {error}.") from error
    if schema != SCHEMA or version != __version__:
        raise BundleError(
            f"{path} was made by rootstock {version}; this is {__version__}.",
            f"Use the rootstock-site that its {_BOOTSTRAP} makes.",
        )
    if lacks:
        raise BundleError(f"{path} is no bundle that `bundle create` made: {_MANIFEST} lacks {min(lacks)}.")
    return Bundle(folder, actual, manifest)
