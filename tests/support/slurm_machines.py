"""The machines of a Slurm cluster: what their daemons read, and the first process of each.

Run as a program, this is that process. The machine on which users log in has namespaces of its own; its first process
starts munge and Slurm's controller, and with it the kernel ends whatever still runs there. One node is that machine,
too. Several nodes have namespaces within those, for all but the network, which is a loopback that they share.
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
from collections.abc import Callable
from pathlib import Path

from tests.support.commands import DEADLINE_S, run

USER, UID = "reader", 54321
NODE, LOGIN = "n1", "login"
GPUS = 2  # of each node
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_SIOCSIFFLAGS, _SIOCSIFADDR, _IFF_UP = 0x8914, 0x8916, 1  # netdevice(7)

CONF = """\
ClusterName=test
SlurmctldHost={login}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge.socket,cred_expire={again_s}
CredType=cred/munge
StateSaveLocation={state}/ctld
SlurmctldPidFile={state}/ctld/pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdSpoolDir={state}/spool/%n
SlurmdPidFile={state}/spool/%n.pid
SlurmdLogFile={state}/slurmd-%n.log
SlurmdParameters=config_overrides
SlurmdTimeout={timeout_s}
MessageTimeout={message_s}
ProctrackType=proctrack/{tracking}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
EnforcePartLimits=ALL
JobRequeue=1
ReturnToService=2
KillWait={kill_wait_s}
MinJobAge=600
MpiDefault=none
MailProg=/bin/true
GresTypes=gpu
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES MaxTime=10 State=UP
PartitionName=urgent Nodes=ALL MaxTime=10 State=UP PriorityTier=10 PreemptMode=OFF
"""


def configure(state: Path, names: tuple[str, ...], group: Path | None, kill_wait_s: int, timeout_s: int) -> None:
    """Write what the daemons read."""
    login = names[0] if len(names) == 1 else LOGIN
    for folder in ("ctld", "spool", "home", "dev", "local", *(f"spool/{name}" for name in names)):
        (state / folder).mkdir(0o755)
    os.chown(state / "home", UID, UID)
    (state / "local").chmod(0o1777)
    if group is not None:
        (state / "cgroup.conf").write_text(f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={group.parent.parent}\n")
    nodes = [
        f"NodeName={name} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=1000 Gres=gpu:{GPUS} State=UNKNOWN"
        for port, name in enumerate(names, 6818)
    ]
    text = CONF.format(
        state=state, login=login, tracking="linuxproc" if group is None else "cgroup", nodes="\n".join(nodes),
        kill_wait_s=kill_wait_s, timeout_s=timeout_s,
        message_s=10 if len(names) == 1 else 5,  # how long the controller tries to reach a node that is dead
        again_s=120 if len(names) == 1 else 5,  # how long a job waits that begins again
    )  # fmt: skip
    (state / "slurm.conf").write_text(text)
    for number in range(GPUS):
        os.mknod(state / "dev" / f"nvidia{number}", 0o666 | 0o020000, os.makedev(195, number))
    (state / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={state}/dev/nvidia[0-{GPUS - 1}]\n")
    added = {
        "hosts": f"127.0.0.1 localhost {' '.join(dict.fromkeys([login, *names]))}\n",
        "passwd": Path("/etc/passwd").read_text() + f"{USER}:x:{UID}:{UID}::{state}/home:/bin/bash\n",
        "group": Path("/etc/group").read_text() + f"{USER}:x:{UID}:\n",
    }
    for name, text in added.items():
        (state / name).write_text(text)
        (state / name).chmod(0o644)
    private = state / "munge"
    private.mkdir(0o700)
    (private / "key").write_bytes(os.urandom(128))
    (private / "key").chmod(0o600)


# -- inside of the namespaces


def machine_of_users(state: Path, *names: str) -> None:
    """Bring the machine up on which users log in, say so, and take care of orphans until the end."""
    os.umask(0o022)
    socket.sethostname(names[0] if len(names) == 1 else LOGIN)
    _bring_loopback_up()
    for name in ("hosts", "passwd", "group"):
        run("mount", "--bind", state / name, f"/etc/{name}", check=True)
    private = state / "munge"
    files = [f"--{name}-file={private}/{name}" for name in ("key", "pid", "log", "seed")]
    _start(state, "munged", "--foreground", f"--socket={state}/munge.socket", *files)
    _until(lambda: (state / "munge.socket").exists())
    _start(state, "slurmctld", "-D", "-i", "-c", "-f", f"{state}/slurm.conf")
    if len(names) == 1:
        _start(state, "slurmd", "-D", "-N", names[0], "-f", f"{state}/slurm.conf")
    _until(lambda: not run("scontrol", "ping", env=_variables(state)).returncode)
    print("up", flush=True)  # noqa: T201
    _reap()


def node(state: Path, name: str, *options: str) -> None:
    """Bring a node up, and take care of orphans until the end."""
    os.umask(0o022)
    socket.sethostname(name)
    for folder in (Path("/dev/shm"), state / "local"):
        run("mount", "-t", "tmpfs", "-o", "mode=1777", name, folder, check=True)
    _start(state, "slurmd", "-D", "-N", name, "-f", f"{state}/slurm.conf", *options)
    _reap()


def _reap() -> None:
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.pause()


def _bring_loopback_up() -> None:
    with socket.socket() as probe:
        fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
        # Names are looked up only where there is an address besides 127.0.0.1 (AI_ADDRCONFIG in getaddrinfo).
        fcntl.ioctl(probe, _SIOCSIFADDR, struct.pack("16sHH4s8x", b"lo:0", socket.AF_INET, 0, bytes([127, 0, 0, 2])))


def _variables(state: Path) -> dict[str, str]:
    return {"PATH": _PATH, "LANG": "C.UTF-8", "SLURM_CONF": f"{state}/slurm.conf"}


def _start(state: Path, *command: str) -> None:
    with (state / f"{command[0]}.out.log").open("ab") as log:
        subprocess.Popen(command, env=_variables(state), stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            sys.exit(1)
        time.sleep(0.05)


if __name__ == "__main__":
    if sys.argv[2] == "--node":
        node(Path(sys.argv[1]), *sys.argv[3:])
    else:
        machine_of_users(Path(sys.argv[1]), *sys.argv[2:])
