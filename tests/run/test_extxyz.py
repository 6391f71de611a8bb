"""Files in extended XYZ: what ASE reads from them is what was written, bit for bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.io import read, write
from ase.spacegroup import crystal
from hypothesis import given
from hypothesis import strategies as st

from rootstock.errors import ConfigurationError
from rootstock.simulations.extxyz import frame, write_extxyz
from rootstock.simulations.writing import check_structures

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
RESULTS = {"energy": (), "free_energy": (), "magmom": (), "dipole": (3,), "polarization": (3,), "stress": (6,),
           "dielectric_tensor": (3, 3)}  # fmt: skip
OF_ATOMS = {"energies": (), "charges": (), "magmoms": (), "forces": (3,), "stresses": (6,)}
ARRAYS = {"momenta": (3,), "masses": (), "initial_charges": (), "initial_magmoms": (), "tags": None, "my_array": (2,),
          "words": str, "flags": bool}  # fmt: skip
ODD = (
    "",
    "T",
    "12",
    "1e3",
    "nan",
    "_JSON x",
    "a b",
    'q"q',
    "it's",
    "new\nline",
    "\\",
    "{[=]}",
    "Å",
    " x ",
    "1 2",
    "a=b",
)
TEXTS = st.text(max_size=20) | st.sampled_from(ODD)
LEAVES = st.none() | st.booleans() | st.integers() | FLOATS | TEXTS
INFO = LEAVES | st.lists(FLOATS, max_size=4) | st.dictionaries(TEXTS, LEAVES | st.lists(TEXTS, max_size=3), max_size=3)
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True) | st.sampled_from(["a b", 'q"', "virial2", "Å"])
KEYS = KEYS.filter(lambda key: key.lower() != "uid" and key not in {"virial", "pbc", "Lattice", *all_properties})


def _array(draw: st.DrawFn, count: int, shape: tuple[int, ...]) -> Any:
    size = count * math.prod(shape)
    return np.array(draw(st.lists(FLOATS, min_size=size, max_size=size)), float).reshape(count, *shape)


@st.composite
def structures(draw: st.DrawFn) -> Atoms:
    count = draw(st.integers(1, 4))
    atoms = Atoms(
        numbers=draw(st.lists(st.integers(0, 100), min_size=count, max_size=count)),
        positions=_array(draw, count, (3,)), cell=_array(draw, 3, (3,)),
        pbc=draw(st.lists(st.booleans(), min_size=3, max_size=3)), info=draw(st.dictionaries(KEYS, INFO, max_size=3)),
    )  # fmt: skip
    for name in draw(st.sets(st.sampled_from(sorted(ARRAYS)))):
        kind = ARRAYS[name]
        if kind is str:
            array = np.array(draw(st.lists(st.sampled_from(["a", 'b"', "Å", "12"]), min_size=count, max_size=count)))
        elif kind in (bool, None):
            values = st.booleans() if kind else st.integers(-(2**31), 2**31 - 1)
            array = np.array(draw(st.lists(values, min_size=count, max_size=count)), kind or int)
        else:
            array = _array(draw, count, kind)
        atoms.arrays[name] = array
    fixed = draw(st.lists(st.integers(0, count - 1), max_size=2, unique=True))
    if fixed:
        mask = draw(st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
        atoms.set_constraint(draw(st.sampled_from([FixAtoms(fixed), FixCartesian(fixed, mask)])))
    names = draw(st.sets(st.sampled_from(sorted({**RESULTS, **OF_ATOMS}))))
    results = {name: _array(draw, 1, RESULTS[name])[0] for name in names if name in RESULTS}
    results |= {name: _array(draw, count, OF_ATOMS[name]) for name in names if name in OF_ATOMS}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def bits(value: Any) -> Any:
    """Return what two values must share to be the same: NaN is one, and -0.0 is not 0.0."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return repr(value)


def same(read_back: Atoms, atoms: Atoms) -> None:
    assert bits(read_back.info) == bits(atoms.info)
    assert bits(read_back.arrays) == bits(atoms.arrays)
    assert bits(read_back.pbc) == bits(atoms.pbc)
    if atoms.cell.any():
        assert bits(read_back.cell.array) == bits(atoms.cell.array)
    results = atoms.calc.results if atoms.calc else {}
    assert bits(read_back.calc.results if read_back.calc else {}) == bits(results)


def masks(atoms: Atoms) -> Any:
    free = np.ones((len(atoms), 3))
    for constraint in atoms.constraints:
        constraint.adjust_forces(atoms, free)
    return free.tolist()


@given(atoms=structures(), more=structures())
def test_what_is_read_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, atoms: Atoms, more: Atoms) -> None:
    path = tmp_path_factory.getbasetemp() / "bits.extxyz"
    write_extxyz(path, [atoms])
    write_extxyz(path, [more], append=True)
    for read_back, expected in zip(read(path, ":"), (atoms, more), strict=True):
        same(read_back, expected)
        assert masks(read_back) == masks(expected)


def test_arrays_and_numbers_of_numpy(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info = {
        "virial": np.arange(9.0).reshape(3, 3) / 7, "single": np.float32(0.1), "one": np.array([0.1]), "none": None,
        "empty": np.array([]), "flags": np.array([True, False]), "matrix": np.ones((2, 2)) / 3, "large": 2**70,
        "nested": {"array": np.array([0.1, 0.2]), "text": "é\n"}, "integers": np.array([1, 2, 2**40]),
        "words": ["a", "b c"],
    }  # fmt: skip
    atoms.arrays["single"] = np.float32([0.1, 0.2, 0.3])
    for name in ("a.xyz", "a.extxyz", "a.xyz.gz"):
        write_extxyz(tmp_path / name, [atoms])
        same(read(tmp_path / name), atoms)
    group = crystal("Cu", [(0, 0, 0)], spacegroup=225, cellpar=[3.6, 3.6, 3.6, 90, 90, 90])
    write_extxyz(tmp_path / "group.xyz", [group])
    assert read(tmp_path / "group.xyz").info["spacegroup"] == group.info["spacegroup"].symbol
    write_extxyz(tmp_path / "none.xyz", [Atoms()])
    assert len(read(tmp_path / "none.xyz")) == 0
    write_extxyz(tmp_path / "mixed.xyz", [Atoms("H", info={"mixed": [1, 0.5]})])
    assert read(tmp_path / "mixed.xyz").info["mixed"].tolist() == [1, 0.5]


@pytest.mark.parametrize(
    ("where", "name", "value", "why"),
    [
        ("info", "energy", 1.0, "readers take it for a result"),
        ("info", "pbc", 1.0, "readers take it for a result"),
        ("info", "object", object(), "is not read back"),
        ("info", "complex", 1j, "is not read back"),
        ("info", "numbers as keys", {1: "a"}, "is not read back"),
        ("info", "ragged", [[1], [1, 2]], "is not read back"),
        ("info", "virial", 1.0, "is not read back"),
        ("info", "uid", 12, "is not read back"),
        ("info", "new\nline", 1, "is not read back"),
        ("info", 12, 1, "is not read back"),
        ("info", "", 1, "is not read back"),
        ("info", "masked", np.ma.array([1.0, 2.0], mask=[False, True]), "is not read back"),
        ("arrays", "masked", np.ma.array([1.0, 2.0], mask=[False, True]), "an array of shape"),
        ("arrays", "empty", np.zeros((2, 0)), r"an array of shape \(2, 0\)"),
        ("arrays", "forces", np.zeros((2, 3)), "readers take it for a result"),
        ("arrays", "charge", np.zeros(2), "readers take the name for something else"),
        ("arrays", "a:b", np.zeros(2), "readers take the name for something else"),
        ("arrays", "a b", np.zeros(2), "readers take the name for something else"),
        ("arrays", "tensors", np.zeros((2, 3, 3)), r"an array of shape \(2, 3, 3\)"),
        ("arrays", "complex", np.zeros(2, complex), "type complex128"),
        ("arrays", "large", np.array([0, 2**31]), "more than 32 bits"),
        ("arrays", "words", np.array(["a", "b c"]), "words without spaces"),
        ("arrays", "objects", np.array([1, None]), "words without spaces"),
        ("arrays", "x", np.zeros((2, 3)), "occurs more than once"),
    ],
)
def test_what_cannot_be_read_back_is_refused(where: str, name: Any, value: Any, why: str) -> None:
    atoms = Atoms("H2")
    atoms.arrays["x0"] = np.zeros(2)
    getattr(atoms, where)[name] = value
    with pytest.raises(ConfigurationError, match=why):
        frame(atoms)


def test_the_text_is_as_ase_writes_it(tmp_path: Path) -> None:
    """Other programs read what they read from ASE: columns, names, quotes; only digits and spaces differ."""
    atoms = bulk("Cu", cubic=True)
    atoms.info = {"text": "a b", "step": 3, "flag": True, "vector": np.array([0.5, 1.5]), "d": {"a": 1}}
    atoms.set_initial_charges([0.5, 0, 0, 0])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=np.zeros((4, 3)), stress=np.arange(6.0))
    write(tmp_path / "ase.xyz", atoms)
    expected = (tmp_path / "ase.xyz").read_text().splitlines()
    count, comment, *rows = frame(atoms).splitlines()
    assert (count, comment.split()[:11]) == (expected[0], expected[1].split()[:11])
    assert sorted(comment.split()) == sorted(expected[1].split())
    assert [len(row.split()) for row in rows] == [len(row.split()) for row in expected[2:]]
    assert [row.split()[0] for row in rows] == ["Cu"] * 4


def test_results_without_a_place_are_refused_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot hold born_effective_charges, in extended XYZ.\nUse .traj."):
        check_structures(tmp_path / "a.xyz", [bulk("Cu")], ("energy", "born_effective_charges"))
    check_structures(tmp_path / "a.traj", [bulk("Cu")], ("energy", "born_effective_charges"))
