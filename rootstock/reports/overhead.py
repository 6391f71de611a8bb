"""What Rootstock costs: molecular dynamics with a model in process against the same through `RootstockCalculator`.

In process means: in a Python of the model's own environment, with the calculator that its ``setup()`` returns. Both
take turns in one run, so that whatever else the machine does hits both.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk

from rootstock.client.process import WORKER_ENTRY, Launch
from rootstock.client.resolve import resolve
from rootstock.errors import WorkerError
from rootstock.interfaces.calculator import RootstockCalculator
from rootstock.root.layout import RootLayout, absolute
from rootstock.root.lock import Report
from rootstock.worker.dynamics import Dynamics, as_arguments

PASS_PERCENT, MARGINAL_PERCENT = 5.0, 10.0
SAME_EV = 1e-5  # per atom: the same model in single precision, twice
_TEMPERATURE_K, _TIMESTEP_FS = 300.0, 1.0
_THREADS = 1

# The package is reached as the worker reaches it: nothing of ours is installed in a model's environment.
_IN_PROCESS = (
    "import runpy, sys; runpy.run_path(sys.argv[1])['load_package'](); "
    "from rootstock.worker.dynamics import serve; serve(*sys.argv[2:])"
)


def copper(repeat: tuple[int, int, int]) -> Atoms:
    """Return a block of fcc copper at 300 K, 4 atoms for each cubic cell; the same one every time."""
    atoms: Atoms = bulk("Cu", "fcc", a=3.615, cubic=True) * repeat
    # Maxwell and Boltzmann's distribution: ASE has it too, by a name that depends on its version.
    width = np.sqrt(atoms.get_masses() * units.kB * _TEMPERATURE_K)
    atoms.set_momenta(width[:, None] * np.random.RandomState(0).standard_normal((len(atoms), 3)))
    return atoms


def sanity_check(
    root: str | Path,
    model: str = "mace-medium",
    device: str = "cuda",
    *,
    repeat: tuple[int, int, int] = (6, 6, 7),
    rounds: int = 20,
    steps: int = 5,
    report: Report,
) -> dict[str, Any]:
    """Measure what Rootstock adds to a step of molecular dynamics.

    Parameters
    ----------
    root : path
        A root with a build of the model.
    model, device : str
    repeat : tuple of int
        Cubic cells of copper, 4 atoms each; by default 1,008 atoms.
    rounds, steps : int
        In each round each side does so many steps of 1 fs. The first round is not counted.
    report : callable
        Is given a line now and then.

    Returns
    -------
    dict
        ``overhead_percent`` is the median over the rounds, ``verdict`` what `verdict` says of it; ``passed`` is false
        if it failed, or if the two sides do not have the same energy.

    Raises
    ------
    RootError
        If the model has no build.
    WorkerError
        If either side fails.
    """
    atoms = copper(repeat)
    resolved = resolve(RootLayout(absolute(Path(root))), model, device, "build")
    report(f"{len(atoms)} atoms of copper, {model} on {device}: starting both sides")
    with (
        InProcess(resolved.launch(_THREADS), resolved.argument, device, atoms) as direct,
        RootstockCalculator(model, root=root, device=device, threads=_THREADS, launch="build") as calc,
    ):
        atoms.calc = calc
        through = Dynamics(atoms, _TIMESTEP_FS)
        start = abs(through.energy() - direct.energy) / len(atoms)
        times = [_round(direct, through, steps, through_first=bool(n % 2)) for n in range(rounds + 1)][1:]
        end = abs(through.energy() - direct.energy) / len(atoms)
        info = calc.info()
    overheads = [100 * (through_s / direct_s - 1) for direct_s, through_s in times]
    overhead = statistics.median(overheads)
    result = {
        "schema": 1,
        "passed": verdict(overhead) != "fail" and start <= SAME_EV,
        "verdict": verdict(overhead),
        "overhead_percent": overhead,
        "overheads_percent": overheads,
        "limits": {"pass_percent": PASS_PERCENT, "marginal_percent": MARGINAL_PERCENT, "energy_eV_per_atom": SAME_EV},
        "in_process_step_s": statistics.median(direct_s for direct_s, _ in times),
        "rootstock_step_s": statistics.median(through_s for _, through_s in times),
        "energy_difference_eV_per_atom": start,
        "energy_difference_at_the_end_eV_per_atom": end,
        "model": model, "device": device, "atoms": len(atoms), "rounds": rounds, "steps": steps, "threads": _THREADS,
        "host": info["host"], "build": info["build"], "versions": info["versions"],
    }  # fmt: skip
    report(summary(result))
    return result


def verdict(overhead: float) -> str:
    """Return what an overhead in per cent is called.

    >>> [verdict(percent) for percent in (-1.0, 4.9, 5.0, 9.9, 10.0)]
    ['pass', 'pass', 'marginal', 'marginal', 'fail']
    """
    if overhead < PASS_PERCENT:
        return "pass"
    return "marginal" if overhead < MARGINAL_PERCENT else "fail"


def summary(result: dict[str, Any]) -> str:
    """Say in one line what `sanity_check` has found."""
    low, high = min(result["overheads_percent"]), max(result["overheads_percent"])
    numbers = "" if result["energy_difference_eV_per_atom"] <= SAME_EV else "; the two sides differ in energy: fail"
    return (
        f"{result['verdict']}: {result['overhead_percent']:+.1f} % ({low:+.1f} to {high:+.1f} % over "
        f"{result['rounds']} rounds), {result['in_process_step_s'] * 1e3:.2f} ms a step in process, "
        f"{result['rootstock_step_s'] * 1e3:.2f} ms through Rootstock{numbers}"
    )


def _round(direct: InProcess, through: Dynamics, steps: int, *, through_first: bool) -> tuple[float, float]:
    """Let each side do some steps, who begins taking turns."""
    if through_first:
        through_s = through.run(steps)
        return direct.run(steps), through_s
    return direct.run(steps), through.run(steps)


class InProcess:
    """The model's own calculator in a Python of its environment.

    Parameters
    ----------
    launch : Launch
        How a worker would be started.
    model : str
        Argument of ``setup()``.
    device : str
    atoms : ase.Atoms
        With momenta.
    """

    def __init__(self, launch: Launch, model: str, device: str, atoms: Atoms) -> None:
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed by __exit__
        self._process = subprocess.Popen(
            [*launch.command, "-c", _IN_PROCESS, str(WORKER_ENTRY), str(launch.environment_file), model, device],
            env=dict(launch.variables), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        self._first = {"structure": as_arguments(atoms), "timestep": _TIMESTEP_FS}
        self.energy = 0.0

    def __enter__(self) -> InProcess:
        try:
            self._ask(self._first)
        except BaseException:
            self.__exit__()
            raise
        return self

    def run(self, steps: int) -> float:
        """Do some steps; return the seconds that each took."""
        return float(self._ask({"steps": steps})["step_s"])

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")
        except OSError:
            answer = {}
        if not answer:
            self._log.seek(0)
            lines = self._log.read().splitlines()[-15:]
            raise WorkerError("The model failed in process, without Rootstock:\n" + "\n".join(lines))
        self.energy = answer["energy"]
        return answer

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()
