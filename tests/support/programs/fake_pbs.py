"""PBS Professional, as its manuals describe qsub, qstat, qselect, qdel and HPE's mpiexec, on this machine alone.

Jobs are sessions of processes on this machine, which starts all of them at once: `fake_jobs` runs them. An option that
no test has needed yet is refused, since what takes anything proves nothing.
"""

from __future__ import annotations

import contextlib
import getopt
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fake_jobs
from fake_jobs import Job, RefusedError

SERVER = "server"
KILL_DELAY_S = float(os.environ.get("FAKE_BATCH_GRACE_S", 10))
_RESOURCES = {"select", "place", "walltime", "filesystems", "qos"}
_OF_CHUNKS = {"ncpus", "ngpus", "mem", "mpiprocs", "ompthreads", "system", "host"}
_ID = re.compile(rf"(\d+)(?:(\[)(\d*)\])?(?:\.{SERVER})?")
_TABLE = "{:<17} {:<16} {:<16} {:>9} {} {}"


# -- qsub


def qsub(words: list[str]) -> None:
    """Submit a job."""
    options, operands = _parse(words)
    if len(operands) > 1:
        raise RefusedError("usage: qsub [-A account_string] ... [script | -- command [args]]", 2)
    try:
        script = Path(operands[0]).read_text() if operands else sys.stdin.read()
    except FileNotFoundError:
        raise RefusedError("qsub: script file:: No such file or directory") from None
    directives = [option for line in _directives(script) for option in _parse(shlex.split(line), directive=line)[0]]
    said = _understand([*directives, *options])
    said.setdefault("name", Path(operands[0]).name if operands else "STDIN")
    said["folder"] = os.getcwd()
    said["variables"] |= {f"PBS_O_{name}": os.environ[name] for name in ("HOME", "PATH", "SHELL") if name in os.environ}
    job = fake_jobs.submit(said, script)
    print(_name(job))


def _parse(words: list[str], directive: str = "") -> tuple[list[tuple[str, str]], list[str]]:
    try:
        options, operands = getopt.getopt(words, "A:J:N:S:W:e:j:k:l:o:q:r:v:V")
    except getopt.GetoptError as error:
        if directive:
            raise RefusedError(f"qsub: directive error: {directive}", 2) from None
        raise RefusedError(f"qsub: invalid option -- '{error.opt}'\nusage: qsub [-A account_string] ...", 2) from None
    if directive and operands:
        raise RefusedError(f"qsub: directive error: {directive}", 2)
    return options, operands


def _directives(script: str) -> list[str]:
    """Return the directives of a script: they come before its first command."""
    found = []
    for line in script.splitlines():
        if line.startswith("#PBS"):
            found.append(line[4:].strip())
        elif line.strip() and not line.lstrip().startswith("#"):
            break
    return found


def _understand(options: list[tuple[str, str]]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "tasks": [None], "concurrent": 0, "after": [], "seconds": None, "chunks": [[1, {}]], "umask": 0o077,
        "variables": {}, "join": "n", "keep": "n", "rerunnable": "y", "shell": "/bin/bash",
    }  # fmt: skip
    for option, value in options:
        if option == "-N" and not re.fullmatch(r"\w[^\s]{0,235}", value, re.ASCII):
            raise RefusedError("qsub: illegal -N value")
        if (option == "-r" and value not in ("y", "n")) or (option == "-j" and value not in ("oe", "eo", "n")):
            raise RefusedError(f"qsub: illegal {option} value")
        if option == "-k" and not re.fullmatch(r"n|[doe]{1,3}", value):
            raise RefusedError("qsub: illegal -k value")
        if option == "-S" and not value.startswith("/"):
            raise RefusedError("qsub: illegal -S value")
        key = {"-N": "name", "-r": "rerunnable", "-j": "join", "-k": "keep", "-S": "shell", "-o": "out", "-e": "err",
               "-A": "account", "-q": "queue"}.get(option)  # fmt: skip
        if key is not None:
            said[key] = value
        elif option == "-J":
            said["tasks"], said["concurrent"] = _array(value)
        elif option == "-l":
            _resources(value, said)
        elif option == "-W":
            _attributes(value, said)
        else:
            said["variables"] |= _exported(option, value)
    if said["tasks"] != [None] and said["rerunnable"] == "n":
        raise RefusedError("qsub: cannot submit non-rerunable Array Job")
    return said


def _array(value: str) -> tuple[list[int | None], int]:
    match = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?(?:%(\d+))?", value)
    if not match or int(match[1]) >= int(match[2]):  # one task is no array
        raise RefusedError("qsub: illegal -J value")
    return list(range(int(match[1]), int(match[2]) + 1, int(match[3] or 1))), int(match[4] or 0)


def _resources(value: str, said: dict[str, Any]) -> None:
    for each in value.split(",") if not value.startswith(("select", "place")) else [value]:
        name, equals, amount = each.partition("=")
        if not equals or not amount:
            raise RefusedError("qsub: illegal -l value")
        if name not in _RESOURCES:
            raise RefusedError(f"qsub: Unknown resource Resource_List.{name}")
        if name == "walltime":
            if not re.fullmatch(r"(\d+:)?(\d+:)?\d+", amount):
                raise RefusedError("qsub: Illegal attribute or resource value Resource_List.walltime")
            said["seconds"] = sum(int(part) * 60**power for power, part in enumerate(reversed(amount.split(":"))))
        elif name == "select":
            said["chunks"] = [_chunk(chunk) for chunk in amount.split("+")]
        elif name == "place" and not re.fullmatch(r"(free|pack|v?scatter)?(:?(excl|exclhost|shared))?", amount):
            raise RefusedError("qsub: Illegal attribute or resource value Resource_List.place")


def _chunk(text: str) -> tuple[int, dict[str, str]]:
    first, *rest = text.split(":")
    number, pairs = (int(first), rest) if first.isdecimal() else (1, [first, *rest])
    resources = dict(pair.partition("=")[::2] for pair in pairs)
    for name, amount in resources.items():
        if name not in _OF_CHUNKS or not amount:
            raise RefusedError(f"qsub: Illegal attribute or resource value Resource_List.select ({name})")
    return number, resources


def _attributes(value: str, said: dict[str, Any]) -> None:
    for each in re.split(r",(?=\w+=)", value):
        name, _, words = each.partition("=")
        if name == "umask":
            said["umask"] = int(words, 8)
        elif name == "depend":
            kind, *ids = words.split(":")
            # The others differ by how the jobs before have ended, and nobody has needed them yet.
            if kind != "afterany" or not ids:
                raise RefusedError("qsub: illegal -W value")
            said["after"] = [_find(word, "qsub")[0].number for word in ids]
        else:
            raise RefusedError("qsub: illegal -W value")


def _exported(option: str, value: str) -> dict[str, str]:
    if option == "-V":
        return dict(os.environ)
    pairs = dict(each.partition("=")[::2] for each in value.split(","))
    return {name: text or os.environ.get(name, "") for name, text in pairs.items()}


# -- the process of a job


def run_job(words: list[str]) -> None:
    """Run a job to its end, as pbs_mom does."""
    job = Job(int(words[0]))
    said = job.said
    gpus = sum(number * int(resources.get("ngpus", 0)) for number, resources in said["chunks"])
    fake_jobs.Running(
        job, lambda index, numbers: _start(job, said, index, numbers), gpus=gpus, grace_s=KILL_DELAY_S,
        tell=lambda session: fake_jobs.signal_session(session, signal.SIGTERM),
        ended=lambda index, code, reason: _end(job, said, index, reason),
    ).until_its_end()  # fmt: skip


def _start(job: Job, said: dict[str, Any], index: int | None, gpus: list[int]) -> subprocess.Popen[bytes]:
    user = pwd.getpwuid(os.getuid())
    name, own = _name(job, index), _folder(job, index)
    own.mkdir()
    nodes = [socket.gethostname() for number, resources in said["chunks"]
             for _ in range(number * int(resources.get("mpiprocs", 1)))]  # fmt: skip
    (own / "nodes").write_text("".join(f"{node}\n" for node in nodes))
    # A login's, and nothing of what was set where the job was submitted.
    variables = {
        "HOME": os.environ.get("FAKE_BATCH_HOME", user.pw_dir), "LOGNAME": user.pw_name, "USER": user.pw_name,
        "SHELL": user.pw_shell, "PATH": f"{os.environ['FAKE_BATCH_BIN']}:/usr/bin:/bin", "TMPDIR": str(own),
        **said["variables"], "PBS_O_WORKDIR": said["folder"], "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_JOBID": name,
        "PBS_JOBNAME": said["name"], "PBS_NODEFILE": str(own / "nodes"), "PBS_QUEUE": said.get("queue", "workq"),
    }  # fmt: skip
    if index is not None:
        variables |= {"PBS_ARRAY_INDEX": str(index), "PBS_ARRAY_ID": _name(job)}
    if gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))  # of all nodes: `mpiexec` divides them
    out, err = _printed(job, said, index)
    direct, join = "d" in said["keep"], said["join"]
    with contextlib.ExitStack() as files:
        printed, wrong = (
            files.enter_context((at if direct else own / name).open("wb")) if join != other else None
            for at, name, other in ((out, "OU", "eo"), (err, "ER", "oe"))
        )
        return subprocess.Popen(
            [said["shell"], job.folder / "script"], cwd=variables["HOME"], env=variables, umask=said["umask"],
            stdin=subprocess.DEVNULL, stdout=printed or wrong, stderr=wrong or printed, start_new_session=True,
        )  # fmt: skip


def _end(job: Job, said: dict[str, Any], index: int | None, reason: str) -> None:
    """Take what a task has printed to where it is to be, which PBS does only now."""
    own = _folder(job, index)
    out, err = _printed(job, said, index)
    if "d" not in said["keep"]:
        if reason == "time":
            with next(path for path in (own / "ER", own / "OU") if path.exists()).open("a") as file:
                file.write(f"=>> PBS: job killed: walltime exceeded limit {said['seconds']}\n")
        for source, target in ((own / "OU", out), (own / "ER", err)):
            if source.exists():
                fake_jobs.copy(source, target)
    shutil.rmtree(own)


def _folder(job: Job, index: int | None) -> Path:
    return job.folder / ("job" if index is None else f"task-{index}")


def _printed(job: Job, said: dict[str, Any], index: int | None) -> tuple[Path, Path]:
    found = []
    for key, letter, ending in (("out", "o", "OU"), ("err", "e", "ER")):
        path = Path(said["folder"], said.get(key, "").rpartition(":")[2].replace("^array_index^", str(index)))
        if key not in said:
            number = f"{job.number}" if index is None else f"{job.number}.{index}"
            path = path / f"{said['name']}.{letter}{number}"
        elif path.is_dir():
            path = path / f"{_name(job, index)}.{ending}"
        found.append(path)
    return found[0], found[1]


# -- qstat, qselect and qdel


def qstat(words: list[str]) -> None:
    """Show jobs."""
    try:
        options, ids = getopt.getopt(words, "tfxF:")
    except getopt.GetoptError as error:
        raise RefusedError(f"qstat: invalid option -- '{error.opt}'\nusage: qstat [-f] [-t] [-x] ...", 2) from None
    chosen = dict(options)
    rows, told, code = [], {}, 0
    for word in ids or [_name(job) for job in fake_jobs.jobs() if not job.finished]:
        try:
            job, index, is_array = _find(word, "qstat")
            if job.finished and "-x" not in chosen:
                raise RefusedError(
                    f"qstat: {_name(job, index)} Job has finished, use -x or -H to obtain historical job information",
                    35,
                )
        except RefusedError as error:
            print(error, file=sys.stderr)
            code = error.code
            continue
        shown: list[int | None] = [index]
        if "-t" in chosen and is_array and index is None:
            shown += job.said["tasks"]
        for each in shown:
            rows.append(_row(job, each))
            told[_name(job, each)] = _facts(job, each)
    if "-f" in chosen:
        if chosen.get("-F") != "json":
            raise RefusedError("qstat: only -F json here", 2)
        print(json.dumps({"timestamp": int(time.time()), "pbs_server": SERVER, "Jobs": told}))
    elif rows:
        print(_TABLE.format("Job id", "Name", "User", "Time Use", "S", "Queue"))
        print(_TABLE.format("-" * 16, "-" * 16, "-" * 16, "-" * 8, "-", "-----"))
        print("\n".join(rows))
    sys.exit(code)


def qselect(words: list[str]) -> None:
    """Show the ids of jobs that have not ended, by their name."""
    try:
        options, operands = getopt.getopt(words, "N:")
    except getopt.GetoptError as error:
        raise RefusedError(f"qselect: invalid option -- '{error.opt}'\nusage: qselect [-N name] ...", 2) from None
    if operands:
        raise RefusedError("usage: qselect [-N name] ...", 2)
    wanted = dict(options).get("-N")
    chosen = [job for job in fake_jobs.jobs() if not job.finished and wanted in (None, job.said["name"])]
    print("".join(f"{_name(job)}\n" for job in chosen), end="")


def qdel(words: list[str]) -> None:
    """Delete jobs: one that runs is told to end, and killed if it has not done so by and by."""
    code = 0
    for word in words or ["-"]:
        if word.startswith("-"):
            raise RefusedError("usage:\n\tqdel [-W force|suppress_email=X] [-x] job_identifier...", 2)
        try:
            job, index, _ = _find(word, "qdel")
            if job.finished or (index is not None and job.tasks[str(index)]["state"] == "F"):
                raise RefusedError(f"qdel: Job has finished {_name(job, index)}", 35)
            job.cancel(index)
        except RefusedError as error:
            print(error, file=sys.stderr)
            code = error.code
    sys.exit(code)


def _find(word: str, program: str) -> tuple[Job, int | None, bool]:
    match = _ID.fullmatch(word)
    if not match:
        raise RefusedError(f"{program}: illegally formed job identifier: {word}", 2)
    job = fake_jobs.find(int(match[1]))
    index = int(match[3]) if match[3] else None
    if job is None or (job.said["tasks"] == [None]) == bool(match[2]) or index not in (None, *job.said["tasks"]):
        raise RefusedError(f"{program}: Unknown Job Id {word}", 153)
    return job, index, bool(match[2])


def _name(job: Job, index: int | None = None) -> str:
    array = "" if job.said["tasks"] == [None] else "[]" if index is None else f"[{index}]"
    return f"{job.number}{array}.{SERVER}"


def _state(job: Job, index: int | None) -> str:
    tasks, array = job.tasks, job.said["tasks"] != [None]
    if array and index is None:
        states = {task["state"] for task in tasks.values()}
        return "F" if states == {"F"} else "B" if states & {"R", "F"} else max(states)
    state = str(tasks["" if index is None else str(index)]["state"])
    return "X" if state == "F" and array and not job.finished else state


def _row(job: Job, index: int | None) -> str:
    name = _name(job, index)
    name = name if len(name) <= 17 else f"{name[:16]}*"
    user = pwd.getpwuid(os.getuid()).pw_name[:16]
    said = job.said
    return _TABLE.format(name, said["name"][:16], user, "00:00:00", _state(job, index), said.get("queue", "workq"))


def _facts(job: Job, index: int | None) -> dict[str, Any]:
    said = job.said
    facts = {"Job_Name": said["name"], "job_state": _state(job, index), "queue": said.get("queue", "workq")}
    task = job.tasks.get("" if index is None else str(index), {})
    if "code" in task:
        facts["Exit_status"] = task["code"] if task["code"] >= 0 else 256 - task["code"]
    return facts


# -- mpiexec


def mpiexec(words: list[str]) -> None:
    """Start processes, all on this machine. One that fails takes the others with it, unless that is switched off."""
    if "PBS_JOBID" not in os.environ:
        raise RefusedError("mpiexec: not in a job", 255)
    number, each, abort = 1, 0, os.environ.get("PALS_ABORT_ON_FAILURE", "1") not in ("0", "false")
    words = list(words)
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option in ("-n", "-np"):
            number = int(words.pop(0))
        elif option in ("--ppn", "-ppn"):
            each = int(words.pop(0))
        elif option in ("--depth", "-d", "--cpu-bind", "--hostfile"):
            words.pop(0)
        elif option in ("--abort-on-failure", "--no-abort-on-failure"):
            abort = option == "--abort-on-failure"
        else:
            raise RefusedError(f"mpiexec: no such option: {option}", 2)
    nodes = len(Path(os.environ["PBS_NODEFILE"]).read_text().split())
    if each and number > nodes * each:
        raise RefusedError(f"mpiexec: {number} ranks with --ppn {each} do not fit on {nodes} nodes", 255)
    # The GPUs of the job are those of its nodes, one after the other.
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    ranks = []
    for rank in range(number):
        node = rank // each if each else rank * nodes // number
        variables = {"PALS_RANKID": str(rank), "PALS_LOCAL_RANKID": "0", "PMI_RANK": str(rank), "PMI_SIZE": str(number)}
        if gpus != [""]:
            share = len(gpus) // nodes
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[node * share : (node + 1) * share])
        ranks.append(subprocess.Popen(words, env=os.environ | variables))
    same: dict[int, int] = {number: number for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)}
    sys.exit(fake_jobs.wait_for_all(ranks, same, lambda seconds: abort and any(rank.poll() for rank in ranks)))


if __name__ == "__main__":
    program, *rest = sys.argv[1:]
    try:
        commands = {"qsub": qsub, "qstat": qstat, "qselect": qselect, "qdel": qdel, "mpiexec": mpiexec}
        {**commands, "run-job": run_job}[program](rest)
    except RefusedError as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
