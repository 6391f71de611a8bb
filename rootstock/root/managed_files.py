"""The files that an installation writes into a root, and what admins have done to them since.

The root's marker keeps the hashes of what we wrote, the last two of each file: one of them is in place even after an
installation that was cut off between the marker and the file. A file with any other content was edited by somebody.
It is kept, and ours goes into ``{root}/aside``, unless that is forced; then theirs goes there. Nothing is put aside
beside the files themselves: a second modulefile is a version that loads. A file that can take both is merged.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootstock.root.layout import RootLayout
from rootstock.root.permissions import Access
from rootstock.root.plain_files import RECORD_LIMIT, read_bytes
from rootstock.root.record_files import read_if_there
from rootstock.root.records import write_file

Written = Mapping[str, Sequence[str]]
Merge = Callable[[bytes], bytes]
_STRAY = re.compile(r"\.(new|bak|orig|old|save|rej)$|~$")


@dataclass(frozen=True)
class FileChange:
    """A file that is to be written or removed.

    Attributes
    ----------
    path : Path
    old : bytes or None
        What is there now.
    new : bytes or None
        None: the file is one of ours that is no longer wanted.
    action : {'create', 'update', 'merge', 'keep', 'overwrite', 'remove'}
        ``merge``, ``keep`` and ``overwrite`` are for a file that somebody edited.
    aside : Path or None
        Where ours goes that is not to replace theirs, or theirs that ours replaces.
    """

    path: Path
    old: bytes | None
    new: bytes | None
    action: str
    aside: Path | None = None

    def diff(self, root: Path | None = None) -> str:
        """Return the difference as a unified diff with paths under `root`; empty for a new file and what is no text."""
        if self.old is None:
            return ""
        try:
            old, new = self.old.decode(), (self.new or b"").decode()
        except UnicodeDecodeError:
            return ""
        name = _key(root, self.path) if root else self.path
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), f"{name} (now)", f"{name} (new)", lineterm="")
        return "\n".join(lines)

    def describe(self, root: Path) -> str:
        """Say in a line what is to be done."""
        name, aside = _key(root, self.path), self.aside and _key(root, self.aside)
        return {
            "create": f"write {name}",
            "update": f"update {name}",
            "merge": f"update {name}, which you have edited; the rest of it stays",
            "keep": f"keep your edits of {name}, put ours into {aside} (install --force replaces yours)",
            "overwrite": f"replace {name}, put your edits into {aside}",
            "remove": f"remove {name}",
        }[self.action]

    def to_json(self, root: Path) -> dict[str, Any]:
        """Return what `describe` says for programs."""
        aside = self.aside and _key(root, self.aside)
        return {"path": _key(root, self.path), "action": self.action, "aside": aside, "diff": self.diff(root)}

    def apply(self, access: Access, layout: RootLayout) -> None:
        """Write or remove the file.

        Parameters
        ----------
        access : Access
            Of the root.
        layout : RootLayout
        """

        def write(path: Path, content: bytes) -> None:
            here = access.at(path, layout)
            here.make_folder(path.parent)
            write_file(path, content, here.file)

        if self.new is None:
            self.path.unlink(missing_ok=True)
        elif self.action == "keep" and self.aside:
            write(self.aside, self.new)
        else:
            if self.aside and self.old is not None:
                write(self.aside, self.old)
            write(self.path, self.new)


def plan_files(
    root: Path,
    contents: Mapping[Path, bytes | None],
    written: Written,
    forced: Iterable[Path] = (),
    merges: Mapping[Path, Merge] | None = None,
) -> tuple[FileChange, ...]:
    """Compare files with what they are to hold.

    Parameters
    ----------
    root : Path
    contents : mapping of Path to bytes or None
        What each file is to hold; None: it is not to be there, if it is ours.
    written : mapping of str to list of str
        The marker's hashes of what we wrote, by path under the root.
    forced : iterable of Path
        Files whose edits are to be overwritten.
    merges : mapping of Path to callable, optional
        Of files that are merged if somebody edited them: what returns the content to write, given what is there.

    Returns
    -------
    tuple of FileChange
        Without those that are as they are to be.

    Raises
    ------
    RootError
        If one cannot be read.
    """
    overwritten, merges = set(forced), merges or {}
    changes = (
        _plan(root, path, new, path in overwritten, written.get(_key(root, path), ()), merges.get(path))
        for path, new in contents.items()
    )
    return tuple(change for change in changes if change is not None)


def _plan(
    root: Path, path: Path, new: bytes | None, forced: bool, hashes: Sequence[str], merge: Merge | None
) -> FileChange | None:
    old = read_if_there(path, "Move it away: it is then written anew.")
    if old is None:
        return None if new is None else FileChange(path, None, new, "create")
    if old == new:
        return None
    edited = sha256(old) not in hashes
    if new is None:
        return None if edited else FileChange(path, old, None, "remove")
    if not edited:
        return FileChange(path, old, new, "update")
    if merge:
        merged = merge(old)
        return None if merged == old else FileChange(path, old, merged, "merge")
    aside = RootLayout(root).aside / _key(root, path)
    if forced:
        backups = (aside.with_name(f"{aside.name}.{number}.bak") for number in itertools.count(1))
        return FileChange(path, old, new, "overwrite", next(each for each in backups if _free(each, old)))
    ours = aside.with_name(f"{aside.name}.new")
    return (
        None if ours.is_file() and read_bytes(ours, RECORD_LIMIT) == new else FileChange(path, old, new, "keep", ours)
    )


def _free(path: Path, content: bytes) -> bool:
    """Tell whether nothing is lost if a file with that content is written."""
    return not path.exists() or read_bytes(path, RECORD_LIMIT) == content


def hashes_after(root: Path, written: Written, changes: Iterable[FileChange]) -> dict[str, list[str]]:
    """Return the hashes that the marker is to hold before `changes` are applied.

    Parameters
    ----------
    root : Path
    written : mapping of str to list of str
        The hashes that it holds now.
    changes : iterable of FileChange
    """
    after = {key: list(hashes) for key, hashes in written.items()}
    for change in changes:
        # What holds somebody's edits stays theirs.
        if change.new is not None and change.action not in ("keep", "merge"):
            key = _key(root, change.path)
            before = [sha256(change.old)] if change.action == "update" and change.old is not None else []
            after[key] = [*before, sha256(change.new)]
    return dict(sorted(after.items()))


def stray_modulefiles(layout: RootLayout) -> list[Path]:
    """Return files among the modulefiles that an editor or an admin has put aside there: module systems show them.

    Parameters
    ----------
    layout : RootLayout
    """
    return sorted(path for path in layout.modules.glob("[!.]*") if _STRAY.search(path.name))


def is_ours(root: Path, path: Path, written: Written) -> bool:
    """Tell whether a file is as we wrote it.

    Parameters
    ----------
    root, path : Path
        The file, and the root above it.
    written : mapping of str to list of str
        The marker's hashes of what we wrote.
    """
    return sha256(read_bytes(path, RECORD_LIMIT)) in written.get(_key(root, path), ())


def _key(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def sha256(content: bytes) -> str:
    """Return the hash of `content` as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
