"""A folder of modulefiles rendered for clusters whose roots are elsewhere, such as this project's ``modulefiles/``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rootstock.root.records import write_file

_OURS = b"Rendered by Rootstock"  # in the header of every modulefile
_MODE = 0o644


@dataclass(frozen=True)
class Difference:
    """A file that is not as it would be rendered now. `old` is None if it is missing, `new` if it is left over."""

    path: Path
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.old is None:
            return f"missing: {self.path}"
        if self.new is None:
            return f"left over: {self.path}"
        lines = difflib.unified_diff(
            self.old.splitlines(), self.new.splitlines(), f"{self.path} (now)", f"{self.path} (new)", lineterm=""
        )
        return "\n".join([f"differs: {self.path}", *lines])


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
    present = {path: (folder / path).read_text(encoding="utf-8") for path in _renderings(folder, texts)}
    return [
        Difference(folder / path, present.get(path), texts.get(path))
        for path in sorted({*present, *texts})
        if present.get(path) != texts.get(path)
    ]


def _renderings(folder: Path, texts: Mapping[Path, str]) -> Iterator[Path]:
    clusters = {path.parts[0] for path in texts}
    for path in folder.glob("*/rootstock/*"):
        name = path.relative_to(folder)
        concerned = len(clusters) > 1 or name.parts[0] in clusters
        if name in texts or (concerned and path.is_file() and _OURS in path.read_bytes()[:200]):
            yield name


def write(differences: list[Difference]) -> None:
    """Write and remove files so that no difference is left."""
    for difference in differences:
        if difference.new is None:
            difference.path.unlink()
        else:
            difference.path.parent.mkdir(parents=True, exist_ok=True)
            write_file(difference.path, difference.new.encode(), _MODE)
