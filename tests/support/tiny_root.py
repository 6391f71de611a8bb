"""A root whose one environment takes a second to build, from wheels that are made here: nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rootstock.root.checksums import check_build
from rootstock.root.layout import RootLayout
from rootstock.root.records import active_build, read_build
from tests.support.commands import SITE, Done, ordinary, run
from tests.support.environment_files import header
from tests.support.tracing import quiet_environment

ENVIRONMENT = "tiny"
PACKAGES = ("rsalpha", "rsbeta")
SETUP = 'def setup(model, device="cpu"):\n    raise NotImplementedError\n'


def make_wheel(
    folder: Path, name: str, version: str = "1.0", payload: bytes = b"x = 1\n", needs: tuple[str, ...] = ()
) -> Path:
    """Write a wheel of a pure Python package with a few modules."""
    modules = {f"{name}/{module}.py": payload for module in ("__init__", "one", "two", "three")}
    return write_wheel(folder, name, version, modules, needs)


def write_wheel(
    folder: Path, name: str, version: str, modules: Mapping[str, bytes], needs: tuple[str, ...] = ()
) -> Path:
    """Write a wheel of a pure Python package, given the content of each file by its path, and what it requires."""
    info = f"{name}-{version}.dist-info"
    files = {**modules}
    required = "".join(f"Requires-Dist: {requirement}\n" for requirement in needs)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}".encode()
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
        tables = ("[tool.uv]", "no-index = true", f'find-links = ["{self.wheels}"]')
        path.write_text(header(*tables, dependencies=packages, python="") + SETUP)

    @property
    def install_command(self) -> list[str]:
        where = ("--cluster", "local", "--root", str(self.path))
        return [*ordinary(), str(SITE), "install", "--yes", *where, "--env", ENVIRONMENT, "--no-client"]

    def install(self, *prefix: str) -> Done:
        """Run the installation, under another program if one is given."""
        return run(*prefix, *self.install_command, env=quiet_environment())

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
        return run(self.active() / "bin" / "python", "-I", "-B", "-c", code, *PACKAGES, check=True).stdout.strip()

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
