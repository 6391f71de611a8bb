"""Results of a run folder as one file: in every format, complete or not there, and what is missing in it is counted."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read, write
from click.testing import CliRunner

from rootstock.cli.user import main as user
from rootstock.client.evaluated import FailureClass
from rootstock.errors import ConfigurationError, ModelError
from rootstock.simulations.runs.export import export
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.records import RunRecord, rebase
from rootstock.simulations.runs.source import Source, index_input
from tests.support.commands import ordinary, run

COUNT = 6


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def structures() -> list[Atoms]:
    images = []
    for number in range(COUNT):
        atoms = molecule("N2") if number == 2 else bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=number)
        atoms.info |= {"id": f"x,{number}", "weight": 0.5 * number, "list": [1, "a"]}
        atoms.set_array("site", np.arange(len(atoms)))
        images.append(atoms)
    return images


def with_results(atoms: Atoms) -> Atoms:
    asked = atoms.copy()
    asked.calc = EMT()
    results = {"energy": asked.get_potential_energy(), "forces": asked.get_forces()}
    if atoms.pbc.any():
        results["stress"] = asked.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.fixture
def folder(here: Path) -> RunFolder:
    """Return a run of six structures: five are done, in two parts; one of them twice; one has failed."""
    images = structures()
    images[0].info["ref_energy"] = 1.25
    write("a.extxyz", images)
    Path("run").mkdir()
    said = index_input(Path("run"), ["a.extxyz"], None, print)
    source = Source(Path("run"), said)
    out = os.path.abspath("a-relaxed.extxyz")
    record = RunRecord(kind="relax", settings={}, model="emt", structures=COUNT, input=said, out=out)
    made = RunFolder.create(Path("run"), record)
    for indices in ((4, 0, 2), (0, 5, 1)):
        with made.recorder() as recorder:
            for index in indices:
                atoms = with_results(source[index])
                atoms.info |= {"converged": index != 1, "rootstock_model": "emt"}
                recorder.add(index, atoms, converged=index != 1)
            if 1 in indices:
                recorder.fail(3, FailureClass.STRUCTURE, ModelError("It raised."), source.name(3))
    return made


def test_extended_xyz_is_copied_in_order(folder: RunFolder) -> None:
    done = export(folder, Path("out.extxyz"), overwrite=False)
    assert (done.structures, done.exported, done.missing) == (6, 5, 0)
    assert (done.failed, done.not_converged) == ({"structure": 1, "resource": 0}, 1)
    assert (done.damaged, done.computed_twice) == (0, 1)
    assert list(done.sentences())[1:] == [
        "1 failed (structure)",
        "1 not converged",
        "1 computed twice; the first result is taken",
    ]
    assert Path("out.extxyz").read_bytes() == b"".join(frame for _, frame in folder.frames())
    images = structures()
    for found, index in zip(read("out.extxyz", ":"), (0, 1, 2, 4, 5), strict=True):
        assert (found.positions == read("a.extxyz", index).positions).all()
        assert found.get_potential_energy() == with_results(read("a.extxyz", index)).get_potential_energy()
        assert found.info["id"] == images[index].info["id"] and found.info["list"] == [1, "a"]
        assert found.info["rootstock_source"] == f"a.extxyz@{index}"
    export(folder, Path("again.XYZ"), overwrite=False)
    assert Path("again.XYZ").read_bytes() == Path("out.extxyz").read_bytes()


def test_database(folder: RunFolder) -> None:
    export(folder, Path("out.db"), overwrite=False)
    frames = read("a.extxyz", ":")
    with connect("out.db") as database:
        rows = list(database.select())
        assert [row.data["index"] for row in rows] == [0, 1, 2, 4, 5]
        assert [row.id for row in database.select(converged=False)] == [2]
        assert len(list(database.select("rootstock_source=a.extxyz@4"))) == 1
    for row in rows:
        index = row.data["index"]
        expected = with_results(frames[index])
        assert (row.toatoms().positions == expected.positions).all() and (row.forces == expected.get_forces()).all()
        assert row.energy == expected.get_potential_energy()
        assert row.data["info"]["id"] == f"x,{index}" and row.data["info"]["list"] == [1, "a"]
        assert row.data["arrays"]["site"].tolist() == list(range(len(expected)))
    assert rows[0].data["info"]["ref_energy"] == 1.25


def test_arrays(folder: RunFolder) -> None:
    export(folder, Path("out.npz"), overwrite=False)
    frames = [with_results(atoms) for number, atoms in enumerate(read("a.extxyz", ":")) if number != 3]
    with np.load("out.npz") as found:
        assert set(found) == {"index", "n_atoms", "offsets", "energy", "cell", "pbc", "stress", "converged", "numbers",
                              "positions", "forces"}  # fmt: skip
        assert found["index"].tolist() == [0, 1, 2, 4, 5]
        assert found["converged"].tolist() == [True, False, True, True, True]
        assert found["n_atoms"].tolist() == [4, 4, 2, 4, 4]
        for row, atoms in enumerate(frames):
            part = slice(*found["offsets"][row : row + 2])
            assert (found["positions"][part] == atoms.positions).all()
            assert (found["numbers"][part] == atoms.numbers).all()
            assert (found["forces"][part] == atoms.get_forces()).all()
            assert (found["cell"][row] == atoms.cell.array).all() and (found["pbc"][row] == atoms.pbc).all()
            assert found["energy"][row] == atoms.get_potential_energy()
            if atoms.pbc.any():
                assert (found["stress"][row] == atoms.get_stress()).all()
            else:
                assert np.isnan(found["stress"][row]).all()  # a molecule has none: that is not zero


def test_table(folder: RunFolder) -> None:
    export(folder, Path("out.csv"), overwrite=False)
    with Path("out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == ["0", "1", "2", "4", "5"]
    for row in rows:
        atoms = with_results(read("a.extxyz", int(row["index"])))
        assert row["source"] == f"a.extxyz@{row['index']}" and row["formula"] == atoms.get_chemical_formula()
        assert float(row["energy"]) == atoms.get_potential_energy()
        assert float(row["energy_per_atom"]) == atoms.get_potential_energy() / len(atoms)
        assert float(row["max_force"]) == np.linalg.norm(atoms.get_forces(), axis=1).max()
        assert row["converged"] == str(row["index"] != "1")
        assert row["id"] == f"x,{row['index']}" and float(row["weight"]) == 0.5 * int(row["index"])
        assert "list" not in row and row["ref_energy"] == ("1.25" if row["index"] == "0" else "")


def test_a_damaged_frame_is_left_out_and_counted(folder: RunFolder) -> None:
    for part in Path("run").glob("part-*.extxyz"):
        data = part.read_bytes()
        if b"a.extxyz@4" in data:
            part.write_bytes(data.replace(b"a.extxyz@4", b"a.extxyz@5"))
    done = export(folder, Path("out.extxyz"), overwrite=False)
    assert (done.exported, done.damaged) == (4, 1)
    assert "1 damaged on disk, and left out" in list(done.sentences())
    assert [atoms.info["id"] for atoms in read("out.extxyz", ":")] == ["x,0", "x,1", "x,2", "x,5"]


def test_a_run_that_is_not_complete(folder: RunFolder) -> None:
    for part in Path("run").glob("part-*.index"):
        if b"a.extxyz@1" in part.with_suffix(".extxyz").read_bytes():
            os.remove(part)
    done = export(folder, Path("out.extxyz"), overwrite=False)
    assert (done.exported, done.missing, done.failed["structure"]) == (3, 3, 0)
    assert "3 not computed yet" in list(done.sentences())
    for part in Path("run").glob("part-*"):
        os.remove(part)
    with pytest.raises(ConfigurationError, match="run holds no results yet"):
        export(folder, Path("none.extxyz"), overwrite=False)
    assert not Path("none.extxyz").exists()


@pytest.mark.parametrize("name", ["out.extxyz", "out.db", "out.npz", "out.csv"])
def test_a_file_of_the_same_run_is_replaced_and_another_is_not(folder: RunFolder, name: str) -> None:
    out = Path(name)
    export(folder, out, overwrite=False)
    export(folder, out, overwrite=False)
    with out.open("a") as file:
        file.write("changed by somebody")
    for change in (lambda: None, lambda: out.write_text("another")):
        change()
        with pytest.raises(ConfigurationError, match=f"{name} exists"):
            export(folder, out, overwrite=False)
    assert out.read_text() == "another"
    export(folder, out, overwrite=True)
    assert out.read_bytes()[:7] != b"another"
    assert sorted(os.listdir()) == ["a.extxyz", name, "run"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.traj", "not written in that format"), ("out", "not written in that format"),
     ("none/a.extxyz", "Cannot write into"), ("folder.npz", "not a regular file")],
)  # fmt: skip
def test_files_that_cannot_be_written(folder: RunFolder, name: str, message: str) -> None:
    Path("folder.npz").mkdir()
    with pytest.raises(ConfigurationError, match=message):
        export(folder, Path(name), overwrite=True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"folder": 1, "files": [1]}', '{"folder": "x"}', "\xff"])
def test_a_list_of_exports_that_is_damaged_names_none(folder: RunFolder, content: str) -> None:
    export(folder, Path("out.csv"), overwrite=False)
    Path("run/exports.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"^out\.csv exists\.\n"):
        export(folder, Path("out.csv"), overwrite=False)
    export(folder, Path("out.csv"), overwrite=True)
    export(folder, Path("out.csv"), overwrite=False)


def test_a_copy_of_a_folder_does_not_replace_what_the_first_one_wrote(folder: RunFolder) -> None:
    export(folder, Path("out.csv"), overwrite=False)
    shutil.copytree("run", "copy")
    copy = RunFolder.open(Path("copy"))
    for done in (0, 1):  # also when it has written a file of its own
        why = "" if done else f": it was exported from {os.path.realpath('run')}"
        with pytest.raises(ConfigurationError, match=rf"^out\.csv exists{why}\.\n"):
            export(copy, Path("out.csv"), overwrite=False)
        export(copy, Path("own.csv"), overwrite=False)
    export(folder, Path("out.csv"), overwrite=False)
    with pytest.raises(ConfigurationError, match=r"^own\.csv exists\.\n"):
        export(folder, Path("own.csv"), overwrite=False)


@pytest.mark.parametrize(
    ("out", "kept"),
    [("p/out.csv", "../out.csv"), ("p/q/out.csv", "../q/out.csv"), ("link/out.csv", "../out.csv"), ("out.csv", None)],
)
def test_the_output_beside_a_folder_goes_with_it(here: Path, out: str, kept: str | None) -> None:
    Path("p/q").mkdir(parents=True)
    os.symlink("p", "link")
    record = RunRecord(kind="relax", settings={}, model="emt", structures=0, out=os.path.realpath(out))
    Path("p/run").mkdir()
    np.savez("p/run/input.npz", atoms=np.array([], np.int64))
    assert RunFolder.create(Path("p/run"), record).record == RunFolder.open(Path("link/run")).record == record
    for _ in range(2):
        assert json.loads(Path("p/run/run.json").read_text())["out"] == (kept or str(here / "out.csv"))
        shutil.copytree("p/run", "elsewhere/copy", dirs_exist_ok=True)
        there = here / "elsewhere" / kept.removeprefix("../") if kept else here / "out.csv"
        assert RunFolder.open(Path("elsewhere/copy")).record.out == str(there)
        rebase(Path("p/run"), {})


def test_the_status_of_a_copy_names_its_own_output(folder: RunFolder) -> None:
    shutil.copytree("run", "elsewhere/run")
    for place in (".", "elsewhere"):
        done = CliRunner().invoke(user, ["run", "status", f"{place}/run", "--json"])
        assert json.loads(done.stdout)["out"] == os.path.realpath(f"{place}/a-relaxed.extxyz"), done.output


@pytest.mark.parametrize("name", ["a.extxyz", "run/../a.extxyz", "link.extxyz", "hard.extxyz", "again/input.extxyz",
                                  "run/input.npz", "run/new.csv"])  # fmt: skip
def test_no_input_is_ever_replaced(folder: RunFolder, name: str) -> None:
    """Neither what the run reads, nor anything in its folder, by whatever name."""
    os.symlink("a.extxyz", "link.extxyz")
    os.link("a.extxyz", "hard.extxyz")
    os.symlink("run", "again")
    Path("run/input.extxyz").write_text("converted")
    before = {path: path.read_bytes() for path in (Path("a.extxyz"), *Path("run").iterdir())}
    message = "would lie in the run folder" if name.startswith(("run/i", "run/n", "again")) else "is one of the files"
    with pytest.raises(ConfigurationError, match=f"{name} {message}"):
        export(folder, Path(name), overwrite=True)
    assert {path: path.read_bytes() for path in (Path("a.extxyz"), *Path("run").iterdir())} == before
    assert Path("hard.extxyz").samefile("a.extxyz") and Path("link.extxyz").is_symlink()


def test_a_file_that_grows_beyond_a_limit_leaves_the_old_one(folder: RunFolder) -> None:
    """Whatever fails while it is written, nobody finds half a file."""
    names = ["out.extxyz", "out.db", "out.npz", "out.csv"]
    for name in names:
        Path(name).write_text("old")
    code = f"""
import resource, signal
from pathlib import Path
from rootstock.errors import OutputError
from rootstock.simulations.runs.export import export
from rootstock.simulations.runs.folder import RunFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
for name in {names!r}:
    try:
        export(RunFolder.open(Path("run")), Path(name), overwrite=True)
    except OutputError as error:
        print(error)
"""
    done = run(sys.executable, "-B", "-c", code, check=True)  # -B: bytecode of packages would be cut as well
    for name in names:
        assert f"Cannot write {name}: " in done.stdout, done.stdout
        assert Path(name).read_text() == "old"
    assert sorted(os.listdir()) == ["a.extxyz", *sorted(names), "run"]


def test_a_folder_that_cannot_be_written(folder: RunFolder) -> None:
    """It is somebody else's; results can be had from it all the same."""
    code = "import sys; from pathlib import Path; from rootstock.simulations.runs.export import export; "
    code += "from rootstock.simulations.runs.folder import RunFolder; "
    code += "print(export(RunFolder.open(Path('run')), Path('out.csv'), overwrite=False).exported)"
    Path("run").chmod(0o555)
    try:
        assert run(*ordinary(), sys.executable, "-B", "-c", code, check=True).stdout == "5\n"
    finally:
        Path("run").chmod(0o755)
    assert not Path("run/exports.json").exists()
