"""`rootstock-site install`: what it plans, what it writes, and what it leaves alone."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rootstock import __version__
from rootstock.config.registry_files import read_scope
from rootstock.root.layout import RootLayout
from rootstock.root.records import active_build
from tests.support.commands import SITE, clean_environment, run
from tests.support.needs import need_program, need_root
from tests.support.tiny_root import write_wheel

BARE = ("--set", "environments=", "--no-client")


def snapshot(root):
    """Return what a change of any file or folder below `root` would change."""
    paths = [root, *root.rglob("*")]
    return {path: (s.st_mtime_ns, s.st_ctime_ns, s.st_mode, s.st_size) for path in paths if (s := path.lstat())}


def errors(done):
    return [line for line in done.stderr.splitlines() if not line.startswith("Note: ")]


def test_a_second_run_touches_nothing(site, tiny_root):
    before = snapshot(tiny_root)
    done = site("install", "--root", tiny_root, "--env", "tiny", "--no-client")
    assert done.stdout == f"{tiny_root}: nothing to do.\n"
    assert snapshot(tiny_root) == before


def test_numpy_and_ase_are_not_imported_where_nothing_is_verified(tiny_root, tmp_path, tiny):
    for root in (tiny_root, tmp_path / "new"):  # nothing to do, and a build without references
        options = ("--cluster", "local", "--root", root, "--env", tiny, "--no-client")
        done = run(sys.executable, "-X", "importtime", SITE, "install", "--yes", *options, check=True)
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "rootstock.admin.install" in imported
        assert not {"numpy", "ase"} & imported


def test_what_an_installation_leaves(tiny_root):
    layout = RootLayout(tiny_root)
    assert not layout.strangers()
    assert [path.name for path in layout.generations.iterdir()] == ["1.json"]
    assert sorted(path.name for path in layout.activations.iterdir()) == sorted(
        f"rootstock{version}.{shell}" for shell in ("sh", "csh", "fish") for version in ("", f"-{__version__}")
    )
    assert active_build(layout.active("tiny"))
    assert not list(layout.all_builds.glob("*/.*"))


def test_a_dry_run_writes_nothing(site, tmp_path, tiny):
    done = site("install", "--cluster", "local", "--root", tmp_path / "root", "--env", tiny, "--no-client", "--dry-run")
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"{tmp_path}/root:", f"  create the root {tmp_path}/root for cluster local"]
    assert f"  write modulefiles/rootstock/{__version__}.lua" in lines
    assert "  build tiny with Python 3." in lines[-1][:29]
    assert not (tmp_path / "root").exists()


def test_the_plan_as_json(site, tiny_root):
    text = (tiny_root / "environments/tiny.py").read_text()
    (tiny_root / "environments/tiny.py").write_text(f"{text}# more\n")
    done = site("install", "--root", tiny_root, "--env", "tiny", "--no-client", "--set", "contact=Ann", "-n", "--json")
    plan = json.loads(done.stdout)
    assert (plan["schema"], plan["command"], plan["root"], plan["cluster"]) == (1, "install", str(tiny_root), "local")
    assert (plan["created"], plan["empty"], plan["modes"]) == (False, False, [])
    assert [build["reason"] for build in plan["builds"]] == ["environment file changed"]
    registry = plan["files"][0]
    assert (registry["path"], registry["action"]) == ("clusters.toml", "update")
    assert '\n+contact = "Ann"' in registry["diff"]
    assert plan["room"]["bytes"] > 0


def test_a_dry_run_shows_what_changes_in_files(site, bare_root):
    done = site("install", "--root", bare_root, *BARE, "--set", "contact=Ann", "--dry-run")
    assert "--- clusters.toml (now)\n+++ clusters.toml (new)\n@@ " in done.stdout
    assert '\n+contact = "Ann"\n' in done.stdout
    assert "Ann" not in (bare_root / "clusters.toml").read_text()


def test_edits_are_kept_until_forced(site, bare_root):
    module = bare_root / f"modulefiles/rootstock/{__version__}.lua"
    ours, mine = module.read_text(), module.read_text() + "-- mine\n"
    module.write_text(mine)
    change = ("install", "--root", bare_root, *BARE, "--set", "contact=Ann")
    done = site(*change)
    name = module.relative_to(bare_root)
    assert (
        f"  keep your edits of {name}, put ours into aside/{name}.new (install --force replaces yours)\n" in done.stdout
    )
    assert module.read_text() == mine
    aside = bare_root / f"aside/{name}"
    assert "Ann" in aside.with_name(f"{aside.name}.new").read_text()
    assert site(*change).stdout == f"{bare_root}: nothing to do.\n"
    done = site(*change, "--force")
    assert f"  replace {name}, put your edits into aside/{name}.1.bak\n" in done.stdout
    assert module.read_text() == ours.replace('}, "\\n"', '    "Contact: Ann",\n}, "\\n"')
    assert site(*change).stdout == f"{bare_root}: nothing to do.\n"
    # A second time, and a third with what was put aside before.
    for edits, kept in (("-- other\n", 2), (mine, 1)):
        module.write_text(edits)
        assert f"aside/{name}.{kept}.bak\n" in site("render", "--root", bare_root, "--force").stdout
    assert sorted(path.name for path in aside.parent.iterdir()) == [
        f"{module.name}.1.bak", f"{module.name}.2.bak", f"{module.name}.new",
    ]  # fmt: skip
    assert aside.with_name(f"{aside.name}.1.bak").read_text() == mine
    assert aside.with_name(f"{aside.name}.2.bak").read_text() == "-- other\n"
    assert not RootLayout(bare_root).strangers()


def test_settings_go_into_an_edited_registry(site, bare_root):
    registry = bare_root / "clusters.toml"
    theirs = '\n# theirs\n[clusters.other]\nroot = "/x"\n'
    registry.write_text(registry.read_text().replace("[clusters", "# mine\n[clusters") + theirs)
    change = ("install", "--root", bare_root, *BARE, "--set")
    for contact in ("Ann", "Bob"):
        done = site(*change, f"contact={contact}")
        assert "  update clusters.toml, which you have edited; the rest of it stays\n" in done.stdout
        text = registry.read_text()
        assert "# mine\n[clusters" in text and theirs in text
        assert f'\ncontact = "{contact}"\n' in text
        assert "nothing to do" in site(*change, f"contact={contact}").stdout
    assert f'"Contact: {contact}"' in (bare_root / f"modulefiles/rootstock/{__version__}.lua").read_text()
    assert not list(bare_root.rglob("*.new"))
    before = snapshot(bare_root)
    registry.write_text(text.replace("# mine", "mine"))
    done = site(*change, "contact=Cid", check=False)
    assert done.returncode == 3
    assert done.stderr.startswith(f"Error: {registry} is not valid TOML: ")
    assert "(at line 5, column 5)" in done.stderr
    assert {path for path, state in snapshot(bare_root).items() if before.get(path) != state} == {registry}


def test_an_environment_file_is_the_admins(site, tiny_root, tiny):
    copy = tiny_root / "environments/tiny.py"
    first = active_build(RootLayout(tiny_root).active("tiny"))
    copy.write_text(copy.read_text() + "# mine\n")
    site("install", "--root", tiny_root, "--env", "tiny", "--no-client")
    second = active_build(RootLayout(tiny_root).active("tiny"))
    assert second != first
    assert (second / "environment.py").read_text() == copy.read_text()
    # Given by its path, a file replaces the root's, and the build that it had is put to use again.
    done = site("install", "--root", tiny_root, "--env", tiny, "--no-client")
    assert "  replace environments/tiny.py, put your edits into aside/environments/tiny.py.1.bak\n" in done.stdout
    assert active_build(RootLayout(tiny_root).active("tiny")) == first


def test_the_folders_where_a_library_looks_for_weights(site, tiny_root, tiny):
    """Also where the build is there already: a user's worker could not make them."""
    tiny.write_text(
        tiny.read_text().replace("# ///\ndef", '# [tool.rootstock.cache]\n# TINY_HOME = "tiny/deep"\n# ///\ndef')
    )
    command = ("install", "--root", tiny_root, "--env", tiny, "--no-client")
    site(*command)
    (tiny_root / "cache/tiny/deep").rmdir()
    assert "create cache/tiny/deep with mode" in site(*command).stdout
    assert (tiny_root / "cache/tiny/deep").is_dir()
    assert site(*command).stdout == f"{tiny_root}: nothing to do.\n"


@pytest.mark.parametrize("answer", [b"n\n", b"\x04"], ids=["no", "the end of the input"])
def test_no_is_an_answer(tiny_root, answer):
    before = snapshot(tiny_root)
    ours, theirs = os.openpty()
    command = [SITE, "install", "--root", tiny_root, "--no-client", "--set", "contact=Ann"]
    with subprocess.Popen(command, env=clean_environment(), stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while b"[Y/n]" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, answer)
        with contextlib.suppress(OSError):  # as a terminal says that nobody has it open any more
            while more := os.read(ours, 4096):
                shown += more
        assert process.wait() == 130
    os.close(ours)
    assert shown.decode().splitlines()[-1].endswith("Nothing was changed.")
    assert b"Aborted" not in shown
    assert snapshot(tiny_root) == before


def test_what_is_said_at_the_end(site, tmp_path, bare_root, tiny_root):
    force = ("--set", "contact=somebody")
    assert "It has no model yet." in site("install", "--root", bare_root, "--no-client", *force).stdout
    done = site("install", "--root", tiny_root, "--no-client", "--set", "environments=", *force)
    # Without a client, nothing is there to load: the wheel goes into a Python of one's own.
    assert "module load" not in done.stdout
    end = done.stdout.partition("Done. It has no client (--no-client), so no module to load.")[2].splitlines()
    assert end[-1] == f'  RootstockCalculator(model="tiny", root=\'{tiny_root}\', device="cpu")'
    wheel = Path(end[1].split()[-1])
    assert end[1] == f"  python -m pip install --no-deps {wheel}" and wheel.is_file()


def test_a_model_without_weights_is_not_said_to_be_fetched(site, root):
    assert (
        "load emt, which has no weights (not recorded yet)"
        in site("warm", "--root", root, "--env", "emt", "--dry-run").stdout
    )


@pytest.mark.parametrize(
    ("value", "names"), [('["tiny"]', ["tiny"]), ("['tiny',]", ["tiny"]), ("tiny", ["tiny"]), ("[]", []), ("", [])]
)
def test_lists_are_set_as_toml_has_them_too(site, tiny_root, value, names):
    site("install", "--root", tiny_root, "--no-client", "--set", f"environments={value}")
    assert read_scope(tiny_root / "clusters.toml").clusters["local"].get("environments", []) == names


def test_a_list_without_quotes_is_answered_with_the_right_form(site, tiny_root):
    done = site("install", "--root", tiny_root, "--set", "environments=[emt, 'lj']", check=False)
    assert (done.returncode, done.stderr) == (
        3, "Error: environments=[emt, 'lj'] is no list.\nWrite it so: --set environments=emt,lj\n",
    )  # fmt: skip


def test_templates_of_the_site(site, bare_root, tmp_path):
    def write(folder, text):
        folder.mkdir()
        (folder / "modulefile.lua.j2").write_text(
            f'{{% extends "rootstock/modulefile.lua.j2" %}}{{% block extra %}}\n-- {text}\n{{% endblock %}}\n'
        )

    write(bare_root / "templates", "of the root")
    site("install", "--root", bare_root, *BARE)
    module = bare_root / f"modulefiles/rootstock/{__version__}.lua"
    assert "\n-- of the root\n" in module.read_text()
    planned = json.loads(site("warm", "--root", bare_root, "--env", "emt", "--model", "", "--dry-run", "--json").stdout)
    changes = {change["path"]: change["diff"] for change in planned["install"]["files"]}
    assert "environments/emt.py" in changes
    assert "of the root" not in "".join(changes.values())  # the line stays


def test_templates_that_are_given_go_into_the_root(site, bare_root, tmp_path):
    """So every later command uses them, though their folder is gone."""

    def write(folder, text, name="modulefile.lua.j2"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(
            f'{{% extends "rootstock/modulefile.lua.j2" %}}{{% block extra %}}\n-- {text}\n{{% endblock %}}\n'
        )

    module, templates = bare_root / f"modulefiles/rootstock/{__version__}.lua", bare_root / "templates"
    first, second = tmp_path / "first", tmp_path / "second"
    for text in ("one", "two"):
        write(first, text)
    write(second, "three")
    write(second, "more", "more.j2")
    (second / "notes.txt").touch()
    write(templates, "of the root")
    install = ("install", "--root", bare_root, *BARE)
    given = (*install, "--template-dir", first, "--template-dir", second)
    assert "\n+-- two\n" in site(*given, "--dry-run").stdout
    assert "of the root" in (templates / "modulefile.lua.j2").read_text()
    said = site(*given).stdout
    assert (
        "  replace templates/modulefile.lua.j2, put your edits into aside/templates/modulefile.lua.j2.1.bak\n" in said
    )
    assert "  write templates/more.j2\n" in said
    assert sorted(path.name for path in templates.iterdir()) == ["modulefile.lua.j2", "more.j2"]
    assert "of the root" in (bare_root / "aside/templates/modulefile.lua.j2.1.bak").read_text()
    write(first, "four")
    site("render", "--root", bare_root, "--template-dir", first)  # which is kept too, whoever put it there
    assert "two" in (bare_root / "aside/templates/modulefile.lua.j2.2.bak").read_text()
    shutil.rmtree(first)
    assert site(*install).stdout == f"{bare_root}: nothing to do.\n"
    site(*install, "--set", "contact=Ann")
    assert "\n-- four\n" in module.read_text() and "Ann" in module.read_text()
    # What is no template, or needs what is none, is refused.
    wrong = tmp_path / "wrong"
    write(wrong, "x", "modulefile.lau.j2")
    done = site(*install, "--template-dir", wrong, check=False)
    assert (done.returncode, done.stderr.startswith(f"Error: {wrong} holds no template that Rootstock k")) == (3, True)
    assert "Those are activate.csh.j2, " in done.stderr
    (wrong / "modulefile.lua.j2").write_text('{% include "part.txt" %}')
    (wrong / "part.txt").write_text("-- part\n")
    done = site(*install, "--template-dir", wrong, check=False)
    assert (done.returncode, "there is no template 'part.txt'.\nThose of a site are" in done.stderr) == (17, True)
    assert not (templates / "modulefile.lau.j2").exists()


def test_a_folder_of_something_else(site, tmp_path):
    (tmp_path / "thesis.tex").touch()
    done = site("install", "--cluster", "local", "--root", tmp_path, *BARE, check=False)
    assert done.returncode == 10
    assert done.stderr == (
        f"Error: {tmp_path} is not a Rootstock root, and not empty: it holds thesis.tex.\nChoose an empty folder.\n"
    )


def test_a_cluster_that_nobody_knows(site, tmp_path):
    root = tmp_path / "root"
    where = ("--root", root, "--env", "emt")
    for command in (("install", *where), ("lock", *where), ("bundle", "create", tmp_path / "x", *where)):
        done = site(*command, "--cluster", "dela", check=False, environment=clean_environment(XDG_CONFIG_HOME=tmp_path))
        assert (done.returncode, done.stdout) == (3, "")
        first, second = done.stderr.splitlines()
        assert first.startswith("Error: Unknown cluster 'dela'. Did you mean 'della'? Known clusters: alps, della, ")
        assert second.startswith("To install for a cluster that is not known, describe it first: a table [clusters.de")
    assert not root.exists() and not (tmp_path / "x").exists()
    variables = clean_environment(ROOTSTOCK_CLUSTER="dela", XDG_CONFIG_HOME=tmp_path)
    assert site("install", "--root", root, *BARE, check=False, environment=variables).returncode == 3
    # A table is enough, even an empty one.
    (tmp_path / "rootstock").mkdir()
    (tmp_path / "rootstock/clusters.toml").write_text("[clusters.dela]\n")
    done = site("install", "--root", root, *BARE, "--dry-run", environment=variables)
    assert f"create the root {root} for cluster dela\n" in done.stdout


def test_the_root_of_another_cluster(site, bare_root):
    done = site("install", "--cluster", "della", "--root", bare_root, *BARE, check=False)
    assert done.returncode == 10
    assert f"Error: {bare_root} is the root of cluster 'local', not 'della'.\n" in done.stderr


@pytest.mark.parametrize("command", [["install", *BARE], ["status"], ["default", __version__], ["uninstall", "--yes"]])
def test_a_root_of_a_newer_layout_is_left_alone(site, bare_root, command):
    marker = bare_root / "rootstock.toml"
    marker.write_text(marker.read_text().replace("layout = 1\n", "layout = 2\n"))
    before = snapshot(bare_root)
    done = site(*command, "--root", bare_root, check=False)
    assert done.returncode == 10
    assert done.stderr == (
        f"Error: {bare_root} has layout 2; this rootstock knows layouts up to 1.\n"
        "Load the site's newer module: module load rootstock\n"
    )
    assert snapshot(bare_root) == before


def test_whoever_is_root_hears_once_that_they_need_not_be(site, tmp_path):
    need_root()
    command = ("install", "--root", tmp_path / "root", *BARE)
    said = "Note: You are root. You need not be: an ordinary account that owns the folder is enough, and safer.\n"
    assert site(*command, "--cluster", "local").stderr.startswith(said)
    assert site(*command, "--set", "contact=Ann").stderr == ""


def test_a_folder_above_that_keeps_readers_out_is_named(site, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    done = site("install", "--cluster", "local", "--root", closed / "root", *BARE, "--set", "access.readers=world")
    said = f"Note: {closed} does not let other users pass: they cannot reach the root. "
    assert f"{said}Its owner decides about that: chmod o+x {closed}\n" in done.stderr
    closed.chmod(0o750)  # closed on purpose, to all but a group: the advice is not to open what the site has closed
    group = grp.getgrgid(closed.stat().st_gid).gr_name
    done = site("install", "--root", closed / "root", *BARE, "--set", "access.readers=world")
    assert f"{said}The group {group} can. If the root is meant for that group: --group {group} --set " in done.stderr


def test_builds_that_cannot_fit_are_refused_before_anything_is_written(site, tiny_root):
    record = active_build(RootLayout(tiny_root).active("tiny")) / "build.json"
    record.chmod(0o600)
    record.write_text(record.read_text().replace('"bytes": ', '"bytes": 99999999'))
    environment = tiny_root / "environments/tiny.py"
    environment.write_text(environment.read_text() + "# more\n")
    before = snapshot(tiny_root)
    done = site("install", "--root", tiny_root, "--env", "tiny", "--no-client", check=False)
    assert done.returncode == 10
    assert f"Error: {tiny_root} has room for " in done.stderr
    assert "Make room: rootstock-site gc --dry-run shows what can go.\n" in done.stderr
    assert snapshot(tiny_root) == before


def write_hook(root, name, script):
    hook = RootLayout(root).hooks / name
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{script}\n")
    hook.chmod(0o755)
    return hook


def test_hooks_of_the_site(site, bare_root):
    say = 'echo "$0 $ROOTSTOCK_CLUSTER $ROOTSTOCK_COMMAND" >> "$ROOTSTOCK_ROOT/hooks/said"; echo seen'
    hooks = [write_hook(bare_root, name, say) for name in ("pre-install", "post-install")]
    site("install", "--root", bare_root, *BARE, "--set", "contact=Ann")
    command = f"local {SITE} install --root {bare_root} --set environments= --no-client --set contact=Ann --yes"
    assert (bare_root / "hooks/said").read_text() == "".join(f"{hook} {command}\n" for hook in hooks)
    log = max((bare_root / "log").iterdir())
    assert log.read_text().count(" seen\n") == 2
    # A plan with nothing to do runs none.
    site("install", "--root", bare_root, *BARE)
    assert (bare_root / "hooks/said").read_text().count("\n") == 2


def test_a_hook_that_fails_stops_the_command(site, bare_root):
    hook = write_hook(bare_root, "pre-install", "echo no window today; exit 3")
    done = site("install", "--root", bare_root, *BARE, "--set", "contact=Ann", check=False)
    assert done.returncode == 19
    said = f"Error: The site's hook {hook} failed (exit code 3). Nothing was changed.\n  | no window today\n"
    assert said in done.stderr
    assert "Ann" not in (bare_root / "clusters.toml").read_text()
    hook.chmod(0o644)
    done = site("install", "--root", bare_root, *BARE, "--set", "contact=Ann", check=False)
    assert (done.returncode, f"Error: The site's hook {hook} is not executable." in done.stderr) == (19, True)
    hook.rename(hook.with_name("post-install")).chmod(0o755)
    done = site("install", "--root", bare_root, *BARE, "--set", "contact=Ann", check=False)
    assert (done.returncode, "failed (exit code 3). The install itself is done." in done.stderr) == (19, True)
    assert "Ann" in (bare_root / "clusters.toml").read_text()


def named(host, *command, **variables):
    """Run ``rootstock-site`` on a machine of that name."""
    need_root()
    shell = (need_program("unshare", "util-linux"), "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host)
    done = run(*shell, SITE, *command, env=clean_environment(**variables))
    return done.returncode, done.stdout, errors(done)


@pytest.mark.parametrize("how", [["--cluster", "auto"], []], ids=["auto", "none"])
def test_the_cluster_is_recognised_by_the_name_of_the_machine(tmp_path, how):
    command = ("install", "--root", tmp_path / "root", *how, *BARE, "--dry-run")
    code, said, noted = named("della-l01g1", *command, XDG_CONFIG_HOME=str(tmp_path))
    assert (code, noted) == (0, ["Cluster della: recognised by this machine's name, della-l01g1."])
    assert f"create the root {tmp_path}/root for cluster della\n" in said


def test_a_machine_of_no_cluster(tmp_path):
    code, _, noted = named("orwell", "install", "--root", tmp_path / "root", *BARE, XDG_CONFIG_HOME=str(tmp_path))
    assert code == 3
    assert noted[0].startswith("Error: Which cluster is this for? The name of this machine, 'orwell")
    assert noted[1].startswith("Give --cluster NAME (in Python: cluster='NAME'). Known: alps, della, ")


def test_a_failed_build_names_its_log_and_leaves_what_was_there(site, tiny_root, tmp_path):
    before = active_build(RootLayout(tiny_root).active("tiny"))
    environment = tiny_root / "environments/tiny.py"
    wheel = write_wheel(tmp_path, "six", "99", {"six.py": b"x = 1"})
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(wheel, "w") as archive:  # its RECORD says something else
        for name, content in files.items():
            archive.writestr(name, content.replace(b"x = 1", b"x = 2"))
    text = environment.read_text().replace('"six"', '"six==99"')
    environment.write_text(re.sub(r"find-links = .*", f'find-links = ["{tmp_path}"]', text))
    done = site("install", "--root", tiny_root, "--env", "tiny", "--no-client", check=False)
    assert done.returncode == 14
    log = Path(next(line for line in done.stderr.splitlines() if line.startswith("Log: ")).removeprefix("Log: "))
    assert log.parent == tiny_root / "log"
    assert "six" in log.read_text()
    assert active_build(RootLayout(tiny_root).active("tiny")) == before
    assert not list((tiny_root / "builds").glob("*/.*"))


def test_an_installation_from_a_bundle_needs_no_network(site, tmp_path, tiny):
    need_root()
    bundle = tmp_path / "tiny.bundle"
    digest = site("bundle", "create", bundle, "--cluster", "local", "--env", tiny, "--no-client").stdout.strip()
    root = tmp_path / "root"
    alone = (need_program("unshare", "util-linux"), "--net")
    command = (*alone, SITE, "install", "--yes", "--root", root, "--bundle", bundle, "--no-client", "--digest")
    for wanted in ("nothing to do", "build tiny with Python")[::-1]:
        done = run(*command, digest, "--cluster", "local", env=clean_environment(TMPDIR=str(tmp_path)))
        assert (done.returncode, wanted in done.stdout) == (0, True), done.stderr
    assert not list(tmp_path.glob("rootstock-bundle-*"))
    other = "4f" * 32
    done = site("install", "--root", root, "--bundle", bundle, "--no-client", "--digest", other, check=False)
    assert done.returncode == 13
    assert f"Error: {bundle} is another bundle: its digest is {digest}, expected {other}.\n" in done.stderr
    assert site("install", "--root", root, "--bundle", bundle, "--no-client", "--digest", f" {digest.upper()}\n")
    # What was meant as a comparison never is none: an empty file, half a digest, no bundle.
    for given, message in (("", "--digest is '', not the 64 characters"), ("4f1c", "--digest is '4f1c', not the 64")):
        done = site("install", "--root", root, "--bundle", bundle, "--no-client", "--digest", given, check=False)
        assert (done.returncode, message in done.stderr) == (3, True), done.stderr
    done = site("install", "--root", root, "--no-client", "--digest", digest, check=False)
    assert (done.returncode, "--digest is of a bundle; none was named" in done.stderr) == (3, True)
    done = site("install", "--root", root, "--bundle", tmp_path, check=False)
    assert (done.returncode, "is a directory" in done.stderr) == (2, True)
