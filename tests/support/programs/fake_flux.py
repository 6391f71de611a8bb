"""Flux, as its manuals describe `flux batch`, `run`, `jobs`, `cancel` and `getattr`, on this machine alone.

What runs in a job is in an instance of Flux of its own: there, `flux jobs` knows nothing of the job itself or of others
like it, and FLUX_JOB_ID is that of `flux run`. An option that no test has needed yet is refused, since what takes
anything proves nothing.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import fake_jobs
from fake_jobs import Job, RefusedError

KILL_TIMEOUT_S = float(os.environ.get("FAKE_BATCH_GRACE_S", 5))
EXIT_TIMEOUT_S = 30.0
GPUS_OF_A_NODE = 2
_DIGITS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_STATES = {"H": "DEPEND", "Q": "SCHED", "R": "RUN", "F": "INACTIVE"}
_NOT_OF_THE_SCRIPT = re.compile(r"FLUX_(JOB_|TASK_|URI|ENCLOSING_ID|KVS_NAMESPACE|PROXY_REMOTE|PMI_)|PMIX?_|SLURM_")


def encode(number: int) -> str:
    """Return a job's number as people see it."""
    rest, digits = (number << 37) + 5813, ""
    while rest:
        rest, digit = divmod(rest, 58)
        digits = _DIGITS[digit] + digits
    return f"{'f' if os.environ.get('FLUX_F58_FORCE_ASCII') else 'ƒ'}{digits}"


def decode(word: str, program: str) -> int:
    """Return a job's number; one that no job has if Flux did not make it."""
    number = 0
    if not re.fullmatch(rf"[ƒf][{_DIGITS}]+", word):
        raise RefusedError(f"flux-{program}: error: argument JOBID: invalid JobID value: {word!r}", 2)
    for digit in word[1:]:
        number = number * 58 + _DIGITS.index(digit)
    return number >> 37 if number % (1 << 37) == 5813 else 0


class Words(argparse.ArgumentParser):
    """Options of a command, which are refused as Flux refuses them."""

    def __init__(self, command: str) -> None:
        super().__init__(prog=f"flux-{command}", allow_abbrev=False, add_help=False)
        self.command = command

    def error(self, message: str) -> NoReturn:
        raise RefusedError(f"flux-{self.command}: error: {message}", 2)


# -- flux batch


def _options() -> Words:
    parser = Words("batch")
    for short, name in (("-N", "nodes"), ("-n", "nslots"), ("-c", "cores-per-slot"), ("-g", "gpus-per-slot")):
        parser.add_argument(short, f"--{name}", type=int)
    for name in ("job-name", "output", "error", "bank", "requires", "cwd"):
        parser.add_argument(f"--{name}")
    parser.add_argument("-q", "--queue")
    parser.add_argument("-t", "--time-limit")
    parser.add_argument("-x", "--exclusive", action="store_true")
    for short, name in (("-S", "setattr"), ("-o", "setopt")):
        parser.add_argument(short, f"--{name}", action="append", default=[])
    parser.add_argument("--dependency", action="append", default=[])
    parser.add_argument("SCRIPT", nargs=argparse.REMAINDER)
    return parser


def batch(words: list[str]) -> None:
    """Submit a script."""
    options = _options().parse_args(words)
    name = options.SCRIPT[0] if options.SCRIPT else "stdin"
    try:
        script = Path(name).read_text() if options.SCRIPT else sys.stdin.read()
    except FileNotFoundError:
        raise RefusedError(f"flux-batch: ERROR: [Errno 2] No such file or directory: {name!r}") from None
    found = argparse.Namespace()
    for number, line in _directives(script, name):
        each = _options().parse_args(line, namespace=found)
        if each.SCRIPT:  # Flux forgets it, and what was meant with it
            raise RefusedError(f"flux-batch: ERROR: argument parsing failed at {name} line {number}: {each.SCRIPT}", 2)
    options = _options().parse_args(words, namespace=found)
    if not script.startswith("#!"):
        raise RefusedError(f"flux-batch: ERROR: {name} does not appear to be a script")
    if not options.nslots and not options.nodes:
        raise RefusedError("flux-batch: ERROR: Number of slots to allocate must be specified")
    if options.exclusive and not options.nodes:
        raise RefusedError("flux-batch: ERROR: --exclusive can only be specified with --nodes")
    if options.nodes and options.nslots and options.nslots < options.nodes:
        raise RefusedError("flux-batch: ERROR: node count must not be greater than task count")
    _check_constraint(options.requires or "")
    exclusive = options.exclusive or not options.nslots
    nodes = options.nodes or 1
    gpus = nodes * GPUS_OF_A_NODE if exclusive else (options.nslots or nodes) * (options.gpus_per_slot or 0)
    said = {
        "tasks": [None], "concurrent": 0, "after": [_before(each) for each in options.dependency],
        "seconds": _duration(options.time_limit, 60.0) if options.time_limit else None, "nodes": nodes, "gpus": gpus,
        "name": options.job_name or (options.SCRIPT[0] if options.SCRIPT else "batch"), "queue": options.queue or "",
        "output": options.output or "flux-{{id}}.out", "error": options.error, "arguments": options.SCRIPT[1:],
        "folder": options.cwd or os.getcwd(), "variables": dict(os.environ),
    }  # fmt: skip
    print(encode(fake_jobs.submit(said, script).number))


def _directives(script: str, name: str) -> list[tuple[int, list[str]]]:
    """Return the words of a script's directives, by the numbers of their lines (RFC 36)."""
    found: list[tuple[int, list[str]]] = []
    sentinel, ended = "", False
    for number, line in enumerate(script.splitlines(), 1):
        match = re.match(r"^([^\w]*)((?:flux|FLUX):)(.*)$", line)
        if not match:
            ended = ended or bool(sentinel and line.strip() and not line.startswith(sentinel.rstrip("FLUXflux: ")))
            continue
        if ended:
            raise RefusedError(f"flux-batch: ERROR: {name}: line {number}: orphan '{match[2]}' detected")
        if sentinel not in ("", match[1] + match[2]):
            raise RefusedError(f"flux-batch: ERROR: {name}: line {number}: sentinel changed from '{sentinel}'")
        sentinel = match[1] + match[2]
        lexer = shlex.shlex(match[3], posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.escapedquotes = True, "\"'"
        words = list(lexer)
        if words and not words[0].startswith("-"):
            raise RefusedError(f"flux-batch: ERROR: {name}: line {number}: Unknown directive: {match[3]}")
        found += [(number, words)] if words else []
    return found


def _check_constraint(text: str) -> None:
    """Refuse what is no constraint query (RFC 35): an operator must have something after it."""
    tokens = re.findall(r"[()]|&&?|\|\|?|[^\s()&|]+", text)
    for token, after in itertools.pairwise([*tokens, ""]):
        if token in ("not", "and", "or", "&", "&&", "|", "||", "(") and after in ("", ")", "and", "or"):
            raise RefusedError(f"flux-batch: ERROR: Invalid constraint: {text!r}: syntax error")
        operator, colon, operand = token.lstrip("-").partition(":")
        if colon and (operator not in ("host", "hosts", "hostlist", "rank", "ranks", "properties") or not operand):
            raise RefusedError(f"flux-batch: ERROR: Invalid constraint: unknown constraint operator: {operator}")


def _duration(text: str, unit: float) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d*)?)([smhd]?)", text)
    if not match:
        raise RefusedError(f"flux-batch: ERROR: invalid Flux standard duration: {text!r}")
    return float(match[1]) * ({"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match[2] else unit)


def _before(dependency: str) -> int:
    scheme, _, value = dependency.partition(":")
    if scheme != "afterany":  # the others depend on how the job ends, and nobody has needed them yet
        raise RefusedError(f"flux-batch: ERROR: dependency scheme {scheme!r} not supported")
    number = decode(value, "batch")
    if not fake_jobs.find(number):
        raise RefusedError(f"flux-batch: ERROR: afterany: {value}: job not found")
    return number


# -- the process of a job


def run_job(words: list[str]) -> None:
    """Run a job to its end, as its broker does."""
    job = Job(int(words[0]))
    said = job.said
    fake_jobs.Running(
        job, lambda index, gpus: _start(job, said, gpus), gpus=said["gpus"], grace_s=KILL_TIMEOUT_S,
        # The broker ends by SIGTERM, and tells the script by SIGHUP; that of `flux run` ends its tasks by SIGTERM.
        tell=lambda session: os.killpg(session, signal.SIGHUP), ended=lambda index, code, reason: None,
    ).until_its_end()  # fmt: skip


def _start(job: Job, said: dict[str, Any], gpus: list[int]) -> subprocess.Popen[bytes]:
    script = job.folder / "script"
    script.chmod(0o700)
    variables = {name: text for name, text in said["variables"].items() if not _NOT_OF_THE_SCRIPT.match(name)}
    variables |= {"FLUX_URI": f"local://{job.folder}/local-0", "FLUX_ENCLOSING_ID": encode(job.number)}
    if gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus[: len(gpus) // said["nodes"]]))
    with _opened(job, said, said["output"]) as out:
        err = _opened(job, said, said["error"]) if said["error"] else out
        return subprocess.Popen(
            [script, *said["arguments"]], cwd=said["folder"], env=variables, stdin=subprocess.DEVNULL, stdout=out,
            stderr=err, start_new_session=True,
        )  # fmt: skip


def _opened(job: Job, said: dict[str, Any], template: str) -> Any:
    meanings = {"id": encode(job.number), "jobid": encode(job.number), "name": said["name"], "id.dec": str(job.number)}
    path = re.sub(r"\{\{([\w.]+)\}\}", lambda match: meanings[match[1]], template)
    return Path(said["folder"], path).open("wb")


# -- flux run


def run(words: list[str]) -> None:
    """Run tasks in the instance of a job; all are on this machine."""
    parser = Words("run")
    for short, name in (("-N", "nodes"), ("-n", "ntasks"), ("-c", "cores-per-task"), ("-g", "gpus-per-task")):
        parser.add_argument(short, f"--{name}", type=int)
    parser.add_argument("-x", "--exclusive", action="store_true")
    parser.add_argument("-o", "--setopt", action="append", default=[])
    parser.add_argument("COMMAND", nargs=argparse.REMAINDER)
    options = parser.parse_args(words)
    job = _enclosing()
    if job is None:
        raise RefusedError("flux-run: ERROR: only in a job here", 2)
    tasks, nodes = options.ntasks or options.nodes or 1, options.nodes or 1
    if nodes > tasks:
        raise RefusedError("flux-run: ERROR: node count must not be greater than task count")
    if nodes > job.said["nodes"]:
        raise RefusedError("flux-run: job.exception type=alloc severity=0 unsatisfiable request")
    settings = dict(each.partition("=")[::2] for each in options.setopt)
    if unknown := sorted({*settings} - {"exit-timeout", "exit-on-error", "cpu-affinity", "gpu-affinity"}):
        raise RefusedError(f"flux-run: ERROR: shell option {unknown[0]}: not known here")
    timeout = settings.get("exit-timeout", f"{EXIT_TIMEOUT_S}")
    left = None if timeout == "none" else _duration(timeout, 1.0)
    gpus = [str(gpu) for gpu in job.tasks[""]["gpus"]]
    each = len(gpus) // job.said["nodes"]
    ranks = []
    for rank in range(tasks):
        node = rank * nodes // tasks
        variables = os.environ | {
            "FLUX_JOB_ID": encode(os.getpid()), "FLUX_TASK_RANK": str(rank), "PMI_RANK": str(rank),
            "FLUX_JOB_SIZE": str(tasks), "FLUX_JOB_NNODES": str(nodes), "FLUX_TASK_LOCAL_ID": "0",
        }  # fmt: skip
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[node * each : (node + 1) * each])
        ranks.append(subprocess.Popen(options.COMMAND, env=variables, process_group=0))
    end: dict[int, int] = dict.fromkeys((signal.SIGTERM, signal.SIGHUP, signal.SIGINT), signal.SIGTERM)
    failed = "exit-on-error" in settings

    def ended(seconds: float) -> bool:
        return (left is not None and seconds > left) or (failed and any(rank.poll() for rank in ranks))

    sys.exit(fake_jobs.wait_for_all(ranks, end, ended))


# -- flux jobs, cancel and getattr


def jobs(words: list[str]) -> None:
    """List jobs: those that are asked for, or all that have not ended."""
    parser = Words("jobs")
    parser.add_argument("-a", dest="all", action="store_true")
    parser.add_argument("-n", "--suppress-header", action="store_true")
    parser.add_argument("-o", "--format", default="{id.f58:>12} {name:<10.10} {status_abbrev:>2.2} {queue}")
    parser.add_argument("--name")
    parser.add_argument("jobids", nargs="*", metavar="JOBID")
    options = parser.parse_args(words)
    if options.jobids:
        chosen = []
        for word in options.jobids:
            job = None if _enclosing() else fake_jobs.find(decode(word, "jobs"))
            chosen += [job] if job else []
            if job is None:
                print(f"JobID {word} unknown", file=sys.stderr)
    else:
        chosen = [] if _enclosing() else [job for job in fake_jobs.jobs() if options.all or not job.finished]
        chosen = [job for job in chosen if options.name in (None, job.said["name"])]
    if not options.suppress_header:
        print(re.sub(r"\{([\w.]+)(?::[^}]*)?\}", lambda match: match[1].partition(".")[0].upper(), options.format))
    for job in chosen:
        print(_line(options.format, _facts(job)))


def _line(text: str, facts: dict[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in facts:
            raise RefusedError(f"flux-jobs: ERROR: Error in user format: Unknown format field: {match[1]}")
        return format(facts[match[1]], match[2] or "")

    return re.sub(r"\{([\w.]+)(?::([^}]*))?\}", value, text)


def _facts(job: Job) -> dict[str, str]:
    said, task = job.said, job.tasks[""]
    result = ""
    if task["state"] == "F":
        result = {"cancel": "CANCELED", "time": "TIMEOUT"}.get(
            task["reason"], "FAILED" if task["code"] else "COMPLETED"
        )
    status = result or ("RUNNING" if task["state"] == "R" else "PENDING")
    short = {"CANCELED": "CA", "TIMEOUT": "TO", "FAILED": "F", "COMPLETED": "CD", "RUNNING": "R"}.get(status, "PD")
    return {
        "id": encode(job.number), "id.f58": encode(job.number), "name": said["name"], "state": _STATES[task["state"]],
        "status": status, "status_abbrev": short, "result": result, "queue": said["queue"],
        "returncode": str(task.get("code", "")), "nnodes": str(said["nodes"]),
    }  # fmt: skip


def cancel(words: list[str]) -> None:
    """Cancel jobs."""
    parser = Words("cancel")
    parser.add_argument("-m", "--message")
    parser.add_argument("jobids", nargs="*", metavar="JOBID")
    ids = parser.parse_args(words).jobids
    if not ids:
        raise RefusedError("flux-cancel: ERROR: No target jobs were provided")
    errors = 0
    for word in ids:
        job = None if _enclosing() else fake_jobs.find(decode(word, "cancel"))
        if job is None or job.finished:
            print(f"flux-cancel: ERROR: {word}: {'unknown job' if job is None else 'job is inactive'}", file=sys.stderr)
            errors += 1
        else:
            job.cancel(None)
    sys.exit(int(errors > 0))


def getattr_(words: list[str]) -> None:
    """Print an attribute of the instance."""
    job = _enclosing()
    if words != ["jobid"] or job is None:
        raise RefusedError(f"flux-getattr: {' '.join(words)}: No such file or directory")
    print(encode(job.number))


def _enclosing() -> Job | None:
    """Return the job in which this runs, unless its parent is meant."""
    name = os.environ.get("FLUX_ENCLOSING_ID")
    return fake_jobs.find(decode(name, "job")) if name else None


if __name__ == "__main__":
    words = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    if words[:1] == ["--parent"]:
        os.environ.pop("FLUX_ENCLOSING_ID", None)
        del words[0]
    commands = {"batch": batch, "run": run, "jobs": jobs, "cancel": cancel, "getattr": getattr_, "run-job": run_job}
    try:
        if not words or words[0] not in commands:
            raise RefusedError(f"flux: `{' '.join(words[:1])}' is not a flux command", 1)
        if words[0] == "batch" and _enclosing():
            raise RefusedError("flux-batch: ERROR: a job in a job is not known here")
        commands[words[0]](words[1:])
    except RefusedError as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
