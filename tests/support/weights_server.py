"""A server of weights, an environment that fetches them from it, and a root that has that environment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree
from tests.conftest import Site
from tests.support.commands import Done, clean_environment
from tests.support.environment_files import header
from tests.support.folders import once_per_run

MODELS = """\
[tool.rootstock]
all-models-listed = true
warm = ["small", ""]
[tool.rootstock.models]
"" = "medium"
"small" = "one"
"medium" = "another"
"org/large" = "with a slash"
"gone" = "no longer on the server"
"cut" = "the connection breaks"
"silent" = "the server hangs"
"rude" = "heeds no variable"
"elsewhere" = "keeps its weights in the home of whoever fetches them"
"/path/to/file" = "your own"
[tool.rootstock.cache]
WEB_CACHE = "web"
"""
SETUP = """\
import os
import urllib.request
from pathlib import Path

import numpy as np
from ase.calculators.calculator import Calculator, all_changes


class Bound(Calculator):  # of numpy alone: these tests start many workers
    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": -self.parameters.epsilon, "forces": np.zeros((len(atoms), 3))}


def setup(model, device="cpu"):
    name = model or "medium"
    if name.startswith("/"):
        return Bound(epsilon=float(Path(name).read_text()))
    cache = Path.home() / ".cache" if name == "elsewhere" else Path(os.environ["WEB_CACHE"])
    folder = cache / name
    if not (folder / "epsilon").is_file():
        if os.environ.get("HF_HUB_OFFLINE") == "1" and name != "rude":
            raise FileNotFoundError(f"no {folder / 'epsilon'}")
        folder.mkdir(parents=True, exist_ok=True)
        # In place, as some libraries do it.
        urllib.request.urlretrieve(f"{os.environ['WEB_SERVER']}/{name}?key=secret", folder / "epsilon")
        (folder / "epsilon.lock").touch()
        (folder / "latest").symlink_to("epsilon")
    return Bound(epsilon=float((folder / "latest").read_text()))
"""
SIZE = 100_000

Warm = Callable[..., Done]


class Server(ThreadingHTTPServer):
    """Serves ``/NAME``: a number and many blanks; remembers what it was asked.

    Attributes
    ----------
    asked : list of str
    go_on : threading.Event
        While it is cleared, what is asked for is sent by half.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.go_on, self.over = threading.Event(), threading.Event()
        self.go_on.set()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def end(self) -> None:
        self.go_on.set()
        self.over.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].lstrip("/")
        self.server.asked.append(name)
        if name.endswith("gone"):
            self.send_error(404)
            return
        if name.endswith("silent"):
            self.server.over.wait()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(SIZE))
        self.end_headers()
        body = b"2.5".ljust(SIZE)
        self.wfile.write(body[: SIZE // 2])
        if name.endswith("cut"):
            return
        self.wfile.flush()
        self.server.go_on.wait()
        self.wfile.write(body[SIZE // 2 :])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def built(site: Site, like_root: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with the environment."""

    def install(base: Path) -> None:
        (base / "web.py").write_text(header(MODELS) + SETUP)
        options = ("--cluster", "local", "--no-client", "--env", base / "web.py", *like_root)
        site("install", "--root", base / "root", *options)

    # Of two modules, which run in the same process: they change it.
    return once_per_run(tmp_path_factory, "warm", install) / "root"


@pytest.fixture
def root(built: Path) -> Path:
    """Return the root without any weights."""
    forget(built)
    return built


def forget(root: Path) -> None:
    """Remove all weights from a root."""
    layout = RootLayout(root)
    remove_tree(layout.cache / "web")
    for record in layout.all_weights.rglob("*.json"):
        record.unlink()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.end()


@pytest.fixture
def warm(site: Site, root: Path, server: Server, tmp_path: Path) -> Warm:
    """Return a function that runs ``rootstock-site warm``, which must end with `code`, unless that is None."""

    def command(*arguments: str, code: int | None = 0) -> Done:
        environment = clean_environment(WEB_SERVER=server.url, HOME=str(tmp_path))
        done = site("warm", "--root", root, *arguments, check=False, environment=environment)
        assert code in (None, done.returncode), done.stdout + done.stderr
        return done

    return command
