"""Workers that fail in every way: the cause is told, nothing hangs, nothing is left behind, the next call is right."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import linecache
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from ase.build import bulk

from rootstock import RootstockCalculator
from rootstock.client.connection import Client
from rootstock.config.packaged import PACKAGE
from rootstock.errors import (
    ModelError,
    WorkerDiedError,
    WorkerError,
    WorkerProtocolError,
    WorkerStartError,
    WorkerTimeoutError,
)
from tests.conftest import clean_environment
from tests.run.conftest import Make


def gone(pid: int) -> bool:
    """Tell whether a process has ended; one that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


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
    path.write_text(
        "# /// script\n# dependencies = ['ase', 'numpy<1', 'numpy>2']\n# ///\ndef setup(model, device): pass\n"
    )
    calc = RootstockCalculator(environment=path, model="", root=personal)
    with pytest.raises(WorkerStartError, match="exited with code 1 during the start") as caught:
        calc.start()
    assert "unsatisfiable" in caught.value.tail or "No solution" in caught.value.tail


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
    assert eventually(lambda: gone(calc._session._client._process.pid))
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


@pytest.mark.parametrize("how", ["raise SystemExit(4)", "raise KeyboardInterrupt", "raise MemoryError('x' * 10**6)"])
def test_the_model_raises_what_would_end_a_process(make: Make, how: str) -> None:
    atoms = bulk("Cu")
    atoms.calc = make(f"if self.atoms.positions[0, 0] > 5:\n    {how}")
    atoms.positions[0, 0] = 6.0
    with pytest.raises(ModelError, match=how.split()[1].partition("(")[0]):
        atoms.get_potential_energy()
    atoms.positions[0, 0] = 0.0
    assert atoms.get_potential_energy() == 1.0


def test_a_start_that_hangs(make: Make) -> None:
    calc = make(setup="print('fetching', flush=True); time.sleep(1000)", start_timeout=8.0)
    begun = time.monotonic()
    with pytest.raises(
        WorkerStartError, match="not ready after 8 s; it stopped at: loading the model on cpu"
    ) as caught:
        calc.start()
    assert time.monotonic() - begun < 16
    assert "fetching" in caught.value.tail
    assert "start_timeout=" in str(caught.value)


def test_a_start_that_does_not_begin(make: Make) -> None:
    """As when uv waits for a lock, or the file system does not answer: the deadline is that of everything."""
    calc = make()
    launch = calc._session.spec.manager.launch(calc._session.spec.source)
    silent = dataclasses.replace(launch, command=("sh", "-c", "echo waiting; exec sleep 1000"))
    begun = time.monotonic()
    with pytest.raises(WorkerStartError, match="not ready after 2 s; it stopped at: waiting for uv") as caught:
        Client(silent, "", "cpu", {}, start_timeout=2.0)
    assert time.monotonic() - begun < 8
    assert caught.value.tail == "waiting"


def test_an_evaluation_that_hangs(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make("if self.atoms.positions[0, 0] > 5: time.sleep(1000)", timeout=2.0)
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    atoms.positions[0, 0] = 6.0
    with pytest.raises(WorkerTimeoutError, match="gave no answer within 2 s"):
        atoms.get_potential_energy()
    assert eventually(lambda: gone(pid))
    atoms.positions[0, 0] = 0.0
    assert atoms.get_potential_energy() == 1.0


def test_a_stopped_worker(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make(timeout=2.0)
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    os.kill(pid, signal.SIGSTOP)
    atoms.positions += 0.1
    with pytest.raises(WorkerTimeoutError, match="gave no answer"):
        atoms.get_potential_energy()
    assert eventually(lambda: gone(pid))
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
            "expected the answer to number 2",
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
    assert eventually(lambda: gone(pid))
    atoms.positions[0, 0] = 0.0
    assert atoms.get_potential_energy() == 1.0


def test_use_after_close(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make()
    energy = atoms.get_potential_energy()
    pid = calc.info()["pid"]
    calc.close()
    calc.close()
    assert eventually(lambda: gone(pid))
    assert atoms.get_potential_energy() == energy
    atoms.positions += 0.1
    with pytest.raises(WorkerError, match="This calculator is closed"):
        atoms.get_potential_energy()
    with calc, calc:
        assert atoms.get_potential_energy() == energy


def test_nothing_is_left_behind(make: Make, tmp_path: Path) -> None:
    scratch = Path(f"/proc/{os.getpid()}/fd")
    before = {os.readlink(fd) for fd in scratch.iterdir() if fd.exists()}
    calc = make()
    calc.start()
    log = Path(calc.info()["log"])
    calc.close()
    assert not log.exists()
    assert {os.readlink(fd) for fd in scratch.iterdir() if fd.exists()} == before


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

        def start(script: str, body: str = "pass") -> subprocess.Popen[str]:
            environment = make(body)._arguments["environment"]
            process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT + script, environment, str(personal)],
                env=clean_environment(), stdout=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


BUSY = {
    "sleeping": "if self.atoms.positions[0, 0] > 5: time.sleep(1000)",
    "holding the interpreter": "if self.atoms.positions[0, 0] > 5:\n    import ctypes; ctypes.PyDLL(None).sleep(1000)",
    "stopped": "if self.atoms.positions[0, 0] > 5: os.kill(os.getpid(), 19)",
    "idle": "pass",
}


@pytest.mark.parametrize("state", list(BUSY))
def test_no_orphan_after_the_client_is_killed(client: Script, state: str) -> None:
    compute = "atoms.positions[0, 0] = 6\nprint('busy', flush=True)\natoms.get_forces()\ntime.sleep(1000)\n"
    process = client(compute, BUSY[state])
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert process.stdout.readline() == "busy\n"
    if state == "stopped":
        assert eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    assert not gone(pid)
    process.kill()
    process.wait(10)
    assert eventually(lambda: gone(pid)), f"worker {pid} outlives its client"


def test_no_orphan_though_a_forked_child_lives_on(client: Script) -> None:
    script = (
        "child = os.fork()\nif child == 0:\n    time.sleep(60); os._exit(0)\nprint(child, flush=True)\ntime.sleep(1000)"
    )
    process = client(script)
    assert process.stdout is not None
    pid, child = int(process.stdout.readline()), int(process.stdout.readline())
    try:
        process.kill()
        process.wait(10)
        assert eventually(lambda: gone(pid))
        assert not gone(child)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("parent", ["lives", "is dead"])
def test_no_child_of_the_worker_after_the_client_is_killed(client: Script, tmp_path: Path, parent: str) -> None:
    """Also if the client, being stopped, could not see that the worker died."""
    child_file, death = tmp_path / "child", tmp_path / "death"
    process = client(
        "atoms.positions[0, 0] = 6\natoms.get_forces()\n",
        "if self.atoms.positions[0, 0] > 5:\n"
        "    child = os.fork()\n"
        "    if child == 0: time.sleep(1000)\n"
        f"    open('{child_file}.new', 'w').write(str(child)); os.rename('{child_file}.new', '{child_file}')\n"
        f"    while not os.path.exists('{death}'): time.sleep(0.01)\n"
        "    os._exit(5)",
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert eventually(child_file.exists)
    child = int(child_file.read_text())
    if parent == "is dead":
        process.send_signal(signal.SIGSTOP)
        death.touch()
        assert eventually(lambda: gone(pid))
    assert not gone(child)
    process.kill()
    process.wait(10)
    assert eventually(lambda: gone(child)), f"the worker's child {child} outlives its client"


def test_a_thread_that_started_the_worker_may_end(make: Make) -> None:
    import threading

    atoms = bulk("Cu")
    atoms.calc = calc = make()
    thread = threading.Thread(target=calc.start)
    thread.start()
    thread.join(60)
    pid = calc.info()["pid"]
    assert atoms.get_potential_energy() == 1.0
    assert calc.info()["pid"] == pid


INTERRUPTED = """
signal.signal(signal.SIGINT, signal.default_int_handler)
for x in (6.0, 7.0):
    atoms.positions[0, 0] = x
    print("busy", flush=True)
    try:
        atoms.get_forces()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    atoms.positions[0, 0] = 1.0
    print(atoms.get_potential_energy(), calc.info()["pid"], flush=True)
"""


def test_after_ctrl_c_the_next_call_is_right(client: Script) -> None:
    """The energy is the position: an answer to the interrupted question would show."""
    body = "self.results['energy'] = self.atoms.positions[0, 0]\nif self.atoms.positions[0, 0] > 5: time.sleep(2)"
    process = client(INTERRUPTED, body)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    for _ in range(2):
        assert process.stdout.readline() == "busy\n"
        time.sleep(0.5)  # into the evaluation
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        assert process.stdout.readline() == "interrupted\n"
        energy, worker = process.stdout.readline().split()
        assert float(energy) == 1.0
        assert int(worker) == pid  # it was waited for, not replaced
    assert process.wait(20) == 0
    assert eventually(lambda: gone(pid))


def test_ctrl_c_at_any_moment(client: Script) -> None:
    """Interruptions at random moments of a busy loop: never a wrong number, whether the worker is kept or replaced."""
    script = """
import random, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
random.seed(1)
hits = done = 0
end = time.monotonic() + 12
def interrupt():
    seen = 0
    while time.monotonic() < end:
        if done > seen:  # a worker that had to be replaced is given the time to start
            seen = done
            time.sleep(random.uniform(0, 0.005))
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.001)
threading.Thread(target=interrupt, daemon=True).start()
x, again = 0.0, False
while time.monotonic() < end:
    try:
        x += 0.0 if again else 1.0  # after an interruption, the same atoms again
        again = True
        atoms.positions[0, 0] = x
        energy = atoms.get_potential_energy()
        assert energy == x, (energy, x)
        again = False
        done += 1
    except KeyboardInterrupt:
        hits += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
atoms.positions[0, 0] = 0.5
assert atoms.get_potential_energy() == 0.5
print(hits, done, flush=True)
"""
    process = client(script, "self.results['energy'] = self.atoms.positions[0, 0]")
    assert process.stdout is not None
    process.stdout.readline()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    hits, done = map(int, out.split())
    assert hits > 20 and done > 20, (hits, done)


def test_an_interruption_at_every_line(make: Make) -> None:
    """Whichever line of ours it comes before, the next call is right: for the same atoms, and for the next."""
    atoms = bulk("Cu")
    atoms.calc = make("self.results['energy'] = self.atoms.positions[0, 0]")
    atoms.get_potential_energy()
    package = str(PACKAGE)
    cut: list[str] = []
    left, usual = 0, sys.gettrace()  # what measures coverage

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        path = frame.f_code.co_filename
        if not path.startswith(package):
            return None
        # Python looks for signals where functions are called and loops go round, so not before this line.
        if event == "line" and linecache.getline(path, frame.f_lineno).strip() != "self._asking = False":
            left -= 1
            if left < 0:
                sys.settrace(usual)
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
            sys.settrace(usual)
        assert atoms.get_potential_energy() == x, cut[-1]
        x = atoms.positions[0, 0] = x + 1.0
        assert atoms.get_potential_energy() == x, cut[-1]
    per_call = {"base", "inputs", "calculator", "session", "connection", "shared_arrays", "endpoint"}
    assert per_call <= {where.partition(".py:")[0] for where in cut}


def test_a_signal_handler_that_asks_is_refused(client: Script) -> None:
    """It would take the answer that the call waits for which the signal interrupted."""
    script = """
seen = []
def ask(*_):
    try:
        seen.append(atoms.get_potential_energy())
    except RuntimeError as error:
        seen.append(str(error))
signal.signal(signal.SIGUSR1, ask)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
pid = atoms.calc.info()["pid"]
atoms.positions[0, 0] = 6.0
print(atoms.get_potential_energy(), atoms.calc.info()["pid"] == pid, flush=True)
ask()
print(seen[1], seen[0], flush=True)
"""
    process = client(
        "import threading\n" + script, "self.results['energy'] = self.atoms.positions[0, 0]; time.sleep(1)"
    )
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    answer, seen = out.splitlines()[1:3]
    assert answer == "6.0 True"
    assert seen.startswith("6.0 A signal handler asks a worker in the middle of the call"), seen


def test_at_the_end_of_the_script_the_worker_ends(client: Script) -> None:
    process = client("")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert process.wait(20) == 0
    assert eventually(lambda: gone(pid), 2)


def test_workers_of_lost_calculators_end(make: Make) -> None:
    calc = pickle.loads(pickle.dumps(make())).start()
    pid = calc.info()["pid"]
    del calc
    gc.collect()
    assert eventually(lambda: gone(pid))
