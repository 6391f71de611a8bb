"""Calculators whose workers misbehave on command."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rootstock import RootstockCalculator
from rootstock.client.process import Launch
from tests.support.environment_files import header
from tests.support.folders import once_per_run

HEADER = (
    header()
    + """\
import os
import sys
import time

import numpy as np
from ase.calculators.calculator import Calculator as Base, all_changes


class Calculator(Base):
    implemented_properties = ["energy", "forces", "stress"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        n = len(self.atoms)
        self.results = {"energy": float(n), "forces": np.ones((n, 3)), "stress": np.arange(6.0)}
        self.extra(properties, system_changes)

    def extra(self, properties, system_changes):
        pass
"""
)


@pytest.fixture(scope="session")
def personal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root of one's own that nobody installed: uv makes the environments."""

    def fetch(folder: Path) -> None:
        # So that no test's deadline is for fetching packages.
        environment = folder / "first.py"
        environment.write_text(f"{HEADER}\n\ndef setup(model, device='cpu'):\n    return Calculator()\n")
        RootstockCalculator("", environment=environment, root=folder / "root", device="cpu").start().close()

    return once_per_run(tmp_path_factory, "personal", fetch) / "root"


@pytest.fixture
def emt(root: Path) -> Iterator[RootstockCalculator]:
    with RootstockCalculator(model="emt", root=root, device="cpu") as calc:
        yield calc


Make = Callable[..., RootstockCalculator]


@pytest.fixture
def make(personal: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Make:
    """Return a function that makes a calculator: `body` runs in each evaluation, `setup` at the start."""

    def build(body: str = "pass", setup: str = "return Calculator()", **arguments: Any) -> RootstockCalculator:
        path = tmp_path / "misbehaving.py"
        path.write_text(
            f"{HEADER}\n\nclass Calculator(Calculator):\n    def extra(self, properties, system_changes):\n"
            f"{textwrap.indent(textwrap.dedent(body), ' ' * 8)}\n\n"
            f"def setup(model, device='cpu', **kwargs):\n{textwrap.indent(textwrap.dedent(setup), ' ' * 4)}\n"
        )
        calc = RootstockCalculator(
            environment=path, **{"model": "", "root": personal, "device": "cpu", "start_timeout": 600.0} | arguments
        )
        request.addfinalizer(calc.close)
        return calc

    return build


def start_of(calc: RootstockCalculator) -> tuple[Launch, dict[str, object]]:
    """Return how a calculator starts its worker, and what it tells it then."""
    spec = calc._session.spec
    launch, layout = spec.model.launch(), spec.model.layout
    folders = {"root": str(layout.root), "cache": str(layout.cache)}
    file = str(launch.environment_file)
    return launch, {"environment": file, "model": "", "device": "cpu", "options": {}, **folders}
