"""What the stress tests share: a root whose one environment takes a second to build, and ways to stop a command.

The environment is installed from wheels that are made here, so nothing is fetched and every run is alike.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rootstock.root.checksums import check_build
from rootstock.root.layout import RootLayout
from rootstock.root.records import active_build, read_build
from tests.conftest import SITE, clean_environment, need, ordinary

DEADLINE_S = 120.0
ENVIRONMENT = "tiny"
PACKAGES = ("rsalpha", "rsbeta")


def need_root() -> None:
    need(os.geteuid() == 0, "the rights of root")


def need_programs(**packages: str) -> None:
    """Ask for programs, each given with the Debian package that has it."""
    for program, package in packages.items():
        found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        need(found, f"the program {program} (apt-get install {package})")


def site_variables(**changes: str) -> dict[str, str]:
    """Return the environment for a command: without settings of Rootstock, and without writes beside its code."""
    return clean_environment(PYTHONDONTWRITEBYTECODE="1") | changes


def make_wheel(folder: Path, name: str, version: str = "1.0", payload: bytes = b"x = 1\n") -> Path:
    """Write a wheel of a pure Python package with a few modules."""
    info = f"{name}-{version}.dist-info"
    files = {f"{name}/{module}.py": payload for module in ("__init__", "one", "two", "three")}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return wheel


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


@dataclass(frozen=True)
class TinyRoot:
    """A root with one environment, which no network is needed for.

    Parameters
    ----------
    path : Path
        The root.
    wheels : Path
        Where the packages of its environment are.
    """

    path: Path
    wheels: Path

    @classmethod
    def create(cls, path: Path, wheels: Path) -> TinyRoot:
        """Make the folder of a root that is yet to be installed."""
        wheels.mkdir(exist_ok=True)
        for package in PACKAGES:
            make_wheel(wheels, package)
        root = cls(path, wheels)
        root.require(PACKAGES[0])
        return root

    @property
    def layout(self) -> RootLayout:
        return RootLayout(self.path)

    def require(self, *packages: str) -> None:
        """Write the environment file; other packages than before make another build necessary."""
        path = self.layout.environment_file(ENVIRONMENT)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"# /// script\n# dependencies = {list(packages)}\n# [tool.uv]\n# no-index = true\n"
            f'# find-links = ["{self.wheels}"]\n# ///\ndef setup(model, device="cpu"):\n    raise NotImplementedError\n'
        )

    @property
    def install_command(self) -> list[str]:
        return [
            *ordinary(), str(SITE), "install", "--cluster", "local", "--root", str(self.path), "--env", ENVIRONMENT,
            "--no-client",
        ]  # fmt: skip

    def install(self, *prefix: str) -> subprocess.CompletedProcess[str]:
        """Run the installation, under another program if one is given."""
        return run([*prefix, *self.install_command])

    def active(self) -> Path:
        """Return the folder of the build in use, after a look at every file of it."""
        build = active_build(self.layout.active(ENVIRONMENT))
        assert build is not None, "no build is active"
        record = read_build(build)
        assert record is not None
        assert record.files_sha256
        assert check_build(build) == []
        return build

    def imports(self) -> str:
        """Return which of the packages the build in use can import."""
        code = "import importlib.util as u, sys; print(*[n for n in sys.argv[1:] if u.find_spec(n)])"
        done = run([str(self.active() / "bin" / "python"), "-I", "-B", "-c", code, *PACKAGES])
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def leftovers(self) -> list[str]:
        """Return what a build that was cut off may have left behind."""
        layout = self.layout
        folders = (layout.builds(ENVIRONMENT), layout.all_active, layout.environments)
        return sorted(str(path) for folder in folders for path in folder.glob(".*"))

    def writable(self) -> list[str]:
        """Return what in the builds somebody may write to."""
        return [
            str(path)
            for path in self.layout.all_builds.glob("*/*/**/*")
            if not path.is_symlink() and path.stat().st_mode & 0o222
        ]


def run(command: Sequence[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    options = {"env": site_variables(), "stdin": subprocess.DEVNULL, "timeout": DEADLINE_S} | options
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)  # type: ignore[call-overload,no-any-return]


@contextlib.contextmanager
def started(command: Sequence[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a process group of its own, and end all of that group at the end of the block."""
    options = {"env": site_variables()} | options
    process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, **options,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE_S)
        assert process.stderr is not None
        process.stderr.close()


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Read a command's progress up to the line that holds `text`; its deadline is that of the test."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"it ended before it said {text!r}:\n{''.join(lines)}")


def wait_for(condition: Callable[[], object], what: str, deadline_s: float = 20.0) -> None:
    """Wait until a function returns something true."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not after {deadline_s:.0f} s"
        time.sleep(0.02)


def processes_at(path: Path) -> list[str]:
    """Return the command lines of the processes, zombies aside, that have something to do with a path."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(path) in line and int(entry.parent.name) != os.getpid():
                found.append(line)
    return found


CHANGES = ("mkdir", "rename", "symlink", "unlink", "rmdir", "chmod")


def changes_made_by(command: Sequence[str], log: Path, **options: object) -> list[tuple[str, int, str]]:
    """Run a command and list the changes that its own process made to files.

    Returns
    -------
    list of (str, int, str)
        System call, how many calls of that name this was, and the arguments.
    """
    done = run(["strace", "-o", log, "-e", f"trace={','.join(CHANGES)}", *command], **options)
    assert done.returncode == 0, done.stderr
    counts = dict.fromkeys(CHANGES, 0)
    found = []
    for line in log.read_text().splitlines():
        if match := re.match(r"(\w+)\((.*)\) += (-?\d+)", line):
            counts[match[1]] += 1
            if match[3] == "0":
                found.append((match[1], counts[match[1]], match[2]))
    return found


def at_change(name: str, number: int, signal_name: str) -> list[str]:
    """Return the prefix of a command that sends it a signal when it is about to make its n-th change of a kind."""
    injection = f"inject={name}:signal={signal_name}:when={number}"
    return ["strace", "-o", "/dev/null", "-e", f"trace={name}", "-e", injection]
