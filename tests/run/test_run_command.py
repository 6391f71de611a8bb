"""``--run`` of singlepoint and relax, and ``rootstock run``: what a person types, and what comes of it after a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.db import connect
from ase.io import read, write
from click.testing import CliRunner

from rootstock.cli.progress_line import show_meanwhile
from rootstock.cli.user import main as user
from rootstock.errors import ConfigurationError
from rootstock.simulations.runs.begin import Asked, check_asked
from rootstock.simulations.runs.records import read_run
from tests.support.commands import ROOTSTOCK, Done, clean_environment, ordinary, run, started
from tests.support.processes import children, stop_tree, wait_for, wait_until_gone

Command = Callable[..., Done]


def crystal(seed: int = 0, *, symbol: str = "Cu", repeat: int = 1) -> Atoms:
    atoms = bulk(symbol, cubic=True) * (repeat, 1, 1)
    atoms.rattle(0.1, seed=seed)
    atoms.info["id"] = f"x{seed}"
    return atoms


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def environment(root: Path) -> dict[str, str]:
    return clean_environment(ROOTSTOCK_ROOT=str(root))


@pytest.fixture
def rootstock(here: Path, environment: dict[str, str]) -> Command:
    """Return what runs a command, in this process unless there is a prefix; what computes does so on a CPU."""

    def command(*words: str, prefix: tuple[str, ...] = ()) -> Done:
        device = () if words[0] == "run" else ("--device", "cpu")  # which the folder remembers
        if prefix:
            return run(*prefix, ROOTSTOCK, *words, env=environment)
        done = CliRunner().invoke(user, [*words, *device], prog_name="rootstock", env=environment)
        return Done(words, done.exit_code, done.stdout, done.stderr)

    return command


def status(rootstock: Command, folder: str = "s", *more: str) -> dict[str, object]:
    done = rootstock("run", "status", folder, "--json", *more)
    assert not done.returncode, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def said(text: str) -> str:
    """Return what a command printed, without how long it took."""
    return re.sub(r"; [0-9,]+ computed in [0-9.]+ s, [0-9.,]+ structures/[sh]$", "", text, flags=re.MULTILINE)


def counts(rootstock: Command, folder: str = "s") -> tuple[object, ...]:
    found = status(rootstock, folder)
    return tuple(found[name] for name in ("done", "not_converged", "failed", "missing"))


NONE_FAILED = {"structure": 0, "resource": 0}


# -- what comes of each structure


def test_a_bad_structure_does_not_stop_the_rest(rootstock: Command) -> None:
    images = [crystal(0), bulk("U", "fcc", a=4.5), molecule("N2"), crystal(3)]
    images[2].info["energy_of_dft"] = -1.5
    write("a.extxyz", images)
    text = Path("a.extxyz").read_text() + '1\nLattice="1 2 3"\nCu 0 0 0\n'
    Path("a.extxyz").write_text(text)
    done = rootstock("singlepoint", "emt", "a.extxyz", "--run", "s")
    assert done.returncode == 22, done.stderr
    assert re.fullmatch(
        r"s.extxyz: 3 of 5 structures; 2 failed \(structure\); 5 computed \(2 failed\) in .*\n", done.stdout
    )
    told = done.stderr.splitlines()
    lines = told[next(number for number, line in enumerate(told) if line.startswith("Error: ")) :]
    assert told[0] == "s: 5 structures with emt; 5 to compute"
    assert lines[0] == "Error: 2 of 5 structures failed:"
    assert lines[1].startswith("  a.extxyz@1, U: structure: ConfigurationError: Model emt does not know the")
    assert lines[2].startswith("  a.extxyz@4: structure: ConfigurationError: Cannot read a.extxyz@4 as extxyz: ")
    assert lines[3:] == [
        "List all failures:  rootstock run status s --failures",
        "2 of class structure: the model fails for them each time. Look at the structures.",
    ]
    found = read("s.extxyz", ":")
    for atoms, index in zip(found, (0, 2, 3), strict=True):
        again = read("a.extxyz@:4")[index]
        assert (atoms.positions == again.positions).all()
        again.calc = EMT()
        assert atoms.get_potential_energy() == pytest.approx(again.get_potential_energy(), abs=1e-9)
        assert atoms.get_forces() == pytest.approx(again.get_forces(), abs=1e-9)
        assert ("stress" in atoms.calc.results) == bool(atoms.pbc.any())
        assert atoms.info["rootstock_source"] == f"a.extxyz@{index}"
        assert atoms.info["rootstock_build"].startswith("emt/")
    assert found[1].info["energy_of_dft"] == -1.5
    assert counts(rootstock) == (3, 0, {"structure": 2, "resource": 0}, 0)
    failures = status(rootstock, "s", "--failures")["failures"]
    assert [(each["index"], each["class"]) for each in failures] == [(1, "structure"), (4, "structure")]  # type: ignore[attr-defined]
    shown = rootstock("run", "status", "s").stdout
    assert "failed                     2  2 of class structure" in shown and "a.extxyz@1, U: structure: " in shown
    again = rootstock("run", "retry-failed", "s")
    assert again.returncode == 22
    assert again.stderr.startswith("s: 5 structures with emt; 3 are done, 2 to compute\n") and lines[0] in again.stderr
    assert "2 computed (2 failed) in " in again.stdout  # of what this command was to compute
    again = rootstock("run", "continue", "s")
    assert again.stderr.splitlines()[0] == "s: 5 structures with emt; 3 are done, 2 failed, none to compute"
    assert counts(rootstock) == (3, 0, {"structure": 2, "resource": 0}, 0)


def test_stop_on_error(rootstock: Command) -> None:
    write("a.extxyz", [crystal(0), bulk("U", "fcc", a=4.5), crystal(1)])
    done = rootstock("singlepoint", "emt", "a.extxyz", "--run", "s", "--stop-on-error")
    assert (done.returncode, done.stdout) == (3, "")
    assert "a.extxyz@1" in done.stderr and "Continue with: rootstock run continue s\n" in done.stderr
    assert not Path("s.extxyz").exists()
    assert counts(rootstock)[2:] == ({"structure": 1, "resource": 0}, 2)
    done = rootstock("run", "continue", "s")
    assert done.returncode == 22
    assert "1 failed (structure); 2 computed in " in done.stdout  # none of which failed
    assert "s: 3 structures with emt; 1 failed, 2 to compute\n" in done.stderr
    assert len(read("s.extxyz", ":")) == 2


def test_relaxations(rootstock: Command) -> None:
    write("a.extxyz", [crystal(0), Atoms("Cu"), crystal(2)])
    words = ("relax", "emt", "a.extxyz", "--steps", "2", "--fmax", "0.001", "--run", "s")
    for _ in range(2):  # the second computes nothing
        done = rootstock(*words)
        assert (done.returncode, said(done.stdout)) == (21, "s.extxyz: 3 of 3 structures; 2 not converged\n")
        assert "2 of 3 structures did not reach 0.001 eV/Å in 2 steps: a.extxyz@0, a.extxyz@2." in done.stderr
    write("b.extxyz", [crystal(0), bulk("U", "fcc", a=4.5)])
    done = rootstock("relax", "emt", "b.extxyz", *words[3:-1], "t")
    assert done.returncode == 22 and "1 of 2 structures failed:" in done.stderr
    assert "1 of 2 structures did not reach 0.001 eV/Å in 2 steps: b.extxyz@0.\n" in done.stderr
    assert counts(rootstock) == (1, 2, NONE_FAILED, 0)
    assert [bool(atoms.info["converged"]) for atoms in read("s.extxyz", ":")] == [False, True, False]
    whole = rootstock("relax", "emt", "a.extxyz", "--steps", "2", "--fmax", "0.001", "--out", "whole.extxyz")
    assert whole.returncode == 21
    for atoms, other in zip(read("whole.extxyz", ":"), read("s.extxyz", ":"), strict=True):
        # But for rounding: in a step, ASE's EMT adds up in an order that depends on which structure it computed before.
        assert np.allclose(atoms.positions, other.positions, rtol=0, atol=1e-12)
        assert np.allclose(atoms.get_forces(), other.get_forces(), rtol=0, atol=1e-10)
        assert atoms.info == other.info and atoms.calc.results.keys() == other.calc.results.keys()
    refused = rootstock(*words, "--traj", "steps.extxyz")
    assert (refused.returncode, "--traj is not possible with --run" in refused.stderr) == (3, True)
    cells = rootstock("relax", "emt", "a.extxyz", "--opt-cell-fully", "--run", "cells", "--out", "cells.csv")
    assert cells.returncode == 22  # one atom without a cell
    assert "a.extxyz@1, Cu: structure: ConfigurationError: " in cells.stderr


def test_single_points_are_those_of_the_command_without_a_folder(rootstock: Command) -> None:
    """To the byte, references of the input aside."""
    write("a.traj", [crystal(0), molecule("N2"), crystal(2, repeat=2)])
    assert not rootstock("singlepoint", "emt", "a.traj", "--run", "s").returncode
    assert not rootstock("singlepoint", "emt", "a.traj", "--out", "whole.extxyz").returncode
    assert Path("s.extxyz").read_bytes() == Path("whole.extxyz").read_bytes()


def test_results_of_the_input_come_back_as_references(rootstock: Command) -> None:
    """A model sees none of them: it computes what it computes without."""
    known = crystal(0)
    write("plain.extxyz", known)
    known = read("plain.extxyz")
    known.calc = EMT()
    known.get_stress()
    known.calc.results = {name: 2 * value for name, value in known.calc.results.items()}
    write("known.traj", known)
    for name in ("plain.extxyz", "known.traj"):
        assert not rootstock("singlepoint", "emt", name, "--run", name[:1]).returncode
    found, plain = read("k.extxyz"), read("p.extxyz")
    assert found.get_potential_energy() == plain.get_potential_energy() != 0
    assert (found.get_forces() == plain.get_forces()).all()
    assert found.info["ref_energy"] == known.calc.results["energy"]
    assert (found.arrays["ref_forces"] == known.calc.results["forces"]).all()


def test_properties(rootstock: Command) -> None:
    write("a.extxyz", [crystal(0), crystal(1)])
    done = rootstock("singlepoint", "emt", "a.extxyz", "--run", "s", "--properties", "dipole")
    assert (done.returncode, "The model does not compute dipole; it computes energy" in done.stderr) == (3, True)
    assert not rootstock("singlepoint", "emt", "a.extxyz", "--run", "s", "--properties", "energies").returncode
    assert set(read("s.extxyz").calc.results) == {"energies"}


# -- files


def test_many_files_of_many_kinds(rootstock: Command) -> None:
    """Several files go into a file by the name of the folder."""
    write("a b.traj", [crystal(0), crystal(1)])
    crystal(2).write("c;d.cif")
    with connect("e.db") as database:
        database.write(crystal(3), key_value_pairs={"family": "fcc"})
    done = rootstock("singlepoint", "emt", "a b.traj", "c;d.cif", "e.db", "--run", "runs of mine")
    assert (done.returncode, said(done.stdout)) == (0, "runs of mine.extxyz: 4 of 4 structures\n"), done.stderr
    found = read("runs of mine.extxyz", ":")
    assert [atoms.info["rootstock_source"] for atoms in found] == ["a b.traj@0", "a b.traj@1", "c;d.cif@0", "e.db@id=1"]
    assert found[3].info["family"] == "fcc"
    for name in ("a b.traj", "c;d.cif"):
        os.remove(name)
    assert not rootstock("run", "continue", "runs of mine").returncode


def test_the_device_of_the_first_command(rootstock: Command, caplog: pytest.LogCaptureFixture) -> None:
    """It is where the others compute, unless they name one; commands to be copied say what they need to."""
    write("a.extxyz", [bulk("U", "fcc", a=4.5)] * 4)
    for words, device in (
        (("singlepoint", "emt", "a.extxyz", "--run", "s"), ""),
        (("run", "continue", "s"), ""),
        (("run", "continue", "s", "--device", "cuda:7", "--threads", "1"), " --device cuda:7 --threads 1"),
    ):
        done = rootstock(*words, "--stop-on-error")
        assert done.returncode == 3
        assert f"Continue with: rootstock run continue s{device}\n" in done.stderr, done.stderr
    loading = "worker: loading the model on "
    devices = [text.removeprefix(loading) for text in caplog.messages if text.startswith(loading)]
    assert devices == ["cpu", "cpu", "cuda:7"]


@pytest.mark.parametrize("out", ["a.db", "sub/a.extxyz"])
def test_other_outputs(rootstock: Command, out: str) -> None:
    write("a.extxyz", [crystal(0), crystal(1)])
    Path("sub").mkdir()
    words = ("singlepoint", "emt", "a.extxyz", "--run", "s", "--out", out)
    assert not rootstock(*words).returncode
    os.remove(out)
    done = rootstock("run", "continue", "s")  # it knows where to
    assert (done.returncode, done.stdout, Path(out).exists()) == (0, f"{out}: 2 of 2 structures\n", True), done.stderr


def test_export(rootstock: Command) -> None:
    write("a.extxyz", [crystal(0), crystal(1)])
    rootstock("singlepoint", "emt", "a.extxyz", "--run", "s")
    done = rootstock("run", "export", "s", "t.csv", "--json")
    assert json.loads(done.stdout) == {"schema": 1, "path": "t.csv", "structures": 2, "exported": 2,
                                       "not_converged": 0, "failed": NONE_FAILED, "missing": 0, "damaged": 0,
                                       "computed_twice": 0}  # fmt: skip
    assert rootstock("run", "export", "s", "t.csv").stdout == "t.csv: 2 of 2 structures\n"
    Path("t.csv").write_text("of somebody")
    assert (rootstock("run", "export", "s", "t.csv").returncode, Path("t.csv").read_text()) == (3, "of somebody")
    assert not rootstock("run", "export", "s", "t.csv", "--overwrite").returncode
    Path("s.extxyz").write_text("of somebody")
    for more, code in (((), 3), (("--out", "b.csv"), 0), (("--overwrite",), 0)):
        done = rootstock("run", "continue", "s", *more)
        assert done.returncode == code, done.stderr
    assert len(read("s.extxyz", ":")) == 2 and Path("b.csv").exists()
    refused = rootstock("run", "export", "s", "t.cif")
    assert (refused.returncode, "ase convert results.extxyz t.cif" in refused.stderr) == (3, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("singlepoint", "emt", "a.extxyz", "--run", "x", "--out", "x.traj"), "not written in that format"),
        (
            ("singlepoint", "emt", "a.extxyz", "--run", "x", "--out", "there.csv"),
            "there.csv exists.\nName another",
        ),
        (
            ("singlepoint", "emt", "a.extxyz", "--run", "x", "--out", "a.extxyz", "--overwrite"),
            "is one of the files",
        ),
        (("singlepoint", "emt", "none.extxyz", "--run", "x"), "There is no file none.extxyz"),
        (("singlepoint", "emt", "cut.extxyz", "--run", "x"), "frame 0 (line 1) is cut short"),
        (("singlepoint", "emt", "a.extxyz", "--run", "full", "--out", "x.csv"), "full holds other files"),
        (("singlepoint", "emt", "a.extxyz", "--run", "x/y", "--out", "x.csv"), "mkdir -p"),
        (("singlepoint", "emt", "a.extxyz", "--run", ".", "--out", "../x.csv"), "The folder . holds other files"),
        (("singlepoint", "emt", "a.extxyz", "--run", "a.extxyz", "--out", "x.csv"), "a.extxyz is not a folder"),
        (("singlepoint", "emt", "a.extxyz", "--run", "x" * 300, "--out", "x.csv"), "File name too long"),
        (("singlepoint", "emt", "a.extxyz", "--run", "x", "--out", "x/x.csv"), "would lie in the run folder x"),
        (("run", "status", "x" * 300), "File name too long"),
        (("run", "continue", "a.extxyz"), "a.extxyz is not a folder"),
        (("singlepoint", "emt", "a.extxyz", "--run", "x", "--element", "3/2"), "3/2 is no share of a run"),
        (("singlepoint", "emt", "a.extxyz", "--element", "1/2"), "--element is for --run"),
        (("singlepoint", "emt", "a.extxyz", "--stop-on-error"), "--stop-on-error is for --run"),
        (("singlepoint", "emt", "a.extxyz", "--run", "x", "--calc-kwargs", "[1]"), "is not a dictionary"),
        (("run", "status", "full"), "full holds no run: it has no run.json"),
        (("run", "export", "nowhere", "x.csv"), "The folder nowhere is not there"),
        (("singlepoint", "emt", "a.extxyz", "--run", "-x"), "-x begins with a dash"),
    ],
)
def test_wrong_words(rootstock: Command, words: tuple[str, ...], message: str) -> None:
    write("a.extxyz", [crystal(0)])
    Path("cut.extxyz").write_text("2\n\nCu 0 0 0\n")
    Path("there.csv").touch()
    Path("full").mkdir()
    Path("full/thesis.tex").touch()
    done = rootstock(*words)
    assert (done.returncode, message in done.stderr) == (3, True), done.stderr
    assert sorted(path for path in os.listdir() if path != "x") == ["a.extxyz", "cut.extxyz", "full", "there.csv"]
    assert os.listdir("full") == ["thesis.tex"]


def test_another_command_or_another_input_is_refused(rootstock: Command) -> None:
    write("a.extxyz", [crystal(0), crystal(1)])
    crystal(2).write("b.cif")
    words = ("relax", "emt", "a.extxyz", "--run", "s", "--out", "x.csv", "--steps", "1")
    assert not rootstock(*words, "--fmax", "9").returncode
    refused = rootstock(*words, "--fmax", "8")
    assert refused.returncode == 3
    assert "settings.fmax is 9.0 there, and 8.0 now" in refused.stderr and "rootstock run continue s" in refused.stderr
    record = read_run(Path("s"))
    same = Asked("relax", "emt", ["a.extxyz@:"], None, record.settings, {}, "cpu", Path("y.csv"))
    check_asked(Path("s"), record, same)
    for change, message in (
        ({"kind": "singlepoint", "settings": {"properties": []}}, 'kind is "relax" there, and "singlepoint" now'),
        ({"model": "lj"}, 'model is "emt" there, and "lj" now'),
        ({"setup_kwargs": {"a": 1}}, "setup_kwargs"),
        ({"names": ["a.extxyz", "b.cif"]}, "b.cif@: is new"),
        ({"names": ["a.extxyz@1:"]}, "a.extxyz@1: is new"),
        ({"names": ["a.extxyz", "a.extxyz"]}, "the order of files or their format is another"),
        ({"format": "extxyz"}, "the order of files or their format is another"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            check_asked(Path("s"), record, dataclasses.replace(same, **change))
    write("a.extxyz", [crystal(0), crystal(5), crystal(6)])
    for again in ((*words, "--fmax", "9"), ("run", "continue", "s")):
        done = rootstock(*again)
        assert (done.returncode, "a.extxyz was changed since this run began" in done.stderr) == (3, True), done.stderr
    assert not rootstock("run", "export", "s", "y.csv").returncode  # what it holds can be had all the same


def test_a_folder_of_somebody_else(rootstock: Command) -> None:
    """It can be looked at and exported, and not computed in."""
    write("a.extxyz", [crystal(0), crystal(1)])
    assert not rootstock("singlepoint", "emt", "a.extxyz", "--run", "s").returncode
    for part in Path("s").glob("part-*.index"):
        part.write_bytes(part.read_bytes()[:40])
    for path in (*Path("s").iterdir(), Path("s")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        prefix = tuple(ordinary())
        assert rootstock("run", "status", "s", prefix=prefix).returncode == 0
        exported = rootstock("run", "export", "s", "x.csv", prefix=prefix)
        assert exported.stdout == "x.csv: 1 of 2 structures; 1 not computed yet\n"
        done = rootstock("run", "continue", "s", prefix=prefix)
        assert (done.returncode, done.stderr) == (
            3,
            "Error: You cannot write into the run folder s; 1 structure cannot be computed there.\n"
            "What it holds can be had all the same: rootstock run export s FILE\n",
        )
        Path("t").mkdir(mode=0o555)
        done = rootstock("singlepoint", "emt", "a.extxyz", "--run", "t", "--out", "t.csv", prefix=prefix)
        assert (done.returncode, "Cannot make the run folder t: Permission denied" in done.stderr) == (3, True)
    finally:
        Path("s").chmod(0o755)


def test_a_complete_folder_of_somebody_else(rootstock: Command) -> None:
    """Nothing is to be computed: what is left is the export, to a file of one's own."""
    write("a.extxyz", [crystal(0), crystal(1)])
    assert not rootstock("singlepoint", "emt", "a.extxyz", "--run", "s").returncode
    os.mkdir("mine")
    os.chmod("mine", 0o777)
    os.chmod("s", 0o555)
    try:
        prefix = tuple(ordinary())
        done = rootstock("run", "continue", "s", prefix=prefix)
        assert (done.returncode, done.stderr) == (
            3,
            "Error: You cannot write into the run folder s; nothing is missing in it.\n"
            "What it holds can be had all the same: rootstock run export s FILE\n",
        )
        words = ("singlepoint", "emt", "a.extxyz", "--device", "cpu", "--run", "s", "--out", "mine/a.csv")
        done = rootstock(*words, prefix=prefix)
        assert (done.returncode, done.stdout) == (0, "mine/a.csv: 2 of 2 structures\n"), done.stderr
    finally:
        os.chmod("s", 0o755)


def test_json_of_commands_that_compute(rootstock: Command) -> None:
    """Standard output is one object, that of status."""
    write("a.extxyz", [crystal(0), bulk("U", "fcc", a=4.5), crystal(1)])
    assert rootstock("singlepoint", "emt", "a.extxyz", "--run", "s", "--stop-on-error").returncode == 3
    for command in ("continue", "retry-failed"):
        done = rootstock("run", command, "s", "--json")
        assert (done.returncode, json.loads(done.stdout)) == (22, status(rootstock)), done.stderr
        assert "s.extxyz: 2 of 3 structures; 1 failed (structure)" in done.stderr
    assert json.loads(done.stdout)["running"] == []


def test_threads_are_kept(rootstock: Command) -> None:
    """The last digits may depend on them: each number that has computed is in the record, once."""
    write("a.extxyz", [crystal(0), bulk("U", "fcc", a=4.5), crystal(1), bulk("U", "fcc", a=4.6)])
    assert rootstock("singlepoint", "emt", "a.extxyz", "--run", "s", "--threads", "1").returncode == 22
    assert status(rootstock)["threads"] == [1]
    for threads in ("2", "1"):
        assert rootstock("run", "retry-failed", "s", "--threads", threads).returncode == 22
    assert status(rootstock)["threads"] == [1, 2] and not list(Path("s").glob("*.lock"))


def test_what_is_wrong_is_told_before_what_is_in_the_way(rootstock: Command) -> None:
    """An output that exists may be the consequence of another mistake."""
    write("a.extxyz", [crystal(0)])
    for name in ("s.extxyz", "full.extxyz"):
        Path(name).touch()
    os.mkdir("full")
    Path("full/thesis.tex").touch()
    for words, message in (
        (("singlepoint", "emt", "a.extxyz", "--run", "s"), "s.extxyz exists"),
        (("singlepoint", "emtt", "a.extxyz", "--run", "s"), "Did you mean 'emt'?"),
        (("singlepoint", "emt", "a.extxyz", "--run", "full"), "full holds other files"),
    ):
        done = rootstock(*words)
        assert (done.returncode in (3, 4), message in done.stderr) == (True, True), done.stderr
    assert not rootstock("singlepoint", "emt", "a.extxyz", "--run", "t").returncode
    Path("t.extxyz").write_text("of somebody")
    done = rootstock("singlepoint", "emt", "a.extxyz", "--run", "t", "--properties", "energy")
    assert (done.returncode, "t holds another run: settings.properties" in done.stderr) == (3, True), done.stderr
    done = rootstock("singlepoint", "emt", "a.extxyz", "--run", "t2", "--properties", "energy")  # as the error says
    assert (done.returncode, Path("t2.extxyz").exists()) == (0, True), done.stderr


def test_the_output_lies_beside_the_folder(rootstock: Command) -> None:
    write("a.extxyz", [crystal(0)])
    os.mkdir("sub")
    done = rootstock("singlepoint", "emt", "a.extxyz", "--run", "sub/s.v1")
    assert (done.returncode, said(done.stdout)) == (0, "sub/s.v1.extxyz: 1 of 1 structures\n"), done.stderr


def test_a_relaxation_goes_on_as_it_is_told(rootstock: Command) -> None:
    """The command that the error gives, and nothing else."""
    write("a.extxyz", [crystal(0), crystal(1)])
    words = ("relax", "emt", "a.extxyz", "--steps", "5", "--fmax", "0.05", "--opt-cell-fully", "--run", "s")
    for more in ((), ("--out", "t.csv")):
        done = rootstock(*words, *more)
        assert done.returncode == 21
        folder = "s-further"
        shutil.rmtree(folder, ignore_errors=True)
        for line in done.stderr.splitlines()[-1].strip().split(" && "):
            program, *given = shlex.split(line)
            if given[-2:] == ["--run", folder]:
                given += ["--overwrite"]
            done = rootstock(*given)
            assert (program, done.returncode) == ("rootstock", 0), done.stderr
        assert all(atoms.info["converged"] for atoms in read("s-further.extxyz", ":"))


def test_a_result_that_is_damaged_on_disk(rootstock: Command) -> None:
    """It costs itself only, is told, and is computed again."""
    write("a.extxyz", [crystal(0), crystal(1), crystal(2)])
    assert not rootstock("singlepoint", "emt", "a.extxyz", "--run", "s").returncode
    whole = Path("s.extxyz").read_bytes()
    (part,) = Path("s").glob("part-*.extxyz")
    part.write_bytes(part.read_bytes().replace(b"a.extxyz@1", bytes(10)))
    done = rootstock("run", "continue", "s")
    assert (done.returncode, "1 of 3 results are damaged on disk, and left out." in done.stderr) == (22, True)
    assert [atoms.info["id"] for atoms in read("s.extxyz", ":")] == ["x0", "x2"]
    done = rootstock("run", "retry-failed", "s")
    assert (done.returncode, "1 result damaged on disk: computed again." in done.stderr) == (0, True), done.stderr
    assert Path("s.extxyz").read_bytes() == whole


# -- several processes, and ends that nobody chose


def recorded() -> int:
    return sum(path.stat().st_size for path in Path("s").glob("part-*.index"))


@contextlib.contextmanager
def computing(environment: dict[str, str], event: Callable[[], object]) -> Iterator[subprocess.Popen[str]]:
    """Start a run in the folder s, and yield its process when something has come to pass, and not all is computed."""
    for _ in range(5):
        shutil.rmtree("s", ignore_errors=True)
        Path("s.extxyz").unlink(missing_ok=True)
        words = [ROOTSTOCK, "singlepoint", "emt", "a.extxyz", "--run", "s", "--device", "cpu"]
        with started(words, env=environment) as process:
            wait_for(lambda: event() or process.poll() is not None, "the beginning of a run")
            process.send_signal(signal.SIGSTOP)
            if process.poll() is None:
                yield process
                return
    raise AssertionError("It was too fast, five times.")


def test_the_same_command_after_a_kill(rootstock: Command, environment: dict[str, str]) -> None:
    """What was recorded is not computed again, and the file is that of a run that nobody killed."""
    images = [crystal(number, repeat=1 + 15 * (number >= 45)) for number in range(70)]
    for atoms in images[:45]:  # recorded as soon as they are 16 MB
        atoms.set_array("note", np.array(["x" * 100_000] * 4))
    write("a.extxyz", images)
    with computing(environment, recorded) as process:
        others = children(process.pid)
        now = status(rootstock)
        (who,) = now["running"]  # type: ignore[misc]
        assert who["structures_per_s"] > 0
        assert who["seconds_left"] * who["structures_per_s"] == pytest.approx(now["missing"])
        process.kill()
        process.wait()
        wait_until_gone(*others)
        before = {path: path.read_bytes() for path in Path("s").glob("part-*")}
        found = status(rootstock)
        (ended,) = found["running"]  # type: ignore[misc]
        assert (ended["state"], ended["pid"], ended["structures_per_s"]) == ("ended", process.pid, None)
        assert 0 < found["done"] < 70 and found["done"] + found["missing"] == 70  # type: ignore[operator]
    assert not Path("s.extxyz").exists()
    done = rootstock("singlepoint", "emt", "a.extxyz", "--run", "s")
    assert (done.returncode, said(done.stdout)) == (0, "s.extxyz: 70 of 70 structures\n"), done.stderr
    found = status(rootstock)
    assert (found["computed_twice"], found["running"]) == (0, [])
    assert all(path.read_bytes() == content for path, content in before.items())
    whole = rootstock("singlepoint", "emt", "a.extxyz", "--run", "whole", "--out", "whole.extxyz")
    assert not whole.returncode, whole.stderr
    assert Path("s.extxyz").read_bytes() == Path("whole.extxyz").read_bytes()


@pytest.mark.parametrize("how", ["cancel", "Ctrl-C"])
def test_a_run_that_is_ended_says_how_to_go_on(rootstock: Command, environment: dict[str, str], how: str) -> None:
    write("a.extxyz", [crystal(number) for number in range(60)])
    with computing(environment, Path("s/computing-1-of-1.json").exists) as process:
        others = stop_tree(process.pid)
        if how == "cancel":
            (who,) = status(rootstock)["running"]  # type: ignore[misc]
            assert (who["state"], who["pid"], who["element"]) == ("running", process.pid, "1/1")
            for words in (("run", "continue", "s"), ("run", "continue", "s", "--element", "1/2")):
                refused = rootstock(*words)
                assert (refused.returncode, f"process {process.pid}" in refused.stderr) == (11, True), refused.stderr
            done = rootstock("run", "cancel", "s", "--json")
            (ended,) = json.loads(done.stdout)["processes"]
            assert (ended["pid"], ended["done"].startswith("was sent SIGTERM")) == (process.pid, True)
        else:
            process.send_signal(signal.SIGINT)
        for pid in (process.pid, *others):  # it may wait for what its worker is computing
            os.kill(pid, signal.SIGCONT)
        told = process.communicate()[1]
        wait_until_gone(*others)
    assert process.returncode == 130
    found = status(rootstock)
    first, *_, last = told.splitlines()  # between them is what the worker did meanwhile, if it was suspended for long
    assert (first, last) == (
        "s: 60 structures with emt; 60 to compute",
        f"Interrupted. {found['done']} of 60 structures are recorded. Continue with: rootstock run continue s",
    )
    assert found["running"] == []
    if how == "cancel":
        assert rootstock("run", "cancel", "s").stdout == "Nothing computes s.\n"
        assert not rootstock("run", "continue", "s").returncode
        assert len(read("s.extxyz", ":")) == 60


def test_what_is_shown_on_a_terminal(here: Path, environment: dict[str, str]) -> None:
    """Each step, also before there are results; at the end how long it took."""
    write("a.extxyz", [crystal(0)])
    ours, theirs = pty.openpty()
    words = [ROOTSTOCK, "singlepoint", "emt", "a.extxyz", "--run", "s", "--device", "cpu"]
    process = subprocess.Popen(words, env=environment | {"TERM": "xterm"}, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as terminal:  # the end of a terminal is an error
        while block := terminal.read(4096):
            shown += block
    assert process.wait() == 0
    assert re.search(rb"worker: (importing|running|loading)", shown), shown
    assert re.search(rb"s.extxyz: 1 of 1 structures; 1 computed in [0-9.]+ s", shown), shown


def test_a_slow_start_is_told_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Soon; what follows in its time, and for how long there was nothing."""
    shown: list[str] = []

    def told() -> bool:
        shown.append(capsys.readouterr().err)
        return "worker: loading the model" in "".join(shown)

    with show_meanwhile(0.01) as show:
        show("worker: loading the model")
        wait_for(told, "the line")
    with show_meanwhile(0.01, 0.6) as show:
        show("worker: loading the model")
        wait_for(lambda: told() and "worker: loading the model (no news for 1 s)" in "".join(shown), "another line")


def test_elements_that_start_at_once(rootstock: Command, environment: dict[str, str]) -> None:
    """One makes the run, the others wait for that; the last one exports."""
    write("a.extxyz", [crystal(number) for number in range(30)])
    words = [str(ROOTSTOCK), "singlepoint", "emt", "a.extxyz", "--run", "s", "--device", "cpu"]
    processes = [
        subprocess.Popen([*words, "--element", f"{number}/2"], env=environment, stdout=subprocess.PIPE, text=True)
        for number in (1, 2)
    ]
    told = [said(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert sum("Still missing in s: " in text for text in told) <= 1  # both may end at once
    assert "s.extxyz: 30 of 30 structures\n" in told
    assert counts(rootstock) == (30, 0, NONE_FAILED, 0)
    assert not rootstock("singlepoint", "emt", "a.extxyz", "--out", "whole.extxyz").returncode
    assert Path("s.extxyz").read_bytes() == Path("whole.extxyz").read_bytes()


def test_a_build_that_is_gone(rootstock: Command, here: Path) -> None:
    """The digest is named; with --rebase the build in use goes on, which the folder records."""
    write("a.extxyz", [crystal(0), crystal(1)])
    assert not rootstock("singlepoint", "emt", "a.extxyz", "--run", "s").returncode
    record = json.loads(Path("s/run.json").read_text())
    build, record["build"] = record["build"], "0123456789abcdef"
    Path("s/run.json").write_text(json.dumps(record))
    for part in Path("s").glob("part-*.index"):
        part.write_bytes(part.read_bytes()[:40])
    for words in (("run", "continue", "s"), ("singlepoint", "emt", "a.extxyz", "--run", "s")):
        done = rootstock(*words)
        assert done.returncode in (3, 10)
        assert "0123456789abcdef" in done.stderr and "rootstock run continue --rebase s" in done.stderr, done.stderr
    done = rootstock("run", "continue", "s", "--rebase")
    assert (done.returncode, said(done.stdout)) == (0, "s.extxyz: 2 of 2 structures\n"), done.stderr
    found = status(rootstock)
    assert found["build"] == build and found["earlier"][0]["build"] == "0123456789abcdef"  # type: ignore[index]


def test_the_schema_of_status(rootstock: Command, root: Path, here: Path) -> None:
    write("a.extxyz", [crystal(0)])
    assert not rootstock("singlepoint", "emt", "a.extxyz", "--run", "s").returncode
    found = status(rootstock, "s", "--failures")
    assert list(found) == [
        "schema", "folder", "kind", "model", "environment", "build", "root", "settings", "out", "created", "earlier",
        "threads", "structures", "done", "not_converged", "failed", "missing", "partial", "computed_twice",
        "damaged_records", "running", "jobs", "engine_jobs", "bad_nodes", "failures",
    ]  # fmt: skip
    assert (found["schema"], found["folder"], found["root"]) == (1, str(here / "s"), str(root))
    assert (found["kind"], found["model"], found["out"]) == ("singlepoint", "emt", str(here / "s.extxyz"))
    assert np.isfinite(read("s.extxyz").get_potential_energy())
    for words in (("status", "scren"), ("continue", "screnn"), ("export", "Screen", "x.csv")):
        os.makedirs("screen", exist_ok=True)
        shutil.copy("s/run.json", "screen/run.json")
        done = rootstock("run", *words)
        assert (done.returncode, "Did you mean 'screen'?" in done.stderr) == (3, True), done.stderr
    shutil.move("s", "t")  # a folder may be moved, as may its output
    assert counts(rootstock, "t") == (1, 0, NONE_FAILED, 0)
