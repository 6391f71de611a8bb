"""Starts that are interrupted, ends that somebody else sees to: nothing is left, and the error says what happened."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk

from rootstock.client.child_process import ChildProcess
from rootstock.errors import WorkerError, WorkerProtocolError, WorkerTimeoutError
from tests.run.conftest import Make
from tests.support.commands import clean_environment, run, started
from tests.support.no_flock import like_nfs
from tests.support.processes import wait_until_gone

HOURS = [pytest.mark.soak, pytest.mark.timeout(8 * 3600)]

SCRIPT = """
import gc, os, signal, sys, time
from ase.build import bulk
from rootstock import RootstockCalculator
def new(**arguments):
    atoms = bulk("Cu")
    atoms.calc = RootstockCalculator("emt", root=sys.argv[1], device="cpu", **arguments)
    return atoms
"""

# -- standard streams that are closed

CLOSED = """
said = open(os.environ["SAID"], "w")
said = os.fdopen(os.dup2(said.fileno(), 50), "w")  # leaving the low numbers free
gc.collect()
low = lambda: [fd for fd in range(3) if os.path.exists(f"/proc/self/fd/{fd}")]
before = low()
atoms = new(start_timeout=60, timeout=60)
energy = atoms.get_potential_energy()
large = atoms.repeat(5)
large.calc = atoms.calc
difference = large.get_potential_energy() / 125 - energy
print(before, low(), abs(difference) < 1e-9, file=said, flush=True)
"""


CLOSED_TO_IPI = """
from rootstock.ipi import IPICalculator
said = open(os.environ["SAID"], "w")
said = os.fdopen(os.dup2(said.fileno(), 50), "w")
gc.collect()
client = "import sys, ase.build, ase.calculators.emt as emt, ase.calculators.socketio as io; a = ase.build.bulk('Cu'); "
client += "a.calc = emt.EMT(); io.SocketClient(unixsocket=sys.argv[1]).run(a)"
atoms = bulk("Cu")
atoms.calc = IPICalculator([sys.executable, "-c", client, "{address}"], start_timeout=60)
energy = atoms.get_potential_energy()
print(round(energy, 4), [fd for fd in range(3) if os.path.exists(f"/proc/self/fd/{fd}")], file=said, flush=True)
"""


@pytest.mark.parametrize("closed", ["0<&- 1>&-", "1>&- 2>&-", "0<&- 2>&-", "0<&- 1>&- 2>&-"])
def test_standard_streams_may_be_closed(root: Path, tmp_path: Path, closed: str) -> None:
    """As of daemons; and what C code prints there is written into nothing of ours."""
    script, said = tmp_path / "script.py", tmp_path / "said"
    script.write_text(SCRIPT + CLOSED)
    run("sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, script, root, env=clean_environment(SAID=str(said)))
    still = [number for number in range(3) if f"{number}<&-" not in closed and f"{number}>&-" not in closed]
    assert said.read_text() == f"{still} {still} True\n"


def test_standard_streams_may_be_closed_of_who_asks_by_ipi(root: Path, tmp_path: Path) -> None:
    script, said = tmp_path / "script.py", tmp_path / "said"
    script.write_text(SCRIPT + CLOSED_TO_IPI)
    closed = 'exec "$@" <&- >&- 2>&-'
    run("sh", "-c", closed, "sh", sys.executable, script, root, env=clean_environment(SAID=str(said)))
    assert said.read_text() == "-0.0057 []\n"


OVERLAPPING = """
import os
from rootstock.worker.channel.descriptors import above_standard_streams
os.closerange(0, 3)
first, second = above_standard_streams(), above_standard_streams()
first.__enter__()
second.__enter__()
first.__exit__(None, None, None)
found = os.open("/", os.O_RDONLY)
if not os.fork():  # in which nobody leaves a block any more
    os._exit(os.open("/", os.O_RDONLY))
in_child = os.waitstatus_to_exitcode(os.wait()[1])
second.__exit__(None, None, None)
os._exit(10 * found + 100 * in_child + os.open("/", os.O_RDONLY))
"""


def test_two_threads_open_while_standard_streams_are_closed() -> None:
    """What one has put in their places stays for the other; and nothing afterwards."""
    assert run(sys.executable, "-c", OVERLAPPING).returncode == 30


def test_a_model_that_closes_its_standard_streams(make: Make) -> None:
    """What Rootstock opens later does not get their numbers."""
    body = """\
    low = [fd for fd in range(3) if os.path.exists(f"/proc/self/fd/{fd}")]
    os.closerange(0, 3)
    self.results["energy"] = float(len(low))
    """
    atoms = Atoms("Cu", cell=[9, 9, 9], pbc=True)
    atoms.calc = make(body)
    found = []
    for size in (1, 5, 9):  # each needs more memory
        larger = atoms.repeat(size)
        larger.calc = atoms.calc
        found.append(larger.get_potential_energy())
    assert found == [3.0, 0.0, 0.0]


LOGS = """
import os
from rootstock.client.scratch import _KEPT_LOGS, open_log
for _ in range(_KEPT_LOGS + 9):
    path, descriptor = open_log("x", None)
    os.close(descriptor)
assert len(os.listdir(path.parent)) <= _KEPT_LOGS + 1, len(os.listdir(path.parent))
"""


def test_old_logs_go_on_nfs_too(tmp_path: Path) -> None:
    environment = clean_environment(TMPDIR=str(tmp_path), **like_nfs(tmp_path, tmp_path))
    run(sys.executable, "-c", LOGS, env=environment, check=True)


# -- starts that are interrupted

COUNTS = """
import collections, logging, random
from rootstock.client.scratch import _KEPT_LOGS, private_scratch
logging.getLogger("rootstock").setLevel(logging.ERROR)
def count():
    files = collections.Counter()
    for fd in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{fd}"):
            files[os.readlink(f"/proc/self/fd/{fd}")] += 1
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    return files, children, len(os.listdir("/proc/self/task"))
def compare(where):
    gc.collect()
    deadline = time.monotonic() + 60
    while (after := count()) != before:  # what an interruption left to another thread ends a moment later
        assert time.monotonic() < deadline, (where, after, before)
        time.sleep(0.01)
    assert len(list((private_scratch() / "log").iterdir())) <= _KEPT_LOGS + 1
new().get_potential_energy()
gc.collect()
before = count()
assert not before[1]
"""

AT_RANDOM = """
signal.signal(signal.SIGALRM, signal.default_int_handler)
chance, wanted, interrupted = random.Random(int(sys.argv[3])), int(sys.argv[2]), 0
while interrupted < wanted:
    atoms = new()
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0005, 0.04 if chance.random() < 0.9 else 0.4))
        atoms.get_potential_energy()
        signal.setitimer(signal.ITIMER_REAL, 0)
        atoms.calc.close()
    except KeyboardInterrupt:
        interrupted += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    del atoms
compare("")
assert abs(new().get_potential_energy() + 0.00568) < 1e-5
print(interrupted)
"""


@pytest.mark.parametrize("number", [pytest.param(60), pytest.param(2000, marks=HOURS)])
def test_interrupted_starts_leave_nothing(root: Path, number: int) -> None:
    """No descriptor, no process, not even a zombie, no log, no thread."""
    done = run(sys.executable, "-c", SCRIPT + COUNTS + AT_RANDOM, root, str(number), "1", check=True, timeout=None)
    assert done.stdout == f"{number}\n"


AT_EVERY_INSTRUCTION = """
from rootstock.config.packaged import PACKAGE
files = tuple(str(PACKAGE / "client" / name) for name in (
    "child_process.py", "connection.py", "handshake.py", "peer.py", "process.py", "session.py", "uninterrupted.py"))
gc.disable()
phase, stride, position, total = sys.argv[2], int(sys.argv[3]), int(sys.argv[3]) // 2, 0
def trace(frame, event, _):
    global left
    if not frame.f_code.co_filename.startswith(files):
        return None
    frame.f_trace_opcodes = True
    if event == "opcode":
        left -= 1
        if left < 0:
            sys.settrace(None)
            global where
            where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            raise KeyboardInterrupt
    return trace
more = True
while more:
    left, where, more = position, None, False
    atoms = new()
    if phase == "end":
        atoms.calc.start()
    try:
        sys.settrace(trace)
        atoms.calc.start() if phase == "start" else atoms.calc.close()
    except KeyboardInterrupt:
        more = True
        total += 1
    finally:
        sys.settrace(None)
    if phase == "end":
        atoms.calc.close()
    del atoms
    compare(where)
    position += stride
print(total)
"""


@pytest.mark.parametrize(
    ("phase", "stride"),
    [
        ("start", 23),
        ("end", 37),
        pytest.param("start", 1, marks=HOURS),
        pytest.param("end", 1, marks=HOURS),
    ],
)
def test_an_interruption_at_every_instruction(root: Path, phase: str, stride: int) -> None:
    """At each `stride`-th, in what starts a worker, or ends it."""
    script = SCRIPT + COUNTS + AT_EVERY_INSTRUCTION
    done = run(sys.executable, "-c", script, root, phase, str(stride), check=True, timeout=None)
    assert int(done.stdout) > 200 / stride


class Sleep(ChildProcess):
    """A program that sleeps."""

    def _open(self, output: int, inherited: contextlib.ExitStack) -> None:
        self._run(["sleep", "1000"], output)


def test_starts_in_many_threads() -> None:
    """While one looks for processes whose owner is gone, the others start some."""
    every, threads = sys.getswitchinterval(), 16
    processes = [Sleep("sleep", "sleep", None) for _ in range(12 * threads)]
    for process in processes:
        process.owner = lambda: True

    def start(number: int) -> None:
        for process in processes[number::threads]:
            process.start()

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(start, range(threads)))
    finally:
        sys.setswitchinterval(every)
        for process in processes:
            if process.pid:  # it was started
                process.end(0.0)
                process.drop_log()


def test_a_start_while_another_thread_lets_a_process_end() -> None:
    """That nobody owns it any more is no reason to end it by force: somebody is about to."""
    waits, codes = threading.Event(), list[int | None]()

    class Patient(Sleep):
        def _exits(self, timeout: float) -> bool:
            if timeout:
                waits.set()
            return super()._exits(timeout)

    first, second = Patient("first", "sleep", None), Sleep("second", "sleep", None)
    first.owner = lambda: None
    first.start()
    thread = threading.Thread(target=lambda: codes.append(first.end(600.0)))
    thread.start()
    try:
        waits.wait()
        second.start()
        os.kill(first.pid, signal.SIGTERM)
        thread.join()
        assert codes == [-signal.SIGTERM]
    finally:
        for process in (first, second):
            process.end(0.0)
            process.drop_log()


# -- the temporary folder

KEEPS_A_LOG = """
from pathlib import Path
from rootstock.errors import WorkerError
taken = Path(os.environ["TMPDIR"], f"rootstock-{os.getuid()}")
for number in range(int(sys.argv[2])):
    atoms = new()
    atoms.calc.start()
    os.kill(atoms.calc.info()["pid"], signal.SIGKILL)
    try:
        atoms.get_potential_energy()
    except WorkerError as error:
        log = Path(error.log)
    else:
        raise AssertionError
    atoms.calc.close()
    assert log.exists()
    (own,) = taken.parent.glob(f"{taken.name}-*")
    assert own.stat().st_mode & 0o777 == 0o700
    assert log.parent.parent == own
if not os.fork():  # a child that ends by itself, as Python does, takes nothing away
    sys.exit()
os.wait()
assert log.exists()
print(len(list(log.parent.iterdir())), flush=True)
if len(sys.argv) > 3:
    time.sleep(1000)
"""


@pytest.mark.parametrize("taken", ["a file", "others can write"])
def test_a_temporary_folder_that_somebody_else_has_taken(root: Path, tmp_path: Path, taken: str) -> None:
    """Each process has one of its own then, for all of its workers; whoever was killed leaves it to the next."""
    squatted = tmp_path / f"rootstock-{os.getuid()}"
    if taken == "a file":
        squatted.touch()
    else:
        squatted.mkdir()
        squatted.chmod(0o777)
    env = clean_environment(TMPDIR=str(tmp_path))
    command = [sys.executable, "-c", SCRIPT + KEEPS_A_LOG, str(root)]
    assert run(*command, "3", env=env, check=True).stdout == "3\n"
    assert list(tmp_path.iterdir()) == [squatted]
    with started([*command, "1", "wait"], env=env, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "1\n"
        (of_first,) = tmp_path.glob(f"{squatted.name}-*")
        second = run(sys.executable, "-c", SCRIPT + "new().get_potential_energy(); print('done')", root, env=env)
        assert second.stdout == "done\n"
        assert of_first.is_dir()  # its process lives
        first.kill()
    run(sys.executable, "-c", SCRIPT + "new().get_potential_energy()", root, env=env, check=True)
    assert list(tmp_path.iterdir()) == [squatted]


def test_a_folder_of_the_users_own_whose_name_is_like_ours(tmp_path: Path) -> None:
    """It is neither removed as one that a process has left, nor changed."""
    (tmp_path / f"rootstock-{os.getuid()}").touch()
    own = tmp_path / f"rootstock-{os.getuid()}-results"
    own.mkdir(mode=0o750)
    (own / "energies").touch()
    ask = "from rootstock.client.scratch import private_scratch; print(private_scratch().is_dir())"
    assert run(sys.executable, "-c", ask, env=clean_environment(TMPDIR=str(tmp_path))).stdout == "True\n"
    assert (own / "energies").exists()
    assert own.stat().st_mode & 0o777 == 0o750


FORKS = """
import os, signal, threading
from rootstock.client.scratch import private_scratch
def ask():
    while not over:
        private_scratch()
over = False
thread = threading.Thread(target=ask)
thread.start()
private_scratch()
for _ in range(100):
    if not (child := os.fork()):
        signal.alarm(60)
        private_scratch()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status:
        break
over = True
thread.join()
print(status)
"""


def test_a_fork_while_a_thread_looks_for_the_temporary_folder(tmp_path: Path) -> None:
    (tmp_path / f"rootstock-{os.getuid()}").touch()
    done = run(sys.executable, "-c", FORKS, env=clean_environment(TMPDIR=str(tmp_path)))
    assert done.stdout == "0\n", done.stderr


def test_a_temporary_folder_that_others_could_read(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / f"rootstock-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o755)
    env = clean_environment(TMPDIR=str(tmp_path))
    run(sys.executable, "-c", SCRIPT + "new().get_potential_energy()", root, env=env, check=True)
    assert list(tmp_path.iterdir()) == [folder]
    assert folder.stat().st_mode & 0o777 == 0o700


# -- the end of Python

AT_EXIT = """
import atexit
def last():
    for _ in range(2):
        try:
            atoms.rattle()
            print(atoms.get_potential_energy())
        except Exception as error:
            print(type(error).__name__, str(error).splitlines()[0], flush=True)
"""


@pytest.mark.parametrize("used", [True, False])
def test_a_calculator_that_is_asked_when_python_ends(root: Path, used: bool) -> None:
    """By a function that atexit calls after all workers have ended, since it was there before Rootstock."""
    script = AT_EXIT + "atexit.register(last)\n" + SCRIPT + "atoms = new()\n" + "atoms.get_potential_energy()\n" * used
    done = run(sys.executable, "-c", script, root, check=True)
    assert done.stdout == "WorkerError Python is ending, and has ended its workers.\n" * 2
    assert not done.stderr


def test_a_calculator_can_be_asked_by_a_function_that_atexit_calls(root: Path) -> None:
    script = SCRIPT + AT_EXIT + "atexit.register(last)\natoms = new()\n"
    done = run(sys.executable, "-c", script, root, check=True)
    assert [round(float(line), 4) for line in done.stdout.split()] == [-0.0057, -0.0057]
    assert not done.stderr


DAEMON = """
import threading, weakref
def ask():
    try:
        while True:
            atoms.rattle()
            atoms.get_potential_energy()
    except Exception as error:
        said.append((type(error).__name__, str(error).splitlines()[0]))
said = []
thread = threading.Thread(target=ask, daemon=True)
weakref.finalize(bulk, lambda: (thread.join(), print(*said[0])))  # made before the worker, it is called after it ended
atoms = new()
atoms.get_potential_energy()
thread.start()
"""


def test_a_thread_that_asks_while_python_ends(root: Path) -> None:
    done = run(sys.executable, "-c", SCRIPT + DAEMON, root, check=True)
    assert done.stdout == "WorkerError Python is ending, and has ended its workers.\n"


ENDS_WITH_IPI = """
from rootstock.ipi import IPICalculator
client = "import sys, ase.build, ase.calculators.emt as emt, ase.calculators.socketio as io; a = ase.build.bulk('Cu'); "
client += "a.calc = emt.EMT(); io.SocketClient(unixsocket=sys.argv[1]).run(a)"
atoms = bulk("Cu")
atoms.calc = IPICalculator([sys.executable, "-c", client, "{address}"], start_timeout=60)
atoms.get_potential_energy()
"""


def test_an_ipi_calculator_that_is_asked_when_python_ends(root: Path) -> None:
    script = AT_EXIT + "atexit.register(last)\n" + SCRIPT + ENDS_WITH_IPI
    done = run(sys.executable, "-c", script, root, check=True)
    assert done.stdout == "WorkerError Python is ending, and has ended its workers.\n" * 2
    assert not done.stderr


# -- how a worker ended, and who ended it


@pytest.mark.parametrize(
    "reaping",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.signal(signal.SIGCHLD, lambda *_: [0 for _ in iter(lambda: os.waitpid(-1, os.WNOHANG)[0], 0)])",
    ],
    ids=["ignored", "a handler"],
)
def test_a_death_in_a_program_that_keeps_no_exit_codes(root: Path, reaping: str) -> None:
    script = f"""
{reaping.replace("os.waitpid", "reap")}
def reap(*arguments):
    try:
        return os.waitpid(*arguments)
    except ChildProcessError:
        return 0, 0
atoms = new()
atoms.get_potential_energy()
os.kill(atoms.calc.info()["pid"], signal.SIGKILL)
while open(f"/proc/self/task/{{os.getpid()}}/children").read():
    time.sleep(0.01)
atoms.rattle()
try:
    atoms.get_potential_energy()
except Exception as error:
    print(type(error).__name__, error.returncode, error)
atoms.get_potential_energy()
"""
    done = run(sys.executable, "-c", SCRIPT + script, root, check=True)
    assert re.match(r"WorkerDiedError None The worker of environment 'emt' has ended during an evaluation\.\n"
                    "How it ended is not known: this process ignores SIGCHLD, or", done.stdout)  # fmt: skip


def test_a_stopped_worker_that_is_told_much(make: Make) -> None:
    """More than the socket holds: the deadline is the caller's, and the error names it."""
    atoms = bulk("Cu")
    atoms.calc = calc = make(timeout=1.5)
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    os.kill(pid, signal.SIGSTOP)
    atoms.info["long"] = "x" * 3_000_000
    begun = time.monotonic()
    with pytest.raises(WorkerTimeoutError, match=r"gave no answer within 2 s and was ended"):
        atoms.get_potential_energy()
    assert 1.4 < time.monotonic() - begun < 25  # and not the 30 s that a frame has otherwise
    wait_until_gone(pid)
    calc.set(timeout=100)
    assert atoms.get_potential_energy() == 1.0


def test_a_worker_without_descriptors_is_replaced(make: Make) -> None:
    """A model may lower its own limits: then the worker cannot map more memory."""
    atoms = bulk("Cu")
    atoms.calc = calc = make("__import__('resource').setrlimit(7, (3, 3))")
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    large = atoms.repeat(6)
    large.calc = calc
    with pytest.raises(WorkerError, match=r"The worker .* failed: OSError: .*Too many open files(.|\n)*starts a new"):
        large.get_potential_energy()
    wait_until_gone(pid)
    assert large.get_potential_energy() == 216.0


LEAVES_OUT = """\
from rootstock.worker.evaluate import Evaluator
whole = Evaluator.evaluate
Evaluator.evaluate = lambda *arguments: whole(*arguments) & ~4
return Calculator()
"""


def test_an_answer_without_what_was_asked(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = make(setup=LEAVES_OUT)
    assert atoms.get_potential_energy() == 1.0
    with pytest.raises(WorkerProtocolError, match="was asked for forces, and left it out"):
        atoms.get_forces()
