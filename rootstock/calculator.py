"""The ASE calculator."""

from rootstock.interfaces.calculator import RootstockCalculator

__all__ = ["RootstockCalculator"]
