"""Where libraries look for weights, where they may write, and what is known of the weights that are here.

``{root}/weights/<environment>/<model>.json`` records which files a model's ``setup()`` reads. Reading records needs no
lock; each is replaced as a whole.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from rootstock.errors import ConfigurationError, RootError, RootstockError
from rootstock.root.layout import RootLayout
from rootstock.root.record_files import Record, read_each, read_record
from rootstock.root.records import write_file
from rootstock.root.weights_file import WeightsFile as WeightsFile

# Compilers and plotting libraries that write while they run. Sharing these makes them fail for everybody but the
# owner of the root.
_WRITE_CACHES = {
    "CUDA_CACHE_PATH": "cuda",
    "HF_XET_CACHE": "xet",
    "MIOPEN_USER_DB_PATH": "miopen",
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "PYTORCH_KERNEL_CACHE_PATH": "torch-kernels",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "torch-extensions",
    "TRITON_CACHE_DIR": "triton",
    "WARP_CACHE_PATH": "warp",
}


# What keeps libraries from the network that heed such a variable.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
# They outrank HF_HOME: set in a user's shell, they would lead away from the weights in the root.
LEAD_ASTRAY = ("HF_ASSETS_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")


HOME = "home"  # under a cache: what stands for folders below the home of a worker


def home_links(folders: Iterable[str]) -> dict[str, str]:
    """Return where folders below a worker's home lead: to these folders under the cache.

    >>> home_links([".cache/sevennet"])
    {'.cache/sevennet': 'home/.cache/sevennet'}
    """
    return {folder: f"{HOME}/{folder}" for folder in folders}


def read_variables(cache: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that point libraries to the weights in a root, for reading.

    Parameters
    ----------
    cache : Path
        The root's cache.
    extra : Mapping[str, str]
        Those of an environment file: variable -> folder under the cache.
    """
    return _cache_variables(cache, extra) | OFFLINE


def fetch_variables(cache: Path, extra: Mapping[str, str], proxy: str) -> dict[str, str]:
    """Return the variables that let libraries fetch weights into the empty folder `cache`.

    Parameters
    ----------
    cache, extra
        See `read_variables`.
    proxy : str
        The site's proxy, for a caller who has none in their own variables.
    """
    variables = _cache_variables(cache, extra)
    if proxy and not any(name in os.environ for name in (*_PROXIES, *map(str.upper, _PROXIES))):
        variables |= {case(name): proxy for name in _PROXIES[:2] for case in (str.lower, str.upper)}
    return {"HF_TOKEN_PATH": _token_file(), **variables}


def _token_file() -> str:
    """Return where the caller's permission to fetch gated weights lies: where HF_HOME is usually."""
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    return os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")


def token_place() -> str:
    """Return where the caller's token for the Hugging Face hub is: a variable or a file; empty if there is none."""
    variable = next((name for name in _TOKENS if os.environ.get(name)), "")
    return variable or (_token_file() if os.path.isfile(_token_file()) else "")


def _cache_variables(cache: Path, extra: Mapping[str, str]) -> dict[str, str]:
    return {
        "HF_HOME": str(cache / "huggingface"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **{name: str(cache / folder) for name, folder in extra.items()},
    }


def write_variables(folder: Path) -> dict[str, str]:
    """Return the variables that make libraries write into the user's own `folder`."""
    return {name: str(folder / sub) for name, sub in _WRITE_CACHES.items()}


@dataclass(frozen=True)
class Weights(Record):
    """The weights of a model.

    Attributes
    ----------
    environment, model : str
        The model by the name that ``setup()`` takes; empty for a default without a name.
    files : tuple of WeightsFile
        What ``setup()`` reads. Empty: the model has none.
    sources : tuple of str
        The addresses that they were fetched from; empty if they were already here.
    build : str
        Digest of the build that loaded them.
    at, by, on : str
        When they were recorded, by whom, on which machine.
    """

    environment: str
    model: str
    files: tuple[WeightsFile, ...]
    sources: tuple[str, ...]
    build: str
    at: str
    by: str
    on: str

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def present(self, layout: RootLayout) -> bool:
        """Tell whether every file is there, with its size.

        Raises
        ------
        RootError
            If this user may not look.
        """
        try:
            return all((layout.root / file.path).stat().st_size == file.bytes for file in self.files)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise RootError(f"Cannot read {error.filename}: {error.strerror}.", "Ask the site's admin.") from error


def read_weights(
    layout: RootLayout, environment: str, damaged: dict[str, RootstockError] | None = None
) -> dict[str, Weights]:
    """Return what is recorded of an environment's weights, by the name of the model.

    Parameters
    ----------
    layout : RootLayout
    environment : str
    damaged : dict, optional
        As of `read_each`.

    Raises
    ------
    RootError
        If a record cannot be read, and `damaged` is None.
    """
    paths = sorted(layout.weights(environment).glob("*.json"))
    records = read_each(layout.root, paths, functools.partial(_read, layout), damaged)
    return {weights.model: weights for weights in records}


def weights_of(layout: RootLayout, environment: str, model: str) -> Weights | None:
    """Return what is recorded of a model's weights; None if nothing is. Errors are those of `read_weights`.

    Parameters
    ----------
    layout : RootLayout
    environment, model : str
        The model by the name that ``setup()`` takes.
    """
    return _read(layout, layout.weights_record(environment, model))


def _read(layout: RootLayout, path: Path) -> Weights | None:
    root = shlex.quote(str(layout.root))
    again = f"rm {shlex.quote(str(path))} && rootstock-site warm --root {root} --env {path.parent.name}"
    return read_record(Weights, path, f"An admin records them anew: {again}")


def write_weights(layout: RootLayout, weights: Weights, mode: int) -> None:
    """Record a model's weights.

    Parameters
    ----------
    layout : RootLayout
    weights : Weights
    mode : int
        Permissions of the record.
    """
    write_file(layout.weights_record(weights.environment, weights.model), weights.to_json().encode(), mode)


def how_to_fetch(root: Path, environment: str, model: str) -> str:
    """Say how weights that are missing come into a root.

    Parameters
    ----------
    root : Path
    environment, model : str
        The model by the name that ``setup()`` takes.
    """
    return f"An admin of it fetches them, where there is a network, with:\n  {warm_command(root, environment, model)}"


def warm_command(root: Path, environment: str, model: str) -> str:
    """Return the command that fetches weights into a root.

    Parameters
    ----------
    root, environment, model
        As for `how_to_fetch`.
    """
    which = shlex.join(["--env", environment, *(["--model", model] if model else [])])
    return f"rootstock-site warm --root {shlex.quote(str(root))} {which}"


def own_weights(model: str) -> tuple[WeightsFile, ...]:
    """Return the files of a checkpoint of the user's own: a file, a folder's files, or those that a pattern fits.

    Parameters
    ----------
    model : str
        The argument for ``setup()``.

    Returns
    -------
    tuple of WeightsFile
        Empty if `model` is no path.

    Raises
    ------
    ConfigurationError
        If a file cannot be read.
    """
    text = os.path.expanduser(model)
    names = [text] if os.path.exists(text) else sorted(glob(text))
    files = (file for path in map(Path, names) for file in ([path] if path.is_file() else sorted(path.rglob("*"))))
    try:
        return tuple(WeightsFile.of(file.absolute()) for file in files if file.is_file())
    except OSError as error:
        raise ConfigurationError(f"Cannot read {error.filename}: {error.strerror}.") from error
