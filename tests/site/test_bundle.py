"""Bundles: made where there is a network, installed where there is none, refused when anybody touched them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from rootstock import __version__
from rootstock.admin.bundle import unpack_bundle
from rootstock.admin.bundle_create import create_bundle
from rootstock.builds.make import publish, stage
from rootstock.builds.plan import plan_environment
from rootstock.builds.uv import Uv
from rootstock.config.clusters import get_cluster
from rootstock.config.environment_file import packaged_source, read_source
from rootstock.config.site import Site
from rootstock.errors import BuildError, BundleError, ConfigurationError
from rootstock.root.layout import RootLayout
from rootstock.root.lock import quiet
from tests.support.commands import SITE, clean_environment, run
from tests.support.environment_files import WITH_SMALL_ASE
from tests.support.folders import open_to_readers
from tests.support.mirror import movable_python
from tests.support.needs import need, need_program, need_root
from tests.support.processes import wait_for
from tests.support.tiny_root import ENVIRONMENT, PACKAGES, TinyRoot


@pytest.fixture
def tiny(tmp_path):
    """Return a root whose environment needs two packages, which lie in a folder."""
    root = TinyRoot.create(tmp_path / "root", tmp_path / "packages")
    root.require(*PACKAGES)
    return root


@pytest.fixture
def bundle(tiny, tmp_path):
    """Return the bundle of that environment: the file and its digest."""
    path = tmp_path / "tiny.bundle"
    source = read_source(tiny.layout.environment_file(ENVIRONMENT))
    return path, create_bundle(get_cluster("local"), [source], path, client=False)


def unpack(path, folder, digest=""):
    folder.mkdir()
    return unpack_bundle(path, folder, digest)


def install_tiny(bundle, root):
    """Build the environment from an unpacked bundle."""
    layout = RootLayout(root)
    for path, content in bundle.files(layout, bundle.environments).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    layout.all_active.mkdir()
    site = Site(layout, get_cluster("local"))
    plan = plan_environment(site, read_source(layout.environment_file(ENVIRONMENT)))
    bundle.check(plan)
    staged = stage(site, plan, Uv(layout.uv_cache, quiet, wheels=bundle.wheels), report=quiet)
    return publish(staged, site.access, [], {})


def test_a_build_from_a_bundle_is_the_build_from_the_network(tiny, bundle, tmp_path):
    assert tiny.install().returncode == 0
    for wheel in tiny.wheels.iterdir():
        wheel.unlink()  # where the lock says that the packages are
    path, digest = bundle
    build = install_tiny(unpack(path, tmp_path / "unpacked", digest), tmp_path / "other")
    assert build.name == tiny.active().name
    assert dataclasses.replace(tiny, path=tmp_path / "other").imports() == " ".join(PACKAGES)


# -- what was touched


def rewritten(path, change):
    """Write a bundle anew; `change` is given each name and content, and returns them, or None to leave it out."""
    with tarfile.open(path) as archive:
        members = [(m, archive.extractfile(m).read()) for m in archive if m.isfile()]
    with tarfile.open(path, "w") as archive:
        for member, content in members:
            changed = change(member.name, content)
            if changed is not None:
                member.name, content = changed
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def with_more(path, member, content=b""):
    with tarfile.open(path, "a") as archive:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


NOTHING = {
    "schema": 2,
    "rootstock": __version__,
    "machine": "x86_64",
    "cluster": "local",
    "settings": {},
    "client": False,
    "environments": [],
    "wheels": {},
}
WHEEL = f"wheels/{PACKAGES[0]}-1.0-py3-none-any.whl"


def test_a_changed_wheel_is_refused(bundle, tmp_path):
    rewritten(
        bundle[0], lambda name, content: (name, content.replace(b"x = 1", b"x = 2") if name == WHEEL else content)
    )
    with pytest.raises(BundleError, match=rf"{WHEEL} in .*tiny.bundle was changed: its hash is \w+, expected \w+\."):
        unpack(bundle[0], tmp_path / "unpacked")


def test_a_wheel_that_is_changed_together_with_its_hash_makes_another_bundle(bundle, tmp_path):
    path, digest = bundle
    seen = {}

    def change(name, content):
        if name == "SHA256SUMS":
            seen["sums"] = content
        return name, content

    rewritten(path, change)
    with tarfile.open(path) as archive:
        wheel = archive.extractfile(WHEEL).read()
    fake = wheel.replace(b"x = 1", b"x = 2")
    sums = seen["sums"].decode().replace(hashlib.sha256(wheel).hexdigest(), hashlib.sha256(fake).hexdigest()).encode()
    rewritten(path, lambda name, content: (name, {WHEEL: fake, "SHA256SUMS": sums}.get(name, content)))
    with pytest.raises(BundleError, match=f"another bundle: its digest is .*, expected {digest}"):
        unpack(path, tmp_path / "unpacked", digest)


def test_a_missing_file_is_named(bundle, tmp_path):
    rewritten(bundle[0], lambda name, content: None if name == WHEEL else (name, content))
    with pytest.raises(BundleError, match=f"tiny.bundle lacks {WHEEL}"):
        unpack(bundle[0], tmp_path / "unpacked")


def test_a_bundle_that_was_cut_short_is_refused(bundle, tmp_path):
    with bundle[0].open("r+b") as file:
        file.truncate(bundle[0].stat().st_size // 2)
    with pytest.raises(BundleError, match=r"cut short|lacks"):
        unpack(bundle[0], tmp_path / "unpacked")


@pytest.mark.parametrize("name", ["../outside", "/outside", "wheels/../../outside"])
def test_nothing_is_written_outside_of_the_folder(bundle, tmp_path, name):
    with_more(bundle[0], tarfile.TarInfo(name), b"content")
    with pytest.raises(BundleError, match="leads out of it"):
        unpack(bundle[0], tmp_path / "unpacked")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("target", ["/etc", "../..", "../wheels"])
def test_a_link_out_of_the_interpreter_is_not_put_in(tmp_path, target):
    python = movable_python(tmp_path / "cpython")
    (python / "link").symlink_to(target)
    with pytest.raises(BundleError, match="the link 'python/cpython-3.*/link', which leads out of it"):
        create_bundle(get_cluster("local"), [], tmp_path / "x", client=False, python=python)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["two\nlines", "no\udcffutf-8"])
def test_a_file_that_no_list_can_hold_is_not_put_in(tmp_path, name):
    python = movable_python(tmp_path / "cpython")
    (python / name).touch()
    with pytest.raises(BundleError, match="its name holds what a list of hashes cannot"):
        create_bundle(get_cluster("local"), [], tmp_path / "x", client=False, python=python)


def with_content(path, name, content):
    """Put other content into a file of a bundle, and its hash into the list."""
    with tarfile.open(path) as archive:
        sums = archive.extractfile("SHA256SUMS").read().decode()
    lines = [line for line in sums.splitlines() if not line.endswith(f"  {name}")]
    if content is not None:
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}")
    listed = ("\n".join(lines) + "\n").encode()

    def change(member, before):
        if member == "SHA256SUMS":
            return member, listed
        return (member, before) if member != name else None if content is None else (member, content)

    rewritten(path, change)


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ({"python/x/link": "/etc"}, "the link 'python/x/link', which leads out of it"),
        ({"python/x/link": "../../wheels"}, "the link 'python/x/link', which leads out of it"),
        ({"wheels": "/etc"}, "the link 'wheels', which leads out of it"),
        ({"python/x/../y/link": "z"}, "which leads out of it"),
        # Each of these alone stays inside.
        ({"python/x/a/b/c": "../..", "python/x/out": "a/b/c/../../../../../etc"}, "the link 'python/x/out', which lea"),
        ({"python/x/out": "a", "python/x/out/new/planted": "z"}, "'python/x/out/new/planted', which is to lie behind"),
        ({"python/x/a": "b", "python/x/b": "a"}, "the link 'python/x/a', which leads out of it"),
    ],
)
def test_links_out_of_a_bundle_are_refused(bundle, tmp_path, links, message):
    with_content(bundle[0], "LINKS", json.dumps(links).encode())
    with pytest.raises(BundleError, match=message):
        unpack(bundle[0], tmp_path / "unpacked")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packages", "root", "tiny.bundle", "unpacked"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("LINKS", None, "cannot be unpacked: .*LINKS"),
        ("LINKS", b"[]", "is no bundle that `bundle create` made"),
        ("LINKS", b"{", "is no bundle that `bundle create` made"),
        ("LINKS", json.dumps({WHEEL.replace("wheels", "python/x"): 5}).encode(), "is no bundle that `bundle create`"),
        ("bundle.json", None, "cannot be unpacked: .*bundle.json"),
        ("bundle.json", b"\xff", "is no bundle that `bundle create` made"),
        ("bundle.json", b"[1]", "is no bundle that `bundle create` made"),
        ("bundle.json", b'{"schema": 1}', "was made by rootstock None"),
        ("bundle.json", json.dumps({"schema": 2, "rootstock": __version__}).encode(), ": bundle.json has no 'machine'"),
        ("bundle.json", json.dumps({**NOTHING, "python": 3}).encode(), ": bundle.json.python must be an object, not 3"),
        ("bundle.json", b"[" * 100_000, "is no bundle that `bundle create` made"),
        ("LINKS", b"[" * 100_000, "is no bundle that `bundle create` made"),
    ],
)
def test_a_bundle_that_something_else_made_is_one_clear_error(bundle, tmp_path, name, content, message):
    with_content(bundle[0], name, content)
    with pytest.raises(BundleError, match=message):
        unpack(bundle[0], tmp_path / "unpacked")


def test_a_link_among_the_files_is_refused(bundle, tmp_path):
    link = tarfile.TarInfo("wheels/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    with_more(bundle[0], link)
    with pytest.raises(BundleError, match="'wheels/link', which does not belong there"):
        unpack(bundle[0], tmp_path / "unpacked")


def test_what_is_not_in_the_list_is_refused(bundle, tmp_path):
    with_more(bundle[0], tarfile.TarInfo("wheels/extra.whl"), b"content")
    with pytest.raises(BundleError, match="'wheels/extra.whl', which does not belong there"):
        unpack(bundle[0], tmp_path / "unpacked")


# -- what nobody would make


def with_bytes(path, content):
    """Put bytes in the place of a bundle's end."""
    with tarfile.open(path) as archive:
        end = max(member.offset_data + -(-member.size // 512) * 512 for member in archive)
    with path.open("r+b") as file:
        file.truncate(end)
        file.seek(end)
        file.write(content + bytes(1024))


def sparse(name, size):
    """Return the header of a file of zeros that takes no bytes, as GNU's tar writes it."""
    member = tarfile.TarInfo(name)
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:482] = bytes(96)
    header[483:495] = f"{size:011o}\0".encode()
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def further(text, name="wheels/more.whl", size=0):
    """Return a file with something said of it before."""
    before, member = tarfile.TarInfo("x"), tarfile.TarInfo(name)
    before.type, before.size, member.size = tarfile.XHDTYPE, len(text), size
    return before.tobuf(tarfile.USTAR_FORMAT) + text + bytes(-len(text) % 512) + member.tobuf(tarfile.USTAR_FORMAT)


def pax(key, value):
    length = len(f" {key}={value}\n".encode())
    total = length + len(str(length + len(str(length))))
    return f"{total} {key}={value}\n".encode()


SPARSE = pax("GNU.sparse.major", 1) + pax("GNU.sparse.minor", 0) + pax("GNU.sparse.realsize", 2**31)
UNKNOWN = "an extended header is invalid, or has an unknown keyword"
STRANGE = {
    "a file with holes": (sparse("wheels/more.whl", 2**31), "it is not a POSIX tar file"),
    "a manifest with holes": (sparse("bundle.json", 2**31), "it is not a POSIX tar file"),
    "holes by another name": (further(SPARSE), UNKNOWN),
    "holes as numbers": (further(pax("GNU.sparse.map", "x,y")), UNKNOWN),
    "a size that is none": (further(pax("size", "x")), "a header holds an invalid number"),
    "a size of 5000 digits": (further(pax("size", "9" * 5000)), "a header holds an invalid number"),
    "a negative size": (further(pax("size", -512)), "a header holds an invalid number"),
    "a line without a length": (further(b"path=x\n"), UNKNOWN),
    "a line of no length": (further(b"0 path=x\n"), UNKNOWN),
    "a line too long": (further(b"99 path=x\n"), UNKNOWN),
    "a long length": (further(b"9" * 5000 + b" path=x\n"), UNKNOWN),
    "a megabyte about a file": (further(pax("path", "x" * 2**20)), "two extended headers, or one of more than 64 kB"),
    "a name that is not UTF-8": (further(b"11 path=x\xff\n"), "a file name is not UTF-8"),
    "a terabyte": (further(pax("size", 2**40)), "does not belong there"),
    "a name with a line break": (further(pax("path", "wheels/a\nb")), "does not belong there"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_tar_file_that_nobody_would_make_is_one_error(site, bundle, tmp_path, case):
    content, message = STRANGE[case]
    with_bytes(bundle[0], content)
    done = site("install", "--cluster", "local", "--root", tmp_path / "new", "--bundle", bundle[0], check=False)
    assert done.returncode == 13
    assert done.stderr.startswith(f"Error: {bundle[0]} ") and message in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(BundleError, match=message):
        unpack(bundle[0], tmp_path / "unpacked")
    assert sum(path.stat().st_size for path in (tmp_path / "unpacked").rglob("*")) < 2**20


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"x\n", "SHA256SUMS cannot be read: line 1 is not a SHA-256 and a file name"),
        (b"%064x  LINKS\n" % 0, "SHA256SUMS cannot be read: line 2 lists 'LINKS' again"),
        (b"".join(b"%064x  %d\n" % (0, each) for each in range(250_001)), "SHA256SUMS lists more than 250000 files"),
    ],
    ids=["no hash", "twice", "too many"],
)
def test_a_list_of_hashes_that_nobody_would_make_is_one_error(bundle, tmp_path, line, message):
    rewritten(bundle[0], lambda name, content: (name, line + content if name == "SHA256SUMS" else content))
    with pytest.raises(BundleError, match=message):
        unpack(bundle[0], tmp_path / "unpacked")


def test_a_sparse_file_in_the_list_is_refused(bundle, tmp_path):
    """Its hash is right: without a look at its kind it takes two gigabytes of a bundle of ten kilobytes."""
    digest = hashlib.sha256()
    for _ in range(2**8):
        digest.update(bytes(2**20))
    with tarfile.open(bundle[0]) as archive:
        sums = archive.extractfile("SHA256SUMS").read().decode()
    more = f"{sums}{digest.hexdigest()}  wheels/more.whl\n".encode()
    rewritten(bundle[0], lambda name, content: (name, more if name == "SHA256SUMS" else content))
    with_bytes(bundle[0], sparse("wheels/more.whl", 2**28))
    with pytest.raises(BundleError, match="it is not a POSIX tar file"):
        unpack(bundle[0], tmp_path / "unpacked")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environments": ["../../evil"]}, "'../../evil' cannot name an environment"),
        ({"environments": ["evil\n"]}, r"'evil\\n' cannot name an environment"),
        ({"environments": ["tiny", "tiny"]}, "bundle.json lists an environment twice"),
        ({"environments": ["tiny", "other"]}, "does not say for which Python 'other' is"),
        ({"python": {"tiny": "3"}}, "does not say for which Python 'tiny' is"),
        ({"wheels": {"tiny": ["../x-1-py3-none-any.whl"]}}, "Invalid project name: '../x-1-py3-none-any'"),
        ({"wheels": {"tiny": ["x"]}}, "Invalid wheel filename"),
        ({"wheels": {"tiny": ["absent-1-py3-none-any.whl"]}}, "it lacks 'wheels/absent-1-py3-none-any.whl'"),
        ({"wheels": {}}, "does not list the packages of 'tiny'"),
        ({"client": True}, "does not say for which Python 'rootstock-client' is"),
        ({"cluster": "../../evil"}, "'../../evil' cannot name a cluster"),
        ({"cluster": ""}, "'' cannot name a cluster"),
        ({"settings": {"uv": {"find-links": ["/x"]}}}, "the setting 'uv' is a table, not a value"),
    ],
)
def test_a_manifest_that_names_what_cannot_be_is_one_error(site, bundle, tmp_path, change, message):
    manifest = json.loads(unpack(bundle[0], tmp_path / "unpacked").folder.joinpath("bundle.json").read_bytes())
    with_content(bundle[0], "bundle.json", json.dumps({**manifest, **change}).encode())
    with pytest.raises(BundleError, match=message):
        unpack(bundle[0], tmp_path / "again")
    done = site("install", "--cluster", "local", "--root", tmp_path / "new", "--bundle", bundle[0], check=False)
    assert done.returncode == 13 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "line", ["0  wheels/x", f"{'0' * 64} wheels/x", f"{'0' * 64}  bundle.json", f"{'0' * 63}g  x", "\udcff"]
)
def test_a_list_that_is_none_is_refused(bundle, tmp_path, line):
    with tarfile.open(bundle[0]) as archive:
        sums = archive.extractfile("SHA256SUMS").read()
    other = sums + f"{line}\n".encode(errors="surrogateescape")
    rewritten(bundle[0], lambda name, content: (name, other if name == "SHA256SUMS" else content))
    with pytest.raises(BundleError, match="SHA256SUMS cannot be read"):
        unpack(bundle[0], tmp_path / "unpacked")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_bundle_that_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "x.bundle"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(BundleError, match=f"{path} is no bundle: it is a {kind}, not a file"):
        unpack(path, tmp_path / "unpacked")


def test_long_and_foreign_names_come_along(tmp_path):
    """For which tar has a header of its own."""
    python = movable_python(tmp_path / "cpython")
    name = f"{'long' * 30}/{'name' * 30}-\u00e4"
    (python / name).parent.mkdir()
    (python / name).write_text("content")
    create_bundle(get_cluster("local"), [], tmp_path / "x", client=False, python=python)
    [folder] = unpack(tmp_path / "x", tmp_path / "unpacked").pythons
    assert (folder / name).read_text() == "content"


def test_what_is_no_bundle_is_refused(tmp_path):
    (tmp_path / "text").write_text("Hello\n")
    with pytest.raises(BundleError, match="text is no bundle, or is cut short"):
        unpack(tmp_path / "text", tmp_path / "unpacked")
    with pytest.raises(ConfigurationError, match="There is no bundle .*nothing"):
        unpack_bundle(tmp_path / "nothing", tmp_path / "unpacked")


# -- what it is for


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"python": {ENVIRONMENT: "3.4"}}, r"holds 'tiny' for Python 3\.4; this is Python 3\."),
        (
            {"wheels": {ENVIRONMENT: ["a-1-cp27-none-win32.whl"]}},
            "a-1-cp27-none-win32.whl does not run on this machine",
        ),
        ({"environments": []}, "holds no 'tiny'"),
    ],
)
def test_a_bundle_for_something_else_is_refused(bundle, tmp_path, change, message):
    unpacked = unpack(bundle[0], tmp_path / "unpacked")
    other = dataclasses.replace(unpacked, manifest=dataclasses.replace(unpacked.manifest, **change))
    layout = RootLayout(tmp_path / "other")
    source = read_source(unpacked.folder / "environments" / f"{ENVIRONMENT}.py")
    plan = plan_environment(Site(layout, get_cluster("local")), source)
    with pytest.raises(BundleError, match=message):
        other.check(plan)


def test_a_bundle_for_another_processor_is_refused(site, bundle, tmp_path):
    """Before anything of it is looked at: its interpreter cannot run here."""
    manifest = json.loads(unpack(bundle[0], tmp_path / "unpacked").folder.joinpath("bundle.json").read_bytes())
    with_content(bundle[0], "bundle.json", json.dumps({**manifest, "machine": "riscv128"}).encode())
    done = site("install", "--cluster", "local", "--root", tmp_path / "new", "--bundle", bundle[0], check=False)
    assert done.returncode == 13
    assert done.stderr.startswith("Error: The bundle is for riscv128; this is ")


def test_an_environment_file_of_ones_own_is_what_is_installed(site, bundle, tiny, tmp_path):
    """Though the bundle has one of that name; and of the bundle's, only those that are asked for."""
    own = tmp_path / f"{ENVIRONMENT}.py"
    own.write_text(tiny.layout.environment_file(ENVIRONMENT).read_text() + "# mine\n")
    shutil.copy(f"{tiny.layout.environment_file(ENVIRONMENT)}", tmp_path / "other.py")
    both = [read_source(tmp_path / "other.py"), read_source(tiny.layout.environment_file(ENVIRONMENT))]
    create_bundle(get_cluster("local"), both, tmp_path / "both", client=False)
    root = RootLayout(tmp_path / "new")
    install = ["install", "--cluster", "local", "--root", root.root, "--no-client", "--bundle", tmp_path / "both"]
    site(*install, "--env", own)
    assert root.environment_file(ENVIRONMENT).read_text() == own.read_text()
    assert (root.active(ENVIRONMENT) / "environment.py").read_text() == own.read_text()
    assert not root.environment_file("other").exists()
    assert site(*install, "--env", own).stdout == f"{root.root}: nothing to do.\n"


HILL = """
[clusters.hill]
root = "{root}"
environments = ["tiny"]
contact = "help@hill.example"
access = {{ readers = "group", group = "{group}" }}
"""
GROUP = 7301  # needs no name on this machine


def test_an_edited_environment_file_outranks_the_bundles(site, bundle, tiny, tmp_path):
    path, digest = bundle
    root = tmp_path / "other"
    install = ("install", "--root", root, "--no-client", "--bundle", path, "--digest", digest)
    site(*install, "--cluster", "local")
    file = RootLayout(root).environment_file(ENVIRONMENT)
    with file.open("a") as edited:
        edited.write("# mine\n")
    done = site(*install)
    assert file.read_text().endswith("# mine\n") and f"  build {ENVIRONMENT} " in done.stdout
    assert f"Note: You have edited {file}. The bundle has a newer one" not in done.stderr  # it is the same as before
    assert site(*install).stdout == f"{root}: nothing to do.\n"


@pytest.fixture
def of_hill(site, tiny, tmp_path):
    """Return the bundle of a cluster that only its maker has described, and the root that it names."""
    need_root()
    config, root = tmp_path / "config/rootstock/clusters.toml", tmp_path / "field/root"
    config.parent.mkdir(parents=True)
    config.write_text(HILL.format(root=root, group=GROUP))
    file = tiny.layout.environment_file(ENVIRONMENT)
    create = ("bundle", "create", tmp_path / "hill", "--cluster", "hill", "--env", file, "--no-client")
    mine = ("--set", f"uv.cache={tmp_path}/cache", "--set", "jobs.network=none")
    site(*create, *mine, environment=clean_environment(XDG_CONFIG_HOME=str(tmp_path / "config")))
    for wheel in tiny.wheels.iterdir():
        wheel.unlink()
    return tmp_path / "hill", root


def test_a_bundle_carries_its_cluster(of_hill, tmp_path):
    """So those that may read there are those that may read here; and where the root is, and whom to ask."""
    bundle, root = of_hill
    open_to_readers(tmp_path)
    field = root.parent
    field.mkdir()
    os.chown(field, 4001, GROUP)
    bundle.chmod(0o644)
    who = (need_program("setpriv", "util-linux"), "--reuid=4001", f"--regid={GROUP}", "--clear-groups")
    alone = {"HOME": str(field), "TMPDIR": str(field), "XDG_CONFIG_HOME": str(field)}
    install = (*who, SITE, "install", "--bundle", bundle, "--no-client", "--yes")
    done = run(*install, cwd="/", env=clean_environment(**alone), umask=0o000)
    assert done.returncode == 0, done.stderr
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        assert status.st_gid == GROUP, path
        # Behind a root that is closed: what a user root must see, and what is in folders that only admins enter.
        behind = path.is_symlink() or {root / "modulefiles", *RootLayout(root).admin_folders()} & {path, *path.parents}
        assert behind or not status.st_mode & 0o007, f"{path} {status.st_mode:o}"
    assert root.stat().st_mode & 0o7777 == 0o2750
    said = (root / "clusters.toml").read_text()
    assert f'access.group = "{GROUP}"' in said and "help@hill.example" in said and 'jobs.network = "none"' in said
    assert "uv.cache" not in said  # that is of whoever made the bundle
    again = run(*install, cwd="/", env=clean_environment(**alone))
    assert (again.stdout, again.stderr) == (f"{root}: nothing to do.\n", "")


def test_what_is_said_here_outranks_a_bundle(site, of_hill, tmp_path):
    bundle, root = of_hill
    config = tmp_path / "here/rootstock/clusters.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[clusters.hill]\ncontact = "me"\naccess.readers = "owner"\n')
    install = ("install", "--bundle", bundle, "--no-client", "--dry-run")
    done = site(*install, "--group", "0", environment=clean_environment(XDG_CONFIG_HOME=str(tmp_path / "here")))
    assert f"create the root {root} for cluster hill" in done.stdout
    notes = [line for line in done.stderr.splitlines() if "the bundle has" in line]
    assert notes == [
        f"Note: access.readers is 'owner', as {config} says; the bundle has 'group': --set access.readers=group",
        f"Note: contact is 'me', as {config} says; the bundle has 'help@hill.example': --set contact=help@hill.example",
    ]
    # Of another cluster than the bundle's it says nothing, and nobody else does.
    done = site(*install, "--root", root, "--cluster", "hil", check=False)
    assert (done.returncode, "Unknown cluster 'hil'. Did you mean 'hill'?" in done.stderr) == (3, True), done.stderr
    done = site(*install, "--root", root, "--cluster", "local", "--json")
    assert json.loads(done.stdout)["cluster"] == "local"
    assert "the bundle has" not in done.stderr


def test_a_bundle_for_a_group_that_is_not_here(site, bundle, tiny, tmp_path):
    file = tiny.layout.environment_file(ENVIRONMENT)
    access = ("--set", "access.readers=group", "--set", "access.group=hobbits")
    site("bundle", "create", tmp_path / "x", "--cluster", "local", "--env", file, "--no-client", *access)
    done = site("install", "--bundle", tmp_path / "x", "--root", tmp_path / "new", "--no-client", check=False)
    assert (done.returncode, done.stderr.splitlines()[-2:]) == (3, [
        "Error: There is no group 'hobbits' on this machine.",
        "Give --group one that exists, or set access.group to it.",
    ])  # fmt: skip
    assert not (tmp_path / "new").exists()


def test_two_files_of_one_environment_are_refused(site, tiny, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(tiny.layout.environment_file(ENVIRONMENT), tmp_path / folder / "a.py")
    twice = ["--cluster", "local", "--env", tmp_path / "one" / "a.py", "--env", tmp_path / "two" / "a.py"]
    for command in (["bundle", "create", tmp_path / "x"], ["install", "--root", tmp_path / "new"]):
        done = site(*command, *twice, check=False)
        assert done.returncode == 3
        assert done.stderr.startswith(f"Error: {tmp_path}/one/a.py and {tmp_path}/two/a.py are both of an environment")
    (tmp_path / "one" / "a.py").rename(tmp_path / "a+b.py")
    done = site("install", "--cluster", "local", "--root", tmp_path / "new", "--env", tmp_path / "a+b.py", check=False)
    assert (done.returncode, "'a+b' cannot be an environment's name" in done.stderr) == (3, True)


def test_an_interpreter_that_no_build_would_use_is_refused(site, tmp_path):
    python, other = movable_python(tmp_path / "cpython"), os.path.realpath("/usr/bin/python3")
    create = ["bundle", "create", tmp_path / "x", "--cluster", "local", "--no-client", "--env", "emt"]
    done = site(*create, "--python", python, "--set", f"python.interpreter={other}", check=False)
    assert done.returncode == 13, done.stderr
    assert f"No build would use the interpreter in {python}" in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "two\nlines"])
def test_a_folder_that_no_lock_can_name_is_refused(site, tmp_path, name):
    (tmp_path / name).mkdir()
    done = site("bundle", "create", tmp_path / name / "x", "--cluster", "local", "--env", "emt", check=False)
    assert done.returncode == 13
    assert "cannot stand in a lock" in done.stderr
    assert list((tmp_path / name).iterdir()) == []


def test_no_room_to_unpack(site, bundle, tmp_path):
    need_root()
    unshare, small = need_program("unshare", "util-linux"), tmp_path / "small"
    small.mkdir()
    with_more(bundle[0], tarfile.TarInfo("wheels/more.whl"), bytes(2**21))
    with tarfile.open(bundle[0]) as archive:
        sums = archive.extractfile("SHA256SUMS").read().decode()
    listed = sums + f"{hashlib.sha256(bytes(2**21)).hexdigest()}  wheels/more.whl\n"
    rewritten(bundle[0], lambda name, content: (name, listed.encode() if name == "SHA256SUMS" else content))
    script = 'mount -t tmpfs -o size=1m none "$1" && export TMPDIR="$1" && shift && exec "$@"'
    install = [SITE, "install", "--yes", "--cluster", "local", "--root", tmp_path / "new", "--bundle", bundle[0]]
    done = run(unshare, "--mount", "sh", "-c", script, "sh", small, *install)
    assert done.returncode == 13
    assert done.stderr.startswith(f"Error: There is no room to unpack {bundle[0]} into {small}/rootstock-bundle-")
    assert "TMPDIR=/path/with/room" in done.stderr and "Traceback" not in done.stderr


# Of the system call; others would need a compiler to ask.
NUMBER_OF_READ = {"x86_64": "0", "aarch64": "63"}


def reads_its_input(pid):
    """Tell whether a process waits in read(0, ...)."""
    words = Path(f"/proc/{pid}/syscall").read_text().split()
    return words[:2] == [NUMBER_OF_READ[platform.machine()], "0x0"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_end_by_a_signal_leaves_nothing(bundle, tmp_path, number):
    """Such as that of the terminal; here it comes while the question is asked whether to go on."""
    need(platform.machine() in NUMBER_OF_READ, "a processor whose system calls this test knows")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ours, theirs = os.openpty()
    command = [SITE, "install", "--cluster", "local", "--root", tmp_path / "new", "--no-client", "--bundle", bundle[0]]
    with subprocess.Popen(
        command, env=clean_environment(TMPDIR=str(scratch)), stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        said = b""
        while b"[Y/n]" not in said:
            said += os.read(ours, 4096)
        assert list(scratch.iterdir())
        try:
            # Python does not look for signals between the prompt and the sleep in which it reads.
            wait_for(lambda: reads_its_input(process.pid), "the read")
            process.send_signal(number)
            assert process.wait() == 130, said.decode()
        finally:
            process.kill()
    os.close(ours)
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "new").exists()


def test_a_package_without_a_wheel_is_named(tiny, tmp_path):
    source = tiny.wheels / f"{PACKAGES[0]}-1.0-py3-none-any.whl"
    source.rename(source.with_name(f"{PACKAGES[0]}-1.0-cp311-cp311-win_amd64.whl"))
    with pytest.raises((BundleError, BuildError), match=PACKAGES[0]):
        create_bundle(
            get_cluster("local"), [read_source(tiny.layout.environment_file(ENVIRONMENT))], tmp_path / "x", client=False
        )
    assert not (tmp_path / "x").exists()


def test_an_interpreter_comes_along_as_it_is(tmp_path, monkeypatch):
    """Though its folder is called as much in the library is."""
    monkeypatch.chdir(tmp_path)
    python = movable_python(tmp_path / "cpython").relative_to(tmp_path)
    create_bundle(get_cluster("local"), [], tmp_path / "x", client=False, python=python)
    [folder] = unpack(tmp_path / "x", tmp_path / "unpacked").pythons
    assert run(folder / "bin" / "python3", "-c", "import sys; print(sys.prefix)").stdout == f"{folder}\n"
    program = os.readlink(folder / "bin" / "python3")
    assert program == os.readlink(python / "bin" / "python3")
    assert not os.access(folder / "lib" / program / "os.py", os.X_OK)
    library = {path.relative_to(python): path.read_bytes() for path in python.rglob("*.py")}
    assert library == {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.py")}


def test_a_lock_that_cannot_be_read_is_named(tiny, tmp_path):
    need_root()
    setpriv = need_program("setpriv", "util-linux")
    open_to_readers(tmp_path)
    lock, out, own = tiny.layout.lock_file(ENVIRONMENT), tmp_path / "out", tmp_path / "own"
    lock.unlink(missing_ok=True)
    lock.touch(mode=0)
    for folder in (out, own):
        folder.mkdir()
        folder.chmod(0o777)
    user = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"]
    environment = tiny.layout.environment_file(ENVIRONMENT)
    create = [SITE, "bundle", "create", out / "x", "--cluster", "local", "--no-client", "--env", environment]
    done = run(*user, *create, cwd="/", env=clean_environment(HOME=str(own), TMPDIR=str(own)))
    assert done.returncode == 10, done.stderr
    assert f"Error: Cannot read {lock}: {lock} does not let you in: its mode is 0000, its owner root" in done.stderr
    assert list(out.iterdir()) == []


def test_a_file_that_cannot_be_written(site, tmp_path):
    for folder, why in ((tmp_path / "missing", "No such file or directory"), (tmp_path / "file", "Not a directory")):
        (tmp_path / "file").touch()
        done = site("bundle", "create", folder / "x", "--cluster", "local", "--env", "emt", check=False)
        assert done.returncode == 13
        assert done.stderr == f"Error: Cannot write {folder}/x: {why}.\nName a file in a folder with room.\n"


def test_an_interpreter_for_which_there_is_no_room(tmp_path):
    need_root()
    unshare = need_program("unshare", "util-linux")
    python, small = movable_python(tmp_path / "cpython"), tmp_path / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'
    create = [SITE, "bundle", "create", small / "x", "--cluster", "local", "--no-client", "--env", "emt"]
    done = run(unshare, "--mount", "sh", "-c", script, "sh", small, *create, "--python", python)
    assert done.returncode == 13
    assert done.stderr.startswith(f"Error: Cannot write {small}/x: [Errno 28] No space left on device")
    assert "Traceback" not in done.stderr


# -- all of it, with nothing but the bundle and a Python

COMPUTE = """
import sys
from ase.build import bulk
from rootstock import RootstockCalculator
with RootstockCalculator("emt", root=sys.argv[1], device="cpu") as calculator:
    print(calculator.get_property("energy", bulk("Cu")))
"""


def test_an_interpreter_that_cannot_be_moved_is_refused(tmp_path):
    python = tmp_path / "python"
    (python / "bin").mkdir(parents=True)
    (python / "bin" / "python3").symlink_to("/usr/bin/python3")
    with pytest.raises(BuildError, match="has its standard library in /usr: it cannot be moved"):
        create_bundle(get_cluster("local"), [packaged_source("emt")], tmp_path / "x", client=False, python=python)
    assert not (tmp_path / "x").exists()


def test_everything_without_a_network(site, tmp_path):
    """The packages, uv, ourselves and the interpreter: what `bundle create` wrote is all that there is."""
    need_root()
    unshare = need_program("unshare", "util-linux")
    path, python = tmp_path / "all.bundle", movable_python(tmp_path / "cpython")
    create = ("bundle", "create", path, "--cluster", "local", "--env", "emt", "--python", python, *WITH_SMALL_ASE)
    create += ("--set", "client.extras=parsl")
    digest = site(*create).stdout.strip()
    shutil.rmtree(python)
    # By hand, as an admin begins on a machine that has nothing of ours.
    by_hand = tmp_path / "by hand"
    by_hand.mkdir()
    run("tar", "-xf", path, "-C", by_hand, check=True)
    alone = [unshare, "--net", "env", f"HOME={tmp_path}", "PATH=/usr/bin:/bin"]
    [program] = (by_hand / "python").glob("*/bin/python3.*")
    tools, version = tmp_path / "bin", program.name.removeprefix("python")
    tools.mkdir()
    for name in ("sh", "dirname", "sha256sum", "mktemp", "rm", "chmod"):
        (tools / name).symlink_to(need_program(name, "coreutils"))
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")  # as one of another version would answer
    (tools / "python3").chmod(0o755)
    by_bundle = [*alone[:-1], f"PATH={tools}", "sh", by_hand / "bootstrap.sh", tmp_path / "first"]
    refused = run(*by_bundle, tools / "python3")
    assert (refused.returncode, refused.stderr.splitlines()) == (13, [
        f"No Python {version}, which these packages are for. Tried: {tools}/python3",
        f"Name one: sh {by_hand}/bootstrap.sh {tmp_path}/first /path/to/python{version}",
    ])  # fmt: skip
    assert not (tmp_path / "first").exists()
    (by_hand / "wheels" / "uv-0.0.1-py3-none-any.whl").touch()  # of an older bundle that was unpacked there before
    for _ in range(2):  # the second time over the first, as for an upgrade
        made = run(*by_bundle, check=True)
    rootstock_site = made.stdout.strip()
    assert run(rootstock_site, "--version").stdout.startswith("rootstock-site")
    assert not list((tmp_path / "first").rglob("matplotlib"))  # as the site has overridden it
    root = tmp_path / "root"
    install = [*alone, rootstock_site, "install", "--yes", "--cluster", "local", "--root", root, "--bundle", path]
    install += WITH_SMALL_ASE
    refused = run(*install, "--digest", "0" * 64)
    assert refused.returncode == 13
    assert not root.exists()
    done = run(*install, "--digest", digest)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "put an interpreter into python/cpython-3." in done.stdout
    assert run(*install, "--digest", digest).stdout == f"{root}: nothing to do.\n"
    shutil.rmtree(by_hand)
    for link in (RootLayout(root).active("emt"), next(RootLayout(root).clients.iterdir())):
        assert (link / "bin" / "python").resolve().is_relative_to(RootLayout(root).python)
    client = next(RootLayout(root).clients.iterdir()) / "bin" / "python"
    computed = run(*alone, client, "-I", "-c", f"import parsl\n{COMPUTE}", root)
    assert computed.returncode == 0, computed.stderr
    copper = bulk("Cu")
    copper.calc = EMT()
    assert float(computed.stdout) == copper.get_potential_energy()
