"""Files that commands write: through links, with long names, and onto disks that are full."""

from __future__ import annotations

import errno
import gc
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import read, write

from rootstock.errors import ConfigurationError, OutputError
from rootstock.simulations.claims import claim_files
from rootstock.simulations.driver import collect_results
from rootstock.simulations.output import naming
from rootstock.simulations.relax import singlepoint
from rootstock.simulations.structures import check_output
from rootstock.simulations.writing import add_structure, write_structures
from tests.support.commands import ROOTSTOCK, Done, ordinary, run
from tests.support.folders import small_disk

Command = Callable[..., Done]
ENDINGS = ("extxyz", "traj", "db", "json", "cif", "extxyz.gz")


@pytest.fixture
def rootstock(root: Path, tmp_path: Path) -> Command:
    write(tmp_path / "a.traj", bulk("Cu", cubic=True))
    return lambda *more: run(ROOTSTOCK, more[0], "emt", *more[1:], "--root", root, "--device", "cpu", cwd=tmp_path)


MD = ("md", "a.traj", "--ensemble", "nve", "--file-prefix")


# -- links


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(tmp_path: Path, ending: str, there: bool) -> None:
    store = tmp_path / "store"
    store.mkdir()
    link, target = tmp_path / f"out.{ending}", store / "blob"
    link.symlink_to("store/blob")
    if there:
        target.write_text("old")
    check_output(link, overwrite=True)
    write_structures(link, [bulk("Cu")])
    assert link.is_symlink() and os.readlink(link) == "store/blob"
    assert os.listdir(store) == ["blob"]
    assert not target.is_symlink() and read(link).symbols[0] == "Cu"


@pytest.mark.parametrize("ending", ["extxyz", "traj"])
def test_a_link_grows_where_it_leads_to(tmp_path: Path, ending: str) -> None:
    link, target = tmp_path / f"steps.{ending}", tmp_path / "blob"
    link.symlink_to(target)
    for symbol in ("Cu", "Au"):
        add_structure(link, bulk(symbol))
    assert link.is_symlink() and not target.is_symlink()
    assert [atoms.symbols[0] for atoms in read(link, ":")] == ["Cu", "Au"]


def test_the_commands_follow_links(rootstock: Command, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    names = ["p.extxyz", "steps.traj", "r.cif", "r.results.extxyz"]
    names += [f"run-{name}" for name in ("stats.dat", "traj.extxyz", "restart.json", "final.extxyz")]
    for name in names:
        (tmp_path / name).symlink_to(store / name)
        (store / name).write_text("old")
    for more in (
        ("singlepoint", "a.traj", "--out", "p.extxyz"),
        ("relax", "a.traj", "--traj", "steps.traj", "--out", "r.cif"),
        (*MD, "run", "--steps", "2"),
    ):
        refused = rootstock(*more)
        assert (refused.returncode, " exists." in refused.stderr) == (3, True), refused.stderr
        done = rootstock(*more, "--overwrite")
        assert not done.returncode, done.stderr
    more = (*MD, "run", "--steps", "3", "--restart")
    assert not rootstock(*more).returncode
    assert sorted(os.listdir(store)) == sorted(names)
    assert all((tmp_path / name).is_symlink() and (store / name).read_bytes() != b"old" for name in names)
    assert not list(tmp_path.glob(".*"))


def test_links_that_lead_nowhere(rootstock: Command, tmp_path: Path) -> None:
    (tmp_path / "circle.extxyz").symlink_to("circle.extxyz")
    (tmp_path / "far.extxyz").symlink_to("none/far.extxyz")
    (tmp_path / "device.extxyz").symlink_to("/dev/null")
    (tmp_path / "run-final.extxyz").mkdir()
    for more, message in (
        (("singlepoint", "--out", "circle.extxyz"), "circle.extxyz is a symbolic link that leads to itself"),
        (("relax", "--traj", "far.extxyz"), f"far.extxyz is a symbolic link to {tmp_path}/none/far.extxyz."),
        (("relax", "--out", "device.extxyz"), "device.extxyz is not a regular file"),
        (("md", "--ensemble", "nve", "--steps", "1", "--file-prefix", "run"), "run-final.extxyz is not a regular file"),
    ):
        done = rootstock(more[0], "a.traj", *more[1:], "--overwrite")
        assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (3, True, False), done.stderr
    assert len(os.listdir(tmp_path)) == 5


CHECK = """
import sys
from pathlib import Path
from rootstock.simulations.claims import claim_files
from rootstock.simulations.structures import check_output
path = Path(sys.argv[1])
for attempt in (lambda: check_output(path, overwrite=True), lambda: claim_files([path], "me").__enter__()):
    try:
        attempt()
    except ValueError as error:
        print(error.message)
"""


def test_a_link_into_a_folder_that_is_closed(tmp_path: Path) -> None:
    closed, own = tmp_path / "closed", tmp_path / "own"
    for folder in (closed, own):
        folder.mkdir()
    link = own / "a.extxyz"
    link.symlink_to(closed / "a.extxyz")
    closed.chmod(0o555)
    done = run(*ordinary(), sys.executable, "-c", CHECK, link, check=True)
    said = done.stdout.splitlines()
    assert len(said) == 2 and all(f"Cannot write into {closed}" in line for line in said), said
    assert all(f"{link} is a symbolic link to {closed / 'a.extxyz'}." in line for line in said), said


# -- long names


def longest(ending: str, letter: str = "x") -> str:
    """Return the longest name that a command can write: 11 bytes fewer than a file may have."""
    size = len(letter.encode())
    return letter * ((244 - len(ending)) // size) + ending


@pytest.mark.parametrize("letter", ["x", "Å", "原"])
@pytest.mark.parametrize("ending", [f".{ending}" for ending in ENDINGS])
def test_a_long_name_is_written(tmp_path: Path, ending: str, letter: str) -> None:
    path = tmp_path / longest(ending, letter)
    with claim_files([path], "me"):
        check_output(path, overwrite=False)
        write_structures(path, [bulk("Cu")])
    assert os.listdir(tmp_path) == [path.name]
    assert read(path).symbols[0] == "Cu"


def test_a_name_that_is_too_long_is_refused(rootstock: Command, tmp_path: Path) -> None:
    before = os.listdir(tmp_path)
    for name in (f"x{longest('.extxyz')}", f"xÅ{longest('.traj', 'Å')}", "x" * 300 + ".cif"):
        with pytest.raises(ConfigurationError, match=f"^The name {name} is too long: .* bytes. 244 are possible here"):
            claim_files([tmp_path / name], "me").__enter__()
        with pytest.raises(ConfigurationError, match=f"^The name {name} is too long"):
            check_output(tmp_path / name, overwrite=True)
    for more in (("singlepoint", "a.traj", "--out", name), ("relax", "a.traj", "--traj", f"{name}.traj"),
                 (*MD, name, "--steps", "1")):  # fmt: skip
        done = rootstock(*more)
        assert done.returncode == 3 and f"Error: The name {name}" in done.stderr, done.stderr
    assert os.listdir(tmp_path) == before
    done = rootstock("singlepoint", "y" * 300, "--out", "b.extxyz")
    assert (done.returncode, f"Error: There is no file {'y' * 300}." in done.stderr) == (3, True), done.stderr


def test_results_beside_a_long_name(rootstock: Command, tmp_path: Path) -> None:
    write(tmp_path / "b.extxyz", [bulk("Cu"), bulk("U", "fcc", a=5.0)])
    name = longest(".cif")
    done = rootstock("singlepoint", "a.traj", "--out", name)
    assert not done.returncode, done.stderr
    assert (tmp_path / name).exists() and len(list(tmp_path.glob("xxx*.results.extxyz"))) == 1
    done = rootstock("singlepoint", "b.extxyz", "--out", longest(".traj"))
    assert done.returncode == 3 and "The 1 that were done are in xxx" in done.stderr, done.stderr
    assert len(read(next(tmp_path.glob("xxx*.partial.traj")), ":")) == 1


# -- disks that are full


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a file system with room for one small file."""
    with small_disk(tmp_path / "full", "size=256k", "mode=777") as folder:
        (folder / "ballast").write_bytes(b"\0" * (252 << 10))
        yield folder


FULL = "No space left on device.\nThe file system is full: free space on it, or write to another one ("
LARGE = bulk("Cu", cubic=True) * (10, 10, 10)


@pytest.mark.parametrize("ending", [*ENDINGS, "vasp"])
def test_a_full_disk_is_named_with_the_file(full: Path, ending: str) -> None:
    path = full / f"out.{ending}"
    path.write_text("old")
    with pytest.raises(OutputError) as caught:
        write_structures(path, [LARGE])
    text = "database or disk is full." if ending == "db" else FULL
    assert f"Cannot write {path}: " in str(caught.value) and (text in str(caught.value) or ending == "traj")
    assert path.read_text() == "old" and sorted(os.listdir(full)) == ["ballast", path.name]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ASE leaves the file open
@pytest.mark.parametrize("ending", ["extxyz", "traj"])
def test_a_step_that_finds_the_disk_full(full: Path, ending: str) -> None:
    with pytest.raises(OutputError, match=f"Cannot write {full}/steps.{ending}: "):
        add_structure(full / f"steps.{ending}", LARGE)
    gc.collect()


def test_md_on_a_full_disk_says_how_to_go_on(rootstock: Command, tmp_path: Path, full: Path) -> None:
    (full / "ballast").write_bytes(b"\0" * (160 << 10))
    more = (*MD, "full/run", "--traj-every", "1", "--restart-every", "5")
    done = rootstock(*more, "--steps", "1000")
    assert done.returncode == 16, done.stderr
    assert "Error: Cannot write full/run-" in done.stderr and FULL in done.stderr
    step = done.stderr.partition("full/run-restart.json is of step ")[2].partition(":")[0]
    assert f"is of step {step}: the same command with --restart goes on there." in done.stderr
    (full / "ballast").unlink()
    steps = str(int(step) + 5)
    done = rootstock(*more, "--steps", steps, "--restart")
    assert not done.returncode, done.stderr
    assert [atoms.info["step"] for atoms in read(full / "run-traj.extxyz", ":")] == list(range(int(steps) + 1))


def test_results_that_found_the_disk_full_are_kept_elsewhere(full: Path) -> None:
    from ase.calculators.emt import EMT

    said: list[str] = []
    path = full / "out.extxyz"
    with pytest.raises(OutputError) as caught, collect_results(path, said.append) as results:
        results.append(singlepoint(LARGE, EMT()))
    assert f"Cannot write {path}: No space left on device.\nThe results are in " in str(caught.value)
    kept = Path(str(caught.value).rpartition(" in ")[2].rstrip("."))
    assert kept.parent == Path(tempfile.gettempdir())
    assert read(kept).get_potential_energy() == results[0].get_potential_energy()
    kept.unlink()

    def fail() -> None:
        with collect_results(path, said.append) as results:
            results.append(singlepoint(LARGE, EMT()))
            raise ZeroDivisionError  # it is this that a user must hear of

    with pytest.raises(ZeroDivisionError):
        fail()
    kept = Path(said[-1].removeprefix("The 1 that were done are in ").rstrip("."))
    assert len(read(kept)) == len(LARGE)
    kept.unlink()


def test_a_claim_on_a_full_disk(full: Path) -> None:
    (full / "ballast").write_bytes(b"\0" * (256 << 10))
    with pytest.raises(OutputError, match=f"Cannot write {full}/a.xyz: No space left on device"):
        claim_files([full / "a.xyz"], "me").__enter__()
    assert os.listdir(full) == ["ballast"]


def test_a_limit_of_file_sizes_is_named(rootstock: Command, root: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.traj", [bulk("Cu", cubic=True)] * 200)
    words = [ROOTSTOCK, "singlepoint", "emt", "a.traj", "--root", root, "--device", "cpu", "--out", "out.extxyz"]
    script = f"ulimit -f 64; exec {shlex.join(map(str, words))}"
    done = run("bash", "-c", script, cwd=tmp_path)
    assert done.returncode == 16, done.stderr
    assert "Error: Cannot write out.extxyz: File too large.\n" in done.stderr
    assert not (tmp_path / "out.extxyz").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES])
def test_every_error_of_the_system_names_the_file_and_says_what_to_do(number: int) -> None:
    with pytest.raises(OutputError) as caught, naming(Path("run-stats.dat")):
        raise OSError(number, os.strerror(number))
    message, hint = str(caught.value).splitlines()
    assert message == f"Cannot write run-stats.dat: {os.strerror(number)}."
    assert "rite " in hint and "--file-prefix" in hint


def test_errors_of_our_own_stay_what_they_are() -> None:
    with pytest.raises(ConfigurationError, match="^what was wrong$"), naming(Path("a")):
        raise ConfigurationError("what was wrong")
