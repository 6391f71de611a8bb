"""The setting ``uv.cache``: uv's package cache outside of the root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootstock.client.resolve import resolve
from rootstock.root.layout import RootLayout
from tests.conftest import Site
from tests.support.needs import need, need_root

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """Return a folder of another file system than `tmp_path`'s."""
    need(SHARED_MEMORY.is_dir() and os.stat(SHARED_MEMORY).st_dev != os.stat(tmp_path).st_dev, "a /dev/shm")
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
        yield Path(folder)


def test_a_cache_on_another_file_system(site: Site, tmp_path: Path, tiny: Path, elsewhere: Path) -> None:
    root, cache = tmp_path / "root", elsewhere / "uv"
    site("install", "--cluster", "local", "--root", root, "--env", tiny, "--no-client", "--set", f"uv.cache={cache}")
    layout = RootLayout(root)
    assert list(layout.uv_cache.iterdir()) == []
    assert (cache / "CACHEDIR.TAG").is_file()
    assert cache.stat().st_mode & 0o777 == 0o700
    log = next(layout.log.glob("*install*")).read_text()
    assert "installing" in log
    assert "hardlink" not in log  # uv was told to copy
    shutil.rmtree(cache)
    done = site("status", "--root", root)
    assert "environment tiny: build" in done.stdout


def test_a_worker_that_uv_starts_uses_it(site: Site, tmp_path: Path, tiny: Path, elsewhere: Path) -> None:
    root, cache = tmp_path / "root", elsewhere / "uv"
    site("install", "--cluster", "local", "--root", root, "--env", tiny, "--no-client", "--set", f"uv.cache={cache}")
    launch = resolve(RootLayout(root), "tiny", mode="uv-run").launch()
    assert launch.command[launch.command.index("--cache-dir") + 1] == str(cache)
    assert "UV_CACHE_DIR" not in launch.variables


def test_a_cache_that_is_no_place(site: Site, tmp_path: Path, tiny: Path) -> None:
    options = ("install", "--cluster", "local", "--root", tmp_path / "root", "--env", tiny, "--no-client", "--set")
    done = site(*options, "uv.cache=cache/uv", check=False)
    assert done.returncode == 3
    assert "Error: The setting uv.cache is 'cache/uv'; it must be an absolute path." in done.stderr
    (tmp_path / "file").touch()
    done = site(*options, f"uv.cache={tmp_path}/file/uv", check=False)
    assert done.returncode == 10
    assert f"Error: Cannot create uv's cache {tmp_path}/file/uv: Not a directory." in done.stderr


def test_a_cache_of_another_user(site: Site, tmp_path: Path, tiny: Path) -> None:
    need_root()
    cache = tmp_path / "cache"
    cache.mkdir()
    os.chown(cache, 12345, 12345)
    done = site(
        "install", "--cluster", "local", "--root", tmp_path / "root", "--env", tiny, "--no-client", "--set",
        f"uv.cache={cache}", check=False,
    )  # fmt: skip
    assert done.returncode == 10
    assert f"Error: The folder {cache}, which the setting uv.cache names, belongs to another user." in done.stderr
    assert list(cache.iterdir()) == []


def test_a_cache_that_is_not_needed_stops_nothing(site: Site, tmp_path: Path, tiny: Path) -> None:
    need_root()
    root, cache = tmp_path / "root", tmp_path / "cache"
    install = ("install", "--cluster", "local", "--root", root, "--no-client")
    site(*install, "--env", tiny, "--set", f"uv.cache={cache}")
    os.chown(cache, 12345, 12345)
    assert "nothing to do" in site(*install).stdout
    assert "nothing to do" in site("render", "--root", root, "--check").stdout
    site(*install, "--set", "contact=Ann")
    assert 'contact = "Ann"' in (root / "clusters.toml").read_text()
    (root / "environments/tiny.py").write_text(tiny.read_text() + "# more\n")
    for more in (["--dry-run"], []):
        done = site(*install, *more, check=False)
        assert done.returncode == 10
        assert f"Error: The folder {cache}, which the setting uv.cache names, belongs to another user." in done.stderr
