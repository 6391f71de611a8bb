"""The registry, the shells' activation and the job scripts of a root."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock.config.clusters import Cluster, cluster_from, cluster_names, packaged_scopes, read_scope
from rootstock.config.job_scripts import JOB_KINDS, Nodes, RunJob, render_job, render_run_job
from rootstock.config.render import (
    render_activation,
    render_default,
    render_modulefiles,
    render_registry,
)
from rootstock.config.site import Site
from rootstock.errors import RenderError
from rootstock.root.layout import RootLayout
from tests.support import job_scripts
from tests.support.needs import need_program

ROOT = Path("/opt/rootstock")
CLUSTER = Cluster(
    name="hill",
    origins={},
    description="Hill University, Hill",
    environments=("mace", "chgnet"),
    scheduler="slurm",
    network="none",
    module_system="lmod",
    accelerator="cuda",
    constraints=("torch==2.8.0",),
)
ATTACKS = "$(touch owned) `touch owned` ]==] '; touch owned; ' \"; touch owned; \" {\\ !! $HOME é 日本 #\\"
HOSTILE = replace(CLUSTER, name=ATTACKS, description=ATTACKS, contact=ATTACKS, environments=(ATTACKS, "b"))

REGISTRY = """\
# The cluster that this root serves. Rendered by Rootstock; what you write here is read, and stays.
# To change a setting: rootstock-site install --set KEY=VALUE
default = "hill"

[clusters."hill"]
description = "Hill University, Hill"
root = "/opt/rootstock"
environments = [
    "mace",
    "chgnet",
]
jobs.scheduler = "slurm"
jobs.network = "none"
modules.system = "lmod"
hardware.accelerator = "cuda"
uv.constraints = [
    "torch==2.8.0",
]
"""


def of(cluster=CLUSTER, root=ROOT):
    return Site(RootLayout(Path(root)), cluster)


def read_back(cluster, root, folder):
    path = folder / "clusters.toml"
    path.write_text(render_registry(of(cluster, root)), encoding="utf-8")
    return read_scope(path)


def test_registry():
    assert render_registry(of()) == REGISTRY


def test_registry_reads_back(tmp_path):
    for cluster in (HOSTILE, *(cluster_from(packaged_scopes(), name) for name in cluster_names(packaged_scopes()))):
        scope = read_back(cluster, ROOT / ATTACKS, tmp_path)
        assert scope.default == cluster.name
        assert cluster_from([scope], cluster.name) == replace(cluster, root=str(ROOT / ATTACKS))


printable = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"])).filter(str.isprintable)


@given(name=printable.filter(bool), text=printable, items=st.lists(printable).map(tuple))
def test_any_printable_setting_reads_back(tmp_path_factory, name, text, items):
    table = dict.fromkeys(items, f"-{text}")
    cluster = Cluster(name=name, origins={}, description=text, environments=items, notes=items, gpu_types=table)
    scope = read_back(cluster, ROOT, tmp_path_factory.mktemp("registry"))
    assert cluster_from([scope], name) == replace(cluster, root="/opt/rootstock")


def test_registry_keeps_what_undoes_a_packaged_setting(tmp_path):
    # "open" is the schema's default, but the packaged file of della, which the registry outranks, says "none".
    packaged = packaged_scopes()
    site = tmp_path / "site.toml"
    site.write_text('[clusters.della]\njobs.network = "open"\n')
    cluster = cluster_from([*packaged, read_scope(site)], "della")
    scope = read_back(cluster, ROOT, tmp_path)
    assert cluster_from([*packaged, scope], "della").network == "open"


@pytest.mark.parametrize("root", ["rootstock", "/opt/root:stock"])
def test_a_root_that_cannot_stand_in_path(root):
    with pytest.raises(RenderError, match=f"The root '{root}' cannot stand in PATH."):
        render_registry(of(root=root))


def test_a_root_with_a_line_break():
    with pytest.raises(RenderError, match=re.escape(r"'/opt/a\nb' holds a control character.")):
        render_registry(of(root="/opt/a\nb"))


@pytest.mark.parametrize("version", ["../0.3.0", "0.3.0 ", ""])
def test_a_version_that_is_no_file_name(version):
    with pytest.raises(RenderError, match=f"'{version}' is not one plain word."):
        render_modulefiles(of(), version)
    with pytest.raises(RenderError, match=f"'{version}' is not one plain word."):
        render_activation(of(), version)


def test_files_of_a_version():
    folder = Path("/opt/rootstock/modulefiles/rootstock")
    assert list(render_modulefiles(of(), "0.3.0")) == [folder / "0.3.0.lua", folder / "0.3.0"]
    activation = [Path(f"/opt/rootstock/activate/rootstock-0.3.0.{shell}") for shell in ("sh", "csh", "fish")]
    assert list(render_activation(of(), "0.3.0")) == activation


@pytest.mark.parametrize(
    ("system", "files"),
    [("lmod", [".modulerc.lua"]), ("tcl", [".modulerc"]), ("none", [".modulerc", ".modulerc.lua"])],
)
def test_the_default_is_named_for_the_module_system_of_the_cluster(system, files):
    # Two would do, but Lmod's check of the tree complains of the second.
    texts = render_default(of(replace(CLUSTER, module_system=system)), "0.3.0")
    named = {path.name: text for path, text in texts.items() if path.name.startswith(".modulerc")}
    assert sorted(named) == [".modulerc", ".modulerc.lua"]
    assert sorted(name for name, text in named.items() if text) == files


def test_activation_of_the_default_is_that_of_its_version():
    default = render_default(of(), "0.3.0")
    versioned = render_activation(of(), "0.3.0")
    layout = RootLayout(ROOT)
    for shell in ("sh", "csh", "fish"):
        assert default[layout.activation(shell)] == versioned[layout.activation(shell, "0.3.0")]


SHELLS = {
    "dash": ("dash", "sh", ".", ()),
    "bash": ("bash", "sh", ".", ("-u",)),
    "zsh": ("zsh", "sh", ".", ("-f",)),
    "tcsh": ("tcsh", "csh", "source", ("-f",)),
    "fish": ("fish", "fish", "source", ("--no-config",)),
}


@pytest.fixture(params=list(SHELLS))
def activated(request, bare, tmp_path):
    """Return a function that sources versions' activation, one after another, and says what the shell has then."""
    package, kind, source, flags = SHELLS[request.param]
    shell = need_program(request.param, package)

    def after(root, *versions):
        for number, version in enumerate(versions):
            link = tmp_path / f"activate{number}"
            link.unlink(missing_ok=True)
            link.symlink_to(RootLayout(root).activation(kind, version))
        script = tmp_path / "script"
        lines = [f"{source} ./activate{number}" for number in range(len(versions))]
        script.write_text("\n".join([*lines, "rootstock list", "env -0", ""]))
        done = bare(shell, *flags, script)
        assert (done.returncode, done.stderr) == (0, "")
        said, _, pairs = done.stdout.partition("\n")
        return said, dict(pair.split("=", 1) for pair in pairs.split("\0") if pair)

    return after


def test_activation(activated, install):
    root = install(CLUSTER, "0.3.0")
    said, variables = activated(root, "0.3.0")
    assert said == "rootstock of 0.3.0 list"
    assert {name: text for name, text in variables.items() if name.startswith(("ROOTSTOCK", "PATH"))} == {
        "ROOTSTOCK_ROOT": str(root),
        "ROOTSTOCK_CLUSTER": "hill",
        "ROOTSTOCK_VERSION": "0.3.0",
        "PATH": f"{root}/client/0.3.0/bin:/usr/bin:/bin",
    }


def test_activation_twice_is_activation_once(activated, install):
    root = install(CLUSTER, "0.3.0")
    assert activated(root, "0.3.0", "0.3.0")[1]["PATH"] == f"{root}/client/0.3.0/bin:/usr/bin:/bin"


def test_the_last_activation_wins(activated, install):
    root = install(CLUSTER, "0.3.0", "0.10.0")
    said, variables = activated(root, "0.3.0", "0.10.0", "0.3.0")
    assert (said, variables["ROOTSTOCK_VERSION"]) == ("rootstock of 0.3.0 list", "0.3.0")


def test_activation_of_the_default(activated, install):
    root = install(CLUSTER, "0.10.0", "0.3.0", default="0.3.0")
    assert activated(root, "")[0] == "rootstock of 0.3.0 list"


def test_hostile_activation(activated, install, tmp_path):
    root = install(HOSTILE, "0.3.0", at=tmp_path / ATTACKS.replace("/", ""))
    said, variables = activated(root, "0.3.0", "0.3.0")
    assert said == "rootstock of 0.3.0 list"
    assert (variables["ROOTSTOCK_ROOT"], variables["ROOTSTOCK_CLUSTER"]) == (str(root), ATTACKS)
    assert variables["PATH"] == f"{root}/client/0.3.0/bin:/usr/bin:/bin"
    assert not (tmp_path / "owned").exists()


SINGLE = """\
#!/bin/bash -l
#SBATCH --job-name=rootstock
#SBATCH --output=rootstock-%j.out
#SBATCH --time=01:00:00
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1

# Rendered for Rootstock 0.3.0: a starting point, yours to edit. Options given to the submitting command
# outrank those above.

if ! type module >/dev/null 2>&1; then
    # Whoever submitted this job had no modules, and no login file has run here: find what defines them.
    for folder in "${LMOD_PKG:-}" "${MODULESHOME:-}" /usr/share/lmod/lmod /usr/share/Modules /usr/share/modules; do
        [ -r "$folder/init/bash" ] && . "$folder/init/bash" && break
    done
fi
module use '/opt/rootstock/modulefiles'
module load 'rootstock/0.3.0' || exit 1

# Of numpy in this Python, which has small matrices only. The model's threads are those that the job was given.
export OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
# The scheduler's signals reach Python, and its workers end in time, because it takes this shell's place.
exec python 'run.py'
"""

PBS_ARRAY = """\
#!/bin/bash -l
#PBS -N rootstock
#PBS -S /bin/bash
#PBS -j oe
#PBS -l walltime=02:00:00
#PBS -J 0-3
#PBS -l select=1:ncpus=4:ngpus=1
#PBS -q debug

# Rendered for Rootstock 0.3.0: a starting point, yours to edit. Options given to the submitting command
# outrank those above.

cd "$PBS_O_WORKDIR" || exit 1

. '/opt/rootstock/activate/rootstock-0.3.0.sh' || exit 1

# Of numpy in this Python, which has small matrices only. The model's threads are those that the job was given.
export OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
# The scheduler's signals reach Python, and its workers end in time, because it takes this shell's place.
exec python 'scan.py' "$PBS_ARRAY_INDEX"
"""


def test_a_slurm_job():
    assert render_job(of(), "single", version="0.3.0") == SINGLE


def test_a_slurm_job_of_several_gpus():
    expected = SINGLE.replace("--cpus-per-task=8", "--cpus-per-task=12").replace("gpu:1", "gpu:3")
    assert render_job(of(), "several", version="0.3.0", gpus=3, cpus=4) == expected


def test_a_slurm_array():
    expected = SINGLE.replace("%j.out", "%A_%a.out")
    expected = expected.replace("#SBATCH --nodes", "#SBATCH --array=0-9\n#SBATCH --nodes")
    expected = expected.replace("exec python 'run.py'", "exec python 'run.py' \"$SLURM_ARRAY_TASK_ID\"")
    assert render_job(of(), "array", version="0.3.0") == expected


def test_a_slurm_job_without_gpus():
    expected = SINGLE.replace("#SBATCH --gres=gpu:1\n", "")
    assert render_job(of(replace(CLUSTER, accelerator="cpu")), "single", version="0.3.0") == expected


def test_the_memory_of_a_job_without_gpus_is_that_of_its_processors():
    cluster = replace(CLUSTER, accelerator="cpu", memory_per_gpu="10G", cpus_per_gpu=4, directives=("--mem={memory}",))
    assert "\n#SBATCH --mem=20480M\n" in render_job(of(cluster), "single", version="0.3.0", cpus=5)


def test_a_pbs_array_where_there_are_no_modules():
    cluster = replace(CLUSTER, scheduler="pbs", module_system="none")
    options = {"script": "scan.py", "tasks": 4, "cpus": 4, "walltime": "02:00:00", "options": ["-q debug"]}
    assert render_job(of(cluster), "array", version="0.3.0", **options) == PBS_ARRAY


def test_a_pbs_job_without_gpus():
    cluster = replace(CLUSTER, scheduler="pbs", accelerator="cpu")
    assert "\n#PBS -l select=1:ncpus=8\n" in render_job(of(cluster), "single", version="0.3.0")


def directives(text, mark):
    return [line.removeprefix(mark).strip() for line in text.splitlines() if line.startswith(mark)]


def test_a_cluster_asks_for_resources_in_its_own_way():
    cluster = replace(CLUSTER, directives=("--gpus-per-node=h100:{gpus}", "--cpus-per-task={cpus}", "--mem=%dG"))
    text = render_job(of(cluster), "several", version="0.3.0", gpus=2, options=["--account=m1234", "--qos='a b'"])
    assert directives(text, "#SBATCH") == [
        "--job-name=rootstock",
        "--output=rootstock-%j.out",
        "--time=01:00:00",
        "--gpus-per-node=h100:2",
        "--cpus-per-task=16",
        "--mem=%dG",
        "--account=m1234",
        "--qos='a b'",
    ]


def test_the_directives_of_polaris():
    polaris = cluster_from(packaged_scopes(), "polaris")
    assert directives(render_job(of(polaris), "single", version="0.3.0"), "#PBS") == [
        "-N rootstock",
        "-S /bin/bash",
        "-j oe",
        "-l walltime=01:00:00",
        "-l select=1:system=polaris",
        "-l place=scatter",
        "-l filesystems=home:eagle",
    ]


@pytest.mark.parametrize(
    ("kind", "changes", "options", "message"),
    [
        ("double", {}, {}, r"Unknown kind of job 'double'.\nThere are single, several, array."),
        (
            "single",
            {"scheduler": "none"},
            {},
            r"Cluster 'hill' has no scheduler.\nSet jobs.scheduler to slurm, pbs or flux.",
        ),
        ("array", {}, {"tasks": 1}, r"An array of 1: PBS refuses it.\nUse kind 'single', or at least 2 tasks."),
        ("single", {}, {"options": ["--comment=a\nb"]}, r"'--comment=a\\nb' holds a control character."),
        ("single", {}, {"walltime": "1\n2"}, r"'1\\n2' holds a control character."),
    ],
)
def test_a_job_that_cannot_be(kind, changes, options, message):
    with pytest.raises(RenderError, match=message):
        render_job(of(replace(CLUSTER, **changes)), kind, version="0.3.0", **options)


def start(bare, tmp_path, cluster, root, **options):
    """Run a job script as a scheduler does where nobody has set up modules."""
    script = tmp_path / "job.sh"
    script.write_text(render_job(of(cluster, root), "array", version="0.3.0", **options))
    return bare("bash", script, SLURM_ARRAY_TASK_ID="7")


# Characters that Lmod itself takes in the name of a folder of modulefiles.
ODD = 'it\'s "odd";$(touch${IFS}owned)`touch${IFS}owned`]==]{!#&'.replace(" ", "")


@pytest.mark.usefixtures("lmod")
@pytest.mark.parametrize("folder", ["root", ODD])
@pytest.mark.parametrize("system", ["lmod", "none"])
def test_a_job_runs_the_script_in_the_client(bare, install, tmp_path, folder, system):
    cluster = replace(CLUSTER, module_system=system)
    root = install(cluster, "0.3.0", at=tmp_path / folder)
    done = start(bare, tmp_path, cluster, root, script="my 'script' $(touch owned).py")
    assert (done.stdout, done.stderr) == ("python of 0.3.0 my 'script' $(touch owned).py 7\n", "")
    assert not (tmp_path / "owned").exists()


@pytest.mark.usefixtures("lmod")
@pytest.mark.parametrize("system", ["lmod", "none"])
def test_a_job_ends_when_the_root_is_gone(bare, tmp_path, system):
    done = start(bare, tmp_path, replace(CLUSTER, module_system=system), tmp_path / "gone")
    assert (done.returncode, done.stdout) == (1, "")


def test_job_scripts_of_all_known_clusters_are_those_that_were_looked_at():
    """Whoever changes a template or a cluster sees here what becomes of it: python -m tests.support.job_scripts."""
    kept = {path.stem: path.read_text() for path in job_scripts.FOLDER.glob("*.sh")}
    assert kept == job_scripts.rendered()


@pytest.mark.parametrize("path", sorted(job_scripts.FOLDER.glob("*.sh")), ids=lambda path: path.stem)
def test_job_scripts_of_known_clusters_pass_shellcheck(bare, path):
    # SC2016: what stands between single quotes is for the shell of each node.
    done = bare(need_program("shellcheck", "shellcheck"), "--exclude=SC2016", path)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_template_of_the_sites_own_holds_for_runs_too(tmp_path):
    """As the guide has it: a block more, and the rest is the packaged template's."""
    (tmp_path / "slurm.sh.j2").write_text(
        '{% extends "rootstock/slurm.sh.j2" %}\n{% block directives %}\n{{ super() }}\n#SBATCH --comment=ours\n'
        "{% endblock %}\n{% block rootstock %}\nmodule load ours\n{{ super() }}\n{% endblock %}\n"
    )
    site = replace(of(), template_dirs=(tmp_path,))
    job = RunJob(["rootstock", "run", "continue", "a b"], 3, Nodes(1, 1, 8), 60, (), "rs-1", Path("/logs"))
    text = render_run_job(site, job, version="0.3.0")
    assert "\n#SBATCH --comment=ours\n" in text and "\nmodule load ours\n" in text and "module use" not in text
    assert text.endswith("\nexec rootstock run continue 'a b' --element $((SLURM_ARRAY_TASK_ID + 1))/3\n")
    assert "\nmodule load ours\n" in render_job(site, "single", version="0.3.0")


TWO = ["--nodes=2", "--ntasks=2", "--cpus-per-task=16", "--gres=gpu:2"]


@pytest.mark.parametrize(
    ("directives", "changes", "expected"),
    [
        ((), {}, TWO),
        ((), {"memory_per_gpu": "64G"}, [*TWO, "--mem=131072M"]),
        ((), {"whole_nodes": True}, [*TWO, "--mem=0"]),
        (("-N{nodes}", "--mem={memory}"), {"memory_per_gpu": "1G"}, ["-N2", "--mem=2048M"]),
        (("-N{nodes}", "--mem={memory}"), {}, "jobs.directives holds {memory}, and nobody has said how much"),
        (("-N{hosts}",), {}, "jobs.directives holds {hosts}, which has no meaning there"),
        ((), {"launcher": "mpiexec {ranks}"}, "jobs.batch.launcher holds {ranks}, which has no meaning there"),
    ],
)  # fmt: skip
def test_how_jobs_of_several_nodes_ask_for_them(directives, changes, expected):
    cluster = replace(CLUSTER, directives=directives, **changes)
    job = RunJob(["rootstock"], 2, Nodes(2, 2, 16), 3600, (), "rs-1", Path("/logs"))
    if isinstance(expected, str):
        with pytest.raises(RenderError, match=re.escape(expected)):
            render_run_job(of(cluster), job, version="0.3.0")
        return
    lines = [line.removeprefix("#SBATCH ") for line in render_run_job(of(cluster), job, version="0.3.0").splitlines()]
    assert [line for line in lines if line in expected] == expected
    assert "--signal=TERM@120" in lines and "--no-kill" in lines  # to the processes that srun starts


@pytest.mark.parametrize("kind", JOB_KINDS)
@pytest.mark.parametrize("system", ["lmod", "none"])
@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "flux"])
def test_job_scripts_pass_shellcheck(bare, tmp_path, kind, system, scheduler):
    if (scheduler, kind) == ("flux", "array"):
        with pytest.raises(RenderError, match="Flux has no arrays of jobs"):
            render_job(of(replace(CLUSTER, scheduler=scheduler)), kind, version="0.3.0")
        return
    cluster = replace(CLUSTER, scheduler=scheduler, module_system=system)
    script = tmp_path / "job.sh"
    script.write_text(render_job(of(cluster), kind, version="0.3.0"))
    # SC1090, SC1091: it cannot follow a file that is not there.
    done = bare(need_program("shellcheck", "shellcheck"), "--exclude=SC1090,SC1091", script)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_slurm_must_not_do_to_jobs_of_our_own():
    """A signal two minutes before the end comes at once to a short job; and srun would pass no variable on."""

    def script(seconds, nodes):
        job = RunJob(["rootstock"], 2, Nodes(nodes, 1, 1), seconds, (), "rs-1", Path("/r"))
        return render_run_job(of(CLUSTER), job, version="0.3.0")

    assert "--signal=" not in script(3599, 1) and "\n#SBATCH --signal=B:TERM@120\n" in script(3600, 1)
    assert "unset SLURM_EXPORT_ENV" in script(3600, 2) and "SLURM_EXPORT_ENV" not in script(3600, 1)
