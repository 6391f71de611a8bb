"""Our own wheel, and the worker as one file.

The name ``rootstock`` belongs to another project on public indexes, so ours is never installed from one. An
installation writes the running package as a wheel into the root, builds the client's environment from it, and leaves
it there for users who have an environment of their own.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from rootstock import __version__
from rootstock.config.packaged import FOLDERS, PACKAGE, data_folder
from rootstock.errors import RootstockError

WHEEL_NAME = f"rootstock-{__version__}-py3-none-any.whl"
WORKER_NAME = "rootstock-worker.pyz"

_WORKER_PARTS = ("__init__.py", "errors.py", "worker")
_COMMANDS = "rootstock_commands.py"  # beside the package: see there
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same package gives the same bytes


def wheel_bytes() -> bytes:
    """Return the running package as a wheel.

    Raises
    ------
    RootstockError
        If the package is not installed, or its metadata is of another version.
    """
    try:
        installed = metadata.distribution("rootstock")
    except metadata.PackageNotFoundError:
        raise RootstockError("rootstock runs without being installed.", "Install it: uv pip install -e .") from None
    if installed.version != __version__:
        raise RootstockError(
            f"This is rootstock {__version__}, but its metadata say {installed.version}.",
            "Install the checkout again: uv pip install -e .",
        )
    info = f"rootstock-{__version__}.dist-info"
    files = _files_below(PACKAGE, "rootstock", leave_out="_data")
    files[_COMMANDS] = (PACKAGE.parent / _COMMANDS).read_bytes()
    for folder in FOLDERS:
        files |= _files_below(data_folder(folder), f"rootstock/_data/{folder}")
    for name in ("METADATA", "entry_points.txt"):
        files[f"{info}/{name}"] = (installed.read_text(name) or "").encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: rootstock\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD")
    return _zip(files)


def worker_bytes() -> bytes:
    """Return the worker as a zip file that Python runs: ``python -I -B rootstock-worker.pyz ...``."""
    files: dict[str, bytes] = {}
    for part in _WORKER_PARTS:
        path = PACKAGE / part
        files |= _files_below(path, f"rootstock/{part}") if path.is_dir() else {f"rootstock/{part}": path.read_bytes()}
    files["__main__.py"] = b"import sys\n\nfrom rootstock.worker.__main__ import main\n\nmain(sys.argv[1:])\n"
    return _zip(files)


def _files_below(folder: Path, prefix: str, leave_out: str = "") -> dict[str, bytes]:
    return {
        f"{prefix}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {"__pycache__", leave_out} & set(path.relative_to(folder).parts)
    }


def _record(files: Mapping[str, bytes], own_name: str) -> bytes:
    rows = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join([*rows, f"{own_name},,\n"]).encode()


def _zip(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)  # as it is: to compress it takes longer than all the rest of it
    return buffer.getvalue()
