"""`rootstock doctor` and `rootstock why-not`: everything is broken once, for real, and must be seen and named."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rootstock import RootstockCalculator, __version__
from rootstock.errors import ConfigurationError, UnknownEnvironmentError
from rootstock.root.layout import RootLayout
from rootstock.root.permissions import remove_tree
from rootstock.root.records import read_build
from rootstock.root.weights import Weights, WeightsFile, write_weights
from tests.support.commands import ROOTSTOCK, Done, bare_environment, run
from tests.support.environment_files import header
from tests.support.folders import nobody_opens, open_to_readers
from tests.support.needs import need, need_program, need_root
from tests.support.processes import wait_until_none_at

USER = 54321

Finding = dict[str, Any]
Ask = Callable[..., Done]
Examine = Callable[..., dict[str, list[Finding]]]
PATIENTLY = ("--wait", "500")  # no check may fail because the machine has other things to do


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def ask(tmp_path: Path, scratch: Path) -> Ask:
    """Run ``rootstock`` in a bare environment, perhaps below another program."""

    def call(
        *command: str | Path, prefix: Sequence[str | Path] = (), program: Path = ROOTSTOCK, **variables: str
    ) -> Done:
        env = bare_environment(tmp_path, TMPDIR=str(scratch)) | variables
        return run(*prefix, program, *command, env=env, cwd="/")

    return call


@pytest.fixture
def doctor(ask: Ask) -> Examine:
    """Run ``rootstock doctor`` and return what it finds, by the name of the check."""

    def call(root: Path, *options: str, code: int | None = None, **more: Any) -> dict[str, list[Finding]]:
        done = ask("doctor", "--root", root, "--json", *(() if "--wait" in options else PATIENTLY), *options, **more)
        assert "Traceback" not in done.stderr
        data = json.loads(done.stdout)
        assert data["schema"] == 1 and data["exit_code"] == done.returncode
        if code is not None:
            assert done.returncode == code, done.stdout
        found: dict[str, list[Finding]] = {}
        for finding in data["findings"]:
            assert finding["remedy"] or finding["result"] in ("ok", "skipped")
            found.setdefault(finding["check"], []).append(finding)
        return found

    return call


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Iterator[Path]:
    """A root with emt and lj that the test may change; the files that it leaves alone are shared with `root`."""
    path = tmp_path / "copy"

    def but_packages_cache(folder: str, names: list[str]) -> set[str]:
        return {"uv"} if Path(folder) == root / "cache" else set()

    # Links, as others use `root` at this time: what changes is put in their place, and never written into.
    shutil.copytree(root, path, symlinks=True, copy_function=os.link, ignore=but_packages_cache)
    (path / "cache/uv").mkdir()
    for folder in (path, *path.rglob("*")):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o755)
    yield path
    remove_tree(path)


def smallest(root: Path) -> str:
    """Return the environment that `doctor` starts a worker of, unless it is to start all."""
    records = {name: read_build((root / "active" / name).resolve()) for name in ("emt", "lj")}
    return min((record.bytes, name) for name, record in records.items() if record)[1]


def replace(path: Path, text: str) -> None:
    """Give a file another text; where it is shared with another root, that one keeps its own."""
    path.unlink()
    path.write_text(text)


def test_a_sound_root_as_an_ordinary_user_sees_it(root: Path, tmp_path: Path, scratch: Path, doctor: Examine) -> None:
    need_root()
    open_to_readers(tmp_path)
    os.chown(scratch, USER, USER)
    prefix = (need_program("setpriv", "util-linux"), "--reuid", str(USER), "--regid", str(USER), "--clear-groups")
    client = RootLayout(root).client(__version__) / "bin/rootstock"
    found = doctor(root, prefix=prefix, program=client, code=0)
    results = {name: {finding["result"] for finding in findings} for name, findings in found.items()}
    assert results.pop("locks") == results.pop("weights") == results.pop("gpu") == {"skipped"}
    assert set(results) == {
        "root", "reachable", "layout", "builds", "files", "interpreters", "offline", "access", "clock", "variables",
        "scratch", "space", "threads",
    }  # fmt: skip
    assert all(result == {"ok"} for result in results.values()), found
    assert found["offline"][0]["reason"].startswith(f"a worker of {smallest(root)} was ready on cpu after ")
    assert re.fullmatch(
        rf"{scratch}/rootstock-{USER}, mode 0700, can be written; [\d,.]+ [MG]B( and \d+ files)? left",
        found["scratch"][0]["reason"],
    )


def test_lines_for_people(root: Path, ask: Ask) -> None:
    done = ask("doctor", "--root", root, *PATIENTLY, PYTHONPATH="/somewhere")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"ok       root          {root}"
    at = next(i for i, line in enumerate(lines) if line.startswith("warning  variables     PYTHONPATH is set (/some"))
    assert lines[at + 1].split() == ["->", "unset", "PYTHONPATH"]
    assert "\x1b" not in done.stdout


def test_no_root(ask: Ask, doctor: Examine, tmp_path: Path) -> None:
    done = ask("doctor", *PATIENTLY)
    assert done.returncode == 3
    assert done.stdout.startswith("failed   root          Must specify either 'cluster' or 'root'.\n")
    found = doctor(tmp_path / "none", code=10)
    assert found["reachable"][0]["reason"] == f"{tmp_path}/none is not there"
    assert [finding["result"] for finding in found["files"]] == ["skipped"]
    assert found["scratch"][0]["result"] == "ok"
    found = doctor(tmp_path, code=10)
    assert found["layout"][0]["reason"] == f"{tmp_path} is not a Rootstock root: it has no rootstock.toml."


def test_a_folder_above_the_root_that_is_closed(tiny_root: Path, tmp_path: Path, doctor: Examine) -> None:
    need_root()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "root").symlink_to(tiny_root)
    # It stays root, but no longer passes every folder; a program that another user can run is not needed so.
    prefix = (
        need_program("setpriv", "util-linux"),
        "--bounding-set",
        "-dac_override,-dac_read_search",
        "--inh-caps",
        "-all",
    )
    os.chown(closed, USER, USER)
    found = doctor(closed / "root", prefix=prefix, code=10)
    failure = found["reachable"][0]
    assert failure["reason"].startswith(f"{closed} does not let you in: its mode is 0700, its owner {USER}, its group ")
    assert failure["remedy"].startswith("Ask its owner or the site's admin for access: ")
    closed.chmod(0o710)
    found = doctor(closed / "root", prefix=prefix, code=10)
    assert found["reachable"][0]["remedy"].startswith(f"Ask the site's admin to add you to the group {USER};")


@pytest.mark.parametrize(
    ("layout", "reason"),
    [(0, "{root} has the old layout 0; this rootstock knows 1"), (99, "{root} has layout 99; this rootstock knows ")],
)
def test_a_layout_of_another_time(tiny_root: Path, doctor: Examine, layout: int, reason: str) -> None:
    marker = tiny_root / "rootstock.toml"
    marker.write_text(marker.read_text().replace("layout = 1\n", f"layout = {layout}\n"))
    failure = doctor(tiny_root, code=10)["layout"][0]
    assert failure["reason"].startswith(reason.format(root=tiny_root))


def test_a_damaged_build(copy: Path, doctor: Examine) -> None:
    build = (copy / "active/lj").resolve()
    file = next(build.glob("lib/python*/site-packages/ase/units.py"))
    replace(file, "")
    (build / "extra.txt").write_text("")
    found = doctor(copy, "--full", code=10)
    failure = next(finding for finding in found["files"] if finding["result"] == "failed")
    name = file.relative_to(build)
    assert f"lj is damaged: extra.txt: was not there when the rest was published; {name}: is not" in failure["reason"]
    assert failure["remedy"].endswith(f"rootstock-site repair --root {copy} --env lj")
    started = {finding["reason"].split()[3]: finding["result"] for finding in found["offline"]}
    assert started["emt"] == "ok"


def test_an_interpreter_that_is_gone_or_closed(copy: Path, doctor: Examine, tmp_path: Path) -> None:
    for name, target in (("lj", tmp_path / "gone"), ("emt", tmp_path / "closed")):
        python = (copy / "active" / name).resolve() / "bin/python"
        python.unlink()
        python.symlink_to(target)
    (tmp_path / "closed").write_text("#!/bin/sh\n")
    found = doctor(copy, code=10)  # a link that leads elsewhere is no longer what was published
    reasons = {finding["reason"].split(":")[0]: finding["reason"] for finding in found["interpreters"]}
    assert f"bin/python: No such file or directory. It leads to {tmp_path}/gone, Python 3." in reasons["lj"]
    assert f"bin/python: Permission denied. It leads to {tmp_path}/closed" in reasons["emt"]
    assert {finding["code"] for finding in found["interpreters"]} == {18}


def test_a_root_whose_file_system_hangs(tiny_root: Path, doctor: Examine) -> None:
    with nobody_opens(tiny_root / "rootstock.toml"):
        found = doctor(tiny_root, "--wait", "20", code=10)
    assert re.fullmatch(r"no answer within \d+ s", found["layout"][0]["reason"])
    assert "--wait SECONDS waits longer" in found["layout"][0]["remedy"]
    assert found["offline"][0]["reason"] == "the root cannot be used"


@pytest.mark.parametrize("wait", ["0", "nan", "inf", "long"])
def test_a_time_that_cannot_be_waited_for(ask: Ask, wait: str) -> None:
    done = ask("doctor", "--wait", wait)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Invalid value for '--wait'" in done.stderr and "Traceback" not in done.stderr


def test_a_scratch_folder_that_is_full(root: Path, scratch: Path, ask: Ask) -> None:
    need_root()

    def found(size: str) -> tuple[int, Finding]:
        script = f'mount -t tmpfs -o size={size} none "$1" && shift && exec "$@"'
        mounted = (need_program("unshare", "util-linux"), "--mount", "sh", "-c", script, "sh", scratch)
        done = ask("doctor", "--root", root, "--json", *PATIENTLY, prefix=mounted)
        [finding] = (each for each in json.loads(done.stdout)["findings"] if each["check"] == "scratch")
        return done.returncode, finding

    code, full = found("64k")
    assert (code, full["result"]) == (18, "failed")
    assert full["reason"] == f"Cannot write a megabyte to {scratch}/rootstock-0: No space left on device."
    assert full["remedy"] == "Set TMPDIR to a folder that you can write."
    code, nearly = found("9m")
    assert (code, nearly["result"]) == (0, "warning")
    assert re.search(r"/rootstock-0, mode 0700, can be written; 9 MB and \d+ files left$", nearly["reason"])
    assert nearly["remedy"].endswith("set TMPDIR to a folder with more.")


def test_variables_that_do_not_fit(tiny_root: Path, doctor: Examine, tmp_path: Path) -> None:
    def complaints(**variables: str) -> list[str]:
        found = doctor(tiny_root, **variables)["variables"]
        return [finding["reason"] for finding in found if finding["result"] == "warning"]

    mine = {"ROOTSTOCK_ROOT": str(tiny_root), "ROOTSTOCK_CLUSTER": "local", "ROOTSTOCK_VERSION": __version__}
    assert complaints(**mine) == []
    assert complaints(**{**mine, "ROOTSTOCK_ROOT": "/else"}) == [
        "ROOTSTOCK_ROOT is /else, and another root is looked at"
    ]
    wrong = complaints(**{**mine, "ROOTSTOCK_CLUSTER": "della", "ROOTSTOCK_VERSION": "0.0"})
    assert wrong == [
        "ROOTSTOCK_CLUSTER is della, and the root is that of local",
        "ROOTSTOCK_VERSION is 0.0, which the root does not hold",
    ]
    (tmp_path / "conda/bin").mkdir(parents=True)
    (tmp_path / "conda/bin/python").symlink_to("/usr/bin/true")
    path = f"{tmp_path}/conda/bin:/usr/bin:/bin"
    driver, toolkit = tmp_path / "nvidia" / "lib64", tmp_path / "cuda" / "lib"
    for library in (driver / "libcuda.so.1", toolkit / "libcudart.so.13"):
        library.parent.mkdir(parents=True)
        library.touch()
    assert complaints(LD_LIBRARY_PATH=f"{driver}:{driver.parent / 'lib'}:") == []
    others = complaints(LD_LIBRARY_PATH=f"{driver}:{toolkit}", CONDA_PREFIX=str(tmp_path / "conda"), PATH=path)
    assert [reason.split(" (")[0].split(",")[0] for reason in others] == ["LD_LIBRARY_PATH is set", "python is conda's"]


def test_another_package_of_our_name(tiny_root: Path, doctor: Examine, tmp_path: Path) -> None:
    """Package indexes know another project as rootstock; and somebody may have an older one of ours."""
    package = tmp_path / "packages" / "rootstock"
    (package / "worker" / "channel").mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "1.6.0"\n')

    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={package.parent} exec /usr/bin/python3 "$@"\n')
    python.chmod(0o755)

    def complaint() -> str:
        finding = doctor(tiny_root, PATH=f"{python.parent}:/usr/bin:/bin")["variables"][-1]
        assert f"{python} -m pip install --no-deps --no-index {tiny_root}/runtime/" in finding["remedy"]
        return finding["reason"]

    here = f"from {package}, and this is {__version__}"
    assert complaint() == f"{python} imports rootstock 1.6.0 {here}"
    shutil.rmtree(package / "worker")
    assert complaint() == f"{python} imports another project named rootstock {here}"


def test_threads_beyond_the_processors(tiny_root: Path, doctor: Examine) -> None:
    prefix = (need_program("taskset", "util-linux"), "-c", str(min(os.sched_getaffinity(0))))
    found = doctor(tiny_root, prefix=prefix, OMP_NUM_THREADS="4")["threads"][0]
    assert (found["result"], found["reason"][:58]) == (
        "warning", "OMP_NUM_THREADS is 4, and this job may use 1 processors: t",
    )  # fmt: skip
    found = doctor(tiny_root, prefix=prefix, SLURM_CPUS_PER_TASK="4")["threads"][0]
    assert found["remedy"].startswith("Start it with: srun --cpus-per-task")
    assert doctor(tiny_root, prefix=prefix)["threads"][0]["result"] == "ok"


def test_no_gpu(root: Path, doctor: Examine) -> None:
    need(not list(Path("/dev").glob("nvidia[0-9]*")), "a machine without a GPU")
    found = doctor(root, "--device", "cuda", code=18)["gpu"][0]
    assert f"no GPU is visible: there is no /dev/nvidia[0-9]* (node {socket.gethostname()}" in found["reason"]
    assert "Slurm: --gres=gpu:1" in found["remedy"]
    found = doctor(root, "--device", "cuda", CUDA_VISIBLE_DEVICES="", code=18)["gpu"][0]
    assert "every GPU is hidden" in found["reason"] and "CUDA_VISIBLE_DEVICES=''" in found["reason"]


def test_weights_that_are_gone(tiny_root: Path, doctor: Examine) -> None:
    layout = RootLayout(tiny_root)
    layout.weights("tiny").mkdir(parents=True, exist_ok=True)
    file = WeightsFile("cache/xdg/big.model", 10, "0" * 64)
    write_weights(layout, Weights("tiny", "big", (file,), (), "x", "now", "ann", "here"), 0o644)
    (failure,) = doctor(tiny_root)["weights"]
    assert failure["reason"] == "the weights of tiny-big are not there, or not whole: cache/xdg/big.model"
    assert failure["remedy"].endswith(f"rootstock-site warm --root {tiny_root} --env tiny --model big")
    (layout.cache / "xdg").mkdir()
    (layout.root / file.path).write_text("0123456789")
    assert doctor(tiny_root)["weights"][0]["result"] == "ok"


def test_a_damaged_record_of_weights_hides_no_other(tiny_root: Path, doctor: Examine) -> None:
    layout = RootLayout(tiny_root)
    (tiny_root / "environments/other.py").write_text((tiny_root / "environments/tiny.py").read_text())
    for name in ("tiny", "other"):
        layout.weights(name).mkdir(parents=True)
    layout.weights_record("other", "big").write_text("{")
    file = WeightsFile("cache/big.model", 10, "0" * 64)
    write_weights(layout, Weights("tiny", "big", (file,), (), "x", "now", "ann", "here"), 0o644)
    found = doctor(tiny_root, code=12)
    damaged, missing = found["weights"]
    assert damaged["reason"].startswith(f"Cannot read {layout.weights_record('other', 'big')}: Expecting property name")
    assert f"rootstock-site warm --root {tiny_root} --env other" in damaged["remedy"]
    assert missing["reason"].startswith("the weights of tiny-big are not there")
    (layout.root / file.path).write_text("0123456789")
    damaged, sound = doctor(tiny_root, code=18)["weights"]  # no worker starts: it has no numpy
    assert damaged["result"] == "warning" and sound["reason"].startswith("those of 1 model, 0 MB")
    layout.weights_record("tiny", "big").write_text("{")
    assert "No module named 'numpy'" in doctor(tiny_root, code=18)["offline"][0]["reason"]  # it is tried all the same


def test_a_clock_that_is_behind(tiny_root: Path, doctor: Examine) -> None:
    later = time.time() + 3600
    os.utime(tiny_root / "rootstock.toml", (later, later))
    (found,) = doctor(tiny_root)["clock"]
    assert found["result"] == "warning"
    assert found["reason"].startswith("this node's clock and the file system of the root differ by 3")


@pytest.mark.parametrize(("flock", "result", "reason"), [
    ("", "ok", "(flock)"),
    ("error=ENOSYS", "ok", "(a record)"),
    ("retval=0", "warning", "has no working lock: two processes held it at once"),
])  # fmt: skip
def test_locks_for_admins(tiny_root: Path, doctor: Examine, flock: str, result: str, reason: str) -> None:
    prefix = (
        need_program("strace", "strace"),
        "-f",
        "-qq",
        "-o",
        os.devnull,
        "-e",
        "trace=flock",
        "-e",
        f"inject=flock:{flock}",
    )
    (found,) = doctor(tiny_root, prefix=prefix if flock else ())["locks"]
    assert (found["result"], reason in found["reason"]) == (result, True), found
    assert list((tiny_root / "locks").glob(".probe*")) == []


ONLINE = (
    header()
    + """\
import subprocess
import sys
from ase.calculators.lj import LennardJones

CONNECT = "import socket; socket.create_connection(('127.0.0.1', PORT), timeout=5)"


def setup(model, device="cpu"):
    # In a process of its own: a worker itself is refused a connection, network or not.
    done = subprocess.run([sys.executable, "-c", CONNECT], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.splitlines()[-1])
    return LennardJones()
"""
)


def test_a_model_that_needs_the_network(copy: Path, doctor: Examine) -> None:
    isolated = run(need_program("unshare", "util-linux"), "--user", "--map-current-user", "--net", "true")
    need(isolated.returncode == 0, f"namespaces of users ({isolated.stderr.strip()})")
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name in ("emt", "lj"):
            environment = (copy / "active" / name).resolve() / "environment.py"
            replace(environment, ONLINE.replace("PORT", str(server.getsockname()[1])))
        failure, other = doctor(copy)["offline"]  # where the smallest does not start, the next is tried
    said = f"The worker of environment '{smallest(copy)}' could not start: OSError: OSError: [Errno"
    assert failure["reason"].startswith(said)
    assert "Network is unreachable" in failure["reason"]
    assert failure["code"] == other["code"] == 18


def test_why_not_a_model_that_runs(root: Path, ask: Ask) -> None:
    done = ask("why-not", "lj-argon", "--root", root, "--device", "cuda")
    assert (done.returncode, done.stderr) == (0, "lj-argon runs here.\n")
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["ok", "root"], ["ok", "reachable"], ["ok", "layout"], ["ok", "environment"], ["ok", "model"], ["ok", "builds"],
        ["ok", "files"], ["ok", "interpreter"], ["ok", "weights"], ["skipped", "gpu"], ["ok", "scratch"],
        ["ok", "start"],
    ]  # fmt: skip


def test_why_not_says_what_the_calculator_says(root: Path, ask: Ask) -> None:
    def last(model: str) -> Finding:
        done = ask("why-not", model, "--root", root, "--json")
        data = json.loads(done.stdout)
        assert done.returncode == data["exit_code"] == data["findings"][-1]["code"] != 0
        assert [finding["result"] for finding in data["findings"]].count("failed") == 1
        finding: Finding = data["findings"][-1]
        return finding

    with pytest.raises(UnknownEnvironmentError) as unknown:
        RootstockCalculator("lj-argon2".replace("lj", "jl"), root=root)
    found = last("jl-argon2")
    assert (found["check"], found["code"], found["reason"]) == ("environment", 4, unknown.value.message)
    assert found["remedy"] == unknown.value.hint
    assert "Did you mean 'lj-argon'?" in found["reason"]
    with pytest.raises(ConfigurationError) as wrong:
        RootstockCalculator("lj-argn", root=root)
    found = last("lj-argn")
    assert (found["check"], found["code"], found["reason"]) == ("model", 3, wrong.value.message)
    assert found["remedy"] == wrong.value.hint == "Did you mean 'lj-argon'? 'rootstock list' shows all models."


def test_why_not_without_a_build_or_weights(tiny_root: Path, ask: Ask, tmp_path: Path) -> None:
    (tiny_root / "environments/later.py").write_text((tiny_root / "environments/tiny.py").read_text())
    done = ask("why-not", "later", "--root", tiny_root)
    assert done.returncode == 10
    assert done.stdout.splitlines()[-2:] == [
        f"failed   builds        Environment 'later' has no build in {tiny_root}.",
        f"{'':22} -> An admin builds it with: rootstock-site install --root {tiny_root} --env later",
    ]
    done = ask("why-not", f"tiny-{tmp_path}/my.model", "--root", tiny_root)
    assert done.returncode == 4
    assert f"failed   weights       there is no file {tmp_path}/my.model\n" in done.stdout


def test_a_worker_that_is_too_slow_is_no_failure_unless_all_is_looked_at(copy: Path, doctor: Examine) -> None:
    for name in ("emt", "lj"):
        source = (copy / "active" / name).resolve() / "environment.py"
        replace(source, source.read_text().replace("def setup(", "import time\ntime.sleep(1000)\ndef setup("))
    (slow,) = doctor(copy, "--wait", "20")["offline"]
    assert slow["result"] == "warning"
    # Which of two deadlines it meets, that of the worker or that of the check, is up to the machine.
    assert re.fullmatch(rf"a worker( of {smallest(copy)})? was not ready after \d+ s", slow["reason"])
    assert "--wait SECONDS waits" in slow["remedy"]
    wait_until_none_at(copy)


def test_records_that_cannot_be_read(tiny_root: Path, doctor: Examine) -> None:
    build = (tiny_root / "active/tiny").resolve()
    assert read_build(build)
    build.chmod(0o755)
    replace(build / "build.json", "{")
    found = doctor(tiny_root, code=10)
    assert found["builds"][0]["reason"].startswith(f"Cannot read {build}/build.json: Expecting property name")


def test_nothing_is_left_behind(copy: Path, doctor: Examine, scratch: Path) -> None:
    before = {path for path in copy.rglob("*") if "__pycache__" not in path.parts}
    doctor(copy)
    assert {path for path in copy.rglob("*") if "__pycache__" not in path.parts} == before
    assert [path.name for path in (scratch / f"rootstock-{os.getuid()}").rglob("*") if path.is_file()] == []
    wait_until_none_at(copy)


def test_why_not_a_model_that_its_file_does_not_name_and_may_have(tiny_root: Path, ask: Ask) -> None:
    text = (tiny_root / "environments/tiny.py").read_text()
    models = '# [tool.rootstock.models]\n# "" = "small"\n# "small" = "a small one"\n# ///\ndef '
    (tiny_root / "environments/open.py").write_text(text.replace("# ///\ndef ", models))
    done = ask("why-not", "open-smal", "--root", tiny_root)
    assert "warning  model         open names no model 'smal'. Did you mean 'open-small'?" in done.stdout
    assert done.returncode == 10  # it has no build
