"""Where libraries look for weights, and where they may write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rootstock.layout import RootLayout

# Compilers and plotting libraries that write while they run. Sharing these makes them fail for everybody but the
# owner of the root.
_WRITE_CACHES = {
    "CUDA_CACHE_PATH": "cuda",
    "MIOPEN_USER_DB_PATH": "miopen",
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "PYTORCH_KERNEL_CACHE_PATH": "torch-kernels",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "torch-extensions",
    "TRITON_CACHE_DIR": "triton",
    "WARP_CACHE_PATH": "warp",
}


def read_variables(layout: RootLayout, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that point libraries to the weights in the root, for reading.

    Parameters
    ----------
    layout : RootLayout
    extra : Mapping[str, str]
        Those of an environment file: variable -> folder under the root's cache.
    """
    return {
        "HF_HOME": str(layout.huggingface_cache),
        "HF_HUB_OFFLINE": "1",
        **{name: str(layout.cache / folder) for name, folder in extra.items()},
    }


def write_variables(folder: Path) -> dict[str, str]:
    """Return the variables that make libraries write into the user's own `folder`."""
    return {name: str(folder / sub) for name, sub in _WRITE_CACHES.items()}
