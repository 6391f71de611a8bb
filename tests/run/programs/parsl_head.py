"""Computes a run folder by Parsl: ``ROOT FOLDER``, as a command of its own that a test can kill."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rootstock import Relaxation, RootstockCalculator
from rootstock.parsl import config
from rootstock.simulations.parsl_engine.compute import compute_run
from rootstock.simulations.pool.run import PoolRun, Workers
from rootstock.simulations.runs.begin import Asked, begin
from rootstock.simulations.runs.elements import Element


def compute(root: Path, folder: Path, *, kind: str = "singlepoint", gpus: int = 2, **told: Any) -> bool:
    """Compute what is missing of the structures in a folder, and tell whether all is done."""
    options = {"folder": str(folder)}

    def make(build: str | None) -> RootstockCalculator:  # uv makes the environment
        return RootstockCalculator("slow", root=root, device="cuda", setup_kwargs=options, timeout=600.0)

    settings = {"properties": []} if kind == "singlepoint" else asdict(Relaxation(fmax=0.01))
    asked = Asked(
        kind, "slow", [str(folder / "in.extxyz")], None, settings, options, "cuda", folder / "out.extxyz"
    )  # fmt: skip
    with begin(folder / "run", asked, make, lambda text: None) as (run, _, calc):
        calc.close()
        settled = config(root=root, gpus=gpus, run_dir=folder / "run" / "engine", stall_limit=told.pop("stall", 300.0))
        [executor] = settled.executors
        executor.heartbeat_period, executor.heartbeat_threshold = 2, 8  # type: ignore[attr-defined]
        pool = PoolRun(run, calc, Workers(grace=told.pop("grace", 30.0)), Element())
        return compute_run(pool, settled, recorded=told.pop("recorded", lambda indices: None), **told)


if __name__ == "__main__":
    compute(Path(sys.argv[1]), Path(sys.argv[2]))
