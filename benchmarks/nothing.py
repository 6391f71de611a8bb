# /// script
# requires-python = ">=3.10"
# dependencies = ["ase>=3.23"]
# ///
"""A potential that costs nothing, written as any ASE calculator is: what is left is the cost of the call.

With a number for a model, each calculation takes so many milliseconds and leaves none of its caller's data in the
processor's caches, as a real model does. With ``wait`` before the number it waits so long, as for a GPU, and the energy
is the time at which it was done. With ``batch`` it waits so long for each structure of a batch, and draws atoms to a
lattice.
"""

from time import perf_counter, sleep, time

import numpy as np
from ase.calculators.calculator import Calculator, all_changes

PIECE = 2**13


class Nothing(Calculator):
    implemented_properties = ["energy", "forces", "stress"]
    forces = np.zeros((0, 3))

    def __init__(self, milliseconds):
        super().__init__()
        self.seconds = 1e-3 * milliseconds
        self.junk = np.zeros(2**22 if milliseconds else 0)  # 32 MB

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.seconds:
            self.take_time()
        if len(self.forces) != len(atoms):
            self.forces = np.zeros((len(atoms), 3))
        self.results = {"energy": 0.0, "free_energy": 0.0, "forces": self.forces, "stress": np.zeros(6)}

    def take_time(self):
        end, place = perf_counter() + self.seconds, 0
        while perf_counter() < end:
            self.junk[place : place + PIECE] += 1.0
            place = (place + PIECE) % len(self.junk)


class Waiting(Nothing):
    def __init__(self, milliseconds):
        super().__init__(0)
        self.waits = 1e-3 * milliseconds

    def calculate(self, *arguments, **more):
        super().calculate(*arguments, **more)
        sleep(self.waits)
        self.results["energy"] = self.results["free_energy"] = time()


class Together(Waiting):
    """Computes batches as a GPU does: it waits for each structure, and takes little of a processor."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        Calculator.calculate(self, atoms, properties, system_changes)
        [self.results] = self.calculate_batch([atoms], properties)

    def calculate_batch(self, images, properties):
        end = perf_counter() + self.waits * len(images)
        found = [
            {
                "energy": -0.01 * np.cos(atoms.positions).sum(),
                "forces": -0.01 * np.sin(atoms.positions),
                "stress": np.zeros(6),
            }
            for atoms in images
        ]
        sleep(max(0.0, end - perf_counter()))
        return found


def setup(model, device="cpu"):
    if str(model).startswith("batch"):
        return Together(float(model[5:]))
    if str(model).startswith("wait"):
        return Waiting(float(model[4:]))
    return Nothing(float(model or 0))
