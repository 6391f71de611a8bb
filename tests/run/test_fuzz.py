"""Bytes that nobody of ours sent: to both codecs, and to a worker's process.

Whatever comes, the answer is more patience or `WorkerProtocolError`, and no more memory than what has come accounts
for, whatever is announced.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rootstock.client.process import WORKER_ENTRY
from rootstock.errors import WorkerProtocolError
from rootstock.interfaces.ipi import codec
from rootstock.interfaces.ipi.messages import ForceReady
from rootstock.worker.channel.endpoint import Endpoint, PeerGoneError
from rootstock.worker.channel.frames import (
    HEADER,
    MAGIC,
    MAX_ATOMS,
    MAX_PAYLOAD,
    Frame,
    Kind,
    decode,
    decode_payload,
    encode,
)
from rootstock.worker.channel.memory import ALL_BITS, SharedMemory
from rootstock.worker.channel.wakeup import CLIENT, WakeupFlag
from tests.support.commands import DEADLINE_S
from tests.support.ipi import feed

ROOM = 2**18  # bytes that anybody may take, with pytest's and hypothesis' own
TIMES = 8  # how often what has come may lie in memory: buffer, its successor while it grows, copy, text

few = settings(deadline=None, max_examples=40)
# Numbers at the edges of what 32 bits hold, and of our bounds.
counts = st.sampled_from([-(2**31), -1, 0, 1, 2, codec.MAX_TEXT, codec.MAX_TEXT + 1, codec.MAX_ATOMS, 2**31 - 1])
# Numbers that overflow in other units, an infinity, and a NaN that signals, among any.
doubles = st.sampled_from(
    [struct.pack("<Q", 0x7FF << 52 | 1), *map(struct.Struct("<d").pack, (1e308, -1e308, math.inf))]
)
doubles |= st.binary(min_size=8, max_size=8)
tails = st.binary(max_size=300) | st.integers(0, 2**17).map(bytes)


@contextmanager
def bounded(data: bytes) -> Iterator[None]:
    """Fail if the block takes more memory than `data` accounts for."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < ROOM + TIMES * len(data), f"{peak} bytes for {len(data)}"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Split at these places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


# -- the native channel


def silent() -> WakeupFlag:
    """Return a bell that nobody rings."""
    with closing(SharedMemory.create()) as memory:
        return WakeupFlag(memory.fd, CLIENT)


def receive_all(parts: list[bytes]) -> list[tuple[Frame, dict[str, object]]]:
    """Return the frames that come out of a peer that sends these parts and is gone."""
    found = []
    raw, other = socket.socketpair()
    with closing(Endpoint(other, silent())) as end, raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        for part in parts:
            raw.sendall(part)
        raw.close()
        with suppress(PeerGoneError, WorkerProtocolError):
            while True:
                found.append(end.receive(3600.0))  # it is told, and does not wait for the deadline
    return found


headers = st.builds(
    HEADER.pack,
    st.just(MAGIC) | st.binary(min_size=4, max_size=4),
    st.sampled_from([*Kind, 0, 8, 2**32 - 1]),
    *[st.integers(0, 2**32 - 1)] * 3,
    st.sampled_from([0, 1, 100, 2**16, MAX_PAYLOAD, MAX_PAYLOAD + 1, 2**32 - 1]),
    st.integers(0, 2**64 - 1),
    *[st.sampled_from([0, 1, MAX_ATOMS, MAX_ATOMS + 1, 2**64 - 1])] * 2,
)


@given(st.tuples(headers, tails).map(b"".join) | st.binary(max_size=300), st.lists(st.integers(0), max_size=4))
@few
def test_frames_of_nobody(data: bytes, cuts: list[int]) -> None:
    with bounded(data):
        receive_all(pieces(data, cuts))


LARGEST = HEADER.pack(MAGIC, Kind.SETUP, 0, 0, 0, MAX_PAYLOAD, 0, 0, 0) + b"{" * 1000


def test_the_largest_announcement_takes_no_memory() -> None:
    with bounded(LARGEST):
        assert receive_all([LARGEST]) == []


@given(st.binary(max_size=200))
@few
def test_payloads_of_nobody(data: bytes) -> None:
    try:
        assert isinstance(decode_payload(data), dict)
    except WorkerProtocolError:
        assert not data.startswith(b"{}")


@given(st.binary(min_size=HEADER.size, max_size=HEADER.size) | headers)
@few
def test_headers_of_nobody(data: bytes) -> None:
    try:
        frame = decode(data)
    except WorkerProtocolError:
        return
    assert data[:4] == MAGIC
    assert frame.kind in set(Kind) and frame.payload <= MAX_PAYLOAD and frame.atoms <= frame.capacity <= MAX_ATOMS


def test_frames_cut_at_every_place() -> None:
    frame = Frame(Kind.EVALUATE, 7, 3, 1, 0, 15, 5, 64)
    data = encode(frame, {"info": {"charge": 1}})
    for place in range(len(data)):
        assert receive_all([data[:place]]) == []
        whole = receive_all([data[:place], data[place:] + data])
        assert [payload for _, payload in whole] == [{"info": {"charge": 1}}] * 2


# -- i-PI, both directions


def requests(data: list[bytes]) -> list[object]:
    """Return what a driver makes of a server's bytes."""
    return _decoded(codec.Decoder(), codec.Decoder.next_request, data)


def replies(data: list[bytes]) -> list[object]:
    """Return what a server makes of a driver's bytes."""
    return _decoded(codec.ReplyDecoder(), lambda decoder: decoder.next_reply(2), data)


def _decoded(decoder: object, following: Callable[..., object], parts: list[bytes]) -> list[object]:
    found = []
    for part in parts:
        feed(decoder, part)
        while (message := following(decoder)) is not None:
            found.append(message)
    return found


def packed(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


words = st.sampled_from(
    ["STATUS", "GETFORCE", "INIT", "POSDATA", "EXIT", "READY", "HAVEDATA", "FORCEREADY", "SOMETHING"]
)
served = st.one_of(
    st.builds(lambda bead, size, tail: codec.header("INIT") + packed(bead, size) + tail, counts, counts, tails),
    st.builds(
        lambda cell, count, tail: codec.header("POSDATA") + cell * 18 + packed(count) + tail, doubles, counts, tails
    ),
)
driven = st.builds(
    lambda energy, count, tail, text: codec.header("FORCEREADY") + energy + packed(count) + tail + packed(text),
    doubles,
    counts,
    tails | doubles.map(lambda number: number * 15),  # forces of two atoms and the virial
    counts,
)
messages = st.lists(served | driven | words.map(codec.header) | st.binary(max_size=50), max_size=6).map(b"".join)


@pytest.mark.parametrize("side", [requests, replies])
@given(data=messages, cuts=st.lists(st.integers(0), max_size=4))
@few
def test_ipi_messages_of_nobody(side: Callable[[list[bytes]], list[object]], data: bytes, cuts: list[int]) -> None:
    with bounded(data):
        try:
            found = side(pieces(data, cuts))
        except WorkerProtocolError:
            return
    assert len(found) <= len(data) / codec.HEADER_SIZE


@pytest.mark.parametrize(
    ("side", "word", "numbers"), [(requests, "POSDATA", (18, 6)), (replies, "FORCEREADY", (1, 15))]
)
@given(number=doubles)
@few
def test_ipi_numbers_of_any_kind(
    side: Callable[[list[bytes]], list[object]], word: str, numbers: tuple[int, int], number: bytes
) -> None:
    before, after = numbers
    data = codec.header(word) + number * before + packed(2) + number * after
    assert len(side([data + packed(0) if side is replies else data])) == 1  # whose values others check; and no warning


FORCES = codec.encode(ForceReady(-1.5, np.ones((2, 3)), np.eye(3), b"{}"))
INIT = codec.header("INIT") + packed(3, 4) + b"text"
QUESTION = INIT + codec.encode_cell(np.eye(3), 2) + bytes(codec.encode_positions(np.ones((2, 3))))


@pytest.mark.parametrize(
    ("side", "data", "count"), [(requests, QUESTION, 2), (replies, codec.header("READY") + FORCES, 2)]
)
def test_ipi_messages_cut_at_every_place(side: Callable[[list[bytes]], list[object]], data: bytes, count: int) -> None:
    for place in range(len(data)):
        assert len(side([data[:place]])) < count
        assert len(side([data[:place], data[place:] + data])) == 2 * count


# -- a worker's process

CONSTANT = """
import numpy as np
from ase.calculators.calculator import Calculator

class Constant(Calculator):
    implemented_properties = ["energy", "forces"]
    def calculate(self, atoms, properties, changes):
        super().calculate(atoms, properties, changes)
        self.results = {"energy": 2.0, "forces": np.zeros((len(atoms), 3))}

def setup(model, device):
    return Constant()
"""


class Worker:
    """A worker started by hand: its socket is ours to write to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory = SharedMemory.create()
        self.memory.grow(64)
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(DEADLINE_S)
        reader, self.lifeline = os.pipe()
        fds = (theirs.fileno(), self.memory.fd, reader)
        with theirs, folder.with_suffix(".log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-u", str(WORKER_ENTRY), *map(str, fds)],
                env={"PATH": "/usr/bin:/bin", "TMPDIR": str(folder)},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
                start_new_session=True,
            )
        os.close(reader)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.close()
        self.memory.close()
        os.close(self.lifeline)

    def ends(self) -> str:
        """Wait for the end by itself; nothing may be left. Return the last line that the worker printed."""
        code = self.process.wait(DEADLINE_S)
        with pytest.raises(ProcessLookupError):
            os.killpg(self.process.pid, 0)
        assert os.listdir(self.folder) == []
        lines = self.folder.with_suffix(".log").read_text().splitlines()
        assert code == bool(lines)
        return lines[-1] if lines else ""


@contextmanager
def worker(folder: Path) -> Iterator[Worker]:
    with closing(Worker(folder)) as it:
        yield it


def send(to: socket.socket, data: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it has had enough, and has ended
        to.sendall(data)


FOLDERS = {"root": "/", "cache": "/cache"}
SETUP = encode(Frame(Kind.SETUP), {"environment": "x", "model": "", "device": "cpu", "options": {}, **FOLDERS})
PROTOCOL = "rootstock.errors.WorkerProtocolError: "


@pytest.mark.parametrize(
    ("data", "last"),
    [
        pytest.param(SETUP[:-1], "", id="all but one byte"),
        pytest.param(LARGEST, "", id="the largest announcement"),
        pytest.param(np.random.default_rng(1).bytes(10_000), PROTOCOL, id="random bytes"),
        pytest.param(encode(Frame(Kind.CLOSE)), PROTOCOL, id="another frame"),
        pytest.param(encode(Frame(Kind.SETUP), [1]), PROTOCOL, id="a list"),
        pytest.param(encode(Frame(Kind.SETUP), FOLDERS | {"root": 1}), PROTOCOL, id="a number for a path"),
        pytest.param(encode(Frame(Kind.SETUP), FOLDERS | {"root": "\0\ud800"}), PROTOCOL, id="no path"),
    ],
)
def test_a_worker_that_is_told_nonsense_ends(tmp_path: Path, data: bytes, last: str) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    with worker(folder) as it:
        send(it.socket, data)
        if not last:
            it.socket.shutdown(socket.SHUT_WR)
        said = it.ends()
    assert said.startswith(last) and bool(said) == bool(last), said


def test_a_worker_outlives_wrong_questions_and_ends_with_nonsense(tmp_path: Path) -> None:
    environment, folder = tmp_path / "constant.py", tmp_path / "scratch"
    environment.write_text(CONSTANT)
    folder.mkdir()
    content = json.loads(SETUP[HEADER.size :]) | {"environment": str(environment)}
    with worker(folder) as it, closing(Endpoint(it.socket, WakeupFlag(it.memory.fd, CLIENT))) as end:
        it.memory.views(64)["numbers"][...] = 1
        end.send(Frame(Kind.SETUP), content)
        while (kind := end.receive(DEADLINE_S)[0].kind) == Kind.PROGRESS:
            pass
        assert kind == Kind.READY
        ask(end)
        ask_many(end)
        ask_methods(end)
        end.send(Frame(Kind.EVALUATE, 1, ALL_BITS, 0, 0, 5, 2, it.memory.capacity), {"info": {}})
        assert end.receive(DEADLINE_S)[0][:6] == (Kind.RESULT, 7, 0, 0, 0, 5)  # it is as good as before
        send(it.socket, np.random.default_rng(2).bytes(1000))
        assert it.ends().startswith(PROTOCOL)


bits = st.integers(0, 2**32 - 1) | st.integers(0, ALL_BITS) | st.just(ALL_BITS)
questions = st.builds(
    Frame,
    kind=st.just(Kind.EVALUATE),
    properties=bits,
    changes=bits,
    present=bits,
    payload=st.just(0),
    sequence=st.integers(0, 2**64 - 1),
    atoms=st.integers(0, 64),
    capacity=st.sampled_from([64, 80, 2**20, MAX_ATOMS]),
)
infos = st.dictionaries(
    st.sampled_from(["info", "other"]), st.none() | st.integers() | st.dictionaries(st.text(), st.text())
)


def ask(end: Endpoint) -> None:
    """Ask questions that no client asks; each has an answer, which carries its number."""

    @given(questions, st.none() | infos)
    @settings(few, suppress_health_check=[HealthCheck.too_slow])
    def each(question: Frame, content: dict[str, object] | None) -> None:
        end.send(question, content)
        answer, _ = end.receive(DEADLINE_S)
        assert answer.kind in (Kind.RESULT, Kind.FAILURE)
        assert answer.sequence == question.sequence

    each()


numbers = st.integers(-1, 70) | st.sampled_from([2**20, 2**20 + 1, 2**27, 2**31, 2**63, 2**64]) | st.floats()
batches = st.fixed_dictionaries({}, optional={
    "structures": numbers | st.none() | st.booleans(),
    "room": st.lists(numbers, max_size=3) | numbers,
    "info": st.dictionaries(st.text(max_size=3), st.text(max_size=9) | numbers) | numbers,
    "alone": st.booleans() | numbers,
    "sizes": st.dictionaries(st.text(max_size=3), numbers | st.text(max_size=3)) | numbers,
})  # fmt: skip


def ask_many(end: Endpoint) -> None:
    """Ask for batches that no client asks for; each has an answer, though perhaps no structure is computed."""

    @given(questions, batches)
    @settings(few, suppress_health_check=[HealthCheck.too_slow])
    def each(question: Frame, content: dict[str, object]) -> None:
        end.send(question._replace(kind=Kind.BATCH), content)
        while (answer := end.receive(DEADLINE_S)[0]).kind == Kind.PROGRESS:
            assert answer.sequence == question.sequence
        assert answer.kind in (Kind.RESULT, Kind.FAILURE)
        assert answer.sequence == question.sequence

    each()


calls = st.fixed_dictionaries({}, optional={
    "method": st.sampled_from(["get_potential_energy", "calculate", "__class__", ""]) | numbers,
    "arguments": st.lists(numbers, max_size=2) | numbers,
    "keywords": st.dictionaries(st.text(max_size=3), numbers) | numbers,
    "structure": numbers | st.text(max_size=3),
})  # fmt: skip


def ask_methods(end: Endpoint) -> None:
    """Call methods that no client calls: its environment file lists none, so each has an answer that says so."""

    @given(questions, calls)
    @settings(few, suppress_health_check=[HealthCheck.too_slow])
    def each(question: Frame, content: dict[str, object]) -> None:
        end.send(question._replace(kind=Kind.CALL), content)
        answer, _ = end.receive(DEADLINE_S)
        assert answer.kind == Kind.FAILURE
        assert answer.sequence == question.sequence

    each()
