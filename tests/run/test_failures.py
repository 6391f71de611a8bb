"""Workers that fail in every way: the cause is told, nothing hangs, nothing is left behind, the next call is right."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ase.build import bulk

from rootstock import RootstockCalculator
from rootstock.client.connection import WorkerConnection
from rootstock.client.handshake import wait_until_ready
from rootstock.client.process import WorkerProcess
from rootstock.errors import (
    ModelError,
    WorkerDiedError,
    WorkerError,
    WorkerProtocolError,
    WorkerStartError,
    WorkerTimeoutError,
)
from tests.run.conftest import Make, start_of
from tests.support.commands import started
from tests.support.environment_files import header
from tests.support.processes import gone, open_files, wait_for, wait_until_gone, wait_until_it_waits


def inside(folder: Path, then: str) -> str:
    """Return the body of a model that says, by a file, when an evaluation of moved atoms has begun, and then does it.

    The file `go` can end it.
    """
    return (
        "x = self.atoms.positions[0, 0]\nself.results['energy'] = x\n"
        f"if x > 5:\n    open(f'{folder}/inside-{{x:.0f}}', 'w').close()\n    go = f'{folder}/go-{{x:.0f}}'\n"
        f"{textwrap.indent(then, '    ')}\n"
    )


UNTIL_GO = "while not os.path.exists(go): time.sleep(0.01)"


def test_setup_raises(make: Make) -> None:
    calc = make(setup="print('loading'); raise OSError('no weights here')")
    with pytest.raises(WorkerStartError, match="'misbehaving' could not start: OSError: no weights here") as caught:
        calc.start()
    text = str(caught.value)
    assert "in setup" in text and "misbehaving.py" in text  # the traceback of the worker
    assert "loading" in Path(caught.value.log).read_text()


def test_setup_returns_nonsense(make: Make) -> None:
    with pytest.raises(WorkerStartError, match="returned NoneType.* must return an ASE calculator"):
        make(setup="return None").start()


def test_the_environment_file_cannot_be_imported(make: Make) -> None:
    with pytest.raises(WorkerStartError, match="ModuleNotFoundError: No module named 'nosuchpackage'"):
        make(setup="import nosuchpackage").start()


def test_requirements_that_cannot_be_met(personal: Path, tmp_path: Path) -> None:
    path = tmp_path / "impossible.py"
    path.write_text(header(dependencies=("ase", "numpy<1", "numpy>2")) + "def setup(model, device): pass\n")
    calc = RootstockCalculator(environment=path, model="", root=personal)
    with pytest.raises(WorkerStartError, match="exited with code 1 during the start") as caught:
        calc.start()
    assert "unsatisfiable" in caught.value.tail or "No solution" in caught.value.tail


# Python's own end waits for it.
WITH_A_THREAD = "import threading; threading.Thread(target=time.sleep, args=(1000,)).start()\n"


def test_a_message_that_ends_the_interpreter_is_reported(make: Make) -> None:
    """By `SystemExit`, which is no `Exception`."""
    calc = make(f"{WITH_A_THREAD}class Odd(Exception):\n    def __str__(self): raise SystemExit(9)\nraise Odd()")
    with pytest.raises(ModelError, match="its message cannot be shown: SystemExit"):
        calc.get_potential_energy(bulk("Cu"))


def test_a_worker_that_ends_waits_for_no_thread_of_the_model(make: Make) -> None:
    """uv holds its socket open as long as it lives."""
    lose = """
for fd in map(int, os.listdir("/proc/self/fd")):
    try:
        if os.readlink(f"/proc/self/fd/{fd}").startswith("socket"):
            os.dup2(os.open("/dev/null", os.O_RDWR), fd)
    except FileNotFoundError:
        pass
"""
    calc = make(WITH_A_THREAD + lose)
    with pytest.raises(WorkerDiedError, match="exited with code 1 during an evaluation") as caught:
        calc.get_potential_energy(bulk("Cu"))
    assert "Traceback" in caught.value.tail


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("os._exit(3)", "exited with code 3"),
        ("os._exit(0)", "exited with code 0"),
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "was killed by SIGSEGV"),
    ],
)
@pytest.mark.parametrize("when", ["start", "evaluation"])
def test_death(make: Make, how: str, message: str, when: str) -> None:
    speak = "print('my last words', flush=True)\n"
    kind: type[WorkerError]
    if when == "start":
        calc, kind = make(setup=speak + how), WorkerStartError
    else:
        calc, kind = make(f"if self.atoms.positions[0, 0] > 5:\n    {speak}    {how}"), WorkerDiedError
    atoms = bulk("Cu")
    atoms.calc = calc
    if when == "evaluation":
        assert atoms.get_potential_energy() == 1.0
        first = calc.info()["pid"]
        atoms.positions[0, 0] = 6.0
    with pytest.raises(kind, match=message) as caught:
        atoms.get_potential_energy()
    assert "my last words" in caught.value.tail
    assert "my last words" in Path(caught.value.log).read_text()
    if when == "evaluation":
        assert caught.value.returncode is not None  # type: ignore[attr-defined]
        atoms.positions[0, 0] = 0.0
        assert atoms.get_potential_energy() == 1.0
        assert calc.info()["pid"] != first


def test_killed_between_evaluations(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make()
    atoms.get_potential_energy()
    os.kill(calc.info()["pid"], signal.SIGKILL)
    wait_until_gone(calc._session._connection.process.pid)
    atoms.positions += 0.1
    with pytest.raises(WorkerDiedError, match="'misbehaving' (was killed by|exited with)"):
        atoms.get_potential_energy()
    assert atoms.get_potential_energy() == 1.0


def test_the_model_raises(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make("if self.atoms.positions[0, 0] > 5:\n    raise KeyError('no such element')")
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    atoms.positions[0, 0] = 6.0
    with pytest.raises(ModelError, match="KeyError: 'no such element'") as caught:
        atoms.get_potential_energy()
    assert caught.value.remote_type == "KeyError"
    assert "in extra" in str(caught.value)
    atoms.positions[0, 0] = 0.0
    assert atoms.get_potential_energy() == 1.0
    assert calc.info()["pid"] == pid
    calc.close()
    assert Path(caught.value.log).exists()  # the error names it


@pytest.mark.parametrize("how", ["raise SystemExit(4)", "raise KeyboardInterrupt", "raise MemoryError('x' * 10**6)"])
def test_the_model_raises_what_would_end_a_process(make: Make, how: str) -> None:
    atoms = bulk("Cu")
    atoms.calc = make(f"if self.atoms.positions[0, 0] > 5:\n    {how}")
    atoms.positions[0, 0] = 6.0
    with pytest.raises(ModelError, match=how.split()[1].partition("(")[0]):
        atoms.get_potential_energy()
    atoms.positions[0, 0] = 0.0
    assert atoms.get_potential_energy() == 1.0


def test_a_start_that_hangs(make: Make, tmp_path: Path) -> None:
    """The time is over once the model is being loaded, however long that takes to come."""
    hung = tmp_path / "hung"
    launch, setup = start_of(make(setup=f"print('fetching', flush=True); open({str(hung)!r}, 'w'); time.sleep(1000)"))
    process = WorkerProcess(launch)
    process.start()
    said = "not ready after 8 s; it stopped at: loading the model on cpu"
    with pytest.raises(WorkerStartError, match=said) as caught:
        wait_until_ready(process, setup, 8.0, None, heartbeat=0.1, clock=lambda: 8.0 * hung.exists())
    process.end(patience=0.0)
    assert "fetching" in caught.value.tail
    assert "start_timeout=" in str(caught.value)


def test_a_start_that_does_not_begin(make: Make) -> None:
    """As when uv waits for a lock, or the file system does not answer: the deadline is that of everything."""
    launch, setup = start_of(make())
    silent = dataclasses.replace(launch, command=("sh", "-c", "echo waiting; exec sleep 1000"))
    with pytest.raises(WorkerStartError, match="not ready after 0 s; it stopped at: waiting for uv"):
        WorkerConnection(silent, "", "cpu", {}, start_timeout=0.1)
    process = WorkerProcess(silent)
    process.start()
    wait_for(process.log.read_text, "what the command prints")
    with pytest.raises(WorkerStartError, match="not ready after 0 s; it stopped at: waiting for uv") as caught:
        wait_until_ready(process, setup, 0.1, None)
    process.end(patience=0.0)
    assert caught.value.tail == "waiting"


@pytest.mark.parametrize("how", ["time.sleep(1000)", "os.kill(os.getpid(), 19)"])
def test_an_evaluation_that_hangs(make: Make, how: str) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make(f"if self.atoms.positions[0, 0] > 5: {how}")
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    atoms.positions[0, 0] = 6.0
    calc.set(timeout=1.0)  # only for what never ends: all else may take its time
    with pytest.raises(WorkerTimeoutError, match="gave no answer within 1 s"):
        atoms.get_potential_energy()
    wait_until_gone(pid)
    calc.set(timeout=3600.0)
    atoms.positions[0, 0] = 0.0
    assert atoms.get_potential_energy() == 1.0


def test_a_stopped_worker(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make()
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    os.kill(pid, signal.SIGSTOP)
    atoms.positions += 0.1
    calc.set(timeout=1.0)
    with pytest.raises(WorkerTimeoutError, match="gave no answer"):
        atoms.get_potential_energy()
    wait_until_gone(pid)
    calc.set(timeout=3600.0)
    assert atoms.get_potential_energy() == 1.0


def test_printing_a_megabyte(make: Make) -> None:
    atoms = bulk("Cu")
    speak = "print('x' * 10**6); print('y' * 10**6, file=sys.stderr)"
    atoms.calc = calc = make(speak, setup=f"{speak}\nos.write(1, b'z' * 10**6)\nreturn Calculator()")
    assert atoms.get_potential_energy() == 1.0
    log = Path(calc.info()["log"])
    assert log.stat().st_size > 5 * 10**6
    calc.close()
    assert not log.exists()


def test_a_log_of_ones_own(make: Make, tmp_path: Path) -> None:
    calc = make(setup="print('hello'); return Calculator()", log=tmp_path / "worker.log")
    calc.start().close()
    assert "hello" in (tmp_path / "worker.log").read_text()


def test_a_log_that_cannot_be_written(make: Make, tmp_path: Path) -> None:
    with pytest.raises(WorkerStartError, match="Cannot write a log.*no/such.log: No such file"):
        make(log=tmp_path / "no" / "such.log").start()


@pytest.mark.parametrize(
    ("garbage", "message"),
    [
        ("b'hello, this is no frame at all' * 10", "does not begin a frame"),
        ("b'RSK1' + bytes(60)", "does not begin a frame"),
        (
            "__import__('struct').pack('<4sIIIIIQQQ', b'RSK1', 5, 0, 0, 0, 2**31, 1, 1, 64)",
            "announces 2147483648 bytes",
        ),
        ("__import__('struct').pack('<4sIIIIIQQQ', b'RSK1', 5, 0, 0, 0, 0, 1, 2**62, 2**63)", "announces"),
        (
            "__import__('struct').pack('<4sIIIIIQQQ', b'RSK1', 5, 0, 0, 0, 0, 77, 1, 64)",
            "expected number 2",
        ),
        ("__import__('struct').pack('<4sIIIIIQQQ', b'RSK1', 5, 0, 0, 0, 0, 2, 9, 64)", "answered for other atoms"),
        ("__import__('struct').pack('<4sIIIIIQQQ', b'RSK1', 6, 0, 0, 0, 4, 2, 1, 64) + b'{\"a\"'", "not JSON"),
    ],
)
def test_garbage_on_the_socket(make: Make, garbage: str, message: str) -> None:
    """A library that writes to a descriptor that is not its own."""
    body = f"""
    if self.atoms.positions[0, 0] > 5:
        for fd in range(3, 50):
            if os.path.exists("/proc/self/fd/%d" % fd) and os.readlink("/proc/self/fd/%d" % fd).startswith("socket"):
                os.write(fd, {garbage})
    """
    atoms = bulk("Cu")
    atoms.calc = calc = make(body)
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    atoms.positions[0, 0] = 6.0
    with pytest.raises(WorkerProtocolError, match=message):
        atoms.get_potential_energy()
    wait_until_gone(pid)
    atoms.positions[0, 0] = 0.0
    assert atoms.get_potential_energy() == 1.0


def test_use_after_close(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make()
    energy = atoms.get_potential_energy()
    pid = calc.info()["pid"]
    calc.close()
    calc.close()
    wait_until_gone(pid)
    assert atoms.get_potential_energy() == energy
    atoms.positions += 0.1
    with pytest.raises(WorkerError, match="This calculator is closed"):
        atoms.get_potential_energy()
    with calc, calc:
        assert atoms.get_potential_energy() == energy


def test_nothing_is_left_behind(make: Make) -> None:
    before = open_files()
    calc = make()
    calc.start()
    log = Path(calc.info()["log"])
    calc.close()
    assert not log.exists()
    assert open_files() == before


SCRIPT = """
import os, signal, sys, time
from ase.build import bulk
from rootstock import RootstockCalculator
calc = RootstockCalculator(environment=sys.argv[1], model="", root=sys.argv[2], device="cpu")
atoms = bulk("Cu")
atoms.calc = calc
atoms.get_potential_energy()
print(calc.info()["pid"], flush=True)
"""


Script = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def client(make: Make, personal: Path) -> Iterator[Script]:
    """Return a function that starts a Python script which has computed once and printed its worker's number."""
    with contextlib.ExitStack() as stack:

        def start(script: str, body: str = "pass", *arguments: str, before: str = "") -> subprocess.Popen[str]:
            environment = make(body)._arguments["environment"]
            command = [sys.executable, "-c", before + SCRIPT + script, environment, personal, *arguments]
            return stack.enter_context(started(command, stdout=subprocess.PIPE, stderr=None))

        yield start


BUSY = {
    "sleeping": "time.sleep(1000)",
    "holding the interpreter": "import ctypes; ctypes.PyDLL(None).sleep(1000)",
    "stopped": "os.kill(os.getpid(), 19)",
    "idle": "pass",
}


@pytest.mark.parametrize("state", list(BUSY))
def test_no_orphan_after_the_client_is_killed(client: Script, tmp_path: Path, state: str) -> None:
    compute = "atoms.positions[0, 0] = 6\natoms.get_forces()\nprint('idle', flush=True)\ntime.sleep(1000)\n"
    process = client(compute, inside(tmp_path, BUSY[state]))
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    wait_for((tmp_path / "inside-6").exists, "the evaluation")
    if state == "idle":
        assert process.stdout.readline() == "idle\n"
    if state == "stopped":
        stat = Path(f"/proc/{pid}/stat")
        wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "a worker that has stopped itself")
    assert not gone(pid)
    process.kill()
    process.wait()
    wait_until_gone(pid)


def test_no_orphan_though_a_forked_child_lives_on(client: Script) -> None:
    process = client("child = os.fork()\nif child: print(child, flush=True)\ntime.sleep(1000)\n")
    assert process.stdout is not None
    pid, child = int(process.stdout.readline()), int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        wait_until_gone(pid)
        assert not gone(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_thread_that_started_the_worker_may_end(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make()
    thread = threading.Thread(target=calc.start)
    thread.start()
    thread.join()
    pid = calc.info()["pid"]
    assert atoms.get_potential_energy() == 1.0
    assert calc.info()["pid"] == pid


INTERRUPTED = """
signal.signal(signal.SIGINT, signal.default_int_handler)
for x in (6.0, 7.0):
    atoms.positions[0, 0] = x
    try:
        atoms.get_forces()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    atoms.positions[0, 0] = 1.0
    print(atoms.get_potential_energy(), calc.info()["pid"], flush=True)
"""


def test_after_ctrl_c_the_next_call_is_right(client: Script, tmp_path: Path) -> None:
    """The energy is the position: an answer to the interrupted question would show."""
    process = client(INTERRUPTED, inside(tmp_path, UNTIL_GO))
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    for x in (6, 7):
        wait_for((tmp_path / f"inside-{x}").exists, "the evaluation")
        wait_until_it_waits(process.pid)  # an interruption before that, while it still sends, costs it the worker
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        assert process.stdout.readline() == "interrupted\n"
        (tmp_path / f"go-{x}").touch()
        energy, worker = process.stdout.readline().split()
        assert float(energy) == 1.0
        assert int(worker) == pid  # it was waited for, not replaced
    assert process.wait() == 0
    wait_until_gone(pid)


ANY_MOMENT = """
import random, threading
wanted, chance = int(sys.argv[3]), random.Random(1)
hits = done = 0
armed = over = False
def interrupted(*_):
    global armed
    if armed:  # not where this script itself would have to cope with it
        armed = False
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, interrupted)
def interrupt():
    seen = -1
    while not over:
        if done > seen:  # a worker that had to be replaced is given the time to start
            seen = done
            time.sleep(chance.uniform(0, 0.005))
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.001)
thread = threading.Thread(target=interrupt)
thread.start()
try:
    x, again = 0.0, False
    while hits < wanted:
        x += 0.0 if again else 1.0  # after an interruption, the same atoms again
        again = True
        atoms.positions[0, 0] = x
        try:
            armed = True
            energy = atoms.get_potential_energy()
            armed = False
        except KeyboardInterrupt:
            hits += 1
            continue
        assert energy == x, (energy, x)
        again = False
        done += 1
finally:
    over = True
    thread.join()
atoms.positions[0, 0] = 0.5
assert atoms.get_potential_energy() == 0.5
print(hits, flush=True)
"""


@pytest.mark.parametrize("hits", [pytest.param(30), pytest.param(1000, marks=pytest.mark.soak)])
def test_ctrl_c_at_any_moment(client: Script, hits: int) -> None:
    """Interruptions at random moments of a busy loop: never a wrong number, whether the worker is kept or replaced."""
    process = client(ANY_MOMENT, "self.results['energy'] = self.atoms.positions[0, 0]", str(hits))
    out, _ = process.communicate()
    assert process.returncode == 0, out
    assert out.split()[1] == str(hits)


# On one processor nobody waits awake, which would take as many lines as the processor has time for.
ON_ONE_PROCESSOR = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
EVERY_LINE = """
import gc, linecache
from pathlib import Path
from rootstock.config.packaged import PACKAGE
gc.collect()
gc.disable()  # it could run at any line, and would be interrupted there
package, cut, left = str(PACKAGE), [], 0

def trace(frame, event, _):
    global left
    path = frame.f_code.co_filename
    if not path.startswith(package):
        return None
    # Python looks for signals where functions are called and loops go round, so not before this line.
    if event == "line" and not linecache.getline(path, frame.f_lineno).strip().endswith("busy = False"):
        left -= 1
        if left < 0:
            sys.settrace(None)
            cut.append(f"{Path(path).name}:{frame.f_lineno}")
            raise KeyboardInterrupt
    return trace

x, more = 0.0, True
while more:
    left, more, x = len(cut), False, x + 1.0
    atoms.positions[0, 0] = x
    try:
        sys.settrace(trace)
        atoms.get_potential_energy()
    except KeyboardInterrupt:
        more = True
    finally:
        sys.settrace(None)
    assert atoms.get_potential_energy() == x, cut[-1]
    x = atoms.positions[0, 0] = x + 1.0
    assert atoms.get_potential_energy() == x, cut[-1]
print(*{where.partition(".py:")[0] for where in cut})
"""


def test_an_interruption_at_every_line(client: Script) -> None:
    """Whichever line of ours it comes before, the next call is right: for the same atoms, and for the next."""
    body = "self.results['energy'] = self.atoms.positions[0, 0]"
    process = client(EVERY_LINE, body, before=ON_ONE_PROCESSOR)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    per_call = {"base", "inputs", "calculator", "session", "connection", "shared_arrays", "endpoint"}
    assert per_call <= set(out.splitlines()[1].split())


HANDLER = """
import threading
seen, folder = [], sys.argv[3]
other = atoms.copy()
other.positions[0, 0], other.calc = 9.0, atoms.calc
open(f"{folder}/go-9", "w").close()
def ask(*_):
    try:
        seen.append(other.get_potential_energy())
    except RuntimeError as error:
        seen.append(str(error))
signal.signal(signal.SIGUSR1, ask)
def disturb():
    while not os.path.exists(f"{folder}/inside-6"):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGUSR1)
    while not seen:
        time.sleep(0.01)
    open(f"{folder}/go-6", "w").close()
thread = threading.Thread(target=disturb)
thread.start()
pid = atoms.calc.info()["pid"]
atoms.positions[0, 0] = 6.0
print(atoms.get_potential_energy(), atoms.calc.info()["pid"] == pid and atoms.calc.atoms == atoms, flush=True)
thread.join()
ask()
print(seen[1], seen[0], flush=True)
"""


def test_a_signal_handler_that_asks_is_refused(client: Script, tmp_path: Path) -> None:
    """It would take the answer that the call waits for which the signal interrupted; nor does it get that later."""
    process = client(HANDLER, inside(tmp_path, UNTIL_GO), str(tmp_path))
    out, _ = process.communicate()
    assert process.returncode == 0, out
    answer, seen = out.splitlines()[1:3]
    assert answer == "6.0 True"
    assert seen.startswith("9.0 A signal handler asks a worker in the middle of the call"), seen


def test_at_the_end_of_the_script_the_worker_ends(client: Script) -> None:
    process = client("")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert process.wait() == 0
    wait_until_gone(pid)


def test_workers_of_lost_calculators_end(root: Path) -> None:
    calc = RootstockCalculator("emt", root=root, device="cpu").start()
    pid = calc.info()["pid"]
    del calc
    gc.collect()
    wait_until_gone(pid)
