"""The i-PI protocol: an ASE calculator for clients of others."""

from rootstock.interfaces.ipi.calculator import IPICalculator

__all__ = ["IPICalculator"]
