"""Whether this node shows a GPU to this process, without asking any library."""

from __future__ import annotations

import os
import platform
from glob import glob


def no_gpu() -> str:
    """Say why there is no GPU here, and what to do about it, in two lines; empty if there may be one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        what = f"CUDA_VISIBLE_DEVICES is {visible!r}: no GPU is visible"
    elif not glob("/dev/nvidia[0-9]*") + glob("/dev/kfd"):
        what = f"{platform.node()} shows no GPU"
    else:
        return ""
    return (
        f"{what}\nRun in a job that asks for a GPU (with Slurm: srun --gres=gpu:1 ...), or compute with device='cpu'."
    )
