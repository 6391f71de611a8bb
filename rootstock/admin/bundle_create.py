"""Make a bundle: fetch all that an installation needs, and put it into one file."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rootstock import __version__
from rootstock.admin.bundle import (
    BOOTSTRAP,
    CLIENT_LOCK,
    ENVIRONMENTS,
    MANIFEST,
    PYTHON,
    SCHEMA,
    WHEELS,
    Manifest,
)
from rootstock.admin.bundle_archive import SUMS, pack
from rootstock.builds.interpreters import MANAGED, Interpreter, movable_interpreter
from rootstock.builds.lock_scope import read_lock
from rootstock.builds.locking import quoted
from rootstock.builds.own_wheel import WHEEL_NAME, wheel_bytes
from rootstock.builds.plan import CLIENT, BuildPlan, plan_client, plan_environment
from rootstock.builds.root_interpreters import NewPython, bundle_interpreter, plan_copy, root_interpreters
from rootstock.builds.uv import Uv
from rootstock.builds.wheel_tags import Wheel, minor_version, wheels_of
from rootstock.config.clusters import Cluster
from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.site import Site
from rootstock.errors import BundleError
from rootstock.root.layout import ANY_ROOT, RootLayout
from rootstock.root.lock import Report, quiet
from rootstock.root.managed_files import sha256
from rootstock.root.records import now

_BOOTSTRAP_TEXT = f"""\
#!/bin/sh
# Makes an environment that has rootstock-site, from this folder alone:  sh bootstrap.sh DIR [PYTHON]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${{1:?usage: sh bootstrap.sh DIR [PYTHON]}}
version=VERSION # the packages are for this one
[ $# -gt 1 ] || set -- "$target" "python$version" python3 "$here"/{PYTHON}/*/bin/"python$version"
shift
for python in "$@" ""; do
    "$python" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' $version 2>/dev/null && break
done
if [ -z "$python" ]; then
    echo "No Python $version, which these packages are for. Tried: $*" >&2
    echo "Name one: sh $here/{BOOTSTRAP} $target /path/to/python$version" >&2
    exit 13
fi
(cd "$here" && sha256sum --check --quiet {SUMS})
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m zipfile -e "$here"/{WHEELS}/UV "$scratch"
uv=$(echo "$scratch"/uv-*.data/scripts/uv)
chmod +x "$uv"
export UV_NO_CONFIG=1 UV_CACHE_DIR="$scratch/cache" UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
clear=
if [ -f "$target/pyvenv.cfg" ]; then clear=--clear; fi # it was made by an earlier bundle
"$uv" venv --quiet $clear --python "$python" "$target"
set --
for wheel in WHEELS; do set -- "$@" "$here/{WHEELS}/$wheel"; done
"$uv" pip install --quiet --offline --no-index --no-deps --python "$target/bin/python" "$@"
echo "$target/bin/rootstock-site"
"""

# Not carried: the cache of whoever makes the bundle, and what the cluster has besides the bundle's environments.
_OWN = ("uv.cache", "environments")

# How something is built, where its lock goes, and the lock that it has already, if any.
_Build = tuple[BuildPlan, Path, Path | None]


def create_bundle(
    cluster: Cluster,
    sources: Sequence[EnvironmentSource],
    path: Path,
    *,
    client: bool = True,
    python: Path | None = None,
    report: Report = quiet,
) -> str:
    """Fetch all that an installation needs, and put it into one file.

    Parameters
    ----------
    cluster : Cluster
        Its package indexes, constraints and interpreter are used, and all of its settings are put in.
    sources : sequence of EnvironmentSource
        The environments. A lock beside an environment's file is kept.
    path : Path
        The file to write.
    client : bool
        Whether to put in what `bootstrap.sh` and the module need.
    python : Path, optional
        The folder of an interpreter that may be moved, to be put in. Without it those that the cluster's setting
        ``managed`` stands for are fetched and put in.
    report : callable
        Is given a line for each step.

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
        folder, site = Path(scratch, "bundle"), Site(RootLayout(Path(scratch, "root")), cluster)
        for part in (folder / ENVIRONMENTS, folder / WHEELS, site.layout.runtime(__version__)):
            part.mkdir(parents=True)
        uv = Uv(Path(scratch, "cache"), quiet)
        interpreters = [movable_interpreter(python)] if python is not None else root_interpreters(site)
        plans = [_put_environment(site, folder, source, interpreters) for source in sources]
        if client:
            plans.append(_put_client(site, folder, interpreters))
        used = dict.fromkeys(plan.interpreter for plan, _, _ in plans)
        if python is not None and used and interpreters[0] not in used:
            raise BundleError(
                f"No build would use the interpreter in {python}: python.interpreter is "
                f"{', '.join(cluster.interpreters)}.",
                f"Leave --python out, or add --set python.interpreter={MANAGED}.",
            )
        fetched = [interpreter for interpreter in used if interpreter.download]
        for new in [plan_copy(interpreters[0], site.layout)] if python is not None else map(NewPython, fetched):
            bundle_interpreter(site, new, folder / PYTHON, uv, report=report)
        wheels = {}
        for plan, lock, existing in plans:
            report(f"{plan.name}: locking")
            wheels[plan.name] = _lock(plan, existing, lock, site.layout, uv)
            for wheel in wheels[plan.name]:
                if not (folder / WHEELS / wheel.name).exists():
                    report(f"{plan.name}: fetching {wheel.name}")
                    wheel.fetch(folder / WHEELS)
        manifest = Manifest(
            machine=platform.machine(),
            cluster=cluster.name,
            settings={key: value for key, value in cluster.said().items() if key not in _OWN},
            client=client,
            environments=tuple(source.name for source in sources),
            python={plan.name: minor_version(plan.interpreter.version) for plan, _, _ in plans},
            wheels={name: tuple(wheel.name for wheel in files) for name, files in wheels.items()},
        )
        if client:
            _put_bootstrap(folder, manifest.python[CLIENT], manifest.wheels[CLIENT])
        _put_manifest(folder, manifest)
        return pack(folder, path)


def _put_manifest(folder: Path, manifest: Manifest) -> None:
    record = {"schema": SCHEMA, "rootstock": __version__, "created": now(), **asdict(manifest)}
    (folder / MANIFEST).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _check_name(path: Path) -> None:
    if any(character in '"\\' or not character.isprintable() for character in str(path)):
        raise BundleError(
            f"The name {str(path)!r} cannot stand in a lock, which is made beside it.",
            "Name a file whose path is without quotation marks, backslashes and line breaks; it can be moved.",
        )


def _put_environment(
    site: Site, folder: Path, source: EnvironmentSource, interpreters: Sequence[Interpreter]
) -> _Build:
    """Put in an environment file, and return how it is built."""
    (folder / ENVIRONMENTS / f"{source.name}.py").write_text(source.text, encoding="utf-8")
    lock = folder / ENVIRONMENTS / f"{source.name}.py.lock"
    return plan_environment(site, source, interpreters), lock, source.path.with_name(lock.name)


def _put_client(site: Site, folder: Path, interpreters: Sequence[Interpreter]) -> _Build:
    """Put in ourselves, and return how the client is built."""
    wheel, path = wheel_bytes(), site.layout.runtime(__version__) / WHEEL_NAME
    for target in (path, folder / WHEELS / WHEEL_NAME):
        target.write_bytes(wheel)
    return plan_client(site, path, sha256(wheel), interpreters), folder / CLIENT_LOCK, None


def _put_bootstrap(folder: Path, minor: str, wheels: Sequence[str]) -> None:
    """Put in what a machine begins with that has nothing of ours."""
    uv = next(name for name in wheels if name.startswith("uv-"))
    text = _BOOTSTRAP_TEXT.replace("=VERSION ", f"={minor} ", 1).replace("/UV ", f"/{uv} ", 1)
    # What the client's lock lists, where the site's constraints and overrides have had their say.
    text = text.replace(" WHEELS;", f" {' '.join([*wheels, WHEEL_NAME])};", 1)
    (folder / BOOTSTRAP).write_text(text, encoding="utf-8")


def _lock(plan: BuildPlan, existing: Path | None, lock: Path, layout: RootLayout, uv: Uv) -> list[Wheel]:
    """Write the lock of a build, and return the wheels that it asks for."""
    with tempfile.TemporaryDirectory() as scratch:
        recipe, listed = Path(scratch, "recipe.py"), Path(scratch, "pylock.toml")
        recipe.write_text(plan.recipe, encoding="utf-8")
        if existing is not None and (kept := read_lock(existing)) is not None:
            Path(f"{recipe}.lock").write_bytes(kept)
        uv.lock(recipe, plan.interpreter.path)
        uv.export(recipe, listed, plan.interpreter.path)
        text = Path(f"{recipe}.lock").read_text(encoding="utf-8")
        lock.write_text(text.replace(quoted(layout.root), quoted(ANY_ROOT)), encoding="utf-8")
        return [wheel for wheel in wheels_of(listed, plan.interpreter.version) if wheel.name != WHEEL_NAME]
