"""The ASE calculator, by the name that users import."""

from rootstock.client.evaluated import Evaluated, FailureClass
from rootstock.interfaces.calculator import RootstockCalculator

__all__ = ["Evaluated", "FailureClass", "RootstockCalculator"]
