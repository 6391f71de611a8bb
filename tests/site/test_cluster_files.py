"""The cluster files that come with Rootstock."""

from __future__ import annotations

import json
import shutil
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from rootstock.config.cluster_settings import parse_setting
from rootstock.config.clusters import (
    CLUSTER_REGISTRY,
    Scope,
    cluster_from,
    cluster_names,
    get_root_for_cluster,
    packaged_scopes,
)
from rootstock.config.job_scripts import Nodes, RunJob, render_run_job, site_options
from rootstock.config.packaged import PACKAGE, data_folder
from rootstock.config.setting_values import value_text
from rootstock.config.site import Site
from rootstock.errors import ConfigurationError
from rootstock.root.layout import RootLayout
from tests.support.commands import ROOTSTOCK, run

NAMES = cluster_names(packaged_scopes())


def packaged(name):
    return cluster_from(packaged_scopes(), name)


@pytest.fixture(autouse=True)
def _nobodys_settings(monkeypatch, tmp_path):
    """Keep the registries of whoever runs the tests out of them."""
    monkeypatch.delenv("ROOTSTOCK_ROOT", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_the_known_clusters():
    assert NAMES == ["alps", "della", "frontier", "local", "modal", "perlmutter", "polaris", "rorqual"]


def test_the_roots_of_the_contract():
    assert dict(CLUSTER_REGISTRY) == {
        "della": "/scratch/gpfs/SHARED/rootstock",
        "local": str(Path("~/.local/share/rootstock").expanduser()),
        "modal": "/vol/rootstock",
    }


@pytest.mark.parametrize("name", [name for name in NAMES if not packaged(name).root])
def test_a_root_that_no_public_source_confirms_is_asked_for(name):
    unknown = f"Cluster {name!r} is a template: only its site knows where the root is.\nGive its path: root="
    with pytest.raises(ConfigurationError, match=unknown):
        get_root_for_cluster(name)
    assert packaged(name).notes[0].startswith("Confirm the root and give it by --root: ")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("alps", ("slurm", "proxy", "cuda", "aarch64")),
        ("della", ("slurm", "none", "cuda", "x86_64")),
        ("frontier", ("slurm", "proxy", "rocm", "x86_64")),
        ("local", ("none", "open", "cpu", "x86_64")),
        ("modal", ("none", "open", "cuda", "x86_64")),
        ("perlmutter", ("slurm", "none", "cuda", "x86_64")),
        ("polaris", ("pbs", "proxy", "cuda", "x86_64")),
        ("rorqual", ("slurm", "none", "cuda", "x86_64")),
    ],
)
def test_what_kind_of_machine_each_is(name, settings):
    cluster = packaged(name)
    assert (cluster.scheduler, cluster.network, cluster.accelerator, cluster.architecture) == settings


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_complete(name):
    cluster = packaged(name)
    assert cluster.description
    assert cluster.environments
    assert bool(cluster.proxy) == (cluster.network == "proxy")
    assert cluster.url or name == "local"
    # What says where it comes from, for the next who reads the file.
    assert (data_folder("site_templates") / "clusters" / f"{name}.toml").read_text().startswith("# ")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("daint-ln002", "alps"),
        ("clariden.alps.cscs.ch", "alps"),
        ("della9.princeton.edu", "della"),
        ("della-l01g1", "della"),
        ("login1.frontier.olcf.ornl.gov", "frontier"),
        ("frontier00042", "frontier"),
        ("nid001321.chn.perlmutter.nersc.gov", "perlmutter"),
        ("polaris-login-02", "polaris"),
        ("x3005c0s13b0n0.hsn.cm.polaris.alcf.anl.gov", "polaris"),
        ("rorqual.alliancecan.ca", "rorqual"),
        # Names that several sites use, or nobody in particular, belong to none.
        ("login01", None),
        ("nid001321", None),
        ("localhost", None),
        ("frontier.example.org", None),
    ],
)
def test_hosts_belong_to_one_cluster(host, name):
    found = [known for known in NAMES if any(fnmatchcase(host, pattern) for pattern in packaged(known).hosts)]
    assert found == ([name] if name else [])


def test_a_new_cluster_is_a_new_file(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "rootstock", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(data_folder("site_templates"), tmp_path / "site_templates")
    (tmp_path / "site_templates/clusters/hill.toml").write_text('root = "/hill/rootstock"\n')
    code = "import rootstock; print(rootstock.get_root_for_cluster('hill'))"
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("/hill/rootstock\n", "")


def test_a_cluster_whose_root_is_unknown_is_called_a_template():
    listed = {line.split()[0]: line for line in run(ROOTSTOCK, "cluster", "list", check=True).stdout.splitlines()}
    templates = {name for name, line in listed.items() if "(template: give --root)" in line}
    assert templates == {"alps", "della", "frontier", "perlmutter", "polaris", "rorqual"}
    assert json.loads(run(ROOTSTOCK, "cluster", "show", "della", "--json", check=True).stdout)["template"] is True
    said = "A template: only its site knows where the root is. Install with --root /path/to/rootstock."
    assert said in run(ROOTSTOCK, "cluster", "show", "frontier", check=True).stdout.splitlines()
    assert said not in run(ROOTSTOCK, "cluster", "show", "local", check=True).stdout.splitlines()


def test_machines_that_give_whole_nodes():
    whole = {name: packaged(name).gpus_per_node for name in NAMES if packaged(name).whole_nodes}
    assert whole == {"alps": 4, "frontier": 8, "perlmutter": 4, "polaris": 4}
    shown = run(ROOTSTOCK, "cluster", "show", "frontier", check=True).stdout
    assert "\njobs.batch.whole-nodes = true\njobs.batch.gpus-per-node = 8\n" in shown


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        ("alps", {1: 24, 100: 24}),
        ("della", {1: 144}),
        ("frontier", {1: 2, 91: 2, 92: 6, 183: 6, 184: 12}),
        ("local", {1: None}),
        ("perlmutter", {1: 48, 128: 48}),
        # Fewer than ten nodes are for other queues, each with its own limit.
        ("polaris", {1: None, 9: None, 10: 3, 24: 3, 25: 6, 99: 6, 100: 24}),
        ("rorqual", {1: 168}),
    ],
)
def test_how_long_jobs_may_take(name, hours):
    cluster = packaged(name)
    assert {nodes: cluster.longest(nodes) for nodes in hours} == {
        nodes: most and most * 3600 for nodes, most in hours.items()
    }


@pytest.mark.parametrize("name", [name for name in NAMES if packaged(name).scheduler != "none"])
@pytest.mark.parametrize("number", [1, 12])
def test_run_folders_are_computed_on_the_known_clusters(name, number):
    cluster = packaged(name)
    gpus = cluster.gpus_per_node or 1
    nodes = Nodes(number, gpus, gpus * cluster.cpus_per_gpu)
    job = RunJob(["rootstock", "run"], 12, nodes, 3600, site_options(cluster), "twelve", Path("/logs"))
    site = Site(RootLayout(Path("/hill/rootstock")), cluster)
    lines = render_run_job(site, job, version="0.3.0").splitlines()
    said = {line.split(" ", 1)[1] for line in lines if line.startswith(("#SBATCH ", "#PBS "))}
    expected = {
        "alps": {f"--nodes={number}", "--gpus-per-node=4", "--cpus-per-task=288", "--mem=450G"},
        "della": {f"--nodes={number}", "--gres=gpu:1", "--cpus-per-task=8"},
        "frontier": {f"--nodes={number}", "--gpus-per-node=8"},
        "perlmutter": {f"--nodes={number}", "--gpus-per-node=4", "--cpus-per-task=128", "--qos=regular"},
        "polaris": {f"-l select={number}:system=polaris", "-l place=scatter", "-l filesystems=home:eagle"},
        "rorqual": {f"--nodes={number}", "--gpus-per-node=h100:4", "--cpus-per-task=64", "--mem=507904M"},
    }[name]
    assert expected <= said
    if number > 1:
        launcher = {"polaris": "mpiexec -n 12 --ppn 1 --depth=64 --cpu-bind depth"}.get(name, "srun --nodes=12 ")
        assert any(line.startswith(f"exec {launcher}") for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_types_of_gpus_are_options_of_the_scheduler(name):
    types = packaged(name).gpu_types
    assert set(types) == ({"a100-40", "a100-80"} if name in ("della", "perlmutter") else set())
    assert all(option.startswith("--constraint=") for option in types.values())


@pytest.mark.parametrize(
    ("text", "value"),
    [("gpus-per-node=8", 8), ("gpus-per-node= 0", 0), ("whole-nodes=true", True), ("whole-nodes=No", False)],
)
def test_numbers_and_yes_or_no_on_the_command_line(text, value):
    key, read = parse_setting(f"jobs.batch.{text}")
    assert (read, type(read)) == (value, type(value))
    assert cluster_from([Scope("argument", {"hill": {key: read}})], "hill").settings()[key] is value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("walltime-max=24:00:00", {"1": "24:00:00"}),
        ('walltime-max={1 = "02:00:00", 92 = "6h"}', {"1": "02:00:00", "92": "6h"}),
        ('gpu-types={"a b" = "--constraint=\\"x\\""}', {"a b": '--constraint="x"'}),
        ("gpu-types={}", {}),
    ],
)
def test_tables_on_the_command_line_and_back(text, value):
    key, read = parse_setting(f"jobs.batch.{text}")
    cluster = cluster_from([Scope("argument", {"hill": {key: read}})], "hill")
    assert cluster.settings()[key] == value
    assert parse_setting(f"{key}={value_text(cluster.settings()[key])}") == (key, value)


def test_a_table_of_a_higher_scope_takes_the_place_of_the_other():
    low = {"jobs": {"batch": {"walltime-max": {"1": "2h", "10": "1h"}, "gpu-types": {"a": "--a"}}}}
    high = {"jobs": {"batch": {"walltime-max": "3h"}}}
    cluster = cluster_from([Scope("low", {"hill": low}), Scope("high", {"hill": high})], "hill")
    assert cluster.walltime_max == {"1": "3h"} and cluster.gpu_types == {"a": "--a"}
    assert cluster.origins["jobs.batch.walltime-max"] == "high"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("gpus-per-node", "four", "must be a whole number, not 'four'"),
        ("gpus-per-node", -1, "must be a whole number, not -1"),
        ("gpus-per-node", 4.0, "must be a whole number, not 4.0"),
        ("gpus-per-node", True, "must be a whole number, not True"),
        ("gpus-per-node", "4" * 5000, "must be a whole number"),
        ("whole-nodes", 1, "must be true or false, not 1"),
        ("whole-nodes", "maybe", "must be true or false, not 'maybe'"),
        ("walltime-max", ["24:00:00"], "must be a table of strings"),
        ("walltime-max", {"1": 24}, "must be a table of strings"),
        ("walltime-max", {"1": "24:00"}, "'24:00' is no walltime"),
        ("walltime-max", {"few": "24:00:00"}, "'few' is no number of nodes"),
        ("walltime", "00:00:00", "'00:00:00' is no time at all"),
        ("walltime", "", "'' is no walltime"),
        ("memory-per-gpu", "64", "'64' is no amount of memory"),
        ("gpu-types", {"a": "b\nc"}, "holds a control character"),
        ("gpu-types", {"a": {"b": "c"}}, "must be a table of strings"),
        ("gpu-types", "a100", "'a100' is no option of a scheduler"),
        ("options", ["--exclusive", "qos=regular"], "'qos=regular' is no option of a scheduler"),
        ("cpus-per-gpu", 0, "0 is too few"),
        ("mps", "always", "is 'always'; allowed are none, node"),
    ],
)
def test_what_is_no_number_or_no_answer(key, value, message):
    if isinstance(value, str):
        _, value = parse_setting(f"jobs.batch.{key}={value}")
    table = {"jobs": {"batch": {key: value}}}
    with pytest.raises(ConfigurationError, match=f"^file, cluster hill: jobs.batch.{key}:? {message}"):
        cluster_from([Scope("file", {"hill": table})], "hill")
