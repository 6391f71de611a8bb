"""Arrays and arguments that cannot be sent to a worker: each is one clear error, and nothing is taken over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from rootstock.client.inputs import Inputs
from rootstock.errors import ConfigurationError
from rootstock.interfaces.arguments import check_arguments


def copper() -> Atoms:
    return bulk("Cu", cubic=True)


OBJECTS = np.array([1, None, "a", 2.0], object)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("initial_charges", np.zeros(3), r"has the shape \(3,\), and must have \(4,\)"),
        ("initial_charges", np.zeros((4, 1)), r"has the shape \(4, 1\), and must have \(4,\)"),
        ("initial_charges", np.zeros(4, complex), "of type complex128, and must hold numbers"),
        ("initial_charges", np.array(["1"] * 4), "of type <U1, and must hold numbers"),
        ("initial_charges", OBJECTS, "of type object"),
        ("initial_charges", [0.0] * 4, "is a list, and no array of numpy"),
        ("initial_magmoms", np.zeros((4, 1)), r"has the shape \(4, 1\), and must have \(4,\) or \(4, 3\)"),
        ("initial_magmoms", np.zeros((3, 3)), r"has the shape \(3, 3\)"),
        ("initial_magmoms", np.zeros((4, 3, 1)), r"has the shape \(4, 3, 1\)"),
        ("tags", np.array(["1", "2", "3", "4"]), "of type <U1, and must hold numbers"),
        ("tags", np.array([0.5, 0, 0, 0]), "numbers that are not whole"),
        ("tags", np.array([np.nan, 0, 0, 0]), "numbers that are not whole"),
        ("tags", np.zeros(5, int), r"has the shape \(5,\), and must have \(4,\)"),
        ("tags", OBJECTS, "of type object"),
        ("numbers", np.array([29.5] * 4), "numbers that are not whole"),
        ("numbers", np.array([29] * 3), r"has the shape \(3,\), and must have \(4,\)"),
        ("numbers", np.array([[28]] * 4), r"has the shape \(4, 1\)"),
        ("numbers", np.array(["29"] * 4), "of type <U2, and must hold numbers"),
        ("positions", np.zeros((4, 2)), r"has the shape \(4, 2\), and must have \(4, 3\)"),
        ("positions", np.zeros((4, 1)), r"has the shape \(4, 1\)"),
        ("positions", np.zeros(4), r"has the shape \(4,\), and must have \(4, 3\)"),
        ("positions", np.zeros((4, 3), complex), "of type complex128"),
        ("positions", np.full((4, 3), None), "of type object"),
        ("positions", np.array(0.0), r"has the shape \(\)"),
    ],
)
@pytest.mark.parametrize("before", [False, True], ids=["first", "later"])
def test_arrays_that_were_written_past_ase(name: str, value: Any, message: str, before: bool) -> None:
    atoms, inputs = copper(), Inputs()
    if before:
        inputs.update(atoms)
    state = inputs.state
    atoms.arrays[name] = value
    wanted = f"^The {name} of the atoms cannot be used: it .*{message}"
    with pytest.raises(ConfigurationError, match=wanted):
        inputs.update(atoms)
    if "type" in message:  # a comparison needs no shape
        with pytest.raises(ConfigurationError, match=wanted):
            inputs.changes_to(atoms)
    assert inputs.state == state
    inputs.update(copper())
    assert inputs.atoms() == copper()


def test_a_cell_and_periodic_directions_that_were_written_past_ase() -> None:
    for name, value, message in (
        ("cell", np.zeros((3, 2)), r"has the shape \(3, 2\), and must have \(3, 3\)"),
        ("pbc", np.ones(2, bool), r"has the shape \(2,\), and must have \(3,\)"),
        ("pbc", np.ones(3), "of type float64, and must hold truth values"),
    ):
        atoms = copper()
        atoms.cell.array = value if name == "cell" else atoms.cell.array
        atoms._pbc = value if name == "pbc" else atoms.pbc  # type: ignore[attr-defined]
        with pytest.raises(ConfigurationError, match=f"The {name} of the atoms cannot be used: .*{message}"):
            Inputs().update(atoms)


def test_arrays_of_other_types_that_mean_the_same() -> None:
    """Such as tags that were read from a column of numbers with decimals."""
    expected, atoms = copper(), copper()
    expected.set_tags([1, 2, 3, 4])
    expected.set_initial_magnetic_moments(np.ones((4, 3)))
    expected.set_initial_charges([1, 0, 0, 0])
    atoms.arrays |= {
        "tags": np.array([1.0, 2.0, 3.0, 4.0]), "numbers": np.array([29] * 4, np.uint8),
        "initial_magmoms": np.ones((4, 3), np.float32), "initial_charges": np.array([True, False, False, False]),
        "positions": np.asfortranarray(atoms.positions),
    }  # fmt: skip
    one, other = Inputs(), Inputs()
    one.update(expected)
    other.update(atoms)
    assert other.rest == one.rest and (other.positions == one.positions).all()
    assert (other.atoms().get_initial_magnetic_moments() == 1).all()


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


CIRCULAR: dict[str, Any] = {}
CIRCULAR["self"] = [CIRCULAR]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": nested(100_000)}, "nested more than 100 levels deep, or holds itself"),
        ({"a": nested(101)}, "nested more than 100 levels deep, or holds itself"),
        (CIRCULAR, "nested more than 100 levels deep, or holds itself"),
        ({"a": {"b": {1: 2}}}, r"The keys of setup_kwargs\['a'\]\['b'\] must be strings: 1 is of type int"),
        ({None: 2}, "The keys of setup_kwargs must be strings: None is of type NoneType"),
        ({"a": [0, np.int64(1)]}, r"setup_kwargs\['a'\]\[1\] is of type int64.\n.* as JSON. .* VALUE.tolist\(\)"),
        ({"a": np.zeros(3)}, r"setup_kwargs\['a'\] is of type ndarray.\n.*VALUE.tolist\(\)"),
        ({"a": {1, 2}}, r"setup_kwargs\['a'\] is of type set"),
        ({"a": "x" * 2**24}, "setup_kwargs is 16 MB: a worker can be told 8 MB"),
        ([1], r"setup_kwargs must be a dict, not \[1\]"),
        ("abc", "setup_kwargs must be a dict, not 'abc'"),
    ],
)
def test_options_of_setup_that_are_not_json(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_arguments({"root": "/nowhere", "setup_kwargs": options})


def test_options_of_setup_that_are_json() -> None:
    options = {"a": nested(99), "b": (1, 2.5, None, True, "x"), "c": {"d": []}, "e": np.float64(0.1)}
    assert check_arguments({"root": "/nowhere", "setup_kwargs": options})["setup_kwargs"] == options
