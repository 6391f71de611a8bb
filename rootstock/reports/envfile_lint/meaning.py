"""What keys of the header mean of the models: aliases, needs, dispersion, patterns, folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from rootstock.config.demands import ARRAYS, DISPERSION, GPU, INFO
from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.header_kinds import CITATION, Place
from rootstock.config.header_lines import Lines
from rootstock.config.model_string import did_you_mean, is_path
from rootstock.config.requirements import parse_requirement
from rootstock.reports.envfile_lint.finding import ERROR, WARNING, Finding, Findings

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+/-]*")
# What `new-env` writes for somebody to replace.
_TO_REPLACE = {"description": "a line for users on what it computes", "citation": "What to cite."}
_WORDS = (*INFO, *ARRAYS, GPU)


def check_meaning(source: EnvironmentSource, lines: Lines) -> Findings:
    """Yield what is wrong with keys, each of which is of the right kind.

    Parameters
    ----------
    source : EnvironmentSource
        With the sound part of the header.
    lines : Lines
    """
    table = source.rootstock
    yield from _of_abilities(table, (), "", lines)
    for number, variant in enumerate(table.get("variants", []), start=1):
        yield from _of_abilities(variant, ("variants",), f"variant {number}: ", lines)
    for key, text in _TO_REPLACE.items():
        if text in str(table.get(key, "")):
            yield Finding(WARNING, f"{key} is still that of the example.", lines.of(key))
    yield from _aliases(source, lines)
    yield from _patterns(source, table.get("bundled", []), ("bundled",), "bundled", lines)
    works = table.get("citation", [])
    for number, work in enumerate(works if isinstance(works, list) else ()):
        where = f"[[tool.rootstock.citation]] number {number + 1}"
        if not any(str(work.get(key, "")).strip() for key in ("title", "doi", "arxiv", "url")):
            fault = f"{where} names no work: it has none of title, doi, arxiv and url."
            yield Finding(ERROR, fault, lines.of("citation"))
        for key in work:
            if key not in CITATION:
                fault = f"{where} has an unknown key {key!r}.{did_you_mean(key, CITATION)}"
                yield Finding(ERROR, fault, lines.of("citation", key))
        yield from _patterns(source, work.get("models", []), ("citation", "models"), f"{where}: models", lines)
    for accelerator, part in table.get("accelerators", {}).items():
        yield from _of_accelerator(part, ("accelerators", accelerator), lines)


def _of_abilities(table: Mapping[str, Any], above: Place, where: str, lines: Lines) -> Findings:
    """Check what may be said of all models, or of some."""

    def of(*path: str) -> int:
        return lines.of(*map(str, above), *path)

    for key in ("training-set", "functional"):
        if key in table and not table[key].strip():
            yield Finding(ERROR, f"{where}{key} is empty: leave it out if nobody knows.", of(key))
    said, taken_back = table.get("dispersion"), ("",) if where else ()  # only a variant may do that
    if said not in (None, *DISPERSION, *taken_back):
        yield Finding(ERROR, f"{where}dispersion must be {' or '.join(DISPERSION)}, not {said!r}.", of("dispersion"))
    for word in table.get("needs", []):
        if word in _WORDS:
            continue
        if not word.isidentifier() or word in ("model", "device"):
            fault = f"{where}needs: {word!r} is neither {', '.join(_WORDS)} nor an argument in setup_kwargs."
            yield Finding(ERROR, fault, of("needs", word))
        elif meant := did_you_mean(word, _WORDS):
            fault = f"{where}needs: {word!r} stands for an argument in setup_kwargs.{meant}"
            yield Finding(WARNING, fault, of("needs", word))


def _of_accelerator(part: Mapping[str, Any], place: tuple[str, str], lines: Lines) -> Findings:
    for key in ("dependencies", "overrides"):
        for text in part.get(key, []):
            try:
                parse_requirement(text)
            except ValueError as error:
                yield Finding(ERROR, f"{'.'.join(place)}: {text!r} is no requirement: {error}.", lines.of(*place))
    for index in part.get("indexes", []):
        if "://" not in index and not os.path.isabs(index):
            fault = f"{'.'.join(place)}: index {index!r} is a relative path: the file is copied into roots."
            yield Finding(ERROR, fault, lines.of(*place))


def _aliases(source: EnvironmentSource, lines: Lines) -> Findings:
    table: Mapping[str, str] = source.rootstock.get("aliases", {})
    if table and "@" in source.name:
        fault = "aliases of a pinned version are not used: they would be those of the file without a version."
        yield Finding(WARNING, fault, lines.of("aliases"))
    for alias, model in table.items():
        line = lines.of("aliases", alias)
        if not _ALIAS.fullmatch(alias):
            yield Finding(ERROR, f"alias {alias!r} may hold letters, digits and . _ @ + / - only.", line)
        elif alias in (source.name, *source.strings()):
            yield Finding(ERROR, f"alias {alias!r} is a model string of this file, which wins.", line)
        elif alias.startswith(f"{source.name}-") and not source.rootstock.get("all-models-listed", False):
            fault = f"alias {alias!r} is never looked for: this file takes any model. Set all-models-listed = true."
            yield Finding(WARNING, fault, line)
        if is_path(model) or (source.models and model not in source.models):
            meant = did_you_mean(model, source.arguments())
            yield Finding(ERROR, f"alias {alias!r} leads to {model!r}, which is no model of this file.{meant}", line)


def _patterns(source: EnvironmentSource, patterns: Iterable[str], place: Place, where: str, lines: Lines) -> Findings:
    """Look for patterns that fit no model, where the file names its models."""
    names = {*source.released, *source.arguments()} if source.models else set[str]()
    for pattern in patterns:
        if names and not any(fnmatchcase(name, pattern) for name in names):
            fault = f"{where}: {pattern!r} fits no model of this file."
            yield Finding(ERROR, fault, lines.of(*map(str, place), pattern))
