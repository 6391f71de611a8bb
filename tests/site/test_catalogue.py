"""`rootstock list` and `rootstock show`: what a root offers, and how it is used."""

from __future__ import annotations

import json
import os
import platform
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rootstock import __version__
from rootstock.builds.packages import key_packages, main_package
from rootstock.config.environment_file import EnvironmentSource, packaged_names, packaged_source
from rootstock.root.layout import RootLayout
from rootstock.root.records import read_build
from rootstock.root.verification_records import Run, Verification
from tests.support.commands import ROOTSTOCK, SITE, Done, clean_environment, run
from tests.support.environment_files import header
from tests.support.needs import need_program
from tests.support.roots import put_environment
from tests.support.tiny_root import SETUP

Ask = Callable[..., Done]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Run ``rootstock`` as a user without settings would."""

    def call(*command: str | Path, **variables: str) -> Done:
        return run(ROOTSTOCK, *command, env=clean_environment(XDG_CONFIG_HOME=str(tmp_path)) | variables, cwd=tmp_path)

    return call


def test_a_row_for_each_model_for_awk(ask: Ask, mace_root: RootLayout) -> None:
    done = ask("list", "--root", mace_root.root)
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    names = header.split("\t")
    rows = {line.split("\t")[0]: dict(zip(names, line.split("\t"), strict=True)) for line in lines}
    assert names == [
        "MODEL", "VERSION", "PROPERTIES", "ELEMENTS", "NEEDS", "LICENCE", "BUILT FOR", "WEIGHTS", "VERIFIED",
        "FAMILY", "TRAINING SET", "FUNCTIONAL", "LICENCE CLASS",
    ]  # fmt: skip
    assert set(rows) == {*packaged_source("mace").strings(), "tiny"}
    assert rows["mace"] == {
        "MODEL": "mace", "VERSION": "mace-torch 0.3.16", "PROPERTIES": "energy,forces,stress", "ELEMENTS": "89",
        "NEEDS": "-", "LICENCE": "MIT", "BUILT FOR": f"{platform.machine()} cuda", "WEIGHTS": "yes", "VERIFIED": "no",
        "FAMILY": "MACE", "TRAINING SET": "MPtrj + sAlex", "FUNCTIONAL": "PBE+U", "LICENCE CLASS": "open",
    }  # fmt: skip
    assert rows["mace-omol-extra-large"]["NEEDS"] == "charge,spin"
    assert rows["mace-omol-extra-large"]["LICENCE CLASS"] == "academic"
    assert (rows["tiny"]["FAMILY"], rows["tiny"]["TRAINING SET"], rows["tiny"]["LICENCE CLASS"]) == (
        "tiny",
        "-",
        "unknown",
    )
    assert (rows["mace-small"]["WEIGHTS"], rows["mace-small"]["VERIFIED"]) == ("missing", "not run")
    assert rows["mace-large"]["WEIGHTS"] == "unknown"
    assert (rows["tiny"]["VERSION"], rows["tiny"]["ELEMENTS"]) == ("six 1.17.0", "any")


def test_what_the_last_verification_saw(ask: Ask, mace_root: RootLayout) -> None:
    record = read_build(mace_root.active("mace").resolve())
    assert record
    folder = mace_root.verifications("mace", record.digest)
    folder.mkdir(parents=True)
    checked = Run(folder, Verification("mace", record.digest, "cuda", started="2026-11-01T00:00:00+0000"), 0o644)
    for passed in (True, True, False):
        checked.add({"model": "medium", "reference": "NaCl", "passed": passed}, {})
    checked.end()
    rows = dict(line.split("\t")[0:9:8] for line in ask("list", "--root", mace_root.root).stdout.splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d 1 FAILED", rows["mace-medium"])
    assert rows["mace-small"] == "no"


def test_the_same_as_json(ask: Ask, mace_root: RootLayout) -> None:
    data = json.loads(ask("list", "--json", ROOTSTOCK_ROOT=str(mace_root.root)).stdout)
    assert (data["schema"], data["root"], data["problems"]) == (3, str(mace_root.root), {})
    small = next(each for each in data["models"] if each["model"] == "mace-small")
    assert (small["environment"], small["argument"], small["weights"]) == ("mace", "small", "missing")
    assert small["elements"][:2] == ["H", "He"]
    stated = {
        "training_set": "MPtrj", "functional": "PBE+U", "licence_class": "open", "family": "MACE", "gated": "",
        "conservative": True, "aliases": ["mace-mp-0-small", "mace-mp-0a-small"],
        "methods": ["get_hessian", "get_descriptors"],
    }  # fmt: skip
    assert {name: small[name] for name in stated} == stated
    assert small["extra_properties"]["forces_comm"] == "models,N,3"


def on_a_terminal(columns: int, root: Path, *options: str) -> str:
    leader, follower = pty.openpty()
    environment = clean_environment(ROOTSTOCK_ROOT=str(root), COLUMNS=str(columns), TERM="xterm", NO_COLOR="1")
    with subprocess.Popen([ROOTSTOCK, "list", *options], env=environment, stdout=follower) as process:
        os.close(follower)
        shown = b""
        while chunk := _read(leader):
            shown += chunk
        assert process.wait() == 0
    os.close(leader)
    return re.sub(r"\x1b\[\d*m", "", shown.decode())


def test_a_table_on_a_terminal(mace_root: RootLayout) -> None:
    text = on_a_terminal(200, mace_root.root)
    assert "\t" not in text and "No room" not in text
    assert re.search(r"^Model +Training set +Functional +Licence +Weights +Properties +Elements", text)
    assert re.search(r"\nMACE *\r\nmace ", text) and re.search(r"\n *\r\ntiny *\r\ntiny ", text)  # under their families
    assert re.search(
        r"mace-omol-extra-large +OMol25 +wB97M-V +academic +unknown +energy, forces, stress +83 +charge, spin", text
    )


def test_a_table_fits_a_usual_terminal(mace_root: RootLayout) -> None:
    text = on_a_terminal(80, mace_root.root)
    assert re.search(r"^Model +Training set +Functional +Licence +Weights", text)
    assert re.search(r"\nmace-mace-matpes-r2scan-0 +OMat24 \+ +r2SCAN +academic", text)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert " ".join(text.split()).endswith("'rootstock show MODEL' tells everything.")


def test_a_narrow_terminal_shows_whole_models_and_says_what_it_leaves_out(mace_root: RootLayout) -> None:
    text = on_a_terminal(45, mace_root.root)
    assert re.search(r"mace-mace-matpes-r2scan-0 +r2SCAN", text)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 45
    assert re.search(r"No room for: training\s+set, .*weights, properties,.* version,\s+built\s+for", text, re.DOTALL)


def test_empty_columns_are_left_out(tiny_root: Path) -> None:
    text = on_a_terminal(100, tiny_root)
    assert not re.search("Training set|Functional|No room", text)


@pytest.mark.parametrize(
    ("options", "models"),
    [
        ("--element Es", "mace-no"),
        ("--element Md --element H", ""),
        ("--licence academic --functional r2scan", "mace-mace-matpes-r2scan-0 mace-mh-0 mace-mh-1"),
        ("--functional wB97M-V --functional wB97M-D3(BJ) --element Cu --licence academic",
         "mace-mh-0 mace-mh-1 mace-omol-extra-large"),
        ("--functional PBE", "mace-mace-matpes-pbe-0 mace-mh-0 mace-mh-1"),
        ("--family tiny", "tiny"),
        ("--family TINY --family mace --property stress --functional r2SCAN --element Ac",
         "mace-mace-matpes-r2scan-0 mace-mh-0 mace-mh-1"),
        ("--licence unknown", "tiny"),
    ],
)  # fmt: skip
def test_models_that_are_asked_for(ask: Ask, mace_root: RootLayout, options: str, models: str) -> None:
    done = ask("list", "--root", mace_root.root, *options.split())
    assert done.returncode == 0
    listed = [line.split("\t")[0] for line in done.stdout.splitlines()[1:]]
    assert listed == (models.split() if models != "mace-no" else [])
    data = json.loads(ask("list", "--root", mace_root.root, "--json", *options.split()).stdout)
    assert [model["model"] for model in data["models"]] == listed


def test_what_to_leave_out_where_nothing_is_left(ask: Ask, mace_root: RootLayout) -> None:
    options = ("--functional", "r2SCAN", "--licence", "open", "--element", "Fe")
    done = ask("list", "--root", mace_root.root, *options)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert done.stderr.splitlines() == [
        "No built model has --element Fe --licence open --functional r2SCAN.",
        "Without --licence open: mace-mace-matpes-r2scan-0, mace-mh-0, mace-mh-1 (academic)",
        "Without --functional r2SCAN: mace, mace-large, mace-large-0b2 and 8 more (PBE+U)",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--functional PBEsol", "Functional here: PBE, PBE+U, r2SCAN, wB97M-D3(BJ), wB97M-V"),
        ("--family CHGNet --element Fe", "Family here: MACE, tiny"),
        ("--functional PBEsol --property magmoms --element Es",
         "Functional here: PBE, PBE+U, r2SCAN, wB97M-D3(BJ), wB97M-V"),
        ("--property magmoms --element Es --functional PBE",
         "Nearest: mace-mace-matpes-pbe-0, which lacks --element Es (no Es), --property magmoms (no magmoms)"),
    ],
)  # fmt: skip
def test_which_model_is_nearest(ask: Ask, mace_root: RootLayout, options: str, said: str) -> None:
    assert ask("list", "--root", mace_root.root, *options.split()).stderr.splitlines()[-1] == said


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ("--element fe", 2, "'fe' is no symbol of an element. Did you mean Fe?"),
        ("--element iron", 2, "'iron' is no symbol of an element. Write Fe or O."),
        ("--licence opne", 2, "'opne' is not one of open, academic, gated, unknown. Did you mean 'open'?"),
        ("--property stres", 3, "No model has a property 'stres'.\nDid you mean 'stress'"),
        ("--property hessian", 3, "No model has a property 'hessian'.\nProperties: born_effective_charges, charges, "),
    ],
)
def test_words_that_no_model_can_have(ask: Ask, mace_root: RootLayout, options: str, code: int, said: str) -> None:
    done = ask("list", "--root", mace_root.root, *options.split())
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("--functional wB", ["wB97M-D3(BJ)", "wB97M-V"]),
        ("--family M", ["MACE"]),
        ("--property stress_c", ["stress_comm"]),
        ("--licence a", ["academic"]),
        ("--element F", ["F", "Fe", "Fr", "Fm", "Fl"]),
    ],
)
def test_filters_are_completed(ask: Ask, mace_root: RootLayout, words: str, found: list[str]) -> None:
    line = f"rootstock list --root {mace_root.root} {words}"
    shell = {"_ROOTSTOCK_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    assert ask(**shell).stdout.splitlines() == [f"plain,{value}" for value in found]


def test_what_is_not_built(ask: Ask, tiny_root: Path, bare_root: Path) -> None:
    (tiny_root / "environments/chgnet.py").write_text(packaged_source("chgnet").text)
    assert [line.split("\t")[0] for line in ask("list", "--root", tiny_root).stdout.splitlines()] == ["MODEL", "tiny"]
    listed = ask("list", "--root", tiny_root, "--all").stdout.splitlines()[1:]
    assert [line.split("\t")[0] for line in listed] == [*packaged_source("chgnet").strings(), "tiny"]
    assert [line.split("\t")[6] for line in listed][:4] == ["-"] * 4
    done = ask("list", "--root", tiny_root, "--property", "magmoms")
    assert done.stderr.splitlines() == [
        "No built model has --property magmoms.",
        "Not built here: chgnet, chgnet-0.3.0, chgnet-0.2.0 and 1 more. "
        "An administrator builds them: rootstock-site install --env NAME",
    ]
    (bare_root / "environments/chgnet.py").write_text(packaged_source("chgnet").text)
    done = ask("list", "--root", bare_root)
    assert done.stderr == (
        f"{bare_root} has no build yet: rootstock-site install makes them. --all lists what can be built.\n"
    )


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux says so when the other end is closed
        return b""


def test_one_environment_that_cannot_be_read_hides_no_other(ask: Ask, tiny_root: Path) -> None:
    (tiny_root / "environments/broken.py").write_text("no header\n")
    (tiny_root / "environments/later.py").write_text((tiny_root / "environments/tiny.py").read_text())
    done = ask("list", "--root", tiny_root, "--all")
    assert done.returncode == 0
    assert [line.split("\t")[0:9:6] for line in done.stdout.splitlines()[1:]] == [
        ["later", "-"],
        ["tiny", f"{platform.machine()} cpu"],
    ]
    assert f"broken is not listed: {tiny_root}/environments/broken.py has 0 headers" in done.stderr
    status = run(SITE, "status", "--root", tiny_root)
    assert status.returncode == 10
    assert f"\nenvironments/broken.py: {tiny_root}/environments/broken.py has 0 headers" in status.stdout
    assert "\nenvironment tiny: build " in status.stdout


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[]", "it must be an object, not []."),
        ('{"name": "later"}', "it has no 'digest'."),
        ("{", "Expecting property"),
    ],
)
def test_a_damaged_build_hides_no_other(ask: Ask, tiny_root: Path, tmp_path: Path, text: str, fault: str) -> None:
    layout = RootLayout(tiny_root)
    record = read_build(layout.active("tiny").resolve())
    assert record
    file = tmp_path / "later.py"
    file.write_text((tiny_root / "environments/tiny.py").read_text())
    put_environment(layout, file, record)
    damaged = layout.active("later").resolve() / "build.json"
    damaged.write_text(text)
    said = f"Cannot read {damaged}: {fault}"
    remedy = f"An admin runs: rootstock-site repair --root {tiny_root} --env later"
    listed = ask("list", "--root", tiny_root)
    assert listed.returncode == 0
    assert [line.split("\t")[0] for line in listed.stdout.splitlines()[1:]] == ["tiny"]
    assert f"later is not listed: {said}" in listed.stderr and remedy in listed.stderr
    assert ask("show", "tiny", "--root", tiny_root).returncode == 0
    shown = ask("show", "later", "--root", tiny_root)
    assert (shown.returncode, shown.stderr.count("\n")) == (10, 2)
    assert shown.stderr.startswith(f"Error: {said}") and remedy in shown.stderr
    status = run(SITE, "status", "--root", tiny_root)
    assert status.returncode == 10
    assert f"\nenvironment tiny: build {record.digest}" in status.stdout
    assert f"\nlater: {said}" in status.stdout and remedy in status.stdout
    told = json.loads(run(SITE, "status", "--root", tiny_root, "--json").stdout)
    assert ([each["name"] for each in told["environments"]], list(told["problems"])) == (["tiny"], ["later"])
    doctor = ask("doctor", "--root", tiny_root, "--json", "--wait", "60")
    found = json.loads(doctor.stdout)["findings"]
    (told,) = [each for each in found if each["check"] == "builds" and each["result"] == "warning"]
    assert told["reason"].startswith(said) and told["remedy"] == remedy
    for check in ("builds", "files"):
        (well,) = [each["reason"] for each in found if (each["check"], each["result"]) == (check, "ok")]
        assert well.startswith("tiny")


def test_packages_are_found_however_they_are_spelt(mace_root: RootLayout) -> None:
    record = read_build(mace_root.active("mace").resolve())
    assert record
    record = replace(record, packages={"mace_torch": "0.3.16", "ruamel.yaml": "0.18", "ASE": "3.29.0", "numpy": "2.4"})
    wanted = ["MACE_Torch[cuda] >=0.3; python_version > '3'", "what is this?", "Ruamel-YAML@https://here/r.whl", "Ase"]
    source = EnvironmentSource("mace", mace_root.environment_file("mace"), "", {"dependencies": wanted})
    assert main_package(source, record) == ("mace-torch", "0.3.16")
    assert key_packages(source, record) == {
        "mace-torch": "0.3.16", "ruamel-yaml": "0.18", "ase": "3.29.0", "numpy": "2.4",
    }  # fmt: skip
    assert main_package(replace(source, header={}), None) == ("", "")


@pytest.mark.parametrize(
    ("dependencies", "package", "found"),
    [
        (["ase>=3.23", "numpy", "torch>=2", "MACE_torch>=0.3"], "", ("mace-torch", "0.3.16")),
        (["torch>=2", "ase"], "", ("torch", "2.13.0")),  # nothing else is there
        (["ase", "mace-torch"], "e3nn", ("e3nn", "0.4.4")),  # which the file names
    ],
)
def test_the_package_of_a_model_is_no_tool_of_all(
    mace_root: RootLayout, dependencies: list[str], package: str, found: tuple[str, str]
) -> None:
    record = read_build(mace_root.active("mace").resolve())
    assert record
    table = {"tool": {"rootstock": {"package": package} if package else {}}, "dependencies": dependencies}
    source = EnvironmentSource("mace", mace_root.environment_file("mace"), "", table)
    assert main_package(source, record) == found
    assert next(iter(key_packages(source, record).items())) == found


def test_the_version_in_the_list(ask: Ask, mace_root: RootLayout, tmp_path: Path) -> None:
    record = read_build(mace_root.active("mace").resolve())
    assert record
    for name, line in (("first", ""), ("named", 'package = "e3nn"')):
        (tmp_path / f"{name}.py").write_text(
            header("[tool.rootstock]", line, dependencies=("ase>=3.23", "torch>=2", "mace-torch>=0.3")) + SETUP
        )
        put_environment(mace_root, tmp_path / f"{name}.py", record)
    rows = dict(line.split("\t")[:2] for line in ask("list", "--root", mace_root.root).stdout.splitlines())
    assert (rows["first"], rows["named"]) == ("mace-torch 0.3.16", "e3nn 0.4.4")


def test_a_hundred_environments(tiny_root: Path, tmp_path: Path) -> None:
    layout = RootLayout(tiny_root)
    record = read_build(layout.active("tiny").resolve())
    assert record
    for number in range(100):
        file = tmp_path / f"m{number}.py"
        file.write_text(packaged_source("mace").text)
        put_environment(layout, file, record)
    command = (sys.executable, "-X", "importtime", ROOTSTOCK, "list", "--root", tiny_root)
    strace = (need_program("strace", "strace"), "-f", "-e", "trace=openat", "-o", tmp_path / "trace")
    traced = run(*strace, *command, check=True)
    assert len(traced.stdout.splitlines()) > 2000
    for slow in ("ase", "numpy", "jinja2", "rich", "tomli_w"):
        assert not re.search(rf"\| +{slow}$", traced.stderr, re.MULTILINE), f"{slow} was imported"
    opened = re.findall(rf'"{tiny_root}/([^"]*)"', (tmp_path / "trace").read_text())
    assert not [path for path in opened if re.match(r"(environments|builds)/.*\.py$", path)]
    assert len(opened) < 101 * 6  # build.json, and the folders of weights and verifications
    before = os.times()
    run(ROOTSTOCK, "list", "--root", tiny_root, check=True)
    after = os.times()
    took = after.children_user + after.children_system - before.children_user - before.children_system
    assert took < 5  # 0.3 s of a processor that has nothing else to do


def test_everything_about_a_model(ask: Ask, mace_root: RootLayout) -> None:
    shown = ask("show", "mace", "--root", mace_root.root).stdout
    assert shown.startswith("mace: medium-mpa-0\n  MACE: higher-order equivariant message passing.")
    for line in (
        "elements    H-Bi Ac-Pu",
        "trained on  MPtrj + sAlex\nfunctional  PBE+U\n",
        "licence     open; code: MIT; weights: MIT",
        "weights     yes",
        "verified    no",
        ", ase 3.29.0, torch 2.13.0, numpy 2.4.6",
        "cite        Batatia et al., MACE: Higher Order",
        "           Batatia et al., A foundation model for atomistic materials chemistry, The Journal of Chemical",
    ):
        assert line in shown
    assert "  not run   NaCl: no weights" in ask("show", "mace-small", "--root", mace_root.root).stdout
    assert re.search(r" {12}cache/xdg/mace/medium-mpa-0 \(0 MB, sha256 [0-9a-f]{64}\)\n", shown)
    data = json.loads(ask("show", "mace-mh-1", "--json", "--root", mace_root.root).stdout)
    assert (data["schema"], data["model"], data["needs"]) == (3, "mace-mh-1", ["head"])
    assert [work["year"] for work in data["citation"]] == [2022, 2025]
    assert 'device="cpu", setup_kwargs={"head": "NAME"})' in data["usage"]["script"]
    charged = json.loads(ask("show", "mace-omol-extra-large", "--json", "--root", mace_root.root).stdout)
    assert 'atoms.info["charge"] = 0\natoms.info["spin"] = 1\n' in charged["usage"]["script"]


def test_the_checks_of_one_model_alone(ask: Ask, root: Path) -> None:
    card = json.loads(ask("show", "lj-argon", "--root", root, "--json").stdout)
    checks = card["verification"]["checks"]
    assert {check["model"] for check in checks} == {"argon"}
    assert len(checks) == card["verified"]["passed"] + card["verified"]["missed"] > 3
    shown = ask("show", "lj-argon", "--root", root).stdout
    assert "argon, fcc" in shown and "dimer" not in shown
    assert "dimer" in ask("show", "lj", "--root", root).stdout


def test_a_root_in_a_folder_with_a_space_and_without_a_client(ask: Ask, tiny_root: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_root, tmp_path / "a root", symlinks=True)
    usage = json.loads(ask("show", "tiny", "--root", tmp_path / "a root", "--json").stdout)["usage"]
    done = run("sh", "-euc", f"{usage['shell'].splitlines()[0]}; printenv ROOTSTOCK_ROOT", check=True)
    assert done.stdout == f"{tmp_path}/a root\n"  # nothing is loaded that is not there
    (tmp_path / "a root/client" / __version__ / "bin").mkdir(parents=True)
    usage = json.loads(ask("show", "tiny", "--root", tmp_path / "a root", "--json").stdout)["usage"]
    assert usage["shell"].splitlines()[0] == f". '{tmp_path}/a root/activate/rootstock.sh'"
    with (tmp_path / "a root/clusters.toml").open("a") as registry:
        registry.write('modules.system = "lmod"\n')
    usage = json.loads(ask("show", "tiny", "--root", tmp_path / "a root", "--json").stdout)["usage"]
    assert usage["shell"].splitlines()[0] == f"module use '{tmp_path}/a root/modulefiles'"


@pytest.mark.parametrize("model", ["lj-argon", "lj", "emt"])
def test_the_example_is_of_the_models_elements(ask: Ask, root: Path, tmp_path: Path, model: str) -> None:
    usage = json.loads(ask("show", model, "--root", root, "--json").stdout)["usage"]
    assert f'bulk("{"Cu" if model == "emt" else "Ar"}", cubic=True)' in usage["script"]
    (tmp_path / "run.py").write_text(usage["script"])
    run(sys.executable, tmp_path / "run.py", check=True, env=clean_environment(ROOTSTOCK_ROOT=str(root)))


@pytest.mark.parametrize(
    ("lines", "atoms"),
    [
        ('elements = ["Mg", "O"]', 'bulk("Mg")'),
        ('elements = ["H", "C"]', 'molecule("CH4")'),
        ('elements = ["Cu", "H", "O"]\nneeds = ["charge"]', 'molecule("H2O")'),
        ('elements = ["He"]', 'Atoms("He2", positions=[(0, 0, 0), (0, 0, 2)])'),
        ("", 'bulk("Cu", cubic=True)'),  # nobody knows
        (
            'references = [{ name = "gold", source = "none", symbols = "AuNa3", positions = [] }]',
            'bulk("Au", cubic=True)',
        ),
    ],
)
def test_the_example_of_any_model(ask: Ask, tiny_root: Path, tmp_path: Path, lines: str, atoms: str) -> None:
    (tmp_path / "mine.py").write_text(header("[tool.rootstock]", lines, dependencies=("six",)) + SETUP)
    record = read_build(RootLayout(tiny_root).active("tiny").resolve())
    assert record
    put_environment(RootLayout(tiny_root), tmp_path / "mine.py", record)
    usage = json.loads(ask("show", "mine", "--root", tiny_root, "--json").stdout)["usage"]
    assert f"\natoms = {atoms}\n" in usage["script"]
    made = usage["script"].partition("with ")[0]
    run(sys.executable, "-c", made, check=True)


def test_what_is_shown_can_be_copied(ask: Ask, root: Path, tmp_path: Path) -> None:
    usage = json.loads(ask("show", "emt", "--root", root, "--json").stdout)["usage"]
    (tmp_path / "run.py").write_text(usage["script"])
    done = run("bash", "-euc", usage["shell"], cwd=tmp_path, check=True)
    assert done.stdout.startswith("-0.0227260454343")


@pytest.mark.parametrize(("scheduler", "submit"), [("slurm", "sbatch job.sh"), ("pbs", "qsub job.sh")])
def test_the_job_script_of_this_cluster(ask: Ask, root: Path, tmp_path: Path, scheduler: str, submit: str) -> None:
    settings = tmp_path / "rootstock/clusters.toml"
    settings.parent.mkdir()
    settings.write_text(
        f'[clusters.local.jobs]\nscheduler = "{scheduler}"\n[clusters.local.modules]\nsystem = "lmod"\n'
    )
    usage = json.loads(ask("show", "emt", "--root", root, "--json").stdout)["usage"]
    assert usage["shell"].splitlines()[0] == f"module use {root}/modulefiles"
    assert usage["shell"].endswith(submit)
    assert "module load 'rootstock/" in usage["job"] and usage["job"].endswith("exec python 'run.py'")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mace-mediun", "Environment 'mace' has no model 'mediun'. It has: medium-mpa-0, large, "),
        ("mace-mediun", "Did you mean 'mace-medium'"),
        (
            "mcae-medium",
            "Environment 'mcae-medium' not found in ROOT/environments. Available there: mace, tiny. Did you",
        ),
        ("tin", "Did you mean 'tiny'?"),
        (
            "zzz",
            f"Available there: mace, tiny.\nAn admin adds one of {', '.join(sorted([*packaged_names(), 'tiny']))} with",
        ),
        ("chgnet-r2scan", "tiny.\nAn admin adds it with: rootstock-site install --root ROOT --env chgnet\n"),
        ("chngt-r2scan", "mace, tiny. Did you mean 'chgnet-r2scan' (not installed here)?\n"),
    ],
)
def test_a_misspelt_model(ask: Ask, mace_root: RootLayout, model: str, message: str) -> None:
    done = ask("show", model, "--root", mace_root.root)
    assert done.returncode == (3 if model == "mace-mediun" else 4)
    assert message.replace("ROOT", str(mace_root.root)) in done.stderr
