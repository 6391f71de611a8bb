"""Models as drivers of i-PI servers: ASE's SocketIOCalculator, i-PI itself, and peers that break the protocol."""

from __future__ import annotations

import secrets
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.socketio import SocketIOCalculator
from ase.io import read
from ase.units import Bohr, Hartree
from hypothesis import given
from hypothesis import strategies as st

from rootstock.errors import ConfigurationError, WorkerError, WorkerProtocolError
from rootstock.interfaces.ipi.codec import Decoder, encode, header
from rootstock.interfaces.ipi.driver import Driver, check_structure, connect
from rootstock.interfaces.ipi.messages import (
    EXIT,
    GETFORCE,
    HAVEDATA,
    INIT,
    NEEDINIT,
    POSDATA,
    READY,
    STATUS,
    ForceReady,
    PosData,
)
from rootstock.interfaces.ipi.states import next_state
from tests.support.commands import ROOTSTOCK, started
from tests.support.ipi import feed
from tests.support.processes import wait_for


def posdata(atoms: Atoms) -> bytes:
    cell = atoms.cell.array
    return b"".join(
        [
            header("POSDATA"),
            (cell.T / Bohr).tobytes(),
            (np.linalg.inv(cell).T * Bohr).tobytes(),
            struct.pack("<i", len(atoms)),
            (atoms.positions / Bohr).tobytes(),
        ]
    )


def initial(bead: int = 3, text: bytes = b"hello") -> bytes:
    return header("INIT") + struct.pack("<ii", bead, len(text)) + text


@given(st.integers(1, 200))
def test_requests_in_pieces_of_any_size(size: int) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.cell[1, 0] = 0.3  # not symmetric
    data = header("STATUS") + initial() + posdata(atoms) + header("GETFORCE") + header("EXIT")
    decoder, found = Decoder(), []
    for i in range(0, len(data), size):
        feed(decoder, data[i : i + size])
        while (request := decoder.next_request()) is not None:
            found.append(request)
    assert [*found[:2], *found[3:]] == [STATUS, INIT, GETFORCE, EXIT]
    assert isinstance(found[2], PosData)
    assert found[2].cell == pytest.approx(atoms.cell.array, rel=1e-15, abs=0)
    assert found[2].positions == pytest.approx(atoms.positions, rel=1e-15)


@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    decoder = Decoder()
    feed(decoder, data)
    try:
        while decoder.next_request() is not None:
            pass
    except WorkerProtocolError:
        pass  # anything else fails


def test_results_on_the_wire() -> None:
    forces = np.arange(6.0).reshape(2, 3)
    virial = np.arange(9.0).reshape(3, 3)
    data = encode(ForceReady(-1.5, forces, virial, b"{}"))
    assert data[:12] == b"FORCEREADY  "
    assert struct.unpack_from("<d", data, 12)[0] * Hartree == -1.5
    assert struct.unpack_from("<i", data, 20)[0] == 2
    assert np.frombuffer(data, "<f8", 6, 24).reshape(2, 3) * (Hartree / Bohr) == pytest.approx(forces, rel=1e-15)
    assert np.frombuffer(data, "<f8", 9, 72).reshape(3, 3).T * Hartree == pytest.approx(virial, rel=1e-15)
    assert data[144:] == struct.pack("<i", 2) + b"{}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("NONSENSE"), "sent b'NONSENSE', which this driver does not know"),
        (header("INIT") + struct.pack("<ii", 0, -1), "announced a text of -1 bytes"),
        (header("INIT") + struct.pack("<ii", 0, 2**30), "announced a text of 1073741824 bytes"),
        (header("POSDATA") + bytes(144) + struct.pack("<i", 0), "announced 0 atoms"),
        (header("POSDATA") + bytes(144) + struct.pack("<i", 2**30), "announced 1073741824 atoms"),
    ],
)
def test_announcements_that_are_refused(data: bytes, message: str) -> None:
    decoder = Decoder()
    feed(decoder, data)
    with pytest.raises(WorkerProtocolError, match=message):
        decoder.next_request()


def test_states() -> None:
    allowed = {
        (NEEDINIT, STATUS): NEEDINIT, (NEEDINIT, INIT): READY, (READY, STATUS): READY, (READY, INIT): READY,
        (READY, POSDATA): HAVEDATA, (HAVEDATA, STATUS): HAVEDATA, (HAVEDATA, POSDATA): HAVEDATA,
        (HAVEDATA, GETFORCE): READY,
    }  # fmt: skip
    for state in (NEEDINIT, READY, HAVEDATA):
        assert next_state(state, EXIT) == state
        for word in (STATUS, INIT, POSDATA, GETFORCE):
            if (state, word) in allowed:
                assert next_state(state, word) == allowed[state, word]
            else:
                with pytest.raises(WorkerProtocolError, match=f"sent {word} to a driver in state"):
                    next_state(state, word)


def test_requests_that_arrive_together_are_answered_together() -> None:
    """A server may send whole steps ahead; the answers are those of asking one by one."""
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    step = posdata(atoms) + header("STATUS") + header("GETFORCE") + header("STATUS")
    requests = header("STATUS") + initial() + header("STATUS") + step + step + header("EXIT")
    answers = []
    for size in (len(requests), 7):
        ours, theirs = socket.socketpair()
        driven = atoms.copy()
        driven.calc = EMT()
        thread = threading.Thread(target=Driver(driven).serve, args=(theirs,))
        thread.start()
        for i in range(0, len(requests), size):
            ours.sendall(requests[i : i + size])
        thread.join()
        theirs.close()
        received = b""
        while data := ours.recv(2**16):
            received += data
        ours.close()
        answers.append(received)
    assert answers[0] == answers[1]
    assert answers[0].startswith(header("NEEDINIT") + header("READY") + header("HAVEDATA") + header("FORCEREADY"))
    assert answers[0].count(b"FORCEREADY") == 2


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (header("STATUS") + b"POSDATA ", "hung up in the middle of a message that began with b'POSDATA '"),
        (b"220 FTP\r\n", r"hung up in the middle of a message that began with b'220 FTP\\r\\n'"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "sent b'SSH-2.0-Open', which this driver does not know"),
    ],
    ids=["cut", "short", "ssh"],
)
def test_a_server_that_speaks_something_else(said: bytes, message: str) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(said)
        with pytest.raises(WorkerProtocolError, match=message):
            Driver(bulk("Cu")).serve(theirs)


def test_a_server_that_asks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is waited for, for it may be busy; but somebody may look into it."""
    ours, theirs = socket.socketpair()
    with theirs, ThreadPoolExecutor(1) as pool:
        with ours:
            done = pool.submit(Driver(bulk("Cu"), silence_s=0.1).serve, theirs)
            wait_for(lambda: "has asked nothing for 0 s" in caplog.text, "the warning")
            assert not done.done()
        done.result()


def test_a_server_that_asks_on_and_reads_nothing() -> None:
    """It has to wait: replies that nobody reads do not fill the memory."""
    ours, theirs = socket.socketpair()
    questions, many = 1000 * header("STATUS"), 2**25
    with theirs, ThreadPoolExecutor(1) as pool:
        with ours:
            done = pool.submit(Driver(bulk("Cu")).serve, theirs)
            sent = 0
            while sent < many and wait_until_writable(ours):
                with suppress(BlockingIOError):
                    sent += ours.send(questions, socket.MSG_DONTWAIT)
        done.result()
    assert sent < many


def wait_until_writable(sock: socket.socket) -> bool:
    """Wait as long as somebody may yet read; False if the other end itself waits until we read."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(5000))


def test_another_number_of_atoms() -> None:
    driver = Driver(bulk("Cu"))
    driver.answer(INIT)
    with pytest.raises(WorkerProtocolError, match="has 2 atoms, the structure file 1"):
        driver.answer(PosData(np.eye(3), np.zeros((2, 3))))


def test_no_virial_without_a_periodic_cell() -> None:
    with pytest.raises(ConfigurationError, match="no periodic cell.*\n.*--no-stress"):
        check_structure(molecule("N2"), use_stress=True)
    check_structure(molecule("N2"), use_stress=False)


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"No i-PI server answers at .*none\.sock \(No such file.*\n.*--wait"):
        connect(str(tmp_path / "none.sock"), 0.2)


@contextmanager
def worker(root: Path, atoms: Atoms, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start a worker that waits for its server, unless the options say otherwise."""
    structure = folder / "start.traj"
    atoms.write(structure)
    command = [ROOTSTOCK, "worker", "emt", "--root", root, "--device", "cpu", "--structure", structure]
    with started([*command, "--wait", "600", *options]) as process:
        yield process


def ends(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end of a process, and return its status and what it said."""
    said = process.communicate()[1]
    return process.returncode, said


@pytest.mark.parametrize("stress", [True, False])
def test_driven_by_ase(root: Path, tmp_path: Path, stress: bool) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    reference = atoms.copy()
    reference.calc = EMT()
    with (
        socket_calculator() as (calc, name),
        worker(root, atoms, tmp_path, "--address", name, *([] if stress else ["--no-stress"])) as process,
    ):
        atoms.calc = calc
        for i in range(3):
            for each in (atoms, reference):
                each.rattle(0.05, seed=i)
                each.set_cell(each.cell.array * 1.01, scale_atoms=True)
            assert atoms.get_potential_energy() == pytest.approx(reference.get_potential_energy(), abs=1e-8)
            assert atoms.get_forces() == pytest.approx(reference.get_forces(), abs=1e-8)
            expected = reference.get_stress() if stress else np.zeros(6)
            assert atoms.get_stress() == pytest.approx(expected, abs=1e-8)
        calc.close()
        code, said = ends(process)
        assert code == 0 and "The server is done after 3 evaluations" in said, said


@contextmanager
def socket_calculator() -> Iterator[tuple[SocketIOCalculator, str]]:
    name = f"rootstock_{secrets.token_hex(8)}"
    with SocketIOCalculator(unixsocket=name) as calc:
        yield calc, name


IPI_INPUT = """<simulation verbosity="low" safe_stride="100">
  <output prefix="out">
    <properties stride="1" filename="md">[step, conserved{electronvolt}, potential{electronvolt}]</properties>
    <trajectory stride="10" filename="pos" format="xyz" cell_units="angstrom">positions{angstrom}</trajectory>
  </output>
  <total_steps>20</total_steps>
  <prng><seed>1</seed></prng>
  <ffsocket name="rootstock" mode="unix" pbc="False"><address>NAME</address></ffsocket>
  <system>
    <initialize nbeads="1">
      <file mode="xyz">start.xyz</file>
      <velocities mode="thermal" units="kelvin">300</velocities>
    </initialize>
    <forces><force forcefield="rootstock"/></forces>
    <motion mode="dynamics"><dynamics mode="nve"><timestep units="femtosecond">1</timestep></dynamics></motion>
    <ensemble><temperature units="kelvin">300</temperature></ensemble>
  </system>
</simulation>
"""


def test_driven_by_ipi(root: Path, peers: Path, tmp_path: Path) -> None:
    """Twenty steps at constant energy with the real program."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    name = f"rootstock_{secrets.token_hex(8)}"
    side = " ".join(str(length) for length in atoms.cell.lengths())
    rows = "".join(f"{atom.symbol} {atom.x:.16g} {atom.y:.16g} {atom.z:.16g}\n" for atom in atoms)
    comment = f"# CELL(abcABC): {side} 90 90 90 positions{{angstrom}} cell{{angstrom}}"
    (tmp_path / "start.xyz").write_text(f"{len(atoms)}\n{comment}\n{rows}")
    (tmp_path / "input.xml").write_text(IPI_INPUT.replace("NAME", name))
    with (
        started([peers / "i-pi", "input.xml"], cwd=tmp_path) as server,
        worker(root, atoms, tmp_path, "--address", name) as process,
    ):
        for each in (server, process):
            code, said = ends(each)
            assert code == 0, said
    steps = np.loadtxt(tmp_path / "out.md")
    assert len(steps) == 21
    conserved, potential = steps[:, 1], steps[:, 2]
    assert np.ptp(potential) > 0.02
    assert np.ptp(conserved) < 1e-3
    atoms.calc = EMT()
    assert potential[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    last = read(tmp_path / "out.pos_0.xyz", ":")[-1]
    last.set_cell(atoms.cell)
    last.pbc = True
    last.calc = EMT()
    assert potential[-1] == pytest.approx(last.get_potential_energy(), abs=1e-3)


def test_a_model_that_fails_ends_the_worker(root: Path, tmp_path: Path, short: Path) -> None:
    """The server gets no numbers, and the worker's end says why."""
    path = short / "server.sock"
    atoms = bulk("Cu")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with worker(root, Atoms("Cu", cell=atoms.cell, pbc=True), tmp_path, "--socket", str(path)) as process:
            connection, _ = listener.accept()
            with connection:
                bad = atoms.copy()
                bad.positions[0, 0] = np.nan
                connection.sendall(initial() + posdata(bad) + header("GETFORCE"))
                assert connection.recv(100) == b""
            code, said = ends(process)
            assert code == 18 and "positions of the atoms hold NaN" in said, said


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 3, "one of --socket PATH, --address NAME and --port N"),
        (["--socket", "a", "--port", "1"], 3, "one of --socket PATH, --address NAME and --port N"),
        (["--socket", "FOLDER/a", "--wait", "0"], 18, "No i-PI server answers at FOLDER/a"),
    ],
)
def test_wrong_options(root: Path, tmp_path: Path, short: Path, options: list[str], code: int, message: str) -> None:
    with worker(root, bulk("Cu"), tmp_path, *(each.replace("FOLDER", str(short)) for each in options)) as process:
        found, said = ends(process)
    assert found == code and message.replace("FOLDER", str(short)) in said, said
