"""Try a root as its users will: models from cold and warm, in new workers, with limits for times and numbers."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk

from rootstock.interfaces.calculator import RootstockCalculator
from rootstock.root.lock import Report

# What each run may take, in seconds from the call to the first energy: a cold one reads gigabytes from a shared file
# system, or makes the environment if there is no build.
COLD_S, WARM_S = 600.0, 120.0
SAME_EV = 1e-5  # per atom: one model in single precision, twice
OTHER_EV = 1e-6  # per atom: two models that differ by less are one model
# By symmetry, each atom of a perfect crystal is at rest.
AT_REST_EV_A = 1e-3
SLOWER_S = 5.0  # a warm start is no slower than a cold one, but for what else the machine does


@dataclass(frozen=True)
class Run:
    """A model, started and asked once.

    Attributes
    ----------
    what, model : str
    atoms : int
    seconds : float
        From the call to the first energy: starting the worker, loading the model, computing.
    start_s, evaluation_s : float
        Of these the start; and an evaluation by the worker that runs already.
    energy : float
        In eV.
    max_force : float
        The largest component, in eV/Å.
    info : dict
        What computed: see `RootstockCalculator.info`.
    """

    what: str
    model: str
    atoms: int
    seconds: float
    start_s: float
    evaluation_s: float
    energy: float
    max_force: float
    info: dict[str, Any]

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.model}, {self.atoms} atoms: {self.energy:.6f} eV "
            f"({self.energy / self.atoms:.6f} eV/atom) after {self.seconds:.2f} s "
            f"(start {self.start_s:.2f} s; an evaluation more {self.evaluation_s * 1e3:.1f} ms)"
        )


@dataclass(frozen=True)
class Check:
    """A number, and the least and the most that it may be."""

    name: str
    value: float
    most: float = math.inf
    least: float = -math.inf

    @property
    def passed(self) -> bool:
        """Whether it is within the limits; what is no number is not."""
        return self.least <= self.value <= self.most

    def __str__(self) -> str:
        limit = f"at most {self.most:g}" if self.most < math.inf else f"at least {self.least:g}"
        return f"{'pass' if self.passed else 'FAIL'}: {self.name}: {self.value:.4g} (limit: {limit})"

    def to_json(self) -> dict[str, Any]:
        """Return it for programs, without the limit that there is not."""
        return {key: value for key, value in asdict(self).items() if value not in (math.inf, -math.inf)} | {
            "passed": self.passed
        }


def _copper(repeat: int = 1, *, cubic: bool = True) -> Atoms:
    """Return perfect fcc copper: cells of 4 atoms, or of one."""
    atoms: Atoms = bulk("Cu", "fcc", a=3.615, cubic=cubic) * (repeat, repeat, repeat)
    return atoms


def try_root(
    root: str | Path,
    device: str,
    *,
    report: Report,
    model: str = "mace-medium",
    other: str = "mace-small",
    crystal: str = "chgnet",
    launch: str = "auto",
) -> dict[str, Any]:
    """Run a model cold and warm, another of the same environment, and one of another environment.

    Parameters
    ----------
    root : path
    device : str
    report : callable
        Is given a line for each run and each check.
    model : str
        Runs first, then again in a new worker.
    other : str
        Another model of the same environment.
    crystal : str
        Runs on 125 atoms.
    launch : {'auto', 'build', 'uv-run'}
        As for `RootstockCalculator`.

    Returns
    -------
    dict
        ``passed``, ``first_run_s``, ``second_run_s``, ``cache_speedup`` (first over second), ``other_run_s``,
        ``crystal_run_s``, each run under ``runs``, and each limit with its value under ``checks``.

    Raises
    ------
    RootstockError
        If a model cannot be started, or fails.
    """

    def run(title: str, model: str, atoms: Atoms) -> Run:
        report(f"{title}: {model} ...")
        result = _run(title, model, atoms, root, device, launch)
        report(str(result))
        return result

    runs = (
        run("first run", model, _copper()),
        run("second run", model, _copper()),
        run("other model", other, _copper()),
        run("crystal", crystal, _copper(5, cubic=False)),
    )
    first, second, third, fourth = runs
    checks = _checks(*runs)
    for check in checks:
        report(str(check))
    return {
        "schema": 1,
        "passed": all(check.passed for check in checks),
        "first_run_s": first.seconds,
        "second_run_s": second.seconds,
        "cache_speedup": first.seconds / second.seconds,
        "other_run_s": third.seconds,
        "crystal_run_s": fourth.seconds,
        "energies_eV": {run.what: run.energy for run in runs},
        "root": str(root), "device": device, "host": first.info["host"], "launch": first.info["launch"],
        "runs": [asdict(run) for run in runs],
        "checks": [check.to_json() for check in checks],
    }  # fmt: skip


def _run(title: str, model: str, atoms: Atoms, root: str | Path, device: str, launch: str) -> Run:
    started = time.perf_counter()
    with RootstockCalculator(model, root=root, device=device, launch=launch) as calc:
        atoms.calc = calc
        energy = atoms.get_potential_energy()
        seconds = time.perf_counter() - started
        max_force = float(np.abs(atoms.get_forces()).max())
        info = calc.info()
        atoms.rattle(0.01, seed=0)
        started = time.perf_counter()
        atoms.get_forces()
        evaluation = time.perf_counter() - started
    return Run(title, model, len(atoms), seconds, info["start_s"], evaluation, energy, max_force, info)


def _checks(first: Run, second: Run, other: Run, crystal: Run) -> tuple[Check, ...]:
    difference = abs(first.energy - second.energy) / first.atoms
    apart = abs(first.energy - other.energy) / first.atoms
    return (
        Check("first run, seconds", first.seconds, COLD_S),
        Check("second run, seconds", second.seconds, WARM_S),
        Check("second run less first run, seconds", second.seconds - first.seconds, SLOWER_S),
        Check("other model, seconds", other.seconds, COLD_S),
        Check("crystal, seconds", crystal.seconds, COLD_S),
        Check("energy of the second run against the first, eV/atom", difference, SAME_EV),
        # Two models have two energies, unless the argument never reached setup().
        Check("energy of the other model against the first, eV/atom", apart, least=OTHER_EV),
        *(Check(f"largest force of the {run.what}, eV/Å", run.max_force, AT_REST_EV_A) for run in (first, crystal)),
    )
