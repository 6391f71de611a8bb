"""The settings of a cluster: their keys, types and allowed values."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rootstock.config.batch_settings import BatchSettings
from rootstock.config.model_string import did_you_mean
from rootstock.config.setting_values import check_value, parse_value, setting
from rootstock.errors import ConfigurationError

_PLACEHOLDER = "SHARED"  # in the root of a packaged cluster: a folder whose name only the site knows


@dataclass(frozen=True)
class Cluster(BatchSettings):
    """Settings of one cluster. Beside each: its key in a cluster file, its default, and what it means."""

    name: str
    origins: Mapping[str, str] = field(compare=False, repr=False)

    description: str = setting("description", "", "One line for people: institution and machine.")
    root: str = setting("root", "", "Where the root is. Empty: it must be given by `--root`.")
    environments: tuple[str, ...] = setting(
        "environments",
        (),
        "What a root is to hold: `install` without `--env` builds it, and `--env` adds to it. A root that is made with "
        "`--env` begins with that alone.",
    )
    models: tuple[str, ...] = setting(
        "models", (), "The models, such as `mace-small`, whose weights `warm` fetches where it is given none."
    )
    hosts: tuple[str, ...] = setting(
        "hosts", (), "Patterns of host names, such as `della-*`, by which `--cluster auto` knows the machine."
    )
    contact: str = setting("contact", "", "Whom users write to; modulefiles show it.")
    url: str = setting("url", "", "The cluster's documentation; modulefiles show it.")

    readers: str = setting(
        "access.readers", "world", "Who may use the root: everybody, the members of `access.group`, or its owner.",
        ("world", "group", "owner"),
    )  # fmt: skip
    group: str = setting("access.group", "", "The group of all files. Empty: that of whoever installs.")
    writers: str = setting(
        "access.writers", "owner", "Who may install: the owner of the root, or every member of `access.group`.",
        ("owner", "group"),
    )  # fmt: skip

    scheduler: str = setting(
        "jobs.scheduler",
        "none",
        "For job scripts and help texts.",
        ("slurm", "pbs", "flux", "none"),
    )
    network: str = setting(
        "jobs.network", "open", "What compute nodes reach: nothing, the internet through `jobs.proxy`, or everything.",
        ("none", "proxy", "open"),
    )  # fmt: skip
    proxy: str = setting("jobs.proxy", "", "The proxy's address, with `jobs.network` = `proxy`.")
    scratch: str = setting("jobs.scratch", "TMPDIR", "The variable that names a job's node-local folder.")
    directives: tuple[str, ...] = setting(
        "jobs.directives", (),
        "How a job asks for its `{nodes}`, and on each for `{cpus}`, `{gpus}` and `{memory}`, where that is not the "
        "scheduler's usual way.",
    )  # fmt: skip

    module_system: str = setting(
        "modules.system", "none", "Lmod, Environment Modules, or none: users then source `activate/rootstock.sh`.",
        ("lmod", "tcl", "none"),
    )  # fmt: skip
    module_depends: tuple[str, ...] = setting("modules.depends", (), "Modules that are loaded with ours.")

    accelerator: str = setting(
        "hardware.accelerator", "cpu", "What the builds are for.", ("cuda", "rocm", "xpu", "cpu")
    )
    architecture: str = setting(
        "hardware.architecture", "x86_64", "The processors that the builds are for.", ("x86_64", "aarch64")
    )

    interpreters: tuple[str, ...] = setting(
        "python.interpreter", ("auto",),
        "The Python of the builds; the first that an environment can use. Each is a path that every reader can run; "
        "`auto`: one of the root, the one that installs, or the newest on PATH; or `managed`: one that uv fetches into "
        "the root.",
    )  # fmt: skip
    python_version: str = setting(
        "python.version", "3.12",
        "The release, such as `3.12` or `3.12.4`, that `managed` stands for. An environment that it does not suit gets "
        "the next newer one, or else the next older.",
    )  # fmt: skip
    python_mirror: str = setting(
        "python.mirror", "",
        "Where uv fetches a `managed` Python, such as `file:///software/mirror`. Empty: the releases of "
        "python-build-standalone.",
    )  # fmt: skip
    python_downloads: str = setting(
        "python.downloads", "",
        "uv's list of what can be fetched, with hashes: a path or an address. Empty: the one that is part of uv.",
    )  # fmt: skip

    extras: tuple[str, ...] = setting(
        "client.extras", (), "What the Python that the module loads holds besides Rootstock: `parsl`, the engine for "
        "many nodes.", ("parsl",),
    )  # fmt: skip

    default_index: str = setting("uv.default-index", "", "The package index in place of PyPI.")
    indexes: tuple[str, ...] = setting("uv.index", (), "Further package indexes, which outrank the default one.")
    find_links: tuple[str, ...] = setting("uv.find-links", (), "Folders or pages with wheels.")
    constraints: tuple[str, ...] = setting(
        "uv.constraints", (), "Limits for versions that are needed anyway, such as `torch==2.8.0`."
    )
    overrides: tuple[str, ...] = setting(
        "uv.overrides", (), "Requirements that replace those of all packages of the same name."
    )
    uv_cache: str = setting(
        "uv.cache", "",
        "A folder of the admin's own for uv's package cache, for a root whose file system has no locks. Builds hold "
        "copies of what is in it. Empty: in the root, and builds share its files.",
    )  # fmt: skip

    torch_cuda: str = setting(
        "uv.torch-index.cuda", "", "The index of torch in builds for CUDA. Empty: the usual ones."
    )
    torch_rocm: str = setting("uv.torch-index.rocm", "", "The same for ROCm.")
    torch_xpu: str = setting("uv.torch-index.xpu", "", "The same for Intel's GPUs.")
    torch_cpu: str = setting("uv.torch-index.cpu", "", "The same for CPUs.")
    torch_packages: tuple[str, ...] = setting(
        "uv.torch-packages", (),
        "What torch for the cluster's accelerator needs besides from its index, such as `triton-rocm`.",
    )  # fmt: skip

    notes: tuple[str, ...] = setting(
        "notes", (), "What an admin must confirm or know; the page for users leaves it out."
    )

    def torch_index(self, accelerator: str) -> str:
        """Return the index that torch is taken from for an accelerator; empty for the usual ones."""
        indexes = {"cuda": self.torch_cuda, "rocm": self.torch_rocm, "xpu": self.torch_xpu, "cpu": self.torch_cpu}
        return indexes[accelerator]

    @property
    def template(self) -> bool:
        """Whether only the site knows where the root is."""
        return not self.root or _has_placeholder(self.root)

    @property
    def device(self) -> str:
        """Where models compute here, as torch calls it: AMD's GPUs go by the name of NVIDIA's."""
        return "cuda" if self.accelerator == "rocm" else self.accelerator

    def settings(self) -> dict[str, Any]:
        """Return the value of every key."""
        return {f.metadata["key"]: getattr(self, f.name) for f in _KEYED}

    def said(self) -> dict[str, Any]:
        """Return what some scope has set, even if it is the default of this schema: a lower scope may say otherwise."""
        unset = Cluster(name=self.name, origins={}).settings()
        return {key: value for key, value in self.settings().items() if key in self.origins or value != unset[key]}


def _has_placeholder(root: str) -> bool:
    return _PLACEHOLDER in root.split("/")


def refuse_placeholder(root: Path) -> None:
    """Refuse the path of a root in which a folder has no name yet.

    Parameters
    ----------
    root : Path

    Raises
    ------
    ConfigurationError
        With the path to complete.
    """
    if not _has_placeholder(str(root)):
        return
    parts = root.parts
    if not Path(*parts[: parts.index(_PLACEHOLDER) + 1]).is_dir():
        named = Path(*("NAME" if part == _PLACEHOLDER else part for part in parts))
        raise ConfigurationError(
            f"{_PLACEHOLDER} in the root {root} stands for a folder whose name only your site knows.",
            f"Give the path with that name: --root {shlex.quote(str(named))}",
        )


_BATCH = [f.name for f in fields(BatchSettings)]
_OWN = [f for f in fields(Cluster) if f.metadata and f.name not in _BATCH]
_AFTER = [f.name for f in _OWN].index("directives") + 1  # among the settings of jobs
_KEYED = [*_OWN[:_AFTER], *(f for f in fields(Cluster) if f.name in _BATCH), *_OWN[_AFTER:]]
_BY_KEY = {f.metadata["key"]: f for f in _KEYED}


def parse_setting(text: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``. A key that takes a list takes its values separated by commas, or a list as TOML has it.

    One that takes a whole number, or true or false, takes that; anything else is left to `check_setting`.

    Raises
    ------
    ConfigurationError
        If it has no ``=``, or begins as a list of TOML's and is none.

    Examples
    --------
    >>> parse_setting("uv.constraints=torch==2.8.0,numpy<2")
    ('uv.constraints', ['torch==2.8.0', 'numpy<2'])
    >>> parse_setting('uv.constraints=["torch>=2,<3"]')
    ('uv.constraints', ['torch>=2,<3'])
    """
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigurationError(f"{text!r} is not KEY=VALUE.", "For example: --set access.readers=group")
    return key, parse_value(key, _kind(key), value) if key in _BY_KEY else value


def field_name(key: str) -> str:
    """Return the name of the attribute of `Cluster` that holds the setting `key`."""
    return _BY_KEY[key].name


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting of a table by its dotted key.

    Parameters
    ----------
    table : Mapping
        Of a cluster, as its file has it.
    prefix : str
        The keys above this table, each with a dot.
    """
    for key, value in table.items():
        if isinstance(value, dict) and not _is_table(prefix + key):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _kind(key: str) -> str:
    return str(_BY_KEY[key].type)


def _is_table(key: str) -> bool:
    return key in _BY_KEY and _kind(key).startswith("Mapping")


def check_setting(key: str, value: Any, where: str) -> Any:
    """Return the value of a setting as `Cluster` holds it.

    Parameters
    ----------
    key : str
        With dots, such as ``access.readers``.
    value
        As TOML or the command line has it.
    where : str
        The file and the cluster, for messages.

    Raises
    ------
    ConfigurationError
        If there is no such setting, or it cannot have that value.
    """
    if key not in _BY_KEY:
        known = f"Known keys: {', '.join(sorted(_BY_KEY))}."
        raise ConfigurationError(f"{where}: unknown key {key!r}.{did_you_mean(key, _BY_KEY)}", known)
    if key == "python.interpreter" and isinstance(value, str):
        value = [value]
    checked = check_value(key, _kind(key), _BY_KEY[key].metadata["choices"], value, where)
    if (check := _BY_KEY[key].metadata["check"]) is not None:
        try:
            if checked != "" or _BY_KEY[key].default:
                check(checked)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {key}: {error.message}", error.hint) from None
    return checked
