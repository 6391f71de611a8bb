"""Rendered modulefiles in the real Lmod and the real Environment Modules."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import rootstock
from rootstock.config.clusters import Cluster
from rootstock.config.packaged import data_folder
from rootstock.config.render import committed_renderings
from rootstock.root.layout import RootLayout
from tests.support.needs import need_program

CLUSTER = Cluster(
    name="hill", origins={}, description="Hill University, Hill", contact="help@hill.example", environments=("mace",)
)

# Each would leave a file behind if anything took it for code.
ATTACKS = (
    "$(touch owned) `touch owned` [exec touch owned] ]==] ]] os.execute('touch owned') --[[ ;touch owned; "
    "\" } touch owned {\\ ' %d %s $HOME ${HOME} {{ cluster }} é 日本 #! \\"
)
HOSTILE = replace(CLUSTER, name=ATTACKS, description=ATTACKS, contact=ATTACKS, url=ATTACKS, environments=(ATTACKS,))


def tree(root):
    return RootLayout(root).modulepath


def test_load_sets_the_variables_and_puts_the_client_on_path(modules, install):
    root = install(CLUSTER, "0.3.0")
    before = modules.environment(tree(root), "true")
    after = modules.environment(tree(root), "module load rootstock")
    assert after == before | {
        "ROOTSTOCK_ROOT": str(root),
        "ROOTSTOCK_CLUSTER": "hill",
        "ROOTSTOCK_VERSION": "0.3.0",
        "PATH": f"{root}/client/0.3.0/bin:/usr/bin:/bin",
    }
    assert modules.shell(tree(root), "module load rootstock && rootstock list").stdout == "rootstock of 0.3.0 list\n"


@pytest.mark.parametrize(
    ("environments", "example"), [(("emt", "mine"), "mine"), (("lj", "emt"), "lj"), (("emt", "mace"), "mace"), ((), "")]
)
def test_the_example_of_the_help_is_there(modules, install, environments, example):
    """The first environment of the root that is no toy."""
    root = install(replace(CLUSTER, environments=environments), "0.3.0")
    done = modules.shell(tree(root), "module help rootstock")
    assert re.findall(r'model="(.*?)"', done.stdout + done.stderr) == ([example] if example else [])


@pytest.mark.parametrize("more", ["", "module load rootstock; "], ids=["once", "twice"])
def test_unload_restores_the_environment(modules, install, more):
    root = install(CLUSTER, "0.3.0")
    before = modules.environment(tree(root), "true", OTHER='it\'s "mine" $HOME')
    script = f"module load rootstock; {more}[ -n $ROOTSTOCK_ROOT ] && module unload rootstock"
    assert modules.environment(tree(root), script, OTHER='it\'s "mine" $HOME') == before


def test_the_default_is_what_was_rendered_last_not_the_highest(modules, install):
    root = install(CLUSTER, "0.3.0", "0.10.0", default="0.3.0")
    version = 'module load rootstock && printf %s "$ROOTSTOCK_VERSION"'
    assert modules.shell(tree(root), version).stdout == "0.3.0"
    install(CLUSTER, "0.3.0", default="0.10.0")
    assert modules.shell(tree(root), version).stdout == "0.10.0"
    install(CLUSTER, "0.10.0", default="0.3.0")
    assert modules.shell(tree(root), version).stdout == "0.3.0"


def test_a_named_version_wins_over_the_default(modules, install):
    root = install(CLUSTER, "0.3.0", "0.10.0", default="0.3.0")
    assert modules.shell(tree(root), "module load rootstock/0.10.0 && rootstock").stdout == "rootstock of 0.10.0\n"


def test_switching_versions_leaves_nothing_of_the_first(modules, install):
    root = install(CLUSTER, "0.3.0", "0.10.0")
    direct = modules.environment(tree(root), "module load rootstock/0.10.0")
    switched = modules.environment(tree(root), "module load rootstock/0.3.0; module switch rootstock/0.10.0")
    assert switched == direct


def test_lmod_swaps_versions_by_itself(lmod, install):
    root = install(CLUSTER, "0.3.0", "0.10.0")
    direct = lmod.environment(tree(root), "module load rootstock/0.10.0")
    assert lmod.environment(tree(root), "module load rootstock/0.3.0; module load rootstock/0.10.0") == direct


def test_lmod_swaps_another_member_of_the_family(lmod, install):
    root = install(CLUSTER, "0.3.0")
    other = tree(root) / "rootstock-testing"
    other.mkdir()
    (other / "1.lua").write_text('family("rootstock")\nsetenv("OTHER", "1")\n')
    script = "module load rootstock; module load rootstock-testing"
    assert lmod.environment(tree(root), script) == lmod.environment(tree(root), "module load rootstock-testing")


def test_environment_modules_refuses_a_second_version(tmod, install):
    root = install(CLUSTER, "0.3.0", "0.10.0")
    done = tmod.shell(tree(root), "module load rootstock/0.3.0; module load rootstock/0.10.0 || rootstock")
    assert "ERROR: Module cannot be loaded due to a conflict." in done.stderr
    assert done.stdout == "rootstock of 0.3.0\n"


def test_dependencies_come_and_go_with_it(modules, install):
    root = install(replace(CLUSTER, module_depends=("python/3.11",)), "0.3.0")
    python = tree(root) / "python"
    python.mkdir()
    (python / "3.11.lua").write_text('setenv("SITE_PYTHON", "yes")\n')
    (python / "3.11").write_text("#%Module\nsetenv SITE_PYTHON yes\n")
    before = modules.environment(tree(root), "true")
    assert modules.environment(tree(root), "module load rootstock")["SITE_PYTHON"] == "yes"
    assert modules.environment(tree(root), "module load rootstock; module unload rootstock") == before


def test_a_missing_dependency_fails_the_load(modules, install):
    root = install(replace(CLUSTER, module_depends=("python/3.11",)), "0.3.0")
    done = modules.shell(tree(root), 'module load rootstock || printf %s "failed${ROOTSTOCK_ROOT-}"')
    assert done.stdout == "failed"
    assert "python/3.11" in done.stderr


HELP = """\
Rootstock 0.3.0: machine-learned interatomic potentials, each in its own environment.

    module load rootstock/0.3.0
    python
    >>> from rootstock import RootstockCalculator; calc = RootstockCalculator(model="mace")

`rootstock list` shows the installed models, `rootstock why-not MODEL` what keeps one from running here.
"""


def test_help_says_how_to_use_it_and_whom_to_ask(modules, install):
    root = install(CLUSTER, "0.3.0")
    done = modules.shell(tree(root), "module help rootstock 2>&1")
    assert done.returncode == 0
    assert f"{HELP}Installed for: Hill University, Hill\nContact: help@hill.example\n" in done.stdout


def test_help_of_an_unknown_site(modules, install):
    root = install(Cluster(name="bare", origins={}), "0.3.0")
    text = modules.shell(tree(root), "module help rootstock 2>&1").stdout
    example = "    python\n    >>> from rootstock"
    assert HELP.partition(example)[0] in text and HELP.partition("\n\n`")[2] in text
    assert example not in text
    assert "Contact" not in text


def test_whatis(modules, install):
    root = install(replace(CLUSTER, url="https://hill.example/rootstock"), "0.3.0")
    done = modules.shell(tree(root), "module whatis rootstock 2>&1")
    said = [line.split(": ", 1)[1] for line in done.stdout.splitlines() if line.strip().startswith("rootstock/0.3.0")]
    assert said == [
        "Name: rootstock",
        "Version: 0.3.0",
        "Category: chemistry, materials science",
        "Keywords: machine-learned interatomic potentials, molecular dynamics, ASE",
        "URL: https://hill.example/rootstock",
        "Description: Machine-learned interatomic potentials, each in its own environment, as one ASE calculator",
    ]


def test_a_site_block_is_part_of_the_module(modules, install, tmp_path):
    install(CLUSTER, "0.3.0")
    extra = {
        "modulefile.lua.j2": 'setenv("SITE", {{ cluster.name | lua }})',
        "modulefile.tcl.j2": "setenv SITE {{ cluster.name | tcl }}",
    }
    templates = tmp_path / "templates"
    templates.mkdir()
    for name, line in extra.items():
        (templates / name).write_text(
            f'{{% extends "rootstock/{name}" %}}\n{{% block extra %}}\n{line}\n{{% endblock %}}\n'
        )
    root = install(CLUSTER, "0.3.0", template_dirs=[templates])
    loaded = modules.environment(tree(root), "module load rootstock")
    assert (loaded["SITE"], loaded["ROOTSTOCK_VERSION"]) == ("hill", "0.3.0")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_hostile_values_arrive_whole_and_run_nothing(modules, install, locale):
    said = Path(f"/{ATTACKS}")
    root = install(HOSTILE, "0.3.0", said=said)
    loaded = modules.environment(tree(root), "module load rootstock", LC_ALL=locale)
    assert loaded["ROOTSTOCK_ROOT"] == str(said)
    assert loaded["ROOTSTOCK_CLUSTER"] == ATTACKS
    assert loaded["PATH"] == f"{said}/client/0.3.0/bin:/usr/bin:/bin"
    script = "module load rootstock; module help rootstock; module whatis rootstock; module show rootstock"
    shown = modules.shell(tree(root), f"{script}; module unload rootstock", LC_ALL=locale)
    assert shown.returncode == 0
    assert not list(modules.folder.rglob("owned"))


def test_hostile_help_is_shown_as_it_is(modules, install):
    root = install(HOSTILE, "0.3.0")
    text = modules.shell(tree(root), "module help rootstock 2>&1").stdout
    assert f"Installed for: {ATTACKS}\nContact: {ATTACKS}\n" in text


def test_a_hostile_folder_of_modulefiles_runs_nothing(modules, install, tmp_path):
    # Neither module system finds its way into every such folder, but neither may run its name.
    root = install(CLUSTER, "0.3.0", at=tmp_path / ATTACKS.replace("/", ""))
    modules.shell(tree(root), 'module load rootstock; module use "$MODULEPATH"; module avail; module show rootstock')
    assert not list(modules.folder.rglob("owned"))


def test_the_committed_renderings_are_up_to_date():
    folder = data_folder("modulefiles")
    committed = {
        path.relative_to(folder): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and path != folder / "README.md"
    }
    assert committed == committed_renderings(rootstock.__version__)


def test_what_is_committed():
    # Clusters whose root is known to nobody but their users have none.
    assert sorted(map(str, committed_renderings("1.2.0"))) == [
        "della/rootstock/.modulerc.lua",
        "della/rootstock/1.2.0",
        "della/rootstock/1.2.0.lua",
        "modal/rootstock/.modulerc",
        "modal/rootstock/.modulerc.lua",
        "modal/rootstock/1.2.0",
        "modal/rootstock/1.2.0.lua",
    ]


def test_the_committed_modules_load(modules):
    for cluster in sorted({path.parts[0] for path in committed_renderings("0")}):
        folder = data_folder("modulefiles") / cluster
        loaded = modules.environment(folder, f"module show rootstock; module load rootstock/{rootstock.__version__}")
        assert loaded["ROOTSTOCK_CLUSTER"] == cluster
        assert loaded["PATH"].startswith(f"{loaded['ROOTSTOCK_ROOT']}/client/{rootstock.__version__}/bin:")
        assert modules.environment(folder, "module load rootstock") == loaded


def test_what_is_put_aside_is_no_version(modules, site, bare_root):
    for name in (rootstock.__version__, f"{rootstock.__version__}.lua"):
        module = bare_root / "modulefiles/rootstock" / name
        module.write_text(f"{module.read_text()}\n")
    change = ("install", "--root", bare_root, "--set", "environments=", "--no-client", "--set")
    for options in (("contact=Ann",), ("contact=Ann", "--force")):
        site(*change, *options)
        shown = modules.shell(tree(bare_root), "module -t avail rootstock 2>&1").stdout
        assert set(re.findall(r"rootstock/([\w.]+)", shown)) <= {rootstock.__version__}, shown
        assert rootstock.__version__ in shown
    stray = module.with_name("2026.12.0.bak")
    stray.write_text("#%Module\n")
    said = f"Note: {stray} is none of ours, and may load as a version: move it out of {tree(bare_root)}\n"
    assert said in site(*change, "contact=Ann").stderr
    assert said in site("render", "--root", bare_root).stderr


def test_lua_syntax(install, bare):
    root = install(HOSTILE, "0.3.0")
    files = [*data_folder("modulefiles").rglob("*.lua"), *tree(root).rglob("*.lua")]
    done = bare(need_program("luac5.3", "lua5.3"), "-p", *files)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("lmod")
def test_lmod_checks_the_tree(install, bare):
    root = install(replace(HOSTILE, module_system="lmod"), "0.3.0", "0.10.0")
    check = Path("/usr/share/lmod/lmod/libexec/check_module_tree_syntax")
    done = bare(check, tree(root), MODULEPATH=str(tree(root)))
    assert (done.returncode, done.stderr.strip()) == (0, "")
