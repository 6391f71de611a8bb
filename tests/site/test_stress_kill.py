"""Installations that are killed at any moment: what was there goes on serving, and the next run puts all right."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from ase.build import bulk

from rootstock import RootstockCalculator
from rootstock.builds.bytecode import KEPT
from rootstock.root.checksums import check_build
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree
from rootstock.root.records import active_build, read_build
from tests.support.commands import SITE, ordinary, read_until, run, started
from tests.support.environment_files import WITH_SMALL_ASE
from tests.support.needs import need_program
from tests.support.processes import cut_off, wait_for, wait_until_none_at
from tests.support.tiny_root import ENVIRONMENT, PACKAGES, TinyRoot
from tests.support.tracing import at_change, changes_made_by

KILLED = -signal.SIGKILL
OLD, NEW = PACKAGES[0], " ".join(PACKAGES)
MANY = ("mkdir", "chmod")


def sample(root: TinyRoot, changes: list[tuple[str, int, str]], leave_out: str = "") -> list[tuple[str, int]]:
    """Choose changes to be killed at: of each kind of system call the last one in each part of the root but one."""
    chosen: dict[tuple[str, str], int] = {}
    for name, number, arguments in changes:
        # With two arguments the second is where the change shows.
        path = Path(arguments.split(", ")[-1 if name in ("rename", "symlink") else 0].strip('"'))
        if path.is_relative_to(root.path):
            parts = path.relative_to(root.path).parts
            part = parts[0] if len(parts) > 1 and (name not in MANY or parts[0] == "builds") else ""
            chosen[name, part] = number
    return [(name, number) for (name, part), number in chosen.items() if part != leave_out or not part]


# Every second one of them, or all.
OF_THEM = pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.soak)])


class Reader(threading.Thread):
    """Looks up the build in use, over and over, as starting workers do."""

    def __init__(self, root: TinyRoot) -> None:
        super().__init__(daemon=True)
        self.link, self.looks, self.failures = root.layout.active(ENVIRONMENT), 0, []
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.001):
            self.looks += 1
            try:
                build = active_build(self.link)
                if build is None or read_build(build) is None or not os.access(build / "bin" / "python", os.X_OK):
                    self.failures.append(build)
            except Exception as error:  # noqa: BLE001
                self.failures.append(error)

    def look_again(self) -> None:
        """Wait until it has looked once more, from the beginning of a look to its end."""
        seen = self.looks
        wait_for(lambda: self.looks > seen + 1, "another look at the build in use")

    def __enter__(self) -> Reader:
        self.start()
        self.look_again()
        return self

    def __exit__(self, *_: object) -> None:
        self.look_again()
        self._over.set()
        self.join()


def put_right(root: TinyRoot, wanted: str, point: object) -> None:
    """Run the installation again and look at what came of it."""
    again = root.install()
    assert again.returncode == 0, f"{point}: {again.stderr}"
    assert root.imports() == wanted, point
    assert root.leftovers() == [], point
    assert root.writable() == [], point


@pytest.fixture
def new_root(tmp_path):
    def make(name):
        return TinyRoot.create(tmp_path / name, tmp_path / f"{name}-wheels")

    return make


@pytest.fixture
def in_use(new_root, tmp_path):
    """Return a function that makes a root with an active build, and one that puts it back into that state.

    The next installation is to replace the build.
    """

    def make(name):
        root, kept = new_root(name), tmp_path / f"{name}-kept"
        assert root.install().returncode == 0
        assert root.imports() == OLD
        root.require(*PACKAGES)
        shutil.copytree(root.path, kept, symlinks=True)

        def put_back():
            remove_tree(root.path)
            shutil.copytree(kept, root.path, symlinks=True)

        return root, put_back

    return make


def in_two_rows(points, work):
    """Work through `points` in two threads, as installations spend much of their time waiting."""
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work, row, points[row::2]) for row in range(2)]:
            future.result()


@OF_THEM
def test_a_new_root_killed_at_every_change_to_a_file(new_root, tmp_path, every):
    need_program("strace", "strace")
    seen = new_root("seen")
    # How builds come about is tried in a root that is in use.
    points = sample(seen, changes_made_by(seen.install_command, tmp_path / "seen.log"), leave_out="builds")
    assert len(points) > 8

    def work(row, points):
        root = new_root(f"root{row}")
        for point in points:
            remove_tree(root.path)
            root.require(*PACKAGES)
            assert root.install(*at_change(*point, "KILL")).returncode == KILLED, point
            put_right(root, NEW, point)
        assert "nothing to do" in root.install().stdout

    in_two_rows(points[::every], work)


@OF_THEM
def test_a_root_in_use_killed_at_every_change_to_a_file(in_use, tmp_path, every):
    need_program("strace", "strace")
    seen, _ = in_use("seen")
    points = sample(seen, changes_made_by(seen.install_command, tmp_path / "seen.log"))
    assert len(points) > 8

    def work(row, points):
        root, put_back = in_use(f"root{row}")
        for point in points:
            put_back()
            with Reader(root) as reader:
                assert root.install(*at_change(*point, "KILL")).returncode == KILLED, point
                reader.look_again()
                assert root.imports() in (OLD, NEW), point
                put_right(root, NEW, point)
            assert reader.failures == [], point

    in_two_rows(points[::every], work)


def kill_all(process: subprocess.Popen[str]) -> bool:
    """Kill a command and all that it has started; return whether it was not over before."""
    os.killpg(process.pid, signal.SIGKILL)  # there is such a group until we have asked for the end of its first
    return process.wait() == KILLED


@pytest.mark.parametrize("line", ["locking", "installing", "compiling", "checking files"])
def test_killed_together_with_uv_in_each_step(in_use, line):
    root, put_back = in_use("root")
    killed = False
    while not killed:  # an installation that was faster than we were is tried once more
        put_back()
        with Reader(root) as reader:
            with started(root.install_command) as process:
                read_until(process, line)
                killed = kill_all(process)
            reader.look_again()
            assert root.imports() in (OLD, NEW)
            put_right(root, NEW, line)
        assert reader.failures == []


@pytest.mark.parametrize("number", [3, pytest.param(25, marks=pytest.mark.soak)])
def test_killed_together_with_uv_at_random_moments(in_use, number):
    """Over the whole command, from the start of the interpreter to its end, as many times in each of two rows."""

    def work(row, seeds):
        root, put_back = in_use(f"root{row}")
        chance = random.Random(*seeds)
        begun = time.monotonic()
        assert root.install().returncode == 0
        takes = time.monotonic() - begun
        killed = 0
        while killed < number:
            put_back()
            with started(root.install_command) as process:
                moment = chance.random() * takes
                time.sleep(moment)
                if kill_all(process):
                    killed += 1
                else:  # the machine got faster; such moments are tried too, but are not what is asked for
                    takes = moment
            assert root.imports() in (OLD, NEW), moment
            put_right(root, NEW, moment)

    in_two_rows([number, number + 1], work)


@pytest.mark.parametrize("change", ["chmod", "rename"])
def test_an_interruption_is_told_in_a_line_and_leaves_nothing(in_use, tmp_path, change):
    need_program("strace", "strace")
    root, put_back = in_use("root")
    last = [number for name, number, _ in changes_made_by(root.install_command, tmp_path / "log") if name == change][-1]
    put_back()
    done = root.install(*at_change(change, last, "INT"))
    assert done.returncode == 130
    assert "Interrupted. What was installed before is untouched; run the command again to go on." in done.stderr
    assert "Traceback" not in done.stderr
    assert root.leftovers() == []
    assert root.imports() in (OLD, NEW)
    put_right(root, NEW, change)


@dataclass(frozen=True)
class Cut:
    """How an installation of EMT is cut off: after a line of its progress, by a signal."""

    line: str
    number: signal.Signals


CUTS = [
    Cut("installing", signal.SIGKILL),
    Cut("installing", signal.SIGINT),
    Cut("compiling", signal.SIGKILL),
    Cut("verifying", signal.SIGKILL),
]
# Added to the environment file, so that no installation is over before it is cut off.
ENDLESS = """

class Endless(EMT):
    def calculate(self, *arguments, **options):
        import time

        time.sleep(1000)


def setup(model, device="cpu"):
    return Endless()
"""


def test_emt_cut_off_in_each_step_while_it_computes(tmp_path):
    own = RootLayout(tmp_path / "root")
    command = [*ordinary(), str(SITE), "install", "--yes", "--cluster", "local", "--root", str(own.root)]
    command += ["--env", "emt", "--no-client", "--set", "access.readers=world", *WITH_SMALL_ASE]
    run(*command, check=True)
    old = active_build(own.active("emt"))
    text = own.environment_file("emt").read_text()
    own.environment_file("emt").write_text(text + ENDLESS)
    atoms = bulk("Cu")

    with RootstockCalculator("emt", root=own.root, device="cpu") as calculator:
        atoms.calc = calculator
        energy = atoms.get_potential_energy()
        for cut in CUTS:
            if cut.line == "compiling":
                remove_tree(own.uv_cache / KEPT)  # there is much to compile then
            with started(command) as process:
                read_until(process, cut.line)
                code = cut_off(process, cut.number, group=cut.number == signal.SIGINT, stop=cut.line != "verifying")
                said = process.stderr.read()
            assert code == (130 if cut.number == signal.SIGINT else -cut.number), (cut, said)
            assert "Traceback" not in said, cut
            wait_until_none_at(own.builds("emt") / ".staging-")
            assert active_build(own.active("emt")) == old, cut
            atoms.rattle(0.01)
            atoms.get_potential_energy()  # from the worker that was there before
            with RootstockCalculator("emt", root=own.root, device="cpu") as fresh:
                assert fresh.get_property("energy", bulk("Cu")) == energy, cut
    own.environment_file("emt").write_text(f"{text}# edited\n")
    run(*command, check=True)
    new = active_build(own.active("emt"))
    assert new not in (None, old)
    record = read_build(new)
    assert record.verification
    assert all(check["passed"] for check in record.verification)
    assert check_build(new) == []
    assert {path.name for path in own.builds("emt").iterdir()} == {old.name, new.name}
    with RootstockCalculator("emt", root=own.root, device="cpu") as fresh:
        assert fresh.get_property("energy", bulk("Cu")) == energy
