"""Programs under a real ``mpiexec``: one worker on rank 0, or one for each rank that says so."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rootstock.client.threads import processors
from tests.ecosystem.conftest import PROGRAMS, Ask, environment_with
from tests.run.extra_models import EXTRA_MODELS
from tests.support.processes import alone

RANKS = 3

pytestmark = pytest.mark.xdist_group("mpi")  # an environment of its own


@pytest.fixture(scope="module")
def mpiexec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment_with(tmp_path_factory.mktemp("mpi"), "mpi4py", "mpich") / "mpiexec"


@pytest.fixture
def ranks(mpiexec: Path, ask: Ask, tmp_path: Path) -> Any:
    """Ask a function of ranks.py on several ranks, and return what each found. They see no processes but their own."""

    def call(what: str) -> list[dict[str, Any]]:
        program = (mpiexec.with_name("python"), PROGRAMS / "ranks.py")
        # Threads of numpy's in every rank would wait for each other on so few processors.
        command = (*alone(), mpiexec, "-n", str(RANKS), "-localhost", "localhost", *program, what)
        (tmp_path / "extra.py").write_text(EXTRA_MODELS)
        done = ask(*command, OPENBLAS_NUM_THREADS="1", EXTRA=str(tmp_path / "extra.py"))
        files = [tmp_path / f"{rank}.json" for rank in range(RANKS)]
        assert all(file.is_file() for file in files), done.stdout + done.stderr
        return [json.loads(file.read_text()) for file in files]

    return call


def test_one_worker_computes_for_all_ranks(ranks: Any) -> None:
    first, *others = ranks("together")
    assert first["workers"] == 1 and first["pid"]
    for other in others:
        assert other["workers"] == 0
        for key in ("energy", "forces", "properties", "threads"):
            assert other[key] == first[key]
    assert {answer[key] for answer in (first, *others) for key in ("device", "told")} == {"cpu"}
    assert float.fromhex(first["forces"]) < 0.01


def test_many_structures_are_computed_once_for_all_ranks(ranks: Any) -> None:
    first, *others = ranks("many")
    assert first["workers"] == 1
    assert first["failures"] == [None, None, None, "structure", None]
    for other in others:
        assert other == {**first, "workers": 0}


def test_errors_reach_every_rank(ranks: Any) -> None:
    answers = ranks("failing")
    for answer in answers:
        assert answer["errors"] == ["ConfigurationError", "PropertyNotImplementedError"]
        assert answer["energy"] == answers[0]["energy"]
    assert [answer["workers"] for answer in answers] == [1, 0, 0]


def test_extra_results_and_methods_reach_every_rank(ranks: Any) -> None:
    first, *others = ranks("extras")
    positions = np.array(first["positions"])
    assert first["charges"] == (positions[:, 0] / 3).astype("f4").tolist()
    assert first["descriptors"] == (np.arange(1.0, 17) * np.linalg.norm(positions, axis=1)[:, None] - 1).tolist()
    for answer in others:
        assert answer == {**first, "workers": 0}
    failed, different = first["messages"]
    assert failed.startswith("ModelError: ") and "nonsense" in failed
    assert "The 3 MPI ranks ask for different" in different
    assert first["workers"] == 1


def test_ranks_with_atoms_of_their_own(ranks: Any) -> None:
    answers = ranks("different")
    for answer in answers:
        assert "The 3 MPI ranks ask for different atoms or properties" in answer["message"]
        assert "comm=MPI.COMM_SELF" in answer["message"]
    assert [answer["workers"] for answer in answers] == [1, 1, 1]
    assert len({answer["energy"] for answer in answers}) == RANKS


def test_a_rank_that_the_others_let_wait_gives_up(ranks: Any) -> None:
    message = ranks("late")[0]["message"]
    assert re.search(r"MPI rank 0 waited \d+ s for the other ranks to ask the same", message)


def test_without_mpi4py_every_process_is_on_its_own(ranks: Any) -> None:
    """Its threads are its share, all the same: the launcher said how many processes there are."""
    for answer in ranks("plain"):
        assert answer["workers"] == 1
        assert answer["threads"] == max(1, processors(os.environ) // RANKS)
