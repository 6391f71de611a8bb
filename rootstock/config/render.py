"""Registry, modulefiles and shell activation of a root, from the templates in ``site_templates/``.

Nothing is written here: each function returns texts. They hold no date and no name of who made them, so the same
settings give the same bytes.
"""

from __future__ import annotations

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
    variables, folder = template_variables(site, version), site.layout.modules
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
    layout, variables = site.layout, template_variables(site, version)
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
    layout, variables, folders = site.layout, template_variables(site, version), site.templates
    languages = {"lmod": ("lua",), "tcl": ("tcl",), "none": ("lua", "tcl")}[site.cluster.module_system]
    texts: dict[Path, str | None] = {
        path: render_template(f"modulerc.{language}.j2", variables, folders) if language in languages else None
        for language, path in layout.modulercs.items()
    }
    for shell in SHELLS:
        texts[layout.activation(shell)] = render_template(f"activate.{shell}.j2", variables, folders)
    return texts


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


def template_variables(site: Site, version: str, job: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Return what all templates but the registry's know.

    Parameters
    ----------
    site : Site
    version : str
        Whose client is meant.
    job : mapping, optional
        What the templates of job scripts know besides.

    Returns
    -------
    mapping
        ``activate`` is what sh sources where there are no modules, ``example`` an environment of the root; empty for
        none.
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
