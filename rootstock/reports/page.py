"""What a root offers, as a page for its users and as JSON for programs: ``index.html`` and ``status.json``.

The page needs nothing but itself: no server, no network, no other file. Its script only sorts and filters; a policy in
the page lets nothing else run, whatever a description says.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rootstock import __version__
from rootstock.builds.packages import key_packages
from rootstock.config.capabilities import compress
from rootstock.config.citations import line as citation_line
from rootstock.config.citations import works_of
from rootstock.config.packaged import data_folder
from rootstock.config.site import Site, installed_versions
from rootstock.config.templates import render_html
from rootstock.errors import RootstockError, SiteError
from rootstock.reports.catalogue import in_use, of_each, read_catalogue, read_environment
from rootstock.reports.model import Model
from rootstock.reports.model_card import ModelCard, read_model_card
from rootstock.reports.status import measure
from rootstock.root.disk_usage import megabytes
from rootstock.root.generations import generation_files, read_generation
from rootstock.root.layout import RootLayout
from rootstock.root.record_files import read_each
from rootstock.root.records import BuildRecord, now, read_marker, write_file
from rootstock.root.verification_records import Verification, read_verifications

HTML, JSON = "index.html", "status.json"
_HISTORY = 30  # verifications
# What a check may lack: those that were not run have no numbers, and records of older versions fewer keys.
_CHECK = {"model": "", "reference": "", "property": "", "source": "", "error": None, "tolerance": None, "unit": "",
          "reason": ""}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """What is published about a root. Names of users are not: whoever finds the page writes to the contact.

    Attributes
    ----------
    site, generation : dict
    card : ModelCard or None
        How the first model that is ready is used; None if none is.
    models : tuple of Model
    environments : tuple of dict
    problems : Mapping[str, RootstockError]
        What cannot be read, and why: by the names of environments, and by the paths of records.
    sizes : dict or None
        Bytes and files of each folder, and `UNNEEDED`, if they were measured.
    generated_at : str
    """

    site: Mapping[str, Any]
    generation: Mapping[str, Any] | None
    card: ModelCard | None
    models: tuple[Model, ...]
    environments: tuple[Mapping[str, Any], ...]
    problems: Mapping[str, RootstockError]
    sizes: Mapping[str, Any] | None
    generated_at: str

    def to_json(self) -> dict[str, Any]:
        """Return it for programs; ``schema`` changes when a key changes its meaning."""
        card = self.card
        return {
            "schema": 4,
            "generated_at": self.generated_at,
            "generated_by": f"rootstock {__version__}",
            "site": dict(self.site),
            "generation": self.generation,
            "usage": {"model": card.model.model, "shell": card.shell, "script": card.script, "job": card.job}
            if card
            else None,
            "models": [asdict(model) for model in self.models],
            "environments": [dict(environment) for environment in self.environments],
            "problems": {name: str(error) for name, error in self.problems.items()},
            "sizes": self.sizes,
        }

    def to_html(self, template_dirs: Sequence[Path] = ()) -> str:
        """Return the page.

        Raises
        ------
        RenderError
            If a site's own template is wrong.
        """
        folder = data_folder("site_templates")
        style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
        context = {
            **self.to_json(),
            "ready": sum(bool(model.built_for) for model in self.models),
            "verified": max((model.verified.at for model in self.models), default=""),
            "style": style, "script": script, "style_hash": _hash(style), "script_hash": _hash(script),
            "compress": compress, "megabytes": megabytes,
        }  # fmt: skip
        return render_html("page.html.j2", context, template_dirs)


def read_page(site: Site, *, sizes: bool = False) -> Page:
    """Return what is to be published about a root.

    Parameters
    ----------
    site : Site
    sizes : bool
        Whether to measure each folder; that looks at every file.

    Raises
    ------
    RootError
        If the folder is no root, or you may not read it. A part that cannot be read is among the problems.
    """
    layout, cluster = site.layout, site.cluster
    marker, catalogue = read_marker(layout), read_catalogue(layout)
    damaged: dict[str, RootstockError] = {}
    files = reversed(generation_files(layout))
    newest = next(iter([*read_each(layout.root, itertools.islice(files, 1), read_generation, damaged)]), None)
    listed = dict.fromkeys(model.environment for model in catalogue.models)
    environments, errors = of_each(listed, lambda name: [_environment(layout, name, damaged)])
    return Page(
        site={
            "cluster": cluster.name, "description": cluster.description, "root": str(layout.root),
            "contact": cluster.contact, "url": cluster.url, "node": platform.node(),
            "versions": installed_versions(layout), "default": marker.get("default", ""),
        },
        generation={"number": newest.number, "at": newest.at} if newest else None,
        card=_first_card(layout, catalogue.models),
        models=tuple(sorted(catalogue.models, key=lambda model: not model.built_for)),  # what is ready comes first
        environments=tuple(environments),
        problems={**catalogue.problems, **errors, **damaged},
        sizes={name: asdict(room) for name, room in measure(layout)[0].items()} if sizes else None,
        generated_at=now(),
    )  # fmt: skip


def write_page(page: Page, folder: Path, template_dirs: Sequence[Path] = ()) -> tuple[Path, Path]:
    """Write the page and its JSON into a folder, which is made if need be, and return their paths.

    Each file is replaced in one step, and neither if the page cannot be rendered.

    Parameters
    ----------
    page, folder
    template_dirs : sequence of Path
        As for `Site`: folders of templates that outrank the packaged ones.

    Raises
    ------
    SiteError
        If the folder cannot be written.
    """
    html, data = page.to_html(template_dirs), json.dumps(page.to_json(), indent=1, sort_keys=True) + "\n"
    paths = folder / HTML, folder / JSON
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, (html, data), strict=True):
            write_file(path, text.encode(), 0o644)
    except OSError as error:
        raise SiteError(
            f"Cannot write {error.filename or folder}: {error.strerror}.", "Name another folder with --output."
        ) from error
    return paths


def _first_card(layout: RootLayout, models: Sequence[Model]) -> ModelCard | None:
    """Return the card of a model that is ready: one that people come for, and that runs, rather than a toy."""
    ready = [model for model in models if model.built_for]
    toys = [name for name in {model.environment for model in ready} if in_use(layout, name)[0].is_toy]

    def doubts(model: Model) -> tuple[bool, ...]:
        """Return what speaks against a model as the example for all, the weightiest first."""
        toy = model.environment in toys
        return model.weights == "missing", bool(model.verified.missed), toy, model.weights == "unknown"

    for model in sorted(ready, key=doubts):
        with contextlib.suppress(RootstockError):  # a name that two environments claim; the next one will do
            return read_model_card(layout, model.model)
    return None


def _environment(layout: RootLayout, name: str, damaged: dict[str, RootstockError]) -> dict[str, Any]:
    environment = read_environment(layout, name)
    source, record, last = environment.source, environment.record, environment.verification
    details = source.rootstock
    licence = details.get("licence", {})
    return {
        "name": name,
        "description": source.description,
        "licence": {"code": licence.get("code", ""), "weights": licence.get("weights", "")},
        "citation": [citation_line(work) for work in works_of(details.get("citation", ""), None)],
        "notes": list(details.get("notes", [])),
        "build": _build(source, record) if record else None,
        "weights": [
            {"model": weights.model, "present": weights.present(layout), "sources": list(weights.sources),
             "files": [asdict(file) for file in weights.files]}
            for weights in environment.weights.values()
        ],
        "verification": _verification(last, checks=True) if last else None,
        "history": [
            _verification(run) for run in read_verifications(layout, name, record.digest, damaged)[-_HISTORY:]
        ] if record else [],
    }  # fmt: skip


def _build(source: Any, record: BuildRecord) -> dict[str, Any]:
    keys = ("digest", "platform", "accelerator", "python", "files", "bytes", "built_at", "lock_sha256", "uv",
            "rootstock", "packages")  # fmt: skip
    return {key: getattr(record, key) for key in keys} | {"versions": key_packages(source, record)}


def _verification(run: Verification, *, checks: bool = False) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "at": run.ended or run.started, "node": run.on, "device": run.device, "passed": run.passed,
        "missed": run.missed, "not_run": run.not_run, "seconds": run.seconds,
    }  # fmt: skip
    return {**summary, "checks": [_CHECK | check for check in run.checks]} if checks else summary


def _hash(text: str) -> str:
    """Return a text's hash as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
