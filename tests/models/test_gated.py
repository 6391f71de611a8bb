"""UMA and MACE-POLAR: models whose weights nobody may pass on. They lock, build, and fail for want of those alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootstock import RootstockCalculator
from rootstock.errors import MissingWeightsError
from rootstock.root.records import active_build, read_build
from tests.models.conftest import Build, DeadProxy, Make, call_setup
from tests.models.structures import ionic_water

pytestmark = pytest.mark.all_models


@pytest.fixture(scope="module")
def uma(build: Build) -> Path:
    return build("uma")


@pytest.fixture(scope="module")
def polar(build: Build) -> Path:
    return build("mace-polar")


def packages(root: Path, name: str) -> dict[str, str]:
    folder = active_build(root / "active" / name)
    assert folder is not None
    record = read_build(folder)
    assert record is not None
    return dict(record.packages)


@pytest.mark.parametrize("model", ["uma-s-1p2/omat", "uma", "uma-s-1p2"])
def test_uma_says_how_to_get_its_weights(uma: Path, model: str, dead_proxy: DeadProxy) -> None:
    with pytest.raises(MissingWeightsError) as failed:
        RootstockCalculator(model, root=uma, device="cpu").start()
    message = str(failed.value)
    assert "there is no checkpoints/uma-s-1p2.pt in " in message
    assert "accept the terms at https://huggingface.co/facebook/UMA and log in with 'hf auth login'" in message
    assert f"rootstock-site warm --root {uma} --env uma" in message
    assert not dead_proxy.was_asked()


def test_what_uma_refuses(uma: Path) -> None:
    wrong, task, other, option = call_setup(
        uma,
        "uma",
        ("uma-s-1p2/omat", {}, "calculator"),  # the name in the environment has no prefix
        ("s-1p2", {}, "calculator"),
        ("s-1p2/omat", {"task_name": "omol"}, "calculator"),
        ("s-1p2/omat", {"turbo": True}, "calculator"),
    )
    for answer in (wrong, task):
        assert "it is neither a file nor one of s-1p2/omat, s-1p2/omol, " in answer
    assert other == "ValueError: Model 's-1p2/omat' has a task already. Name another one as s-1p2/TASK."
    assert option.startswith("TypeError: UMA takes no option 'turbo' here; it takes: inference_settings, ")


def test_nothing_for_gpus_is_in_a_build_of_uma_for_processors(uma: Path) -> None:
    """fairchem-core asks for NVIDIA's compilers on any Linux."""
    found = packages(uma, "uma")
    assert "fairchem-core" in {name.lower().replace("_", "-") for name in found}
    assert not [name for name in found if name.startswith(("nvidia-", "cuda-"))]


def test_what_mace_polar_refuses(polar: Path, make_model: Make, dead_proxy: DeadProxy) -> None:
    wrong, missing, option, properties = call_setup(
        polar,
        "mace-polar",
        ("1-xl", {}, "calculator"),
        ("1-s", {}, "calculator"),
        ("1-s", {"dispersion": True}, "calculator"),
        (str(make_model("mace-polar")), {}, "'stress' in calculator.implemented_properties"),
    )
    assert wrong == "ValueError: Unknown model '1-xl': it is neither a file nor one of 1-s, 1-m, 1-l."
    assert missing == (
        "FileNotFoundError: The weights of MACE-POLAR's model '1-s' are not in this root: there is no "
        f"{polar / 'cache' / 'xdg' / 'mace' / 'MACEPOLAR1Smodel'}."
    )
    assert option.startswith("TypeError: MACE takes no option 'dispersion' here; it takes: ")
    assert properties == "False"
    assert not dead_proxy.was_asked()


def test_mace_polar_conserves_the_charge(polar: Path, make_model: Make) -> None:
    """With random weights: releases of mace-torch and graph-longrange that do not fit fail at the first call."""
    atoms = ionic_water()
    model = f"mace-polar-{make_model('mace-polar')}"
    with RootstockCalculator(model, root=polar, device="cpu", threads=1) as calc:
        for charge, spin in ((0, 1), (1, 2)):
            atoms.info.update(charge=charge, spin=spin)
            atoms.calc = calc
            assert atoms.get_charges().sum() == pytest.approx(charge, abs=1e-8)
            assert atoms.get_dipole_moment().shape == (3,)
