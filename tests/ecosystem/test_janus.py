"""janus-core's descriptors and Hessians, which it asks of the calculator as methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.ecosystem.conftest import PROGRAMS, Ask, environment_with, last_line
from tests.run.extra_models import EXTRA_MODELS

pytestmark = pytest.mark.xdist_group("janus")  # an environment of its own


@pytest.fixture(scope="module")
def janus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment_with(tmp_path_factory.mktemp("janus"), "janus-core>=0.9.4") / "python"


def test_janus_computes_descriptors_and_hessians(janus: Path, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "extra.py").write_text(EXTRA_MODELS)
    program = PROGRAMS / "janus_extras.py"
    found = last_line(ask(janus, program, tmp_path / "extra.py", tmp_path / "root", OPENBLAS_NUM_THREADS="1"))
    positions = np.array(found["positions"])
    lengths = np.linalg.norm(positions, axis=1)[:, None]
    invariant, all_of_them = np.arange(1.0, 5) * lengths - 1, np.arange(1.0, 17) * lengths - 1
    assert found["mean"] == found["written"] == invariant.mean()
    assert found["Na"] == invariant[:1].mean()
    assert found["per_atom"] == invariant.mean(axis=1).tolist()
    assert found["equivariant"] == all_of_them.mean()
    assert found["energy"] == float((positions**2).sum())
    assert found["hessian"] == (np.eye(6) * positions.ravel() / 3).tolist()
    assert np.allclose(found["file"], found["hessian"])
    assert found["charges"] == (positions[:, 0] / 3).astype("f4").astype(float).tolist()
