"""Everything about one model, for whoever is going to use it: with a script and a job for this cluster."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rootstock.builds.packages import key_packages
from rootstock.config.capabilities import compress
from rootstock.config.citations import line as citation_line
from rootstock.config.citations import works_of
from rootstock.config.demands import INCLUDED, OFFERED
from rootstock.config.environment_file import read_header
from rootstock.config.job_scripts import render_job
from rootstock.config.site import Site, has_client, installed_site
from rootstock.errors import RootstockError
from rootstock.reports.catalogue import EnvironmentRecord, describe
from rootstock.reports.example_script import example_script
from rootstock.reports.find_environment import find_environment
from rootstock.reports.model import Model
from rootstock.root.disk_usage import megabytes
from rootstock.root.layout import RootLayout
from rootstock.root.records import read_marker
from rootstock.root.weights import Weights

_DISPERSION = {
    OFFERED: "offered: setup_kwargs={'dispersion': True} adds a D3 correction",
    INCLUDED: "included: the model holds it, and adding it is refused",
}


@dataclass(frozen=True)
class ModelCard:
    """A model and what belongs to it; None where there is no build, or nothing was recorded.

    Attributes
    ----------
    model : Model
    environment : EnvironmentRecord
    weights : Weights or None
        The record of those of this model.
    shell, script, job : str
        Lines to copy; the job is empty where the cluster has no scheduler.
    alias : str
        The alias by which somebody asked for it; empty if that was its own name.
    """

    model: Model
    environment: EnvironmentRecord
    weights: Weights | None
    shell: str
    script: str
    job: str
    alias: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it for programs; ``schema`` changes when a key changes its meaning."""
        source, build = self.environment.source, self.environment.record
        verification = self.environment.verification_of(self.model.argument)
        details = source.rootstock
        return {
            "schema": 3,
            **asdict(self.model),
            "alias": self.alias or None,
            "code_licence": details.get("licence", {}).get("code", ""),
            "citation": [dict(work) for work in works_of(details.get("citation", ""), self._name)],
            "notes": details.get("notes", []),
            "file": str(source.path),
            "versions": key_packages(source, build) if build else {},
            "build": asdict(build) if build else None,
            "weights_record": asdict(self.weights) if self.weights else None,
            "verification": asdict(verification) if verification else None,
            "usage": {"shell": self.shell, "script": self.script, "job": self.job},
        }

    def lines(self) -> Iterator[str]:
        """Say it for people."""
        yield from self._abilities()
        yield from self._installed()
        yield from self._checks()
        yield from ("", "In a shell:", "", *_indent(self.shell), "", "In Python (run.py):", "")
        yield from _indent(self.script)
        if self.job:
            yield from ("", "As a job (job.sh):", "", *_indent(self.job))

    def _abilities(self) -> Iterator[str]:
        model, details = self.model, self.environment.source.rootstock
        if self.alias:
            yield f"{self.alias} is {model.model}"
        yield f"{model.model}: {model.description}"
        if model.description != details.get("description", model.description):
            yield f"  {details['description']}"
        if model.training_set:
            yield f"trained on  {model.training_set}"
        if model.functional:
            yield f"functional  {model.functional}"
        yield f"properties  {', '.join(model.properties) or 'not stated'}"
        if not model.conservative:
            yield "forces      predicted, not derivatives of the energy: energy drifts in molecular dynamics"
        if model.extra_properties:
            yield f"extra       {', '.join(f'{name} ({shape})' for name, shape in model.extra_properties.items())}"
        if model.methods:
            yield f"methods     {', '.join(model.methods)}"
        yield f"elements    {compress(model.elements) or 'not stated, or any'}"
        if model.needs:
            yield f"needs       {', '.join(model.needs)}"
        if model.dispersion:
            yield f"dispersion  {_DISPERSION.get(model.dispersion, model.dispersion)}"
        if model.aliases:
            yield f"aliases     {', '.join(model.aliases)}"
        code = details.get("licence", {}).get("code", "")
        weights = model.licence or ("none" if model.weights == "none" else "not stated")
        yield f"licence     {model.licence_class}; code: {code or 'not stated'}; weights: {weights}"
        if model.gated:
            yield f"access      accept the terms at {model.gated}"
            yield "            with your own account; the download then needs your token, in HF_TOKEN or in your home."
        for number, work in enumerate(works_of(details.get("citation", ""), self._name)):
            yield f"{'' if number else 'cite':<11} {citation_line(work)}"
        for note in details.get("notes", []):
            yield f"note        {note}"

    @property
    def _name(self) -> str:
        return self.environment.source.named(self.model.argument)

    def _installed(self) -> Iterator[str]:
        source, build = self.environment.source, self.environment.record
        yield f"file        {source.path}"
        if build is None:
            yield "build       none"
            return
        versions = ", ".join(f"{name} {version}" for name, version in key_packages(source, build).items())
        yield f"build       {build.digest}, {build.platform}, {build.computes_on}, {build.built_at} by {build.built_by}"
        yield f"versions    Python {build.python}, {versions}"
        yield f"weights     {'in the package' if self.model.weights == 'package' else self.model.weights}"
        for file in self.environment.weights_files(self.model.argument):
            yield f"            {file.path} ({megabytes(file.bytes)}, sha256 {file.sha256})"

    def _checks(self) -> Iterator[str]:
        run = self.environment.verification_of(self.model.argument)
        if run is None or not run.checks:
            yield "verified    no"
            return
        yield f"verified    {run.ended or run.started} on {run.on}{f', {run.device}' if run.device else ''}"
        for check in run.checks:
            result = {True: "ok", False: "FAILED", None: "not run"}[check.get("passed")]
            if "property" not in check:
                yield f"  {result:<9} {check['reference']}: {check.get('reason', '').partition(chr(10))[0]}"
                continue
            yield (
                f"  {result:<9} {check['reference']}: {check['property']} off by {check['error']:.2g} {check['unit']}, "
                f"allowed {check['tolerance']:.2g} ({check['source']})"
            )


def read_model_card(layout: RootLayout, model: str) -> ModelCard:
    """Return everything about a model.

    Parameters
    ----------
    layout
    model : str
        A model string.

    Raises
    ------
    UnknownEnvironmentError
        If the root has no such environment; with models that are spelt like it.
    ConfigurationError
        If the environment has no such model.
    RootError
        If the folder is no root, or you may not read it.
    """
    environment, argument = find_environment(layout, model)
    source = environment.source
    description = describe(layout, environment, argument)
    site, version = installed_site(layout), read_marker(layout).get("default", "")
    version = version if has_client(layout, version) else ""
    return ModelCard(
        model=description,
        environment=environment,
        weights=environment.weights.get(source.named(argument)),
        shell=_shell(site, version),
        script=example_script(description, _elements(environment, argument), site.cluster.device),
        job=render_job(site, "single", version=version).rstrip()
        if site.cluster.scheduler != "none" and version
        else "",
        alias=model if model in source.aliases and model != description.model else "",
    )


def _shell(site: Site, version: str) -> str:
    layout, cluster = site.layout, site.cluster
    if cluster.module_system == "none" and version:
        lines = [f". {shlex.quote(str(layout.activation('sh')))}"]
    elif version:
        lines = [f"module use {shlex.quote(str(layout.modulepath))}", f"module load rootstock/{version}"]
    else:  # installed without a client
        lines = [f"export ROOTSTOCK_ROOT={shlex.quote(str(layout.root))}"]
    submit = {"slurm": "sbatch job.sh", "pbs": "qsub job.sh", "flux": "flux batch job.sh", "none": "python run.py"}[
        cluster.scheduler
    ]
    return "\n".join([*lines, submit])


def _elements(environment: EnvironmentRecord, argument: str) -> tuple[str, ...]:
    """Return the elements that a model is known to take; where its file lists none, those of its references."""
    source = environment.source
    if stated := source.capabilities(argument).elements:
        return stated
    with contextlib.suppress(RootstockError):  # it is checked by whoever verifies
        for reference in read_header(source.path).references():
            if source.named(reference.model) == source.named(argument):
                return tuple(dict.fromkeys(re.findall("[A-Z][a-z]?", reference.structure["symbols"])))
    return ()


def _indent(text: str) -> Iterator[str]:
    return (f"    {line}".rstrip() for line in text.splitlines())
