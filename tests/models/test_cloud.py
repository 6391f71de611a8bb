"""What `modal_app.py` runs on a GPU, here with CHGNet on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootstock.reports.trial import try_root

pytestmark = pytest.mark.all_models


def test_cold_and_warm(models_root: Path) -> None:
    found = try_root(
        models_root, "cpu", report=print, model="chgnet-0.3.0", other="chgnet-0.2.0", crystal="chgnet", launch="build"
    )
    missed = [check for check in found["checks"] if not check["passed"]]
    assert all(check["name"].endswith(", seconds") for check in missed), missed  # how long it takes is the machine's
    crystal = found["runs"][-1]
    assert crystal["atoms"] == 125
    # The same model, the same crystal: 125 atoms or 4, the energy of an atom is the same.
    assert crystal["energy"] / 125 == pytest.approx(found["energies_eV"]["first run"] / 4, abs=1e-4)
    assert all(run["start_s"] < run["seconds"] for run in found["runs"])
