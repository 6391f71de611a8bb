"""What a build is made from: its recipe, the interpreter, the machine, and the lock.

A root can hold several builds of an environment, for other processors and accelerators (`rootstock.root.variants`).
Those with the same recipe share a lock, which holds for every processor.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from packaging.specifiers import SpecifierSet

from rootstock import __version__
from rootstock.builds.interpreters import Interpreter, find_interpreter
from rootstock.builds.lock_scope import read_lock, scope_in_root
from rootstock.builds.uv import uv_version
from rootstock.builds.uv_scripts import recipe_text
from rootstock.config.environment_file import EnvironmentSource, given_by_path
from rootstock.config.site import Site
from rootstock.errors import RootError
from rootstock.root.layout import CLIENT as CLIENT
from rootstock.root.layout import VARIANT, RootLayout
from rootstock.root.managed_files import sha256
from rootstock.root.records import BUILD_RECORD, active_record, read_build
from rootstock.root.variants import client_link, main_accelerator, variant_link

_CLIENT_PYTHON = ">=3.11"
RECIPE, LOCK = "recipe.py", "recipe.py.lock"
_NOT_BUILT = "not built yet"


@dataclass(frozen=True)
class BuildPlan:
    """A build that is to be made.

    Attributes
    ----------
    name : str
        Name of the environment.
    source : EnvironmentSource or None
        Its file; None for the client's environment, which has none.
    recipe : str
        What uv locks and installs.
    interpreter : Interpreter
    platform, accelerator : str
        What the build is for.
    link, lock_file : Path
        What points to the build in use, and where its lock is kept.
    seed : Path or None
        A lock to begin with where there is none: its versions are kept where they fit.
    reason : str
        Why it is to be made.
    published : str
        Its name, where it is there already and only out of use.
    lock : str or None
        What it is locked to; None until that is known.
    download : int
        Bytes of the packages that are then fetched, which the root does not have yet.
    """

    name: str
    source: EnvironmentSource | None
    recipe: str
    interpreter: Interpreter
    platform: str
    accelerator: str
    link: Path
    lock_file: Path
    seed: Path | None = None
    reason: str = ""
    published: str = ""
    lock: str | None = None
    download: int = 0

    @property
    def main(self) -> bool:
        """Whether it is the one that an environment's name leads to."""
        return VARIANT not in self.link.name

    @property
    def label(self) -> str:
        """The build's name for people: of a variant, it says of which."""
        return self.name if self.source is None else self.link.name

    @property
    def inputs(self) -> dict[str, str]:
        """What the build is made from, except for the lock."""
        return {
            "source_sha256": self.source.sha256 if self.source else "",
            "recipe_sha256": sha256(self.recipe.encode()),
            "interpreter": self.interpreter.path,
            "python": self.interpreter.version,
            "platform": self.platform,
            "accelerator": self.accelerator,
            "uv": uv_version(),
        }

    def digest(self, lock: str) -> str:
        """Return the name of the build."""
        return build_digest(self.inputs, lock)

    def needed(self, layout: RootLayout, lock: bytes | None = None) -> BuildPlan | None:
        """Return the plan with the reason for it; None if the active build is what it would make.

        Parameters
        ----------
        layout : RootLayout
        lock : bytes, optional
            What the lock file is about to hold, if that is not what it holds now.
        """
        lock = read_lock(self.lock_file) if lock is None else lock
        reason, seed = self._difference(lock), self.seed
        if not reason:
            return None
        if lock is None and reason == _NOT_BUILT and (kept := self._lock_of_another_time(layout)):
            seed, lock = kept, read_lock(kept)
        name = self.digest(lock.decode(errors="replace")) if lock is not None else ""
        published = name if name and (layout.build(self.name, name) / BUILD_RECORD).is_file() else ""
        reason = "not in use" if published and reason == _NOT_BUILT else reason
        return replace(self, reason=reason, published=published, seed=seed)

    def _lock_of_another_time(self, layout: RootLayout) -> Path | None:
        """Return the lock in a build that is made from the same, and there: an installation may have been killed."""
        found = []
        for folder in layout.build(self.name, "").glob("[!.]*"):
            with contextlib.suppress(RootError, OSError):
                record, lock = read_build(folder), read_lock(folder / LOCK)
                same = record and all(getattr(record, key) == value for key, value in self.inputs.items())
                if record and same and lock is not None and sha256(lock) == record.lock_sha256:
                    found.append((record.built_at, folder / LOCK))
        return max(found)[1] if found else None

    def _difference(self, lock: bytes | None) -> str:
        record = active_record(self.link)
        if record is None:
            return _NOT_BUILT
        names = {"source_sha256": "environment file", "recipe_sha256": "requirements"}
        for key, value in self.inputs.items():
            if getattr(record, key) != value:
                return f"{names.get(key, key)} changed"
        return "" if lock is not None and sha256(lock) == record.lock_sha256 else "lock changed"


def build_digest(inputs: Mapping[str, str], lock: str) -> str:
    """Return the name of a build.

    Parameters
    ----------
    inputs : Mapping[str, str]
        As `BuildPlan.inputs`.
    lock : str
    """
    return content_digest({**inputs, "lock_sha256": sha256(lock.encode())})


def content_digest(content: Mapping[str, str]) -> str:
    """Return the name of a build by all that it is made from, each with its key in `BuildRecord`."""
    return sha256(json.dumps(content, sort_keys=True).encode())[:16]


def plan_environment(
    site: Site,
    source: EnvironmentSource,
    interpreters: Sequence[Interpreter] = (),
    accelerator: str = "",
    locks: Mapping[Path, bytes] = MappingProxyType({}),
    *,
    anew: bool = False,
) -> BuildPlan:
    """Return how the build of an environment for this machine is made.

    Parameters
    ----------
    site : Site
    source : EnvironmentSource
    interpreters : sequence of Interpreter
        Interpreters that are in the root, or can be fetched into it; the best first.
    accelerator : str
        What to build for; by default the cluster's.
    locks : mapping of Path to bytes
        What lock files are about to hold, if that is not what they hold now.
    anew : bool
        Whether what it is locked for is decided anew, whatever the lock is for.
    """
    layout, cluster = site.layout, site.cluster
    accelerator, machine = accelerator or cluster.accelerator, platform.machine()
    interpreter = find_interpreter(
        source.requires_python, cluster.interpreters, cluster.readers, interpreters, f"environment {source.name!r}"
    )
    recipe = recipe_text(source.header, cluster, accelerator)
    link = variant_link(layout, source.name, machine, accelerator)
    main, lock_file, seed = main_accelerator(layout, source.name), layout.lock_file(source.name), None
    if main not in ("", accelerator) and recipe != recipe_text(source.header, cluster, main):
        lock_file, seed = layout.lock_file(source.name, accelerator), lock_file
    kept = None if anew else locks.get(lock_file) or _lock_in_use(source, lock_file, layout)
    scope = scope_in_root(interpreter.version, kept, layout.active(source.name))
    recipe = recipe_text(source.header, cluster, accelerator, scope)
    return BuildPlan(source.name, source, recipe, interpreter, machine, accelerator, link, lock_file, seed)


def _lock_in_use(source: EnvironmentSource, lock_file: Path, layout: RootLayout) -> bytes | None:
    """Return the lock that an installation would take: one beside a file that somebody has given, or the root's."""
    beside = [source.path.with_name(lock_file.name)] if given_by_path(source, layout) else []
    locks = map(read_lock, (*beside, lock_file))
    return next((lock for lock in locks if lock is not None), None)


def plan_client(
    site: Site,
    wheel: Path,
    wheel_sha256: str,
    interpreters: Sequence[Interpreter] = (),
    locks: Mapping[Path, bytes] = MappingProxyType({}),
) -> BuildPlan:
    """Return how this version's client environment is made.

    Parameters
    ----------
    site : Site
    wheel : Path
        Our wheel in the root.
    wheel_sha256 : str
        Its hash: the same version can be another build of a checkout.
    interpreters : sequence of Interpreter
        Interpreters that are in the root, or can be fetched into it; the best first.
    locks : mapping of Path to bytes
        What lock files are about to hold, if that is not what they hold now.
    """
    header = {
        "requires-python": _CLIENT_PYTHON,
        "dependencies": [client_requirement(site.cluster.extras)],
        "tool": {
            "uv": {"sources": {"rootstock": {"path": str(wheel)}}},
            "rootstock-client": {"wheel-sha256": wheel_sha256},
        },
    }
    cluster, layout, machine = site.cluster, site.layout, platform.machine()
    interpreter = find_interpreter(
        SpecifierSet(_CLIENT_PYTHON), cluster.interpreters, cluster.readers, interpreters, "what the module loads"
    )
    lock_file = client_lock(layout)
    kept = locks.get(lock_file) or read_lock(lock_file)
    scope = scope_in_root(interpreter.version, kept, layout.client(__version__))
    return BuildPlan(
        CLIENT, None, recipe_text(header, cluster, cluster.accelerator, scope), interpreter, machine,
        cluster.accelerator, client_link(layout, __version__, machine), lock_file,
    )  # fmt: skip


def client_requirement(extras: Iterable[str]) -> str:
    """Return what a client environment is to hold, as its recipe has it.

    >>> client_requirement(["parsl"]).partition("==")[0]
    'rootstock[parsl]'
    """
    names = ",".join(sorted(set(extras)))
    return f"rootstock[{names}]=={__version__}" if names else f"rootstock=={__version__}"


def client_lock(layout: RootLayout) -> Path:
    """Return where the lock of this version's client environment is kept."""
    return layout.runtime(__version__) / "client.lock"
