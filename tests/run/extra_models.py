"""An environment file whose calculator has results and methods that ASE knows nothing of."""

from __future__ import annotations

from tests.support.environment_files import header

DECLARED = """\
[tool.rootstock]
extra-properties = { partial_charges = "per-atom", bond-orders = "N,N", spread = "scalar", energies = "models", \
hessian = "3N,3N", vectors = "N,3", anything = "one,two", tensors = "N,3,3" }
methods = ["get_descriptors", "get_hessian", "give", "fail", "wait", "die", "lacking", "last_energy", "finite", "odd"]
"""
CODE = """
import os
import time

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as Base, PropertyNotImplementedError, all_changes


class Calculator(Base):
    implemented_properties = ["energy", "forces", "stress"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = self.all_of(atoms)

    def all_of(self, atoms):
        p, n = atoms.positions, len(atoms)
        what = atoms.info.get("do", "usual")
        results = {"energy": float((p * p).sum()), "forces": -2 * p, "stress": np.arange(6.0)}
        results |= {"partial_charges": (p[:, 0] / 3).astype("f4"), "undeclared": np.ones(3)}
        if what == "bare":
            return {name: results[name] for name in self.implemented_properties}
        if what == "usual":
            return results
        if what == "all":
            results |= {
                "bond-orders": np.outer(p[:, 1], p[:, 1]), "spread": np.array([0.1 + n]),
                "energies": [1.0 / 3, 2.0, 3.0], "vectors": np.asfortranarray(p / 7), "anything": np.zeros((0, 4)),
                "hessian": self.get_hessian(atoms), "tensors": np.einsum("ni,nj->nij", p, p),
            }
        if what == "huge":
            results["hessian"] = np.arange(9.0 * n * n).reshape(3 * n, 3 * n)
        if what == "wrong shape":
            results["partial_charges"] = np.ones(n + 1)
        if what == "text":
            results["partial_charges"] = ["a"] * n
        if what == "nan":
            results["partial_charges"] = np.full(n, np.nan)
        if what == "none":
            results["partial_charges"] = None
        if what == "kill":
            os.kill(os.getpid(), 9)
        return results

    def get_hessian(self, atoms=None):
        return np.eye(3 * len(atoms)) * atoms.positions.ravel() / 3

    def get_descriptors(self, atoms=None, invariants_only=True, num_layers=-1):
        width = 4 if invariants_only else 16
        return np.arange(1.0, width + 1) * np.linalg.norm(atoms.positions, axis=1)[:, None] + num_layers

    def give(self, *arguments, **keywords):
        return [self.seen(each) for each in arguments], {key: self.seen(each) for key, each in keywords.items()}

    def seen(self, value):
        if not isinstance(value, Atoms):
            return value
        return {"positions": value.positions, "numbers": value.numbers, "info": value.info, "pbc": value.pbc,
                "charges": value.get_initial_charges(), "forces": value.get_forces()}

    def odd(self, what):
        return {
            "numbers": (np.float32(1 / 3), np.int64(-5), True, None, 1.5, 2**80, "text"),
            "arrays": [np.arange(6, dtype="i2").reshape(2, 3), np.array(True), np.zeros((0, 3)), np.array(1 + 2j)],
            "object": object(), "strings": np.array(["a", "b"]), "keys": {1: 2}, "atoms": Atoms("H"),
            "nan": [float("nan"), np.array([np.inf])], "empty": ((), [], {}), "bytes": b"123",
            "big": np.arange(2.0**22), "long": list(range(4 * 10**6)),
        }[what]

    def fail(self, error="ValueError"):
        kinds = {"ValueError": ValueError, "exit": SystemExit, "property": PropertyNotImplementedError}
        raise kinds[error]("it failed")

    def wait(self, folder):
        open(os.path.join(folder, "waiting"), "w").close()
        while not os.path.exists(os.path.join(folder, "go")):
            time.sleep(0.01)
        return 5

    def die(self, number):
        os.kill(os.getpid(), number)
        time.sleep(60)

    def last_energy(self):
        return None if self.atoms is None else self.results.get("energy")

    def finite(self, atoms, step=1e-3):
        moved = atoms.copy()
        moved.calc = self
        moved.positions[0, 0] += step
        atoms.positions[:] = 0.0
        return (moved.get_potential_energy() - atoms.get_potential_energy()) / step


class Hook(Calculator):
    def calculate_batch(self, images, properties):
        return [self.all_of(atoms) for atoms in images]


def setup(model, device="cpu"):
    return Hook() if model == "hook" else Calculator()
"""
EXTRA_MODELS = header(DECLARED) + CODE
