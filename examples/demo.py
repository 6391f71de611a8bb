"""Compute with a model of a site's root, as its users do: the numbers, what they cost, and where they came from.

OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 python examples/demo.py --root demo-root --model emt
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import GPa

from rootstock import RootstockCalculator


def structure(model: str) -> tuple[str, Atoms]:
    """Return copper, or for a real model a crystal that it was published with."""
    if not model.startswith("chgnet"):
        return "copper, fcc", bulk("Cu", cubic=True)
    positions = [
        (0.5, 0.5, 0.37975050), (0.0, 0.0, 0.62024950), (0.5, 0.5, 0.86325250), (0.0, 0.0, 0.13674750),
        (0.5, 0.0, 0.36082450), (0.0, 0.5, 0.09851350), (0.5, 0.0, 0.90148650), (0.0, 0.5, 0.63917550),
    ]  # fmt: skip
    cell = (2.86877900, 4.63447500, 5.83250700)
    return "LiMnO2, mp-18767", Atoms("Li2Mn2O4", cell=cell, scaled_positions=positions, pbc=True)


def show(label: str, atoms: Atoms) -> None:
    """Print a line of the table."""
    force = np.linalg.norm(atoms.get_forces(), axis=1).max()
    pressure = -atoms.get_stress()[:3].mean() / GPa
    energy = atoms.get_potential_energy() / len(atoms)
    print(f"{label:<28} {energy:>14.6f} {force:>16.6f} {pressure:>15.4f} {atoms.get_volume() / len(atoms):>14.4f}")


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--model", default="emt")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    name, atoms = structure(arguments.model)
    begun = time.perf_counter()
    with RootstockCalculator(model=arguments.model, root=arguments.root, device=arguments.device) as calc:
        ready = time.perf_counter()
        atoms.calc = calc
        print(f"\n{'':<28} {'energy':>14} {'largest force':>16} {'pressure':>15} {'volume':>14}")
        print(f"{'':<28} {'eV/atom':>14} {'eV/Å':>16} {'GPa':>15} {'Å³/atom':>14}")
        show(name, atoms)
        atoms.rattle(0.1, seed=1)
        show("its atoms displaced by 0.1 Å", atoms)
        begun_relaxing = time.perf_counter()
        with BFGS(FrechetCellFilter(atoms), logfile=None) as relaxation:
            converged = relaxation.run(fmax=0.01, steps=300)
        seconds = time.perf_counter() - begun_relaxing
        show(f"relaxed, {relaxation.get_number_of_steps()} steps", atoms)
        info = calc.info()
    if not converged:
        raise SystemExit("The relaxation did not converge.")
    packages = {
        key: info["versions"][key] for key in ("python", "ase", "numpy", "torch", "chgnet") if key in info["versions"]
    }
    build = f"{info['environment']}/{info['build']}"
    print(f"\nWorker: {info['calculator']} of build {build} on {info['host']}, device {info['device']}")
    print("        " + ", ".join(f"{key} {version}" for key, version in packages.items()))
    print(f"Times:  {ready - begun:.2f} s to load the model, {seconds:.2f} s for the relaxation")
    print(
        f"""
Next steps
  Python      RootstockCalculator(root="{arguments.root}", model="{arguments.model}", device="cpu")
  the module  module use {arguments.root}/modulefiles && module load rootstock
  real model  make demo ENV=chgnet
  your site   rootstock-site install --help"""
    )


if __name__ == "__main__":
    main()
