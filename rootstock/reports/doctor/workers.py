"""Checks that start something of a build: a worker without network, and its view of the GPU."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rootstock.client.connection import WorkerConnection
from rootstock.client.gpu import no_gpu
from rootstock.client.process import Launch
from rootstock.client.resolve import resolve_environment
from rootstock.config.model_string import model_string
from rootstock.errors import WorkerError, WorkerStartError
from rootstock.reports.catalogue import models_of, version_of
from rootstock.reports.doctor.builds import built
from rootstock.reports.doctor.finding import DoctorContext, Finding, check, failed, ok, skipped, warning
from rootstock.root.records import BuildRecord

_NOWHERE = "http://127.0.0.1:9"  # the port of the discard service: nothing listens there
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@check
def offline(context: DoctorContext) -> Iterator[Finding]:
    """Check that a worker starts without any network."""
    chosen = _chosen(context)
    if not chosen:
        yield skipped("no build has a model whose weights are here")
    for name, argument in chosen:
        yield _start(context, name, argument)


def _chosen(context: DoctorContext) -> list[tuple[str, str]]:
    """Return the environments and models to start: the smallest build, or all of them."""
    found = built(context)
    if context.argument is not None:
        return [(name, context.argument) for name in found]
    ranked = []
    for name, (_, record) in found.items():
        # Weights that somebody recorded to be here, or that are no files, before those of which nobody knows.
        usable = [model for model in models_of(context.layout, name) if model.weights != "missing"]
        if usable:
            model = min(usable, key=lambda each: each.weights == "unknown")
            unknown = model.weights == "unknown"
            ranked.append((unknown, record.bytes, name, model.argument))
    chosen = [(name, argument) for _, _, name, argument in sorted(ranked)]
    return chosen if context.full else chosen[:1]


def late(seconds: float, model: str = "") -> Finding:
    """Return the finding about a worker that may only be slow."""
    return warning(
        f"a worker{model} was not ready after {seconds:.0f} s",
        "A first start from a cold file system takes longer: --wait SECONDS waits for it.",
    )


def _start(context: DoctorContext, name: str, argument: str) -> Finding:
    device = context.device if context.argument is not None or not context.device.startswith("cuda") else "cpu"
    launch, how = _without_network(
        resolve_environment(context.layout, name, argument, device, "build").launch(threads=1)
    )
    model = model_string(name, argument)
    try:
        client = WorkerConnection(launch, argument, device, {}, start_timeout=context.patience)
    except WorkerStartError as error:
        if "was not ready after" in error.message and not context.full:
            return late(context.patience, f" of {model}")
        reason = " ".join(error.message.split())
        tail = error.tail.splitlines()[-1:] if not error.remote_traceback else []
        hint = error.hint or f"rootstock why-not {model} goes through it step by step. Full output: {error.log}"
        return failed("; ".join([reason, *tail]), hint, error.exit_code)
    took = client.start_s
    try:
        client.close()
    except WorkerError as error:
        return failed(error.message, error.hint, error.exit_code)
    return ok(f"a worker of {model} was ready on {device} after {took:.1f} s, {how}")


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
    found = built(context).values()
    with_torch = [(record.bytes, build, record) for build, record in found if version_of(record, "torch")]
    if context.argument is not None and not with_torch:
        yield skipped("this environment has no torch that would use one")
        return
    what, _, remedy = no_gpu(context.device).partition("\n")
    if what:
        yield failed(what, remedy, 18) if context.device_asked else warning(what, remedy)
        return
    if not with_torch:
        yield skipped("there may be one, but no build here has torch to ask")
        return
    _, build, record = min(with_torch, key=lambda each: each[0])
    yield _ask_torch(context, build, record)


_QUESTION = """
import json, torch
said = {"torch": torch.__version__, "built": torch.version.cuda or torch.version.hip, "count": 0, "error": ""}
try:
    torch.zeros(1, device=DEVICE)
    said["count"], said["name"] = torch.cuda.device_count(), torch.cuda.get_device_name(DEVICE)
except Exception as error:
    said["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(said))
"""


def _ask_torch(context: DoctorContext, build: Path, record: BuildRecord) -> Finding:
    program = [str(build / "bin" / "python"), "-I", "-B", "-c", _QUESTION.replace("DEVICE", repr(context.device))]
    done = subprocess.run(program, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    try:
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return failed(f"torch of {record.name} cannot be imported: {last[0]}", "Ask the site's admin.", 18)
    driver = _driver()
    if not said["built"]:
        return failed(
            f"torch {said['torch']} of {record.name} was built for CPUs only",
            f"An admin builds it for GPUs: rootstock-site install --env {record.name} --set hardware.accelerator=cuda",
            18,
        )
    if said["error"]:
        return failed(
            f"torch {said['torch']} of {record.name} (CUDA {said['built']}, driver {driver}): {said['error']}",
            "nvidia-smi shows what the node has. A driver older than torch's CUDA needs a build for an older CUDA.",
            18,
        )
    return ok(f"{said['name']} ({said['count']} in all), driver {driver}, torch {said['torch']} of {record.name}")


def _driver() -> str:
    try:
        lines = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    return next((word for word in lines[0].split() if word[0].isdigit()), "unknown") if lines else "unknown"
