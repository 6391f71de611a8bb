"""What lies in a root and must not change: the builds in use, the clients' too, and the interpreters below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rootstock.root.checksums import Problem, check_build, check_interpreter
from rootstock.root.layout import RootLayout
from rootstock.root.records import BUILD_RECORD, active_build
from rootstock.root.variants import find_variants


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
        if self.kind != "interpreter" and not (self.folder / BUILD_RECORD).is_file():
            return [Problem(BUILD_RECORD, "missing")]
        return (check_interpreter if self.kind == "interpreter" else check_build)(self.folder, sample)


def sealed_trees(layout: RootLayout, environments: Sequence[str], *, clients: bool) -> list[SealedTree]:
    """Return the builds of some environments that are in use, perhaps the clients', and their interpreters.

    Parameters
    ----------
    layout : RootLayout
    environments : sequence of str
    clients : bool
        Whether the clients' builds are among them.
    """
    builds = [
        SealedTree("environment", name, str(variant), variant.build)
        for name in environments
        for variant in find_variants(layout, name)
    ]
    broken = [name for name in environments if is_broken(layout, name)]
    builds += [SealedTree("environment", name, "", layout.active(name).resolve()) for name in broken]
    if clients:
        links = sorted(layout.clients.glob("[!.]*"))
        builds += [SealedTree("client", link.name, "", active_build(link) or link.resolve()) for link in links]
    names = sorted({name for build in builds if (name := interpreter_of(layout, build.folder))})
    return [*builds, *(SealedTree("interpreter", name, "", layout.interpreter(name)) for name in names)]


def is_broken(layout: RootLayout, name: str) -> bool:
    """Tell whether an environment's main build is in use and not there.

    Parameters
    ----------
    layout : RootLayout
    name : str
        The environment.
    """
    return layout.active(name).is_symlink() and active_build(layout.active(name)) is None


def interpreter_of(layout: RootLayout, build: Path) -> str:
    """Return the name of the interpreter that Rootstock has put into the root and a build is made on; or nothing.

    Parameters
    ----------
    layout : RootLayout
    build : Path
    """
    folder, program = layout.python.resolve(), (build / "bin" / "python").resolve()
    name = program.relative_to(folder).parts[0] if program.is_relative_to(folder) else ""
    return name if name and layout.interpreter_record(name).is_file() else ""
