"""Input of a run folder: indexed in place or converted once, read as ASE reads it, and never quietly another one."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian
from ase.db import connect
from ase.io import read, write

from rootstock.client.evaluated import Evaluated
from rootstock.errors import ConfigurationError
from rootstock.simulations.extxyz import write_extxyz
from rootstock.simulations.provenance import SOURCE
from rootstock.simulations.runs.begin import Asked, begin
from rootstock.simulations.runs.carry_out import carry_out
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.frames_index import read_frame
from rootstock.simulations.runs.source import Source, index_input
from tests.support.commands import run


def crystal(seed: int = 0, *, symbol: str = "Cu") -> Atoms:
    atoms = bulk(symbol, cubic=True)
    atoms.rattle(0.1, seed=seed)
    atoms.info["id"] = f"x{seed}"
    return atoms


def computed(seed: int = 0) -> Atoms:
    """Return a structure with everything that an input may carry."""
    atoms = crystal(seed)
    atoms.set_tags([1, 2, 3, 4])
    atoms.set_array("site", np.arange(4) * 0.1)
    atoms.set_constraint(FixAtoms([0]))
    atoms.calc = EMT()
    atoms.get_stress()
    return atoms


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source_of(*names: str, kind: str | None = None) -> Source:
    """Return the source of a new run folder, whose record went through JSON."""
    folder = Path("run")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return Source(folder, json.loads(json.dumps(index_input(folder, names, kind, print))))


def same(found: Atoms, expected: Atoms) -> bool:
    """Tell whether a structure is another one to the last bit: its arrays, cell, info and constraints."""
    arrays = {name: array for name, array in found.arrays.items() if not name.startswith("ref_")}
    info = {name: value for name, value in found.info.items() if not name.startswith("ref_") and name != SOURCE}
    wanted = {name: value for name, value in expected.info.items() if name != SOURCE}
    return (
        arrays.keys() == expected.arrays.keys()
        and all((array == expected.arrays[name]).all() for name, array in arrays.items())
        and (found.cell.array == expected.cell.array).all()
        and (found.pbc == expected.pbc).all()
        and repr(info) == repr(wanted)
        and [each.todict() for each in found.constraints] == [each.todict() for each in expected.constraints]
    )


# -- in place


def test_a_file_in_extended_xyz_stays_where_it_is(here: Path) -> None:
    write("a.extxyz", [computed(seed) for seed in range(3)] + [molecule("CH4"), Atoms("H")])
    for name in ("a.extxyz", "a.extxyz@:", str(here / "a.extxyz")):
        source = source_of(name)
        assert sorted(os.listdir("run")) == ["input.npz"]
        assert source.atoms_of.tolist() == [4, 4, 4, 5, 1]
        for number in (4, 0, 2, 3, 1):
            found = source[number]
            assert same(found, read("a.extxyz", number))
            assert found.info[SOURCE] == source.name(number) == f"{name.removesuffix('@:')}@{number}"
            assert same(found, read(source.name(number)))


@pytest.mark.parametrize("change", ["CRLF", "no last line end", "empty lines at the end", "VEC"])
def test_texts_that_ase_reads_too(here: Path, change: str) -> None:
    text = "2\n\nH 0 0 0.1\nH 0 0 0.8\n1\nenergy=1.5 note=é\nHe 0.3 0 0\n"
    if change == "CRLF":
        text = text.replace("\n", "\r\n")
    elif change == "no last line end":
        text = text.rstrip()
    elif change == "empty lines at the end":
        text += "\n \n\n"
    else:
        text = "1\nADF\nHe 0.3 0 0\nVEC1 4 0 0\nVEC2 0 5 0\nVEC3 0 0 6\n" + text
    Path("a.xyz").write_bytes(text.encode())
    source = source_of("a.xyz")
    frames = read("a.xyz", ":", format="extxyz")
    assert [same(source[number], atoms) for number, atoms in enumerate(frames)] == [True] * len(source)
    assert source[len(source) - 1].info.get("ref_energy") == 1.5


_FRAME = "1\n\nHe 0 0 0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "holds no atoms"),
        (_FRAME * 2 + "3\n\nHe 0 0 0\n", r"frame 2 \(line 7\) is cut short: the file ends after 1 of its 3 atoms"),
        (_FRAME + "5\n", r"frame 1 \(line 4\) is cut short: the file ends after 0 of its 5 atoms"),
        (_FRAME + "1\n\nHe 0 0 0\nHe 1 1 1\n" + _FRAME, r"frame 2 \(line 7\) does not begin with a number of atoms, "
         r"but with 'He 1 1 1'. The number of atoms of frame 1 may be wrong"),
        ("0\n\n" * 3, "the file holds no atoms"),
        (_FRAME + "0\n\n" + "Cu 0 0 0\n", r"frame 2 \(line 6\) does not begin"),
        (_FRAME + "0\n", r"frame 1 \(line 4\) is cut short"),
        (_FRAME + "-1\n\n", r"frame 1 \(line 4\) does not begin"),
        (_FRAME + "\n" + _FRAME, "an empty line follows frame 0"),
        (_FRAME + "\0" * 5000 + _FRAME, r"frame 1 \(line 4\) does not begin"),
        (_FRAME + "99999999999999999999\n\n", "frame 1 .* is cut short"),
        ("{" * 5000, r"frame 0 \(line 1\) does not begin"),
    ],
)  # fmt: skip
def test_a_broken_text_is_refused_with_its_frame(here: Path, text: str, message: str) -> None:
    Path("a.extxyz").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        source_of("a.extxyz")
    if _FRAME in text or "0" in text:  # also beside other files
        crystal().write("b.cif")
        with pytest.raises(ConfigurationError, match=message):
            source_of("b.cif", "a.extxyz")


@pytest.mark.parametrize("kind", ["folder", "pipe", "missing"])
def test_what_is_no_file_is_refused(here: Path, kind: str) -> None:
    if kind == "folder":
        Path("a.extxyz").mkdir()
    elif kind == "pipe":
        os.mkfifo("a.extxyz")
    with pytest.raises(ConfigurationError, match="There is no file a.extxyz|Cannot read a.extxyz"):
        source_of("a.extxyz")


def test_a_frame_that_ase_cannot_read_fails_alone(here: Path) -> None:
    bad = ('1\nLattice="1 2\nHe 0 0 0\n', "1\n\nXx1 0 0 0\n", "1\n\nHe 0 0\n", "1\n\nHe 0 0 north\n")
    for content in (*bad, "1\n\xff\nHe 0 0 0\n"):
        Path("a.extxyz").write_bytes((_FRAME + content + _FRAME).encode("latin-1"))
        source = source_of("a.extxyz")
        assert len(source) == 3
        assert same(source[2], source[0])
        with pytest.raises(ConfigurationError, match=r"Cannot read a\.extxyz@1 as extxyz: \w+: "):
            source[1]


def test_a_frame_without_atoms_fails_alone(here: Path) -> None:
    """As one that cannot be parsed does: in place, and beside other files."""
    text = "0\n\n" + _FRAME + '0\nid=x pbc="F F F"\n' * 2 + _FRAME.replace("He 0", "He 1") + "0\n\n"
    Path("a.extxyz").write_text(text)
    crystal().write("b.cif")
    for names in (("a.extxyz",), ("a.extxyz", "b.cif")):
        source = source_of(*names)
        assert source.atoms_of.tolist()[:6] == [0, 1, 0, 0, 1, 0]
        assert [source[index].positions[0, 0] for index in (1, 4)] == [0, 1]
        for index in (0, 2, 3, 5):
            with pytest.raises(ConfigurationError, match=rf"^a\.extxyz@{index} holds no atoms\.$"):
                source[index]
    compute(Zero())
    folder = RunFolder.open(Path("run"))
    assert [index for index, _ in folder.frames()] == [1, 4]
    assert [(each["index"], each["class"]) for each in folder.failures()] == [
        (index, "structure") for index in (0, 2, 3, 5)
    ]


# -- converted


@pytest.mark.parametrize("name", ["a.traj@5:9", "a.extxyz@5:9", "a.traj@3:3", "a.db@x>9", "a.db@5:9"])
def test_a_name_that_picks_nothing_is_refused(here: Path, name: str) -> None:
    """As without a run folder; alone, and beside other files, where nobody would see it."""
    images = [crystal(seed) for seed in range(5)]
    for file in ("a.traj", "a.extxyz", "a.db"):
        write(file, images)
    for names in ((name,), ("a.traj", name), (name, "a.traj")):
        with pytest.raises(ConfigurationError, match=rf"^{re.escape(name)} holds no atoms\.$"):
            source_of(*names)


def test_other_files_are_converted_once(here: Path) -> None:
    images = [computed(seed) for seed in range(4)]
    write("a.traj", images)
    crystal(7, symbol="Au").write("b.cif")
    crystal(8).write("POSCAR", format="vasp")
    write("c.extxyz", images[:2])
    Path("d.extxyz.gz").write_bytes(gzip.compress(Path("c.extxyz").read_bytes()))
    Path("e.xyz.bz2").write_bytes(bz2.compress(Path("c.extxyz").read_bytes()))
    write("f.json", images[:2])
    names = ("a.traj", "b.cif", "POSCAR", "c.extxyz", "c.extxyz@1:", "d.extxyz.gz", "e.xyz.bz2", "f.json", "a.traj@-1",
             "a.traj@::2", "a.traj@::-2")  # fmt: skip
    source = source_of(*names)
    assert sorted(os.listdir("run")) == ["input.extxyz", "input.npz"]
    labels = [source.name(number) for number in range(len(source))]
    assert labels == [
        *(f"a.traj@{number}" for number in range(4)), "b.cif@0", "POSCAR@0", "c.extxyz@0", "c.extxyz@1", "c.extxyz@1",
        "d.extxyz.gz@0", "d.extxyz.gz@1", "e.xyz.bz2@0", "e.xyz.bz2@1", "f.json@id=1", "f.json@id=2", "a.traj@3",
        "a.traj@0", "a.traj@2", "a.traj@3", "a.traj@1",
    ]  # fmt: skip
    for number, label in enumerate(labels):
        found, again = source[number], read(label)
        again = again[0] if isinstance(again, list) else again  # of a query
        assert (found.positions == again.positions).all() and (found.cell.array == again.cell.array).all(), label
        assert found.symbols.get_chemical_formula() == again.symbols.get_chemical_formula()
        assert found.info[SOURCE] == label
        if label.startswith(("a.traj", "c.", "d.", "e.")):
            assert same(found, again), label
    for name in ("a.traj", "b.cif", "c.extxyz"):  # nothing of them is needed any more
        os.remove(name)
    source.check_unchanged()
    assert (source[0].positions == images[0].positions).all()


def test_rows_of_a_database_bring_their_keys_and_data(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    with connect("a.db") as database:
        for seed in range(5):
            data = {"doi": "10.1", "grid": np.arange(3)} if seed < 4 else {"wave": np.ones(2) * 1j}
            database.write(computed(seed), key_value_pairs={"family": "fcc", "n": seed}, data=data)
    for name, seeds in (("a.db", [0, 1, 2, 3, 4]), ("a.db@n>1", [2, 3, 4]), ("a.db@1:4:2", [1, 3]), ("a.db@-1", [4])):
        source = source_of(name)
        assert [source[number].info["n"] for number in range(len(source))] == seeds
    first = source_of("a.db@id=1")[0]
    assert first.info["id"] == 1 and first.info["family"] == "fcc"
    assert first.info["data"] == {"doi": "10.1", "grid": [0, 1, 2]}
    assert (first.positions == crystal(0).positions).all() and first.get_tags().tolist() == [1, 2, 3, 4]
    assert first.info["ref_energy"] == computed(0).get_potential_energy()
    (warning,) = {message for message in caplog.messages if "left out" in message}
    assert warning.startswith("a.db@id=5: its data is left out of the results. ") and warning.endswith("In all, 1 row.")
    with pytest.raises(ConfigurationError, match=r"rows are read in their order only"):
        source_of("a.db@::-1")


def test_many_rows_are_read_in_pages(here: Path) -> None:
    with connect("a.db") as database:
        for number in range(1005):
            database.write(Atoms("H"), key_value_pairs={"number": number})
    source = source_of("a.db")
    assert [source[index].info["number"] for index in (0, 999, 1000, 1004)] == [0, 999, 1000, 1004]
    assert len(source) == 1005


@pytest.mark.parametrize("name", ["bad.cif", "mixed.cif", "bad.traj@0"])
def test_a_file_that_cannot_be_read_fails_alone(here: Path, name: str) -> None:
    crystal().write("good.cif")
    Path("bad.cif").write_text("nonsense")
    mixed = bulk("Cu", cubic=True)
    mixed.info["occupancy"] = {str(i): {"Cu": 0.5, "Au": 0.5} for i in range(4)}
    mixed.set_array("spacegroup_kinds", np.arange(4))
    write("mixed.cif", mixed)
    empty = crystal()
    del empty[:]
    write("bad.traj", [empty, crystal()])
    source = source_of("good.cif", name, "good.cif")
    assert source.atoms_of.tolist() == [4, 0, 4]
    assert len(source[2]) == 4
    with pytest.raises(ConfigurationError, match=name.removesuffix("@0")):
        source[1]
    with pytest.raises(ConfigurationError, match=name.removesuffix("@0")):  # nothing could be computed
        source_of(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda atoms: atoms.info.update(wave=1j), r"a\.traj@1: A file in extended XYZ cannot hold 'wave'"),
        (lambda atoms: atoms.info.update(energy=1), r"a\.traj@1: A file in extended XYZ cannot hold 'energy'"),
        (lambda atoms: atoms.set_constraint(FixBondLengths([[0, 1]])), r"a\.traj@1: .* constraint FixBondLengths"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_name(here: Path, change: Callable[[Atoms], Any], message: str) -> None:
    odd = crystal(1)
    change(odd)
    write("a.traj", [crystal(0), odd])
    with pytest.raises(ConfigurationError, match=message):
        source_of("a.traj")


def test_a_constraint_on_coordinates(here: Path) -> None:
    atoms = crystal()
    atoms.set_constraint([FixAtoms([1]), FixCartesian(0, (True, False, True))])
    write("a.traj", atoms)
    free = np.ones((4, 3))
    found = source_of("a.traj")[0]
    for constraint in found.constraints:
        constraint.adjust_forces(found, free)
    assert free.astype(int).tolist() == [[0, 1, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("name", ["a b.extxyz", "it's; $(x) \"q\".extxyz", "new\nline.traj", "ü@1.extxyz", "-x.cif",
                                  "a@0.traj", "x=1@id=3.extxyz"])  # fmt: skip
def test_names_that_surprise_a_program(here: Path, name: str) -> None:
    crystal(3).write(name, format=name.rpartition(".")[2])
    crystal(4).write("other.cif")
    for names in ((name,), (name, "other.cif")):
        source = source_of(*names)
        found = source[0]
        assert found.info[SOURCE] == f"{name}@0"
        shift = (found.positions - crystal(3).positions) / 3.61  # a CIF file holds positions within the cell
        assert shift == pytest.approx(np.round(shift), abs=1e-7)


def test_a_format_that_is_named(here: Path) -> None:
    write("a.unknown", [crystal(0), crystal(1)], format="extxyz")
    crystal(2).write("b.unknown", format="vasp")
    assert source_of("a.unknown", kind="extxyz").name(1) == "a.unknown@1"
    assert (source_of("b.unknown", kind="vasp")[0].positions == read("b.unknown", format="vasp").positions).all()
    with pytest.raises(ConfigurationError, match="does not recognise its format"):
        source_of("a.unknown")


# -- results of the input


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db"])
def test_results_of_the_input_are_references(here: Path, name: str) -> None:
    known = computed()
    write_extxyz(Path(name), [known]) if name.endswith("xyz") else write(name, known)
    found = source_of(name)[0]
    assert found.calc is None
    assert found.info["ref_energy"] == known.get_potential_energy()
    assert (found.info["ref_stress"] == known.get_stress()).all()
    assert (found.arrays["ref_forces"] == known.get_forces(apply_constraint=False)).all()


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj"])
def test_references_of_the_users_stay(here: Path, name: str) -> None:
    known = computed()
    known.info["ref_energy"] = "of DFT"
    if name == "a.extxyz":  # the other keeps no arrays of users
        known.set_array("ref_forces", np.ones((4, 3)))
    write(name, known)
    found = source_of(name)[0]
    assert found.info["ref_energy"] == "of DFT"
    assert found.info["ref_energy_2"] == pytest.approx(known.get_potential_energy())
    assert name != "a.extxyz" or (found.arrays["ref_forces"] == 1).all()
    assert found.arrays["ref_forces_2" if name == "a.extxyz" else "ref_forces"].any(axis=1).all()


# -- the same files


def test_changed_input_is_refused(here: Path) -> None:
    write("a.extxyz", [crystal(0), crystal(1)])
    source = source_of("a.extxyz")
    text = Path("a.extxyz").read_text()
    source.check_unchanged()
    os.utime("a.extxyz", (1, 1))  # copied back, perhaps
    source.check_unchanged()
    for content, message in (
        (text + text, "it has .* bytes, and had"),
        (text.replace("x1", "x7"), "its content is another"),
    ):
        Path("a.extxyz").write_text(content)
        with pytest.raises(ConfigurationError, match=f"{here}/a.extxyz was changed since this run began: {message}"):
            source.check_unchanged()
    os.remove("a.extxyz")
    with pytest.raises(ConfigurationError, match="a.extxyz is gone"):
        source.check_unchanged()


def test_a_run_with_its_own_copy_goes_on_without_the_files(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    write("a.extxyz", [crystal(0), crystal(1)])
    crystal(2).write("b.cif")
    source = source_of("a.extxyz", "b.cif")
    source.check_unchanged()
    assert not caplog.messages
    write("a.extxyz", [crystal(3)])
    os.remove("b.cif")
    for _ in range(2):  # and says so once
        source.check_unchanged()
        (note,) = caplog.messages
        assert f"{here}/a.extxyz was changed since this run began: it has " in note
        assert note.endswith("The run goes on with its own copy: run/input.extxyz.")
    assert source[0].positions == pytest.approx(crystal(0).positions, abs=1e-7)
    with Path("run/input.extxyz").open("a") as file:
        file.write("1\n\nH 0 0 0\n")
    with pytest.raises(ConfigurationError, match="run/input.extxyz was changed"):
        source.check_unchanged()
    os.remove("run/input.extxyz")
    with pytest.raises(ConfigurationError, match="run/input.extxyz is gone"):
        source.check_unchanged()


def test_a_file_that_changes_while_it_is_used_is_no_structures_fault(here: Path) -> None:
    write("a.extxyz", [crystal(0), crystal(1), molecule("CH4")])
    source = source_of("a.extxyz")
    before, text = os.stat("a.extxyz"), Path("a.extxyz").read_text()
    with Path("a.extxyz").open("r+") as file:  # the same length, number of atoms and times: other positions
        file.write(re.sub(r"(Cu +-?0\.)\d", r"\g<1>7", text))
    os.utime("a.extxyz", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat("a.extxyz").st_size == before.st_size
    assert len(source[2]) == 5  # which is as it was
    for number in range(2):
        with pytest.raises(OSError, match="changed since this run began"):
            source[number]
    write("a.extxyz", [molecule("CH4"), crystal(0)])
    for number in range(3):
        with pytest.raises(OSError, match="changed since this run began"):
            source[number]


class Zero:
    """Computes zeros, and does something before it takes its third structure, and at the end."""

    name, parameters = "zero", {}

    def __init__(self, meanwhile: Callable[[], object] = int, at_end: Callable[[], object] = int) -> None:
        self.meanwhile, self.at_end = meanwhile, at_end

    def info(self) -> dict[str, Any]:
        words = dict.fromkeys(("root", "environment", "environment_sha256"), "")
        return {**words, "build": None, "weights": None, "properties": ["energy", "forces"]}

    def iter_many(self, images: Iterable[Atoms], *_: object, ordered: bool, **more: object) -> Iterator[Evaluated]:
        assert not ordered
        for number, atoms in enumerate(images):
            yield Evaluated(number, {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}, None, atoms)
            if number == 1:
                self.meanwhile()
        self.at_end()

    def close(self) -> None:
        pass


def compute(calculator: Zero) -> None:
    """Begin a run in the folder `run`, or go on with it."""
    asked = Asked("singlepoint", "zero", ["a.extxyz"], None, {}, {}, "cpu", Path("out.extxyz"))
    with begin(Path("run"), asked, lambda build: calculator, print) as (folder, source, _):
        carry_out(folder, source, calculator)


@pytest.mark.parametrize("when", ["meanwhile", "at_end"])
def test_a_run_holds_no_results_of_a_file_that_was_rewritten(here: Path, when: str) -> None:
    write("a.extxyz", [crystal(seed) for seed in range(5)])
    original = read("a.extxyz", ":")
    text = Path("a.extxyz").read_text()

    def rewrite() -> None:
        with Path("a.extxyz").open("r+") as file:
            file.write(re.sub(r"(Cu +-?0\.)\d", r"\g<1>7", text))

    refused: type[Exception] = OSError if when == "meanwhile" else ConfigurationError
    with pytest.raises(refused, match="changed since this run began"):
        compute(Zero(**{when: rewrite}))
    folder = RunFolder.open(Path("run"))
    recorded = 2 if when == "meanwhile" else 5
    frames = list(folder.frames())
    assert len(frames) == recorded and not list(folder.failures())
    for index, frame in frames:
        assert (read_frame(frame).positions == original[index].positions).all()
    with pytest.raises(ConfigurationError, match="a.extxyz was changed since this run began: its content is another"):
        compute(Zero())
    Path("a.extxyz").write_text(text)
    compute(Zero())
    assert len(list(folder.frames())) == 5


def test_a_damaged_index_is_refused(here: Path) -> None:
    write("a.extxyz", [crystal(0)])
    folder = Path("run")
    said = source_of("a.extxyz")._said
    whole = (folder / "input.npz").read_bytes()
    for content in (b"", whole[:-30], b"nonsense"):
        (folder / "input.npz").write_bytes(content)
        with pytest.raises(ConfigurationError, match="Cannot read run/input.npz: it is damaged"):
            Source(folder, said)
    os.remove("run/input.npz")
    with pytest.raises(ConfigurationError, match="No such file"):
        Source(folder, said)


def test_100_000_structures_are_never_in_memory(here: Path) -> None:
    """A share of them is read and recorded by a calculator in the process, and exported."""
    with Path("a.extxyz").open("w") as file:
        for number in range(100_000):
            file.write(f'2\nLattice="4 0 0 0 4 0 0 0 4" id=x{number}\nCu 0 0 {number * 1e-5!r}\nCu 1.8 1.8 1.8\n')
    done = run(sys.executable, "-c", _MANY, cwd=here, check=True)
    assert int(done.stdout) < 300
    assert Path("out.extxyz").read_text().count("pbc=") == 2_000


_MANY = """
from pathlib import Path
import numpy as np
from rootstock.client.evaluated import Evaluated
from rootstock.simulations.runs.carry_out import carry_out
from rootstock.simulations.runs.elements import Element
from rootstock.simulations.runs.export import export
from rootstock.simulations.runs.folder import RunFolder
from rootstock.simulations.runs.records import RunRecord
from rootstock.simulations.runs.source import Source, index_input

class Calculator:
    name, parameters = "zero", {}

    def iter_many(self, images, *asked, **more):
        for number, atoms in enumerate(images):
            yield Evaluated(number, {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}, None, atoms)

path = Path("run")
path.mkdir()
said = index_input(path, ["a.extxyz"], None, lambda text: None)
source = Source(path, said)
record = RunRecord(kind="singlepoint", settings={}, model="zero", structures=len(source), input=said, out="out.extxyz")
folder = RunFolder.create(path, record)
carry_out(folder, source, Calculator(), Element(3, 50))
export(folder, Path("out.extxyz"), overwrite=False)
(peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(int(peak.split()[1]) // 1024)  # ru_maxrss has that of the process which this one was forked from
"""
