"""The header of an environment file: each key by itself, then what the keys say of each other."""

from __future__ import annotations

import re
import reprlib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from rootstock.config.capabilities import check_variant, expand
from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.environment_text import header_blocks, header_text
from rootstock.config.model_string import did_you_mean
from rootstock.config.reference_structure import reference_atoms
from rootstock.errors import RootstockError
from rootstock.reports.envfile_lint.finding import ERROR, WARNING, Finding, Findings
from rootstock.reports.envfile_lint.kinds import ACCELERATORS, KEYS, REFERENCE, SUBKEYS, TEXTS, VARIANT, Kind, is_table
from rootstock.reports.envfile_lint.lines import Lines
from rootstock.worker.channel.memory import PROPERTY_BITS

_HEADER_KEYS = ("requires-python", "dependencies", "tool")
_LOWER_BOUNDS = {">=", ">", "==", "===", "~="}


def check_header(path: Path, text: str) -> Findings:
    """Yield what is wrong with the header of an environment file.

    Parameters
    ----------
    path : Path
    text : str
        What the file holds.
    """
    blocks = header_blocks(text)
    starts = [text.count("\n", 0, block.start()) + 1 for block in blocks]
    if not blocks:
        begun = re.search(r"(?m)^# /// script\s*$", text)
        yield Finding(
            ERROR,
            "this header has no end '# ///', or a line of it does not begin with '# '."
            if begun
            else "there is no header '# /// script ... # ///'; `rootstock-site new-env` writes an example.",
            text.count("\n", 0, begun.start()) + 1 if begun else None,
        )
        return
    for start in starts[1:]:
        yield Finding(ERROR, "another header; an environment file has one.", start)
    lines, end = Lines(header_text(blocks[0]), starts[0] + 1), starts[0] + blocks[0]["content"].count("\n") + 1
    try:
        header = tomllib.loads(header_text(blocks[0]) + "\n")
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column \d+\)$", str(error))  # else it is the end
        fault = str(error)[: place.start()] if place else str(error)
        yield Finding(ERROR, f"the header is not TOML: {fault}.", starts[0] + int(place[1]) if place else end)
        return
    for key in header:
        if key not in _HEADER_KEYS:
            yield _unknown_key(key, _HEADER_KEYS, "the header", lines.of(key))
    yield from _check_python(header, lines)
    yield from _check_dependencies(header, lines)
    tool = header.get("tool", {})
    table = tool.get("rootstock", {}) if is_table(tool) else tool
    if is_table(table):
        yield from _check_table(EnvironmentSource(path.stem, path, text, {}), table, lines)
    else:
        yield Finding(ERROR, "[tool.rootstock] must be a table.", lines.of("tool", "rootstock"))


def _unknown_key(key: str, keys: Iterable[str], where: str, line: int) -> Finding:
    return Finding(ERROR, f"{where} has an unknown key {key!r}.{did_you_mean(key, keys)}", line)


def _check_python(header: Mapping[str, Any], lines: Lines) -> Findings:
    if "requires-python" not in header:
        yield Finding(ERROR, 'there is no requires-python. For example: requires-python = ">=3.10"', lines.first)
        return
    value = header["requires-python"]
    try:
        SpecifierSet(value if isinstance(value, str) else f"{value!r}")
    except InvalidSpecifier:
        yield Finding(ERROR, f"requires-python is no version specifier: {value!r}.", lines.of("requires-python"))


def _check_dependencies(header: Mapping[str, Any], lines: Lines) -> Findings:
    dependencies = header.get("dependencies", [])
    if not TEXTS.test(dependencies):
        yield _wrong_kind(TEXTS, "dependencies", dependencies, lines.of("dependencies"))
        return
    names = set()
    for text in dependencies:
        line = lines.of("dependencies", text)
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            yield Finding(ERROR, f"dependency {text!r} is no requirement: {str(error).splitlines()[0]}.", line)
            continue
        names.add(canonicalize_name(requirement.name))
        if not requirement.url and not {bound.operator for bound in requirement.specifier} & _LOWER_BOUNDS:
            yield Finding(WARNING, f"dependency {text!r} has no lower bound: an old release may be installed.", line)
    if "ase" not in names:
        yield Finding(WARNING, "ase is no dependency; setup() returns a calculator of it.", lines.of("dependencies"))


def _wrong_kind(kind: Kind, key: str, value: Any, line: int) -> Finding:
    return Finding(ERROR, f"{key} must be {kind.words}, not {reprlib.repr(value)}.", line)


def _check_table(source: EnvironmentSource, table: Mapping[str, Any], lines: Lines) -> Findings:
    """Check each key by itself; then, with those that are sound, what they say of each other."""
    sound = {}
    for key, value in table.items():
        alone = replace(source, header={"tool": {"rootstock": {key: value}}})
        problems = list(_check_key(alone, key, value, lines))
        yield from problems
        if not problems:
            sound[key] = value
    source = replace(source, header={"tool": {"rootstock": sound}})
    for model in sound.get("warm", []):
        yield from _refusals(source, lines.of("warm", model), source.check_model, model)
    for index, reference in enumerate(sound.get("references", [])):
        yield from _check_reference(source, index, reference, lines)
    if not table.get("references"):
        yield Finding(WARNING, "there are no references: nobody checks the numbers of a build.")


def _check_key(source: EnvironmentSource, key: str, value: Any, lines: Lines) -> Findings:
    line = lines.of(key)
    if key not in KEYS:
        yield _unknown_key(key, KEYS, "[tool.rootstock]", line)
        return
    if not KEYS[key].test(value):
        yield _wrong_kind(KEYS[key], key, value, line)
        return
    for sub, held in value.items() if key in SUBKEYS else ():
        if sub not in SUBKEYS[key]:
            yield _unknown_key(sub, SUBKEYS[key], key, lines.of(key, sub))
        elif not SUBKEYS[key][sub].test(held):
            yield _wrong_kind(SUBKEYS[key][sub], f"{key}: {sub}", held, lines.of(key, sub))
    if key == "room":
        yield from _refusals(source, line, lambda: [*map(source.room, ACCELERATORS)])
    elif key == "cache":
        for name, folder in value.items():
            one = replace(source, header={"tool": {"rootstock": {"cache": {name: folder}}}})
            yield from _refusals(source, lines.of(key, name), lambda one=one: one.cache_variables)
    elif key == "variants":
        for number, variant in enumerate(value, start=1):
            yield from _refusals(source, line, check_variant, variant, number, str(source.path))
            for sub, kind in VARIANT.items():
                yield from _check_ability(sub, kind, variant.get(sub, [] if kind is TEXTS else ""), lines, number)
    else:
        yield from _check_ability(key, KEYS[key], value, lines)


def _check_ability(key: str, kind: Kind, value: Any, lines: Lines, variant: int = 0) -> Findings:
    """Check the names in a list of properties or elements."""
    path, where = (("variants", key), f"variant {variant}: ") if variant else ((key,), "")
    if not kind.test(value):
        yield _wrong_kind(kind, where + key, value, lines.of(*path))
        return
    for name in value if key in ("properties", "elements") else ():
        if key == "elements":
            yield from _refusals(None, lines.of(*path, name), list, expand([name], f"{where}{key}"))
        elif name not in PROPERTY_BITS:
            meant = did_you_mean(name, PROPERTY_BITS) or f" It has: {', '.join(PROPERTY_BITS)}."
            yield Finding(ERROR, f"{where}ASE has no property {name!r}.{meant}", lines.of(*path, name))


def _check_reference(source: EnvironmentSource, index: int, table: Mapping[str, Any], lines: Lines) -> Findings:
    line, where = lines.reference(index), f"[[tool.rootstock.references]] number {index + 1}"
    misshapen = [
        _wrong_kind(kind, f"{where}: {key}", table[key], lines.reference(index, key))
        for key, kind in REFERENCE.items()
        if key in table and not kind.test(table[key])
    ]
    if misshapen:
        yield from misshapen
        return
    for name in table.get("expected", {}):
        if name not in PROPERTY_BITS:
            yield Finding(ERROR, f"{where}: ASE has no property {name!r}.{did_you_mean(name, PROPERTY_BITS)}", line)
    yield from _refusals(source, line, lambda: reference_atoms(source.reference(index), source))
    place = lines.reference(index, "model") if "model" in table else line
    yield from _refusals(source, place, source.check_model, table.get("model", ""))


def _refusals(source: EnvironmentSource | None, line: int, call: Callable[..., Any], *arguments: Any) -> Findings:
    """Yield the error that a call of one of our functions raises."""
    try:
        call(*arguments)
    except RootstockError as error:
        yield Finding(ERROR, error.message.removeprefix(f"{source.path}: " if source else ""), line)
