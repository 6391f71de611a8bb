"""The files that an installation writes into a root, and what admins have done to them since.

The root's marker keeps the hashes of what we wrote, the last two of each file: one of them is in place even after an
installation that was cut off between the marker and the file. A file with any other content was edited by somebody.
It is kept, and ours goes beside it as ``<name>.new``, unless that is forced; then theirs goes beside ours as
``<name>.bak``.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootstock.root.records import write_file

Written = Mapping[str, Sequence[str]]


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
    action : {'create', 'update', 'keep', 'overwrite', 'remove'}
        ``keep`` and ``overwrite`` are for a file that somebody edited.
    """

    path: Path
    old: bytes | None
    new: bytes | None
    action: str

    @property
    def target(self) -> Path:
        """Where the content goes."""
        return self.path.with_name(f"{self.path.name}.new") if self.action == "keep" else self.path

    @property
    def backup(self) -> Path:
        """Where what somebody edited goes when it is overwritten."""
        return self.path.with_name(f"{self.path.name}.bak")

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
        name = self.path.relative_to(root).as_posix()
        return {
            "create": f"write {name}",
            "update": f"update {name}",
            "keep": f"keep your edits of {name}, write ours as {self.target.name} (--force replaces them)",
            "overwrite": f"replace {name}, keep your edits as {self.backup.name}",
            "remove": f"remove {name}",
        }[self.action]

    def to_json(self, root: Path) -> dict[str, Any]:
        """Return what `describe` says for programs."""
        return {"path": self.path.relative_to(root).as_posix(), "action": self.action, "diff": self.diff(root)}

    def apply(self, mode: int) -> None:
        """Write or remove the file."""
        if self.new is None:
            self.path.unlink(missing_ok=True)
            return
        if self.action == "overwrite" and self.old is not None:
            write_file(self.backup, self.old, mode)
        write_file(self.target, self.new, mode)


def plan_files(
    root: Path, contents: Mapping[Path, bytes | None], written: Written, forced: Iterable[Path] = ()
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

    Returns
    -------
    tuple of FileChange
        Without those that are as they are to be.
    """
    edited = set(forced)
    changes = (_plan(path, new, path in edited, written.get(_key(root, path), ())) for path, new in contents.items())
    return tuple(change for change in changes if change is not None)


def _plan(path: Path, new: bytes | None, forced: bool, hashes: Sequence[str]) -> FileChange | None:
    try:
        old = path.read_bytes()
    except FileNotFoundError:
        return None if new is None else FileChange(path, None, new, "create")
    if old == new:
        return None
    edited = sha256(old) not in hashes
    if new is None:
        return None if edited else FileChange(path, old, None, "remove")
    if not edited:
        return FileChange(path, old, new, "update")
    change = FileChange(path, old, new, "overwrite" if forced else "keep")
    beside = change.target
    return None if beside != path and beside.is_file() and beside.read_bytes() == new else change


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
        if change.new is not None and change.action != "keep":
            key = _key(root, change.path)
            before = [sha256(change.old)] if change.action == "update" and change.old is not None else []
            after[key] = [*before, sha256(change.new)]
    return dict(sorted(after.items()))


def is_ours(root: Path, path: Path, written: Written) -> bool:
    """Tell whether a file is as we wrote it.

    Parameters
    ----------
    root, path : Path
        The file, and the root above it.
    written : mapping of str to list of str
        The marker's hashes of what we wrote.
    """
    return sha256(path.read_bytes()) in written.get(_key(root, path), ())


def _key(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def sha256(content: bytes) -> str:
    """Return the hash of `content` as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
