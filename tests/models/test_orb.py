"""ORB: the Python that it needs, names, weights. What it computes is compared in test_conformance.py."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from rootstock import RootstockCalculator
from rootstock.builds.uv import find_uv
from rootstock.config.environment_file import packaged_source
from tests.conftest import Site
from tests.models.conftest import Build, DeadProxy, Fetched, Make, call_setup, rock_salt
from tests.support.commands import Done, run


@pytest.fixture(scope="module")
def root(build: Build) -> Path:
    return build("orb")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python is not too old for ORB")
def test_a_python_that_is_too_old_is_refused(site: Site, tmp_path: Path) -> None:
    """Rather than building orb-models 0.5, which has another interface."""
    setting = f"python.interpreter={getattr(sys, '_base_executable', sys.executable)}"
    options = ("--root", tmp_path / "root", "--no-client", "--env", "orb", "--set", setting)
    done = site("install", "--cluster", "local", *options, check=False)
    assert done.returncode == 14
    assert "No Python <3.13,>=3.12 for environment 'orb'. Looked at:\n" in done.stderr
    assert re.search(r"is 3.11.\d+, not <3.13,>=3.12\n", done.stderr)


def compiled(requirement: str) -> Done:
    """Ask uv which packages a requirement takes with Python 3.11."""
    command = (find_uv(), "pip", "compile", "--quiet", "--no-header", "--python-version", "3.11", "--no-deps", "-")
    return run(*command, input=requirement)


@pytest.mark.models
def test_without_lower_bounds_a_resolver_goes_back_without_a_word() -> None:
    """Why the header has both: the package index still offers orb-models 0.5 to Python 3.11."""
    done = compiled("orb-models")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^orb-models==0\.[0-5]\.", done.stdout, re.MULTILINE)
    bounded = [text for text in packaged_source("orb").header["dependencies"] if text.startswith("orb-models")]
    done = compiled(bounded[0])
    assert done.returncode == 1
    assert "requirements are unsatisfiable" in done.stderr


@pytest.mark.all_models
def test_what_is_refused(root: Path, make_model: Make, dead_proxy: DeadProxy) -> None:
    wrong, architecture, missing = call_setup(
        root,
        "orb",
        ("orb-v4", {}, "calculator"),
        (str(make_model("orb")), {"architecture": "orb-v4"}, "calculator"),
        ("orb-v3-direct-20-omat", {}, "calculator"),
    )
    names = "orb-v3-conservative-inf-omat, orb-v3-conservative-20-omat, "
    assert wrong.startswith(f"ValueError: Unknown model 'orb-v4': it is neither a file nor one of {names}")
    assert architecture.startswith(f"ValueError: Unknown architecture 'orb-v4': it is none of {names}")
    assert re.search(
        r"^FileNotFoundError: The weights of ORB's model 'orb-v3-direct-20-omat' are not in this root: nothing in "
        r".*/cache/cached_path is from https://.*\.$",
        missing,
    )
    assert not dead_proxy.was_asked()


@pytest.mark.all_models
def test_weights_are_read_from_the_roots_cache_without_asking_the_network(
    root: Path, make_model: Make, fetched: Fetched, dead_proxy: DeadProxy
) -> None:
    """The library would ask for a newer file at every start, and without network wait for half a minute."""
    energies = []
    assert fetched("orb") == packaged_source("orb").named("")
    for model in ("orb", f"orb-{make_model('orb')}"):
        with RootstockCalculator(model=model, root=root, device="cpu", threads=1) as calc:
            atoms = rock_salt()
            atoms.calc = calc
            energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[1]
    assert not dead_proxy.was_asked()
