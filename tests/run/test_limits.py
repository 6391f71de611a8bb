"""Workers that cannot be started, fed or ended: no memory, no descriptors, no room on the disk, no way to kill."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk

from rootstock.client import connection
from rootstock.client.connection import WorkerConnection
from rootstock.client.handshake import wait_until_ready
from rootstock.client.inputs import Inputs
from rootstock.client.process import WorkerProcess
from rootstock.errors import (
    ModelError,
    WorkerDiedError,
    WorkerProtocolError,
    WorkerStartError,
    WorkerTimeoutError,
)
from rootstock.worker.channel.memory import PROPERTY_BITS
from tests.run.conftest import Make, start_of
from tests.support.commands import REPOSITORY, clean_environment, run, started
from tests.support.control_groups import control_group, frozen
from tests.support.folders import small_disk
from tests.support.needs import need_program, need_root
from tests.support.processes import gone, open_files, wait_for, wait_until_gone

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
def test_half_an_answer(make: Make, monkeypatch: pytest.MonkeyPatch, length: int, then: str) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make(HALF.replace("LENGTH", str(length)).replace("THEN", then))
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    atoms.positions[0, 0] = 6.0
    if "exit" in then:
        kind, message = WorkerDiedError, "exited with code 7"
    else:
        kind, message = WorkerTimeoutError, "in the middle of an answer"
        monkeypatch.setattr(connection, "FRAME_S", 0.5)  # counted from the first byte, which may take its time
    with pytest.raises(kind, match=message):  # type: ignore[arg-type]
        atoms.get_potential_energy()
    wait_until_gone(pid)


def test_a_worker_that_closes_its_channel(make: Make) -> None:
    """As a library does that closes every descriptor which is not its own."""
    calc = make("if self.atoms.positions[0, 0] > 5:\n    os.closerange(3, 100); time.sleep(1000)")
    launch = calc._session.spec.model.launch()
    command = (calc.info()["executable"], "-I", "-B", "-u")  # as a build is started: uv would hold the channel open
    client = WorkerConnection(dataclasses.replace(launch, command=command), "", "cpu", {}, start_timeout=600)
    inputs = Inputs()
    inputs.update(Atoms("Cu", [[6, 0, 0]]))
    with pytest.raises(WorkerDiedError, match="closed its channel, and was ended, during an evaluation"):
        client.evaluate(inputs, PROPERTY_BITS["energy"], 600.0)
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
    with pytest.raises(kind, match="exited with code 5"):  # type: ignore[arg-type]
        atoms.get_potential_energy()
    wait_until_gone(int((tmp_path / "child").read_text()))


def test_a_start_that_takes_long_is_told(make: Make, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """A second passes at each look at the clock, once the model is being loaded."""
    loading, looks = tmp_path / "loading", itertools.count(1)
    launch, setup = start_of(make(setup=f"open({str(loading)!r}, 'w'); time.sleep(1000)"))
    process = WorkerProcess(launch)
    process.start()

    def clock() -> float:
        return float(next(looks)) if loading.exists() else 0.0

    with caplog.at_level(logging.WARNING, "rootstock"), pytest.raises(WorkerStartError, match="not ready after 6 s"):
        wait_until_ready(process, setup, 6.0, None, heartbeat=0.1, clock=clock)
    process.end(patience=0.0)
    told = [record.getMessage() for record in caplog.records]
    start = "Still starting a worker of environment 'misbehaving' after"
    assert [line.partition(" (")[0] for line in told] == [f"{start} {second} s" for second in range(1, 7)]
    assert "loading the model on cpu" in told[-1] and str(process.log) in told[-1]


def test_a_stopped_start(make: Make, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    launch, setup = start_of(make(setup=f"open({str(stopped)!r}, 'w'); os.kill(os.getpid(), 19)"))
    process = WorkerProcess(launch)
    process.start()
    with pytest.raises(WorkerStartError, match="not ready after 5 s; it stopped at: loading the model"):
        wait_until_ready(process, setup, 5.0, None, heartbeat=0.1, clock=lambda: 5.0 * stopped.exists())
    assert process.end(patience=0.0) == 128 + signal.SIGKILL  # as uv says it


GARBAGE = """
print("last words", flush=True)
for fd in range(3, 50):
    if os.path.exists("/proc/self/fd/%d" % fd) and os.readlink("/proc/self/fd/%d" % fd).startswith("socket"):
        os.write(fd, SENT)
open(WRITTEN, "w")
time.sleep(1000)
"""


@pytest.mark.parametrize("sent", ["b'hello, this is no frame' * 9", "b'RSK1' + bytes(48)"])
def test_garbage_during_the_start(make: Make, tmp_path: Path, sent: str) -> None:
    before = open_files()
    with pytest.raises(WorkerProtocolError, match="does not begin a frame") as caught:
        make(setup=GARBAGE.replace("SENT", sent).replace("WRITTEN", repr(str(tmp_path / "written")))).start()
    assert Path(caught.value.log).exists() and "last words" in caught.value.tail
    assert open_files() == before


def test_the_beginning_of_a_frame_during_the_start(make: Make, tmp_path: Path) -> None:
    before, written = open_files(), tmp_path / "written"
    launch, setup = start_of(make(setup=GARBAGE.replace("SENT", "b'RSK1'").replace("WRITTEN", repr(str(written)))))
    process = WorkerProcess(launch)
    process.start()
    with pytest.raises(WorkerStartError, match="not ready after 5 s") as caught:
        wait_until_ready(process, setup, 5.0, None, heartbeat=0.1, clock=lambda: 5.0 * written.exists())
    process.end(patience=0.0)
    assert Path(caught.value.log).exists() and "last words" in caught.value.tail
    assert open_files() == before


# -- limits of the client's process, which is one of its own: they hold for all threads

LIMITED = """
import os, resource, sys
import numpy as np
from pathlib import Path
from ase import Atoms
from ase.build import bulk
from rootstock import RootstockCalculator
from rootstock.errors import RootstockError, WorkerError
from tests.support.processes import limit, open_files, worker_logs

calc = RootstockCalculator(environment=sys.argv[1], model="", root=sys.argv[2], device="cpu")

def refused(atoms):
    try:
        return atoms.get_potential_energy()
    except WorkerError as error:
        return str(error)

"""


@pytest.fixture
def limited(make: Make) -> Callable[[str], None]:
    """Return a function that runs a script with a calculator in a process of its own."""

    def call(script: str) -> None:
        arguments = make()._arguments
        words = (sys.executable, "-c", LIMITED + script, arguments["environment"], arguments["root"])
        run(*words, cwd=REPOSITORY, check=True)

    return call


def test_no_descriptors(limited: Callable[[str], None]) -> None:
    """At every number of descriptors that are left: a typed error or a worker, and nothing is left."""
    limited("""
calc.start().close()
told = []
for spare in range(40):
    calc._session.join(calc)
    before, files = open_files(), worker_logs()
    used = max(map(int, os.listdir("/proc/self/fd")))
    holes = [os.open("/dev/null", os.O_RDONLY) for _ in range(used)]  # so that the limit counts what is free
    with limit(resource.RLIMIT_NOFILE, max(holes) + 1 + spare):
        try:
            calc.start()
        except RootstockError as error:
            told.append(str(error))
    for fd in holes:
        os.close(fd)
    worked = calc._session._connection is not None
    calc.close()
    assert open_files() == before, spare
    assert not worker_logs() - files, spare  # old ones may have gone
    if worked:
        break
assert worked and len(told) >= 5 and all("Too many open files" in text for text in told), told
""")


def test_no_descriptor_for_more_atoms(limited: Callable[[str], None]) -> None:
    limited("""
atoms = bulk("Cu")
atoms.calc = calc
atoms.get_potential_energy()
pid = calc.info()["pid"]
many = Atoms("Cu1000", positions=np.zeros((1000, 3)), calculator=calc)
with limit(resource.RLIMIT_NOFILE, 3):
    said = refused(many)
assert "Cannot share " in said and "Too many open files" in said, said
assert many.get_potential_energy() == 1000.0
assert calc.info()["pid"] == pid  # it never knew
""")


def test_no_memory_for_more_atoms(limited: Callable[[str], None]) -> None:
    limited("""
atoms = bulk("Cu")
atoms.calc = calc
atoms.get_potential_energy()
pid = calc.info()["pid"]
many = Atoms("Cu100000", np.zeros((100_000, 3)), calculator=calc)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
with limit(resource.RLIMIT_AS, size + 2**24):
    said = refused(many)
assert "Cannot share " in said and "Cannot allocate" in said, said
more = Atoms("Cu200000", np.zeros((200_000, 3)), calculator=calc)
with limit(resource.RLIMIT_FSIZE, 2**20):
    said = refused(more)
assert "Cannot share " in said and "File too large" in said, said
assert many.get_potential_energy() == 1e5
assert calc.info()["pid"] == pid
""")


def test_no_memory_for_the_model(make: Make) -> None:
    atoms = bulk("Cu")
    atoms.calc = calc = make(
        """
        if self.atoms.positions[0, 0] > 5:
            import resource
            size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + 2**28, size + 2**28))
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


def test_a_full_disk_for_the_log(make: Make, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "size=64k", "mode=700") as disk:
        atoms = bulk("Cu")
        atoms.calc = calc = make("if self.atoms.positions[0, 0] > 5: print('x' * 2**20)", log=disk / "log")
        assert atoms.get_potential_energy() == 1.0
        pid = calc.info()["pid"]
        atoms.positions[0, 0] = 6.0
        assert atoms.get_potential_energy() == 1.0
        assert (disk / "log").stat().st_size >= 2**15  # what there was room for
        assert calc.info()["pid"] == pid
        calc.close()
        wait_until_gone(pid)


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


def compute(make: Make, before: str = "", **variables: str) -> str:
    """Return what a script prints that computes once, with these variables and none that name a temporary folder."""
    arguments = make()._arguments
    env = {name: value for name, value in clean_environment().items() if name not in FOLDERS} | variables
    words = (sys.executable, "-c", before + SCRIPT, arguments["environment"], arguments["root"])
    return run(*words, env=env, cwd="/", check=True).stdout.strip()


FOLDERS = ("TMPDIR", "TEMP", "TMP", "SLURM_TMPDIR")


def test_a_temporary_folder_that_is_not_there(make: Make, tmp_path: Path) -> None:
    out = compute(make, TMPDIR=str(tmp_path / "missing"), SLURM_TMPDIR="/proc/nothing")
    assert out.startswith("1.0 /tmp/rootstock-"), out


def test_a_full_temporary_folder(make: Make, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "size=64k", "mode=700") as disk:
        with contextlib.suppress(OSError):
            (disk / "filler").write_bytes(bytes(2**17))
        (disk / f"rootstock-{os.getuid()}").mkdir(mode=0o700)
        run("mount", "-o", "remount,nr_inodes=4", disk, check=True)
        out = compute(make, SLURM_TMPDIR=str(disk))
    assert out.startswith("WorkerStartError") and "No space left on device" in out and "TMPDIR" in out, out


# Its first argument is an empty folder; then come what stays in sight, an empty word, and a command.
NO_FOLDERS = """
set -e
stage=$1; shift
for folder in /tmp /var/tmp /usr/tmp; do
    if [ -d $folder ] && [ ! -L $folder ]; then
        mkdir -p "$stage$folder"; mount --bind $folder "$stage$folder"; mount -t tmpfs none $folder
    fi
done
while [ -n "$1" ]; do
    if [ -e "$stage$1" ]; then mkdir -p "$1"; mount --bind "$stage$1" "$1"; fi
    shift
done
for folder in /tmp /var/tmp /usr/tmp; do
    if [ -d $folder ] && [ ! -L $folder ]; then mount -o remount,ro $folder; fi
done
shift
exec "$@"
"""


def test_no_temporary_folder_at_all(make: Make, tmp_path: Path) -> None:
    need_root()
    unshare = need_program("unshare", "util-linux")
    arguments = make()._arguments
    kept = [tmp_path, arguments["root"], REPOSITORY, sys.prefix, sys.base_prefix]  # wherever they are
    env = {name: value for name, value in clean_environment().items() if name not in FOLDERS}
    stage = Path(tempfile.mkdtemp(prefix="rootstock-test-", dir="/run"))
    try:
        done = run(
            unshare, "--mount", "--propagation", "private", "sh", "-c", NO_FOLDERS, "sh", stage,
            *map(os.path.realpath, kept), "",
            sys.executable, "-c", SCRIPT, arguments["environment"], arguments["root"], env=env, cwd="/proc", check=True,
        )  # fmt: skip
    finally:
        for folder, _, _ in os.walk(stage, topdown=False):
            os.rmdir(folder)  # nothing but folders: what was mounted there is not mounted here
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
    assert compute(make, WITHOUT + f"without({missing})\n").startswith("1.0 ")


def test_a_death_on_a_kernel_without_pidfd(make: Make) -> None:
    """Its child holds the socket open, so end of file says nothing."""
    body = "if self.atoms.positions[0, 0] > 5:\n    if os.fork() == 0: time.sleep(1000)\n    os._exit(5)"
    arguments = make(body)._arguments
    script = WITHOUT + "without(pidfd_open)\n" + SCRIPT.replace(
        "print(atoms", "atoms.get_potential_energy(); atoms.positions += 9; print(atoms"
    )  # fmt: skip
    done = run(sys.executable, "-c", script, arguments["environment"], arguments["root"])
    assert "WorkerDiedError The worker of environment 'misbehaving' exited with code 5" in done.stdout, done


# -- processes that cannot be killed, and those that the kernel kills


def test_a_worker_that_cannot_be_killed(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A frozen process ignores SIGKILL, as one does that waits for a dead file system."""
    atoms = bulk("Cu")
    atoms.calc = calc = make()
    atoms.get_potential_energy()
    pid, uv, before = calc.info()["pid"], calc._session._connection.pid, open_files()
    with frozen(*{pid, uv}):
        atoms.positions += 0.1
        calc.set(timeout=1.0)
        with caplog.at_level(logging.WARNING, "rootstock"), pytest.raises(WorkerTimeoutError, match="gave no answer"):
            atoms.get_potential_energy()
        assert f"Worker of misbehaving (process {uv}) does not end, not even by SIGKILL" in caplog.text
        assert not gone(pid)
        left = open_files() - before
        assert not left, left
        calc.set(timeout=3600.0)
        assert atoms.get_potential_energy() == 1.0  # by another
        assert calc.info()["pid"] != pid
    wait_until_gone(pid, uv)


def test_out_of_memory(make: Make) -> None:
    """The kernel kills a worker whose control group has no memory left, as Slurm arranges it."""
    atoms = bulk("Cu")
    body = "if self.atoms.positions[0, 0] > 5: self.eaten = [np.ones(2**20) for _ in range(100)]"
    atoms.calc = calc = make(body)
    atoms.get_potential_energy()
    pid = calc.info()["pid"]
    with control_group("memory") as folder:
        (folder / "memory.limit_in_bytes").write_text(str(2**27))
        (folder / "memory.swappiness").write_text("0")
        (folder / "cgroup.procs").write_text(str(pid))
        atoms.positions[0, 0] = 6.0
        with pytest.raises(WorkerDiedError, match=r"was killed by SIGKILL \(out of memory"):
            atoms.get_potential_energy()
    atoms.positions[0, 0] = 0.0
    assert atoms.get_potential_energy() == 1.0


STOPPED = """
import os, sys, time
from ase.build import bulk
from rootstock import RootstockCalculator
with RootstockCalculator(environment=sys.argv[1], model="", root=sys.argv[2], device="cpu") as calc:
    atoms = bulk("Cu")
    atoms.calc = calc
    atoms.get_potential_energy()
    calc.set(timeout=float(sys.argv[3]))
    atoms.positions += 9
    print(calc.info()["pid"], time.monotonic(), flush=True)
    print(atoms.get_potential_energy(), flush=True)
"""


def state(pid: int) -> tuple[str, str]:
    """Return whether a process runs, sleeps or is stopped, and how often it has gone to sleep."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = [re.search(rf"^{name}:\s+(\w+)", text, re.MULTILINE) for name in ("State", "voluntary_ctxt_switches")]
    return found[0][1], found[1][1]  # type: ignore[index]


def waits(pid: int) -> bool:
    """Tell whether a process sleeps and does not wake up now and then: it waits for the next question."""
    before = state(pid)
    time.sleep(0.2)
    return before[0] == "S" and state(pid) == before


def test_a_client_that_was_stopped_for_longer_than_the_deadline(make: Make, tmp_path: Path) -> None:
    """Ctrl-Z and, later, fg: the answer came meanwhile."""
    inside, go = tmp_path / "inside", tmp_path / "go"
    body = f"""
    if self.atoms.positions[0, 0] > 5:
        open({str(inside)!r}, "w").close()
        while not os.path.exists({str(go)!r}): time.sleep(0.01)
    """
    arguments = make(body)._arguments
    timeout, in_time = 1.0, False
    while not in_time:  # on a machine so busy that the deadline came before the stop: once more, with a later one
        timeout *= 2
        for file in (inside, go):
            file.unlink(missing_ok=True)
        words = (sys.executable, "-c", STOPPED, arguments["environment"], arguments["root"], str(timeout))
        with started(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            pid, begun = process.stdout.readline().split()
            wait_for(lambda: inside.exists() or process.poll() is not None, "the evaluation")
            if process.poll() is not None:
                continue
            process.send_signal(signal.SIGSTOP)
            wait_for(lambda: state(process.pid)[0] in "TZ", "a client that has stopped")
            in_time = time.monotonic() < float(begun) + timeout
            go.touch()
            if in_time:
                wait_for(lambda: waits(int(pid)), "the answer")  # noqa: B023
                time.sleep(max(0.0, float(begun) + timeout + 0.5 - time.monotonic()))
                process.send_signal(signal.SIGCONT)
                out, said = process.communicate()
                assert out == "1.0\n", out + said


def test_uv_is_killed(make: Make) -> None:
    """The process that the client started may be uv's. Without it the worker computes on, and ends when it should."""
    atoms = bulk("Cu")
    atoms.calc = calc = make()
    atoms.get_potential_energy()
    pid, uv = calc.info()["pid"], calc._session._connection.pid
    assert pid != uv
    os.kill(uv, signal.SIGKILL)
    wait_until_gone(uv)
    atoms.positions += 0.1
    assert atoms.get_potential_energy() == 1.0
    calc.close()
    wait_until_gone(pid)
