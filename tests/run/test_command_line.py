"""What people type: in another order, in another program's words, and with nowhere to print to."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.socketio import SocketIOCalculator
from ase.io import read

from tests.support.commands import DEADLINE_S, ROOTSTOCK, SITE, Done, clean_environment, run, started
from tests.support.processes import children, wait_for

Type = Callable[[str], Done]


def crystal(symbol: str = "Cu") -> Atoms:
    atoms = bulk(symbol, cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.fixture
def type_line(root: Path, tmp_path: Path) -> Type:
    """Return what runs a line as a shell does, in a folder with two files of structures, where a module is loaded."""
    crystal().write(tmp_path / "POSCAR", format="vasp")
    crystal().write(tmp_path / "a b.xyz")
    path = f"{ROOTSTOCK.parent}:{os.environ['PATH']}"
    environment = clean_environment(ROOTSTOCK_ROOT=str(root), PATH=path, ROOTSTOCK_CLUSTER="")
    return lambda line: run("bash", "-c", line, cwd=tmp_path, env=environment)


# -- in another order, or in other words


@pytest.mark.parametrize(
    ("typed", "said", "meant"),
    [
        ("singlepoint POSCAR emt", "MODEL comes first", "rootstock singlepoint emt POSCAR"),
        ("singlepoint 'a b.xyz@0' --device cpu emt", "'emt' is the model",
         "rootstock singlepoint emt 'a b.xyz@0' --device cpu"),
        ("singlepoint nosuch.cif emt", "MODEL comes first", "rootstock singlepoint emt nosuch.cif"),
        ("singlepoint POSCAR", "'POSCAR' is a file", "rootstock singlepoint MODEL POSCAR"),
        ("singlepoint POSCAR 'a b.xyz'", "'POSCAR' is a file", "rootstock singlepoint MODEL POSCAR 'a b.xyz'"),
        ("singlepoint --model emt POSCAR", "MODEL is the first argument, without --model",
         "rootstock singlepoint emt POSCAR"),
        ("singlepoint --struct=POSCAR --arch mace_mp --model small", "structures follow MODEL, without --struct",
         "rootstock singlepoint MODEL POSCAR"),
        ("relax emt POSCAR --output 'my file.cif' --nsteps 9", "--output is --out here; --nsteps is --steps here",
         "rootstock relax emt POSCAR --out 'my file.cif' --steps 9"),
        ("md emt POSCAR --ensemble nve --nsteps 1 --temperature 9 --dt 2 --traj_every 5", "--nsteps is --steps here",
         "rootstock md emt POSCAR --ensemble nve --steps 1 --temp 9 --timestep 2 --traj-every 5"),
        ("md POSCAR emt --ensemble nve --steps 1", "MODEL comes first",
         "rootstock md emt POSCAR --ensemble nve --steps 1"),
        ("worker POSCAR --address x", "'POSCAR' is a file", "rootstock worker MODEL --structure POSCAR --address x"),
        ("worker emt POSCAR --unixsocket x", "the structure is given by --structure",
         "rootstock worker emt --structure POSCAR --socket x"),
        ("show POSCAR", "'POSCAR' is a file", "rootstock show MODEL"),
        ("show --model emt", "MODEL is the first argument", "rootstock show emt"),
        ("why-not POSCAR", "'POSCAR' is a file", "rootstock why-not MODEL"),
        ("doctor emt", "'rootstock doctor' is about all models", "rootstock why-not emt"),
        ("list --model emt", "'rootstock list' is about all models", "rootstock show emt"),
        ("emt POSCAR", "'emt' is a model", "rootstock singlepoint emt POSCAR"),
        ("POSCAR emt", "'POSCAR' is a file", "rootstock singlepoint emt POSCAR"),
        ("geomopt emt POSCAR", "There is no command 'geomopt'", "rootstock relax emt POSCAR"),
        ("help", "There is no command 'help'", "rootstock --help"),
        ("--root x list", "Options follow the command", "rootstock list --root x"),
        ("install --env mace", "'install' is a command of rootstock-site", "rootstock-site install --env mace"),
        ("singlepoint emt POSCAR --gpu -o x.xyz", "--gpu is --device cuda here",
         "rootstock singlepoint emt POSCAR --device cuda -o x.xyz"),
        ("relax emt POSCAR --cpu", "--cpu is --device cpu here", "rootstock relax emt POSCAR --device cpu"),
        ("relax emt POSCAR --output --overwrite", "--output is --out here",
         "rootstock relax emt POSCAR --out ... --overwrite"),
        ("relax emt POSCAR -device cpu", "-device is written --device", "rootstock relax emt POSCAR --device cpu"),
        ("relax emt POSCAR -out x.xyz", "-out is written --out", "rootstock relax emt POSCAR --out x.xyz"),
        ("relax emt POSCAR \u2013device=cpu \u2014fmax 9 \u2013o x.xyz", "\u2014fmax is written --fmax",
         "rootstock relax emt POSCAR --device=cpu --fmax 9 -o x.xyz"),
        ("md emt POSCAR --ensemble nve --steps 1 --restart POSCAR-nve-restart.json", "--restart takes no file",
         "rootstock md emt POSCAR --ensemble nve --steps 1 --restart --file-prefix POSCAR-nve"),
        ("warm --env emt", "MODEL is the first argument, without --env", "rootstock warm emt"),
        ("help md", "There is no command 'help'", "rootstock md --help"),
        ("cluster list della", "'rootstock cluster list' is about all clusters", "rootstock cluster show della"),
        ("cluster della", "'della' is a cluster", "rootstock cluster show della"),
        ("-site show emt", "'show' is a command of rootstock", "rootstock show emt"),
        ("-site install mace", "takes environments by --env", "rootstock-site install --env mace"),
    ],
)  # fmt: skip
def test_the_line_that_was_meant(type_line: Type, typed: str, said: str, meant: str) -> None:
    done = type_line(f"rootstock{'' if typed.startswith('-site') else ' '}{typed}")
    assert done.returncode == 2, done.stderr
    message = done.stderr.partition("Error: ")[2]
    assert said.lower() in message.lower()
    assert message.endswith(f". Run:\n  {meant}\n")
    assert not done.stdout


@pytest.mark.parametrize(
    "typed", ["singlepoint 'a b.xyz' emt --device cpu", "relax --arch emt --struct POSCAR --device cpu --fmax 9",
              "md POSCAR emt --ensemble nve --nsteps 1 --device cpu"],
)  # fmt: skip
def test_the_line_that_was_meant_works(type_line: Type, typed: str) -> None:
    done = type_line(type_line(f"rootstock {typed}").stderr.splitlines()[-1])
    assert not done.returncode, done.stderr


def test_unknown_words_are_compared_with_those_of_both_command_lines(type_line: Type) -> None:
    assert "Did you mean 'rootstock-site install'" in type_line("rootstock instal").stderr
    assert "Did you mean 'rootstock relax'" in type_line("rootstock relx").stderr
    assert "No such option '--nonsense'" in type_line("rootstock singlepoint --nonsense emt POSCAR").stderr


def test_options_that_nobody_knows(type_line: Type) -> None:
    said = type_line("rootstock md --struct POSCAR emt --stats-file x --ensemble nve --steps 1").stderr
    assert "Structures follow MODEL, without --struct; there is no option --stats-file." in said
    assert type_line("rootstock relax emt POSCAR --filter x").stderr.endswith("No such option '--filter'.\n")
    said = type_line("rootstock relax emt POSCAR --cell").stderr
    assert "No such option '--cell'. Did you mean '--opt-cell-lengths' or '--opt-cell-fully'?" in said


def test_a_file_may_be_called_as_a_model(type_line: Type, tmp_path: Path) -> None:
    (tmp_path / "emt").write_text("notes")
    done = type_line("rootstock singlepoint emt POSCAR --device cpu")
    assert not done.returncode, done.stderr
    assert type_line("rootstock show emt").returncode == 0


# -- options


def test_the_format_of_files_whose_names_do_not_tell(type_line: Type, tmp_path: Path) -> None:
    (tmp_path / "POSCAR").rename(tmp_path / "start")
    expected = read(tmp_path / "a b.xyz").get_volume()
    assert type_line("rootstock singlepoint emt start --device cpu").returncode == 3
    for line in ("singlepoint emt start", "relax emt start --fmax 9", "md emt start --ensemble nve --steps 1"):
        done = type_line(f"rootstock {line} --device cpu --format vasp")
        assert not done.returncode, done.stderr
    for name in ("results", "relaxed", "nve-final"):
        assert read(tmp_path / f"start-{name}.extxyz").get_volume() == pytest.approx(expected)
    done = type_line("rootstock worker emt --structure start --address x --device cpu --wait 0")
    assert "Cannot read start" in done.stderr
    done = type_line("rootstock worker emt --structure start --format vasp --address no-such --device cpu --wait 0")
    assert done.returncode == 18 and "no-such" in done.stderr, done.stderr
    for wrong, meant in (("POSCAR", "'vasp'"), ("lammps", "'lammps-data'"), ("CIF", "'cif'")):
        done = type_line(f"rootstock singlepoint emt start --format {wrong}")
        assert done.returncode == 2
        assert f"reads no format named '{wrong}'. Did you mean {meant}" in done.stderr


@pytest.mark.parametrize(
    "line", ["relax emt POSCAR --fmax 1e-300 --steps 1000000", "md emt POSCAR --ensemble nve --steps 1000000"]
)
def test_the_threads_of_a_worker(root: Path, tmp_path: Path, line: str) -> None:
    crystal().write(tmp_path / "POSCAR", format="vasp")
    words = [ROOTSTOCK, *line.split(), "--root", root, "--device", "cpu", "--threads", "3"]
    with started(words, cwd=tmp_path, env=clean_environment(OMP_NUM_THREADS="2")) as process:
        wait_for(lambda: children(process.pid) or process.poll() is not None, "a worker")
        (pid,) = children(process.pid)
        wait_for(lambda: b"rootstock/worker" in Path(f"/proc/{pid}/cmdline").read_bytes(), "the worker's program")
        assert b"OMP_NUM_THREADS=3" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_a_driver_takes_all_options_of_a_model(root: Path, tmp_path: Path) -> None:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.write(tmp_path / "a.xyz")
    address = f"test-{secrets.token_hex(8)}"
    line = ["worker", "lj-argon", "--structure", "a.xyz", "--address", address, "--device", "cpu", "--root", root,
            "--threads", "3", "--calc-kwargs", "{'sigma': 3.3}"]  # fmt: skip
    expected = atoms.copy()
    expected.calc = LennardJones(sigma=3.3, epsilon=0.010323, rc=10.0)
    with (
        SocketIOCalculator(unixsocket=address, timeout=DEADLINE_S) as calc,
        started([ROOTSTOCK, *line], cwd=tmp_path) as process,
    ):
        atoms.calc = calc
        assert atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy())
        (pid,) = children(process.pid)
        assert b"OMP_NUM_THREADS=3" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("md emt POSCAR --steps 1 --ensemble nve --friction 0.005", "--friction is for nvt; nve does not use it"),
        ("md emt POSCAR --steps 1 --ensemble nvt --taut 100", "--taut is for nvt-csvr; nvt does not"),
        ("md emt POSCAR --steps 1 --ensemble nvt-nh --barostat-time 1", "--barostat-time is for npt-mtk; nvt-nh"),
        ("md emt POSCAR --steps 1 --ensemble nvt --thermostat-time 1", "--thermostat-time is for nvt-nh and npt-mtk"),
        ("md emt POSCAR --steps 1 --ensemble nvt --pressure 0", "--pressure is for npt-mtk; nvt does not use it"),
        ("relax emt POSCAR --pressure 0", "--pressure is for a cell that is relaxed"),
        ("worker emt --structure POSCAR --address x --host y", "--host is for a server at a TCP port"),
        ("-site verify --files", "--device is for numbers; --files computes nothing"),
        ("-site check-env own.py", "--device is for --build"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(type_line: Type, line: str, message: str) -> None:
    done = type_line(f"rootstock{'' if line.startswith('-site') else ' '}{line} --device cpu")
    assert (done.returncode, message in done.stderr) == (3, True), done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("md emt POSCAR --ensemble nve --steps ten", "'ten' is not a whole number, such as 1000."),
        ("md emt POSCAR --ensemble nve --steps 2.5", "'2.5' is not a whole number"),
        ("md emt POSCAR --ensemble nve --steps 10,000", "'10,000' is not a whole number"),
        ("md emt POSCAR --ensemble nve --steps 9 --temp 300K", "'300K' is not a number. Write 0.05 or 300: with a"),
        ("relax emt POSCAR --fmax 0,01", "'0,01' is not a number. Write 0.05 or 300: with a point, without a unit."),
        ("relax emt POSCAR --optimizer BFSG", "Did you mean 'BFGS'?"),
        ("md emt POSCAR --steps 1 --ensemble npt", "'npt' is not one of nve, nvt, nvt-csvr, nvt-nh, npt-mtk. Did you"),
    ],
)
def test_numbers_and_words_that_are_none(type_line: Type, line: str, message: str) -> None:
    done = type_line(f"rootstock {line} --device cpu")
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    "line",
    ["md emt POSCAR --ensemble NVE --steps 1e0 --seed 1", "relax emt POSCAR --optimizer lbfgs --steps 1E2 --fmax 9"],
)
def test_numbers_and_words_in_another_spelling(type_line: Type, line: str) -> None:
    done = type_line(f"rootstock {line} --device cpu")
    assert not done.returncode, done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("singlepoint emt POSCR", "no file POSCR.\nThe current folder is {here}. Did you mean POSCAR?"),
        (
            "singlepoint emt 'a b.xyz:-1'",
            "file a b.xyz:-1.\nA frame is picked with @, as in ASE: a b.xyz@-1",
        ),
        (
            "singlepoint emt --properties energy forces POSCAR",
            "no file forces.\nThe current folder is {here}.",
        ),
        (
            "md emt POSCR --ensemble nve --steps 1",
            "no file POSCR.\nThe current folder is {here}. Did you mean",
        ),
        ("singlepoint emt .", "Cannot read .: it is a folder.\nName files in it, such as ./*.xyz."),
        ("singlepoint emt POSCAR 'a b.xyz'", "no name yet.\nName it: --out results.extxyz"),
        ("singlepoint emt POSCAR --calc-kwargs dtype=x", "--calc-kwargs dtype=x is not a dictionary, as Python"),
        (
            "worker emt --structure POSCAR --port 9 --wait 0",
            "No i-PI server answers at localhost:9 (Connection",
        ),
    ],
)
def test_files_and_other_things_that_are_not_there(type_line: Type, tmp_path: Path, line: str, message: str) -> None:
    for name in ("POSCR", "POSCR-nve"):  # the input is more to the point than what a former command wrote
        for ending in ("results.extxyz", "stats.dat"):
            (tmp_path / f"{name}-{ending}").touch()
    done = type_line(f"rootstock {line} --device cpu")
    assert message.format(here=tmp_path) in done.stderr


def test_a_folder_for_results_is_made_as_the_message_says(type_line: Type, tmp_path: Path) -> None:
    for command, place in (("singlepoint", "--out 'my results/a.xyz'"), ("md", "--file-prefix 'my results/a'")):
        line = f"rootstock {command} emt POSCAR --device cpu {place}"
        line += " --ensemble nve --steps 1 --overwrite" if command == "md" else ""
        refused = type_line(line)
        assert refused.returncode == 3 and "Cannot write into" in refused.stderr, refused.stderr
        made = type_line(refused.stderr.splitlines()[-1].removeprefix("Make the folder first: "))
        assert not made.returncode, made.stderr
        assert not (done := type_line(line)).returncode, done.stderr
        shutil.rmtree(tmp_path / "my results")


def test_properties_separated_by_commas(type_line: Type, tmp_path: Path) -> None:
    done = type_line("rootstock singlepoint emt POSCAR --device cpu --properties energy,forces")
    assert not done.returncode, done.stderr
    assert set(read(tmp_path / "poscar-results.extxyz").calc.results) == {"energy", "forces"}


# -- names of results


@pytest.mark.parametrize("command", ["singlepoint", "relax"])
def test_results_go_where_the_help_says(type_line: Type, tmp_path: Path, command: str) -> None:
    text = " ".join(type_line(f"rootstock {command} --help").stdout.split()).replace("- ", "-")
    name = re.search(r"\[default: (STRUCTURE\S+) in this folder\]", text)
    assert name
    done = type_line(f"rootstock {command} emt POSCAR --device cpu -o out.traj")
    assert not done.returncode and (tmp_path / "out.traj").exists()
    done = type_line(f"rootstock {command} emt POSCAR --device cpu")
    assert not done.returncode, done.stderr
    assert "energy" in read(tmp_path / name[1].replace("STRUCTURE", "poscar")).calc.results  # not one of VASP's


def test_structures_of_one_name(type_line: Type, tmp_path: Path) -> None:
    for folder, symbol in (("one", "Cu"), ("two", "Au")):
        (tmp_path / folder).mkdir()
        crystal(symbol).write(tmp_path / folder / "x.xyz")
    assert not type_line("rootstock singlepoint emt one/x.xyz --device cpu").returncode
    for command in ("rootstock singlepoint emt two/x.xyz --device cpu",) * 2:
        refused = type_line(command)
        assert (refused.returncode, refused.stderr.startswith("Error: x-results.extxyz exists.\n")) == (3, True)
        out = re.search(r"--out (\S+);", refused.stderr)
        assert out
        done = type_line(f"{command} --out {out[1]}")
        assert not done.returncode, done.stderr
        assert read(tmp_path / out[1]).symbols[0] == "Au"
    names = {path.name for path in tmp_path.glob("*.extxyz")}
    assert names == {"x-results.extxyz", "two-x-results.extxyz", "x-results-2.extxyz"}
    both = type_line("rootstock singlepoint emt one/x.xyz two/x.xyz --device cpu --out both.extxyz")
    assert [line.partition(", Cu4")[0].partition(", Au4")[0] for line in both.stdout.splitlines()[:2]] == [
        "1 of 2, one/x.xyz@0", "2 of 2, two/x.xyz@0",
    ]  # fmt: skip
    found = read(tmp_path / "both.extxyz", ":")
    assert [atoms.info["rootstock_source"] for atoms in found] == ["one/x.xyz@0", "two/x.xyz@0"]


# -- nowhere to print to

PRINTS = [
    "rootstock --help", "rootstock list", "rootstock list --json", "rootstock show emt", "rootstock cluster list",
    "rootstock doctor", "rootstock completion bash", "rootstock-site --help", "rootstock-site status",
    "rootstock singlepoint emt POSCAR --device cpu --out x.traj",
]  # fmt: skip


@pytest.mark.parametrize("line", PRINTS)
@pytest.mark.parametrize(
    ("output", "reason"), [(">&-", "Bad file descriptor"), ("> /dev/full", "No space left on device")]
)
def test_output_that_cannot_be_written(type_line: Type, tmp_path: Path, line: str, output: str, reason: str) -> None:
    done = type_line(f"{line} {output}")
    assert done.returncode == 16
    assert done.stderr.splitlines()[-1] == f"Error: Cannot write to standard output: {reason}."
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr
    assert (tmp_path / "x.traj").exists() == ("x.traj" in line)


@pytest.mark.parametrize("line", PRINTS)
def test_output_that_nobody_reads(type_line: Type, tmp_path: Path, line: str) -> None:
    """As with `| head`, but in a way that never depends on who is faster."""
    closed = "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1); os.execvp(sys.argv[1], sys.argv[1:])"
    done = type_line(f"python3 -c {shlex.quote(closed)} {line}")
    assert (done.returncode, "Error" in done.stderr, "Traceback" in done.stderr) == (1, False, False), done.stderr
    assert (tmp_path / "x.traj").exists() == ("x.traj" in line)


@pytest.mark.parametrize("where", [">&-", "> /dev/full"])
@pytest.mark.parametrize(
    ("line", "code"),
    [("list", 0), ("nonsense", 2), ("show nonsense", 4), ("singlepoint emt POSCAR --device cpu", 0),
     ("md emt POSCAR --ensemble nve --steps 3 --device cpu", 0)],
)  # fmt: skip
def test_messages_that_nobody_can_see(type_line: Type, tmp_path: Path, line: str, code: int, where: str) -> None:
    done = type_line(f"rootstock {line} 2{where}")
    assert done.returncode == code
    assert not done.stderr
    assert (tmp_path / "poscar-nve-final.extxyz").exists() == line.startswith("md")


def test_all_descriptors_closed(type_line: Type, tmp_path: Path) -> None:
    """None of the files that are opened then gets the number of one, and is written to by a program that we start."""
    done = type_line(f"rootstock singlepoint emt POSCAR --device cpu <&- >&- 2>&-; {SITE} status <&- 2>&-")
    assert not done.returncode and "emt" in done.stdout
    assert read(tmp_path / "poscar-results.extxyz").get_potential_energy()


def test_another_package_of_our_name(type_line: Type, tmp_path: Path) -> None:
    """Package indexes know another project as rootstock: its version 1.6 has a command line in this module, too."""
    theirs = tmp_path / "theirs" / "rootstock"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").touch()
    (theirs / "cli.py").write_text("def main(): ...\n")
    for command in ("rootstock list", "rootstock-site status"):
        done = type_line(f"PYTHONPATH={theirs.parent} {command}")
        assert (done.returncode, done.stdout) == (3, "")
        first, second = done.stderr.splitlines()
        assert re.fullmatch(rf"Error: .* package rootstock in /.*; Python imports {theirs} instead\.", first)
        assert "unset PYTHONPATH" in second
