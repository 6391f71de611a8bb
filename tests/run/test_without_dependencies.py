"""Our wheel beside ASE alone, as the guide installs it: what works, and what says what it needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rootstock import __version__
from rootstock.builds.uv import find_uv
from tests.support.commands import clean_environment, run
from tests.support.environment_files import header
from tests.support.folders import once_per_run

pytestmark = pytest.mark.xdist_group("without_dependencies")

START = "from ase.build import bulk; from rootstock import RootstockCalculator; atoms = bulk('Cu'); atoms.calc = "
ENERGY = "; print(atoms.get_potential_energy())"
OWN = """
from ase.calculators.emt import EMT

def setup(model, device="cpu"):
    return EMT()
"""


@pytest.fixture(scope="module")
def bare(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs of an environment that holds ASE and, installed by the guide's line, Rootstock."""

    def install(folder: Path) -> None:
        python = folder / "env/bin/python"
        run(find_uv(), "venv", "-q", "--seed", "--python", sys.executable, folder / "env", check=True)
        run(find_uv(), "pip", "install", "-q", "--python", python, "ase", check=True)
        variables = clean_environment(ROOTSTOCK_ROOT=str(root), ROOTSTOCK_VERSION=__version__)
        line = "-m pip install -q --no-deps --no-index $ROOTSTOCK_ROOT/runtime/$ROOTSTOCK_VERSION/rootstock-*.whl"
        run("sh", "-c", f"'{python}' {line}", env=variables, check=True)

    return once_per_run(tmp_path_factory, "bare", install) / "env/bin"


@pytest.fixture
def variables(root: Path, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user whose registry names a cluster, and whose module is not loaded."""
    registry = tmp_path / "config/rootstock/clusters.toml"
    registry.parent.mkdir(parents=True)
    registry.write_text(f'default = "hill"\n[clusters.hill]\nroot = "{root}"\n')
    (tmp_path / "own.py").write_text(header() + OWN)
    return clean_environment(XDG_CONFIG_HOME=str(tmp_path / "config"), XDG_DATA_HOME=str(tmp_path / "data"))


@pytest.mark.parametrize(
    "made",
    [
        "RootstockCalculator('emt', root='{root}', device='cpu')",
        "RootstockCalculator('emt', cluster='hill', device='cpu')",
        "RootstockCalculator('emt', device='cpu')",
        "RootstockCalculator('', environment='emt', device='cpu')",
        "__import__('pickle').loads(__import__('pickle').dumps(RootstockCalculator('emt', device='cpu')))",
    ],
)
def test_a_calculator(bare: Path, root: Path, tmp_path: Path, variables: dict[str, str], made: str) -> None:
    done = run(
        bare / "python", "-c", START + made.format(root=root) + ENERGY, env=variables, cwd=tmp_path, check=True
    )  # fmt: skip
    assert float(done.stdout) == pytest.approx(-0.00568, abs=1e-4)


def test_other_names_and_programs(bare: Path, root: Path, tmp_path: Path, variables: dict[str, str]) -> None:
    code = """
import rootstock, rootstock.calculator, rootstock.clusters, rootstock.environment, rootstock.lammps
from rootstock.ipi import IPICalculator
from ase.build import bulk
assert rootstock.get_root_for_cluster("hill") and "della" in rootstock.CLUSTER_REGISTRY
bulk("Cu").write("cu.xyz")
client = '''from ase.io import read; from ase.calculators.emt import EMT
from ase.calculators.socketio import SocketClient
atoms = read("cu.xyz"); atoms.calc = EMT(); SocketClient(unixsocket="{address}").run(atoms, use_stress=True)'''
import sys
with IPICalculator(command=[sys.executable, "-c", client]) as calc:
    atoms = bulk("Cu")
    atoms.calc = calc
    print(atoms.get_potential_energy())
"""
    done = run(bare / "python", "-c", code, env=variables, cwd=tmp_path, check=True)
    assert float(done.stdout) == pytest.approx(-0.00568, abs=1e-4)
    references = root / "environments/emt.py"
    for line in (("run", "rootstock", "cu.xyz", "-p", "model=emt,device=cpu"),
                 ("convert", "-i", "rootstock-references", references, "references.xyz")):  # fmt: skip
        run(bare / "python", "-m", "ase", *line, env=variables, cwd=tmp_path, check=True)


def test_an_environment_file_needs_two_packages_more(
    bare: Path, package_cache: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    code = f"{START}RootstockCalculator('', environment='own.py', device='cpu'){ENERGY}"
    done = run(bare / "python", "-c", code, env=variables, cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert "To make an environment for it, Rootstock needs uv and tomli-w" in done.stderr
    assert last == f"Install: {bare / 'python'} -m pip install uv tomli-w"
    more = tmp_path / "more"
    words = last.removeprefix("Install: ").replace(" install ", f" install -q --target '{more}' ")
    run("sh", "-c", words, env=variables, check=True)
    cluster = f'\n[clusters.local]\nuv.cache = "{package_cache}"\n'
    with (tmp_path / "config/rootstock/clusters.toml").open("a") as file:
        file.write(cluster)
    own = variables | {"PYTHONPATH": str(more)}
    done = run(bare / "python", "-c", code, env=own, cwd=tmp_path, check=True)
    assert float(done.stdout) == pytest.approx(-0.00568, abs=1e-4)


@pytest.mark.parametrize("program", ["rootstock", "rootstock-site"])
def test_command_lines_say_what_they_need(bare: Path, tmp_path: Path, variables: dict[str, str], program: str) -> None:
    done = run(bare / program, "--help", env=variables, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("Error: The command line needs the package click, which is not installed beside")
    assert "Traceback" not in done.stderr
    assert os.access(bare / program, os.X_OK)
