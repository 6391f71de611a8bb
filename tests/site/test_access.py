"""Who may do what under a root, with real users: the modes that an installation sets, whatever the umask."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rootstock import __version__
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import Access
from rootstock.root.records import active_build
from tests.support.commands import SITE, clean_environment, run
from tests.support.folders import open_to_readers
from tests.support.needs import need_program, need_root
from tests.support.tracing import at_change

GROUP = 7301  # needs no name on this machine


@pytest.fixture
def field(tmp_path):
    """Return a folder that everybody can reach, and members of the group can write to."""
    need_root()
    open_to_readers(tmp_path)
    folder = tmp_path / "field"
    folder.mkdir()
    os.chown(folder, 0, GROUP)
    folder.chmod(0o2775)
    return folder


@pytest.fixture
def run_as(tmp_path):
    """Return the function that runs a command as another user, with a home and a folder for temporary files."""
    setpriv = need_program("setpriv", "util-linux")

    def call(uid, *command, member=False, umask=0o022, check=False):
        own = tmp_path / f"home-{uid}"
        if not own.exists():
            for folder in (own, own / "tmp"):
                folder.mkdir(mode=0o700)
                os.chown(folder, uid, uid)
        who = (f"--reuid={uid}", f"--regid={uid}", f"--groups={GROUP}" if member else "--clear-groups")
        env = clean_environment(HOME=str(own), TMPDIR=str(own / "tmp"))
        return run(setpriv, *who, *command, env=env, cwd="/", umask=umask, check=check)

    return call


@pytest.fixture
def install_as(run_as):
    """Return the function that installs as a member of the group, and returns the output."""

    def call(uid, root, *options, umask=0o077):
        command = (SITE, "install", "--yes", "--cluster", "local", "--root", root, "--no-client", *options)
        return run_as(uid, *command, member=True, umask=umask, check=True).stdout

    return call


def modes(root):
    """Return the modes of everything below the root but uv's cache, which has its own."""
    layout = RootLayout(root)
    paths = [path for path in (root, *root.rglob("*")) if layout.uv_cache not in path.parents and not path.is_symlink()]
    return {path.relative_to(root).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in paths}


@pytest.mark.parametrize(
    ("uid", "gid", "advice"),
    [
        (0, 0, "Ask root or the site's admin to give it to a group of its users: root is "),
        (1, 1, "Ask daemon or the site's admin to give it to a group of its users: daemon is "),
        (0, 7301, "Ask the site's admin to add you to the group 7301; "),
    ],
)
def test_nobody_is_told_to_join_the_group_of_one(run_as, tmp_path, uid, gid, advice):
    need_root()
    open_to_readers(tmp_path)
    (tmp_path / "closed/root").mkdir(parents=True)
    os.chown(tmp_path / "closed", uid, gid)
    (tmp_path / "closed").chmod(0o750)
    done = run_as(4242, SITE.with_name("rootstock"), "list", "--root", tmp_path / "closed/root")
    assert done.returncode == 10
    assert f"{tmp_path}/closed does not let you in: its mode is 0750, " in done.stderr
    assert done.stderr.splitlines()[1].startswith(advice)


@pytest.mark.parametrize(
    ("readers", "gid", "mode"),
    [("world", -1, 0o755), ("group", -1, 0o2750), ("group", GROUP, 0o2750), ("owner", -1, 0o700)],
)
def test_what_is_made_in_a_folder_of_readers_is_of_its_group(readers, gid, mode):
    """Without a group of its own it is the folder's, which its setgid bit hands down."""
    assert Access(readers, gid).folder == mode


@pytest.mark.parametrize(
    ("group", "mode", "shut"),
    [(GROUP, 0o2710, False), (GROUP, 0o2701, True), (GROUP + 1, 0o710, True), (GROUP + 1, 0o701, False)],
)
def test_members_of_the_group_come_by_its_way(field, group, mode, shut):
    """A folder's mode for its group holds for its members, also where that for others would let them in."""
    os.chown(field, 0, group)
    field.chmod(mode)
    assert Access("group", GROUP).obstacles(field / "root") == [field] * shut


@pytest.mark.parametrize("umask", [0o077, 0o000])
@pytest.mark.parametrize(("readers", "folder", "file"), [("world", 0o2755, 0o644), ("group", 0o2750, 0o640)])
def test_modes_do_not_depend_on_the_umask(field, install_as, tiny, umask, readers, folder, file):
    options = ("--env", tiny, "--group", str(GROUP), "--set", f"access.readers={readers}")
    install_as(4001, field / "root", *options, umask=umask)
    found = modes(field / "root")
    for name in (".", "environments", "builds", "builds/tiny", "active", "cache", "generations"):
        assert (name, found[name]) == (name, folder)
    for name in ("rootstock.toml", "clusters.toml", "environments/tiny.py", "environments/tiny.py.lock",
                 "generations/1.json", "activate/rootstock.sh"):  # fmt: skip
        assert (name, found[name]) == (name, file)
    # To a user root, Lmod shows of root's modulefiles only those that everybody may read.
    assert (found["modulefiles/rootstock"], found[f"modulefiles/rootstock/{__version__}.lua"]) == (0o2755, 0o644)
    for name in ("cache/uv", "locks", "log"):
        assert (name, found[name]) == (name, 0o2700)
    builds = {name: mode for name, mode in found.items() if name.startswith("builds/tiny/")}
    assert len(builds) > 20
    assert set(builds.values()) == {folder & 0o555, file & 0o444}


@pytest.mark.parametrize("umask", [0o077, 0o000])
@pytest.mark.parametrize("writers", ["owner", "group"])
def test_nothing_is_writable_by_everybody(field, install_as, tiny, umask, writers):
    options = ("--env", tiny, "--group", str(GROUP), "--set", "access.readers=world")
    install_as(4001, field / "root", *options, "--set", f"access.writers={writers}", umask=umask)
    # uv makes its lock files writable by everybody, in its cache too.
    excess = 0o002 if writers == "group" else 0o022
    loose = [path for path in (field / "root").rglob("*")
             if not path.is_symlink() and path.lstat().st_mode & excess and path.name != "admin.lock"]  # fmt: skip
    assert loose == []
    assert list((field / "root/cache/uv").rglob(".lock"))


def test_readers_read_and_do_not_write(field, install_as, run_as, tiny):
    root = field / "root"
    install_as(4001, root, "--env", tiny, "--set", "access.readers=world")
    done = run_as(4009, root / "active/tiny/bin/python", "-I", "-c", "import six; print(six.__name__)")
    assert (done.stdout, done.stderr) == ("six\n", "")
    assert run_as(4009, SITE, "status", "--root", root).returncode == 0
    change = ("--set", "environments=", "--set", "contact=me", "--no-client")
    done = run_as(4009, SITE, "install", "--yes", "--root", root, *change)
    assert done.returncode == 10
    said = f"Error: You may not change {root}: it belongs to 4001, and you are uid 4009.\nDo this as 4001, "
    assert said in done.stderr


def test_readers_of_the_group_and_outsiders(field, install_as, run_as, tiny):
    root = field / "root"
    install_as(4001, root, "--env", tiny, "--group", str(GROUP), "--set", "access.readers=group")
    python = (root / "active/tiny/bin/python", "-I", "-c", "import six")
    assert run_as(4002, *python, member=True).returncode == 0
    outsider = run_as(4009, SITE, "status", "--root", root)
    assert outsider.returncode == 10
    assert f"Error: Cannot read {root}/rootstock.toml: {root} does not let you in: its mode is " in outsider.stderr


def test_every_member_of_a_group_of_admins_can_install(field, install_as, run_as, tiny, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(tiny.read_text())
    other.chmod(0o644)
    root = field / "root"
    shared = ("--group", str(GROUP), "--set", "access.readers=world", "--set", "access.writers=group")
    install_as(4001, root, "--env", tiny, *shared)
    install_as(4002, root, "--env", other)
    assert install_as(4001, root, "--env", "other").endswith("nothing to do.\n")
    assert stat.S_IMODE((root / "locks/admin.lock").stat().st_mode) == 0o664
    assert {path.lstat().st_gid for path in root.rglob("*")} == {GROUP}
    owners = {name: active_build(RootLayout(root).active(name)).stat().st_uid for name in ("tiny", "other")}
    assert owners == {"tiny": 4001, "other": 4002}
    for name in owners:
        assert run_as(4009, root / f"active/{name}/bin/python", "-I", "-c", "import six").returncode == 0
    # What the first made, the second can go back to and change.
    done = run_as(4002, SITE, "rollback", "--yes", "--root", root, member=True, umask=0o077)
    assert (done.returncode, done.stdout) == (
        0, f"{root}:\n  take other out of use (build {active_digest(root, 'other')} stays)\n"
    )  # fmt: skip


SHARED = ("--group", str(GROUP), "--set", "access.readers=world", "--set", "access.writers=group")


def test_what_another_admin_has_left_is_no_obstacle(field, install_as, run_as, tiny, tmp_path):
    """Sealed builds, what a killed build leaves, files with modes of their own: their owner alone can remove them."""
    root = field / "root"
    install_as(4001, root, "--env", tiny, *SHARED)
    old = RootLayout(root).build("tiny", active_digest(root, "tiny"))
    leftover, closed = old.with_name(".staging-killed"), root / "environments" / "mine.py"
    assert run_as(4001, "mkdir", "--mode=0700", leftover, member=True).returncode == 0
    assert run_as(4001, "touch", closed, member=True, umask=0o077).returncode == 0
    # What a build that failed has left in the cache, which uv links into the next one.
    linked = ("find", root / "cache/uv", "-type", "f", "-name", "*.py", "-exec", "chmod", "0660", "{}", "+")
    assert run_as(4001, *linked, member=True).returncode == 0
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "tiny.py").write_text(tiny.read_text() + "# newer\n")
    for path in (newer, newer / "tiny.py"):
        path.chmod(path.stat().st_mode | 0o055)
    again = (SITE, "install", "--yes", "--root", root, "--no-client", "--env", newer / "tiny.py")
    done = run_as(4002, *again, member=True)
    assert done.returncode == 0, done.stderr
    assert f"Note: {closed} has mode 0600, not 0664: 4001 can change that\n" in done.stderr
    build = active_build(RootLayout(root).active("tiny"))
    assert {path.lstat().st_uid for path in (build, *build.rglob("*"))} == {4002}
    assert {stat.S_IMODE(path.lstat().st_mode) for path in build.rglob("*.py")} == {0o444}
    collect = ("gc", "--root", root, "--keep", "1", "--older-than", "0", "--yes")
    done = run_as(4002, SITE, *collect, member=True)
    assert done.returncode == 0, done.stderr
    assert f"keep build {old.name} of tiny: only 4001 can remove it\n" in done.stdout
    assert old.is_dir() and leftover.is_dir()
    # Nothing of what users need is gone before it is known that all can go.
    done = run_as(4002, SITE, "uninstall", "--root", root, "--yes", member=True)
    assert done.returncode == 10
    assert done.stderr.startswith("Error: Only 4001 can remove builds/tiny/")
    assert run_as(4009, root / "active/tiny/bin/python", "-I", "-c", "import six").returncode == 0
    done = run_as(4001, SITE, *collect, member=True)
    assert done.returncode == 0, done.stderr
    assert not old.exists() and not leftover.exists()


def test_admins_who_cannot_read_what_others_install_are_refused(field, run_as, tiny):
    options = ("--env", tiny, "--group", str(GROUP), "--set", "access.writers=group", "--set", "access.readers=owner")
    command = (SITE, "install", "--yes", "--cluster", "local", "--root", field / "root", "--no-client", *options)
    done = run_as(4001, *command, member=True)
    assert (done.returncode, "Add --set access.readers=group, or world." in done.stderr) == (3, True)
    assert not (field / "root").exists()


def test_a_root_in_a_folder_that_its_admin_cannot_change(field, install_as, run_as, tiny):
    """Such as a mount point, or the folder of a site's software."""
    root = field / "root"
    install_as(4001, root, "--env", tiny)
    os.chown(field, 0, 0)
    field.chmod(0o755)
    done = run_as(4001, SITE, "uninstall", "--root", root, "--yes", member=True)
    assert done.returncode == 0, done.stderr
    assert f"the empty folder {root} stays: Permission denied" in done.stderr
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("number", [1, 20, 60])
def test_a_change_of_readers_that_was_cut_off_is_finished(site, tiny_root, number):
    """Whichever change of a mode it was cut off at."""
    command = ("install", "--yes", "--root", tiny_root, "--env", "tiny", "--no-client", "--set", "access.readers=world")
    cut = run(*at_change("chmod", number, "KILL"), SITE, *command)
    assert cut.returncode in (-9, 137), cut.stdout
    site(*command)
    build = active_build(RootLayout(tiny_root).active("tiny"))
    assert [
        path for path in (build, *build.rglob("*")) if not path.is_symlink() and path.stat().st_mode & 0o444 != 0o444
    ] == []
    assert site(*command).stdout.endswith("nothing to do.\n")


def active_digest(root, name):
    (record,) = (root / "builds" / name).glob("*/build.json")
    return record.parent.name


def test_somebody_who_is_not_in_the_group(field, run_as, tiny):
    where = ("--cluster", "local", "--root", field / "root")
    command = (SITE, "install", "--yes", *where, "--group", str(GROUP), "--env", tiny)
    done = run_as(4009, *command)
    assert done.returncode == 3
    assert f"Error: You are not in the group '{GROUP}', so you cannot give it the files.\n" in done.stderr


def test_a_group_that_does_not_exist(site, tmp_path):
    done = site("install", "--cluster", "local", "--root", tmp_path / "root", "--group", "hobbits", check=False)
    assert done.returncode == 3
    assert "Error: There is no group 'hobbits' on this machine.\n" in done.stderr


def test_other_readers_get_other_modes(site, tiny_root):
    command = ("install", "--yes", "--root", tiny_root, "--env", "tiny", "--no-client", "--set", "access.readers=world")
    for name in ("cache/web/model", "weights/tiny/model.json"):  # as a library and `warm` leave them
        (tiny_root / name).parent.mkdir(mode=0o700)
        (tiny_root / name).touch(mode=0o600)
    found = modes(tiny_root)
    # But for the lock file, in a folder of the admins, and the modulefiles, in a root that nobody else can enter.
    assert {name for name, mode in found.items() if mode & 0o077 and not name.startswith("modulefiles")} == {
        "locks/admin.lock"
    }
    assert found["."] == 0o700
    before = active_build(RootLayout(tiny_root).active("tiny"))
    done = site(*command)
    assert "  change the modes of all builds: readable by world\n" in done.stdout
    assert "more files and folders (--json names them)\n" in done.stdout
    found = modes(tiny_root)
    name = before.relative_to(tiny_root).as_posix()
    assert (found["."], found["environments/tiny.py"], found[name], found[f"{name}/build.json"]) == (
        0o755, 0o644, 0o555, 0o444,
    )  # fmt: skip
    closed = {name.split("/")[0] for name, mode in found.items() if not mode & 0o004 and name != "cache/uv"}
    assert closed == {"locks", "log"}
    assert site(*command).stdout.endswith("nothing to do.\n")


def test_a_mode_that_somebody_changed_is_mended(site, bare_root):
    (bare_root / "environments").chmod(0o777)
    written = bare_root / "environments/mine.py"
    written.write_text("# an admin's, with the modes of their umask\n")
    written.chmod(0o666)
    done = site("install", "--root", bare_root, "--set", "environments=", "--no-client")
    assert done.stdout.startswith(
        f"{bare_root}:\n"
        "  change the mode of environments from 0777 to 0700\n"
        "  change the mode of environments/mine.py from 0666 to 0600\n"
    )
    assert Path(written).stat().st_mode & 0o777 == 0o600
