"""SevenNet, SO3LR and xTB: which models and options their files take, and in which words they refuse others."""

from __future__ import annotations

import pytest

from tests.models.conftest import Build, DeadProxy, call_setup

pytestmark = pytest.mark.models

ON = {"dispersion": True}
S8 = "round(calculator.mixer.calcs[1].params['s18'], 4)"  # of D3(BJ): 0.7875 for PBE, 0.7898 for r2SCAN


@pytest.mark.all_models
def test_sevennet(build: Build, dead_proxy: DeadProxy) -> None:
    """In one process: to import it takes longest."""
    root = build("sevennet")
    answers = call_setup(
        root,
        "sevennet",
        ("mf-0/PBE", ON, S8),
        ("mf-0/R2SCAN", ON, S8),
        ("0", {**ON, "dispersion_kwargs": {"damping": "zero"}}, "calculator.mixer.calcs[1].damping"),
        ("mf-0/R2SCAN", {}, "calculator.modal"),
        ("", {}, "'stresses' in calculator.implemented_properties"),
        ("omni/omol25_low", ON, "calculator"),
        ("omni/mpa", {}, "calculator"),
        ("mf-0", {}, "calculator"),
        ("omn/mpa", {}, "calculator"),
        ("0", {"modal": "PBE"}, "calculator"),
        ("0", {"compute_atomic_virial": True}, "calculator"),
    )
    assert answers[:5] == ["0.7875", "0.7898", "zero", "R2SCAN", "False"]
    place = root / "cache" / "home" / ".cache" / "sevennet" / "SevenNet_omni" / "checkpoint_sevennet_omni.pth"
    assert answers[5:] == [
        "ValueError: D3 cannot be added to model 'omni/omol25_low': it holds dispersion, or its functional has no D3.",
        f"FileNotFoundError: The weights of SevenNet's model 'omni' are not in this root: there is no {place}.",
        "ValueError: Unknown model 'mf-0'; of mf-0 there are: mf-0/PBE, mf-0/R2SCAN.",
        "ValueError: Unknown model 'omn/mpa': it is neither a file nor one of 0, 0-22may2024, l3i5, mf-0, omat, "
        "mf-ompa, omni, omni-i8, omni-i12.",
        "TypeError: The option 'modal' is for a checkpoint of your own: write mf-0/R2SCAN, for example.",
        "TypeError: SevenNet takes no option 'compute_atomic_virial' here; it takes: dispersion, modal, enable_cueq, "
        "enable_flash, enable_oeq.",
    ]
    assert not dead_proxy.was_asked()


def test_so3lr_and_xtb(build: Build) -> None:
    wrong, option = call_setup(build("so3lr"), "so3lr", ("so3", {}, "calculator"), ("", {"cutoff": 5}, "calculator"))
    assert wrong == "ValueError: Unknown model 'so3': it is neither a file nor 'so3lr'."
    assert option.startswith("TypeError: SO3LR takes no option 'cutoff' here; it takes: charges_key, default_dtype, ")
    wrong, option, field = call_setup(
        build("tblite"),
        "tblite",
        ("GFN3-xTB", {}, "calculator"),
        ("", {"spin": 1}, "calculator"),
        ("", {"electric_field": [0.0, 0.0, 0.1]}, "calculator.parameters.electric_field.tolist()"),
    )
    assert wrong == "ValueError: Unknown model 'GFN3-xTB'; there are: GFN2-xTB, GFN1-xTB, IPEA1-xTB."
    assert option.startswith("TypeError: tblite takes no option 'spin' here; it takes: accuracy, alpb_solvation, ")
    assert field == "[0.0, 0.0, 0.1]"
