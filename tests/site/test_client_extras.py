"""What the module's Python holds besides Rootstock: the setting client.extras."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from rootstock.config.cluster_settings import Cluster
from rootstock.root.layout import CLIENT, RootLayout
from tests.conftest import Site
from tests.support.commands import run
from tests.support.environment_files import WITH_SMALL_ASE

HAS_PARSL = "import importlib.util, rootstock; print(importlib.util.find_spec('parsl') is not None)"


@pytest.fixture
def root(site: Site, like_root: tuple[str, ...], tmp_path: Path) -> Path:
    site("install", "--cluster", "local", "--root", tmp_path / "root", "--set", "environments=", *like_root)
    return tmp_path / "root"


def client(root: Path) -> Path:
    [link] = RootLayout(root).clients.iterdir()
    return link / "bin" / "python"


def test_an_extra_comes_and_goes_with_its_setting(site: Site, root: Path) -> None:
    without = client(root).parents[1].resolve()
    assert run(client(root), "-I", "-c", HAS_PARSL, check=True).stdout == "False\n"
    change = ("install", "--root", root, "--set", "client.extras=parsl")
    assert f"build {CLIENT}" in (said := site(*change, "--dry-run").stdout) and "requirements changed" in said
    site(*change)
    assert run(client(root), "-I", "-c", "import parsl.executors\n" + HAS_PARSL, check=True).stdout == "True\n"
    assert site("install", "--root", root).stdout == f"{root}: nothing to do.\n"  # the root remembers it
    assert f"build {CLIENT}" not in site("install", "--root", root, "--set", "client.extras=parsl,parsl").stdout
    assert f"use build {without.name} of {CLIENT}" in site("install", "--root", root, "--set", "client.extras=").stdout
    assert client(root).parents[1].resolve() == without


def test_an_extra_that_there_is_not(site: Site, root: Path) -> None:
    before = RootLayout(root).clusters_file.read_bytes()
    done = site("install", "--root", root, "--set", "client.extras=parsl,dask", check=False)
    assert done.returncode != 0
    assert "client.extras is 'dask'; allowed are parsl." in done.stderr
    assert RootLayout(root).clusters_file.read_bytes() == before


def test_a_bundle_without_the_extra_of_the_root(site: Site, root: Path, tmp_path: Path) -> None:
    """uv would say that it does not find ASE in its cache."""
    site("bundle", "create", tmp_path / "bundle", "--cluster", "local", "--set", "environments=", *WITH_SMALL_ASE)
    install = ("install", "--root", root, "--bundle", tmp_path / "bundle")
    done = site(*install, "--set", "client.extras=parsl", check=False)
    assert done.returncode == 13
    assert "The bundle was made with client.extras = [], and the root is to have others." in done.stderr
    assert "--set client.extras=," in done.stderr
    site(*install, "--set", "client.extras=")


def test_every_extra_that_may_be_named_is_one_of_the_package() -> None:
    field = Cluster.__dataclass_fields__["extras"]
    assert set(field.metadata["choices"]) <= set(metadata.metadata("rootstock").get_all("Provides-Extra") or [])
