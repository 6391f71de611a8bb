"""Structure files with odd content: read as ASE means them, or refused in words; and errors name the structure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.db import connect
from ase.io import read, write

from rootstock.errors import ConfigurationError, NotConvergedError, WorkerStartError
from rootstock.simulations.provenance import naming_source
from rootstock.simulations.relax import Relaxation
from rootstock.simulations.structures import read_structures
from tests.support.commands import ROOTSTOCK, Done, run

Command = Callable[..., Done]
CIF = """data_a
_cell_length_a 3.6
_cell_length_b 3.6
_cell_length_c 3.6
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""


@pytest.fixture
def rootstock(root: Path, tmp_path: Path) -> Command:
    return lambda *more: run(ROOTSTOCK, more[0], "emt", *more[1:], "--root", root, "--device", "cpu", cwd=tmp_path)


def read_cif(folder: Path, *sites: str) -> list[Atoms]:
    path = folder / "a.cif"
    path.write_text(CIF + "".join(f"X{number} {site}\n" for number, site in enumerate(sites)))
    return read_structures([str(path)])


# -- occupancy


@pytest.mark.parametrize("share", ["1", "1.0", "1.0(2)", "."])
def test_sites_that_are_full(tmp_path: Path, share: str) -> None:
    found = read_cif(tmp_path, f"Cu 0 0 0 {share}", f"Au 0.5 0.5 0.5 {share}")
    assert [atoms.get_chemical_formula() for atoms in found] == ["AuCu"]


@pytest.mark.parametrize("sites", [("Cu 0 0 0 0.5",), ("Cu 0 0 0 0.5", "Au 0 0 0 0.5"), ("Cu 0 0 0 1", "Au 0 0 0 1"),
                                   ("Cu 0 0 0 .", "Au 0 0 0 .")])  # fmt: skip
def test_sites_that_are_shared(tmp_path: Path, sites: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="a.cif@0 has sites that are occupied in part"):
        read_cif(tmp_path, *sites)


@pytest.mark.parametrize("share", ["?", "most"])
def test_sites_of_which_nobody_knows(tmp_path: Path, share: str) -> None:
    with pytest.raises(ConfigurationError, match="does not say how much of each site is occupied: .*\nIf all sites"):
        read_cif(tmp_path, f"Cu 0 0 0 {share}")


@pytest.mark.parametrize("key", [1, "1"])  # whole numbers in older versions of ASE
def test_an_occupancy_in_other_files(tmp_path: Path, key: Any) -> None:
    atoms = bulk("Cu")
    for table, message in (
        ({key: {"Cu": 1.0}}, ""), ({key: {"Cu": np.float64(0.5)}}, "occupied in part"),
        ({key: {"Cu": np.nan}}, "does not say"), ({key: {"Cu": None}}, "does not say"), ({}, ""),
    ):  # fmt: skip
        atoms.info["occupancy"] = table
        atoms.write(tmp_path / "a.traj")
        if message:
            with pytest.raises(ConfigurationError, match=message):
                read_structures([str(tmp_path / "a.traj")])
        else:
            assert len(read_structures([str(tmp_path / "a.traj")])) == 1


ENTRIES: dict[str, Any] = {
    "number": 1.0, "word": "full", "list": [1, 1], "flag": True, "none": None, "names": {"site": {"spin": 0.5}},
    "mixed": {"1": 0.5}, "empty": {"1": {}}, "array": np.zeros((2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("ending", ["extxyz", "traj"])
def test_an_entry_of_that_name_means_nothing(tmp_path: Path, name: str, ending: str) -> None:
    atoms = bulk("Cu")
    atoms.info["occupancy"] = ENTRIES[name]
    path = tmp_path / f"a.{ending}"
    atoms.write(path)
    assert np.all(read_structures([str(path)])[0].info["occupancy"] == read(path).info["occupancy"])


# -- odd structures end no command with a traceback


def with_array(name: str, value: Any) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.arrays[name] = value
    return atoms


def with_info(**entries: Any) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.info = entries
    return atoms


MD = ("md", "--ensemble", "nve", "--steps", "1")


@pytest.mark.parametrize(
    ("atoms", "more", "code", "message"),
    [
        (with_info(occupancy=1.0), ("singlepoint",), 0, ""),
        (with_info(converged={"a": 1}, step="x", rootstock_source=5), ("singlepoint", "--out", "o.db"), 0, ""),
        (with_info(converged="x", step="x", rootstock_model=[1]), MD, 0, ""),
        (with_array("momenta", np.array(["a"] * 4)), MD, 3, "The momenta of the structure are of type"),
        (with_array("tags", np.array(["a"] * 4)), ("singlepoint",), 3, "a.xyz@0: The tags of the atoms cannot be used"),
        (with_array("numbers", np.array([300] * 4)), ("singlepoint",), 3, "atomic numbers that no element has"),
        (with_array("positions", np.full((4, 3), np.nan)), ("relax",), 18, "a.traj@0: The positions of the atoms hold"),
    ],
)  # fmt: skip
def test_odd_structures(
    rootstock: Command, tmp_path: Path, atoms: Atoms, more: tuple[str, ...], code: int, message: str
) -> None:
    name = "a.xyz" if any(array.dtype.kind == "U" for array in atoms.arrays.values()) else "a.traj"
    atoms.write(tmp_path / name, format="extxyz" if name == "a.xyz" else "traj")
    done = rootstock(more[0], name, *more[1:])
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_a_frame_without_atoms(tmp_path: Path) -> None:
    write(tmp_path / "a.traj", [bulk("Cu"), Atoms(), bulk("Cu")])
    with pytest.raises(ConfigurationError, match="a.traj@1 holds no atoms"):
        read_structures([str(tmp_path / "a.traj")])


# -- messages


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("text", None, r"text: ASE does not recognise its format.\nName it with --format; `ase info --formats` lists"),
        ("empty.xyz", None, r"empty.xyz: the file is empty."),
        ("text", "extxyz", r"text as extxyz: its content is not as that format needs it \(.+\).\nLook whether"),
        ("text", "lammps-data", "text as lammps-data: its content is not"),
        ("text", "netcdftrajectory", "text as netcdftrajectory: ASE needs the Python package netCDF4 for it"),
        ("a.extxyz@7", None, r"a.extxyz@7 as extxyz: it has no such frame.\nCount from 0; @-1 is the last one."),
        ("a.traj@7", None, "a.traj@7 as traj: it has no such frame"),
        ("a.traj", "cif", r"a.traj as cif: its content is not"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(tmp_path: Path, name: str, kind: str | None, message: str) -> None:
    (tmp_path / "text").write_text("some text\n" * 9)
    (tmp_path / "empty.xyz").touch()
    for ending in ("extxyz", "traj"):
        bulk("Cu").write(tmp_path / f"a.{ending}")
    with pytest.raises(ConfigurationError, match=f"^Cannot read {tmp_path}/{message}"):
        read_structures([f"{tmp_path}/{name}"], kind)


def test_what_picks_no_frame(tmp_path: Path) -> None:
    bulk("Cu").write(tmp_path / "a.xyz")
    for index in ("last", ""):
        with pytest.raises(ConfigurationError, match=f"'{index}' is neither the number of a frame nor a range of them"):
            read_structures([f"{tmp_path}/a.xyz@{index}"])
    with pytest.raises(ConfigurationError, match="a.xyz@5: holds no atoms"):
        read_structures([f"{tmp_path}/a.xyz@5:"])
    with connect(tmp_path / "a.db") as database:
        database.write(bulk("Cu"))
    assert len(read_structures([f"{tmp_path}/a.db@Cu=1"])) == 1


def test_an_error_names_the_structure(rootstock: Command, tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [bulk("Cu"), bulk("Au")])
    write(tmp_path / "b.extxyz", [bulk("Ag"), bulk("U", "fcc", a=5.0)])
    for command in ("singlepoint", "relax"):
        done = rootstock(command, "a.extxyz", "b.extxyz", "--out", f"{command}.extxyz")
        assert done.returncode == 3, done.stderr
        assert "Error: b.extxyz@1: " in done.stderr and "does not know the element U" in done.stderr
    # A worker that did not start is not the structure's fault.
    with pytest.raises(WorkerStartError, match="^why$"), naming_source(read(tmp_path / "relax.partial.extxyz")):
        raise WorkerStartError("why")


def test_an_optimizer_that_gives_up() -> None:
    class Rising(EMT):
        """Every energy is higher than the one before: no step is downhill."""

        def calculate(self, *arguments: Any, **options: Any) -> None:
            super().calculate(*arguments, **options)
            self.results["energy"] = energies.pop()

    energies = [float(number) ** 3 for number in range(1000, 0, -1)]
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2]])
    atoms.info["rootstock_source"] = "a.xyz@0"
    with pytest.raises(NotConvergedError, match=r"a.xyz@0: GPMin gave up in step \d+: .*\nUse another --optimizer"):
        Relaxation("GPMin", fmax=1e-9).run(atoms, Rising())
