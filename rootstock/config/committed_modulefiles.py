"""A folder of modulefiles rendered for clusters whose roots are elsewhere, such as this project's ``modulefiles/``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rootstock.root.managed_files import FileChange, plan_files, sha256
from rootstock.root.records import write_file

_OURS = b"Rendered by Rootstock"  # in the header of every modulefile
_MODE = 0o644
_FAULTS = {"create": "missing", "update": "differs", "remove": "left over"}
_DONE = {"create": "wrote", "update": "wrote", "remove": "removed"}


@dataclass(frozen=True)
class Difference:
    """A file that is not as it would be rendered now, and the change that mends it."""

    change: FileChange

    def __str__(self) -> str:
        diff = self.change.diff() if self.change.action == "update" else ""
        return "\n".join(filter(None, [f"{_FAULTS[self.change.action]}: {self.change.path}", diff]))


def compare(folder: Path, texts: Mapping[Path, str]) -> list[Difference]:
    """Compare whole texts with what a folder holds.

    Parameters
    ----------
    folder : Path
    texts : mapping of Path to str
        Text of each file by its path under the folder, ``CLUSTER/rootstock/FILE``.

    Returns
    -------
    list of Difference
        Renderings of other versions, and of clusters that are unknown if several are given, are left over. Files
        that we have not rendered are nobody's business here.
    """
    present = set(_renderings(folder, texts))
    contents = {folder / path: texts[path].encode() if path in texts else None for path in sorted({*present, *texts})}
    written = {path.as_posix(): [sha256((folder / path).read_bytes())] for path in present}
    return [Difference(change) for change in plan_files(folder, contents, written)]


def _renderings(folder: Path, texts: Mapping[Path, str]) -> Iterator[Path]:
    clusters = {path.parts[0] for path in texts}
    for path in folder.glob("*/rootstock/*"):
        name = path.relative_to(folder)
        concerned = len(clusters) > 1 or name.parts[0] in clusters
        if name in texts or (concerned and path.is_file() and _OURS in path.read_bytes()[:200]):
            yield name


def write(differences: list[Difference]) -> list[str]:
    """Write and remove files so that no difference is left; return what was done, a line each."""
    done = []
    for change in (difference.change for difference in differences):
        if change.new is None:
            change.path.unlink()
        else:
            change.path.parent.mkdir(parents=True, exist_ok=True)
            write_file(change.path, change.new, _MODE)
        done.append(f"{_DONE[change.action]} {change.path}")
    return done
