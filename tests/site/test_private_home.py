"""Environments whose library looks for weights below the home, which no variable changes: workers have their own."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from ase import Atoms

from rootstock import RootstockCalculator
from rootstock.client.connection import WorkerConnection
from rootstock.client.private_home import make_home, shared_home
from rootstock.client.resolve import resolve
from rootstock.config.environment_file import read_source
from rootstock.errors import ConfigurationError, MissingWeightsError, WorkerStartError
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree
from rootstock.root.weights import read_weights
from tests.conftest import Site
from tests.support import weights_server
from tests.support.commands import Done, clean_environment
from tests.support.environment_files import header
from tests.support.folders import once_per_run
from tests.support.weights_server import SIZE, Server

pytestmark = pytest.mark.xdist_group("private-home")

server = weights_server.server
TABLE = """\
[tool.rootstock]
home = [".cache/sevennet", ".local/share/mattersim"]
warm = ["small"]
"""
# As libraries do it: the folder is made at each start, the file fetched in place, a table written beside.
SETUP = """\
import os
import urllib.request
from pathlib import Path

import ase
from ase.calculators.lj import LennardJones


def setup(model, device="cpu"):
    if model.startswith("/"):
        return LennardJones(epsilon=float(Path(model).read_text()))
    name = model or "small"
    folder = Path.home() / (".local/share/mattersim" if name == "other" else ".cache/sevennet")
    folder.mkdir(parents=True, exist_ok=True)
    (Path.home() / ".cache" / "table").write_text("of the library")
    assert not (Path.home() / "mine").exists()
    assert "XDG_CACHE_HOME" not in os.environ
    file = folder / "models" / f"{name}.pth"
    if name == "packaged" and not file.is_file():
        try:
            Path(ase.__file__).with_name("packaged.pth").write_text("in the package")
        except PermissionError:
            pass
    if not file.is_file():
        if name == "unsaid":
            raise FileNotFoundError(f"there is no {file}")
        file.parent.mkdir(exist_ok=True)
        urllib.request.urlretrieve(f"{os.environ['WEB_SERVER']}/{name}", file)
    if name == "greedy":
        (folder / "index").write_text("written at run time")
    return LennardJones(epsilon=float(file.read_text()))
"""


@pytest.fixture(scope="session")
def built(site: Site, like_root: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    def install(base: Path) -> None:
        (base / "housed.py").write_text(header(TABLE) + SETUP)
        options = ("--cluster", "local", "--no-client", "--env", base / "housed.py", *like_root)
        site("install", "--root", base / "root", *options)

    return once_per_run(tmp_path_factory, "housed", install) / "root"


@pytest.fixture
def root(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root without any weights, for a user with a file in the home, whose programs cache elsewhere."""
    layout = RootLayout(built)
    for folder in ("sevennet/models", "sevennet/index"):
        remove_tree(layout.cache / "home" / ".cache" / folder)
    for record in layout.all_weights.rglob("*.json"):
        record.unlink()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine").write_text("3.5")
    for name, folder in (("HOME", "home"), ("SLURM_TMPDIR", "scratch"), ("XDG_CACHE_HOME", "elsewhere")):
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.setenv(name, str(tmp_path / folder))
    return built


@pytest.fixture
def warm(site: Site, root: Path, server: Server) -> Done:
    return site("warm", "--root", root, environment=clean_environment(WEB_SERVER=server.url))


def test_weights_come_into_the_cache_and_workers_find_them(
    root: Path, server: Server, warm: Done, tmp_path: Path
) -> None:
    assert server.asked == ["small"]
    [file] = read_weights(RootLayout(root), "housed")["small"].files
    assert (file.path, file.bytes) == ("cache/home/.cache/sevennet/models/small.pth", SIZE)
    assert file.sha256 == hashlib.sha256(b"2.5".ljust(SIZE)).hexdigest()
    before = sorted(map(str, (root / "cache").rglob("*")))
    with RootstockCalculator("housed-small", root=root, device="cpu") as calc:
        Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.1]], calculator=calc).get_forces()
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["mine"]
    assert not any((tmp_path / "elsewhere").iterdir())
    assert sorted(map(str, (root / "cache").rglob("*"))) == before


def test_what_is_missing_is_named_where_an_admin_would_put_it(root: Path) -> None:
    for model in ("small", "unsaid"):
        with pytest.raises(MissingWeightsError, match="--env housed --model") as caught:
            RootstockCalculator(f"housed-{model}", root=root, device="cpu").start()
        if model == "unsaid":
            assert f"there is no {root}/cache/home/.cache/sevennet/models/unsaid.pth" in str(caught.value)


def test_nothing_is_written_where_the_links_lead(root: Path, warm: Done) -> None:
    folder = root / "cache" / "home" / ".cache" / "sevennet" / "models"
    folder.chmod(0o755)
    (folder / "greedy.pth").write_text("1.0")
    with pytest.raises(MissingWeightsError, match="writing to .*/.cache/sevennet/index is refused"):
        RootstockCalculator("housed-greedy", root=root, device="cpu").start()
    assert not (folder.parent / "index").exists()


def test_no_library_fetches_into_its_own_package(site: Site, root: Path, server: Server) -> None:
    """Not even where the admin may write there, as root may."""
    [package] = (root / "builds" / "housed").glob("*/lib/python*/site-packages/ase")
    package.chmod(0o755)
    variables = clean_environment(WEB_SERVER=server.url)
    site("warm", "--root", root, "--env", "housed", "--model", "packaged", environment=variables)
    assert not (package / "packaged.pth").exists()
    [file] = read_weights(RootLayout(root), "housed")["packaged"].files
    assert file.path == "cache/home/.cache/sevennet/models/packaged.pth"


def test_a_path_in_the_home_of_the_user_is_found(root: Path) -> None:
    with RootstockCalculator("housed-~/mine", root=root, device="cpu") as calc:
        calc.start()
        [file] = calc.info()["weights"]
    assert file["path"].endswith("/home/mine")


def test_where_uv_makes_the_environment_weights_are_fetched_into_the_root(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_SERVER", server.url)
    launch = resolve(RootLayout(root), "housed-small", mode="uv-run").launch()
    assert launch.variables["UV_PYTHON_INSTALL_DIR"] == f"{os.environ['HOME']}/.local/share/uv/python"
    # The worker, as uv would start it, in the packages that are there: making an environment takes long.
    build = resolve(RootLayout(root), "housed-small").launch()
    WorkerConnection(replace(launch, command=build.command), "small", "cpu", {}, start_timeout=60).close()
    assert (root / "cache" / "home" / ".cache" / "sevennet" / "models" / "small.pth").stat().st_size == SIZE


def test_workers_share_a_home_that_many_make_at_once(root: Path) -> None:
    cache, folders, begin = root / "cache", [".cache/sevennet", ".local/share/mattersim"], threading.Barrier(8)

    def make(_: int) -> Path:
        begin.wait()
        return shared_home(cache, folders)

    with ThreadPoolExecutor(8) as pool:
        [home] = set(pool.map(make, range(8)))
    assert (home / ".cache" / "sevennet").readlink() == cache / "home" / ".cache" / "sevennet"
    assert home.stat().st_mode & 0o077 == 0 or home.parents[1].stat().st_mode & 0o077 == 0
    assert shared_home(cache, reversed(folders)) == home
    assert shared_home(cache, folders[:1]) != home != shared_home(root, folders)


def test_a_folder_in_place_of_a_link_comes_to_lie_beside_it(tmp_path: Path) -> None:
    """As of a library that removes its cache and makes it anew: the next worker has the weights of the root again."""
    link, target = tmp_path / "home/.cache/sevennet", tmp_path / "cache/home/.cache/sevennet"
    for count in (1, 2):
        link.mkdir(parents=True)
        (link / "file").write_text("of the library")
        assert make_home(tmp_path / "home", tmp_path / "cache", [".cache/sevennet"]) == tmp_path / "home"
        assert link.readlink() == target
        assert len([*link.parent.glob("sevennet-*/sevennet/file")]) == count
        link.unlink()
    link.symlink_to(tmp_path)
    make_home(tmp_path / "home", tmp_path / "cache", [".cache/sevennet"])
    assert link.readlink() == target


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(WorkerStartError, match="Cannot make a home .*: Not a directory") as caught:
        make_home(tmp_path / "home", tmp_path / "cache", [".cache/sevennet"])
    assert str(tmp_path / "home") in caught.value.hint


@pytest.mark.parametrize(
    "home", [["/etc"], ["../up"], ["~/x"], [""], ["."], [".cache/"], [".cache//x"], [".cache", ".cache/x"], ["a\x07"]]
)
def test_folders_that_are_not_below_the_home_are_refused(tmp_path: Path, home: list[str]) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(header(f"[tool.rootstock]\nhome = {home!r}".replace("'", '"').replace("\\x07", "\\u0007")) + SETUP)
    with pytest.raises(ConfigurationError, match="home (must|names)"):
        read_source(path)
