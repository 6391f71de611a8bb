"""Who becomes the client of an `IPICalculator`, among all that connect; and answers to no question."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.units import Bohr, Hartree

from rootstock.errors import WorkerDiedError, WorkerProtocolError, WorkerStartError
from rootstock.interfaces.ipi.codec import header
from rootstock.interfaces.ipi.driver import Driver
from rootstock.interfaces.ipi.messages import HAVEDATA, READY, STATUS
from rootstock.ipi import IPICalculator
from tests.peers.test_ipi_server import check, client, patience
from tests.support.commands import REPOSITORY, run, started
from tests.support.processes import open_files, wait_for, wait_until_it_waits

HTTP = b"GET / HTTP/1.0\r\n\r\n"
SOON_S = 60.0  # until a client that is started has connected, on a machine that is busy


def place_of(calc: IPICalculator) -> str:
    names = calc._session._listener.names  # type: ignore[union-attr]
    return names.get("socket") or f"{names['host']}:{names['port']}"


@contextmanager
def asked(calc: IPICalculator, atoms: Atoms) -> Iterator[tuple[Future[float], str]]:
    """Ask for an energy in a thread; return it, to come, and where clients are waited for."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(atoms.get_potential_energy)
        wait_for(lambda: calc._session._listener or answer.done(), "the listener")
        yield answer, place_of(calc)


def visit(place: str) -> socket.socket:
    """Connect as anybody may, as soon as that is possible: a socket has its name before it is listened at."""
    host, _, port = place.rpartition(":")
    sock = socket.socket(socket.AF_INET if host else socket.AF_UNIX)

    def connected() -> bool:
        return sock.connect_ex((host, int(port)) if host else place) == 0

    wait_for(connected, "a server")
    return sock


def is_asked(visitor: socket.socket) -> bool:
    """Wait until a visitor is asked for its state; that stays to be read. False: it is dropped instead."""
    with suppress(ConnectionResetError):
        return visitor.recv(12, socket.MSG_PEEK) == header(STATUS)
    return False


def is_dropped(visitor: socket.socket) -> bool:
    """Wait for the end of a connection."""
    with suppress(ConnectionResetError):
        while visitor.recv(100):
            pass
    return True


@pytest.mark.parametrize("where", [{"port": 0}, {"address": "PATH"}], ids=["tcp", "unix"])
@pytest.mark.parametrize(
    "first",
    [b"", HTTP, b"hello", header(HAVEDATA), 2 * header(READY), b"READY"],
    ids=["silent", "http", "short", "busy", "twice", "half"],
)
def test_the_first_connection_is_no_client(short: Path, where: dict[str, Any], first: bytes) -> None:
    atoms = bulk("Cu", cubic=True)
    where = {key: str(short / "s") if value == "PATH" else value for key, value in where.items()}
    with IPICalculator(**where, start_timeout=SOON_S) as calc:
        atoms.calc = calc
        with asked(calc, atoms) as (answer, place), visit(place) as visitor:
            assert is_asked(visitor)
            visitor.sendall(first)
            with started(client(socket_name=place), stderr=None):
                assert answer.result() == pytest.approx(Hartree)
                assert is_dropped(visitor)


def test_a_driver_that_answers_before_it_is_asked(short: Path) -> None:
    """In the listener's backlog, while another client computes."""
    place = str(short / "s")
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(address=place, start_timeout=SOON_S) as calc:
        atoms.calc = calc
        with started(client("exit", 2, socket_name=place), stderr=None):
            check(atoms, 1)
            with visit(place) as visitor, visit(place) as other:
                visitor.sendall(header(READY))
                atoms.rattle(0.1)
                with pytest.raises(WorkerDiedError):
                    atoms.get_forces()
                with started(client(socket_name=place), stderr=None):
                    check(atoms, 1)
                assert is_dropped(visitor) and is_dropped(other)


def test_a_client_that_loads_its_model_after_it_connects(short: Path, tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(port=0) as calc:
        atoms.calc = calc
        with (
            asked(calc, atoms) as (answer, place),
            visit(place) as silent,
            started(client(f"load:{tmp_path}", socket_name=place), stderr=None),
        ):
            wait_for((tmp_path / "inside").exists, "the client")
            for _ in range(3):
                with visit(place) as visitor:
                    visitor.sendall(HTTP)
                    assert is_dropped(visitor)
            (tmp_path / "go").touch()
            assert answer.result() == pytest.approx(Hartree)
            assert is_dropped(silent)


SERVER = """
import os, resource, sys
from ase.build import bulk
from rootstock.ipi import IPICalculator
place, start_timeout, spare = sys.argv[1:]
atoms = bulk("Cu", cubic=True)
atoms.calc = IPICalculator(address=place, start_timeout=float(start_timeout))
last = max(map(int, os.listdir("/proc/self/fd")))  # that of the folder itself, which is closed
if int(spare):
    resource.setrlimit(resource.RLIMIT_NOFILE, (last + int(spare),) * 2)
print(repr(atoms.get_potential_energy()))
"""


@contextmanager
def server(place: Path, start_timeout: float = 600.0, spare: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Wait for a client in a process of its own, which may have `spare` files (0: as many as this one)."""
    words = [sys.executable, "-c", SERVER, str(place), str(start_timeout), str(spare)]
    with started(words, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        wait_for(lambda: place.exists() or process.poll() is not None, "the server")
        yield process


@pytest.mark.parametrize(("visitors", "spare"), [(100, 0), (13, 8)], ids=["room", "files"])
def test_a_crowd_of_silent_connections(short: Path, visitors: int, spare: int) -> None:
    """They are held as long as there is room, or a descriptor, and others get their turn all the same."""
    place, most = short / "s", 0
    with ExitStack() as stack, server(place, spare=spare) as process:
        for _ in range(visitors):
            stack.enter_context(visit(str(place)))
        stack.enter_context(started(client(socket_name=str(place)), stderr=None))
        while process.poll() is None:
            with suppress(FileNotFoundError):
                most = max(most, len(os.listdir(f"/proc/{process.pid}/fd")))
            time.sleep(0.02)
        out, err = process.communicate()
    assert process.returncode == 0 and float(out) == pytest.approx(Hartree), err
    assert "said nothing until others needed the room" in err
    assert most < 100 and err.count("Dropped a connection to") <= 5, err


def test_no_descriptor_for_the_first_connection(short: Path) -> None:
    place = short / "s"
    with server(place, spare=1) as process, visit(str(place)):
        _, err = process.communicate()
    assert "Cannot accept an i-PI client at" in err and "Too many open files" in err and "ulimit -n" in err, err


def test_what_connected_is_told(caplog: pytest.LogCaptureFixture) -> None:
    atoms = bulk("Cu", cubic=True)
    timeout, said = 0.5, ""
    while "sent b'GET" not in said or "closed" not in said or "more" not in said:  # in time; else again, with more
        assert timeout < 100, said
        timeout *= 2
        caplog.clear()
        with IPICalculator(port=0, start_timeout=timeout) as calc:
            atoms.calc = calc
            with asked(calc, atoms) as (answer, place), visit(place) as http, visit(place):
                http.sendall(HTTP)
                for _ in range(9):
                    visit(place).close()
                with pytest.raises(WorkerStartError) as error:
                    answer.result()
            said = str(error.value)
    assert re.search(rf"No i-PI client connected to {place} within {timeout:.0f} s\. Connections \(\d+\): ", said), said
    assert re.search(r"127\.0\.0\.1:\d+ sent b'GET / HTTP/1.0\\r\\n\\r\\n'", said), said
    assert re.search(r"127\.0\.0\.1:\d+ said nothing and closed the connection", said), said
    assert re.search(r"; and \d more\.\n", said), said
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 5 and place in warnings[0] and "Further ones" in warnings[-1]


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("s.recv(12); s.sendall(b'HELLO WORLD!'); time.sleep(1000)", "does not speak i-PI.*sent b'HELLO WORLD!'"),
        ("s.recv(12); s.close(); time.sleep(1000)", "does not speak i-PI.*said nothing and closed"),
        ("s.recv(12); exit(7)", "exited with code 7 before it answered.*process"),
    ],
    ids=["nonsense", "closes", "exits"],
)
def test_a_command_whose_program_speaks_something_else(then: str, message: str) -> None:
    """Nobody else can connect there, so nobody else is waited for."""
    code = f"import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); {then}"
    atoms = bulk("Cu")
    with IPICalculator([sys.executable, "-c", code, "{socket}"]) as calc:
        atoms.calc = calc
        with pytest.raises(WorkerStartError, match=message):
            atoms.get_forces()


def test_who_waits_while_another_client_computes(short: Path) -> None:
    """Strangers among them cost no time when the next client is needed, and a driver among them is the next one."""
    place = str(short / "s")
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(address=place, start_timeout=SOON_S) as calc, ExitStack() as stack:
        atoms.calc = calc
        with started(client("exit", 2, socket_name=place), stderr=None):
            check(atoms, 1)
            for _ in range(5):
                visit(place).close()
            silent = stack.enter_context(visit(place))
            spare = stack.enter_context(visit(place))
            atoms.rattle(0.1)
            with pytest.raises(WorkerDiedError):
                atoms.get_forces()
        driven = atoms.copy()
        driven.calc = EMT()
        thread = threading.Thread(target=Driver(driven).serve, args=(spare,))
        thread.start()
        expected = atoms.copy()
        expected.calc = EMT()
        assert atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy())
        assert is_dropped(silent)
        calc.close()
        thread.join()


def test_who_waited_with_the_old_atoms_is_no_client_for_new_ones(short: Path) -> None:
    place = str(short / "s")
    atoms, other = bulk("Cu", cubic=True), bulk("Au", cubic=True)
    with IPICalculator(address=place, prepare=lambda atoms: None) as calc:
        atoms.calc = other.calc = calc
        with started(client(socket_name=place), stderr=None):
            check(atoms, 1)
        with visit(place) as spare, asked(calc, other) as (answer, _):
            assert not is_asked(spare)
            with started(client(socket_name=place), stderr=None):
                assert answer.result() == pytest.approx(Hartree)


def test_a_client_for_new_atoms_that_comes_too_late_serves_the_next_call(short: Path) -> None:
    place = str(short / "s")
    atoms, other = bulk("Cu", cubic=True), bulk("Au", cubic=True)
    with IPICalculator(address=place, prepare=lambda atoms: None) as calc:
        atoms.calc = other.calc = calc
        with started(client(socket_name=place), stderr=None):
            check(atoms, 1)
        with patience(calc, start_timeout=0.5), pytest.raises(WorkerStartError, match="No i-PI client connected"):
            other.get_forces()
        with started(client(f"load:{short}", socket_name=place), stderr=None):
            wait_for((short / "inside").exists, "the client")
            (short / "go").touch()
            check(other, 1)


def test_ctrl_c_while_clients_are_waited_for(short: Path) -> None:
    place = short / "s"
    atoms = bulk("Cu", cubic=True)
    before = open_files()
    found = []

    def interrupt() -> None:
        wait_for(place.exists, "the listener")
        with visit(str(place)) as first, visit(str(place)) as second:
            found.extend([is_asked(first), is_asked(second)])
            wait_until_it_waits(os.getpid())
            os.kill(os.getpid(), signal.SIGUSR1)
            found.extend([is_dropped(first), is_dropped(second)])

    previous = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with IPICalculator(address=str(place)) as calc:
            atoms.calc = calc
            with pytest.raises(KeyboardInterrupt):
                atoms.get_forces()
            thread.join()
            with started(client(socket_name=str(place)), stderr=None):
                check(atoms, 1)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, previous)
    assert found == [True] * 4
    assert open_files() == before


def test_a_suspended_job_goes_on_to_wait(short: Path) -> None:
    """Time in which the server itself was stopped is no time that it waited for its client."""
    timeout, place = 8.0, short / "s"
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    with server(place, timeout) as process, visit(str(place)) as driver:
        assert is_asked(driver)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(timeout + 1)
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(3.0)  # one whose time is over says so within a second or two
        Driver(atoms).serve(driver)
        out, err = process.communicate()
    assert process.returncode == 0 and float(out) == pytest.approx(atoms.get_potential_energy()), err


FULL = """
import sys
from ase.build import bulk
from rootstock.errors import WorkerStartError
from rootstock.ipi import IPICalculator
atoms = bulk("Cu")
atoms.calc = IPICalculator(address=sys.argv[1])
try:
    atoms.get_forces()
except WorkerStartError as error:
    assert "Cannot listen" in str(error) and "already in use" in str(error), error
else:
    raise AssertionError
"""


def test_an_address_of_a_server_for_which_many_wait(short: Path) -> None:
    place = str(short / "s")
    with ExitStack() as stack, socket.socket(socket.AF_UNIX) as other:
        other.bind(place)
        other.listen(0)
        stack.enter_context(visit(place))  # for more there is no room
        run(sys.executable, "-c", FULL, place, cwd=REPOSITORY, check=True, timeout=60)


def test_each_thread_gets_its_own_values() -> None:
    together = threading.Barrier(4)

    def work(number: int) -> None:
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=number)
        atoms.calc = calc
        together.wait()
        for _ in range(20):
            atoms.positions += 0.01
            assert atoms.get_potential_energy() == pytest.approx(atoms.positions[0, 0] * Hartree / Bohr)
            assert atoms.get_forces() == pytest.approx(atoms.positions * Hartree / Bohr**2)

    with IPICalculator(client("x")) as calc, ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


# -- answers to no question

UNASKED = "sent b'READY       ' without being asked"


@pytest.mark.parametrize("step", [1, 4])
def test_an_answer_that_comes_twice(step: int) -> None:
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(client("twice", step)) as calc:
        atoms.calc = calc
        for i in range(1, step):
            atoms.positions[0, 0] = i
            check(atoms, i)
        atoms.positions[0, 0] = 100
        with pytest.raises(WorkerProtocolError, match=UNASKED):
            atoms.get_forces()
        if step > 1:
            check(atoms, 1)  # by another client


@pytest.mark.parametrize("step", [1, 4])
def test_an_answer_that_comes_before_the_question(tmp_path: Path, step: int) -> None:
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(client(f"ahead:{tmp_path}", step)) as calc:
        atoms.calc = calc
        for i in range(1, step + 1):
            atoms.positions[0, 0] = i
            check(atoms, i)
        (tmp_path / "go").touch()
        wait_for((tmp_path / "sent").exists, "the answer")
        atoms.positions[0, 0] = 100
        with pytest.raises(WorkerProtocolError, match=UNASKED):
            atoms.get_forces()
        (tmp_path / "go").unlink()
        check(atoms, 1)  # by another client
        (tmp_path / "go").touch()  # which may end then


def test_a_second_answer_to_an_interrupted_question(tmp_path: Path) -> None:
    """The first is waited for and dropped; then the client is of no more use."""
    atoms = bulk("Cu", cubic=True)

    def interrupt() -> None:
        wait_for((tmp_path / "inside").exists, "the evaluation")
        wait_until_it_waits(os.getpid())
        os.kill(os.getpid(), signal.SIGUSR1)

    with IPICalculator(client(f"wait twice:{tmp_path}", 3)) as calc:
        atoms.calc = calc
        for i in (1, 2):
            atoms.positions[0, 0] = i
            check(atoms, i)
        previous = signal.signal(signal.SIGUSR1, signal.default_int_handler)
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            atoms.positions[0, 0] = 100
            with pytest.raises(KeyboardInterrupt):
                atoms.get_forces()
        finally:
            thread.join()
            signal.signal(signal.SIGUSR1, previous)
        (tmp_path / "go").touch()
        atoms.positions[0, 0] = 200
        check(atoms, 1)
