"""What a worker that has loaded its model says of what it computes on."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from rootstock.worker.device import computing_device


def describe(device: str) -> dict[str, Any]:
    """Return what computes, the GPU and the number of threads, as torch tells them, if the model brought it.

    Parameters
    ----------
    device : str
        What was asked for.

    Returns
    -------
    dict
        ``device`` (None: only the first result tells), ``gpu`` (its name), ``gpu_uuid`` and ``threads``, each None if
        it is not known. Nobody needs them so much that the lack of one should end a worker.
    """
    torch, found = sys.modules.get("torch"), computing_device(device)
    gpu = uuid = threads = None
    with contextlib.suppress(Exception):
        threads = torch.get_num_threads() if torch else int(os.environ["OMP_NUM_THREADS"])
    if torch and found != "cpu":
        with contextlib.suppress(Exception):
            uuid = _uuid(torch, device)
        with contextlib.suppress(Exception):
            gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {"gpu": gpu, "gpu_uuid": uuid, "threads": threads, "device": found}


def _uuid(torch: Any, device: str) -> str | None:
    """Return the UUID of a GPU, of NVIDIA's as ``nvidia-smi -L`` and ``CUDA_VISIBLE_DEVICES`` have it."""
    kind = device.lower().partition(":")[0]
    if kind not in ("cuda", "xpu"):
        return None
    value = getattr(getattr(torch, kind).get_device_properties(device), "uuid", None)
    text = "" if value is None else str(value)
    if not text.strip("0-"):  # a driver that knows none says zero
        return None
    nvidia = kind == "cuda" and not getattr(torch.version, "hip", None)
    return f"GPU-{text}" if nvidia and not text.startswith(("GPU-", "MIG-")) else text
