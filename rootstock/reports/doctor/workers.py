"""Checks that start something of a build: a worker without network, and its view of the GPU."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rootstock.builds.packages import version_of
from rootstock.client.connection import WorkerConnection
from rootstock.client.process import Launch
from rootstock.client.resolve import resolve_environment
from rootstock.config.model_string import model_string
from rootstock.errors import DeviceError, RootstockError, WorkerError, WorkerStartError
from rootstock.reports.catalogue import models_of, of_each, read_environment
from rootstock.reports.doctor.builds import fitting_builds
from rootstock.reports.doctor.finding import (
    FAILED,
    DoctorContext,
    Finding,
    check,
    failed,
    from_error,
    of_one,
    ok,
    skipped,
    warning,
)
from rootstock.reports.model import Model
from rootstock.root.records import BuildRecord
from rootstock.worker.device import require_device

_NOWHERE = "http://127.0.0.1:9"  # the port of the discard service: nothing listens there
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@check
def offline(context: DoctorContext) -> Iterator[Finding]:
    """Check that a worker starts without any network: that of the smallest build, and of all if all is looked at."""
    chosen, failures = _chosen(context), []
    if not chosen:
        yield skipped("no build has a model whose weights are here")
    for name, argument in chosen:
        finding = _start(context, name, argument)
        if finding.result == FAILED:
            failures.append(finding)
            continue
        yield from (of_one(context, failure, others=True) for failure in failures)
        failures = []
        yield finding
        if not context.full:
            return
    yield from failures


def _chosen(context: DoctorContext) -> list[tuple[str, str]]:
    """Return the environments and models to start, the smallest build first."""
    fitting = fitting_builds(context)
    if context.argument is not None:
        return [(name, context.argument) for name in fitting]
    layout = context.layout
    # Other checks tell of errors.
    models, _ = of_each(fitting, lambda name: models_of(layout, read_environment(layout, name)))

    def rank(model: Model) -> tuple[bool, int, str]:
        # Weights that somebody recorded to be here, or that are no files, before those of which nobody knows.
        return model.weights == "unknown", fitting[model.environment][1].bytes, model.environment

    chosen: dict[str, str] = {}
    for model in sorted((model for model in models if model.weights != "missing"), key=rank):
        chosen.setdefault(model.environment, model.argument)
    return list(chosen.items())


def late(seconds: float, model: str = "") -> Finding:
    """Return the finding about a worker that may only be slow.

    Parameters
    ----------
    seconds : float
        How long it was waited for.
    model : str
        `` of MODEL``, if a certain one was started.
    """
    return warning(
        f"a worker{model} was not ready after {seconds:.0f} s",
        "A first start from a cold file system takes longer: --wait SECONDS waits for it.",
    )


def _start(context: DoctorContext, name: str, argument: str) -> Finding:
    device = context.device if context.argument is not None or not context.device.startswith("cuda") else "cpu"
    model = model_string(name, argument)
    try:
        resolved = resolve_environment(context.layout, name, argument, device, "build")
        launch, how = _without_network(resolved.launch(threads=1))
        worker = WorkerConnection(launch, argument, device, {}, start_timeout=context.patience)
        worker.close()
    except WorkerError as error:
        if isinstance(error, WorkerStartError) and error.timed_out and not context.full:
            return late(context.patience, f" of {model}")
        reason = " ".join(error.message.split())
        tail = error.tail.splitlines()[-1:] if not error.remote_traceback else []
        hint = error.hint or f"rootstock why-not {model} goes through it step by step. Full output: {error.log}"
        return failed("; ".join([reason, *tail]), hint, error.exit_code)
    except RootstockError as error:
        return from_error(error)
    return ok(f"a worker of {model} was ready on {worker.device} after {worker.start_s:.1f} s, {how}")


def _without_network(launch: Launch) -> tuple[Launch, str]:
    """Return how to start a worker that reaches nobody, and in which way."""
    program = shutil.which("unshare")
    prefix = [program or "", "--user", "--map-current-user", "--net"]
    if program and subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode == 0:
        return replace(launch, command=(*prefix, *launch.command)), "without any network"
    variables = {**launch.variables, **dict.fromkeys(_PROXIES, _NOWHERE)}
    return replace(launch, variables=variables), "with every proxy leading nowhere"


@check
def gpu(context: DoctorContext) -> Iterator[Finding]:
    """Check that a build's torch sees a GPU."""
    if not context.device.startswith("cuda"):
        yield skipped(f"the device is {context.device}; --device cuda looks for a GPU")
        return
    with_torch = [(build, record) for build, record in fitting_builds(context).values() if version_of(record, "torch")]
    if context.argument is not None and not with_torch:
        yield skipped("this environment has no torch that would use one")
        return
    try:
        require_device(context.device)
    except DeviceError as error:
        yield from_error(error) if context.device_asked else warning(error.message, error.hint)
        return
    if not with_torch:
        yield skipped("there may be one, but no build here has torch to ask")
        return
    build, record = min(with_torch, key=lambda pair: pair[1].bytes)
    yield _ask_torch(context, build, record)


_QUESTION = """
import json, torch
answer = {"torch": torch.__version__, "built": torch.version.cuda or torch.version.hip, "count": 0, "error": ""}
try:
    torch.zeros(1, device=DEVICE)
    answer["count"], answer["name"] = torch.cuda.device_count(), torch.cuda.get_device_name(DEVICE)
except Exception as error:
    answer["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(answer))
"""


def _ask_torch(context: DoctorContext, build: Path, record: BuildRecord) -> Finding:
    program = [str(build / "bin" / "python"), "-I", "-B", "-c", _QUESTION.replace("DEVICE", repr(context.device))]
    done = subprocess.run(program, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return failed(f"torch of {record.name} cannot be imported: {last[0]}", "Ask the site's admin.", 18)
    driver = _driver()
    if not answer["built"]:
        return failed(
            f"torch {answer['torch']} of {record.name} was built for CPUs only",
            f"An admin builds it for GPUs: rootstock-site install --env {record.name} --set hardware.accelerator=cuda",
            18,
        )
    if answer["error"]:
        return failed(
            f"torch {answer['torch']} of {record.name} (CUDA {answer['built']}, driver {driver}): {answer['error']}",
            "nvidia-smi shows what the node has. A driver older than torch's CUDA needs a build for an older CUDA.",
            18,
        )
    return ok(f"{answer['name']} ({answer['count']} in all), driver {driver}, torch {answer['torch']} of {record.name}")


def _driver() -> str:
    try:
        lines = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    return next((word for word in lines[0].split() if word[0].isdigit()), "unknown") if lines else "unknown"
