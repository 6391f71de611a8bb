"""The programs that stand in for PBS and Flux do what the manuals of these say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.batch_fakes import at_home, batch_fakes, hold, release
from tests.support.commands import Done, run
from tests.support.processes import wait_for

STAY = "#!/bin/bash\ntrap 'echo told; exit 3' TERM HUP\necho begun\nsleep 1000 & wait\n"
STUBBORN = "#!/bin/bash\ntrap '' TERM HUP\necho begun\nsleep 1000\nsleep 1000\n"


@pytest.fixture
def programs(tmp_path):
    with batch_fakes(tmp_path / "batch", grace_s=0.5) as found:
        yield found


@pytest.fixture
def ask(programs, tmp_path):
    """Return what runs a command in a folder of its own."""
    here = tmp_path / "here"
    here.mkdir()

    def command(*words: str, code: int | None = 0, stdin: str = "", **variables: str) -> Done:
        done = run(*words, input=stdin, cwd=here, env=os.environ | at_home(programs) | variables)
        assert code in (None, done.returncode), (words, done)
        return done

    command.here = here
    return command


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def pbs_state(ask, name: str) -> str:
    return json.loads(ask("qstat", "-x", "-f", "-F", "json", name).stdout)["Jobs"][name]["job_state"]


def flux_state(ask, name: str) -> str:
    return ask("flux", "jobs", "-n", "--format={id.f58} {state}", name).stdout.split()[-1]


def test_pbs_runs_a_job_as_a_login_does(ask, programs):
    script = "#!/bin/bash\n#PBS -N mine\n#PBS -j oe\n#PBS -l select=2:ncpus=4:ngpus=2,walltime=00:05:00\n"
    script += "pwd; env; cat $PBS_NODEFILE; umask\n"
    name = ask("qsub", "-q", "small", stdin=script.replace(",walltime", "\n#PBS -l walltime"), OF_MINE="1").stdout
    assert name == "12.server\n"
    wait_for(lambda: pbs_state(ask, "12.server") == "F", "the job's end")
    printed = text(ask.here / "mine.o12").splitlines()
    assert printed[0] == str(programs.parent / "home") and printed[-1] == "0077" and printed[-2] == printed[-3]
    expected = {"PBS_JOBID=12.server", f"PBS_O_WORKDIR={ask.here}", "PBS_ENVIRONMENT=PBS_BATCH", "PBS_QUEUE=small"}
    assert {*expected, "CUDA_VISIBLE_DEVICES=0,1,2,3"} <= {*printed}
    assert not any(line.startswith("OF_MINE") for line in printed)
    done = ask("qstat", "12.server", code=35)
    assert done.stderr == "qstat: 12.server Job has finished, use -x or -H to obtain historical job information\n"
    assert ask("qdel", "12", code=35).stderr == "qdel: Job has finished 12.server\n"
    assert ask("qstat", "99.server", code=153).stderr == "qstat: Unknown Job Id 99.server\n"
    assert ask("qstat").stdout == ""


def test_pbs_runs_an_array_of_jobs(ask):
    script = f"#PBS -J 0-3%2\n#PBS -l select=1:ngpus=1\n#PBS -k oed\n#PBS -j oe\n#PBS -o {ask.here}/\n"
    script += "echo $PBS_ARRAY_INDEX $PBS_ARRAY_ID $PBS_JOBID $CUDA_VISIBLE_DEVICES\nsleep 1000 & wait\n"
    assert ask("qsub", stdin=script).stdout == "12[].server\n"

    def states() -> str:
        rows = ask("qstat", "-t", "12[].server").stdout.splitlines()
        return "".join(row.split()[4] for row in rows[2:])

    wait_for(lambda: states() == "BRRQQ", "two tasks")
    wait_for(lambda: text(ask.here / "12[1].server.OU") == "1 12[].server 12[1].server 1\n", "what it prints at once")
    ask("qdel", "12[0].server")
    wait_for(lambda: states() == "BXRRQ", "the third one")
    wait_for(
        lambda: text(ask.here / "12[2].server.OU").endswith("2 12[].server 12[2].server 0\n"), "a GPU that is free"
    )
    [*_, row] = ask("qstat", "12[1].server").stdout.splitlines()
    assert row.split()[0] == "12[1].server" and row.split()[4:] == ["R", "workq"]
    ask("qdel", "12[].server")
    wait_for(lambda: pbs_state(ask, "12[].server") == "F", "the end of all")
    assert not (ask.here / "12[3].server.OU").exists()


def test_pbs_asks_a_job_to_end_and_then_kills_it(ask):
    polite, stubborn = (ask("qsub", "-joe", "-koed", stdin=each).stdout.strip() for each in (STAY, STUBBORN))
    wait_for(lambda: "begun" in text(ask.here / "STDIN.o12") and "begun" in text(ask.here / "STDIN.o13"), "both")
    ask("qdel", polite, stubborn)
    wait_for(lambda: pbs_state(ask, polite) == pbs_state(ask, stubborn) == "F", "the end of both")
    assert "told" in text(ask.here / "STDIN.o12")
    told = json.loads(ask("qstat", "-xf", "-Fjson", polite, stubborn).stdout)["Jobs"]
    assert [told[name]["Exit_status"] for name in (polite, stubborn)] == [3, 256 + 9]


def test_pbs_begins_a_job_after_another_one(ask, programs):
    hold(programs)
    first = ask("qsub", "-N", "first", stdin="true").stdout.strip()
    second = ask("qsub", "-W", f"depend=afterany:{first}", stdin="true").stdout.strip()
    wait_for(lambda: pbs_state(ask, second) == "H", "the second one, which waits")
    assert pbs_state(ask, first) == "Q"
    assert ask("qselect", "-N", "first").stdout == f"{first}\n" and len(ask("qselect").stdout.split()) == 2
    release(programs)
    wait_for(lambda: pbs_state(ask, second) == "F", "the end of both")
    assert pbs_state(ask, first) == "F"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-J", "0-0"], "illegal -J value"),
        (["-J", "3"], "illegal -J value"),
        (["-J", "0-3", "-r", "n"], "cannot submit non-rerunable Array Job"),
        (["-N", "two words"], "illegal -N value"),
        (["-l", "nodes=1"], "Unknown resource Resource_List.nodes"),
        (["-l", "select=1:gpus=1"], "Resource_List.select"),
        (["-W", "depend=afterany:99.server"], "Unknown Job Id 99.server"),
        (["--time=5"], "invalid option"),
        (["-z"], "invalid option"),
    ],
)
def test_pbs_refuses_what_it_does_not_know(ask, words, said):
    done = ask("qsub", *words, stdin="true", code=None)
    assert done.returncode and said in done.stderr and not done.stdout


def test_pbs_refuses_directives_that_it_does_not_know(ask):
    for directive in ("-z", "--time=5", "-N mine and more"):
        assert "directive error" in ask("qsub", stdin=f"#PBS {directive}\n", code=2).stderr
    ask("qsub", stdin="#PBS -N mine\ntrue\n#PBS -z\n")


def test_mpiexec_starts_a_process_on_each_node(ask):
    script = "#PBS -l select=3:ncpus=1:ngpus=2\n#PBS -joe\n"
    script += """mpiexec -n 3 --ppn 1 bash -c 'echo $PALS_RANKID $PMI_RANK $CUDA_VISIBLE_DEVICES'; echo code $?
mpiexec -n 3 --ppn 1 bash -c '[ $PMI_RANK = 1 ] && exit 4; sleep 1000'; echo code $?
mpiexec --no-abort-on-failure -n 3 --ppn 1 bash -c '[ $PMI_RANK = 1 ] && exit 4; true'; echo code $?
mpiexec -n 4 --ppn 1 true; echo code $?
"""
    ask("qsub", stdin=script)
    wait_for(lambda: pbs_state(ask, "12.server") == "F", "the job's end")
    printed = text(ask.here / "STDIN.o12").splitlines()
    assert sorted(printed[:3]) == ["0 0 0,1", "1 1 2,3", "2 2 4,5"]
    assert [line for line in printed if line.startswith("code")] == ["code 0", f"code {128 + 15}", "code 4", "code 255"]


def test_flux_runs_a_script_in_an_instance_of_its_own(ask):
    script = "#!/bin/bash -l\n#flux: --job-name=mine --output={{name}}.out\n#flux: --nodes=2 # of many\n#flux: -t 5\n"
    script += """echo job ${FLUX_JOB_ID:-none} $FLUX_ENCLOSING_ID $(flux getattr jobid) $OF_MINE; pwd
flux run -N2 -n2 -o exit-timeout=none bash -c 'echo task $FLUX_TASK_RANK $CUDA_VISIBLE_DEVICES $FLUX_ENCLOSING_ID'
flux jobs -n --format='{id.f58} {state}' $FLUX_ENCLOSING_ID
flux --parent jobs -n --format='{id.f58} {state}' $FLUX_ENCLOSING_ID
"""
    name = ask("flux", "batch", stdin=script, OF_MINE="1").stdout.strip()
    assert name.startswith("ƒ")
    wait_for(lambda: flux_state(ask, name) == "INACTIVE", "the job's end")
    job, here, *tasks, unknown, known = text(ask.here / "mine.out").splitlines()
    assert (job, here) == (f"job none {name} {name} 1", str(ask.here))
    assert sorted(tasks) == [f"task 0 0,1 {name}", f"task 1 2,3 {name}"]
    assert (unknown, known) == (f"JobID {name} unknown", f"{name} RUN")
    assert ask("flux", "jobs", "-no", "{status}", name.replace("ƒ", "f")).stdout == "COMPLETED\n"
    assert ask("flux", "jobs", "-n", "--format={id} {state}", "ƒ2345").stderr == "JobID ƒ2345 unknown\n"
    assert "job is inactive" in ask("flux", "cancel", name, code=1).stderr
    assert ask("flux", "jobs", "-n").stdout == ""


def test_flux_tells_a_script_by_sighup_and_then_kills_it(ask):
    names = [ask("flux", "batch", "-n1", "--output={{id}}.out", stdin=each).stdout.strip() for each in (STAY, STUBBORN)]
    wait_for(lambda: all("begun" in text(ask.here / f"{name}.out") for name in names), "both")
    ask("flux", "cancel", *names)
    wait_for(lambda: [flux_state(ask, name) for name in names] == ["INACTIVE"] * 2, "the end of both")
    assert "told" in text(ask.here / f"{names[0]}.out")
    done = ask("flux", "jobs", "-n", "--format={status} {returncode}", *names)
    assert done.stdout == "CANCELED 3\nCANCELED -9\n"


def test_flux_ends_tasks_some_time_after_the_first_one(ask):
    task = "[ $FLUX_TASK_RANK = 0 ] || sleep 1000"
    script = f"#!/bin/sh\nflux run -N2 -n2 -o exit-timeout=0.1s sh -c '{task}'; echo code $?\n"
    name = ask("flux", "batch", "-N2", "--output=out", stdin=script).stdout.strip()
    wait_for(lambda: flux_state(ask, name) == "INACTIVE", "the job's end")
    assert text(ask.here / "out").splitlines()[-1] == f"code {128 + 15}"


def test_flux_begins_a_job_after_another_one(ask, programs):
    hold(programs)
    first = ask("flux", "batch", "-n1", "--job-name=first", stdin="#!/bin/sh\n").stdout.strip()
    second = ask("flux", "batch", "-n1", f"--dependency=afterany:{first}", stdin="#!/bin/sh\n").stdout.strip()
    wait_for(lambda: flux_state(ask, second) == "DEPEND", "the second one, which waits")
    assert ask("flux", "jobs", "-n", "--format={id.f58}", "--name", "first").stdout == f"{first}\n"
    release(programs)
    wait_for(lambda: flux_state(ask, second) == "INACTIVE", "the end of both")


@pytest.mark.parametrize(
    ("directive", "said"),
    [
        ("--time-limit=01:00:00", "invalid Flux standard duration"),
        ("--requires=not host:n1", "argument parsing failed"),
        ("--requires='not'", "Invalid constraint"),
        ("--dependency=afterany:ƒ2345", "not found"),
        ("--exclusive", "--exclusive can only be specified with --nodes"),
        ("--qos=high", "unrecognized arguments"),
        ("qos=high", "Unknown directive"),
        ("-n1\necho\n#flux: -t5", "orphan"),
    ],
)
def test_flux_refuses_what_it_does_not_know(ask, directive, said):
    done = ask("flux", "batch", "-n1", stdin=f"#!/bin/sh\n#flux: {directive}\n", code=None)
    assert done.returncode and said in done.stderr and not done.stdout
    assert "Number of slots" in ask("flux", "batch", stdin="#!/bin/sh\n", code=1).stderr
