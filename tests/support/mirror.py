"""A mirror of interpreters as uv knows them, with one that really runs: the system's Python, made to be moved."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

DAY = "20990101"
SYSCONFIG_HEADER = "# system configuration generated and used by the sysconfig module"
UPSTREAM = "https://github.com/astral-sh/python-build-standalone/releases/download"


def movable_python(folder: Path) -> Path:
    """Copy the system's Python so that it finds its library wherever it lies."""
    program = Path("/usr/bin/python3").resolve()
    library = Path("/usr/lib") / program.name
    # What no test imports takes half of the time of each installation, whose files are hashed and compiled.
    ignore = shutil.ignore_patterns(
        "test", "tests", "idlelib", "ensurepip", "__pycache__", "config-*", "sitecustomize.py", "lib2to3",
        "pydoc_data", "distutils", "tkinter", "turtle.py", "xmlrpc", "curses", "dbm", "cp1*.py", "cp[578]*.py",
        "mac_*.py",
    )  # fmt: skip
    shutil.copytree(library, folder / "lib" / program.name, ignore=ignore)
    (folder / "bin").mkdir()
    shutil.copy(program, folder / "bin")
    (folder / "bin" / "python3").symlink_to(program.name)
    return folder


@dataclass(frozen=True)
class Mirror:
    """A folder of archives, and uv's list of them.

    Parameters
    ----------
    folder : Path
    version : str
        Of the interpreter that is there.
    """

    folder: Path
    version: str

    @classmethod
    def create(cls, folder: Path, version: str) -> Mirror:
        """Pack the system's Python, whose version this is."""
        mirror = cls(folder, version)
        mirror.archive(version).parent.mkdir(parents=True)
        python = movable_python(folder / "python")
        # What compilers are told: uv puts the place of the interpreter in for `/install`.
        told = python / "lib" / f"python{version.rpartition('.')[0]}" / mirror.sysconfig
        told.unlink(missing_ok=True)
        told.write_text(f'{SYSCONFIG_HEADER}\nbuild_time_vars = {{"LIBDIR": "/install/lib", "prefix": "/install"}}\n')
        with tarfile.open(mirror.archive(version), "w:gz", compresslevel=1) as archive:
            archive.add(python, "python")
        shutil.rmtree(python)
        mirror.offer(version)
        return mirror

    def like(self, folder: Path) -> Mirror:
        """Make a mirror with the same archive, for a test that changes it; the archive itself it must not write to."""
        other = Mirror(folder, self.version)
        other.archive(self.version).parent.mkdir(parents=True)
        os.link(self.archive(self.version), other.archive(self.version))
        other.offer(self.version)
        return other

    def archive(self, version: str) -> Path:
        name = f"cpython-{version}+{DAY}-{platform.machine()}-unknown-linux-gnu-install_only_stripped.tar.gz"
        return self.folder / DAY / name

    def key(self, version: str = "") -> str:
        """Return what uv calls an interpreter."""
        return f"cpython-{version or self.version}-linux-{platform.machine()}-gnu"

    @property
    def sysconfig(self) -> str:
        return f"_sysconfigdata__linux_{platform.machine()}-linux-gnu.py"

    @property
    def list(self) -> Path:
        return self.folder / "downloads.json"

    def offer(self, *versions: str, sha256: str = "") -> None:
        """Write the list; of all these versions, the archive is there of one."""
        content = self.archive(self.version).read_bytes()
        entries = {}
        for version in versions:
            major, minor, patch = version.split(".")
            entries[self.key(version)] = {
                "name": "cpython", "arch": {"family": platform.machine(), "variant": None},
                "os": "linux", "libc": "gnu",
                "major": int(major), "minor": int(minor), "patch": int(patch), "prerelease": "", "variant": None,
                "url": f"{UPSTREAM}/{DAY}/{self.archive(version).name.replace('+', '%2B')}",
                "sha256": sha256 or hashlib.sha256(content).hexdigest(), "build": DAY,
            }  # fmt: skip
        self.list.write_text(json.dumps(entries))

    def settings(self, **changes: str) -> list[str]:
        """Return the options by which a command takes its interpreter from here."""
        settings = {
            "interpreter": "managed", "version": self.version.rpartition(".")[0], "mirror": self.folder.as_uri(),
            "downloads": str(self.list), **changes,
        }  # fmt: skip
        return [f"--set=python.{key}={value}" for key, value in settings.items()]
