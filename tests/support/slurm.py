"""A Slurm cluster of one node, in namespaces of its own.

Run as a program, this is the first process of those namespaces: it configures and starts munge and Slurm's two daemons,
and when it ends the kernel ends whatever still runs there, daemons and jobs. The node's only network is its own
loopback. Nothing is written outside of the state folder, and no account is made on this machine: the node has its own
``/etc/passwd``.

Needs root and the Debian packages slurm-wlm and munge.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.commands import DEADLINE_S, REPOSITORY, run
from tests.support.processes import wait_for, wait_until_gone

USER, UID = "reader", 54321
NODE = "n1"
PROGRAMS = {
    "munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm",
    "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux",
}  # fmt: skip
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_SIOCSIFFLAGS, _SIOCSIFADDR, _IFF_UP = 0x8914, 0x8916, 1  # netdevice(7)
_NAMESPACES = ("--net", "--uts", "--ipc", "--mount", "--pid")

CONF = """\
ClusterName=test
SlurmctldHost={node}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge.socket
CredType=cred/munge
StateSaveLocation={state}/ctld
SlurmctldPidFile={state}/ctld/pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdSpoolDir={state}/spool
SlurmdPidFile={state}/spool/pid
SlurmdLogFile={state}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/{tracking}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
ReturnToService=2
KillWait=30
MinJobAge=600
MpiDefault=none
MailProg=/bin/true
GresTypes=gpu
NodeName={node} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=10 State=UP
"""

GROUP_PREFIX = "slurm_"  # of the control group of a node, before the node's name


class Slurm:
    """A running cluster.

    Parameters
    ----------
    state : Path
        A folder for everything that the daemons write; every user must be able to get there.
    group : Path, optional
        A control group of the kind "freezer", in which Slurm makes those by which it finds a job's processes; its name
        is `GROUP_PREFIX` and the node's name. Without it, Slurm finds them by their parents.
    """

    def __init__(self, state: Path, group: Path | None = None) -> None:
        self.state = state
        self._process = subprocess.Popen(
            ["unshare", *_NAMESPACES, "--mount-proc", "--fork", "--kill-child", sys.executable, "-m", __name__,
             state, *([group] if group else [])],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "up\n":  # it gives up by itself
            self._process.communicate()
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(state.glob("*.log")))
            raise RuntimeError(f"Slurm did not come up:\n{logs}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self._first = children.split()[0]

    def close(self) -> None:
        """End the cluster, and all that runs on it."""
        self._process.kill()
        self._process.communicate()
        wait_until_gone(int(self._first))  # the kernel lets it end after all others of its namespace

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command on the node as its user, who has no settings of any kind, and return its output."""
        return run(*self.enter, *command, env=self.variables, input=stdin, check=True).stdout

    @property
    def enter(self) -> tuple[str, ...]:
        """The command that runs the one after it on the node, as its user."""
        become = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
        return ("nsenter", "--target", self._first, *_NAMESPACES, *become)

    @property
    def variables(self) -> dict[str, str]:
        """What the user has set."""
        variables = {"PATH": "/usr/bin:/bin", "HOME": str(self.home), "SLURM_CONF": str(self.state / "slurm.conf")}
        return variables | {"TMPDIR": str(self.home)}

    @property
    def home(self) -> Path:
        """The user's own folder."""
        return self.state / "home"

    def submit(self, script: str, *options: str) -> str:
        """Submit a job script and return the job's number."""
        place = (f"--chdir={self.home}", "--output=%j.out")
        return self.run("sbatch", "--parsable", *place, *options, stdin=script).strip()

    def job(self, number: str) -> Mapping[str, str]:
        """Return what Slurm says about a job."""
        items = self.run("scontrol", "--oneliner", "show", "job", number).split()
        return dict(item.split("=", 1) for item in items if "=" in item)

    def output(self, number: str) -> str:
        """Return what a job has printed so far."""
        path = self.home / f"{number}.out"
        return path.read_text() if path.exists() else ""

    def wait(self, number: str, deadline_s: float = DEADLINE_S) -> str:
        """Wait for a job's end and return its state."""
        end = time.monotonic() + deadline_s
        while (state := self.job(number)["JobState"]) in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
            if time.monotonic() > end:
                raise RuntimeError(f"job {number} is {state} after {deadline_s:.0f} s:\n{self.output(number)}")
            time.sleep(0.1)
        return state

    def clear(self) -> None:
        """End all jobs."""
        self.run("scancel", f"--user={USER}")
        wait_for(lambda: not self.run("squeue", "--noheader"), "the end of all jobs")


# -- inside of the namespaces


def main(state: Path, group: Path | None = None) -> None:
    """Bring the cluster up, say so, and take care of orphans until the end."""
    os.umask(0o022)
    for folder in ("ctld", "spool", "home", "dev"):
        (state / folder).mkdir()
    os.chown(state / "home", UID, UID)
    node, tracking = NODE, "linuxproc"
    if group is not None:
        node, tracking = group.name.removeprefix(GROUP_PREFIX), "cgroup"
        (state / "cgroup.conf").write_text(f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={group.parent.parent}\n")
    _name_node(state, node)
    (state / "slurm.conf").write_text(CONF.format(state=state, node=node, tracking=tracking))
    for number in range(2):
        os.mknod(state / "dev" / f"nvidia{number}", 0o666 | 0o020000, os.makedev(195, number))
    (state / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={state}/dev/nvidia[0-1]\n")
    private = state / "munge"
    private.mkdir(0o700)
    (private / "key").write_bytes(os.urandom(128))
    (private / "key").chmod(0o600)
    files = [f"--{name}-file={private}/{name}" for name in ("key", "pid", "log", "seed")]
    _start(state, "munged", "--foreground", f"--socket={state}/munge.socket", *files)
    _until(lambda: (state / "munge.socket").exists())
    _start(state, "slurmctld", "-D", "-i", "-c", "-f", f"{state}/slurm.conf")
    _start(state, "slurmd", "-D", "-N", node, "-f", f"{state}/slurm.conf")
    _until(lambda: _ask(state, "sinfo", "--noheader", "--format=%t") == "idle")
    print("up", flush=True)  # noqa: T201
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.pause()


def _name_node(state: Path, node: str) -> None:
    """Give the node a name, a loopback, and an account that the machine has not."""
    socket.sethostname(node)
    with socket.socket() as probe:
        fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
        # Names are looked up only where there is an address besides 127.0.0.1 (AI_ADDRCONFIG in getaddrinfo).
        fcntl.ioctl(probe, _SIOCSIFADDR, struct.pack("16sHH4s8x", b"lo:0", socket.AF_INET, 0, bytes([127, 0, 0, 2])))
    added = {
        "hosts": f"127.0.0.1 localhost {node}\n",
        "passwd": Path("/etc/passwd").read_text() + f"{USER}:x:{UID}:{UID}::{state}/home:/bin/bash\n",
        "group": Path("/etc/group").read_text() + f"{USER}:x:{UID}:\n",
    }
    for name, text in added.items():
        (state / name).write_text(text)
        run("mount", "--bind", state / name, f"/etc/{name}", check=True)


def _variables(state: Path) -> dict[str, str]:
    return {"PATH": _PATH, "LANG": "C.UTF-8", "SLURM_CONF": f"{state}/slurm.conf"}


def _start(state: Path, *command: str) -> None:
    with (state / f"{command[0]}.out.log").open("wb") as log:
        subprocess.Popen(command, env=_variables(state), stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _ask(state: Path, *command: str) -> str:
    return run(*command, env=_variables(state)).stdout.strip()


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            sys.exit(1)
        time.sleep(0.05)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
