"""What a calculator returned, as it is carried: float64, in the shape of its section."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from rootstock.worker.channel.memory import PROPERTIES, PROPERTY_BITS

Views = Mapping[str, NDArray[Any]]  # every section of the memory, by name

STRESS = PROPERTY_BITS["stress"] | PROPERTY_BITS["stresses"]
_ENERGY, _FREE_ENERGY = PROPERTY_BITS["energy"], PROPERTY_BITS["free_energy"]
_SCALARS = {section.name for section in PROPERTIES if not section.shape and not section.per_atom}
_FLOAT = np.dtype(float)


def offered_properties(calculator: Any, listed: Collection[str] | None = None) -> list[str]:
    """Return the properties that a calculator implements and this protocol carries.

    ``free_energy`` is among them wherever ``energy`` is: optimizers ask for it, and a model without electrons has
    no other.

    Parameters
    ----------
    calculator : ase.calculators.calculator.Calculator
    listed : collection of str, optional
        Those that its environment file lists, where that counts: a library may declare what it does not compute.
    """
    names = set(calculator.implemented_properties)
    if listed is not None:
        names &= {*listed}
    if "energy" in names:
        names.add("free_energy")
    return [section.name for section in PROPERTIES if section.name in names]


def store_results(results: Mapping[str, Any], views: Views, offered: int, required: int, *, has_stress: bool) -> int:
    """Put results into the memory, and return which, as bits.

    Parameters
    ----------
    results : Mapping[str, Any]
        By ASE's names.
    views : Mapping of str to ndarray
    offered, required : int
        What the calculator declares, and what was asked for, as bits.
    has_stress : bool
        Whether these atoms have one.

    Raises
    ------
    ValueError
        If one that is required has a shape or a type that means nothing; another one is left out.
    """
    bits = 0
    has_free_energy = results.get("free_energy") is not None
    if required & _FREE_ENERGY and not has_free_energy:
        required |= _ENERGY  # which stands for it
    for name, value in results.items():
        bit = PROPERTY_BITS.get(name, 0) & offered  # in process, ASE refuses what is not declared
        # Some models return a stress of atoms that have none: it means nothing.
        if not bit or value is None or (bit & STRESS and not has_stress):
            continue
        view = views[name]
        if (type(value) is np.ndarray and value.dtype is _FLOAT and value.shape == view.shape) or (
            type(value) is float and not view.shape
        ):  # as nearly every one is
            view[...] = value
        else:
            try:
                view[...] = _as_section(name, value, view.shape)  # lower precision becomes float64: no change
            except Exception:
                if bit & required:
                    raise
                continue
        bits |= bit
    if bits & _ENERGY and not has_free_energy:
        views["free_energy"][...] = views["energy"]
        bits |= _FREE_ENERGY
    return bits


def _as_section(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a result in the shape that is carried."""
    array = real_numbers(name, value)
    if name == "stress" and array.shape == (3, 3):
        array = full_3x3_to_voigt_6_stress(array)  # in the model's precision, as ASE does it
    if array.ndim and array.size == 1 and name in _SCALARS:
        array = array.reshape(())
    if array.shape != shape:
        raise ValueError(f"The model returned {name} of shape {array.shape}, not {shape}.")
    return array


def real_numbers(name: str, value: Any) -> NDArray[Any]:
    """Return a result as an array of real numbers.

    Parameters
    ----------
    name : str
        Of the property, for the error.
    value : object
        What a calculator left: a number, an array, a list of them, or what gives an array (of torch, of jax).

    Raises
    ------
    ValueError
        If it is anything else that numpy would make numbers of: truth values, text, dates, masked or complex numbers.
    """
    if isinstance(value, list | tuple):  # numpy drops the masks of its items, and makes truth values numbers
        value = [each if type(each) in (float, int) else real_numbers(name, each) for each in value]
    array = np.asanyarray(value)
    masked = isinstance(array, np.ma.MaskedArray)
    if masked or array.dtype.kind == "b" or not np.can_cast(array.dtype, _FLOAT, "same_kind"):
        mask = " with a mask" if masked else ""
        raise ValueError(f"The model returned {name} of dtype {array.dtype}{mask}, not real numbers.")
    return np.asarray(array) if array.dtype.kind == "f" else array.astype(_FLOAT)
