"""Real accounts that share a root, or may not: it is given to a group of admins, and nobody runs what others wrote."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from pathlib import Path

import pytest

from rootstock.root.layout import RootLayout
from rootstock.root.modes import modes_needed
from rootstock.root.permissions import Access
from rootstock.root.records import active_build, read_marker
from tests.support.commands import ASKING, ROOTSTOCK, SITE, clean_environment, run
from tests.support.folders import open_to_readers
from tests.support.needs import need, need_program, need_root

GROUP, ANN, BEN, EVE = 7311, 7312, 7313, 7314  # no account has these numbers


@pytest.fixture
def place(tmp_path):
    """Return a folder of Ann's that everybody can reach."""
    need_root()
    open_to_readers(tmp_path)
    return folder_of(ANN, tmp_path / "place")


def folder_of(uid, path):
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    os.chown(path, uid, uid)
    return path


def run_in(home, uid, *command, groups="", umask=0o077, prefix=()):
    """Run a command as somebody whose home is a folder that is made for it."""
    if not home.exists():
        folder_of(uid, home)
        folder_of(uid, home / "tmp")
    who = (f"--reuid={uid}", f"--regid={uid}", f"--groups={groups}" if groups else "--clear-groups")
    env = clean_environment(HOME=str(home), TMPDIR=str(home / "tmp"))
    setpriv = need_program("setpriv", "util-linux")
    return run(*prefix, setpriv, *who, *command, env=env, cwd="/", umask=umask)


@pytest.fixture
def run_as(tmp_path):
    """Return the function that runs a command as somebody, who is in the group if that is said."""
    return lambda uid, *command, **options: run_in(tmp_path / f"home-{uid}", uid, *command, **options)


@pytest.fixture
def member(run_as):
    """Return the function that runs rootstock-site as a member of the group, and expects an exit code."""

    def call(uid, command, root, *options, code=0, prefix=()):
        agreed = ["--yes"] if command in ASKING and "--yes" not in options else []
        done = run_as(uid, SITE, command, "--root", root, *options, *agreed, groups=GROUP, prefix=prefix)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done

    return call


@pytest.fixture(scope="session")
def kept(tmp_path_factory, tiny_text):
    """Return a root of Ann's alone, with a build and a log; none of its files is of the group."""
    need_root()
    base = tmp_path_factory.mktemp("ann")
    open_to_readers(base)
    (base / "tiny.py").write_text(tiny_text)
    (base / "tiny.py").chmod(0o644)
    command = (SITE, "install", "--yes", "--cluster", "local", "--no-client", "--env", base / "tiny.py", "--root")
    done = run_in(base / "home", ANN, *command, folder_of(ANN, base / "place") / "root")
    assert done.returncode == 0, done.stderr
    return base / "place/root"


@pytest.fixture
def root(place, kept):
    """Return a copy of it that a test may change."""
    run("cp", "-a", kept, place / "root", check=True)
    return place / "root"


SHARE = ("--no-client", "--env", "tiny", "--group", str(GROUP), "--set", "access.readers=group",
         "--set", "access.writers=group")  # fmt: skip


def state(root):
    """Return owner, group and mode of everything under a root but logs, and what is in the files that say who may."""
    layout = RootLayout(root)
    paths = sorted(path for path in (root, *root.rglob("*")) if layout.log not in path.parents)
    seen = {str(path): path.lstat() for path in paths}
    texts = [path.read_text() for path in (layout.marker, layout.clusters_file)]
    return {name: (status.st_uid, status.st_gid, status.st_mode) for name, status in seen.items()}, texts


def other_environment(tmp_path, tiny, name="other"):
    path = tmp_path / f"{name}.py"
    path.write_text(tiny.read_text())
    path.chmod(0o644)
    return path


def test_a_root_is_given_to_a_group_later(root, member, run_as, tiny, tmp_path):
    member(ANN, "install", root, *SHARE)
    layout = RootLayout(root)
    assert {path.lstat().st_gid for path in (root, *root.rglob("*"))} == {GROUP}
    closed = [path for path in root.rglob("*") if not path.is_symlink() and not path.stat().st_mode & 0o040]
    assert closed == []
    cache = [path for path in layout.uv_cache.rglob("*") if not path.is_symlink()]
    assert [path for path in cache if path.is_dir() and stat.S_IMODE(path.stat().st_mode) & 0o2770 != 0o2770] == []
    assert [path for path in cache if path.name == ".lock" and path.stat().st_mode & 0o060 != 0o060] == []
    # The second admin does all that the first can.
    member(BEN, "install", root, "--no-client", "--env", other_environment(tmp_path, tiny))
    member(BEN, "lock", root, "--env", "tiny", "--upgrade", "six", "--yes")
    member(BEN, "rollback", root, "--yes")
    assert active_build(layout.active("other")) is None
    done = member(BEN, "gc", root, "--keep", "1", "--older-than", "0", "--yes")
    assert "forget generation 1\n" in done.stdout
    # And the first still can.
    assert member(ANN, "install", root, "--no-client", "--env", "other").returncode == 0
    assert member(BEN, "install", root, "--no-client", "--env", "tiny").stdout.endswith("nothing to do.\n")
    # Whatever either has made since, in uv's cache too, is as the access says.
    noted = Access.noted(read_marker(layout))
    assert list(modes_needed(layout, noted, everything=True)) == []
    for uid in (ANN, BEN):
        said = run_as(uid, ROOTSTOCK, "doctor", "--root", root, groups=GROUP).stdout
        assert "ok       access" in said, said
        assert "ok       locks" in said, said


@pytest.mark.parametrize("name", ["generations/1.json", "cache/uv/CACHEDIR.TAG", "builds/tiny/{digest}/sbom.cdx.json"])
def test_somebody_elses_file_keeps_all_of_the_access_as_it_is(root, member, name):
    path = root / name.format(digest=active_build(RootLayout(root).active("tiny")).name)
    os.chown(path, 0, 0)
    before = state(root)
    logs = len(list((root / "log").iterdir()))
    done = member(ANN, "install", root, *SHARE, code=10)
    assert done.stderr == (
        f"Error: The access to {root} cannot be changed: {path} belongs to root. Its owner alone can change its mode. "
        f"Nothing was changed.\nLet root give you all of it: chown -hR {ANN} {root}   "
        "Then run the same command again.\n"
    )
    assert (state(root), len(list((root / "log").iterdir()))) == (before, logs)
    os.chown(path, ANN, ANN)
    member(ANN, "install", root, *SHARE)
    assert path.stat().st_gid == GROUP


def test_a_file_that_comes_from_somebody_else_after_the_plan(root, member):
    """It is made by the site's hook, which runs between the plan and the changes; chown takes root's rights."""
    hook = root / "hooks/pre-install"
    write_as(hook, ANN, "#!/bin/sh\nmv $ROOTSTOCK_ROOT/../foreign $ROOTSTOCK_ROOT/generations/99.txt\n")
    foreign = root.parent / "foreign"
    foreign.touch(mode=0o600)
    os.chown(foreign, EVE, EVE)
    before = state(root)
    done = member(ANN, "install", root, *SHARE, code=10)
    assert f"{root}/generations/99.txt belongs to {EVE}. Its owner alone can change its mode." in done.stderr
    after = state(root)
    after[0].pop(f"{root}/generations/99.txt")
    assert after == before


@contextlib.contextmanager
def unchangeable(path):
    """Let nobody change a file, nor its mode."""
    need_program("chattr", "e2fsprogs")
    done = run("chattr", "+i", path)
    need(done.returncode == 0, f"a file system with immutable files: {done.stderr}")
    try:
        yield
    finally:
        run("chattr", "-i", path, check=True)


@contextlib.contextmanager
def read_only(path):
    """Lay a read-only view of a folder over it."""
    run("mount", "--bind", path, path, check=True)
    try:
        run("mount", "-o", "remount,bind,ro", path, check=True)
        yield
    finally:
        run("umount", path, check=True)


@pytest.mark.parametrize(
    ("obstacle", "place_of", "reason"),
    [(unchangeable, "weights", "Operation not permitted"), (read_only, "runtime", "Read-only file system")],
)
def test_a_change_of_access_that_is_refused_halfway_is_undone(root, member, obstacle, place_of, reason):
    before = state(root)
    with obstacle(root / place_of):
        done = member(ANN, "install", root, *SHARE, code=10)
    said = f"Error: Cannot change the mode or the group of {root}/{place_of}: {reason}. All modes are as they were.\n"
    assert said in done.stderr
    assert state(root) == before
    member(ANN, "install", root, *SHARE)
    assert {path.lstat().st_gid for path in root.rglob("*")} == {GROUP}


def at_call(names, number, what):
    """Return the prefix of a command that has something come in the way of its n-th system call of these names."""
    trace = (need_program("strace", "strace"), "-o", "/dev/null", "-e", f"trace={names}")
    return (*trace, "-e", f"inject={names}:{what}:when={number}")


def test_a_change_of_access_whose_settings_cannot_be_written_is_undone(root, member):
    """All modes were changed when the first file was refused: after the lock's record and the marker, clusters.toml."""
    before, _ = state(root)
    done = member(ANN, "install", root, *SHARE, code=16, prefix=at_call("rename", 3, "error=EIO"))
    assert f"Error: Cannot write {root}/.clusters.toml." in done.stderr
    after, (marker, clusters) = state(root)
    assert after == before
    assert {(path.stat().st_gid, path.stat().st_mode & 0o777) for path in (root / "log").iterdir()} == {(ANN, 0o600)}
    assert 'writers = "owner"' in marker
    assert str(GROUP) not in clusters
    member(ANN, "install", root, *SHARE)
    assert {path.lstat().st_gid for path in root.rglob("*")} == {GROUP}


@pytest.mark.parametrize(("number", "signal"), [(5, "KILL"), (40, "KILL"), (40, "INT")])
def test_a_change_of_access_that_is_cut_off(root, member, number, signal):
    """What a kill leaves half done the same command completes; Ctrl-C leaves nothing half done."""
    before = state(root)
    prefix = at_call("chown,lchown,fchownat", number, f"signal={signal}")
    member(ANN, "install", root, *SHARE, code=130 if signal == "INT" else -9, prefix=prefix)
    if signal == "INT":
        assert state(root) == before
    else:
        assert state(root) != before
        assert 'writers = "owner"' in (root / "rootstock.toml").read_text()
    member(ANN, "install", root, *SHARE)
    assert {path.lstat().st_gid for path in root.rglob("*")} == {GROUP}
    member(BEN, "status", root)


def test_owner_and_caller_have_to_be_of_the_group(root, member, tmp_path):
    """As the machine's user database says, where it knows the owner."""
    member(ANN, "install", root, *SHARE)
    user = pwd.getpwnam("games")
    run("chown", "-hR", user.pw_name, root, check=True)
    said = f"Error: You may not change {root}: it belongs to games, and you are uid {BEN}.\nIts admins are the group "
    assert member(BEN, "render", root, code=10).stderr.startswith(
        f"{said}{GROUP}, which games is not in. Let root give"
    )
    groups = tmp_path / "group"
    groups.write_text(f"{Path('/etc/group').read_text()}admins:x:{GROUP}:games\n")
    in_group = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/group && exec "$@"', groups)
    member(BEN, "render", root, prefix=in_group)
    done = run_in(tmp_path / "eve", EVE, SITE, "render", "--root", root, prefix=in_group)
    assert done.returncode == 10  # the folder does not let her in


SITE_COMMANDS = {
    "install": ("--no-client", "--env", "tiny"), "render": (), "lock": ("--env", "tiny", "--upgrade", "six", "--yes"),
    "rollback": ("--yes",), "gc": ("--yes", "--keep", "1", "--older-than", "0"), "verify": ("--env", "tiny"),
}  # fmt: skip


def listing(root):
    """Return what says whether anything was written."""
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_uid) for path in (root, *root.rglob("*"))}


def test_another_user_is_told_before_anything_is_written(root, member, tiny, tmp_path):
    """Also root, whom no mode keeps from anything."""
    member(ANN, "install", root, "--no-client", "--env", "tiny", "--set", "access.readers=world")
    (tmp_path / "tiny.py").write_text(tiny.read_text() + "# newer\n")
    member(ANN, "install", root, "--no-client", "--env", tmp_path / "tiny.py")
    before = listing(root)
    for uid, options in ((0, f"sudo -u {ANN} rootstock-site"), (EVE, f"Do this as {ANN}, who can give the root")):
        for command, words in SITE_COMMANDS.items():
            if (uid, command) in ((EVE, "verify"), (0, "gc")):
                continue  # readers may compute, and store nothing; root may remove
            done = member(uid, command, root, *words, code=10)
            name = "root" if uid == 0 else f"uid {uid}"
            assert f"Error: You may not change {root}: it belongs to {ANN}, and you are {name}.\n" in done.stderr
            assert options in done.stderr
    assert listing(root) == before


def test_root_removes_what_others_own_and_leaves_nothing_of_its_own(root, member, run_as, tmp_path, tiny):
    layout = RootLayout(root)
    first = active_build(layout.active("tiny"))
    (tmp_path / "tiny.py").write_text(tiny.read_text() + "# newer\n")
    member(ANN, "install", root, "--no-client", "--env", tmp_path / "tiny.py")
    hook = layout.hooks / "pre-gc"
    write_as(hook, ANN, f"#!/bin/sh\nid -u > {tmp_path}/ran\n")
    collect = ("--keep", "1", "--older-than", "0", "--yes")
    note = f"Note: {root} belongs to {ANN}, and you are root: you remove what others own.\n"
    done = member(0, "gc", root, *collect, code=19)
    assert done.stderr.startswith(note)
    assert f"Error: Root does not run the site's hook {hook}: it belongs to {ANN}, or its folder does.\n" in done.stderr
    assert first.is_dir() and not (tmp_path / "ran").exists()
    hook.unlink()
    (layout.admin_lock).unlink()
    assert member(0, "gc", root, *collect).stderr.startswith(note)
    assert not first.exists()
    assert {path.lstat().st_uid for path in (root, *root.rglob("*"))} == {ANN}
    member(ANN, "install", root, *SHARE)
    # Nor does it write where a link of theirs leads.
    layout.log.rename(root.parent / "log")
    layout.log.symlink_to(tmp_path)
    done = run_as(0, SITE, "uninstall", "--root", root, "--yes")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        10, f"Error: {layout.log} is a symbolic link. Root follows none in a root of {ANN}'s."
    )  # fmt: skip
    layout.log.unlink()
    assert run_as(0, SITE, "uninstall", "--root", root, "--yes").stderr.startswith(note)
    assert not root.exists()


def write_as(path, uid, text, mode=0o755):
    if not path.parent.exists():
        folder_of(uid, path.parent)
    path.write_text(text)
    path.chmod(mode)
    os.chown(path, uid, uid)


def test_root_takes_over_no_folder_of_others(place, member, tiny):
    """Neither one that is empty, nor one with what would be run as root afterwards."""
    words = ("--cluster", "local", "--no-client", "--env", tiny)
    empty = folder_of(EVE, place / "empty")
    done = member(0, "install", empty, *words, code=10)
    assert f"You may not change {empty}: it belongs to {EVE}, and you are root.\n" in done.stderr
    assert list(empty.iterdir()) == []
    # As one that is to be a group's it is neither, unless both are of the group.
    shared = SHARE[3:]
    assert member(0, "install", empty, *words, *shared, code=10).returncode == 10
    os.chown(empty, EVE, GROUP)
    empty.chmod(0o770)
    member(ANN, "install", empty, *words, *shared, "--dry-run")


@pytest.mark.parametrize(
    ("name", "code"),
    [("hooks/pre-install", 19), ("hooks/post-install", 19), ("templates/modulefile.lua.j2", 10),
     ("environments/tiny.py", 10), ("environments/tiny.py.lock", 10), ("clusters.toml", 10)],
)  # fmt: skip
def test_nobody_runs_what_somebody_else_has_put_into_the_root(tiny_root, member, name, code, tmp_path):
    """Here the root is root's; Eve could write there once."""
    path = tiny_root / name
    text = path.read_text() if path.exists() else f"#!/bin/sh\nid -u > {tmp_path}/ran\n"
    write_as(path, 0, text)
    os.chown(path, EVE, EVE)
    before = listing(tiny_root)
    for command in ("install", "render"):
        done = member(0, command, tiny_root, *SITE_COMMANDS[command], code=code)
        assert f"Error: {path} belongs to {EVE}: you would run whatever they write there.\n" in done.stderr
    assert listing(tiny_root) == before
    if name.startswith("templates"):
        assert f"Error: {path} belongs to {EVE}" in member(0, "page", tiny_root, "--output", tmp_path, code=10).stderr


def test_root_does_not_compute_with_what_somebody_else_has_built(tiny_root, member):
    build = active_build(RootLayout(tiny_root).active("tiny"))
    os.chown(build, EVE, EVE)
    done = member(0, "verify", tiny_root, "--env", "tiny", code=10)
    assert f"Error: {build} belongs to {EVE}: you would run whatever they write there.\n" in done.stderr


def test_root_runs_no_hook_that_others_can_write_to(tiny_root, member):
    hook = tiny_root / "hooks/pre-install"
    write_as(hook, 0, "#!/bin/sh\n", 0o775)
    os.chown(hook, 0, GROUP)
    done = member(0, "install", tiny_root, "--no-client", "--set", "contact=me", code=19)
    assert (
        f"Error: Root does not run the site's hook {hook}: others can write to it, or to its folder.\n" in done.stderr
    )
    assert f"chmod go-w {hook.parent} {hook}" in done.stderr


def test_in_a_group_of_admins_everybody_runs_the_hooks_but_root(root, member, tmp_path, tiny):
    member(ANN, "install", root, *SHARE)
    ran = tmp_path / "ran"
    ran.touch()
    ran.chmod(0o666)
    write_as(root / "hooks/pre-install", ANN, f"#!/bin/sh\nid -u >> {ran}\n")
    words = ("--no-client", "--env", other_environment(tmp_path, tiny))
    member(BEN, "install", root, *words)
    assert ran.read_text() == f"{BEN}\n"
    # Root is of the group in this process, and so an admin; but what it runs must be its own.
    done = member(0, "install", root, "--no-client", "--set", "contact=me", code=19)
    assert f"Error: Root does not run the site's hook {root}/hooks/pre-install: it belongs to {ANN}" in done.stderr


@pytest.mark.parametrize(
    ("mode", "gid", "whom"),
    [
        (0o777, 0, "everybody"),
        (0o1777, 0, ""),
        (0o775, GROUP, f"the group {GROUP}"),
        (0o775, 0, ""),
        (0o1775, GROUP, ""),
    ],
)
def test_folders_above_the_root_that_others_can_write_to(place, member, run_as, tiny, mode, gid, whom):
    os.chown(place, 0, gid)
    place.chmod(mode)
    done = member(0, "install", place / "root", "--cluster", "local", "--no-client", "--set", "environments=")
    said = f"{whom} can write to {place}, and can put another root in the place of this one"
    assert (said in done.stderr) == bool(whom), done.stderr
    found = run_as(0, ROOTSTOCK, "doctor", "--root", place / "root").stdout
    assert (f"warning  access        {said}" in found) == bool(whom), found


def test_a_folder_above_the_root_that_somebody_else_owns(place, member, run_as):
    """Its owner can rename what is in it, sticky or not."""
    place.chmod(0o1755)
    done = member(0, "install", place / "root", "--cluster", "local", "--no-client", "--set", "environments=")
    said = f"{ANN} owns {place}, and can put another root in the place of this one"
    assert f"Note: {said}. For example: let root own {place}, or install elsewhere\n" in done.stderr
    assert f"warning  access        {said}" in run_as(0, ROOTSTOCK, "doctor", "--root", place / "root").stdout


@pytest.mark.parametrize("name", ["builds/tiny", "generations", "cache", "active/tiny"])
def test_what_belongs_to_a_stranger_is_told_and_refused(root, member, run_as, name):
    """Whoever owns it can put other programs in its place."""
    os.chown(root / name, EVE, EVE, follow_symlinks=False)
    if not (root / name).is_symlink():
        (root / name).chmod(0o755)
    found = run_as(ANN, ROOTSTOCK, "doctor", "--root", root).stdout
    assert f"warning  access        {root / name} belongs to {EVE}, who is no admin of this root" in found
    done = member(ANN, "install", root, "--no-client", "--env", "tiny", code=10)
    assert f"{root / name} belongs to {EVE}: you would run whatever they write there" in done.stderr


def test_folders_above_the_root_of_a_group_of_admins(place, member, run_as, tiny):
    os.chown(place, 0, GROUP)
    place.chmod(0o2775)
    done = member(ANN, "install", place / "root", "--cluster", "local", *SHARE[:1], "--env", tiny, *SHARE[3:])
    assert "can write to" not in done.stderr
    assert "can write to" not in run_as(BEN, ROOTSTOCK, "doctor", "--root", place / "root", groups=GROUP).stdout


def test_doctor_tells_the_second_admin_which_lock_is_closed(root, member, run_as):
    """As a release has left it that changed the access of half of the files; the owner's next install mends it."""
    member(ANN, "install", root, *SHARE)
    for path in (root / "locks/admin.lock", *(path for path in (root / "cache/uv").rglob("*"))):
        os.chown(path, ANN, ANN, follow_symlinks=False)
    said = run_as(BEN, ROOTSTOCK, "doctor", "--root", root, groups=GROUP).stdout
    assert f"failed   locks         you are an admin of this root, and may not write to {root}/locks/admin.lock" in said
    assert "warning  access        the root's settings say otherwise: change the group of " in said
    assert f"{ANN} mends that: rootstock-site install --root {root}" in said
    member(ANN, "install", root, "--no-client", "--env", "tiny")
    assert {path.lstat().st_gid for path in root.rglob("*")} == {GROUP}
    assert "ok       locks" in run_as(BEN, ROOTSTOCK, "doctor", "--root", root, groups=GROUP).stdout


def test_doctor_tells_root_whose_programs_it_would_run(root, run_as):
    said = run_as(0, ROOTSTOCK, "doctor", "--root", root).stdout
    assert (
        f"warning  access        it belongs to {ANN}, and you are root: what they have installed runs as root" in said
    )
