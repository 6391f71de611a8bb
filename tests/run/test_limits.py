"""Workers that cannot be started, fed or ended: no memory, no descriptors, no room on the disk, no way to kill."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from rootstock.client.connection import Client
from rootstock.client.handshake import wait_until_ready
from rootstock.client.inputs import Inputs
from rootstock.client.process import WorkerProcess
from rootstock.errors import (
    ModelError,
    RootstockError,
    WorkerDiedError,
    WorkerError,
    WorkerStartError,
    WorkerTimeoutError,
)
from rootstock.worker.channel.memory import PROPERTY_BITS
from tests.conftest import clean_environment, need
from tests.run.conftest import Make
from tests.run.test_failures import eventually, gone


def open_files() -> set[str]:
    """Return what this process has open, beside what garbage holds."""
    gc.collect()
    folder = Path("/proc/self/fd")
    return {os.readlink(fd) for fd in folder.iterdir() if fd.is_symlink()}


def logs(name: str = "misbehaving") -> set[Path]:
    return set(Path("/tmp", f"rootstock-{os.getuid()}", "log").glob(f"{name}-*"))


@contextlib.contextmanager
def limit(kind: int, value: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


# -- half an answer, and ends that look like none


HALF = """\
if self.atoms.positions[0, 0] > 5:
    frame = __import__('struct').pack('<4sIIIIIQQQ', b'RSK1', 5, 0, 0, 0, 100, 2, 1, 64) + b'x' * 100
    for fd in range(3, 50):
        if os.path.exists("/proc/self/fd/%d" % fd) and os.readlink("/proc/self/fd/%d" % fd).startswith("socket"):
            os.write(fd, frame[:LENGTH])
    THEN
"""


@pytest.mark.parametrize("length", [1, 90])
@pytest.mark.parametrize("then", ["time.sleep(1000)", "os._exit(7)", "os.kill(os.getpid(), 19)"])
def test_half_an_answer(make: Make, length: int, then: str) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make(HALF.replace("LENGTH", str(length)).replace("THEN", then), timeout=1.0)
    atoms.get_potential_energy()
    pid, begun = calc.info()["pid"], time.monotonic()
    atoms.positions[0, 0] = 6.0
    kind, message = (
        (WorkerDiedError, "exited with code 7")
        if "exit" in then
        else (WorkerTimeoutError, "in the middle of an answer")
    )
    with pytest.raises(kind, match=message):
        atoms.get_potential_energy()
    assert time.monotonic() - begun < 6
    assert eventually(lambda: gone(pid))


def test_a_worker_that_closes_its_channel(make: Make) -> None:
    """As a library does that closes every descriptor which is not its own."""
    calc = make("if self.atoms.positions[0, 0] > 5:\n    os.closerange(3, 100); time.sleep(1000)")
    launch = calc._session.spec.manager.launch(calc._session.spec.source)
    command = (calc.info()["executable"], "-I", "-B", "-u")  # as a build is started: uv would hold the channel open
    client = Client(dataclasses.replace(launch, command=command), "", "cpu", {}, start_timeout=60)
    inputs = Inputs()
    inputs.update(Atoms("Cu", [[6, 0, 0]]))
    with pytest.raises(WorkerDiedError, match="closed its channel, and was ended, during an evaluation"):
        client.evaluate(inputs, PROPERTY_BITS["energy"], 60.0)
    assert gone(client.pid)


@pytest.mark.parametrize("when", ["start", "evaluation"])
def test_a_child_of_the_worker_holds_everything_open(make: Make, tmp_path: Path, when: str) -> None:
    """The death is noticed though socket, memory and output stay open, and the child ends as well."""
    fork = f"child = os.fork()\nif child == 0: time.sleep(1000)\nopen('{tmp_path}/child', 'w').write(str(child))\n"
    death = fork + "os._exit(5)"
    if when == "start":
        calc, kind = make(setup=death), WorkerStartError
    else:
        calc, kind = make("if self.atoms.positions[0, 0] > 5:\n    " + death.replace("\n", "\n    ")), WorkerDiedError
    atoms = bulk("Cu")
    atoms.calc = calc
    if when == "evaluation":
        atoms.get_potential_energy()
    atoms.positions[0, 0] = 6.0
    begun = time.monotonic()
    with pytest.raises(kind, match="exited with code 5"):  # type: ignore[arg-type]
        atoms.get_potential_energy()
    assert time.monotonic() - begun < 20
    child = int((tmp_path / "child").read_text())
    assert eventually(lambda: gone(child)), f"the worker's child {child} lives on"


def test_children_end_with_a_worker_that_is_closed(make: Make, tmp_path: Path) -> None:
    calc = make(setup=f"open('{tmp_path}/child', 'w').write(str(__import__('subprocess').Popen(['sleep', '1000']).pid))"
                      "\nreturn Calculator()").start()  # fmt: skip
    calc.close()
    assert eventually(lambda: gone(int((tmp_path / "child").read_text())))


# -- the start takes no longer than its deadline, and says where it is


def test_a_start_that_takes_long_is_told(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    calc = make(setup="time.sleep(1000)")
    launch = calc._session.spec.manager.launch(calc._session.spec.source)
    process = WorkerProcess(launch)
    root = str(calc._session.spec.manager.layout.root)
    setup = {"environment": str(launch.environment_file), "root": root, "model": "", "device": "cpu", "options": {}}
    with caplog.at_level(logging.WARNING, "rootstock"), pytest.raises(WorkerStartError, match="not ready after 6 s"):
        wait_until_ready(process, setup, 6.0, None, heartbeat=1.0)
    process.end(patience=0.0)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) >= 3 and all("Still starting a worker of environment 'misbehaving'" in line for line in told)
    assert "loading the model on cpu" in told[-1] and str(process.log) in told[-1]


def test_a_stopped_start(make: Make) -> None:
    begun = time.monotonic()
    with pytest.raises(WorkerStartError, match="not ready after 5 s"):
        make(setup="os.kill(os.getpid(), 19)", start_timeout=5.0).start()
    assert time.monotonic() - begun < 12


@pytest.mark.parametrize("sent", ["b'hello, this is no frame' * 9", "b'RSK1' + bytes(48)", "b'RSK1'"])
def test_garbage_during_the_start(make: Make, sent: str) -> None:
    code = f"""
    print("last words", flush=True)
    for fd in range(3, 50):
        if os.path.exists("/proc/self/fd/%d" % fd) and os.readlink("/proc/self/fd/%d" % fd).startswith("socket"):
            os.write(fd, {sent})
    time.sleep(1000)
    """
    before = open_files()
    with pytest.raises(WorkerError, match="does not begin a frame|not ready after 5 s") as caught:
        make(setup=code, start_timeout=5.0).start()
    assert Path(caught.value.log).exists() and "last words" in caught.value.tail
    assert open_files() == before


# -- limits of the client's process


def test_no_descriptors(make: Make) -> None:
    """At every number of descriptors that are left: a typed error or a worker, and nothing is left."""
    calc = make()
    calc.start().close()
    told: list[str] = []
    for spare in range(40):
        calc._session.users.add(calc)
        before, files = open_files(), logs()
        used = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
        holes = [os.open("/dev/null", os.O_RDONLY) for _ in range(used)]  # so that the limit counts what is free
        top = max(holes)
        with limit(resource.RLIMIT_NOFILE, top + 1 + spare):
            try:
                calc.start()
            except RootstockError as error:
                told.append(str(error))
        for fd in holes:
            os.close(fd)
        worked = calc._session._client is not None
        calc.close()
        assert open_files() == before, spare
        assert not logs() - files, spare  # old ones may have gone
        if worked:
            break
    assert worked and len(told) >= 5 and all("Too many open files" in text for text in told)


def test_no_descriptor_for_more_atoms(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make()
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    many = Atoms("Cu1000", positions=np.zeros((1000, 3)), calculator=calc)
    with limit(resource.RLIMIT_NOFILE, 3), pytest.raises(WorkerError, match="Cannot share .* Too many open files"):
        many.get_potential_energy()
    assert many.get_potential_energy() == 1000.0
    assert calc.info()["pid"] == pid  # it never knew


def test_no_memory_for_more_atoms(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make()
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    many = Atoms("Cu100000", np.zeros((100_000, 3)), calculator=calc)
    with limit(resource.RLIMIT_AS, size + 2**24), pytest.raises(WorkerError, match="Cannot share .* Cannot allocate"):
        many.get_potential_energy()
    more = Atoms("Cu200000", np.zeros((200_000, 3)), calculator=calc)
    with limit(resource.RLIMIT_FSIZE, 2**20), pytest.raises(WorkerError, match="Cannot share .* File too large"):
        more.get_potential_energy()
    assert many.get_potential_energy() == 1e5
    assert calc.info()["pid"] == pid


def test_no_memory_for_the_model(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make(
        """
        if self.atoms.positions[0, 0] > 5:
            import resource
            resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
            np.ones(2**31)
        """
    )
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    atoms.positions[0, 0] = 6.0
    with pytest.raises(ModelError, match="Unable to allocate") as caught:
        atoms.get_potential_energy()
    assert "MemoryError" in caught.value.remote_type
    atoms.positions[0, 0] = 0.0
    assert atoms.get_potential_energy() == 1.0
    assert calc.info()["pid"] == pid


def test_the_memory_cannot_be_cut_short(make: Make) -> None:
    """Whoever truncates a file that another process maps kills that process: here the client."""
    atoms = bulk("Cu")
    atoms.calc = make(
        """
        for fd in range(3, 50):
            if os.path.exists("/proc/self/fd/%d" % fd) and "memfd" in os.readlink("/proc/self/fd/%d" % fd):
                os.ftruncate(fd, 0)
        """
    )
    with pytest.raises(ModelError, match="Operation not permitted"):
        atoms.get_potential_energy()


# -- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    need(os.geteuid() == 0, "root, to mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_for_the_log(make: Make, small_disk: Path) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make("if self.atoms.positions[0, 0] > 5: print('x' * 2**20)", log=small_disk / "log")
    assert atoms.get_potential_energy() == 1.0
    pid = calc.info()["pid"]
    atoms.positions[0, 0] = 6.0
    with pytest.raises(ModelError, match="No space left on device") as caught:
        atoms.get_potential_energy()
    assert caught.value.log == str(small_disk / "log")
    atoms.positions[0, 0] = 0.0
    assert atoms.get_potential_energy() == 1.0  # it does not print: the disk does not matter
    assert calc.info()["pid"] == pid
    calc.close()
    assert eventually(lambda: gone(pid))


SCRIPT = """
import sys
from ase.build import bulk
from rootstock import RootstockCalculator
from rootstock.errors import RootstockError
try:
    with RootstockCalculator(environment=sys.argv[1], model="", root=sys.argv[2], device="cpu") as calc:
        atoms = bulk("Cu")
        atoms.calc = calc
        print(atoms.get_potential_energy(), calc.info()["log"])
except RootstockError as error:
    print(type(error).__name__, error)
"""


def run_script(make: Make, before: str = "", *, prefix: tuple[str, ...] = (), **variables: str) -> str:
    arguments = make()._arguments
    command = [*prefix, sys.executable, "-c", before + SCRIPT, str(arguments["environment"]), str(arguments["root"])]
    done = subprocess.run(
        command, env=clean_environment(**variables), cwd="/", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_temporary_folder_that_is_not_there(make: Make) -> None:
    out = run_script(make, TMPDIR="/no/such", SLURM_TMPDIR="/proc/nothing")
    assert out.startswith("1.0 /tmp/rootstock-"), out


def test_a_full_temporary_folder(make: Make, small_disk: Path) -> None:
    with contextlib.suppress(OSError):
        (small_disk / "filler").write_bytes(bytes(2**17))
    folder = small_disk / f"rootstock-{os.getuid()}"
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-o", "remount,nr_inodes=4", small_disk], check=True)
    out = run_script(make, SLURM_TMPDIR=str(small_disk))
    assert out.startswith("WorkerStartError") and "No space left on device" in out and "TMPDIR" in out, out


def test_no_temporary_folder_at_all(make: Make) -> None:
    need(os.geteuid() == 0 and shutil.which("unshare"), "root and unshare, for mounts of its own")
    environment = str(make()._arguments["environment"])
    need(environment.startswith("/tmp"), "pytest's folder below /tmp")  # it is kept in sight by a second name
    if sys.prefix.startswith(("/tmp/", "/var/tmp/")):
        pytest.skip("this checkout is in a temporary folder itself, and would be hidden too")
    script = (
        "mkdir -p /run/rootstock-test && mount --bind /tmp /run/rootstock-test && "
        'for d in /tmp /var/tmp /usr/tmp; do [ -d $d ] && mount -t tmpfs -o ro none $d; done; exec "$0" "$@"'
    )
    arguments = [environment, str(make()._arguments["root"])]
    kept = [f"/run/rootstock-test{path.removeprefix('/tmp')}" for path in arguments]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, sys.executable, "-c", SCRIPT, *kept],
        env=clean_environment(), cwd="/proc", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    Path("/run/rootstock-test").rmdir()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("WorkerStartError There is no temporary folder to write to"), done.stdout
    assert "Set TMPDIR to a folder" in done.stdout


# -- old kernels: system calls that are not there (x86-64 and aarch64 number pidfd_open the same)

WITHOUT = """
import ctypes, platform, struct
def without(*numbers):
    '''Make system calls fail as on a kernel that does not have them (seccomp).'''
    program = [(0x20, 0, 0, 0)]                                      # load the number
    for number in numbers:
        program += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | 38)]  # equal: ENOSYS
    program.append((0x06, 0, 0, 0x7FFF0000))
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(Program(len(program), ctypes.addressof(buffer))), 0, 0) == 0
memfd_create = {"x86_64": 319, "aarch64": 279}[platform.machine()]
pidfd_open = 434
"""


@pytest.mark.parametrize("missing", ["pidfd_open", "memfd_create", "pidfd_open, memfd_create"])
def test_kernels_without(make: Make, missing: str) -> None:
    assert run_script(make, WITHOUT + f"without({missing})\n").startswith("1.0 ")


def test_a_death_on_a_kernel_without_pidfd(make: Make, tmp_path: Path) -> None:
    """Its child holds the socket open, so end of file says nothing."""
    body = "if self.atoms.positions[0, 0] > 5:\n    if os.fork() == 0: time.sleep(1000)\n    os._exit(5)"
    arguments = make(body)._arguments
    script = WITHOUT + "without(pidfd_open)\n" + SCRIPT.replace(
        "print(atoms", "atoms.get_potential_energy(); atoms.positions += 9; print(atoms"
    )  # fmt: skip
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, str(arguments["environment"]), str(arguments["root"])],
        env=clean_environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "WorkerDiedError The worker of environment 'misbehaving' exited with code 5" in done.stdout, done
    assert time.monotonic() - begun < 30


# -- processes that cannot be killed, and those that the kernel kills

FREEZER, MEMORY = Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup/memory")


Group = Callable[[Path], Path]


@pytest.fixture
def group() -> Iterator[Group]:
    """Return a function that makes a control group (version 1)."""
    made = []

    def make(kind: Path) -> Path:
        need(os.access(kind / "cgroup.procs", os.W_OK), f"a writable {kind} (control groups, version 1)")
        folder = kind / f"rootstock-test-{os.getpid()}"
        folder.mkdir()
        made.append(folder)
        return folder

    yield make
    for folder in made:
        eventually(lambda folder=folder: not (folder / "cgroup.procs").read_text())
        folder.rmdir()


def test_a_worker_that_cannot_be_killed(make: Make, group: Group, caplog: pytest.LogCaptureFixture) -> None:
    """A frozen process ignores SIGKILL, as one does that waits for a dead file system."""
    atoms = bulk("Cu")
    atoms.calc = calc = make(timeout=2.0)
    atoms.get_potential_energy()
    pid, uv, before = calc.info()["pid"], calc._session._client.pid, open_files()
    folder = group(FREEZER)
    for process in {pid, uv}:
        (folder / "cgroup.procs").write_text(str(process))
    (folder / "freezer.state").write_text("FROZEN")
    try:
        begun = time.monotonic()
        atoms.positions += 0.1
        with caplog.at_level(logging.WARNING, "rootstock"), pytest.raises(WorkerTimeoutError, match="gave no answer"):
            atoms.get_potential_energy()
        assert time.monotonic() - begun < 20
        assert f"Worker of misbehaving (process {uv}) does not end, not even by SIGKILL" in caplog.text
        assert not gone(pid)
        left = open_files() - before
        assert not left, left
        assert atoms.get_potential_energy() == 1.0  # by another
        assert calc.info()["pid"] != pid
    finally:
        (folder / "freezer.state").write_text("THAWED")
    assert eventually(lambda: gone(pid)) and eventually(lambda: gone(uv))


def test_out_of_memory(make: Make, group: Group) -> None:
    """The kernel kills a worker whose control group has no memory left, as Slurm arranges it."""
    atoms = bulk("Cu")
    body = "if self.atoms.positions[0, 0] > 5: self.eaten = [np.ones(2**20) for _ in range(100)]"
    atoms.calc = calc = make(body)
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    folder = group(MEMORY)
    (folder / "memory.limit_in_bytes").write_text(str(2**27))
    (folder / "cgroup.procs").write_text(str(pid))
    atoms.positions[0, 0] = 6.0
    with pytest.raises(WorkerDiedError, match=r"was killed by SIGKILL \(out of memory"):
        atoms.get_potential_energy()
    atoms.positions[0, 0] = 0.0
    assert atoms.get_potential_energy() == 1.0


def test_a_client_that_was_stopped_for_longer_than_the_deadline(make: Make) -> None:
    """Ctrl-Z and, later, fg: the answer came meanwhile."""
    stop = """
import os, subprocess, sys
def stop():
    subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -STOP {os.getpid()}; sleep 4; kill -CONT {os.getpid()}"])
"""
    arguments = make("if self.atoms.positions[0, 0] > 5: time.sleep(1.5)")._arguments
    script = stop + SCRIPT.replace('device="cpu"', 'device="cpu", timeout=2.5').replace(
        "print(atoms", "atoms.get_potential_energy(); stop(); atoms.positions += 9; print(atoms"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(arguments["environment"]), str(arguments["root"])],
        env=clean_environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith("1.0 "), done.stdout + done.stderr


def test_uv_is_killed(make: Make) -> None:
    """The process that the client started may be uv's. Without it the worker computes on, and ends when it should."""
    atoms = bulk("Cu")
    atoms.calc = calc = make()
    atoms.get_potential_energy()
    pid, uv = calc.info()["pid"], calc._session._client.pid
    assert pid != uv
    os.kill(uv, signal.SIGKILL)
    assert eventually(lambda: gone(uv))
    atoms.positions += 0.1
    assert atoms.get_potential_energy() == 1.0
    calc.close()
    assert eventually(lambda: gone(pid))
