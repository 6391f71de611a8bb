"""A root over time: generations, rollback, gc, status, uninstall."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import pwd
import shutil
import subprocess
import sys
import time
from datetime import datetime

import pytest

from rootstock import RootstockCalculator, __version__
from rootstock.admin.gc import plan_gc
from rootstock.admin.rollback import plan_rollback
from rootstock.config.clusters import get_cluster
from rootstock.config.environment_file import packaged_source
from rootstock.config.site import Site, find_site
from rootstock.errors import RootError
from rootstock.root.holder import Holder
from rootstock.root.layout import RootLayout
from rootstock.root.lock import AdminContext
from rootstock.root.permissions import remove_tree
from rootstock.root.records import active_build, user_name
from tests.support.commands import ROOTSTOCK, SITE, clean_environment, read_until, run, started
from tests.support.folders import open_to_readers
from tests.support.needs import need_program, need_root
from tests.support.no_flock import without_flock
from tests.support.roots import holder


def install(site, root, *names, **options):
    environments = [part for name in names for part in ("--env", name)]
    return site("install", "--root", root, *environments, "--no-client", **options)


def active(root, name="tiny"):
    build = active_build(RootLayout(root).active(name))
    return build.name if build else None


def generation(root, number):
    return json.loads((root / f"generations/{number}.json").read_text())


def numbers(root):
    return sorted(int(path.stem) for path in (root / "generations").iterdir())


@pytest.fixture
def old_and_new(site, tiny_root):
    """Return a root whose environment was built twice, and the two builds."""
    old = active(tiny_root)
    environment = tiny_root / "environments/tiny.py"
    environment.write_text(environment.read_text() + "# newer\n")
    install(site, tiny_root, "tiny")
    return tiny_root, old, active(tiny_root)


def test_a_build_that_is_gone_is_damage(site, old_and_new):
    root, _, new = old_and_new
    remove_tree(RootLayout(root).build("tiny", new))
    done = site("verify", "--files", "--root", root, check=False)
    fault = f"{root}/active/tiny leads to {root}/builds/tiny/{new}, which is not there.\n"
    assert (done.returncode, done.stdout) == (10, "")
    assert f"tiny is not compared: {fault}" in done.stderr
    for options in ((), ("--env", "tiny")):
        done = site("verify", "--root", root, *options, check=False)
        assert done.returncode == 10
        remedy = f"An admin mends that: rootstock-site install --root {root}\n"
        assert done.stderr.endswith(f"tiny is not verified: {fault}{remedy}")


def test_a_rollback_to_what_gc_has_collected_meanwhile(old_and_new):
    """While the admin was asked whether to go on."""
    root, old, new = old_and_new
    site = find_site(None, root, installed=True)
    plan = plan_rollback(site)
    remove_tree(site.layout.build("tiny", old))
    with pytest.raises(RootError, match=f"The build {old} of tiny is gone from {root}: it was collected by gc"):
        plan.apply(AdminContext("test"))
    assert active(root) == new
    assert numbers(root) == [1, 2]


def test_another_clusters_name_is_refused(site, tiny_root):
    for command in (["default", __version__, "--dry-run"], ["gc", "--dry-run"], ["verify"], ["uninstall", "--dry-run"]):
        done = site(*command, "--root", tiny_root, "--cluster", "della", check=False)
        assert done.returncode == 10, command
        assert done.stderr.startswith(f"Error: {tiny_root} is the root of cluster 'local', not 'della'.\n"), command


def test_an_own_file_under_the_name_of_ours_stays(site, like_root, tmp_path):
    """Given by its path once, it is the admin's: later installations do not take it back."""
    own, root = tmp_path / "emt.py", tmp_path / "root"
    own.write_text(packaged_source("emt").text + "# mine\n")
    site("install", "--cluster", "local", "--root", root, "--env", own, "--no-client", *like_root)
    build = active(root, "emt")
    assert install(site, root, "emt").stdout == f"{root}: nothing to do.\n"
    assert (root / "environments/emt.py").read_text() == own.read_text()
    (root / "environments/emt.py").unlink()  # ours again
    install(site, root, "emt")
    assert active(root, "emt") != build
    assert (root / "environments/emt.py").read_text() == packaged_source("emt").text


def test_a_root_that_is_named_by_a_way_that_goes_later(site, tmp_path):
    (tmp_path / "checkout").mkdir()
    root = tmp_path / "root"
    bare = ("--set", "environments=", "--no-client")
    site("install", "--cluster", "local", "--root", tmp_path / "checkout/../root", *bare)
    (tmp_path / "checkout").rmdir()
    assert "checkout" not in (root / "activate/rootstock.sh").read_text() + (root / "clusters.toml").read_text()
    assert str(root) in (root / "clusters.toml").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no 'layout'"),
        ('layout = "one"\ncluster = "local"\n', "layout must be a whole number, not 'one'"),
        ("layout = 1\n", "it has no 'cluster'"),
        ("layout = 1\ncluster = 3\n", "cluster must be a string, not 3"),
        ('layout = 1\ncluster = "local"\ndefault = []\n', "default must be a string, not []"),
        ('layout = 1\ncluster = "local"\nwritten = { x = 3 }\n', "written.x must be a list, not 3"),
    ],
)
def test_a_marker_that_says_nothing(site, bare_root, text, message):
    (bare_root / "rootstock.toml").write_text(text)
    for command in ("status", "gc", "render"):
        done = site(command, "--root", bare_root, check=False)
        assert done.returncode == 10, command
        assert f"rootstock.toml: {message}.\n" in done.stderr


def test_what_a_killed_build_has_left_is_in_the_plan_for_programs(site, tiny_root):
    (tiny_root / "builds/tiny/.staging-killed").mkdir()
    plan = json.loads(site("gc", "--root", tiny_root, "--dry-run", "--json").stdout)
    assert (plan["empty"], plan["leftovers"]) == (False, ["builds/tiny/.staging-killed"])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--set", "access=1", "--set", "access.readers=group"), 3, "cluster local: unknown key 'access'"),
        (("--root", f"/tmp/{'x' * 300}"), 10, "File name too long"),
    ],
)
def test_no_slip_ends_in_a_traceback(site, tmp_path, options, code, message):
    done = site("install", "--cluster", "local", "--root", tmp_path / "new", *options, check=False)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_status_says_who_may_write(site, tiny_root):
    assert "\nreaders: owner; writers: owner; group: unchanged\n" in site("status", "--root", tiny_root).stdout
    site(
        "install",
        "--root",
        tiny_root,
        "--no-client",
        "--group",
        "0",
        "--set",
        "access.writers=group",
        "--set",
        "access.readers=group",
    )
    assert "; writers: group; group: " in site("status", "--root", tiny_root).stdout


def test_a_change_is_a_generation(old_and_new):
    root, old, new = old_and_new
    assert numbers(root) == [1, 2]
    first, second = generation(root, 1), generation(root, 2)
    assert (first["number"], first["restores"]) == (1, None)
    assert first["state"] == {"default": __version__, "active": {"tiny": old}, "clients": {}}
    assert second["state"] == {"default": __version__, "active": {"tiny": new}, "clients": {}}
    assert second["command"] == f"{SITE} install --root {root} --env tiny --no-client --yes"
    assert second["on"] == os.uname().nodename
    build = RootLayout(root).build("tiny", new)
    made = datetime.strptime(second["at"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    assert int((build / "build.json").stat().st_mtime) <= made <= time.time()


def test_back_and_forth(site, old_and_new):
    root, old, new = old_and_new
    done = site("rollback", "--root", root, "--dry-run")
    assert done.stdout == f"{root}:\n  tiny: use build {old} instead of {new}\n"
    assert (active(root), numbers(root)) == (new, [1, 2])
    site("rollback", "--root", root)
    assert (active(root), generation(root, 3)["restores"]) == (old, 1)
    # There is nothing before the first generation; forward goes by number.
    done = site("rollback", "--root", root, check=False)
    assert done.returncode == 10
    assert done.stderr == (
        f"Error: {root} has no generation before 1 where anything else was in use.\n"
        f"Generation 2 is later: rootstock-site rollback --root {root} --to 2 goes forward to it.\n"
    )
    site("rollback", "--root", root, "--to", "2")
    assert active(root) == new
    # The last change is undone: before generation 2, tiny was the old one.
    site("rollback", "--root", root)
    assert (active(root), generation(root, 5)["restores"]) == (old, 1)
    done = site("rollback", "--root", root, "--to", "9", check=False)
    assert (done.returncode, done.stderr) == (10, f"Error: {root} has no generation 9.\nIt has 1, 2, 3, 4, 5.\n")
    done = site("rollback", "--root", root, "--to", "1", "--json")
    assert json.loads(done.stdout)["empty"] is True


def test_going_back_takes_out_of_use_what_was_added_but_not_what_is_pinned(site, tiny_root, tiny):
    for name in ("other", "tiny@2024.01.15"):
        shutil.copy(tiny, tiny_root / f"environments/{name}.py")
        install(site, tiny_root, name)
    assert active(tiny_root, "other") == active(tiny_root, "tiny@2024.01.15") == active(tiny_root)
    pinned = tiny_root / "environments/tiny@2024.01.15.py"
    pinned.write_text(pinned.read_text() + "# newer\n")
    install(site, tiny_root, "tiny@2024.01.15")
    assert active(tiny_root, "tiny@2024.01.15") != active(tiny_root)
    site("rollback", "--root", tiny_root, "--to", "3")  # it had one then, which counts
    assert active(tiny_root, "tiny@2024.01.15") == active(tiny_root)
    site("rollback", "--root", tiny_root, "--to", "1")
    assert active(tiny_root, "other") is None
    assert active(tiny_root, "tiny@2024.01.15") == active(tiny_root)
    install(site, tiny_root, "other")
    assert active(tiny_root, "other") == active(tiny_root)


def test_a_build_that_is_gone_cannot_be_gone_back_to(site, old_and_new):
    root, old, new = old_and_new
    site("gc", "--root", root, "--keep", "1", "--older-than", "0", "--yes")
    (root / "generations/1.json").write_text(json.dumps(generation(root, 2) | {"number": 1, "state": {
        "default": __version__, "active": {"tiny": old}, "clients": {}}}))  # fmt: skip
    done = site("rollback", "--root", root, "--to", "1", check=False)
    assert done.returncode == 10
    assert f"Error: The build {old} of tiny is gone from {root}: it was collected by gc.\n" in done.stderr
    assert active(root) == new


def test_a_build_that_is_there_is_put_to_use_though_its_link_and_its_lock_are_gone(site, tiny_root):
    """As a killed installation leaves it; nothing is to be built for that."""
    layout, digest = RootLayout(tiny_root), active(tiny_root)
    lock = layout.lock_file("tiny").read_bytes()
    layout.lock_file("tiny").unlink()
    layout.active("tiny").unlink()
    options = ("--root", tiny_root, "--env", "tiny", "--no-client")
    assert f"  use build {digest} of tiny\n" in site("install", *options, "--dry-run").stdout
    (build,) = json.loads(site("install", *options, "--dry-run", "--json").stdout)["builds"]
    assert (build["reason"], build["room"]) == ("not in use", None)
    install(site, tiny_root, "tiny")
    assert (active(tiny_root), layout.lock_file("tiny").read_bytes()) == (digest, lock)
    assert len(list((tiny_root / "builds/tiny").iterdir())) == 1


def test_a_change_that_was_cut_off_is_recorded_by_the_next_command(site, old_and_new):
    root, old, _ = old_and_new
    link = RootLayout(root).active("tiny")
    link.unlink()
    link.symlink_to(f"../builds/tiny/{old}")
    (root / "environments/tiny.py").write_text((root / f"builds/tiny/{old}/environment.py").read_text())
    done = install(site, root, "tiny")
    assert done.stdout.startswith(f"{root}:\n  record the present state as a generation\n")
    assert generation(root, 3)["state"]["active"] == {"tiny": old}
    assert install(site, root, "tiny").stdout.endswith("nothing to do.\n")


def test_back_from_a_change_that_was_cut_off(site, old_and_new):
    root, old, new = old_and_new
    link = RootLayout(root).active("tiny")
    link.unlink()
    link.symlink_to(f"../builds/tiny/{old}")
    assert f"  tiny: use build {new} instead of {old}\n" in site("rollback", "--root", root).stdout
    assert (active(root), generation(root, numbers(root)[-1])["restores"]) == (new, 2)


def test_a_plan_that_was_overtaken_is_not_carried_out(bare_root):
    change = ["--set", "environments=", "--set", "contact=me", "--no-client"]
    command = [SITE, "install", "--yes", "--root", bare_root, *change]
    with holder(bare_root) as (process, _), started([*command, "--wait", "1000"]) as late:
        read_until(late, "waiting for")
        (bare_root / "generations/2.json").write_text(json.dumps(generation(bare_root, 1) | {"number": 2, "by": "ann"}))
        process.stdin.close()
        said = late.stderr.read()
        assert late.wait() == 11
    assert f"has changed {bare_root} meanwhile (" in said
    assert "Run the command again: it will say what is left to do.\n" in said
    assert "contact" not in (bare_root / "clusters.toml").read_text()


@contextlib.contextmanager
def running(build):
    """Run a process from a build."""
    code = "import six, sys; print(flush=True); sys.stdin.read()"
    command = [str(build / "bin/python"), "-I", "-B", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"\n"
        yield process
        process.stdin.close()


def test_gc_takes_what_nothing_refers_to(site, old_and_new):
    root, old, new = old_and_new
    gc = ("gc", "--root", root, "--keep", "1", "--older-than", "0")
    done = site(*gc, "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert (plan["schema"], plan["generations"], plan["spared"]) == (1, [1], [])
    assert plan_gc(Site(RootLayout(root), get_cluster("local")), keep=0, older_than=0).generations == (
        1,
    )  # not the present
    assert plan["builds"] == [{"name": "tiny", "digest": old}]
    assert plan["frees"]["files"] > 20
    assert sorted(os.listdir(root / "builds/tiny")) == sorted([old, new])
    site(*gc, "--yes")
    assert (os.listdir(root / "builds/tiny"), numbers(root)) == ([new], [2])
    assert site(*gc).stdout == f"{root}: nothing to do.\n"
    python = root / "active/tiny/bin/python"
    run(python, "-I", "-c", "import six", check=True)


def test_gc_keeps_what_a_generation_or_a_date_keeps(site, old_and_new):
    root, old, new = old_and_new
    for options in (["--keep", "2", "--older-than", "0"], ["--keep", "1", "--older-than", "1"], []):
        assert site("gc", "--root", root, *options).stdout == f"{root}: nothing to do.\n"
    # A build that no generation tells of is as old as itself.
    (root / "generations/1.json").unlink()
    done = site("gc", "--root", root, "--keep", "1", "--older-than", "1")
    assert done.stdout == f"{root}: nothing to do.\n  keep build {old} of tiny: made less than 1 days ago\n"
    assert sorted(os.listdir(root / "builds/tiny")) == sorted([old, new])


def test_gc_keeps_what_was_in_use_until_nobody_knows_when(site, old_and_new):
    root, _, _ = old_and_new
    path = root / "generations/2.json"
    path.write_text(json.dumps(generation(root, 2) | {"at": "yesterday"}))
    done = site("gc", "--root", root, "--keep", "1", "--older-than", "1")
    assert done.stdout.startswith(f"{root}: nothing to do.\n")


def test_days_count_from_when_something_went_out_of_use(site, old_and_new):
    root, old, new = old_and_new
    long_ago = "2024-01-15T10:00:00+0000"
    gc = ("gc", "--root", root, "--keep", "1", "--older-than", "1")

    def made_long_ago(number, build):
        path = root / f"generations/{number}.json"
        path.write_text(json.dumps(generation(root, number) | {"at": long_ago}))
        os.utime(root / f"builds/tiny/{build}/build.json", (0, 0))

    made_long_ago(1, old)  # and in use until just now
    assert site(*gc).stdout == f"{root}: nothing to do.\n"
    made_long_ago(2, new)  # so the other one has been out of use for as long
    site(*gc, "--yes")
    assert (os.listdir(root / "builds/tiny"), numbers(root)) == ([new], [2])


def test_gc_keeps_what_a_process_of_this_machine_runs_from(site, old_and_new):
    root, old, _ = old_and_new
    gc = ("gc", "--root", root, "--keep", "1", "--older-than", "0", "--yes")
    with running(RootLayout(root).build("tiny", old)) as process:
        done = site(*gc)
        who = f"process {process.pid} of {user_name()} ({root}/builds/tiny/{old}/bin/python -I -B -c 'import six, "
        assert f"  keep build {old} of tiny: in use on this machine by {who}" in done.stdout
        assert (root / "builds/tiny" / old / "build.json").is_file()
        site(*gc, "--force")
    assert not (root / "builds/tiny" / old).exists()


def test_gc_never_removes_what_it_runs_from_itself(old_and_new):
    root, old, _ = old_and_new
    build = RootLayout(root).build("tiny", old)
    paths = [path for path in sys.path if path]
    code = f"import sys; sys.path[:0] = {paths}; from rootstock.cli.site import main; main()"
    gc = ("gc", "--root", root, "--keep", "1", "--older-than", "0", "--yes", "--force")
    done = run(build / "bin/python", "-c", code, *gc, check=True)
    assert f"  keep build {old} of tiny: in use on this machine by process " in done.stdout
    assert (build / "build.json").is_file()


@contextlib.contextmanager
def telling(words, program="/bin/cat", **options):
    """Run a process whose command line is what we say, until the end of the block."""
    ends = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(list(map(str, words)), executable=program, **ends, **options) as process:
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.read(1) == b"\n"  # it is what it says from now on
        yield process
        process.stdin.close()


@pytest.mark.parametrize("words", [["cat", "-", "{}/bin/python"], ["{}/bin/python"], ["cat", "-", "{}/maps"]])
def test_what_a_command_line_says_keeps_no_build_and_no_root(site, old_and_new, words):
    """Of processes that can be looked into: all for root, one's own for others."""
    root, old, _ = old_and_new
    build = root / "builds/tiny" / old
    with telling([word.format(build) for word in words]):
        site("gc", "--root", root, "--keep", "1", "--older-than", "0")
        assert not build.exists()
        site("uninstall", "--root", root)
    assert not root.exists()


def test_a_process_that_nobody_but_its_user_can_look_into_is_named_as_such(tiny_root):
    need_root()
    setpriv, build = need_program("setpriv", "util-linux"), active_build(RootLayout(tiny_root).active("tiny"))
    open_to_readers(tiny_root.parent)
    admin, other = 65533, 65534
    run("chown", "-hR", f"{admin}:{admin}", tiny_root, check=True)
    tiny_root.parent.chmod(0o777)  # as a scratch folder may be
    env = clean_environment(HOME=str(tiny_root.parent))
    user = [setpriv, f"--reuid={admin}", f"--regid={admin}", "--clear-groups"]
    uninstall = [*user, SITE, "uninstall", "--root", tiny_root, "--yes"]
    options = {"user": other, "group": other, "extra_groups": [], "cwd": "/"}
    with telling(["cat", "-", build / "bin/python"], **options):  # it only names one
        assert run(*uninstall, "--dry-run", cwd="/", env=env).returncode == 0
    with telling([build / "bin/python"], **options) as process:
        done = run(*uninstall, cwd="/", env=env)
        name = pwd.getpwuid(other).pw_name
        assert done.returncode == 10
        assert (
            f"Error: builds/tiny/{build.name} is in use on this machine by process {process.pid} of {name} "
            in done.stderr
        )
        assert (
            f"; its command line says so, and only {name} and root can look).\nEnd it first; or add --force"
            in done.stderr
        )
        done = run(*uninstall, "--force", cwd="/", env=env, check=True)
        assert f"  process {process.pid} of {name} (" in done.stdout
    tiny_root.parent.chmod(0o755)
    assert not tiny_root.exists()


def test_a_calculator_keeps_to_the_build_that_it_was_made_with(site, old_and_new, tmp_path):
    root, old, new = old_and_new
    site("rollback", "--root", root)
    kept = RootstockCalculator("tiny", root=root, device="cpu")
    site("rollback", "--root", root, "--to", 2)
    kept.set(timeout=5.0)  # which is no reason to look for anything again
    assert kept._session.spec.timeout == 5.0
    assert kept._session.spec.model.launch().command[0] == f"{root}/builds/tiny/{old}/bin/python"
    copy = pickle.loads(pickle.dumps(kept))  # it shares the worker
    assert copy._session.spec is kept._session.spec
    (tmp_path / "pickle").write_bytes(pickle.dumps(kept))
    fresh = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))._session.spec.model.build_name)"
    assert run(sys.executable, "-c", fresh, tmp_path / "pickle", check=True).stdout == f"tiny/{new}\n"
    site("gc", "--root", root, "--keep", 1, "--older-than", 0, "--yes")
    with pytest.raises(RootError, match=f"The build {old} of 'tiny' is gone from .*\nMake a new calculator"):
        kept.start()


def test_gc_removes_what_was_cut_off(site, tiny_root):
    leftover = tiny_root / "builds/tiny/.staging-abc"
    shutil.copytree(tiny_root / "active/tiny", leftover, symlinks=True)
    done = site("gc", "--root", tiny_root, "--yes")
    assert "  remove builds/tiny/.staging-abc, left by a command that was cut off\n" in done.stdout
    assert not leftover.exists()


def test_gc_leaves_what_a_running_command_is_making(site, tiny_root):
    being_made = tiny_root / "builds/tiny/.staging-abc"
    being_made.mkdir()
    with holder(tiny_root) as (process, _):
        done = site("gc", "--root", tiny_root)
        assert (
            f"{tiny_root}: nothing to do.\n  keep builds/tiny/.staging-abc: the root is being changed by "
            in done.stdout
        )
        assert f"(process {process.pid}, since" in done.stdout
        plan = json.loads(site("gc", "--root", tiny_root, "--dry-run", "--json").stdout)
        assert (plan["empty"], plan["leftovers"]) == (True, [])
        assert (plan["unfinished"], plan["holder"]["pid"]) == (["builds/tiny/.staging-abc"], process.pid)
        process.kill()
        process.wait()
        done = site("gc", "--root", tiny_root)
        assert "  remove builds/tiny/.staging-abc, left by a command that was cut off\n" in done.stdout
    assert not being_made.exists()


def test_gc_cannot_look_at_a_command_of_another_machine(site, tiny_root, tmp_path):
    being_made, layout = tiny_root / "builds/tiny/.staging-abc", RootLayout(tiny_root)
    being_made.mkdir()
    lock, record = layout.admin_lock, Holder("rootstock-site install", "ann", "far", 7, "now").to_json()
    no_flock = clean_environment(**without_flock(tmp_path, lock))
    with holder(tiny_root):
        layout.admin_owner.write_text(record)
        held = site("gc", "--root", tiny_root).stdout
    for said in (held, site("gc", "--root", tiny_root, environment=no_flock).stdout):
        for kept in ("builds/tiny/.staging-abc", "all of the package cache"):
            assert f"keep {kept}: the root is being changed by ann on far (process 7, " in said
        assert said.count("`ps -p 7` on far shows it; if it has ended, add --break-lock\n") == 2
    site("gc", "--root", tiny_root, "--break-lock", environment=no_flock)
    assert not being_made.exists()


def test_gc_knows_by_the_lock_that_a_command_of_another_machine_has_ended(site, tiny_root):
    left, layout = tiny_root / "builds/tiny/.staging-abc", RootLayout(tiny_root)
    left.mkdir()
    layout.admin_owner.write_text(Holder("rootstock-site install", "ann", "far", 7, "now").to_json())
    assert json.loads(site("gc", "--root", tiny_root, "--dry-run", "--json").stdout)["cache_kept"] is None
    assert "  remove builds/tiny/.staging-abc, left by a command " in site("gc", "--root", tiny_root).stdout
    assert not left.exists() and not layout.admin_owner.exists()


def test_gc_removes_what_was_half_written_days_ago(site, tiny_root):
    old = [
        tiny_root / ".clusters.toml.ab12cd_x",
        tiny_root / "generations/.1.json.zyxw9876",
        tiny_root / "active/.tiny.77",
    ]
    others = [
        tiny_root / ".clusters.toml.00000000",
        tiny_root / "environments/.hidden",
        tiny_root / "builds/.x.ab12cd34",
    ]
    for path in (*old, *others):
        path.symlink_to("nowhere") if path.name == ".tiny.77" else path.write_text("half")
        if path is not others[0]:  # that one may be somebody's who is at work
            os.utime(path, (time.time() - 90000,) * 2, follow_symlinks=False)
    done = site("gc", "--root", tiny_root, "--yes")
    assert "  remove active/.tiny.77, left by a command that was cut off\n" in done.stdout
    assert not any(os.path.lexists(path) for path in old)
    assert all(path.is_file() for path in others)


def contents(root):
    return {path: path.lstat().st_mtime_ns for path in root.rglob("*")}


def test_a_command_that_asks_refuses_where_nobody_can_answer(site, old_and_new):
    root, *_ = old_and_new
    (root / "environments/tiny.py.lock").unlink()
    install, before = ("install", "--env", "tiny", "--no-client"), contents(root)
    changes = [
        ("gc", "--keep", "1", "--older-than", "0"), ("uninstall",), ("rollback",), ("rollback", "--to", "1", "--json"),
        (*install, "--set", "contact=me"), (*install, "--set", "contact=me", "--json"), ("lock",),
        ("warm", "--env", "tiny", "--model", "small"),
    ]  # fmt: skip
    for command in changes:
        done = site(*command, "--root", root, check=False, yes=False)
        said = "There is no terminal to ask at, so nothing was done.\nAdd --yes to go ahead, or --dry-run to look only."
        assert (done.returncode, done.stderr.endswith(f"Error: {said}\n")) == (3, True), (command, done.stderr)
        assert done.stdout, command  # the plan
    own = run(ROOTSTOCK, "warm", "tiny-small", "--root", root)
    assert (own.returncode, own.stderr.endswith(f"Error: {said}\n")) == (3, True), own.stderr
    for command in changes:
        site(*command, "--dry-run", "--root", root, yes=False)
    assert contents(root) == before
    site("lock", "--root", root)
    for command in (("lock",), (*install,)):
        assert "nothing to do" in site(*command, "--root", root, yes=False).stdout


@pytest.mark.parametrize("answer", ["n", "y"])
def test_somebody_at_a_terminal_is_asked(bare_root, answer):
    command = [SITE, "install", "--root", bare_root, "--set", "environments=", "--set", "contact=me", "--no-client"]
    ours, theirs = os.openpty()
    with subprocess.Popen(command, env=clean_environment(), stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        with contextlib.suppress(OSError):  # the other end is closed
            while os.read(ours, 4096):
                pass
        assert process.wait() == (0 if answer == "y" else 130)
    os.close(ours)
    assert ("contact" in (bare_root / "clusters.toml").read_text()) == (answer == "y")


def test_status(site, old_and_new):
    root, _, new = old_and_new
    status = json.loads(site("status", "--root", root, "--json", "--sizes").stdout)
    assert (status["schema"], status["root"], status["cluster"], status["readers"]) == (2, str(root), "local", "owner")
    assert (status["default"], status["versions"], status["idle_builds"]) == (__version__, [__version__], 1)
    (environment,) = status["environments"]
    assert (environment["name"], environment["digest"], environment["packages"]) == ("tiny", new, 1)
    assert [each["number"] for each in status["generations"]] == [1, 2]
    assert status["holder"] is None
    assert status["sizes"]["builds/tiny"]["files"] > 40
    said = site("status", "--root", root).stdout.splitlines()
    assert said[0] == f"{root}: cluster local, layout 1"
    assert said[1] == f"rootstock {__version__} (default)"
    assert said[3].startswith(f"environment tiny: build {new}, 20")


def test_uninstall_removes_exactly_the_root(site, tiny_root):
    beside = tiny_root.parent / "beside"
    beside.touch()
    before = set(tiny_root.parent.iterdir())
    done = site("uninstall", "--root", tiny_root, "--dry-run")
    assert done.stdout.startswith(f"{tiny_root}:\n  remove it with everything in it: ")
    site("uninstall", "--root", tiny_root, "--yes")
    assert set(tiny_root.parent.iterdir()) == before - {tiny_root}
    beside.unlink()  # this folder is that of other tests, too


def test_uninstall_through_a_symlink(site, bare_root, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(bare_root)
    site("uninstall", "--root", link, "--yes")
    assert (link.is_symlink(), link.exists(), bare_root.exists()) == (True, False, False)


def test_uninstall_refuses_what_is_no_root(site, tmp_path):
    (tmp_path / "modulefiles").mkdir()
    done = site("uninstall", "--root", tmp_path, "--yes", check=False)
    assert done.returncode == 10
    assert f"Error: {tmp_path} is not a Rootstock root: it has no rootstock.toml.\n" in done.stderr
    assert (tmp_path / "modulefiles").is_dir()


def test_uninstall_refuses_a_root_with_something_else_in_it(site, bare_root):
    (bare_root / "thesis.tex").touch()
    done = site("uninstall", "--root", bare_root, "--yes", check=False)
    assert done.returncode == 10
    assert f"Error: {bare_root} holds what Rootstock did not put there: thesis.tex.\n" in done.stderr
    assert (bare_root / "rootstock.toml").is_file()


def test_uninstall_refuses_a_root_in_use(site, tiny_root):
    with running(active_build(RootLayout(tiny_root).active("tiny"))) as process:
        done = site("uninstall", "--root", tiny_root, "--yes", check=False)
        assert done.returncode == 10
        assert f"is in use on this machine by process {process.pid} of {user_name()} (" in done.stderr
        assert "\nEnd it first; or add --force, and it fails when it next reads a file of the root.\n" in done.stderr
        plan = json.loads(site("uninstall", "--root", tiny_root, "--force", "--dry-run", "--json").stdout)
        assert [(each["pid"], each["seen"]) for each in plan["running"]] == [(process.pid, True)]
        site("uninstall", "--root", tiny_root, "--force")
    assert not tiny_root.exists()


def test_uninstall_refuses_a_root_whose_interpreter_is_in_use(site, bare_root):
    """And no build: somebody's own script may run it."""
    program = bare_root / "python/mine/bin/sleeper"
    program.parent.mkdir(parents=True)
    shutil.copy("/bin/cat", program)
    with telling(["cat"], program):
        done = site("uninstall", "--root", bare_root, check=False)
        assert done.returncode == 10
        assert "Error: python/mine is in use on this machine by process " in done.stderr


def test_uninstall_that_was_cut_off_goes_on(site, bare_root):
    for folder in ("modulefiles", "active", "builds"):
        shutil.rmtree(bare_root / folder)
    site("uninstall", "--root", bare_root, "--yes")
    assert not bare_root.exists()
