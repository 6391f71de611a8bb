"""What lies in a root and must not change: the builds in use, the clients' too, and the interpreters below them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rootstock.errors import RootError
from rootstock.root.checksums import Problem, check_build, check_interpreter
from rootstock.root.layout import VARIANT, RootLayout
from rootstock.root.records import BUILD_RECORD, active_record
from rootstock.root.variants import Variant


@dataclass(frozen=True)
class SealedTree:
    """A folder in a root whose files were listed when it came.

    Attributes
    ----------
    kind : {'environment', 'client', 'interpreter'}
    name : str
        Of the environment or the interpreter; the client's version.
    variant : str
        The processor and accelerator that an environment's build is for; else empty.
    folder : Path
    """

    kind: str
    name: str
    variant: str
    folder: Path

    def __str__(self) -> str:
        return self.name if self.kind == "environment" else f"{self.kind} {self.name}"

    def problems(self, sample: int | None = None) -> list[Problem]:
        """Compare its files with the list; `sample` as in `rootstock.root.checksums.check_build`."""
        if self.kind == "interpreter":
            return check_interpreter(self.folder, sample)
        if not os.path.lexists(self.folder / BUILD_RECORD):
            return [Problem(BUILD_RECORD, "missing")]
        return check_build(self.folder, sample)


def sealed_trees(layout: RootLayout, environments: Sequence[str], *, clients: bool) -> list[SealedTree]:
    """Return the builds of some environments that are in use, perhaps the clients', and their interpreters.

    Parameters
    ----------
    layout : RootLayout
    environments : sequence of str
    clients : bool
        Whether the clients' builds are among them.
    """
    links = [
        (name, link)
        for name in environments
        for link in (layout.active(name), *sorted(layout.all_active.glob(f"{name}{VARIANT}*")))
        if link.is_symlink()
    ]
    builds = [SealedTree("environment", name, _made_for(layout, name, link), _target(link)) for name, link in links]
    if clients:
        builds += [SealedTree("client", link.name, "", _target(link)) for link in sorted(layout.clients.glob("[!.]*"))]
    return [*builds, *interpreters_below(layout, [build.folder for build in builds])]


def interpreters_below(layout: RootLayout, builds: Iterable[Path]) -> list[SealedTree]:
    """Return the interpreters that builds are made on, of those that Rootstock has put into the root.

    Parameters
    ----------
    layout : RootLayout
    builds : iterable of Path
    """
    names = {name for build in builds if (name := _interpreter_in_root(layout, build))}
    # One without a record was put there by hand.
    ours = (name for name in names if layout.interpreter_record(name).exists() or not layout.interpreter(name).exists())
    return [SealedTree("interpreter", name, "", layout.interpreter(name)) for name in sorted(ours)]


def _target(link: Path) -> Path:
    """Return where a link to a build leads, whether anything is there or not."""
    return Path(os.path.realpath(link))


def _made_for(layout: RootLayout, name: str, link: Path) -> str:
    """Return what a build is for; where its record does not say, what its link's name says."""
    main = link == layout.active(name)
    try:
        record = active_record(link)
    except RootError:
        record = None
    if record is None:
        return "" if main else link.name.partition(VARIANT)[2]
    return str(Variant(_target(link), record.platform, record.accelerator, main, record.computes_on))


def interpreter_of(layout: RootLayout, build: Path) -> str:
    """Return the name of the interpreter that Rootstock has put into the root and a build is made on; or nothing.

    Parameters
    ----------
    layout : RootLayout
    build : Path
    """
    name = _interpreter_in_root(layout, build)
    return name if name and layout.interpreter_record(name).is_file() else ""


def _interpreter_in_root(layout: RootLayout, build: Path) -> str:
    folder, program = layout.python.resolve(), Path(os.path.realpath(build / "bin" / "python"))
    return program.relative_to(folder).parts[0] if program.is_relative_to(folder) else ""
