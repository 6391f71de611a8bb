"""Rootstock on Modal (https://modal.com), as a test bed: a root on a Volume, tried on a GPU.

    modal run modal_app.py

A Volume has no file locks, and of two writers the last one wins. So there is one writer at a time (`exclusive_writer`),
which commits what it did; everybody else mounts the Volume read-only and reloads it before reading. The functions of
the app are a few lines each around `install`, `warm`, `inspect_root`, `rootstock.reports.trial` and
`rootstock.reports.overhead`, which run on any machine. docs/guides/modal.md says how to use this, and what nobody could
try without an account.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import modal

if TYPE_CHECKING:
    from rootstock.admin.plans import Plan

ROOT = "/vol/rootstock"  # what the cluster file of Modal says
ENVIRONMENTS = "mace,chgnet"
GPU = "A100"
MINUTE = 60

# -- what the image holds: this package with what it depends on, uv among it

SOURCES = (
    "LICENSE", "README.md", "environments", "modulefiles", "pyproject.toml", "rootstock", "rootstock_commands.py",
    "site_templates",
)  # fmt: skip
CHECKOUT = Path(__file__).parent


def excluded(path: Path) -> bool:
    """Tell whether a file of the checkout, by its path in there, does not go into the image."""
    return path.parts[0] not in SOURCES or "__pycache__" in path.parts


image = (
    modal.Image.debian_slim(python_version="3.11")
    .add_local_dir(CHECKOUT, "/opt/rootstock", copy=True, ignore=excluded)
    .run_commands("python -m pip install --no-cache-dir /opt/rootstock")
)
app = modal.App("rootstock", image=image)
volume = modal.Volume.from_name("rootstock-data", create_if_missing=True)
leases = modal.Dict.from_name("rootstock-writer", create_if_missing=True)

READER: dict[Any, Any] = {ROOT: volume.with_mount_options(read_only=True)}
WRITER: dict[Any, Any] = {ROOT: volume}

# -- what runs on any machine


class Leases(Protocol):
    """The part of `modal.Dict` that is needed to have one writer."""

    def put(self, key: str, value: str, *, skip_if_exists: bool) -> bool:
        """Set a value; if it `skip_if_exists`, tell whether it was set."""

    def get(self, key: str) -> Any:
        """Return a value, or None."""

    def pop(self, key: str) -> Any:
        """Return a value and forget it."""


@contextlib.contextmanager
def exclusive_writer(leases: Leases, me: str) -> Iterator[None]:
    """Be the only writer of the Volume, among all containers of all runs of this app.

    Parameters
    ----------
    leases : modal.Dict, or what behaves like it
    me : str
        Who writes. A call that Modal moves to another container is the same one and goes on.

    Raises
    ------
    LockBusyError
        If somebody else writes.
    """
    from rootstock.errors import LockBusyError

    if not leases.put("writer", me, skip_if_exists=True) and (other := leases.get("writer")) != me:
        raise LockBusyError(
            f"The Volume is being written by another call of this app, {other}.",
            "If that one is no more (modal app list): modal dict clear rootstock-writer",
        )
    try:
        yield
    finally:
        if leases.get("writer") == me:  # not if somebody cleared it, and another call has it now
            leases.pop("writer")


Result = TypeVar("Result")


def change_volume(volume: Any, leases: Leases, me: str, change: Callable[[], Result]) -> Result:
    """Change the Volume as its only writer: from its latest state, and commit, so that what is done stays done.

    Parameters
    ----------
    volume : modal.Volume
    leases, me
        See `exclusive_writer`.
    change : callable
        Makes the change; what it returns is returned.
    """
    with exclusive_writer(leases, me):
        volume.reload()
        try:
            return change()
        finally:
            volume.commit()


def install(
    root: str | Path, environments: Sequence[str], *, build: bool, settings: Sequence[str] = ()
) -> dict[str, Any]:
    """Do what ``rootstock-site install --cluster modal`` does, by the same calls.

    Parameters
    ----------
    root : path
    environments : sequence of str
    build : bool
        Whether to build the environments, or only to put their files into the root.
    settings : sequence of str
        ``KEY=VALUE``, as for ``--set``.

    Returns
    -------
    dict
        The plan that was carried out.

    Raises
    ------
    RootstockError
        What ``rootstock-site install`` would end with.
    """
    from rootstock.admin.install_plan import plan_install
    from rootstock.config.site import find_site

    site = find_site("modal", Path(root), settings)
    # The image is the client. Without a GPU here, the builds are verified on the CPU.
    plan = plan_install(site, environments, device="cpu", client=False)
    plan = plan if build else dataclasses.replace(plan, builds=())
    return carry_out(plan, f"install {' '.join(environments)}")


def warm(root: str | Path, environments: Sequence[str]) -> dict[str, Any]:
    """Do what ``rootstock-site warm`` does: fetch the weights of the cluster's models, or of an environment's default.

    Parameters
    ----------
    root : path
    environments : sequence of str

    Returns
    -------
    dict
        The plan that was carried out.

    Raises
    ------
    RootstockError
        What ``rootstock-site warm`` would end with.
    """
    from rootstock.admin.warm import plan_warm
    from rootstock.config.model_string import parse_model_string
    from rootstock.config.site import find_site

    site = find_site("modal", Path(root), installed=True)
    models = {model: parse_model_string(model, environments)[0] for model in site.cluster.models}
    chosen = [model for model, environment in models.items() if environment in environments]
    chosen += [environment for environment in environments if environment not in models.values()]
    plan = plan_warm(site, models=chosen)
    return carry_out(plan, f"warm {' '.join(chosen)}")


def carry_out(plan: Plan, command: str) -> dict[str, Any]:
    """Print a plan, carry it out with its log in the root, and return it.

    Parameters
    ----------
    plan : Plan
    command : str
        The command that does the same, for messages and the log.
    """
    from rootstock.root.command_log import log_line, new_log
    from rootstock.root.generations import friendly_os_errors
    from rootstock.root.lock import AdminContext

    for line in plan.summary_lines() or [f"{command}: nothing to do"]:
        print(line, flush=True)
    if not plan.empty:
        site = plan.site
        with friendly_os_errors(site.layout), new_log(site.layout, site.access, plan.command) as log:

            def report(text: str) -> None:
                print(text, flush=True)
                log_line(log, text)

            # We are the only writer: a lock that somebody left belongs to a container that is no more.
            plan.apply(AdminContext(f"modal_app.py: {command}", 0.0, True, report, lambda text: log_line(log, text)))
    return plan.to_json()


def inspect_root(root: str | Path) -> dict[str, Any]:
    """Print what a root holds and what it takes; return it."""
    from rootstock.reports.status import read_status
    from rootstock.root.disk_usage import megabytes
    from rootstock.root.layout import RootLayout

    layout = RootLayout(Path(root))
    status = read_status(layout, sizes=True)
    for line in status.lines():
        print(line)
    weights = {
        path.relative_to(layout.cache).as_posix(): path.stat().st_size
        for path in sorted(layout.cache.rglob("*"))
        if path.is_file() and not path.is_symlink() and not path.is_relative_to(layout.uv_cache)
    }
    for name, size in weights.items():
        print(f"{megabytes(size):>10}  {name}")
    return {**status.to_json(), "weights": weights}


# -- the functions of the app


def _me() -> str:
    return modal.current_input_id() or "a call from outside Modal"


@app.function(volumes=WRITER, timeout=10 * MINUTE, max_containers=1)
def init_rootstock_volume(environments: str = ENVIRONMENTS) -> dict[str, Any]:
    """Create the root on the Volume, with the files of its environments; build nothing."""
    return change_volume(volume, leases, _me(), lambda: install(ROOT, environments.split(","), build=False))


@app.function(volumes=WRITER, timeout=120 * MINUTE, max_containers=1, cpu=4, memory=16384)
def build_environments(environments: str = ENVIRONMENTS) -> dict[str, Any]:
    """Build the environments on the Volume, and fetch the weights of their models."""
    names = environments.split(",")
    return change_volume(
        volume, leases, _me(), lambda: {"install": install(ROOT, names, build=True), "warm": warm(ROOT, names)}
    )


@app.function(volumes=READER, timeout=30 * MINUTE, gpu=GPU, block_network=True)
def test_new_api() -> dict[str, Any]:
    """Run models cold and warm on a GPU; see `rootstock.reports.trial.try_root`."""
    from rootstock.reports.trial import try_root

    volume.reload()
    return try_root(ROOT, "cuda", report=print)


@app.function(volumes=READER, timeout=10 * MINUTE, block_network=True)
def inspect_cache() -> dict[str, Any]:
    """Say what the root holds and what it takes."""
    volume.reload()
    return inspect_root(ROOT)


@app.function(volumes=READER, timeout=30 * MINUTE, gpu=GPU, block_network=True)
def sanity_check() -> dict[str, Any]:
    """Measure what Rootstock adds to molecular dynamics on a GPU; see `rootstock.reports.overhead.sanity_check`."""
    from rootstock.reports import overhead

    volume.reload()
    return overhead.sanity_check(ROOT, report=print)


STEPS: dict[str, Any] = {
    "init_rootstock_volume": init_rootstock_volume,
    "build_environments": build_environments,
    "test_new_api": test_new_api,
    "inspect_cache": inspect_cache,
    "sanity_check": sanity_check,
}


def exit_code(outcomes: Mapping[str, Mapping[str, Any]]) -> int:
    """Say how each step ended; return 1 if one missed its limits."""
    for name, outcome in outcomes.items():
        word = "done" if "passed" not in outcome else "passed" if outcome["passed"] else "FAILED"
        print(f"{name}: {word}")
    return 0 if all(outcome.get("passed", True) for outcome in outcomes.values()) else 1


@app.local_entrypoint()
def main() -> None:
    """Do everything, in order; end with 1 if a limit was missed."""
    sys.exit(exit_code({name: step.remote() for name, step in STEPS.items()}))
