"""MatGL: names, weights, and what it would compute wrongly. Its numbers are compared in test_conformance.py."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from rootstock import RootstockCalculator
from rootstock.errors import ModelError
from tests.models.conftest import Build, DeadProxy, Fetched, Make, call_setup, rock_salt
from tests.support.needs import need

pytestmark = pytest.mark.all_models
DEFAULT = "TensorNet-PES-MatPES-PBE-2025.2"


@pytest.fixture(scope="module")
def root(build: Build) -> Path:
    return build("matgl")


def test_what_is_taken_and_what_is_refused(root: Path, make_model: Make, tmp_path: Path, dead_proxy: DeadProxy) -> None:
    model = make_model("matgl")
    older = tmp_path / "older"
    shutil.copytree(model, older)
    kept = json.loads((older / "model.json").read_text())
    kept["kwargs"]["model"]["@model_version"] = 1
    (older / "model.json").write_text(json.dumps(kept))
    renamed = tmp_path / "M3GNet-MatPES-PBE-v2025.1-PES"
    shutil.copytree(model, renamed)
    plain, hessian, wrong, missing, empty, option, old, old_name = call_setup(
        root,
        "matgl",
        (str(model), {}, "calculator.implemented_properties"),
        (str(model), {"hessian": True}, "calculator.implemented_properties[-1]"),
        ("TensorNet", {}, "calculator"),
        ("QET-PES-MatPES-PBE-2025.2", {}, "calculator"),
        (str(tmp_path), {}, "calculator"),
        (str(model), {"stress_unit": "GPa"}, "calculator"),
        (str(older), {}, "calculator"),
        (str(renamed), {}, "calculator"),
    )
    assert plain == "['energy', 'free_energy', 'forces', 'stress']" and hessian == "hessian"
    assert wrong.startswith(f"ValueError: Unknown model 'TensorNet': it is neither a folder nor one of {DEFAULT}, ")
    assert missing.startswith("FileNotFoundError: The weights of MatGL's model 'QET-PES-MatPES-PBE-2025.2' are not in ")
    assert missing.endswith("/.cache/matgl/models--materialyze--QET-PES-MatPES-PBE-2025.2.")
    assert empty == f"ValueError: {tmp_path} is no model of MatGL: it holds no model.json."
    assert option.startswith("TypeError: MatGL takes no option 'stress_unit' here; it takes: ext_pot, ")
    for answer, folder in ((old, older), (old_name, renamed)):
        assert answer.startswith(f"ValueError: The model in {folder} was trained with an older MatGL, and this one (")
    assert not dead_proxy.was_asked()


def test_released_weights_are_read_from_the_roots_cache(
    root: Path, make_model: Make, fetched: Fetched, dead_proxy: DeadProxy
) -> None:
    energies = []
    for model in (f"matgl-{fetched('matgl')}", "tensornet-matpes-pbe", f"matgl-{make_model('matgl')}"):
        with RootstockCalculator(model, root=root, device="cpu", threads=1) as calc:
            atoms = rock_salt()
            atoms.calc = calc
            energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[1] == energies[2]
    assert not dead_proxy.was_asked()


def test_a_slab_is_refused(root: Path, make_model: Make) -> None:
    """The library would take it as a molecule."""
    slab = rock_salt()
    slab.pbc = (True, True, False)
    with RootstockCalculator(f"matgl-{make_model('matgl')}", root=root, device="cpu", threads=1) as calc:
        slab.calc = calc
        with pytest.raises(ModelError, match=r"not pbc=\[True, True, False\]: set pbc to True in all directions"):
            slab.get_forces()


def test_weights_of_2025_1_are_for_the_older_release(build: Build, tmp_path: Path) -> None:
    """Ac-Ala3-NHMe has -247.2868 eV there, as a reference checks, and -160.3071 eV here."""
    folder = os.environ.get("MODELS_WEIGHTS", "")
    need(folder, "MODELS_WEIGHTS, a folder with released weights")
    old = Path(folder, "matgl", "TensorNet-MatPES-PBE-v2025.1-PES")
    need(old.is_dir(), f"{old}: released weights")
    shutil.copytree(old, tmp_path / "model")
    [refused] = call_setup(build("matgl"), "matgl", (str(tmp_path / "model"), {}, "calculator"))
    assert "Use environment matgl@2.1 for TensorNet, or a newer model." in refused
    (cache := tmp_path / "other").mkdir()
    for file in old.iterdir():
        shutil.copyfile(file, cache / file.name)
    taken, wrong = call_setup(
        build("matgl@2.1"),
        "matgl@2.1",
        (str(cache), {}, "type(calculator.potential.model).__name__"),
        ("M3GNet", {}, "calculator"),
    )
    assert taken == "TensorNet"
    assert wrong == "ValueError: Unknown model 'M3GNet': it is neither a folder nor TensorNet-MatPES-PBE-v2025.1-PES."
