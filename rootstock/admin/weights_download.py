"""Fetch the weights of a model into a root, so that workers on nodes without network find them.

The model's own ``setup()`` does it, in a worker that may use the network. Its caches are a staging folder: libraries
write downloads in place, and one that is cut off must not look complete. What came is moved into the root's cache by
renames. Then a worker without network, as any user starts it, must load the model; only that is recorded.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootstock.client.connection import WorkerConnection
from rootstock.client.launch import ResolvedModel
from rootstock.client.process import Launch
from rootstock.client.resolve import resolve_environment
from rootstock.config.model_string import model_string
from rootstock.config.site import Site
from rootstock.errors import RootError, WeightsError, WorkerError
from rootstock.root.disk_usage import megabytes, number_of
from rootstock.root.layout import STAGING
from rootstock.root.lock import AdminContext, Report
from rootstock.root.permissions import remove_tree
from rootstock.root.records import now, user_name
from rootstock.root.signals import start_thread
from rootstock.root.weights import Weights, WeightsFile, token_place, warm_command, write_weights

_LOAD_S, _FETCH_S = 1800.0, 24 * 3600.0
_REPORT_EVERY_S = 5.0
# What libraries say when a hub does not let somebody in: HTTP's codes, and the words of huggingface_hub.
_REFUSED = re.compile(r"\b40[13]\b|GatedRepo|restricted|logged in|token is required", re.IGNORECASE)


@dataclass(frozen=True)
class WeightsRequest:
    """A model whose weights are to be fetched or recorded.

    Attributes
    ----------
    environment, model : str
        The model by the name that ``setup()`` takes.
    reason : str
        Why.
    weights : bool
        Whether it has any.
    device : str
        Where it is loaded.
    patience : float
        Seconds that a server may keep silent.
    gated : str
        The page where their terms are accepted; empty if anybody may fetch them.
    """

    environment: str
    model: str
    reason: str
    weights: bool
    device: str
    patience: float
    gated: str = ""

    def __str__(self) -> str:
        return model_string(self.environment, self.model)

    def describe(self) -> str:
        """Say in a line what is to be done."""
        task = f"fetch the weights of {self}" if self.weights else f"load {self}, which has no weights"
        return f"{task} ({self.reason})"

    def to_json(self) -> dict[str, Any]:
        """Return what `describe` says for programs."""
        return {key: getattr(self, key) for key in ("environment", "model", "reason", "weights")}


def fetch(site: Site, request: WeightsRequest, admin: AdminContext) -> None:
    """Bring the weights of a model into a root, if they are not there, and record them.

    Parameters
    ----------
    site : Site
    request : WeightsRequest
    admin : AdminContext
        Is told of each step.

    Raises
    ------
    RootError
        If the environment has no build.
    WorkerError
        If ``setup()`` fails, with the network.
    WeightsError
        If it then fails without.
    """
    model = resolve_environment(site.layout, request.environment, request.model, request.device)
    build = model.build
    if build is None:
        raise RootError(f"Environment {request.environment!r} has lost its build.", "Run the command again.")

    def step(text: str) -> None:
        admin.report(f"{request}: {text}")

    with tempfile.TemporaryDirectory(prefix="rootstock-home-") as home:
        offline = model.launch_offline(Path(home, "offline"))
        fetched: list[Path] = []
        sources: list[str] = []
        try:
            step("looking whether its weights are here")
            opened = _load(request, offline, step)["opened"]
        except WorkerError as error:
            admin.log(f"{request}: {error}")
            try:
                fetched, sources = _download(site, request, model, Path(home, "online"), step)
            except WorkerError as failure:
                if not (request.gated and _REFUSED.search(f"{failure.remote_type} {failure.message}")):
                    raise
                raise WeightsError(failure.message, _how_to_be_let_in(site, request)) from failure
            step("starting a worker without network")
            try:
                opened = _load(request, offline, step)["opened"]
            except WorkerError as failure:
                raise WeightsError(
                    f"They were fetched, but a worker without network does not find them: {failure}",
                    "Its library may keep them elsewhere: name its variable in [tool.rootstock.cache].",
                ) from failure
    files = dict.fromkeys([*map(Path, opened), *(path.resolve() for path in fetched)])
    root = site.layout.root.resolve()
    recorded = tuple(WeightsFile.of(path, root) for path in files)
    weights = Weights(
        request.environment, request.model, recorded, tuple(sources), build.name, now(), user_name(), platform.node()
    )
    site.access.make_folder(site.layout.weights(request.environment))
    write_weights(site.layout, weights, site.access.file)
    step(f"{number_of(len(weights.files), 'file')}, {megabytes(weights.bytes)}")


def _how_to_be_let_in(site: Site, request: WeightsRequest) -> str:
    place = token_place()
    token = f"The token in {place} was used; it must be of that account." if place else "There is no token here yet."
    return (
        f"The weights of {request} are gated.\n"
        f"  1. Accept the terms with your account: {request.gated}\n"
        f"  2. Log in here with: hf auth login. Or set HF_TOKEN. {token}\n"
        f"  3. Run again: {warm_command(site.layout.root, request.environment, request.model)}"
    )


def _load(request: WeightsRequest, launch: Launch, step: Report, timeout: float = _LOAD_S) -> dict[str, Any]:
    """Start a worker, and return what it reports when its model is loaded."""
    worker = WorkerConnection(
        launch, request.model, request.device, {}, start_timeout=timeout, on_progress=step, patience=request.patience
    )
    worker.close()
    return worker.ready


def _download(
    site: Site, request: WeightsRequest, model: ResolvedModel, home: Path, step: Report
) -> tuple[list[Path], list[str]]:
    """Let a worker fetch what it needs into a staging folder, and move that into the root's cache.

    Returns
    -------
    tuple of (list of Path, list of str)
        The files, and the addresses that they came from.
    """
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=site.layout.cache))
    try:
        step("fetching")
        launch = model.launch_fetch(staging, site.cluster.proxy, home)
        with _report_progress(staging, step):
            ready = _load(request, launch, step, _FETCH_S)
        for lock in staging.rglob("*.lock"):  # of libraries, while they fetch
            if lock.is_file():
                lock.unlink()
        site.access.make_readable(staging)
        return list(_publish(staging, site.layout.cache)), ready["asked"]
    finally:
        remove_tree(staging)


@contextlib.contextmanager
def _report_progress(folder: Path, step: Report) -> Iterator[None]:
    """Say now and then how much has come."""
    over = threading.Event()

    def tell() -> None:
        before = 0
        while not over.wait(_REPORT_EVERY_S):
            try:
                size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
            except OSError:  # libraries rename what they have fetched, just now
                continue
            if size != before:
                step(f"fetching, {megabytes(size)} so far")
            before = size

    thread = threading.Thread(target=tell, daemon=True)
    start_thread(thread)
    try:
        yield
    finally:
        over.set()
        thread.join()


def _publish(source: Path, target: Path) -> Iterator[Path]:
    """Move everything below a folder to another one, and yield the files there.

    A folder that is new arrives by one rename, so with all that it holds. In one that exists, links come after the
    files that they lead to, and a Hugging Face repository's ``refs`` after the snapshots that they name.
    """
    for entry in sorted(source.iterdir(), key=lambda path: (path.is_symlink(), path.name == "refs", path.name)):
        goal = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and goal.is_dir():
            yield from _publish(entry, goal)
            continue
        os.replace(entry, goal)
        if goal.is_symlink() or goal.is_file():
            yield goal
        else:
            yield from (path for path in goal.rglob("*") if path.is_file())
