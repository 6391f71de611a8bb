"""Fetch weights into a root, so that workers on nodes without network find them.

A model's own ``setup()`` does it, in a worker that may use the network. Its caches are a staging folder: libraries
write downloads in place, and one that is cut off must not look complete. What came is moved into the root's cache by
renames. Then a worker without network, as any user starts it, must load the model; only that is recorded.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootstock.access import Access, remove_tree
from rootstock.client import Client
from rootstock.clusters import Cluster
from rootstock.environment import EnvironmentManager
from rootstock.errors import ConfigurationError, RootError, WeightsError, WorkerError
from rootstock.generations import Change, changing, latest
from rootstock.install import apply as install
from rootstock.layout import STAGING, RootLayout
from rootstock.locking import Admin
from rootstock.model import is_path, parse_model_string
from rootstock.plan import InstallPlan
from rootstock.planning import find_source, plan_install
from rootstock.records import BUILD_SOURCE, active_build, now, user_name
from rootstock.room import counted, megabytes
from rootstock.sources import EnvironmentSource, packaged_names, read_source, registered_names
from rootstock.spawn import Launch
from rootstock.variants import find_variants, fitting_build
from rootstock.weights import Weights, measured, weights_of, write_weights

_LOAD_S, _FETCH_S = 1800.0, 24 * 3600.0
_TOLD_EVERY_S = 5.0


@dataclass(frozen=True)
class ModelPlan:
    """A model whose weights are to be fetched or recorded, and why; `weights`: whether it has any."""

    environment: str
    model: str
    reason: str
    weights: bool = True

    def __str__(self) -> str:
        return f"{self.environment}-{self.model}" if self.model else self.environment

    def describe(self) -> str:
        """Say in a line what is to be done."""
        task = f"fetch the weights of {self}" if self.weights else f"load {self}, which has no weights"
        return f"{task} ({self.reason})"


@dataclass(frozen=True)
class WarmPlan:
    """What is missing for some models.

    Attributes
    ----------
    install : InstallPlan or None
        How their environments are built that are not.
    models : tuple of ModelPlan
    device : str
        Where the models are loaded.
    patience : float
        Seconds that a server may keep silent.
    """

    layout: RootLayout
    cluster: Cluster
    access: Access
    install: InstallPlan | None
    models: tuple[ModelPlan, ...]
    device: str = "cpu"
    patience: float = 120.0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return self.install is None and not self.models

    def lines(self) -> list[str]:
        """Describe the plan, a line for each change."""
        models = [model.describe() for model in self.models]
        return [*(self.install.lines() if self.install else []), *models]

    def to_json(self) -> dict[str, Any]:
        """Return the plan for programs; ``schema`` changes when a key changes its meaning."""
        return {
            "schema": 1,
            "command": "warm",
            "root": str(self.layout.root),
            "empty": self.empty,
            "install": self.install.to_json() if self.install else None,
            "models": [vars(model) for model in self.models],
        }

    def prepare_log(self) -> Path:
        """Create the root's folder for logs, and return it."""
        return self.install.prepare_log() if self.install else self.layout.log


def plan_warm(
    cluster: Cluster,
    root: Path,
    environments: Sequence[str] = (),
    models: Sequence[str] = (),
    *,
    all_models: bool = False,
    device: str = "cpu",
    patience: float = 120.0,
    client: bool = False,
) -> WarmPlan:
    """Decide what has to be built and fetched for some models.

    Parameters
    ----------
    cluster : Cluster
    root : Path
        The root, absolute.
    environments : sequence of str
        By default those of `models`, or of the cluster's ``models``, or every environment of the root.
    models : sequence of str
        With one environment, arguments of its ``setup()``; else model strings such as ``mace-small``. By default those
        that the environment file lists as ``warm``.
    all_models : bool
        Every released model that the environment files name.
    device : str
        Where the models are loaded.
    patience : float
        Seconds that a server may keep silent.
    client : bool
        Whether a root that is built for this gets the environment that ``module load`` puts on PATH.

    Raises
    ------
    ConfigurationError
        If an environment has no such model.
    UnknownEnvironmentError
        If there is no such environment.
    """
    layout = RootLayout(root)
    wanted = list(dict.fromkeys(_wanted(layout, cluster, environments, models, all_models)))
    names = dict.fromkeys(environment for environment, _ in wanted)
    missing = [name for name in names if fitting_build(layout, name, device) is None]
    build = plan_install(cluster, root, missing, device=device, client=client) if missing else None
    plans = (_plan_model(layout, environment, model) for environment, model in wanted)
    return WarmPlan(
        layout, cluster, Access.of(cluster), build, tuple(plan for plan in plans if plan), device, patience
    )  # fmt: skip


def _wanted(
    layout: RootLayout, cluster: Cluster, environments: Sequence[str], models: Sequence[str], all_models: bool
) -> Iterator[tuple[str, str]]:
    """Yield environments and models, the default one by its name."""
    registered = registered_names(layout)
    if len(environments) == 1 and models:
        pairs = [(environments[0], model) for model in models]
    elif models or not (environments or all_models):
        strings = models or cluster.models
        pairs = [parse_model_string(text, [*registered, *packaged_names()]) for text in strings]
        if strange := [name for name, _ in pairs if environments and name not in environments]:
            raise ConfigurationError(
                f"{strange[0]!r} is none of the environments {', '.join(environments)}.",
                "With several environments, name models as users do: --model mace-small",
            )
    else:
        pairs = []
    for name, model in pairs:
        source = _source(layout, name)
        check_model(source, model)
        yield source.name, source.named(model)
    if not pairs:
        for name in environments or registered:
            source = _source(layout, name)
            for model in source.released if all_models else source.warm:
                yield source.name, model


def _source(layout: RootLayout, name: str) -> EnvironmentSource:
    """Return the environment file that the active build was made from, or that a build would be made from."""
    build = active_build(layout.active(name))
    return read_source(build / BUILD_SOURCE, name) if build else find_source(layout, name)


def check_model(source: EnvironmentSource, model: str) -> None:
    """Refuse what has no weights to be fetched."""
    if is_path(model):
        raise ConfigurationError(f"{model} is a checkpoint of your own: there is nothing to fetch.")
    source.check_model(model)


def _plan_model(layout: RootLayout, environment: str, model: str) -> ModelPlan | None:
    recorded = weights_of(layout, environment, model)
    if recorded is None:
        reason = "not recorded yet"
    elif not recorded.present(layout):
        reason = "files are missing"
    elif recorded.build not in {variant.build.name for variant in find_variants(layout, environment)}:
        reason = "the build changed"
    else:
        return None
    has_weights = _source(layout, environment).rootstock.get("licence", {}).get("weights") != ""
    return ModelPlan(environment, model, reason, has_weights)


def apply(plan: WarmPlan, admin: Admin) -> None:
    """Carry out a plan; a model that fails keeps none of the others from being fetched.

    Raises
    ------
    WeightsError
        If weights of a model could not be fetched.
    BuildError, VerificationError
        If an environment cannot be built.
    """
    layout = plan.layout
    if plan.install:
        install(plan.install, admin)
    newest = latest(layout)
    change = Change("warm", plan.cluster.name, newest.number if newest else 0, always=False)
    failures = []
    with changing(layout, plan.access, change, admin):
        for leftover in layout.cache.glob(f"{STAGING}*"):
            remove_tree(leftover)
        for model in plan.models:
            try:
                _warm(plan, model, admin)
            except (WorkerError, WeightsError) as error:
                failures.append(f"{model}: {error}")
                admin.report(f"{model}: failed")
    if failures:
        raise WeightsError("Weights could not be fetched.\n" + "\n".join(failures), "The others are there.")


def _warm(plan: WarmPlan, model: ModelPlan, admin: Admin) -> None:
    layout, manager = plan.layout, EnvironmentManager(plan.layout.root)
    build = fitting_build(layout, model.environment, plan.device)
    if build is None:
        raise RootError(f"Environment {model.environment!r} has lost its build.", "Run the command again.")

    def step(text: str) -> None:
        admin.report(f"{model}: {text}")

    with tempfile.TemporaryDirectory(prefix="rootstock-home-") as home:
        offline = manager.launch_offline(model.environment, build, Path(home))
        fetched: list[Path] = []
        sources: list[str] = []
        try:
            step("looking whether its weights are here")
            opened = _load(plan, offline, model, step)["opened"]
        except WorkerError as error:
            admin.log(f"{model}: {error}")
            fetched, sources = _fetch(plan, manager, build, model, step)
            step("starting a worker without network")
            try:
                opened = _load(plan, offline, model, step)["opened"]
            except WorkerError as failure:
                raise WeightsError(
                    f"They were fetched, but a worker without network does not find them: {failure}",
                    "Its library may keep them elsewhere: name its variable in [tool.rootstock.cache].",
                ) from failure
    files = dict.fromkeys([*map(Path, opened), *(path.resolve() for path in fetched)])
    root = layout.root.resolve()
    weights = Weights(
        model.environment, model.model, tuple(measured(path, root) for path in files), tuple(sources), build.name,
        now(), user_name(), platform.node(),
    )  # fmt: skip
    plan.access.make_folder(layout.weights(model.environment))
    write_weights(layout, weights, plan.access.file)
    step(f"{counted(len(weights.files), 'file')}, {megabytes(weights.bytes)}")


def _load(plan: WarmPlan, launch: Launch, model: ModelPlan, step: Callable[[str], None]) -> dict[str, Any]:
    client = Client(launch, model.model, plan.device, {}, start_timeout=_LOAD_S, on_progress=step)
    client.close()
    return client.ready


def _fetch(
    plan: WarmPlan, manager: EnvironmentManager, build: Path, model: ModelPlan, step: Callable[[str], None]
) -> tuple[list[Path], list[str]]:
    """Let a worker fetch what it needs into a staging folder, and move that into the root's cache.

    Returns
    -------
    tuple of (list of Path, list of str)
        The files, and the addresses that they came from.
    """
    cache = plan.layout.cache
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=cache))
    try:
        step("fetching")
        launch = manager.launch_fetch(model.environment, build, staging)
        with _told(staging, step):
            client = Client(
                launch, model.model, plan.device, {}, start_timeout=_FETCH_S, on_progress=step, patience=plan.patience
            )
            client.close()
        for lock in staging.rglob("*.lock"):  # of libraries, while they fetch
            if lock.is_file():
                lock.unlink()
        plan.access.share(staging)
        return list(_publish(staging, cache)), client.ready["asked"]
    finally:
        remove_tree(staging)


@contextlib.contextmanager
def _told(folder: Path, step: Callable[[str], None]) -> Iterator[None]:
    """Say now and then how much has come."""
    over = threading.Event()

    def tell() -> None:
        before = 0
        while not over.wait(_TOLD_EVERY_S):
            size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
            if size != before:
                step(f"fetching, {megabytes(size)} so far")
            before = size

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _publish(source: Path, target: Path) -> Iterator[Path]:
    """Move everything below a folder to another one, and yield the files there.

    A folder that is new arrives by one rename, so with all that it holds. In one that exists, links come after the
    files that they lead to.
    """
    for entry in sorted(source.iterdir(), key=lambda path: (path.is_symlink(), path.name)):
        goal = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and goal.is_dir():
            yield from _publish(entry, goal)
            continue
        os.replace(entry, goal)
        if goal.is_symlink() or goal.is_file():
            yield goal
        else:
            yield from (path for path in goal.rglob("*") if path.is_file())
