"""`rootstock list` and `rootstock cluster`, with the registries of a site and of a user."""

from __future__ import annotations

import json

import pytest

from rootstock.config.packaged import data_folder
from tests.support.commands import ROOTSTOCK, clean_environment, run
from tests.support.needs import need_program, need_root


@pytest.fixture
def ask(tmp_path):
    """Return a function that runs ``rootstock`` with a user's own configuration folder."""
    config = tmp_path / "config"

    return lambda *words, **variables: run(
        ROOTSTOCK, *words, env=clean_environment(XDG_CONFIG_HOME=str(config), **variables)
    )


@pytest.fixture
def registry(tmp_path):
    """Return the path of the user's registry."""
    path = tmp_path / "config/rootstock/clusters.toml"
    path.parent.mkdir(parents=True)
    return path


def test_the_list_of_clusters(ask, registry):
    registry.write_text('[clusters.hill]\nroot = "/hill"\ndescription = "On the hill"\n')
    lines = ask("cluster", "list").stdout.splitlines()
    assert "hill             /hill                            On the hill" in lines
    packaged = {path.stem for path in (data_folder("site_templates") / "clusters").glob("*.toml")}
    assert len(packaged) == 8
    assert {"hill", *packaged} <= {line.split()[0] for line in lines}  # this machine's admin may have added some
    found = json.loads(ask("cluster", "list", "--json").stdout)
    assert {"name": "hill", "root": "/hill", "template": False, "description": "On the hill"} in found


def test_a_setting_and_where_it_comes_from(ask, registry, bare_root):
    registry.write_text('[clusters.local]\ncontact = "Ann"\n')
    packaged = data_folder("site_templates") / "clusters/local.toml"
    variables = {"ROOTSTOCK_ROOT": str(bare_root)}
    shown = ask("cluster", "show", "local", "--origin", **variables).stdout.splitlines()
    assert shown[0] == "[local]"
    assert f"contact = Ann    ({registry})" in shown
    assert f"root = {bare_root}    ({bare_root}/clusters.toml)" in shown
    assert "jobs.scheduler = none    (default)" in shown
    data = json.loads(ask("cluster", "show", "local", "--json").stdout)
    assert (data["schema"], data["name"], data["settings"]["contact"]) == (1, "local", "Ann")
    assert data["origins"]["contact"] == str(registry)
    assert data["origins"]["root"] == str(packaged)
    assert data["origins"]["jobs.proxy"] == "default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[clusters.local]\naccess.readers = "all"\n', "access.readers is 'all'; allowed are world, group, owner."),
        ("[clusters.local]\nnotes = 3\n", "cluster local: notes must be a list of strings, not 3."),
        ('[clusters.local]\ncolour = "red"\n', "cluster local: unknown key 'colour'."),
        (
            '[clusters.local]\nuv.default-index = "https://ann:secret@pypi.example/simple"\n',
            "cluster local: uv.default-index holds a user's name or password in an address.\nEverybody can read",
        ),
    ],
)
def test_a_wrong_registry_is_named_with_its_key(ask, registry, text, message):
    registry.write_text(text)
    done = ask("cluster", "show", "local")
    assert done.returncode == 3
    assert done.stderr.startswith(f"Error: {registry}")
    assert message in done.stderr
    assert "secret" not in done.stderr


def test_an_unknown_cluster(ask):
    done = ask("cluster", "show", "atlantis")
    assert done.returncode == 3
    assert done.stderr.startswith("Error: Unknown cluster 'atlantis'. Known clusters: alps, della, ")
    for command in (("cluster", "show", "dela"), ("list", "--cluster", "dela")):
        done = ask(*command)
        assert done.stderr.startswith("Error: Unknown cluster 'dela'. Did you mean 'della'? Known clusters: alps, ")
        assert "--root /path/to/rootstock" in done.stderr


def test_the_cluster_of_this_machine(tmp_path):
    need_root()
    unshare = need_program("unshare", "util-linux")
    command = 'hostname della-l01g1 && exec "$0" cluster show auto'
    env = clean_environment(XDG_CONFIG_HOME=str(tmp_path))
    done = run(unshare, "--uts", "sh", "-c", command, ROOTSTOCK, env=env)
    assert done.stderr == "Cluster della: recognised by this machine's name, della-l01g1.\n"
    assert done.stdout.startswith("[della]\ndescription = Princeton")


def test_the_default_cluster_is_shown(ask, registry):
    registry.touch()
    done = ask("cluster", "show", ROOTSTOCK_ROOT="")
    assert (done.returncode, done.stderr) == (
        3,
        "Error: Which cluster? Neither ROOTSTOCK_CLUSTER nor a registry names a default.\n"
        "Give NAME: rootstock cluster list shows those that are known.\n",
    )
    registry.write_text('default = "modal"\n')
    assert ask("cluster", "show").stdout.startswith("[modal]\n")
    assert ask("cluster", "show", ROOTSTOCK_CLUSTER="della").stdout.startswith("[della]\n")
    registry.write_text('default = "auto"\n[clusters.mine]\nhosts = ["*"]\n')
    assert ask("cluster", "show", "--json").stdout.startswith('{\n "schema": 1,\n "name": "mine"')


def test_the_cluster_of_this_machine_in_python(ask, registry, root):
    """``auto`` means the same as on command lines; a machine of no cluster is told what to give."""
    code = "from rootstock import RootstockCalculator; print(RootstockCalculator('emt'{}).todict()['root'])"
    python = ROOTSTOCK.with_name("python")
    env = {"XDG_CONFIG_HOME": str(registry.parents[1])}
    for given, variables in ((", cluster='auto'", {}), ("", {"ROOTSTOCK_CLUSTER": "auto"})):
        registry.write_text(f'[clusters.mine]\nhosts = ["*"]\nroot = "{root}"\n')
        done = run(python, "-c", code.format(given), env=clean_environment(**env, **variables))
        assert done.stdout == f"{root}\n", done.stderr
        registry.write_text("")
        done = run(python, "-c", code.format(given), env=clean_environment(**env, **variables))
        assert "ConfigurationError: The name of this machine, " in done.stderr
        assert "fits no known cluster" in done.stderr
        assert "\nGive --cluster NAME (in Python: cluster='NAME'). Known: alps, " in done.stderr


def test_a_model_of_an_environment_that_is_not_installed(ask, tiny_root):
    done = ask("show", "lj-argon", "--root", tiny_root)
    assert (done.returncode, done.stderr) == (
        4,
        f"Error: Environment 'lj' not found in {tiny_root}/environments. Available there: tiny.\n"
        f"An admin adds it with: rootstock-site install --root {tiny_root} --env lj\n",
    )


@pytest.mark.parametrize(
    "line",
    [
        "rootstock list --root", "rootstock warm emt --root", "rootstock-site status --root",
        "rootstock-site install --cluster local --dry-run --root", "rootstock-site render --output",
        "rootstock-site page -o", "rootstock-site new-env x -o", "rootstock-site install --template-dir",
    ],
)  # fmt: skip
def test_an_empty_text_is_no_folder(line, tmp_path):
    """It would be the folder of whoever calls, where a script's variable is not set."""
    name, *words = line.split()
    done = run(ROOTSTOCK.with_name(name), *words, "", cwd=tmp_path)
    assert done.returncode == 2
    assert f"Invalid value for '{words[-1]}'" in done.stderr.replace("'--output' / '-o'", "'-o'")
    assert done.stderr.endswith(": an empty text is no path. Is it a variable that is not set?\n")
    assert list(tmp_path.iterdir()) == []


def test_a_variable_that_leads_nowhere_is_named(ask):
    done = ask("list", ROOTSTOCK_ROOT="/nowhere")
    text = "Error: /nowhere is not a Rootstock root: it has no rootstock.toml."
    assert (done.returncode, done.stderr.splitlines()[0]) == (10, f"{text} ROOTSTOCK_ROOT names it.")
    assert ask("list", "--root", "/nowhere").stderr.splitlines()[0] == text


def test_a_file_that_is_broken_is_not_its_own_example(ask, tiny_root):
    (tiny_root / "environments/emt.py").write_text("")
    done = ask("show", "emt", "--root", tiny_root)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "rootstock-site new-env NAME writes one to start from."


def test_no_root(ask, tmp_path):
    done = ask("list")
    assert (done.returncode, done.stderr.startswith("Error: Must specify either 'cluster' or 'root'.\n")) == (3, True)
    done = ask("list", "--root", tmp_path)
    assert (done.returncode, f"Error: {tmp_path} is not a Rootstock root" in done.stderr) == (10, True)
