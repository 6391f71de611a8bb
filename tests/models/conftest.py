"""A root with the environments of real models.

Where UV_FIND_LINKS points to a folder with a wheel of torch, that one is used: the CPU's is a tenth of the GPU's.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import Site


def torch_settings() -> list[str]:
    """Return the site's settings for uv that choose the torch at hand."""
    folder = os.environ.get("UV_FIND_LINKS", "")
    wheels = sorted(Path(folder).glob("torch-*.whl")) if folder else []
    if not wheels:
        return []
    version = wheels[-1].name.split("-")[1].partition("+")[0]
    return ["--set", f"uv.find-links={folder}", "--set", f"uv.constraints=torch=={version}"]


@pytest.fixture(scope="session")
def models_root(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with CHGNet, built and verified."""
    path = tmp_path_factory.mktemp("models") / "root"
    site("install", "--cluster", "local", "--root", path, "--no-client", "--env", "chgnet", *torch_settings())
    return path
