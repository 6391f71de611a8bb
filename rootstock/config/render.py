"""Registry, modulefiles, shell activation and job scripts of a root, from the templates in ``site_templates/``.

Nothing is written here: each function returns texts. They hold no date and no name of who made them, so the same
settings give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rootstock.config.clusters import cluster_from, cluster_names, packaged_scopes
from rootstock.config.environment_file import packaged_names, packaged_source
from rootstock.config.site import Site
from rootstock.config.templates import render_template, word
from rootstock.errors import RenderError
from rootstock.root.layout import RootLayout

SHELLS = ("sh", "csh", "fish")
JOB_KINDS = ("single", "several", "array")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")


def render_registry(site: Site) -> str:
    """Render the root's registry, ``{root}/clusters.toml``.

    Parameters
    ----------
    site : Site

    Returns
    -------
    str
        A registry that `rootstock.config.clusters.read_scope` reads back to the same settings, with the site's root in
        place of the cluster's own and the cluster as the default one.

    Raises
    ------
    RenderError
        If a value cannot be written, or a template is wrong.
    """
    cluster = replace(site.cluster, root=str(_layout(site).root))
    variables = {"name": cluster.name, "settings": cluster.said()}
    return render_template("registry.toml.j2", variables, site.templates)


def render_modulefiles(site: Site, version: str) -> dict[Path, str]:
    """Render the modulefiles of one version, for Lmod and for Environment Modules.

    Parameters
    ----------
    site : Site
    version : str
        The version whose client the module puts on PATH.

    Returns
    -------
    dict of Path to str
        Text of each file: ``<version>.lua`` in Lua and ``<version>`` in Tcl.

    Raises
    ------
    RenderError
        If a value cannot be written, or a template is wrong.
    """
    variables, folder = _variables(site, version), site.layout.modules
    templates = {folder / f"{version}.lua": "modulefile.lua.j2", folder / version: "modulefile.tcl.j2"}
    return {path: render_template(name, variables, site.templates) for path, name in templates.items()}


def render_activation(site: Site, version: str) -> dict[Path, str]:
    """Render what users of a site without modules source instead, for sh (bash, zsh), csh and fish.

    Errors are those of `render_modulefiles`.

    Parameters
    ----------
    site : Site
    version : str
        The version whose client goes on PATH.
    """
    layout, variables = site.layout, _variables(site, version)
    return {
        layout.activation(shell, version): render_template(f"activate.{shell}.j2", variables, site.templates)
        for shell in SHELLS
    }


def render_default(site: Site, version: str) -> dict[Path, str | None]:
    """Render what makes a version the default one. Errors are those of `render_modulefiles`.

    Parameters
    ----------
    site : Site
    version : str

    Returns
    -------
    dict of Path to str or None
        Text of each file; None for one that is not to be there. A cluster with one module system gets the
        ``.modulerc`` of its language only: a second one disturbs Lmod's check of the tree.
    """
    layout, variables, folders = site.layout, _variables(site, version), site.templates
    languages = {"lmod": ("lua",), "tcl": ("tcl",), "none": ("lua", "tcl")}[site.cluster.module_system]
    texts: dict[Path, str | None] = {
        path: render_template(f"modulerc.{language}.j2", variables, folders) if language in languages else None
        for language, path in layout.modulercs.items()
    }
    for shell in SHELLS:
        texts[layout.activation(shell)] = render_template(f"activate.{shell}.j2", variables, folders)
    return texts


def render_job(
    site: Site,
    kind: str,
    *,
    version: str,
    script: str = "run.py",
    gpus: int = 4,
    cpus: int = 8,
    tasks: int = 10,
    walltime: str = "01:00:00",
    options: Sequence[str] = (),
) -> str:
    """Render a job script for the cluster's scheduler.

    Parameters
    ----------
    site : Site
    kind : {'single', 'several', 'array'}
        One process with one GPU; one with `gpus` of them; `tasks` processes with one each, whose number, from 0, is
        their argument. Where there are no GPUs it is the CPUs that count.
    version : str
        As for `render_modulefiles`.
    script : str
        The user's Python script.
    gpus : int
        GPUs of a job of kind 'several'.
    cpus : int
        CPUs for each GPU.
    tasks : int
        Length of an array, 2 or more.
    walltime : str
        Time limit, as the scheduler writes it.
    options : sequence of str
        Further options of the scheduler, such as ``--account=m1234``.

    Returns
    -------
    str

    Raises
    ------
    RenderError
        If the cluster has no scheduler, a value cannot be written, or a template is wrong.
    """
    cluster = site.cluster
    for directive in cluster.directives:
        if unknown := sorted({*_PLACEHOLDER.findall(directive)} - {"cpus", "gpus"}):
            raise RenderError(
                f"jobs.directives holds {{{unknown[0]}}}, which has no meaning there: {directive!r}.",
                "Write {cpus} or {gpus} there, or the number itself.",
            )
    if kind not in JOB_KINDS:
        raise RenderError(f"Unknown kind of job {kind!r}.", f"There are {', '.join(JOB_KINDS)}.")
    if cluster.scheduler == "none":
        raise RenderError(f"Cluster {cluster.name!r} has no scheduler.", "Set jobs.scheduler to slurm or pbs.")
    if kind == "array" and tasks < 2:
        raise RenderError(f"An array of {tasks}: PBS refuses it.", "Use kind 'single', or at least 2 tasks.")
    width = gpus if kind == "several" else 1
    job = {
        "script": script,
        "gpus": 0 if cluster.accelerator == "cpu" else width,  # of each task, as the CPUs
        "cpus": cpus * width,
        "tasks": tasks if kind == "array" else 1,
        "walltime": walltime,
        "options": options,
    }
    return render_template(f"{cluster.scheduler}.sh.j2", _variables(site, version, job), site.templates)


def check_jobs(site: Site, version: str) -> None:
    """Refuse settings and templates with which no job script can be rendered. Errors are those of `render_job`.

    Parameters
    ----------
    site : Site
    version : str
    """
    for kind in JOB_KINDS if site.cluster.scheduler != "none" else ():
        render_job(site, kind, version=version)


def committed_renderings(version: str) -> dict[Path, str]:
    """Render the modulefiles of every packaged cluster, as the project's ``modulefiles/`` holds them.

    Returns
    -------
    dict of Path to str
        Text of each file by its path under ``modulefiles/``: ``CLUSTER/rootstock/FILE``. There are none for a cluster
        whose root only its site or its user knows.
    """
    registry = packaged_scopes()
    texts: dict[Path, str] = {}
    for name in cluster_names(registry):
        cluster = cluster_from(registry, name)
        site = Site(RootLayout(Path(cluster.root)), cluster)
        if site.layout.root.is_absolute():
            texts |= {Path(name) / path: text for path, text in module_tree(site, version).items()}
    return texts


def example_name(environments: Sequence[str]) -> str:
    """Return the environment that stands as an example for all: the first that is none of our toys; empty for none."""
    packaged = packaged_names()
    return min(environments, key=lambda name: name in packaged and packaged_source(name).is_toy, default="")


def module_tree(site: Site, version: str) -> dict[Path, str]:
    """Render the folder for ``module use`` of a root that holds one version: text of each file by its path in it.

    Parameters
    ----------
    site : Site
    version : str
        That one.
    """
    folder = site.layout.modulepath
    texts = render_default(site, version) | render_modulefiles(site, version)
    return {path.relative_to(folder): text for path, text in texts.items() if text and folder in path.parents}


def _layout(site: Site) -> RootLayout:
    root = site.layout.root
    if not root.is_absolute() or ":" in str(root):
        raise RenderError(
            f"The root {str(root)!r} cannot stand in PATH.", "It must be an absolute path without a colon."
        )
    return site.layout


def _variables(site: Site, version: str, job: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Return what all templates but the registry's know.

    ``activate`` is what sh sources where there are no modules, ``example`` an environment of the root; empty for none.
    """
    layout = _layout(site)
    word(version)  # it becomes the name of a file
    return {
        "cluster": site.cluster,
        "root": layout.root,
        "version": version,
        "bin": layout.client(version) / "bin",
        "modulepath": layout.modulepath,
        "activate": layout.activation("sh", version),
        "example": example_name(site.cluster.environments),
        "job": job,
    }
