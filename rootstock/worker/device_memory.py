"""Too little memory: whether an exception says so, and what can be given back."""

from __future__ import annotations

import contextlib
import gc
import sys
from typing import Any

_TEXTS = (
    "out of memory",  # CUDA, HIP and SYCL, by torch and by themselves
    "failed to allocate",  # Warp
    "can't allocate memory",  # torch on a processor
    "cublas_status_alloc_failed",
    "resource_exhausted",  # XLA, so JAX and TensorFlow
)
_FREE = ("cuda", "xpu", "mps")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception was raised for lack of memory, of the GPU or the node."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    try:
        text = str(error).lower()
    except BaseException:  # noqa: BLE001  # of one whose message cannot be shown
        return False
    return any(known in text for known in _TEXTS)


def free_memory() -> None:
    """Give back what libraries keep for later. Call it when the exception is handled: its frames hold arrays."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    for kind in _FREE:
        library = getattr(torch, kind, None)
        with contextlib.suppress(Exception):  # of a library that is there in part
            if getattr(library, "is_initialized", lambda: True)():
                library.empty_cache()  # type: ignore[union-attr]
