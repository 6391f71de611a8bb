"""Environment files: what their header says. They are read, never executed.

Ours is the table ``[tool.rootstock]`` in the header; ``docs/reference/environment-files.md`` describes every key.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from rootstock.config.cache_folders import cache_folders, cache_variables, home_folders
from rootstock.config.capabilities import Capabilities, read_capabilities
from rootstock.config.environment_text import check_setup, parse_header, read_text
from rootstock.config.header_kinds import misfits
from rootstock.config.model_string import did_you_mean, is_environment_name, is_path, model_string
from rootstock.config.packaged import data_folder
from rootstock.config.references import Reference, read_reference
from rootstock.errors import ConfigurationError, RootError, UnknownEnvironmentError
from rootstock.root.layout import RootLayout
from rootstock.root.reachability import refusal
from rootstock.root.records import BUILD_RECORD, BUILD_SOURCE, BuildRecord, how_to_replace


@dataclass(frozen=True)
class EnvironmentSource:
    """An environment file.

    Attributes
    ----------
    name : str
        Name of the environment: the file's name without ``.py``.
    path : Path
    text : str
    header : Mapping[str, Any]
        The inline metadata; each key holds what it must (`rootstock.config.header_kinds.misfits`).
    """

    name: str
    path: Path
    text: str
    header: Mapping[str, Any] = field(repr=False)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def requires_python(self) -> SpecifierSet:
        return SpecifierSet(self.header.get("requires-python", ""))

    @property
    def rootstock(self) -> Mapping[str, Any]:
        """The table ``[tool.rootstock]``; empty in files of the older contract."""
        table: Mapping[str, Any] = self.header.get("tool", {}).get("rootstock", {})
        return table

    @property
    def description(self) -> str:
        return str(self.rootstock.get("description", ""))

    @property
    def family(self) -> str:
        """The name under which its models are grouped."""
        return str(self.rootstock.get("family", self.name))

    @property
    def package(self) -> str:
        """The package that the models come with; empty if the file does not say."""
        return str(self.rootstock.get("package", ""))

    @property
    def is_toy(self) -> bool:
        """Whether it says that its models have no weights, as ASE's own potentials: they are for trying things out."""
        licence: Mapping[str, str] = self.rootstock.get("licence", {})
        return licence.get("weights") == ""

    def summary(self) -> dict[str, Any]:
        """Return the part of the header that users are shown, as JSON can hold it: all but the references."""
        table = {key: value for key, value in self.rootstock.items() if key != "references"}
        header = {"dependencies": self.header.get("dependencies", []), "tool": {"rootstock": table}}
        return dict(json.loads(json.dumps(header, default=str)))

    def capabilities(self, model: str) -> Capabilities:
        """Return what a model can do; see `read_capabilities`."""
        return read_capabilities(self.rootstock, model, str(self.path))

    @property
    def models(self) -> Mapping[str, str]:
        """Arguments of ``setup()``, each with a line on it: empty for the default, with a slash first for a path."""
        table: Mapping[str, str] = self.rootstock.get("models", {})
        return table

    @property
    def aliases(self) -> Mapping[str, str]:
        """Names by which the field knows models, each with the argument of ``setup()``; a pinned version has none."""
        table: Mapping[str, str] = self.rootstock.get("aliases", {}) if "@" not in self.name else {}
        return table

    def named(self, model: str) -> str:
        """Return the name of a model: the default's, where `model` is empty and the default has a name."""
        return self.models[""] if not model and self.models.get("") in self.models else model

    def arguments(self) -> list[str]:
        """Return the arguments of ``setup()`` that the file names, without examples of paths; at least one."""
        return [argument for argument in self.models if not is_path(argument)] or [""]

    def strings(self) -> list[str]:
        """Return the model strings that the file names; at least one."""
        return [model_string(self.name, argument) for argument in self.arguments()]

    def doubt(self, model: str) -> str:
        """Say that the file names no model `model`; empty if it does, if it names none, or if that is a path."""
        if not model or model in self.models or not self.models or is_path(model) or os.path.exists(model):
            return ""
        return f"{self.name} names no model {model!r}.{self._meant(model)} 'rootstock list' shows those that there are."

    def check_model(self, model: str) -> None:
        """Refuse a model that the environment does not have, if its file says that it names them all.

        Raises
        ------
        ConfigurationError
            With those that it has.
        """
        if not self.rootstock.get("all-models-listed", False) or model in self.models:
            return
        takes_paths = any(is_path(name) for name in self.models)
        if takes_paths and (is_path(model) or os.path.exists(model) or glob(model)):
            return
        names = ", ".join(name or "one without a name, the default" for name in self.released)
        raise ConfigurationError(
            f"Environment {self.name!r} has no model {model!r}. It has: {names}"
            f"{'; or the path of a checkpoint' if takes_paths else ''}.",
            f"{self._meant(model)} 'rootstock list' shows all models.".strip(),
        )

    def _meant(self, model: str) -> str:
        """Return a sentence with the models that are spelt alike, or that are other tasks of the same family."""
        family = model_string(self.name, f"{model.partition('/')[0]}/")
        tasks = [string for string in self.strings() if string.startswith(family)]
        if tasks and not ("/" in model and did_you_mean(model_string(self.name, model), tasks)):
            return f" Did you mean one of {', '.join(map(repr, tasks))}?"
        return did_you_mean(model_string(self.name, model), [*self.strings(), *self.aliases])

    @property
    def released(self) -> tuple[str, ...]:
        """The models that the file names, each once: the default by its name, and none that is a path."""
        return tuple(dict.fromkeys(map(self.named, self.arguments())))

    @property
    def warm(self) -> tuple[str, ...]:
        """The models whose weights ``warm`` fetches if nobody names others: by default the default one."""
        return tuple(dict.fromkeys(map(self.named, self.rootstock.get("warm", [""]))))

    @property
    def cache_variables(self) -> Mapping[str, str]:
        """Environment variables of the worker: name -> folder under the root's cache; see `cache_variables`."""
        return cache_variables(self.rootstock, str(self.path))

    @property
    def home_folders(self) -> tuple[str, ...]:
        """Folders below the worker's home that lead into the root's cache; see `home_folders`."""
        return home_folders(self.rootstock, str(self.path))

    @property
    def cache_folders(self) -> tuple[str, ...]:
        """Every folder under the root's cache where the library looks for weights."""
        return cache_folders(self.rootstock, str(self.path))

    def room(self, accelerator: str) -> tuple[float, int] | None:
        """Return megabytes and files that a build for `accelerator` takes, about; None where the file does not say."""
        table = self.rootstock.get("room")
        room = table and {**table, **table.get(accelerator, {})}
        return (float(room["megabytes"]), int(room["files"])) if room else None

    def references(self) -> list[Reference]:
        """Return the structures that a build is verified with."""
        return [self.reference(i) for i in range(len(self.rootstock.get("references", [])))]

    def reference(self, index: int) -> Reference:
        """Return one of `references`."""
        where = f"{self.path}: [[tool.rootstock.references]] number {index + 1}"
        return read_reference(self.rootstock["references"][index], where)


def read_source(path: Path, name: str = "") -> EnvironmentSource:
    """Read an environment file.

    Parameters
    ----------
    path : Path
    name : str
        The environment's, if the file's is another.

    Raises
    ------
    UnknownEnvironmentError
        If there is no such file.
    ConfigurationError
        If it has no valid header, is not Python, defines no ``setup()``, or wants a cache outside of the root.
    """
    source = read_header(path, name)
    check_setup(path, source.text)
    cache_folders(source.rootstock, str(path))  # what leads out of the root is refused before anything is made
    return source


def read_header(path: Path, name: str = "") -> EnvironmentSource:
    """Read an environment file without looking at its Python. Errors are those of `read_source`.

    Parameters
    ----------
    path, name
        As for `read_source`.
    """
    text = read_text(path)
    return EnvironmentSource(name or path.stem, path, text, parse_header(path, text))


def recorded_source(name: str, build: Path, record: BuildRecord) -> EnvironmentSource:
    """Return an environment's file as the record of its build has it: without its text and its references.

    Parameters
    ----------
    name : str
    build : Path
    record : BuildRecord

    Raises
    ------
    RootError
        If the record is damaged.
    """
    for _, wrong in misfits(record.header):
        raise RootError(f"Cannot read {build / BUILD_RECORD}: header: {wrong}", how_to_replace(build))
    return EnvironmentSource(name, build / BUILD_SOURCE, "", record.header)


def registered_names(layout: RootLayout) -> list[str]:
    """Return the names of the environments that a root holds."""
    return _names_in(layout.environments)


def packaged_names() -> list[str]:
    """Return the names of the environments that ship with Rootstock."""
    return _names_in(data_folder("environments"))


def packaged_source(name: str) -> EnvironmentSource:
    """Read an environment file that ships with Rootstock.

    Raises
    ------
    UnknownEnvironmentError
        If none of that name does.
    """
    path = data_folder("environments") / f"{name}.py"
    if not is_environment_name(name) or not path.is_file():
        raise UnknownEnvironmentError(
            f"This package has no environment {name!r}. It has: {', '.join(packaged_names())}.",
            "To add one of your own, write environments/NAME.py in the root.",
        )
    return read_source(path)


def given_by_path(source: EnvironmentSource, layout: RootLayout) -> bool:
    """Tell whether an environment file is somebody's own: neither the root's nor one that ships with Rootstock.

    Parameters
    ----------
    source : EnvironmentSource
    layout : RootLayout
    """
    return source.path.parent not in (layout.environments, data_folder("environments"))


def _names_in(folder: Path) -> list[str]:
    try:
        names = [os.path.splitext(name) for name in os.listdir(folder)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise refusal(folder, error) from error
    return sorted(name for name, ending in names if ending == ".py" and is_environment_name(name))
