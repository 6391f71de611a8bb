"""Every environment, for somebody who may only read its root: another user, without network, whose home is closed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rootstock import __version__
from rootstock.root.layout import RootLayout
from tests.models.cases import CASES, marked
from tests.models.conftest import Build, Fetched, as_arguments
from tests.support.folders import open_to_readers
from tests.support.readers import need_readers, run_as_reader, seen_under, traced

READER = 54321
COMPUTE = """
import json, os, sys
from ase import Atoms
from rootstock import RootstockCalculator
root, model, structure = sys.argv[1:]
assert not os.access(root, os.W_OK) and not os.access(os.environ["HOME"], os.W_OK)
with RootstockCalculator(model, root=root, device="cpu", threads=1, launch="build") as calc:
    atoms = Atoms(**json.loads(structure), calculator=calc)
    stress = [atoms.get_stress().shape] if "stress" in calc.implemented_properties else []
    print(atoms.get_potential_energy(), atoms.get_forces().shape, *stress)
"""


IN_CI = ("emt", "lj", "chgnet", "sevennet", "tblite")  # weights in a package, a private home, and no torch
NAMES = [
    each if each.values[0] in IN_CI else pytest.param(*each.values, marks=pytest.mark.all_models) for each in marked()
]


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_computes_and_tries_to_write_nothing_into_the_root(
    name: str, build: Build, fetched: Fetched, shared_root: Path, tmp_path: Path
) -> None:
    """Not even in vain: what a library tries to write would, in its owner's hands, change the root for everybody."""
    need_readers()
    open_to_readers(tmp_path)
    root, log = build(name), tmp_path / f"scratch-{READER}" / "log"
    model = f"{name}-{fetched(name)}".rstrip("-")
    client = RootLayout(shared_root).client(__version__)
    structure = json.dumps(as_arguments(CASES[name].start()))
    # The Python that was copied into ORB's root, may look for its library where it was compiled to be.
    libraries = {"LD_LIBRARY_PATH": str(root / "python" / "3.12" / "lib")}
    command = [*traced(log), client / "bin" / "python", "-c", COMPUTE, root, model, structure]
    done = run_as_reader(READER, command, tmp_path, **libraries)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f" ({len(CASES[name].start())}, 3){' (6,)' if CASES[name].stress else ''}\n")
    for folder, part in ((root, root / "builds" / name), (shared_root, client)):
        touched, changing = seen_under(log, folder)
        assert any(str(part) in line for line in touched)  # the worker, or the client
        assert changing == []
