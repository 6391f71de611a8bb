"""What a model starts ends with its worker, however that ends."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from ase import Atoms

from rootstock.client.connection import WorkerConnection
from rootstock.client.inputs import Inputs
from rootstock.client.process import Launch
from rootstock.errors import WorkerDiedError, WorkerStartError
from rootstock.worker import descendants
from rootstock.worker.channel.memory import PROPERTY_BITS
from rootstock.worker.descendants import parent_of
from tests.run.conftest import Make
from tests.support.commands import REPOSITORY, run, started
from tests.support.control_groups import frozen
from tests.support.needs import need_program, need_root
from tests.support.processes import gone, wait_for, wait_until_gone

# Each adds the number of a process that lives on.
STARTS = """\
import json, signal, subprocess
found = [os.fork() or (time.sleep(1000), os._exit(0))]
found.append(subprocess.Popen(["sleep", "1000"]).pid)
in_a_session_of_its_own = subprocess.Popen(["sleep", "1000"], start_new_session=True)
found.append(in_a_session_of_its_own.pid)
stopped = subprocess.Popen(["sleep", "1000"], start_new_session=True)
stopped.send_signal(signal.SIGSTOP)
found.append(stopped.pid)
reader, writer = os.pipe()
if not (first := os.fork()):  # a daemon
    os.setsid()
    if second := os.fork():
        os.write(writer, str(second).encode())
        os._exit(0)
    os.closerange(0, 100)
    os.environ.clear()
    time.sleep(1000)
os.waitpid(first, 0)
found.append(int(os.read(reader, 100)))
shell = "setsid sleep 1000 >&- & sleep 1000 >&- & echo $! & wait"  # which has children of its own
program = subprocess.Popen(["setsid", "sh", "-c", shell], stdout=subprocess.PIPE)
found += [program.pid, int(program.stdout.readline())]
open(FILE + ".new", "w").write(json.dumps([os.getpid(), found]))
os.rename(FILE + ".new", FILE)
"""
BODY = """\
x = self.atoms.positions[0, 0]
if x == 6: os._exit(3)
if x == 7: os.abort()
if x == 8: os.kill(os.getpid(), 9)
if x == 9: time.sleep(1000)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the file of the model's and its children's numbers."""
    return tmp_path / "numbers"


@pytest.fixture(params=["build", "uv-run"])
def launch(make: Make, file: Path, request: pytest.FixtureRequest) -> Launch:
    """Return how to start a model that starts processes."""
    with make() as calc:
        executable = calc.info()["executable"]
    calc = make(BODY, STARTS.replace("FILE", repr(str(file))) + "return Calculator()")
    launch = calc._session.spec.model.launch()
    if request.param == "uv-run":
        return launch
    return dataclasses.replace(launch, command=(executable, "-I", "-B", "-u"), mode="build")  # as a build is started


def ask(connection: WorkerConnection, x: float) -> None:
    inputs = Inputs()
    inputs.update(Atoms("Cu", [[x, 0, 0]]))
    connection.evaluate(inputs, PROPERTY_BITS["energy"], 600.0)


def numbers(file: Path) -> tuple[int, list[int]]:
    """Return the number of the worker, and those of the processes that it has started, which live."""
    worker, found = json.loads(file.read_text())
    assert len(found) == 7
    assert not any(map(gone, found))
    return worker, found


def close(connection: WorkerConnection) -> None:
    connection.close()


def kill(connection: WorkerConnection) -> None:
    connection.kill()


def exits(connection: WorkerConnection) -> None:
    with pytest.raises(WorkerDiedError, match="exited with code 3"):
        ask(connection, 6.0)


def crashes(connection: WorkerConnection) -> None:
    with pytest.raises(WorkerDiedError, match="killed by SIGABRT"):
        ask(connection, 7.0)


def is_killed(connection: WorkerConnection) -> None:
    with pytest.raises(WorkerDiedError, match="killed by SIGKILL"):
        ask(connection, 8.0)


@pytest.mark.parametrize("end", [close, kill, exits, crashes, is_killed])
def test_what_a_model_starts_ends_with_its_worker(
    launch: Launch, file: Path, end: Callable[[WorkerConnection], None]
) -> None:
    connection = WorkerConnection(launch, "", "cpu", {}, start_timeout=600)
    worker, found = numbers(file)
    end(connection)
    wait_until_gone(worker, *found)


CLIENT = """
import dataclasses, pickle, sys
from rootstock.client.connection import WorkerConnection
from tests.run.test_descendants import ask
connection = WorkerConnection(pickle.load(open(sys.argv[1], "rb")), "", "cpu", {}, start_timeout=600)
print("ready", flush=True)
ask(connection, 9.0)
"""


def client_of(launch: Launch, file: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    pickled = file.with_name("launch")
    pickled.write_bytes(pickle.dumps(launch))
    return started([sys.executable, "-c", CLIENT, str(pickled)], stdout=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_model_starts_ends_with_the_client(launch: Launch, file: Path, number: int) -> None:
    with client_of(launch, file) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        worker, found = numbers(file)
        client.send_signal(number)
        client.wait()
        wait_until_gone(worker, *found)


def test_what_a_start_that_fails_has_started_ends(make: Make, file: Path) -> None:
    calc = make(setup=STARTS.replace("FILE", repr(str(file))) + "raise ValueError('no')")
    with pytest.raises(WorkerStartError, match="no"):
        calc.start()
    worker, found = json.loads(file.read_text())
    wait_until_gone(worker, *found)


def test_a_guard_that_is_killed_takes_the_worker_with_it(make: Make) -> None:
    calc = make().start()
    worker = calc.info()["pid"]
    guard = parent_of(Path(f"/proc/{worker}"))
    os.kill(guard, signal.SIGKILL)
    wait_until_gone(worker)
    with pytest.raises(WorkerDiedError):
        calc.get_potential_energy(Atoms("Cu"))
    assert calc.get_potential_energy(Atoms("Cu")) == 1.0


def test_a_worker_that_has_closed_every_descriptor_ends_with_its_client(launch: Launch, make: Make, file: Path) -> None:
    """Some libraries close all that is not theirs: the lifeline, too."""
    file.unlink(missing_ok=True)
    calc = make(BODY, f"os.closerange(3, 100)\nopen({str(file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(1000)")
    broken = dataclasses.replace(launch, environment_file=calc._session.spec.model.launch().environment_file)
    with client_of(broken, file) as client:
        wait_for(lambda: file.exists() and file.read_text(), "the start")
        worker = int(file.read_text())
        client.kill()
        wait_until_gone(worker)


def test_what_a_worker_has_started_ends_after_a_worker_that_cannot_be_killed(
    launch: Launch, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of, and its guard waits for its end, though the client has given it up."""
    connection = WorkerConnection(launch, "", "cpu", {}, start_timeout=600)
    worker, found = numbers(file)
    with frozen(worker), caplog.at_level(logging.WARNING, "rootstock"):
        connection.kill()
        assert caplog.text.count("does not end, not even by SIGKILL") == 1
    wait_until_gone(worker, *found)


WITHOUT_PROC = """
import pickle, sys, time
from rootstock.client.connection import WorkerConnection
from rootstock.errors import WorkerDiedError
from tests.run.test_descendants import ask
connection = WorkerConnection(pickle.load(open(sys.argv[1], "rb")), "", "cpu", {}, start_timeout=600)
try:
    ask(connection, 6.0)
except WorkerDiedError as error:
    print(error.returncode, flush=True)
    time.sleep(1000)
"""


def test_children_end_with_a_worker_where_proc_is_not_mounted(make: Make, file: Path) -> None:
    """Those of the worker's group."""
    need_root()
    calc = make(BODY, f"import subprocess\nchild = subprocess.Popen(['sleep', '1000'])\n"
                f"open({str(file)!r}, 'w').write(str(child.pid))\nreturn Calculator()")  # fmt: skip
    pickled = file.with_name("launch")
    pickled.write_bytes(pickle.dumps(calc._session.spec.model.launch()))
    without = [need_program("unshare", "util-linux"), "--mount", "sh", "-c", 'umount -l /proc && exec "$@"', "sh"]
    command = [*without, sys.executable, "-c", WITHOUT_PROC, pickled]
    with started(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "3\n"
        wait_until_gone(int(file.read_text()))


def test_no_room_for_the_process_of_a_model() -> None:
    need_root()
    somebody = [need_program("setpriv", "util-linux"), "--reuid=4711", "--clear-groups", "--bounding-set=-all"]
    done = run(*somebody, "/usr/bin/python3", "-c", Path(descendants.__file__).read_text() + NO_ROOM)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Cannot start the process of the model: Resource temporarily unavailable. "
        "ulimit -u shows how many you may have.\n"
    )


NO_ROOM = """
import resource
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
run_guarded([])
print("started")
"""


def test_processes_of_a_worker_are_reaped_while_it_lives(make: Make) -> None:
    """A model that starts daemons in each step leaves no zombies."""
    body = "if not (child := os.fork()):\n    os.fork() or os._exit(0)\n    os._exit(0)\nos.waitpid(child, 0)"
    calc = make(body)
    for x in range(20):
        calc.get_potential_energy(Atoms("Cu", [[x, 0, 0]]))
    guard = parent_of(Path(f"/proc/{calc.info()['pid']}"))
    wait_for(lambda: len(Path(f"/proc/{guard}/task/{guard}/children").read_text().split()) == 1, "the reaping")
