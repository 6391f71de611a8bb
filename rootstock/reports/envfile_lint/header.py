"""The header of an environment file: each key by itself, then what the keys say of each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rootstock.config.capabilities import check_variant, expand
from rootstock.config.environment_file import EnvironmentSource
from rootstock.config.environment_text import HeaderFault, header_blocks, parse_block, specifier_fault
from rootstock.config.header_kinds import KEYS, STRINGS, SUBKEYS, Place, is_table, key_misfits, misfits
from rootstock.config.header_lines import Lines
from rootstock.config.model_string import did_you_mean
from rootstock.config.reference_structure import reference_atoms
from rootstock.config.requirements import normalized, parse_requirement, required_packages
from rootstock.errors import RootstockError
from rootstock.reports.envfile_lint.additions import check_additions
from rootstock.reports.envfile_lint.finding import ERROR, WARNING, Finding, Findings
from rootstock.reports.envfile_lint.meaning import check_meaning
from rootstock.reports.envfile_lint.words import check_words
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
    for block in blocks[1:]:
        yield Finding(ERROR, "another header; an environment file has one.", block.begin)
    lines = blocks[0].lines()
    try:
        header = parse_block(blocks[0])
    except HeaderFault as fault:
        yield Finding(ERROR, f"the header is not TOML: {fault.text}.", fault.line)
        return
    for key in header:
        if key not in _HEADER_KEYS:
            yield _unknown_key(key, _HEADER_KEYS, "the header", lines.of(key))
    yield from _check_python(header, lines)
    yield from _check_dependencies(header, lines)
    tool = header.get("tool", {})
    table = tool.get("rootstock", {}) if is_table(tool) else tool
    if not is_table(table):
        yield Finding(ERROR, "[tool.rootstock] must be a table.", lines.of("tool", "rootstock"))
        return
    for place, wrong in misfits({"tool": {**tool, "rootstock": {}}}):
        yield Finding(ERROR, wrong, lines.at(place))
    yield from _check_table(EnvironmentSource(path.stem, path, text, {}), table, lines)
    yield from _check_package(header, table, lines)


def _unknown_key(key: str, keys: Iterable[str], where: str, line: int) -> Finding:
    return Finding(ERROR, f"{where} has an unknown key {key!r}.{did_you_mean(key, keys)}", line)


def _check_python(header: Mapping[str, Any], lines: Lines) -> Findings:
    if "requires-python" not in header:
        yield Finding(ERROR, 'there is no requires-python. For example: requires-python = ">=3.10"', lines.first)
        return
    value = header["requires-python"]
    if not isinstance(value, str) or specifier_fault(value):
        yield Finding(ERROR, f"requires-python is no version specifier: {value!r}.", lines.of("requires-python"))


def _check_dependencies(header: Mapping[str, Any], lines: Lines) -> Findings:
    dependencies = header.get("dependencies", [])
    if not STRINGS.test(dependencies):
        yield Finding(ERROR, STRINGS.fault("dependencies", dependencies), lines.of("dependencies"))
        return
    names = set()
    for text in dependencies:
        try:
            requirement = parse_requirement(text)
        except ValueError as error:
            fault = f"dependency {text!r} is no requirement: {error}."
            yield Finding(ERROR, fault, lines.of("dependencies", text))
            continue
        names.add(normalized(requirement.name))
        if not requirement.url and not {bound.operator for bound in requirement.specifier} & _LOWER_BOUNDS:
            fault = f"dependency {text!r} has no lower bound: an old release may be installed."
            yield Finding(WARNING, fault, lines.of("dependencies", text))
    if "ase" not in names:
        yield Finding(WARNING, "ase is no dependency; setup() returns a calculator of it.", lines.of("dependencies"))


def _check_package(header: Mapping[str, Any], table: Mapping[str, Any], lines: Lines) -> Findings:
    dependencies, package = header.get("dependencies", []), table.get("package", "")
    if not (STRINGS.test(dependencies) and isinstance(package, str) and package):
        return  # told already
    if normalized(package) not in required_packages(dependencies):
        text = f"package {package!r} is no dependency: `rootstock list` shows its version if another brings it."
        yield Finding(WARNING, text, lines.of("package"))


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
    yield from check_meaning(source, lines)
    for model in sound.get("warm", []):
        yield from _refusals(source, ("warm", model), lines, source.check_model, model)
    for index, reference in enumerate(sound.get("references", [])):
        yield from _check_reference(source, index, reference, lines)
    yield from check_words(sound, lines)
    yield from check_additions(sound, lines)
    if not table.get("references"):
        yield Finding(WARNING, "there are no references: nobody checks the numbers of a build.")


def _check_key(source: EnvironmentSource, key: str, value: Any, lines: Lines) -> Findings:
    if key not in KEYS:
        yield _unknown_key(key, KEYS, "[tool.rootstock]", lines.of(key))
        return
    faults = [Finding(ERROR, wrong, lines.at(place)) for place, wrong in key_misfits(key, value)]
    yield from faults
    for sub in value if key in SUBKEYS and is_table(value) else ():
        if sub not in SUBKEYS[key]:
            yield _unknown_key(sub, SUBKEYS[key], key, lines.of(key, sub))
    if faults:
        return
    if key == "cache":
        for name, folder in value.items():
            one = replace(source, header={"tool": {"rootstock": {"cache": {name: folder}}}})
            yield from _refusals(source, (key, name), lines, lambda one=one: one.cache_variables)
    elif key == "home":
        yield from _refusals(source, (key,), lines, lambda: source.home_folders)
    elif key == "variants":
        for number, variant in enumerate(value, start=1):
            yield from _refusals(source, (key,), lines, check_variant, variant, number, str(source.path))
            for sub in variant:
                yield from _check_ability(sub, variant[sub], lines, number)
    else:
        yield from _check_ability(key, value, lines)


def _check_ability(key: str, value: Any, lines: Lines, variant: int = 0) -> Findings:
    """Check the names in a list of properties or elements."""
    path, where = (("variants", key), f"variant {variant}: ") if variant else ((key,), "")
    for name in value if key in ("properties", "optional-properties", "elements") else ():
        if key == "elements":
            yield from _refusals(None, (*path, name), lines, list, expand([name], f"{where}{key}"))
        elif name not in PROPERTY_BITS:
            meant = did_you_mean(name, PROPERTY_BITS) or f" It has: {', '.join(PROPERTY_BITS)}."
            yield Finding(ERROR, f"{where}ASE has no property {name!r}.{meant}", lines.of(*path, name))


def _check_reference(source: EnvironmentSource, index: int, table: Mapping[str, Any], lines: Lines) -> Findings:
    place, where = ("references", index), f"[[tool.rootstock.references]] number {index + 1}"
    for name in table.get("expected", {}):
        if name not in PROPERTY_BITS:
            fault = f"{where}: ASE has no property {name!r}.{did_you_mean(name, PROPERTY_BITS)}"
            yield Finding(ERROR, fault, lines.at(place))
    yield from _refusals(source, place, lines, lambda: reference_atoms(source.reference(index), source))
    inside = (*place, "model") if "model" in table else place
    yield from _refusals(source, inside, lines, source.check_model, table.get("model", ""))


def _refusals(
    source: EnvironmentSource | None, place: Place, lines: Lines, call: Callable[..., Any], *arguments: Any
) -> Findings:
    """Yield the error that a call of one of our functions raises."""
    try:
        call(*arguments)
    except RootstockError as error:
        yield Finding(ERROR, error.message.removeprefix(f"{source.path}: " if source else ""), lines.at(place))
