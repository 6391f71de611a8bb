"""Workflow engines that relax many structures in processes of their own: each process loads the model once."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.optimize import BFGS

from tests.ecosystem.conftest import PROGRAMS, TORCH, Ask, last_line
from tests.support.needs import need_program
from tests.support.processes import wait_until_gone

pytestmark = pytest.mark.xdist_group("hooks")

COUNT, PROCESSES = 100, 2


@pytest.fixture(scope="module")
def expected() -> list[float]:
    """Return what ASE's own EMT finds for the same structures, of which each has another cell."""
    energies = []
    for seed in range(COUNT):
        atoms = bulk("Cu", a=3.5 + 0.002 * seed, cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        BFGS(atoms, logfile=None).run(fmax=0.02)
        energies.append(float(atoms.get_potential_energy()))
    return energies


@pytest.mark.parametrize(
    ("program", "engine"),
    [
        pytest.param("quacc_parsl.py", "parsl", marks=pytest.mark.soak),  # a minute; tests/run has other tests of Parsl
        ("quacc_dask.py", "dask"),
        ("jobflow_processes.py", "None"),
    ],
)
def test_each_process_of_an_engine_loads_the_model_once(
    python: Path, ask: Ask, tmp_path: Path, expected: list[float], program: str, engine: str
) -> None:
    if engine == "parsl":
        need_program("ps", "procps")  # by which Parsl ends its processes
    if engine == "None":  # of quacc: jobflow alone, by atomate2
        (tmp_path / "torch.py").write_text(TORCH)
    (tmp_path / "sitecustomize.py").write_text((PROGRAMS / "loads.py").read_text())
    found = last_line(ask(
        python, PROGRAMS / program, str(COUNT), QUACC_WORKFLOW_ENGINE=engine, LOADS=str(tmp_path / "loads"),
        PYTHONPATH=str(tmp_path), PATH=f"{python.parent}:/usr/bin:/bin", OMP_NUM_THREADS="1",
    ))  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-6)
    loads = [list(map(int, line.split())) for line in (tmp_path / "loads").read_text().splitlines()]
    by = [process for process, *_ in loads]
    assert len(by) == len(set(by)) <= PROCESSES  # no process has loaded the model twice
    wait_until_gone(*(pid for line in loads for pid in line))  # engine's process and worker alike
