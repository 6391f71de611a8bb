"""How much is computed together, and how long that may take: rules, without a worker."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones

from rootstock.client.batch_arrays import BatchArrays, Question
from rootstock.client.batch_exchange import Pace
from rootstock.client.inputs import Inputs
from rootstock.worker.batch_size import BatchSize
from rootstock.worker.batch_structures import Structures
from rootstock.worker.channel.batch_memory import BatchMemory
from rootstock.worker.channel.frames import Frame, Kind
from rootstock.worker.channel.memory import SharedMemory
from rootstock.worker.device_memory import is_out_of_memory
from rootstock.worker.evaluate import Evaluator


def parts(size: BatchSize, rate: float, count: int = 3) -> float:
    """Let a few parts be computed that are as large as allowed, and return the limit."""
    for _ in range(count):
        size.took(size.limit, size.limit / rate)
    return size.limit


def test_it_grows_as_long_as_that_pays() -> None:
    size = BatchSize(64)
    size.took(64, 100.0)  # the first one compiles
    assert parts(size, 1.0) == 128
    assert parts(size, 1.2) == 256
    assert parts(size, 1.25) == 128  # not 10 % faster: back
    assert parts(size, 9.0, 200) == 128  # and it stays there


def test_one_slow_part_of_three_decides_nothing() -> None:
    size = BatchSize(64)
    size.took(64, 1.0)
    parts(size, 1.0)
    size.took(128, 1000.0)
    assert parts(size, 2.0, 2) == 256


def test_small_parts_say_nothing() -> None:
    size = BatchSize(64)
    for _ in range(10):
        size.took(10, 10.0)
    assert size.limit == 64


def test_too_little_memory_halves_it_and_it_grows_again() -> None:
    size = BatchSize(64)
    size.too_large(60)
    assert size.limit == 30
    assert parts(size, 1.0, 49) == 30
    assert parts(size, 1.0, 1) == pytest.approx(36)  # after 50 without trouble
    size.too_large(0.0)
    assert size.limit == pytest.approx(36)


def test_a_known_size_is_no_first_guess() -> None:
    size = BatchSize(500, known=True)
    assert parts(size, 1.0, 40) == 500
    size.at_least(1000)
    assert size.limit == 500


def test_fixed_shapes() -> None:
    size = BatchSize(64, (40, 100, 300))
    assert size.limit == 40
    size.took(40, 1.0)
    assert parts(size, 1.0) == 100
    assert parts(size, 2.0) == 300
    size.too_large(300)
    assert size.limit == 100
    size.too_large(40)
    assert size.limit == 40  # there is none smaller


def test_how_long_a_part_may_take() -> None:
    pace = Pace()
    assert pace.limit(1, 8, 600.0, usual=True) == 600  # nothing is known
    assert pace.limit(256, 8, 600.0, usual=True) == 600
    assert pace.limit(256, 8, 0.1, usual=True) == pytest.approx(25.6)
    for seconds in (1.0, 1.1, 900.0, 0.9):
        pace.took(10, seconds)
    assert pace.limit(1, 10, 1e6, usual=True) == 2700  # three times the longest
    assert pace.limit(1, 10, 1e6, usual=False) == 1e6
    quick = Pace()
    for _ in range(3):
        quick.took(1, 2.0)
    assert quick.limit(1, 1, 1e6, usual=True) == 60
    assert quick.limit(4, 4, 1e6, usual=True) == 160  # 20 times the median for each atom
    assert quick.limit(4, 4, 30.0, usual=True) == 60
    assert quick.limit(1, 1, 30.0, usual=True) == 30


def question(number: int, atoms: Atoms) -> Question:
    inputs = Inputs()
    inputs.update(atoms)
    return Question(number, inputs, 1, atoms, len(inputs))


def test_what_a_structure_costs_and_what_it_is() -> None:
    """Memory follows neighbours, of which dense structures have more; and each is seen as it was given."""
    dense, vacuum = bulk("Cu", a=3.6), bulk("Cu", a=3.6)
    vacuum.center(vacuum=20.0)
    images = [dense, vacuum, Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 3.7]]), Atoms()]
    memory = SharedMemory.create()
    try:
        arrays = BatchArrays(memory, "")
        content = arrays.put([question(k, atoms) for k, atoms in enumerate(images)])
        frame = Frame(Kind.BATCH, atoms=4, capacity=arrays.memory.room[0])
        batch = Structures(BatchMemory(memory), frame, content)
        assert batch.costs() == pytest.approx([4 / 3.6**3 / 0.05, 1, 2, 0])
        assert batch.suits == [True, True, True, False]
        evaluator = Evaluator(LennardJones(), memory)
        found = [batch.image(k, evaluator)[0] for k in range(4)]
        assert found == images
        found[0].positions += 1.0  # shared with nobody
        assert np.array_equal(batch.row(0)["positions"], dense.positions)
        del batch, found, evaluator, arrays
    finally:
        memory.close()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("Failed to allocate 1048576 bytes on device 'cuda:0'"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"),
        type("OutOfMemoryError", (RuntimeError,), {})("?"),
    ],
)
def test_words_for_too_little_memory(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ValueError("no parameters"))
