"""Readers of a root: other users than its owner, without network, whose home belongs to somebody else."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tests.support.commands import Done, bare_environment, run
from tests.support.needs import need_programs, need_root

# System calls that change files by their names, and those that open them, for reading or not.
_CHANGE = (
    "creat,mkdir,mkdirat,rmdir,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,truncate,mknod,"
    "mknodat,chmod,fchmodat,chown,lchown,fchownat,utime,utimes,futimesat,utimensat,setxattr,lsetxattr,removexattr"
)
_OPEN = "open,openat,openat2"
# As strace writes it, whether it came to be or was refused.
_CHANGING = re.compile(
    rf"^\d+ +(?:(?:{_CHANGE.replace(',', '|')})\(|open(?:at2?)?\(.*O_(?:WRONLY|RDWR|CREAT|TRUNC|TMPFILE))"
)

_LEADS_TO = re.compile(r'(?<=symlink\()"[^"]*", |(?<=symlinkat\()"[^"]*", ')


def need_readers() -> None:
    """Ask for what the functions below use."""
    need_root()
    need_programs(setpriv="util-linux", unshare="util-linux", strace="strace")


def run_as_reader(uid: int, command: Sequence[str | Path], place: Path, *, groups: str = "", **variables: str) -> Done:
    """Run a command as another user, without network, whose home is `place`: a folder that they can reach, not own."""
    scratch = place / f"scratch-{uid}"
    scratch.mkdir(exist_ok=True)
    os.chown(scratch, uid, uid)
    who = (f"--reuid={uid}", f"--regid={uid}", f"--groups={groups}" if groups else "--clear-groups")
    env = bare_environment(place, TMPDIR=str(scratch)) | variables
    return run("unshare", "--net", "setpriv", *who, *command, env=env, cwd="/")


def traced(log: Path) -> list[str]:
    """Return the prefix of a command that lists, in `log`, what files it and its children open or change."""
    options = ("-f", "--seccomp-bpf", "-y", "-qq", "-e", f"trace={_OPEN},{_CHANGE}", "-e", "signal=none")
    return ["strace", *options, "-o", str(log)]


def seen_under(log: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Return the system calls that opened something under a folder or would have changed it, and the latter alone.

    A link elsewhere that leads there changes nothing there.
    """
    touched = [line for line in log.read_text().splitlines() if str(folder) in line]
    changing = [line for line in touched if _CHANGING.match(line)]
    return touched, [line for line in changing if str(folder) in _LEADS_TO.sub("", line)]
