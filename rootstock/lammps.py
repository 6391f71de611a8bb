"""LAMMPS moves the atoms, a model computes."""

from rootstock.interfaces.lammps import Coupling, attach

__all__ = ["Coupling", "attach"]
