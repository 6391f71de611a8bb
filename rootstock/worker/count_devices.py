"""A program that prints how many GPUs the libraries of a model's environment see: ``count_devices.py KIND SECONDS``.

It runs as a file, in a process of its own, for whoever has asked a driver for its GPUs keeps what it then holds.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import sys
from typing import Any


def count(kind: str) -> int:
    """Return how many GPUs of a kind are seen by torch, or by JAX if that is none.

    Parameters
    ----------
    kind : str
        ``cuda``, as torch calls AMD's too, or ``xpu``.

    Raises
    ------
    Exception
        What a library raises that is there but broken.
    """
    for name, of_library in (("torch", _by_torch), ("jax", _by_jax)):
        if importlib.util.find_spec(name) is not None and (found := of_library(importlib.import_module(name), kind)):
            return found
    return 0


def _by_torch(torch: Any, kind: str) -> int:
    if kind == "xpu":
        return int(torch.xpu.device_count()) if hasattr(torch, "xpu") else 0
    # By CUDA itself, as a worker will see them. torch's own function asks NVIDIA's management library first.
    of_cuda = getattr(getattr(torch, "_C", None), "_cuda_getDeviceCount", None)
    return int((of_cuda or torch.cuda.device_count)())


def _by_jax(jax: Any, kind: str) -> int:
    try:
        return len(jax.devices("gpu" if kind == "cuda" else kind))
    except RuntimeError:  # it has none of that kind
        return 0


def main(kind: str, seconds: str) -> None:
    """Print the number as a line of JSON, and end after some seconds in any case, also within a library.

    Parameters
    ----------
    kind, seconds : str
        As words of the command.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.alarm(int(seconds))
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # else JAX takes most of a GPU's memory to count them
    sys.stdout.write(json.dumps({"devices": count(kind)}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # nothing is left to be done, and some libraries take long to end, or crash


if __name__ == "__main__":
    main(*sys.argv[1:])
