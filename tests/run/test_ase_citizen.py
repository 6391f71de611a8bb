"""What an ASE user expects of any calculator: parameters, records, copies in other processes, and an end."""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.db import connect
from ase.io import Trajectory, read, write
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS
from ase.units import fs

from rootstock import RootstockCalculator
from rootstock.errors import ConfigurationError, RootstockError, WorkerError
from rootstock.interfaces.thread_state import ThreadStates
from tests.run.conftest import Make
from tests.support.commands import clean_environment, run
from tests.support.processes import wait_until_gone


def copper(root: Path, model: str = "emt", **arguments: Any) -> Any:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = RootstockCalculator(model, root=root, **{"device": "cpu"} | arguments)
    return atoms


# -- properties

ASKED = """
with open(__file__ + ".asked", "a") as file:
    file.write(" ".join(sorted(properties)) + "\\n")
self.results = {name: self.results[name] for name in properties}
"""


def test_only_what_is_asked_for_is_computed(make: Make, tmp_path: Path) -> None:
    def asked() -> list[str]:
        file = tmp_path / "misbehaving.py.asked"
        text = file.read_text() if file.exists() else ""
        file.unlink(missing_ok=True)
        return text.splitlines()

    atoms = bulk("Cu")
    atoms.calc = calc = make(ASKED)
    atoms.get_potential_energy()
    assert asked() == ["energy"]
    atoms.get_forces()  # one more call, for these alone
    assert asked() == ["forces"]
    atoms.get_stress()
    assert asked() == ["stress"]
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    assert asked() == []
    fresh = bulk("Ag")
    fresh.calc = copy.copy(calc)
    fresh.calc.reset()
    fresh.calc._states = ThreadStates()
    fresh.calc.calculate(fresh, ["energy", "forces"])
    assert asked() == ["energy forces"]
    assert set(fresh.calc.results) == {"energy", "free_energy", "forces"}


@pytest.mark.parametrize("offered", [["energy"], ["energy", "forces"], ["energy", "forces", "magmoms"]])
def test_properties_are_those_of_the_model(make: Make, offered: list[str]) -> None:
    calc = make(setup=f"calc = Calculator(); calc.implemented_properties = {offered}; return calc")
    assert set(calc.implemented_properties) == {*offered, "free_energy"}
    atoms = bulk("Cu")
    atoms.calc = calc
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy() == 1.0
    for name in {"forces", "stress", "dipole", "magmoms", "charges"} - set(offered):
        with pytest.raises(PropertyNotImplementedError, match=f"does not compute {name}"):
            calc.get_property(name, atoms)


def test_charge_and_spin_are_part_of_the_question(make: Make) -> None:
    atoms = bulk("Cu") * (2, 1, 1)
    atoms.calc = make(
        "a = self.atoms; self.results['energy'] = float(a.info.get('charge', 0) + 10 * a.info.get('spin', 0)"
        " + 100 * a.get_initial_magnetic_moments().sum() + 1000 * a.get_initial_charges().sum())"
    )
    assert atoms.get_potential_energy() == 0.0
    atoms.info["charge"] = 1
    assert atoms.get_potential_energy() == 1.0
    atoms.info["spin"] = 2
    assert atoms.get_potential_energy() == 21.0
    atoms.set_initial_magnetic_moments([3, 0])
    assert atoms.get_potential_energy() == 321.0
    atoms.set_initial_charges([0, 4])
    assert atoms.get_potential_energy() == 4321.0
    assert atoms.calc.info()["calls"]["count"] == 5


def test_a_label_does_not_keep_results_from_being_written(root: Path, tmp_path: Path) -> None:
    """As with a calculator in process: energies and forces are in the file, whatever was written into info and tags."""
    atoms = copper(root)
    dynamics = VelocityVerlet(atoms, fs)
    path = tmp_path / "md.traj"
    with Trajectory(path, "w", atoms) as trajectory:
        dynamics.attach(lambda: atoms.info.update(step=dynamics.nsteps))
        dynamics.attach(trajectory)
        dynamics.run(3)
    frames = read(path, ":")
    assert [frame.info["step"] for frame in frames] == [0, 1, 2, 3]
    assert len({frame.get_potential_energy() for frame in frames}) == 4
    assert all(np.abs(frame.get_forces()).max() > 0 for frame in frames)
    atoms.set_tags(range(4))
    atoms.write(tmp_path / "tagged.xyz")
    assert read(tmp_path / "tagged.xyz").get_potential_energy() == pytest.approx(frames[-1].get_potential_energy())
    with connect(tmp_path / "all.db") as database:
        database.write(atoms)
        assert database.get(1).energy == frames[-1].get_potential_energy()


def test_what_nobody_asked_for_is_not_in_the_way(make: Make) -> None:
    """Stress is computed along, for it was asked of the step before; if that fails, what was asked for does not."""
    body = """
    x = self.atoms.positions[0, 0]
    if "stress" in properties and x == 1:
        raise MemoryError("stress")
    if x >= 2:
        self.results["stress"][:] = float("nan")
    if x < 3:  # a model that computes more than it is asked for
        self.results = {name: self.results[name] for name in properties}
    """
    atoms = bulk("Cu")
    atoms.calc = calc = make(body)
    pid = calc.start().info()["pid"]
    for x in (1, 2, 3):
        atoms.positions[0, 0] = 0
        assert (atoms.get_potential_energy(), atoms.get_stress().tolist()) == (1.0, [0, 1, 2, 3, 4, 5])
        atoms.positions[0, 0] = x
        assert atoms.get_potential_energy() == 1.0
        with pytest.raises(RootstockError, match="MemoryError: stress" if x == 1 else "NaN or infinity in stress"):
            atoms.get_stress()
        assert atoms.get_potential_energy() == 1.0
    assert calc.info()["pid"] == pid


# -- parameters


def test_arguments_can_be_changed(root: Path) -> None:
    atoms = copper(root, "lj")
    calc = atoms.calc
    before, first = atoms.get_potential_energy(), calc.info()["pid"]
    twin = copy.copy(calc)
    assert calc.set(setup_kwargs={"epsilon": 2.0}) == {"setup_kwargs": {"epsilon": 2.0}}
    assert calc.results == {}
    assert atoms.get_potential_energy() == pytest.approx(2 * before, rel=1e-12)
    calc.parameters["setup_kwargs"]["epsilon"] = 3.0
    assert atoms.get_potential_energy() == pytest.approx(3 * before, rel=1e-12)
    calc.parameters["model"] = "emt"
    calc.parameters["setup_kwargs"] = {}
    assert atoms.get_potential_energy() == pytest.approx(0.7478688522413766, abs=1e-9)
    assert calc.info()["environment"] == "emt"
    twin.reset()
    atoms.calc = twin
    assert (atoms.get_potential_energy(), twin.info()["pid"]) == (before, first)  # a copy keeps its own
    twin.close()
    wait_until_gone(first)
    calc.close()


def test_a_change_of_patience_keeps_the_worker(root: Path) -> None:
    atoms = copper(root)
    atoms.get_potential_energy()
    pid = atoms.calc.info()["pid"]
    assert atoms.calc.set(timeout=77.0, device="cpu") == {"timeout": 77.0}
    assert atoms.calc.results
    assert atoms.calc.info()["pid"] == pid
    assert atoms.calc.set(device="cuda") == {"device": "cuda"}
    assert atoms.calc.results == {}
    assert atoms.calc.info()["pid"] != pid
    wait_until_gone(pid)


def test_parameters_that_are_not_ours(root: Path) -> None:
    atoms = copper(root)
    before = atoms.get_potential_energy()
    atoms.calc.parameters["note"] = np.array([1, 2])
    atoms.calc = copy.deepcopy(atoms.calc)
    assert atoms.get_potential_energy() == before
    assert atoms.calc.parameters["note"].tolist() == [1, 2]


def test_results_that_are_made_read_only(root: Path) -> None:
    atoms = copper(root)
    before = atoms.get_forces()
    atoms.calc.results["forces"].flags.writeable = False
    atoms.rattle(0.1, seed=2)
    assert not (atoms.get_forces() == before).all()


def test_wrong_changes(root: Path) -> None:
    atoms = copper(root)
    energy = atoms.get_potential_energy()
    with pytest.raises(TypeError, match="no argument 'devise'; it has: device"):
        atoms.calc.set(devise="cpu")
    with pytest.raises(FileNotFoundError, match="'nosuch' not found"):
        atoms.calc.set(model="nosuch")
    with pytest.raises(ValueError, match="device must be a string"):
        atoms.calc.set(device=0)
    for timeout in (None, "5", 0, float("nan")):
        with pytest.raises(ValueError, match=f"^timeout must be a number of seconds, not {timeout!r}"):
            atoms.calc.set(timeout=timeout)
    with pytest.raises(ValueError, match="threads must be a number of threads, not '4'"):
        atoms.calc.set(threads="4")
    assert atoms.get_potential_energy() == energy  # nothing was changed
    atoms.calc.parameters["version"] = "1"  # the caller's own, as quacc sets it
    assert atoms.get_potential_energy() == energy
    assert atoms.calc.todict()["version"] == "1"
    atoms.calc.parameters["model"] = "nosuch"
    with pytest.raises(FileNotFoundError, match="'nosuch' not found"):
        atoms.get_potential_energy()
    atoms.calc.parameters["model"] = "emt"
    assert atoms.get_potential_energy() == energy


def test_checkpoint_is_another_name_of_model(root: Path) -> None:
    for arguments in ({"checkpoint": "lj-argon"}, {"checkpoint": "lj-argon", "model": "lj-argon"}):
        calc = RootstockCalculator(root=root, **arguments)
        assert calc.parameters["model"] == "lj-argon"
    with pytest.raises(ValueError, match="model='emt' and checkpoint='lj' are two names for one argument"):
        RootstockCalculator("emt", checkpoint="lj", root=root)
    with pytest.raises(ValueError, match="model='mace-medium' and checkpoint='lj'"):
        RootstockCalculator("mace-medium", checkpoint="lj", root=root)  # also where it says the default
    with pytest.raises(ValueError, match="model must be a string"):
        RootstockCalculator(checkpoint=7, root=root)
    calc.set(checkpoint="emt")
    assert calc.parameters["model"] == "emt"


def test_how_it_shows_itself(root: Path) -> None:
    calc = RootstockCalculator("lj", root=root, device="cpu", setup_kwargs={"epsilon": 2.0})
    text = f"RootstockCalculator(model='lj', root='{root}', device='cpu', setup_kwargs={{'epsilon': 2.0}})"
    assert repr(calc) == text
    assert repr(eval(text)) == text


# -- records


def test_what_is_written_down(root: Path, tmp_path: Path) -> None:
    atoms = copper(root, "lj", setup_kwargs={"epsilon": 2.0})
    forces, stress = atoms.get_forces(), atoms.get_stress()
    said = json.loads(json.dumps(atoms.calc.todict()))
    build = f"lj/{atoms.calc.info()['build']}"
    assert said == {
        "model": "lj", "root": str(root), "device": "cpu", "setup_kwargs": {"epsilon": 2.0}, "build": build
    }  # fmt: skip
    with connect(tmp_path / "atoms.db") as database:
        database.write(atoms)
    with connect(tmp_path / "atoms.db") as database:
        row = database.get(1)
    assert (row.calculator, row.calculator_parameters) == ("rootstock", said)
    with Trajectory(tmp_path / "atoms.traj", "w") as trajectory:
        trajectory.write(atoms)
    write(tmp_path / "atoms.extxyz", atoms)
    assert read(tmp_path / "atoms.traj").calc.parameters == said
    assert said == {name: atoms.calc.parameters[name] for name in said}
    assert pickle.loads(pickle.dumps(atoms.calc)).parameters["build"] == build
    again = RootstockCalculator(**row.calculator_parameters | {"build": atoms.calc.info()["build"]})
    assert again.parameters["build"] == build
    again = RootstockCalculator(**row.calculator_parameters)
    assert again.get_potential_energy(row.toatoms()) == atoms.get_potential_energy()
    with pytest.raises(ConfigurationError, match=f"build='lj/0' was asked for, and '{build}' is in use here"):
        RootstockCalculator(**row.calculator_parameters | {"build": "lj/0"})
    with pytest.raises(ConfigurationError, match="build='lj/0'"):
        again.set(build="lj/0")
    again.parameters["build"] = "lj/0"
    with pytest.raises(ConfigurationError, match="build='lj/0'"):
        again.get_property("energy")
    again.parameters["build"] = build
    assert again.get_property("energy") == atoms.get_potential_energy()
    again.set(**again.parameters | {"model": "emt", "setup_kwargs": {}})
    assert again.parameters["build"].startswith("emt/")
    for found in (row.toatoms(), read(tmp_path / "atoms.traj")):
        assert found.get_potential_energy() == atoms.get_potential_energy()
        assert (found.get_forces() == forces).all() and (found.get_stress() == stress).all()
    assert read(tmp_path / "atoms.extxyz").get_potential_energy() == pytest.approx(atoms.get_potential_energy())


def test_a_pickle_of_another_build_can_be_asked_for_what_computes_now(root: Path) -> None:
    calc = copper(root, "lj").calc
    build = calc.parameters["build"]
    calc.parameters = calc._last_parameters = {**calc.parameters, "build": "lj/0"}  # as if the root had had it then
    again = pickle.loads(pickle.dumps(calc))
    assert again.set(build=build) == {}
    with pytest.raises(ConfigurationError, match=f"build='lj/1' was asked for, and '{build}' is in use here"):
        again.set(build="lj/1")
    assert again.get_property("energy", bulk("Cu")) and again.parameters["build"] == build


def test_info_is_what_a_paper_needs(root: Path) -> None:
    atoms = copper(root)
    with atoms.calc as calc:
        assert calc.info()["calls"] == {"count": 0}
        for _ in range(1200):
            atoms.positions[0, 0] += 1e-5
            atoms.get_forces()
        info = json.loads(json.dumps(calc.info()))
    calls = info["calls"]
    assert calls["count"] == 1200
    assert 0 < calls["median_s"] <= calls["p95_s"] <= calls["max_s"]
    assert calls["mean_s"] > 0
    assert len(info["environment_sha256"]) == len(info["lock_sha256"]) == 64
    assert info["environment"] == "emt" and info["calculator"] == "EMT" and info["rootstock"]
    assert info["versions"]["ase"] and info["versions"]["numpy"] and info["host"] and info["accelerator"]
    assert info["setup_s"] > 0 and info["start_s"] > info["setup_s"]
    assert info["weights"] is None  # this model has none


def test_the_weights_of_a_checkpoint_are_known_by_their_hash(make: Make, tmp_path: Path) -> None:
    (tmp_path / "my.model").write_bytes(b"weights")
    [weights] = make(model=str(tmp_path / "my.model")).info()["weights"]
    assert weights["path"] == str(tmp_path / "my.model") and weights["bytes"] == 7
    assert weights["sha256"] == hashlib.sha256(b"weights").hexdigest()


# -- copies and ends


def test_images_of_a_band(root: Path) -> None:
    """ASE refuses images that share a calculator; copies share the worker."""
    first = copper(root)
    last = first.copy()
    last.positions[0] += [0.3, 0.0, 0.0]
    images = [first, *(first.copy() for _ in range(3)), last]
    with first.calc as calc:
        for image in images[1:]:
            image.calc = copy.deepcopy(calc)
        band = NEB(images, method="improvedtangent")
        band.interpolate()
        BFGS(band, logfile=None).run(fmax=0.1, steps=5)
        assert len({image.calc.info()["pid"] for image in images}) == 1
        assert len({image.get_potential_energy() for image in images}) == 5


UNPICKLE = """
import copy, pickle, sys
first = pickle.load(open(sys.argv[1], "rb"))
calc = first.calc
other = first.copy()
other.calc = copy.copy(calc)
wrong = []
for step in range(40):
    first.positions[0, 0] += 0.01 if step % 3 == 0 else 0.0
    other.positions[0, 0] += 0.02
    calc.results, other.calc.results = {}, {}
    for atoms in (first, other):
        fresh = atoms.copy()
        fresh.calc = copy.copy(calc)
        fresh.calc.reset()
        wrong.append(abs(atoms.get_potential_energy() - fresh.get_potential_energy()) > 1e-9)
print(sum(wrong))
"""


def test_a_calculator_from_another_process_and_its_copies(root: Path, tmp_path: Path) -> None:
    """Positions have numbers by which a worker knows them; those of two processes must not meet."""
    atoms = copper(root)
    for _ in range(7):
        atoms.positions[0, 0] += 0.001
        atoms.get_potential_energy()
    (tmp_path / "atoms.pickle").write_bytes(pickle.dumps(atoms))
    done = run(sys.executable, "-c", UNPICKLE, tmp_path / "atoms.pickle", check=True)
    assert done.stdout.strip() == "0", done.stdout


def test_the_last_reference_ends_the_worker(root: Path) -> None:
    """Without waiting for the garbage collector."""
    gc.disable()
    try:
        atoms = copper(root)
        atoms.get_potential_energy()
        twin, pid = copy.copy(atoms.calc), atoms.calc.info()["pid"]
        atoms.calc = None
        twin.get_property("forces", atoms)
        assert twin.info()["pid"] == pid
        del twin
        wait_until_gone(pid)
    finally:
        gc.enable()


def test_entering_twice(root: Path) -> None:
    atoms = copper(root)
    with atoms.calc as calc:
        pid = calc.info()["pid"]
        assert calc.__enter__() is calc
        assert calc.info()["pid"] == pid
    wait_until_gone(pid)
    with pytest.raises(WorkerError, match="This calculator is closed"):
        atoms.get_potential_energy()
    with calc:
        assert atoms.get_potential_energy() == pytest.approx(0.7478688522413766, abs=1e-9)


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(3)", "1 / 0", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_the_end_of_the_program_ends_the_worker(root: Path, end: str) -> None:
    code = (
        "import os\nfrom rootstock import RootstockCalculator\n"
        "calc = RootstockCalculator('emt', device='cpu').start()\n"
        f"print(calc.info()['pid'], flush=True)\n{end}\n"
    )
    done = run(sys.executable, "-c", code, env=clean_environment(ROOTSTOCK_ROOT=str(root)))
    wait_until_gone(int(done.stdout))
