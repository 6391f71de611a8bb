"""The contract of RootstockCalculator: roots, model strings, errors, and the form of version 0.2."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones

from rootstock import (
    CLUSTER_REGISTRY,
    RootstockCalculator,
    get_root_for_cluster,
    parse_model_string,
)
from rootstock.environment import EnvironmentManager
from rootstock.errors import RootError, WorkerStartError
from tests.run.conftest import HEADER, Make
from tests.support.commands import run
from tests.support.environment_files import header


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ROOTSTOCK_ROOT", "ROOTSTOCK_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def energy(calc: RootstockCalculator, element: str = "Cu") -> float:
    atoms = bulk(element)
    atoms.calc = calc
    with calc:
        return float(atoms.get_potential_energy())


def test_cluster_and_root_exclude_each_other(root: Path) -> None:
    with pytest.raises(ValueError, match="Cannot specify both 'cluster' and 'root'"):
        RootstockCalculator(model="emt", cluster="della", root=root)


def test_neither_cluster_nor_root() -> None:
    with pytest.raises(ValueError, match="Must specify either 'cluster' or 'root'") as caught:
        RootstockCalculator(model="emt")
    assert "module load rootstock" in str(caught.value)
    assert "ROOTSTOCK_ROOT" in str(caught.value)


def test_unknown_cluster_lists_the_known_ones_and_the_way_out() -> None:
    with pytest.raises(ValueError, match="Unknown cluster 'nowhere'.*della.*modal") as caught:
        RootstockCalculator(model="emt", cluster="nowhere")
    assert "root='/path/to/rootstock'" in str(caught.value)


def test_registry() -> None:
    assert CLUSTER_REGISTRY["modal"] == "/vol/rootstock"
    assert CLUSTER_REGISTRY["della"] == "/scratch/gpfs/SHARED/rootstock"
    assert get_root_for_cluster("modal") == Path("/vol/rootstock")
    assert "nowhere" not in CLUSTER_REGISTRY


def test_root_from_the_variable_read_at_call_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOTSTOCK_ROOT", str(root))
    assert energy(RootstockCalculator(model="emt", device="cpu")) == pytest.approx(-0.00568, abs=1e-4)


@pytest.mark.parametrize("way", ["argument", "variable", "default"])
def test_root_of_a_cluster_of_the_users_registry(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    folder = tmp_path / "config" / "rootstock"
    folder.mkdir(parents=True)
    default = 'default = "mine"\n' if way == "default" else ""
    (folder / "clusters.toml").write_text(f'{default}[clusters.mine]\nroot = "{root}"\n')
    if way == "variable":
        monkeypatch.setenv("ROOTSTOCK_CLUSTER", "mine")
    cluster = "mine" if way == "argument" else None
    assert energy(RootstockCalculator(model="emt", cluster=cluster, device="cpu")) < 0


def test_an_argument_outranks_the_variable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOTSTOCK_ROOT", "/nowhere")
    assert RootstockCalculator(model="emt", root=root).parameters["root"] == str(root)


def test_root_variable_outranks_cluster_variable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOTSTOCK_ROOT", str(root))
    monkeypatch.setenv("ROOTSTOCK_CLUSTER", "modal")
    assert RootstockCalculator(model="emt").parameters["root"] == str(root)


def test_a_folder_that_is_no_root(tmp_path: Path) -> None:
    with pytest.raises(RootError, match="is not a Rootstock root.*\n.*rootstock-site install"):
        RootstockCalculator(model="emt", root=tmp_path)


@pytest.mark.parametrize("name", ["nosuch", "../emt", "mace-medium", "a/b", "", "emt\n"])
def test_unknown_environment(root: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        RootstockCalculator(model=name, root=root)
    assert str(root / "environments") in str(caught.value)
    if name == "nosuch":
        assert "'nosuch'" in str(caught.value)
        assert "emt, lj" in str(caught.value)


def test_missing_environment_file(tmp_path: Path, root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no environment file .*missing.py"):
        RootstockCalculator(environment=tmp_path / "missing.py", root=root)


def test_unknown_keyword(root: Path) -> None:
    with pytest.raises(TypeError, match="devise"):
        RootstockCalculator(model="emt", root=root, devise="cpu")


@pytest.mark.parametrize("options", [{"f": object()}, {"model": "x"}])
def test_options_that_cannot_travel(root: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="setup_kwargs"):
        RootstockCalculator(model="emt", root=root, setup_kwargs=options)


@pytest.mark.parametrize("model", ["emt", "lj", "lj-argon"])
def test_options_that_a_model_does_not_have(root: Path, model: str) -> None:
    with pytest.raises(WorkerStartError, match="TypeError: .*'cutof'"):
        RootstockCalculator(model=model, root=root, device="cpu", setup_kwargs={"cutof": 5.0}).start()


def test_environment_file_that_is_not_one(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "bad.py"
    for text, message in [
        ("x = 1\n", "has 0 headers"),
        ("# /// script\n# dependencies = [\n# ///\ndef setup(): pass\n", "its header is not valid"),
        (header(dependencies=()) + "x = 1\n", "defines no function setup"),
        (header(dependencies=()) + "def setup(:\n", "is not valid Python"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            RootstockCalculator(environment=path, root=root)


def test_the_form_of_version_0_2(personal: Path, tmp_path: Path) -> None:
    """``environment=PATH, model=..., root=...``: the model reaches setup() unparsed."""
    path = tmp_path / "old.py"
    path.write_text(
        HEADER
        + "\ndef setup(model, device):\n    assert (model, device) == ('mace-medium', 'cuda')\n"
        + "    return Calculator()\n"
    )
    calc = RootstockCalculator(environment=path, model="mace-medium", root=personal, device="cuda")
    assert energy(calc) == 1.0


def test_an_environment_file_needs_no_root(tmp_path: Path) -> None:
    """A root of the user's own serves caches."""
    path = tmp_path / "mine.py"
    path.write_text(HEADER + "\ndef setup(model, device):\n    return Calculator()\n")
    calc = RootstockCalculator(environment=str(path), model="", device="cpu")
    assert calc.parameters["root"] == str(tmp_path / "data" / "rootstock")
    assert energy(calc) == 1.0


def test_environment_by_registered_name(root: Path) -> None:
    atoms = bulk("Ar")
    atoms.calc = LennardJones(sigma=3.405, epsilon=0.010323, rc=10.0)
    calc = RootstockCalculator(environment="lj", model="argon", root=root, device="cpu")
    assert energy(calc, "Ar") == pytest.approx(atoms.get_potential_energy(), rel=1e-12)


def test_environment_manager(tmp_path: Path) -> None:
    manager = EnvironmentManager(tmp_path / "root")
    command = manager.get_spawn_command("/tmp/wrapper.py")
    assert command[command.index("--cache-dir") + 1] == str(tmp_path / "root/cache/uv")
    assert (tmp_path / "root/cache/uv").is_dir()
    assert command[-1] == "/tmp/wrapper.py"
    variables = manager.get_environment_variables()
    assert variables["UV_CACHE_DIR"] == str(tmp_path / "root/cache/uv")
    assert variables["HF_HOME"] == str(tmp_path / "root/cache/huggingface")


def test_registered_names_outrank_known_ones() -> None:
    assert parse_model_string("mace-custom", ["mace-custom"]) == ("mace-custom", "")
    assert parse_model_string("mace@2024.01.15-medium") == ("mace@2024.01.15", "medium")
    assert parse_model_string("maceration") == ("maceration", "")


def test_model_string_reaches_setup(root: Path) -> None:
    reduced, argon = (RootstockCalculator(model=name, root=root, device="cpu") for name in ("lj", "lj-argon"))
    assert energy(reduced, "Ar") != energy(argon, "Ar")


def test_wrong_model_says_the_valid_ones(root: Path) -> None:
    with pytest.raises(ValueError, match="no model 'krypton'. It has: one without a name, the default, argon"):
        RootstockCalculator(model="lj-krypton", root=root, device="cpu")


def test_setup_options(root: Path) -> None:
    assert energy(RootstockCalculator(model="lj", root=root, setup_kwargs={"epsilon": 2.0})) == 2 * energy(
        RootstockCalculator(model="lj", root=root)
    )


def test_unknown_setup_option(make: Make, personal: Path, tmp_path: Path) -> None:
    path = tmp_path / "strict.py"
    path.write_text(HEADER + "\ndef setup(model, device, dtype='float64'):\n    return Calculator()\n")
    calc = RootstockCalculator(environment=path, model="", root=personal, setup_kwargs={"dtpye": "float32"})
    with pytest.raises(RuntimeError, match="setup\\(\\) takes no option 'dtpye'; it takes: dtype"):
        calc.start()


def test_empty_model_means_the_default_of_setup(personal: Path, tmp_path: Path) -> None:
    path = tmp_path / "default.py"
    path.write_text(
        HEADER
        + "\ndef setup(model='medium', device='cpu'):\n    assert model == 'medium', model\n    return Calculator()\n"
    )
    assert energy(RootstockCalculator(environment=path, model="", root=personal)) == 1.0


def test_build_mode_of_what_is_not_built(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "unbuilt.py"
    path.write_text(HEADER + "\ndef setup(model, device):\n    return Calculator()\n")
    with pytest.raises(RootError, match=f"'unbuilt' has no build in .*\n.*rootstock-site install .* --env {path}"):
        RootstockCalculator(environment=path, model="", root=root, launch="build")
    with pytest.raises(ValueError, match="launch='fast' is unknown"):
        RootstockCalculator(environment=path, model="", root=root, launch="fast")


@pytest.mark.parametrize("name", ["with space", "quo'te", 'double"quote', "dollar$HOME", "ünicode", "a;b&c"])
def test_roots_with_odd_names(root: Path, tmp_path: Path, name: str) -> None:
    """Reached through a symlink, which is not resolved: what is behind it may be moved."""
    odd = tmp_path / name / "root"
    odd.parent.mkdir()
    odd.symlink_to(root)
    calc = RootstockCalculator(model="emt", root=odd, device="cpu")
    assert energy(calc) < 0
    assert calc.parameters["root"] == str(odd)


@pytest.mark.parametrize("name", ["with space", "quo'te", 'double"quote'])
def test_personal_roots_with_odd_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "odd.py"
    path.parent.mkdir()
    path.write_text(HEADER + "\ndef setup(model, device):\n    return Calculator()\n")
    assert energy(RootstockCalculator(environment=path, model="", root=tmp_path / name / "root")) == 1.0


def test_long_tmpdir(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    folder = tmp_path / ("long" * 50) / ("long" * 50)
    folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert energy(RootstockCalculator(model="emt", root=root, device="cpu")) < 0
    assert (folder / f"rootstock-{os.getuid()}").is_dir()


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import rootstock", set()),
        ("from rootstock.cli.user import main; main(['--help'])", {"click"}),
        ("from rootstock.cli.site import main; main(['--help'])", {"click"}),
    ],
)
def test_what_is_imported_at_once(code: str, allowed: set[str]) -> None:
    """No more is imported than is needed to say what there is, and nothing slow: not ase, not numpy, not filelock."""
    program = f"""
import sys
before = set(sys.modules)
try:
    {code}
except SystemExit as end:
    assert not end.code
new = {{name.partition(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)
slow = {{"asyncio", "http.client", "multiprocessing", "ssl", "unittest", "xml"}} & set(sys.modules)
print(sorted(new), sorted(slow))
"""
    done = run(sys.executable, "-I", "-c", program, check=True)
    assert done.stdout.splitlines()[-1] == f"{sorted({'rootstock'} | allowed)} []"


def test_cold_and_warm_start_share_uvs_environment(personal: Path, make: Make) -> None:
    with make() as first, make() as second:
        assert first.info()["executable"] == second.info()["executable"]
        assert np.isfinite(first.info()["start_s"])


READS = """
import os, sys
read = []

def see(event, arguments):
    if event == "open" and str(arguments[0]).startswith(sys.argv[1]) and str(arguments[0]).endswith(".py"):
        read.append(os.path.basename(arguments[0]))

sys.addaudithook(see)
from rootstock import RootstockCalculator
with RootstockCalculator("emt", root=sys.argv[1], device="cpu") as calc:
    calc.info()
print(*read)
"""


def test_a_start_reads_an_environment_file_once(root: Path) -> None:
    """And that is the copy in the build, which the worker executes."""
    assert run(sys.executable, "-c", READS, root, check=True).stdout.split() == ["environment.py"]
