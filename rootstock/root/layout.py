"""Every path under a root. Nothing else in Rootstock joins a path to a root.

The paths are as the caller gave them, never resolved: a root reached through a symlink stays reachable when an
admin moves what is behind it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rootstock.root.user_folders import expanded

LAYOUT_VERSION = 1
CLIENT = "rootstock-client"  # the folder under builds/ for the clients' environments
VARIANT = "+"  # between a name and what a build beside the main one is for; no environment's name holds it
ANY_ROOT = Path("/rootstock-root")  # stands in a bundle for the root, which is known only where that is installed
INTERPRETER_RECORD = "interpreter.json"  # in the folder of each interpreter that Rootstock put there
STAGING = ".staging-"  # how the names of folders begin that are not finished, or no longer wanted


def absolute(root: Path) -> Path:
    """Return where a root is, as its user names it; but ``..`` may lead through what is gone later, and is followed."""
    root = expanded(root).absolute()
    return root.resolve() if ".." in root.parts else root


@dataclass(frozen=True)
class RootLayout:
    """Paths under the root. The first line of what each says of itself is in the documentation.

    Parameters
    ----------
    root : Path
        The root's folder, absolute.
    """

    root: Path

    @property
    def marker(self) -> Path:
        """The file that makes a folder a Rootstock root."""
        return self.root / "rootstock.toml"

    @property
    def clusters_file(self) -> Path:
        """The cluster's settings as this root was installed with; `install --set` changes them."""
        return self.root / "clusters.toml"

    @property
    def environments(self) -> Path:
        """One file for each environment that is installed."""
        return self.root / "environments"

    def environment_file(self, name: str) -> Path:
        """The environment file as it is edited; a build keeps its own copy."""
        return self.environments / f"{name}.py"

    def lock_file(self, name: str, accelerator: str = "") -> Path:
        """The file of locked dependencies beside an environment file; one of its own where a variant's differ.

        Parameters
        ----------
        name, accelerator : str
        """
        return self.environments / f"{name}{accelerator and VARIANT}{accelerator}.py.lock"

    @property
    def all_builds(self) -> Path:
        """All builds. Nothing in a published one ever changes."""
        return self.root / "builds"

    def builds(self, name: str) -> Path:
        """The builds of one environment."""
        return self.all_builds / name

    def build(self, name: str, digest: str) -> Path:
        """One build: a virtual environment, its lock and environment file, and `build.json`.

        Parameters
        ----------
        name, digest : str
        """
        return self.builds(name) / digest

    @property
    def all_active(self) -> Path:
        """Which build is in use, for each environment."""
        return self.root / "active"

    def active(self, name: str, variant: str = "") -> Path:
        """The symlink to the build in use; of a variant, if there is one beside the main build.

        Parameters
        ----------
        name, variant : str
        """
        return self.all_active / f"{name}{variant and VARIANT}{variant}"

    @property
    def clients(self) -> Path:
        """What the module puts on PATH, for each version."""
        return self.root / "client"

    def client(self, version: str, platform: str = "") -> Path:
        """The small environment that ``module load rootstock`` puts on PATH; for another processor, beside it.

        Parameters
        ----------
        version, platform : str
        """
        return self.clients / f"{version}{platform and VARIANT}{platform}"

    @property
    def runtimes(self) -> Path:
        """Ourselves, for each version."""
        return self.root / "runtime"

    def runtime(self, version: str) -> Path:
        """Our own wheel and the worker as one file."""
        return self.runtimes / version

    @property
    def cache(self) -> Path:
        """What is downloaded once for everybody."""
        return self.root / "cache"

    @property
    def uv_cache(self) -> Path:
        """Packages that uv fetched; for admins only."""
        return self.cache / "uv"

    @property
    def huggingface_cache(self) -> Path:
        """Weights from the Hugging Face hub: workers' `HF_HOME`."""
        return self.cache / "huggingface"

    @property
    def wrappers(self) -> Path:
        """Scripts for ``uv run``, named by their content so that uv finds the environment it made for them."""
        return self.cache / "wrappers"

    @property
    def all_weights(self) -> Path:
        """Records of the weights that are here; the weights themselves are where their libraries look, in `cache`."""
        return self.root / "weights"

    def weights(self, name: str) -> Path:
        """Records of the weights of an environment's models."""
        return self.all_weights / name

    def weights_record(self, name: str, model: str) -> Path:
        """Return the record of a model, whose name may hold anything, a slash too.

        Parameters
        ----------
        name, model : str
        """
        return self.weights(name) / f"{quote(model, safe='') or '@default'}.json"

    @property
    def all_verifications(self) -> Path:
        """What runs of ``rootstock-site verify`` saw."""
        return self.root / "verification"

    def verifications(self, name: str, digest: str) -> Path:
        """The runs on one build.

        Parameters
        ----------
        name, digest : str
        """
        return self.all_verifications / name / digest

    @property
    def python(self) -> Path:
        """Interpreters that builds use."""
        return self.root / "python"

    def interpreter(self, name: str) -> Path:
        """One interpreter, fetched by uv or brought by a bundle; nothing in it changes."""
        return self.python / name

    def interpreter_record(self, name: str) -> Path:
        """Where that interpreter came from, and who put it there."""
        return self.interpreter(name) / INTERPRETER_RECORD

    @property
    def modulepath(self) -> Path:
        """What a user gives to ``module use``."""
        return self.root / "modulefiles"

    @property
    def modules(self) -> Path:
        """The modulefiles, in Lua and Tcl."""
        return self.modulepath / "rootstock"

    @property
    def modulercs(self) -> dict[str, Path]:
        """The files that name the default version, by the language that they are written in."""
        return {"lua": self.modules / ".modulerc.lua", "tcl": self.modules / ".modulerc"}

    @property
    def activations(self) -> Path:
        """The same for shells without a module system."""
        return self.root / "activate"

    def activation(self, shell: str, version: str = "") -> Path:
        """What a user of a site without modules sources; without a version, that of the default one.

        Parameters
        ----------
        shell, version : str
        """
        return self.activations / (f"rootstock-{version}.{shell}" if version else f"rootstock.{shell}")

    @property
    def templates(self) -> Path:
        """The site's own templates, which outrank the packaged ones."""
        return self.root / "templates"

    @property
    def hooks(self) -> Path:
        """The site's own programs, run before and after a command."""
        return self.root / "hooks"

    def hook(self, moment: str, command: str) -> Path:
        """Runs before (``pre``) or after (``post``) a command.

        Parameters
        ----------
        moment, command : str
        """
        return self.hooks / f"{moment}-{command}"

    @property
    def generations(self) -> Path:
        """A record of every change, for rollback."""
        return self.root / "generations"

    def generation(self, number: int) -> Path:
        """What was active after one change."""
        return self.generations / f"{number}.json"

    @property
    def aliases_file(self) -> Path:
        """The names of the field for models in use; written with each change, and made again if it is gone."""
        return self.generations / "aliases.json"

    @property
    def locks(self) -> Path:
        """Locks of those who change the root."""
        return self.root / "locks"

    @property
    def admin_lock(self) -> Path:
        """Held while the root is being changed."""
        return self.locks / "admin.lock"

    @property
    def admin_owner(self) -> Path:
        """Who holds the admin lock."""
        return self.locks / "admin.json"

    @property
    def log(self) -> Path:
        """A log of every command that changed something."""
        return self.root / "log"

    @property
    def aside(self) -> Path:
        """What was put aside: `PATH.new` is ours, where you had edited PATH; `PATH.1.bak` yours, which we replaced."""
        return self.root / "aside"

    def folders(self) -> tuple[Path, ...]:
        """Every folder that an installation creates, those above others first."""
        return (
            self.root, self.environments, self.all_builds, self.all_active, self.clients, self.runtimes, self.cache,
            self.uv_cache, self.huggingface_cache, self.wrappers, self.all_weights, self.all_verifications, self.python,
            self.modulepath, self.modules, self.activations, self.aside, self.generations, self.locks, self.log,
        )  # fmt: skip

    def admin_folders(self) -> tuple[Path, ...]:
        """Those of `folders` that readers have no business in: whoever can open a lock can hold it."""
        return (self.uv_cache, self.locks, self.log)

    def strangers(self) -> list[str]:
        """Return what lies directly under the root and is neither ours nor the site's templates and hooks."""
        folders = {path.name for path in (*self.folders(), self.templates, self.hooks) if path.parent == self.root}
        # A file that is being replaced has the name and more.
        files = "|".join(re.escape(path.name) for path in (self.marker, self.clusters_file))
        names = {path.name for path in self.root.iterdir()} - folders
        return sorted(name for name in names if not re.fullmatch(rf"\.?({files})(\.\w+)?", name))
