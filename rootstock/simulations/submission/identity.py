"""What a model is, without starting its worker: a login node has no GPU."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rootstock.errors import RootError
from rootstock.interfaces.arguments import worker_spec
from rootstock.interfaces.calculator import RootstockCalculator
from rootstock.root.records import read_build


def identity(calculator: RootstockCalculator) -> dict[str, Any]:
    """Return what a run is bound to, as `RootstockCalculator.info` says it, and ``properties`` if its file lists them.

    Parameters
    ----------
    calculator : RootstockCalculator
        It starts no worker.

    Raises
    ------
    RootError
        If the model has no build: nodes without network cannot make one.
    """
    arguments = dict(calculator.parameters)
    model = worker_spec(arguments, arguments.pop("build")).model
    record = read_build(model.build) if model.build else None
    if record is None:
        raise RootError(
            f"Environment {model.source.name!r} has no build in {model.layout.root}, so jobs cannot compute with it.",
            f"The site's admin builds it: rootstock-site install --root {model.layout.root} --env {model.source.name}",
        )
    return {
        "root": str(model.layout.root), "environment": model.source.name,
        "environment_sha256": model.source.sha256, "build": record.digest,
        "weights": [asdict(file) for file in model.weights()],
        "properties": list(model.source.capabilities(model.argument).properties),
    }  # fmt: skip
