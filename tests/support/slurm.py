"""A Slurm cluster of one node or several, in namespaces of its own.

The kernel ends whatever still runs there when their first process ends, daemons and jobs. The cluster's only network is
its own loopback. Nothing is written outside of the state folder, and no account is made on this machine: the cluster
has its own ``/etc/passwd``.

One node is the machine on which users log in, too. Of several, each has a name, processes and shared memory of its own,
as a machine has, and a folder ``local`` that others do not see: it dies with its first process, and at once.

Needs root and the Debian packages slurm-wlm and munge.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support import slurm_machines
from tests.support.commands import DEADLINE_S, REPOSITORY, run
from tests.support.processes import wait_for, wait_until_gone
from tests.support.slurm_machines import GPUS, NODE, UID, USER, configure

__all__ = ["GPUS", "GROUP_PREFIX", "NODE", "PROGRAMS", "UID", "USER", "Process", "Slurm"]

PROGRAMS = {
    "munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm",
    "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux",
}  # fmt: skip
GROUP_PREFIX = "slurm_"  # of the control group of a node, before the node's name
_NAMESPACES = ("--net", "--uts", "--ipc", "--mount", "--pid")
_OF_A_NODE = ("--uts", "--ipc", "--mount", "--pid")  # of several: the network is that of the cluster
_FORKS = ("--mount-proc", "--fork", "--kill-child")
_UP = ("idle", "mix", "alloc", "comp")


@dataclass(frozen=True)
class Process:
    """A process of the user on a node.

    Attributes
    ----------
    pid, parent : int
        As others see them outside of the cluster.
    number : int
        The same as the node sees it.
    node, line : str
        Where it runs, and its command line.
    variables : Mapping of str to str
        Its environment when it was started.
    """

    pid: int
    parent: int
    number: int
    node: str
    line: str
    variables: Mapping[str, str]


class Slurm:
    """A running cluster.

    Parameters
    ----------
    state : Path
        A folder for everything that the daemons write; every user must be able to get there.
    group : Path, optional
        A control group of the kind "freezer", in which Slurm makes those by which it finds a job's processes; its name
        is `GROUP_PREFIX` and the name of the only node. Without it, Slurm finds them by their parents.
    nodes : int
        How many there are: n1, n2 and so on. Of several, jobs of one that is dead begin again on others.
    kill_wait_s : int
        How long a cancelled job has to end.
    timeout_s : int
        How long a node may be silent before it is dead.
    """

    def __init__(
        self, state: Path, group: Path | None = None, *, nodes: int = 1, kill_wait_s: int = 30, timeout_s: int = 300
    ) -> None:
        self.state = state
        only = group.name.removeprefix(GROUP_PREFIX) if group is not None else NODE
        self.names = (only,) if nodes == 1 else tuple(f"n{number}" for number in range(1, nodes + 1))
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}  # of several
        self._firsts: dict[str, int] = {}  # the first process of each node that is up
        configure(state, self.names, group, kill_wait_s, timeout_s)
        self._process = subprocess.Popen(
            ["unshare", *_NAMESPACES, *_FORKS, sys.executable, "-m", slurm_machines.__name__, state, *self.names],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        try:
            if self._process.stdout.readline() != "up\n":  # it gives up by itself
                raise RuntimeError("The daemons did not start.")
            self._first = _child(self._process.pid)
            self._firsts = {} if nodes > 1 else {only: self._first}
            for name in self.names if nodes > 1 else ():
                self._start_node(name)
            wait_for(lambda: set(self.nodes().values()) == {"idle"}, "all nodes")
        except (RuntimeError, AssertionError) as error:
            self._process.kill()
            self._process.communicate()
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(state.glob("*.log")))
            raise RuntimeError(f"Slurm did not come up:\n{logs}") from error

    def close(self) -> None:
        """End the cluster, and all that runs on it."""
        self._process.kill()
        self._process.communicate()
        wait_until_gone(self._first)  # the kernel lets it end after all others of its namespace
        for node in self._nodes.values():
            node.wait()

    # -- what users do

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command where users log in, as one who has no settings of any kind, and return its output."""
        return run(*self.enter, *command, env=self.variables, input=stdin, check=True).stdout

    def on(self, node: str, *command: str) -> str:
        """Run a command on a node, as the user, and return its output."""
        return run(*self._enter(self._firsts[node]), *command, env=self.variables, check=True).stdout

    @property
    def enter(self) -> tuple[str, ...]:
        """The command that runs the one after it where users log in, as one."""
        return self._enter(self._first)

    @staticmethod
    def _enter(first: int) -> tuple[str, ...]:
        become = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
        return ("nsenter", "--target", str(first), *_NAMESPACES, *become)

    @property
    def variables(self) -> dict[str, str]:
        """What the user has set."""
        variables = {"PATH": "/usr/bin:/bin", "HOME": str(self.home), "SLURM_CONF": str(self.state / "slurm.conf")}
        return variables | {"TMPDIR": str(self.home if len(self.names) == 1 else self.state / "local")}

    @property
    def home(self) -> Path:
        """The user's own folder, which all nodes share."""
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

    # -- what happens to nodes

    def nodes(self) -> dict[str, str]:
        """Return the states of all nodes, by their names: one that does not answer has a star."""
        rows = self.run("sinfo", "--noheader", "--Node", "--format=%N %t").splitlines()
        return dict(row.split() for row in rows)

    def kill_node(self, name: str) -> None:
        """End all that runs on a node at once, as when its power fails. Slurm finds out by and by."""
        os.kill(self._firsts.pop(name), signal.SIGKILL)
        self._nodes.pop(name).wait()  # the kernel lets the first one end after all others of the node

    def lose_node(self, name: str) -> None:
        """End what Slurm has on a node, as when its network fails: the jobs' processes go on, and nobody sees them."""
        for each in _of_nodes({self._firsts[name]: name}):
            if (each / "comm").read_text().startswith(("slurmd", "slurmstepd")):
                os.kill(int(each.name), signal.SIGKILL)

    def say_down(self, name: str) -> None:
        """Tell Slurm that a node is dead, as administrators do: its jobs are to begin again on others."""
        update = ("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=dead")
        run("nsenter", "--target", str(self._first), *_NAMESPACES, *update, env=self.variables, check=True)

    def revive_node(self, name: str) -> None:
        """Start a node that was killed, and wait until it takes jobs."""
        before = self._started(name)
        self._start_node(name, "-b")  # it says that it was booted
        wait_for(lambda: self._started(name) != before and self.nodes()[name] in _UP, f"node {name}")

    def processes(self, *words: str, node: str = "") -> list[Process]:
        """Return the user's processes whose command lines have some words in them, of one node or of all."""
        firsts = {first: name for name, first in dict(self._firsts).items() if node in ("", name)}
        return [each for each in _processes(firsts) if all(word in each.line for word in words)]

    def _started(self, name: str) -> str:
        items = self.run("scontrol", "--oneliner", "show", "node", name).split()
        return next(item for item in items if item.startswith("SlurmdStartTime="))

    def _start_node(self, name: str, *options: str) -> None:
        namespaces = ["nsenter", "--target", str(self._first), *_NAMESPACES, "unshare", *_OF_A_NODE, *_FORKS]
        with (self.state / f"{name}.out.log").open("ab") as log:
            self._nodes[name] = subprocess.Popen(
                [*namespaces, sys.executable, "-m", slurm_machines.__name__, self.state, "--node", name, *options],
                cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._firsts[name] = _child(_child(self._nodes[name].pid))  # nsenter and unshare are before it


def _child(pid: int) -> int:
    """Return the only child of a process, as soon as it has one."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    wait_for(path.read_text, f"a child of process {pid}")
    return int(path.read_text().split()[0])


def _of_nodes(firsts: Mapping[int, str]) -> dict[Path, str]:
    """Return the processes on some nodes, which are named by their first ones: their folders, with their nodes."""
    nodes: dict[str, str] = {}
    for first, node in firsts.items():
        with contextlib.suppress(OSError):  # of a node that is dead
            nodes[os.readlink(f"/proc/{first}/ns/pid")] = node
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, KeyError):
            found[entry] = nodes[os.readlink(entry / "ns" / "pid")]
    return found


def _processes(firsts: Mapping[int, str]) -> Iterator[Process]:
    """Yield the user's processes on some nodes, zombies aside."""
    for entry, node in _of_nodes(firsts).items():
        with contextlib.suppress(OSError):
            if entry.stat().st_uid != UID:
                continue
            status = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines() if ":" in line)
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            texts = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            if status["State"].split()[0] not in "ZX":
                yield Process(
                    int(entry.name), int(status["PPid"]), int(status["NSpid"].split()[-1]), node, line,
                    dict(text.split("=", 1) for text in texts if "=" in text),
                )  # fmt: skip
