"""The channel by itself: hostile bytes, and a worker in an environment that holds numpy and ase only."""

from __future__ import annotations

import io
import itertools
import mmap
import socket
import struct
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from rootstock.builds.own_wheel import worker_bytes
from rootstock.builds.uv import find_uv
from rootstock.client.connection import WorkerConnection
from rootstock.client.inputs import Inputs
from rootstock.client.process import WORKER_ENTRY, Launch
from rootstock.errors import WorkerProtocolError
from rootstock.root.layout import RootLayout
from rootstock.worker.channel.endpoint import Endpoint, PeerGoneError
from rootstock.worker.channel.frames import HEADER, MAX_ATOMS, MAX_PAYLOAD, Frame, Kind, decode, decode_payload, encode
from rootstock.worker.channel.memory import INPUTS, PROPERTIES, PROPERTY_BITS, SharedMemory
from rootstock.worker.channel.spin import AdaptiveSpin
from rootstock.worker.channel.wakeup import CLIENT, ROOM, WORKER, WakeupFlag
from tests.support.commands import run


def listening(sock: socket.socket) -> Endpoint:
    """Return an endpoint that nobody rings for."""
    with closing(SharedMemory.create()) as memory:
        return Endpoint(sock, WakeupFlag(memory.fd, CLIENT))


@contextmanager
def pair() -> Iterator[tuple[socket.socket, Endpoint]]:
    """A raw socket, and an endpoint at its other end."""
    raw, other = socket.socketpair()
    end = listening(other)
    with raw, closing(end):
        yield raw, end


bits = st.integers(0, 2**32 - 1)
frames = st.builds(
    Frame,
    kind=st.sampled_from(list(Kind)),
    properties=bits,
    changes=bits,
    present=bits,
    payload=st.just(0),
    sequence=st.integers(0, 2**64 - 1),
    atoms=st.integers(0, MAX_ATOMS),
    capacity=st.just(MAX_ATOMS),
)


@given(frames, st.none() | st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.floats(allow_nan=False))))
def test_what_is_sent_is_received(frame: Frame, content: dict[str, object] | None) -> None:
    with pair() as (raw, theirs):
        with closing(listening(raw)) as ours:
            ours.send(frame, content)
            received, payload = theirs.receive(600.0)
        assert received._replace(payload=0) == frame
        assert payload == (content or {})
        with pytest.raises(PeerGoneError):
            theirs.receive(600.0)


@given(st.binary(max_size=300))
def test_random_bytes_never_hang_or_crash(data: bytes) -> None:
    with pair() as (raw, end):
        raw.sendall(data)
        raw.close()
        while True:
            try:
                end.receive(600.0)
            except (PeerGoneError, WorkerProtocolError):
                break  # anything else, or no end, fails


@given(frames, st.integers(0, 200))
def test_a_frame_cut_off_anywhere(frame: Frame, cut: int) -> None:
    data = encode(frame, {"text": "x" * 100})
    with pair() as (raw, end):
        raw.sendall(data[: min(cut, len(data) - 1)])
        with pytest.raises(TimeoutError):
            end.receive(0.0)
        raw.close()
        with pytest.raises(PeerGoneError):
            end.receive(600.0)


def test_pieces_are_put_together() -> None:
    frame, content = Frame(Kind.EVALUATE, 7, 3, 1, 0, 15, 5, 64), {"info": {"charge": 1}}
    data = encode(frame, content) + encode(Frame(Kind.CLOSE))
    with pair() as (raw, end):
        for i in range(0, len(data), 5):
            raw.sendall(data[i : i + 5])
        assert end.receive(600.0)[1] == content
        assert end.receive(600.0)[0].kind == Kind.CLOSE


def test_announcements_beyond_the_bounds() -> None:
    header = struct.Struct("<4sIIIIIQQQ")
    for payload, atoms, capacity in [
        (MAX_PAYLOAD + 1, 0, 0),
        (0, MAX_ATOMS + 1, MAX_ATOMS + 1),
        (0, 2, 1),
        (0, 0, 2**63),
    ]:
        with pytest.raises(WorkerProtocolError, match="announces"):
            decode(header.pack(b"RSK1", 4, 0, 0, 0, payload, 0, atoms, capacity))
    with pytest.raises(WorkerProtocolError, match="beyond the limit"):
        encode(Frame(Kind.SETUP), "x" * MAX_PAYLOAD)
    assert header.size == HEADER.size


@pytest.mark.parametrize("payload", [b"[1]", b"{", b"\xff", b"[" * 100_000, b"1"])
def test_payloads_that_are_no_objects(payload: bytes) -> None:
    with pytest.raises(WorkerProtocolError, match="not (a )?JSON"):
        decode_payload(payload)


def test_a_peer_that_does_not_read() -> None:
    with pair() as (raw, end):
        with pytest.raises(TimeoutError):
            end.send(Frame(Kind.SETUP), "x" * (MAX_PAYLOAD - 10), timeout=0.2)
        raw.close()
        with pytest.raises(PeerGoneError):
            end.send(Frame(Kind.SETUP))


def test_an_eager_wait_gives_up_for_twice_as_long_each_time() -> None:
    """So that it costs next to nothing where it is of no use, and is found again where it is."""
    wait, asked = AdaptiveSpin(processors=2), 0

    def no() -> bool:
        nonlocal asked
        asked += 1
        return False

    tried = []
    for number in range(1000):
        before = asked
        assert wait.until(no) is None
        if asked > before:
            tried.append(number)
    assert [b - a - 1 for a, b in itertools.pairwise(tried)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 256]
    while wait.until(lambda: "found") is None:
        pass
    assert wait.until(lambda: "found") == "found"


def test_on_one_processor_nobody_waits_awake() -> None:
    wait = AdaptiveSpin(processors=1)
    assert [wait.until(lambda: "asked") for _ in range(1000)] == [None] * 1000
    # In a process of its own: the binding is that of all threads.
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    code += "from rootstock.worker.channel.spin import AdaptiveSpin; print(AdaptiveSpin().until(lambda: 'asked'))"
    assert run(sys.executable, "-c", code, check=True).stdout == "None\n"


@pytest.mark.parametrize("flag", [0, 1, 200])
def test_flags_are_only_hints(flag: int) -> None:
    """Whatever they say, what was sent arrives, and what was not is waited for until the deadline."""
    memory, (mine, theirs) = SharedMemory.create(), socket.socketpair()
    flags = mmap.mmap(memory.fd, ROOM)
    with mine, theirs:
        end = Endpoint(mine, WakeupFlag(memory.fd, CLIENT))
        for number in range(5):
            theirs.sendall(encode(Frame(Kind.RESULT, sequence=number)))
            flags[WORKER] = flag
            assert end.receive(600.0)[0].sequence == number
        flags[WORKER] = flag + 1
        with pytest.raises(TimeoutError):
            end.receive(0.05)


def test_a_ring_is_heard() -> None:
    memory, (mine, theirs) = SharedMemory.create(), socket.socketpair()
    with mine, theirs:
        client, worker = Endpoint(mine, WakeupFlag(memory.fd, CLIENT)), WakeupFlag(memory.fd, WORKER)
        for number in range(300):  # the count goes round
            client.send(Frame(Kind.EVALUATE, sequence=number))
            assert worker._is_set()
            theirs.recv(HEADER.size)
            worker.acknowledge()
            assert not worker._is_set()


def test_shared_memory_of_another_size() -> None:
    memory = SharedMemory.create()
    memory.grow(10)
    other = SharedMemory(memory.fd)
    with pytest.raises(WorkerProtocolError, match="holds no room for [0-9]{9} bytes"):
        other.attach(10**6)
    other.attach(memory.capacity)
    views = memory.views(10)
    assert not any(
        np.shares_memory(views[a.name], views[b.name])
        for a in (*INPUTS, *PROPERTIES)
        for b in (*INPUTS, *PROPERTIES)
        if a is not b
    )
    views["forces"][...] = 1.5
    assert (other.views(10)["forces"] == 1.5).all()
    memory.close()


def test_waiting_takes_no_processor_time() -> None:
    with pair() as (raw, end):
        with pytest.raises(TimeoutError):
            end.receive(0.0)
        before = time.thread_time()
        with pytest.raises(TimeoutError):
            end.receive(0.5)
        assert time.thread_time() - before < 0.25
        raw.sendall(encode(Frame(Kind.CLOSE)))
        assert end.receive(600.0)[0].kind == Kind.CLOSE


SMALLEST = """
import numpy as np
from ase.calculators.calculator import Calculator

class Constant(Calculator):
    implemented_properties = ["energy", "forces"]
    def calculate(self, atoms, properties, changes):
        super().calculate(atoms, properties, changes)
        self.results = {"energy": 2.0, "forces": np.zeros((len(atoms), 3))}

def setup(model, device):
    import importlib.util
    assert not any(importlib.util.find_spec(name) for name in ("click", "jinja2", "filelock", "scipy"))
    return Constant()
"""


@pytest.mark.parametrize("entry", ["package", "zip"])
def test_a_worker_needs_numpy_and_ase_only(tmp_path: Path, entry: str) -> None:
    uv, prefix = find_uv(), tmp_path / "env"
    run(uv, "venv", "-q", "--python", sys.executable, prefix, check=True)
    run(uv, "pip", "install", "-q", "--no-deps", "--python", prefix / "bin/python", "ase", "numpy", check=True)
    (tmp_path / "smallest.py").write_text(SMALLEST)
    (tmp_path / "worker.pyz").write_bytes(worker_bytes())
    launch = Launch(
        "smallest",
        (str(prefix / "bin/python"), "-I", "-B", "-u"),
        {"PATH": "/usr/bin:/bin"},
        tmp_path / "smallest.py",
        RootLayout(tmp_path),
        mode="build",
        entry=WORKER_ENTRY if entry == "package" else tmp_path / "worker.pyz",
    )
    client = WorkerConnection(launch, "", "cpu", {}, start_timeout=600)
    inputs = Inputs()
    inputs.update(bulk("Cu"))
    assert client.evaluate(inputs, PROPERTY_BITS["energy"], 600.0)["energy"] == 2.0
    assert set(client.ready["versions"]) == {"python", "ase", "numpy"}
    client.close()


def test_the_worker_file_is_the_same_every_time() -> None:
    """No time of day is in it, which files of one second would agree on anyway."""
    first = worker_bytes()
    assert worker_bytes() == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
