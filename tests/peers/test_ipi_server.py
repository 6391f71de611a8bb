"""Clients of i-PI that compute for us: ASE's SocketClient, LAMMPS, i-PI's driver, and programs that misbehave."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
import pickle
import re
import secrets
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.io.lammpsdata import write_lammps_data
from ase.units import Bohr, Hartree
from hypothesis import given
from hypothesis import strategies as st

from rootstock.errors import (
    ConfigurationError,
    ModelError,
    NonFiniteError,
    WorkerDiedError,
    WorkerError,
    WorkerProtocolError,
    WorkerStartError,
    WorkerTimeoutError,
)
from rootstock.interfaces.ipi.cells import frame_of
from rootstock.interfaces.ipi.codec import Decoder, ReplyDecoder, encode, encode_cell, encode_positions, header
from rootstock.interfaces.ipi.messages import HAVEDATA, NEEDINIT, READY, ForceReady, PosData, Reply
from rootstock.interfaces.ipi.server import Peer
from rootstock.ipi import IPICalculator
from tests.support.commands import REPOSITORY, run, started
from tests.support.control_groups import frozen
from tests.support.ipi import feed
from tests.support.needs import need_program
from tests.support.processes import wait_for, wait_until_gone, wait_until_it_waits, worker_logs

CLIENT = Path(__file__).parent / "programs" / "client.py"
RESULT = ForceReady(-1.5, np.arange(6.0).reshape(2, 3), np.arange(9.0).reshape(3, 3) * np.eye(3), b"{}")


# -- the protocol


@given(st.integers(1, 300))
def test_replies_in_pieces_of_any_size(size: int) -> None:
    data = header(READY) + header(HAVEDATA) + encode(RESULT) + header(NEEDINIT)
    decoder, found = ReplyDecoder(), []
    for i in range(0, len(data), size):
        feed(decoder, data[i : i + size])
        while (reply := decoder.next_reply(2)) is not None:
            found.append(reply)
    assert [found[0], found[1], found[3]] == [READY, HAVEDATA, NEEDINIT]
    result = found[2]
    assert isinstance(result, ForceReady)
    assert (result.energy, result.extra) == (-1.5, b"{}")
    assert result.forces == pytest.approx(RESULT.forces, rel=1e-15)
    assert result.virial == pytest.approx(RESULT.virial, rel=1e-15)


@given(st.binary(max_size=400))
def test_random_replies(data: bytes) -> None:
    decoder = ReplyDecoder()
    try:
        feed(decoder, data)
        while decoder.next_reply(1) is not None:
            pass
    except WorkerProtocolError:
        pass  # anything else fails
    assert len(decoder.room()) < 2**13


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("STATUS"), "sent b'STATUS', which is no answer"),
        (header("FORCEREADY") + struct.pack("<di", 1.0, 2**31 - 1), "answered for 2147483647 atoms.* about 2"),
        (header("FORCEREADY") + struct.pack("<di", 1.0, -1), "answered for -1 atoms"),
        (encode(RESULT)[:-6] + struct.pack("<i", 2**30), "announced a text of 1073741824 bytes"),
        (encode(RESULT)[:-6] + struct.pack("<i", -1), "announced a text of -1 bytes"),
    ],
)
def test_replies_that_are_refused(data: bytes, message: str) -> None:
    decoder = ReplyDecoder()
    feed(decoder, data)
    with pytest.raises(WorkerProtocolError, match=message):
        decoder.next_reply(2)


def test_positions_on_the_wire() -> None:
    atoms = bulk("Cu") * (3, 1, 1)
    data = encode_cell(atoms.cell.array, 3) + bytes(encode_positions(atoms.positions))
    assert struct.unpack_from("<9d", data, 12) == tuple((atoms.cell.array.T / Bohr).ravel())
    assert np.array(struct.unpack_from("<9d", data, 84)).reshape(3, 3).T @ atoms.cell.array == pytest.approx(
        np.eye(3) * Bohr, abs=1e-14
    )
    decoder = Decoder()
    feed(decoder, data)
    found = decoder.next_request()
    assert isinstance(found, PosData)
    assert (found.positions == atoms.positions / Bohr * Bohr).all()


def test_half_a_virial_is_mirrored_and_a_whole_one_averaged() -> None:
    whole = np.array([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    for matrix in (whole, np.triu(whole), np.tril(whole), whole + np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]])):
        decoder = ReplyDecoder()
        feed(decoder, encode(ForceReady(0.0, np.zeros((1, 3)), matrix)))
        reply = decoder.next_reply(1)
        assert isinstance(reply, ForceReady)
        assert reply.virial == pytest.approx(whole, rel=1e-15)


def converse(peer: Peer, replies: list[Reply]) -> list[list[bytes]]:
    """Return what is sent before each reply; the replies must be used up."""
    sent: list[list[bytes]] = []
    steps, reply = peer.evaluation(b"cell", memoryview(b"positions")), None
    left = iter(replies)
    try:
        while True:
            sent.append([b"".join(buffers).replace(b" ", b"") for buffers in steps.send(reply)])  # type: ignore[arg-type]
            reply = next(left)
    except StopIteration:
        assert next(left, None) is None
    return sent


def test_step_by_step_and_then_all_at_once() -> None:
    peer = Peer()
    serial = [[b"STATUS"], [b"cellpositions", b"STATUS"], [b"GETFORCE"]]
    replies: list[Reply] = [READY, HAVEDATA, RESULT]
    init = [[b"STATUS"], [b"INIT" + bytes(4) + b"\1\0\0\0\0", b"STATUS"], *serial[1:]]
    assert converse(peer, [NEEDINIT, *replies]) == init
    assert converse(peer, replies) == serial
    assert converse(peer, replies) == [[b"STATUScellpositions", b"STATUSGETFORCE"], [], []]


def test_a_client_that_wants_an_init_before_each_evaluation() -> None:
    peer = Peer()
    for _ in range(4):
        converse(peer, [NEEDINIT, READY, HAVEDATA, RESULT])
        assert not peer.pipelined


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([HAVEDATA], "answered HAVEDATA where READY was due"),
        ([NEEDINIT, NEEDINIT], "answered NEEDINIT where READY was due"),
        ([READY, RESULT], "answered FORCEREADY where HAVEDATA was due"),
        ([READY, HAVEDATA, READY], "where its results were due"),
    ],
)
def test_replies_out_of_place(replies: list[Reply], message: str) -> None:
    with pytest.raises(WorkerProtocolError, match=message):
        converse(Peer(), replies)


def test_cells() -> None:
    cell = bulk("Cu").cell.array + np.random.default_rng(0).random((3, 3))
    frame = frame_of(cell, np.zeros((1, 3)), rotate=True)
    assert not np.triu(frame.cell, 1).any() and (np.diag(frame.cell) > 0).all()
    assert frame.back(frame.cell) == pytest.approx(cell, abs=1e-14)
    assert frame.out(frame.back(cell)) == pytest.approx(cell, abs=1e-14)
    assert frame.volume == pytest.approx(abs(np.linalg.det(cell)))
    assert (frame_of(cell, np.zeros((1, 3)), rotate=False).cell == cell).all()
    lower = np.tril(cell)
    assert (frame_of(lower, np.zeros((1, 3)), rotate=True).cell == lower).all()
    with pytest.raises(ConfigurationError, match="left-handed.*\n.*rotate=False"):
        frame_of(cell[::-1], np.zeros((1, 3)), rotate=True)
    with pytest.raises(ConfigurationError, match="span no volume"):
        frame_of(np.ones((3, 3)), np.zeros((1, 3)), rotate=True)
    assert frame_of(np.zeros((3, 3)), np.array([[0, 0, 0], [0, 9.0, 0]]), rotate=True).cell == pytest.approx(
        209 * np.eye(3)
    )


# -- real programs


def crooked(atoms: Atoms) -> Atoms:
    """Strain a crystal so that its cell has nine components, and shear is not small."""
    strain = np.array([[0.02, 0.03, 0.01], [0.0, -0.01, 0.02], [0.04, 0.0, 0.01]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def compare(atoms: Atoms, reference: Calculator, tolerance: float) -> None:
    for i in range(4):  # the third and later ones are pipelined
        atoms.rattle(0.02, seed=i)
        atoms.set_cell(atoms.cell.array * 1.002, scale_atoms=True)
        expected = atoms.copy()
        expected.calc = reference
        assert atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=10 * tolerance)
        assert atoms.get_forces() == pytest.approx(expected.get_forces(), abs=tolerance)
        assert np.abs(expected.get_stress()[3:]).max() > 0.005
        assert atoms.get_stress() == pytest.approx(expected.get_stress(), abs=tolerance)


ASE_CLIENT = """
import sys
from ase.calculators.emt import EMT
from ase.calculators.socketio import SocketClient
from ase.io import read
atoms = read("start.traj")
atoms.calc = EMT()
SocketClient(**eval(sys.argv[1])).run(atoms, use_stress=bool(atoms.pbc.any()))
"""


@pytest.mark.parametrize(
    ("where", "options"),
    [("unixsocket='{address}'", {}), ("host='{host}', port={port}", {"port": 0})],
    ids=["unix", "tcp"],
)
def test_ase_socket_client(tmp_path: Path, where: str, options: dict[str, Any]) -> None:
    command = [sys.executable, "-c", ASE_CLIENT, f"dict({where})"]
    with IPICalculator(
        command, directory=tmp_path, prepare=lambda atoms: atoms.write(tmp_path / "start.traj"), **options
    ) as calc:
        atoms = crooked(bulk("Cu") * (3, 2, 2))
        atoms.calc = calc
        compare(atoms, EMT(), 1e-10)
        # Another number and other species: a new client. Without periodicity there is no stress.
        gas = molecule("CH3CH2OH")
        gas.calc = calc
        expected = gas.copy()
        expected.calc = EMT()
        assert gas.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-10)
        assert gas.get_forces() == pytest.approx(expected.get_forces(), abs=1e-10)
        with pytest.raises(PropertyNotImplementedError, match="needs a cell of three vectors"):
            gas.get_stress()


LAMMPS_INPUT = """units metal
atom_style atomic
atom_modify map array sort 0 0
read_data start.data
pair_style lj/cut 4.0
pair_coeff * * 0.4 2.3
pair_modify shift yes
fix 1 all ipi ${address} 1 unix
run 100000000
"""


def test_lammps(peers: Path, tmp_path: Path) -> None:
    """Shear is right although LAMMPS sends half a virial, and rotated cells are right although it takes none."""

    def prepare(atoms: Atoms) -> None:
        write_lammps_data(
            tmp_path / "start.data", atoms, atom_style="atomic", units="metal", masses=True, force_skew=True
        )

    (tmp_path / "in.lammps").write_text(LAMMPS_INPUT)
    command = [str(peers / "lmp"), "-in", "in.lammps", "-log", "none", "-var", "address", "{address}"]
    reference = LennardJones(epsilon=0.4, sigma=2.3, rc=4.0)
    with IPICalculator(command, directory=tmp_path, prepare=prepare) as calc:
        for atoms in (crooked(bulk("Cu", a=3.6) * (3, 3, 3)), crooked(bulk("Cu", a=3.6, cubic=True) * (2, 2, 2))):
            atoms.calc = calc
            compare(atoms, reference, 1e-6)  # LAMMPS has other values of the constants


@pytest.mark.parametrize("count", [32, 9129])
def test_ipi_driver(peers: Path, count: int) -> None:
    """Of i-PI's own driver; it reads headers with one recv(), and 9129 atoms would cut one in two."""
    command = [str(peers / "i-pi-py_driver"), "-u", "-a", "{address}", "-m", "harmonic", "-o", "1.0"]
    positions = np.random.default_rng(0).random((count, 3)) * 5
    atoms = Atoms(f"H{count}", positions, cell=[30, 30, 30], pbc=True)
    with IPICalculator(command) as calc:
        atoms.calc = calc
        for _ in range(4):
            atoms.positions[:, 0] += 0.01
            bohr = atoms.positions / Bohr  # the force constant is one atomic unit
            assert atoms.get_forces() == pytest.approx(-bohr * Hartree / Bohr, rel=1e-12)
            assert atoms.get_potential_energy() == pytest.approx((bohr**2).sum() / 2 * Hartree, rel=1e-12)
        with pytest.raises(PropertyNotImplementedError, match="virial of zero"):
            atoms.get_stress()


# -- clients that misbehave


def client(fault: str = "none", step: int = 1, socket_name: str = "{socket}") -> list[str]:
    return [sys.executable, str(CLIENT), socket_name, fault, str(step)]


@contextmanager
def patience(calc: IPICalculator, **seconds: float) -> Iterator[None]:
    """Have other deadlines for the time of a block: only what never comes is given a short one."""
    usual = calc._session.spec
    calc._session.spec = dataclasses.replace(usual, **seconds)
    try:
        yield
    finally:
        calc._session.spec = usual


def check(atoms: Atoms, energy: float) -> None:
    assert atoms.get_potential_energy() == pytest.approx(energy * Hartree)
    assert atoms.get_forces() == pytest.approx(atoms.positions * Hartree / Bohr**2, rel=1e-14)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("exit", WorkerDiedError, "client 'python.*' exited with code 7 during an exchange(.|\n)*client gives up"),
        ("kill", WorkerDiedError, "was killed by SIGKILL"),
        ("half", WorkerDiedError, "closed the connection during an exchange"),
        ("close", WorkerDiedError, "closed the connection during an exchange"),
        ("stop", WorkerTimeoutError, "gave no answer within 2 s and was dropped"),
        ("garbage", WorkerProtocolError, r"client 'python.*' sent b'\{NONSENSE\}\{N'"),
        ("count", WorkerProtocolError, "answered for 2147483647 atoms; it was asked about 4"),
        ("text", WorkerProtocolError, "announced a text of 2147483647 bytes"),
    ],
)
@pytest.mark.parametrize("step", [1, 4])
def test_a_client_that_is_lost(fault: str, kind: type[WorkerError], message: str, step: int) -> None:
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(client(fault, step)) as calc:
        atoms.calc = calc
        for i in range(1, step):
            atoms.positions[0, 0] = i
            check(atoms, i)
        atoms.positions[0, 0] = 100
        short = {"timeout": 2.0} if fault == "stop" else {}
        with patience(calc, **short), pytest.raises(kind, match=message) as error:
            atoms.get_forces()
        place = Path(Path(error.value.log).read_text().split()[0])
        atoms.calc = calc
        if step > 1:  # the next client does it again, so only its first evaluations are right
            check(atoms, 1)
        assert place.name == "s" and not place.parent.exists()


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [("nan", NonFiniteError, "NaN or infinity as the energy"), ("error", ModelError, "out of paper")],
)
def test_a_client_whose_answer_is_no_result(fault: str, kind: type[WorkerError], message: str) -> None:
    """It lives, and its next answer is right."""
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(client(fault, 2)) as calc:
        atoms.calc = calc
        check(atoms, 1)
        atoms.rattle(0.1)
        with pytest.raises(kind, match=message):
            atoms.get_potential_energy()
        assert not calc.results
        check(atoms, 3)


def test_stress_of_a_client_without_virial() -> None:
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(client("no virial")) as calc:
        atoms.calc = calc
        check(atoms, 1)
        with pytest.raises(PropertyNotImplementedError, match="virial of zero"):
            atoms.get_stress()
    with IPICalculator(client()) as calc:
        atoms.calc = calc
        assert atoms.get_stress() == pytest.approx(np.array([-1, -1, -1, 0, 0, 0]) * Hartree / atoms.get_volume())


@pytest.mark.parametrize("step", [1, 3])
def test_after_an_interruption_the_next_call_is_right(tmp_path: Path, step: int) -> None:
    atoms = bulk("Cu", cubic=True)
    over = threading.Event()

    def interrupt() -> None:
        wait_for(lambda: (tmp_path / "inside").exists() or over.is_set(), "the evaluation")
        if not over.is_set():
            wait_until_it_waits(os.getpid())  # our first thread; while it still sends, it would lose the client
            os.kill(os.getpid(), signal.SIGUSR1)

    with IPICalculator(client(f"wait:{tmp_path}", step)) as calc:
        atoms.calc = calc
        for i in range(1, step):
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
            over.set()
            thread.join()
            signal.signal(signal.SIGUSR1, previous)
        (tmp_path / "go").touch()
        atoms.positions[0, 0] = 200
        check(atoms, step + 1)  # of the same client: the interrupted step was finished and dropped


def test_clients_that_do_not_come(tmp_path: Path) -> None:
    atoms = bulk("Cu")
    places = []

    def refused(end: str, word: str = "{socket}", start_timeout: float = 600.0) -> str:
        """Return what is said of a client that prints something and ends so."""
        code = f"import sys, time; print('no licence at', sys.argv[1], flush=True); {end}"
        with IPICalculator([sys.executable, "-c", code, word], start_timeout=start_timeout) as calc:
            atoms.calc = calc
            with pytest.raises(WorkerStartError) as error:
                atoms.get_potential_energy()
        places.extend(re.findall(r"no licence at (\S+)/s", str(error.value)))
        return str(error.value)

    assert re.search(r"exited with code 5 before it conn(.|\n)*no licence", refused("exit(5)"))
    assert re.search(r"wants \{port\}, which there is not", refused("pass", "{port}"))
    start_timeout, said = 0.5, ""
    while "no licence" not in said:  # on a machine so busy that it did not come to that: once more, with more time
        assert start_timeout < 100, said
        start_timeout *= 2
        said = refused("time.sleep(1000)", start_timeout=start_timeout)
        assert re.search(rf"did not connect to /tmp/ipi_.* within {start_timeout:.0f} s", said)
    assert len(places) == 2
    with (
        IPICalculator([str(tmp_path / "lmp"), "{socket}"]) as calc,
        pytest.raises(WorkerStartError, match=f"Cannot start {tmp_path}/lmp"),
    ):
        calc.get_property("energy", atoms)
    name = f"nobody_{secrets.token_hex(8)}"
    with IPICalculator(address=name, start_timeout=0.5) as calc:
        atoms.calc = calc
        with pytest.raises(WorkerStartError, match=f"No i-PI client connected to /tmp/ipi_{name} within 0 s"):
            atoms.get_potential_energy()
    assert not any(Path(place).exists() for place in [*places, f"/tmp/ipi_{name}"])


# In a process of its own, for the limit holds for all threads.
NO_DESCRIPTORS = """
import os, resource, sys
from ase.build import bulk
from rootstock.errors import WorkerError, WorkerStartError
from rootstock.ipi import IPICalculator
from tests.support.processes import limit, open_files, worker_logs

places = []
sys.addaudithook(lambda event, arguments: places.append(arguments[0]) if event == "tempfile.mkdtemp" else None)
missing, *client = sys.argv[1:]
before, files = worker_logs(), open_files()
with IPICalculator([missing, "{socket}"]) as calc:
    try:
        calc.get_property("energy", bulk("Cu"))
    except WorkerStartError as error:
        assert "Cannot start" in str(error), error
    else:
        raise AssertionError("it started")
told = []
for spare in range(12):
    with IPICalculator(client) as calc:
        holes = [os.open("/dev/null", os.O_RDONLY) for _ in range(max(map(int, os.listdir("/proc/self/fd"))))]
        with limit(resource.RLIMIT_NOFILE, max(holes) + 1 + spare):
            try:
                calc.get_property("energy", bulk("Cu"))
            except WorkerError as error:
                told.append(str(error))
        for fd in holes:
            os.close(fd)
assert any("Cannot start" in text for text in told), told
assert all("Too many open files" in text for text in told), told
assert not worker_logs() - before  # old ones may have gone
assert open_files() == files
assert places and not any(map(os.path.exists, places)), places
"""


def test_a_client_that_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    """No log of a program that never ran, no folder for its socket, no process that nobody can watch."""
    before = worker_logs()
    run(sys.executable, "-c", NO_DESCRIPTORS, tmp_path / "lmp", *client(), cwd=REPOSITORY, check=True)
    assert not worker_logs() - before


def test_a_client_that_cannot_be_killed(caplog: pytest.LogCaptureFixture) -> None:
    """A frozen process ignores SIGKILL, as one does that waits for a dead file system."""
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(client()) as calc:
        atoms.calc = calc
        check(atoms, 1)
        pid = calc._session._connection._process.pid
        with frozen(pid):
            atoms.positions[0, 0] = 1
            with (
                caplog.at_level(logging.WARNING, "rootstock"),
                patience(calc, timeout=1.0),
                pytest.raises(WorkerTimeoutError, match="gave no answer"),
            ):
                atoms.get_forces()
            assert caplog.text.count(f"(process {pid}) does not end, not even by SIGKILL") == 1
            check(atoms, 1)  # by another
    wait_until_gone(pid)


@pytest.mark.parametrize("where", ["the first thread", "another"])
def test_a_command_that_ends_with_its_parent(where: str) -> None:
    """As a sandbox's may: the parent is the thread that has started it, not the whole process."""
    atoms = bulk("Cu", cubic=True)
    ends = [need_program("setpriv", "util-linux"), "--pdeathsig=KILL"]
    with IPICalculator([*ends, *client()]) as calc:
        atoms.calc = calc
        if where == "another":
            thread = threading.Thread(target=calc.get_property, args=("energy", atoms))
            thread.start()
            thread.join()
        else:
            calc.get_property("energy", atoms)
        process = calc._session._connection._process
        assert process.wait(0.5) is None
        atoms.positions[0, 0] = 1
        check(atoms, 2)  # of the same client


def test_a_command_that_leaves_the_work_to_another_process() -> None:
    """As those of batch systems do."""
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, {str(CLIENT)!r}, sys.argv[1]])"
    atoms = bulk("Cu", cubic=True)
    with IPICalculator([sys.executable, "-c", script, "{socket}"]) as calc:
        atoms.calc = calc
        for i in range(1, 4):
            atoms.positions[0, 0] = i
            check(atoms, i)


# -- calculators


def test_other_atoms_are_refused_without_a_way_to_tell_the_client() -> None:
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(client()) as calc:
        atoms.calc = calc
        check(atoms, 1)
        for change in (
            lambda atoms: atoms.append("Cu"),
            lambda atoms: atoms.set_atomic_numbers([29, 29, 29, 79]),
            lambda atoms: atoms.set_pbc([True, True, False]),
            lambda atoms: atoms.set_initial_magnetic_moments([1, 0, 0, 0]),
        ):
            other = atoms.copy()
            other.calc = calc
            change(other)
            with pytest.raises(ConfigurationError, match="in more than positions and cell(.|\n)*prepare="):
                other.get_forces()
        atoms.info["note"] = "labels are nobody's business"
        atoms.rattle(0.01)
        check(atoms, 2)


def test_copies_share_the_client() -> None:
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(client()) as calc:
        atoms.calc = calc
        check(atoms, 1)
        other = atoms.copy()
        other.calc = copy.deepcopy(calc)
        other.rattle(0.1)
        check(other, 2)
        assert atoms.calc.results["energy"] == pytest.approx(Hartree)
        restored = pickle.loads(pickle.dumps(calc))
        restored.close()
        assert restored.results["energy"] == calc.results["energy"]
        other.calc.close()
        atoms.rattle(0.1)
        check(atoms, 3)
    atoms.rattle(0.1, seed=9)
    with pytest.raises(WorkerError, match="calculator is closed"):
        atoms.get_forces()
    with calc:
        check(atoms, 1)


def test_a_fork_gets_a_client_of_its_own() -> None:
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(client()) as calc:
        atoms.calc = calc
        check(atoms, 1)
        atoms.rattle(0.1)
        if not (pid := os.fork()):
            code = 1
            try:
                check(atoms, 1)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        check(atoms, 2)


def someone(place: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start a client as a person would; it waits until somebody listens."""
    return started(client(socket_name=str(place)), stderr=None)


def test_a_client_that_somebody_else_starts(short: Path) -> None:
    path = short / "here.sock"
    with socket.socket(socket.AF_UNIX) as left:  # from a server that was killed
        left.bind(str(path))
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(address=str(path)) as calc:
        atoms.calc = calc
        with someone(path) as process:
            check(atoms, 1)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            other = bulk("Cu")
            other.calc = IPICalculator(address=str(path))
            with pytest.raises(WorkerStartError, match=r"Cannot listen at .*here.sock: Address already in use"):
                other.get_forces()
            process.kill()
            atoms.rattle(0.1)
            with pytest.raises(WorkerDiedError, match="The i-PI client closed the connection"):
                atoms.get_forces()
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.connect(str(path))  # and is gone, without a word
        with someone(path):
            check(atoms, 1)
    assert not path.exists()


def test_a_socket_whose_file_is_removed(short: Path) -> None:
    """As by what sweeps temporary folders. A client that is there stays; for another one the file is made anew."""
    path = short / "here.sock"
    atoms = bulk("Cu", cubic=True)
    with IPICalculator(address=str(path)) as calc:
        atoms.calc = calc
        said = "No i-PI client connected to .*here.sock within 1 s"
        with patience(calc, start_timeout=1.0), pytest.raises(WorkerStartError, match=said):
            atoms.get_forces()
        path.unlink()
        with someone(path) as process:
            check(atoms, 1)
            path.unlink()
            atoms.positions[0, 0] = 2
            check(atoms, 2)
            process.kill()
            atoms.positions[0, 0] = 3
            with pytest.raises(WorkerDiedError):
                atoms.get_forces()
        with someone(path):
            check(atoms, 1)
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            calc.close()
            assert path.exists()  # it is another server's


def test_nothing_is_left_of_a_server_that_is_killed() -> None:
    script = f"""
import time
from ase.build import bulk
from rootstock.ipi import IPICalculator
atoms = bulk("Cu", cubic=True)
atoms.calc = calc = IPICalculator({client()!r})
atoms.get_forces()
print(calc._session._connection._process.pid, flush=True)
time.sleep(1000)
"""
    with started([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=None) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        said = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        place = Path(next(each for each in said if each.startswith("/tmp/ipi_")))
        process.kill()
        process.wait()
        wait_until_gone(pid)
    assert place.name == "s" and not place.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Say where clients will connect(.|\n)*address='NAME'"),
        ({"address": "a", "port": 1}, "not both"),
        ({"command": "lmp -in x"}, "command must be a list"),
        ({"command": []}, "command must be a list"),
        ({"command": ["lmp"], "host": "0.0.0.0"}, "host= belongs to port="),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        IPICalculator(**arguments)
