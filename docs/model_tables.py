"""Writes the page of models: from the headers of the packaged environments, and from the record of a test run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rootstock.config.capabilities import Capabilities, compress
from rootstock.config.citations import line, works_of
from rootstock.config.environment_file import EnvironmentSource, packaged_names, packaged_source
from rootstock.config.licences import licence_class
from rootstock.config.model_string import model_string

TESTED = Path(__file__).with_name("models-tested.json")


def models() -> Iterator[str]:
    """Yield a section for each family, and in it a table for each environment."""
    sources = sorted(map(packaged_source, packaged_names()), key=lambda source: (source.family.lower(), source.name))
    for family, group in itertools.groupby(sources, key=lambda source: source.family):
        members = list(group)
        yield f"\n## {family}\n"
        for source in members:
            if len(members) > 1:
                yield f"\n### `{source.name}`\n"
            yield from _environment(source)


def _environment(source: EnvironmentSource) -> Iterator[str]:
    details = source.rootstock
    yield f"{source.description}\n"
    names = source.released
    known = {name: source.capabilities(name) for name in names}
    toy = source.is_toy
    facts: dict[str, Callable[[str, Capabilities], str]] = {
        "Training set": lambda _, model: model.training_set,
        "Functional": lambda _, model: model.functional,
        "Properties": lambda _, model: ", ".join(name for name in model.properties if name != "free_energy"),
        "Forces": lambda _, model: "" if model.conservative else "predicted, not derivatives of the energy",
        "Extra results": lambda _, model: ", ".join(f"`{name}`" for name in model.extra_properties),
        "Methods": lambda _, model: ", ".join(f"`{name}`" for name in model.methods),
        "Elements": lambda _, model: compress(model.elements) or "any, or not stated",
        "Needs": lambda _, model: ", ".join(f"`{name}`" for name in model.needs),
        "Dispersion": lambda _, model: model.dispersion,
        "Licence": lambda _, model: _licence(model, toy=toy),
        "Also known as": lambda name, _: ", ".join(
            f"`{alias}`" for alias, of in source.aliases.items() if source.named(of) == name
        ),
    }
    cells = {title: [of(name, model) for name, model in known.items()] for title, of in facts.items()}
    same = [title for title, values in cells.items() if len({*values}) == 1]
    columns = [title for title in cells if title not in same]
    yield from (f"- {title}: {cells[title][0]}" for title in same if cells[title][0])
    for work in works_of(details.get("citation", ""), None):
        patterns = ", ".join(f"`{pattern}`" for pattern in work.get("models", ()))
        yield f"- Cite{f' for {patterns}' if patterns else ''}: {_linked(work)}"
    yield from (f"- {note}" for note in details.get("notes", []))
    yield "\n" + _row(["Model", "", *columns]) + "\n" + _row(["---"] * (2 + len(columns)))
    for number, name in enumerate(names):
        string = f"`{model_string(source.name, name)}`"
        default = name == source.named("") and name
        about = source.models.get(name, "") if name or source.models.get("") else ""
        first = f"{string}, or `{source.name}`" if default else string
        yield _row([first, about, *(cells[title][number] for title in columns)])
    yield ""


def _licence(model: Capabilities, *, toy: bool) -> str:
    licence = model.code_licence if toy else model.licence
    kind = licence_class(licence, model.gated)
    terms = f"; accept the terms at <{model.gated}>" if model.gated else ""
    return f"{kind}: {licence or 'not stated'}{terms}{'; no weights' if toy else ''}"


def _linked(work: Mapping[str, Any]) -> str:
    text = line(work)
    for name, prefix, place in (("doi", "doi:", "https://doi.org/"), ("arxiv", "arXiv:", "https://arxiv.org/abs/")):
        if name in work:
            text = text.replace(f"{prefix}{work[name]}", f"[{prefix}{work[name]}]({place}{work[name]})")
    return text


def last_run(path: Path = TESTED) -> Iterator[str]:
    """Yield the table of the last test run of the packaged environments, with its date; or say that there is none."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        yield f"No test run is recorded: `{path.name}` is not in this checkout.\n"
        return
    yield (
        f"Last run: {run['date']}. Each environment was built, its models were compared with published values where "
        "their weights were there, and its results with those of the library without Rootstock.\n"
    )
    yield _row(["Environment", "Package", "Python", "Weights", "Size", "Published values", "Largest difference",
                "Bit for bit", "Conformance", "Date"])  # fmt: skip
    yield _row(["---"] * 10)
    for name in packaged_names():
        if name not in run["environments"]:
            yield _row([f"`{name}`", *["–"] * 7, "not run", "–"])
            continue
        seen = run["environments"][name]
        references, conformance = seen["references"], seen.get("conformance")
        words = {"passed": "met", "missed": "**missed**", "not_run": "not run"}
        counts = [f"{references[key]} {word}" for key, word in words.items() if references.get(key)]
        largest = [f"{property_} {value:.1e}" for property_, value in references.get("largest", {}).items()]
        yield _row([
            f"`{name}`", f"{seen['package']} {seen['version']}", seen["python"],
            seen.get("weights", "–"), f"{seen['megabytes']:,} MB, {seen['files']:,} files", ", ".join(counts) or "none",
            ", ".join(largest) or "–", {True: "yes", False: "**no**", None: "not compared"}[seen.get("bit_for_bit")],
            _conformance(conformance), seen.get("date", run["date"]),
        ])  # fmt: skip
    yield (
        "\nDifferences are in eV, eV/Å and eV/Å³. A value is not run if its weights were not there. Random weights "
        "stand in for released ones that the tests cannot fetch: they show that Rootstock computes what the library "
        "does.\n"
    )


def _conformance(seen: Mapping[str, int] | None) -> str:
    words = {"passed": "passed", "failed": "**failed**", "skipped": "not run"}
    counts = (f"{seen[key]} {word}" for key, word in words.items() if seen and seen.get(key))
    return ", ".join(counts) or "not run"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
