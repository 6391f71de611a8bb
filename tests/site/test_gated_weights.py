"""Weights that a hub gives only to whoever has accepted their terms."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rootstock.errors import WeightsError
from rootstock.root.layout import RootLayout
from rootstock.root.weights import read_weights
from tests.conftest import Site
from tests.support.commands import clean_environment
from tests.support.environment_files import header
from tests.support.folders import once_per_run

pytestmark = pytest.mark.xdist_group("gated")

PAGE = "https://hub.invalid/somebody/model"
TABLES = f"""\
[tool.rootstock]
all-models-listed = true
[tool.rootstock.models]
"" = "small"
"small" = "gated"
"open" = "not gated"
[[tool.rootstock.variants]]
models = ["small"]
gated = "{PAGE}"
"""
SETUP = """\
from pathlib import Path

from ase.calculators.lj import LennardJones
from huggingface_hub import hf_hub_download


def setup(model, device="cpu"):
    return LennardJones(epsilon=float(Path(hf_hub_download("somebody/model", f"{model or 'small'}.txt")).read_text()))
"""
_WEIGHTS = b"2.5"


class Hub(BaseHTTPRequestHandler):
    """A hub with one repository, for whoever has the token ``let-in``."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(_WEIGHTS)

    def _answer(self, body: bytes) -> None:
        if self.headers.get("Authorization") != "Bearer let-in":
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", "Access to model somebody/model is restricted.")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for name, value in {"X-Repo-Commit": "a" * 40, "ETag": '"b"', "Content-Length": str(len(_WEIGHTS))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def root(site: Site, like_root: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    def install(base: Path) -> None:
        (base / "gated.py").write_text(header(TABLES, dependencies=("ase>=3.23", "huggingface_hub")) + SETUP)
        options = ("--cluster", "local", "--no-client", "--env", base / "gated.py", *like_root)
        site("install", "--root", base / "root", *options)

    return once_per_run(tmp_path_factory, "gated", install) / "root"


def test_the_way_to_gated_weights_is_told(site: Site, root: Path, hub: str, tmp_path: Path) -> None:
    variables = clean_environment(HF_ENDPOINT=hub, HOME=str(tmp_path))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HOME", "HF_TOKEN_PATH"):
        variables.pop(name, None)
    command = ("warm", "--root", root, "--env", "gated", "--model", "small")
    done = site(*command, check=False, environment=variables)
    assert done.returncode == WeightsError.exit_code
    told = done.stderr[done.stderr.index("Error: ") :]
    assert f"The weights of gated-small are gated.\n  1. Accept the terms with your account: {PAGE}\n" in told
    assert "2. Log in here with: hf auth login. Or set HF_TOKEN. There is no token here yet.\n" in told
    assert f"3. Run again: rootstock-site {' '.join(map(str, command))}\n" in told
    assert "restricted" in told and "Traceback" not in told  # what the hub says
    token = tmp_path / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True)
    token.write_text("of somebody else")
    done = site(*command, check=False, environment=variables)
    assert f"The token in {token} was used; it must be of that account." in done.stderr
    assert read_weights(RootLayout(root), "gated") == {}
    # What is not gated fails without that advice.
    plain = site(*command[:-1], "open", check=False, environment=variables)
    assert "restricted" in plain.stderr and "Accept the terms" not in plain.stderr
    # Nor does what fails for another reason.
    unreachable = site(*command, check=False, environment=variables | {"HF_ENDPOINT": "http://127.0.0.1:1"})
    assert unreachable.returncode and "Accept the terms" not in unreachable.stderr
    token.write_text("let-in")
    site(*command, environment=variables)
    files = {file.path: file.bytes for file in read_weights(RootLayout(root), "gated")["small"].files}
    assert files["cache/huggingface/hub/models--somebody--model/blobs/b"] == len(_WEIGHTS)
