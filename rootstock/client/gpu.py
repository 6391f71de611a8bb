"""Whether this node shows a GPU to this process, without asking any library."""

from __future__ import annotations

from rootstock.worker.device import missing_gpu


def no_gpu(device: str = "cuda") -> str:
    """Say why there is no GPU here, and what to do about it, in two lines; empty if there may be one."""
    if missing_gpu(device, "rocm") is None:  # torch calls AMD's by the same name
        return ""
    return str(missing_gpu(device, "cuda") or "")
