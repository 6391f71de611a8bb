"""The scripts that uv is given: what it locks and installs, and what it runs.

A site's settings reach uv through them and in no other way: see ADR 5.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rootstock.builds.lock_scope import narrowed
from rootstock.config.clusters import Cluster
from rootstock.config.header_kinds import ACCELERATORS
from rootstock.config.requirements import normalized, required_packages
from rootstock.errors import ConfigurationError
from rootstock.root.managed_files import sha256


def recipe_text(header: Mapping[str, Any], cluster: Cluster, accelerator: str, scope: str = "") -> str:
    """Return the script that uv locks and installs: an environment file's header with the site's settings in it.

    The environment file's own settings come first where order matters, then those that it has for this accelerator.
    Nothing else of its ``[tool.rootstock]`` changes what is installed, and it is left out.

    Parameters
    ----------
    header : Mapping
        The inline metadata of the environment file.
    cluster : Cluster
    accelerator : str
        What the build is for.
    scope : str
        What it is locked for, see `rootstock.builds.lock_scope`; empty for every platform and Python. A header without
        dependencies, or with uv's own ``environments``, has its own way.

    Raises
    ------
    ConfigurationError
        If a path in the header's settings for uv is relative, or it has settings for an unknown accelerator.
    """
    tools = {key: value for key, value in header.get("tool", {}).items() if key != "rootstock"}
    part = _part_of(header, accelerator)
    dependencies = [*header.get("dependencies", []), *part.get("dependencies", [])]
    uv = dict(tools.get("uv", {}))
    _refuse_relative_paths(uv, "[tool.uv]")
    if own := [{"url": url} for url in part.get("indexes", [])]:
        _refuse_relative_paths({"index": own}, f"[tool.rootstock.accelerators.{accelerator}]")
        uv["index"] = [*uv.get("index", []), *own]
    lists = {
        "find-links": cluster.find_links,
        "constraint-dependencies": cluster.constraints,
        "override-dependencies": [*part.get("overrides", []), *cluster.overrides],
    }
    for key, values in lists.items():
        if values:
            uv[key] = [*uv.get(key, []), *values]
    indexes: list[dict[str, Any]] = [{"url": url} for url in cluster.indexes]
    if cluster.default_index:
        indexes.append({"url": cluster.default_index, "default": True})
    if (url := cluster.torch_index(accelerator)) and "torch" in (named := required_packages(dependencies)):
        name, sources = f"torch-{accelerator}", uv.get("sources", {})
        indexes.insert(0, {"name": name, "url": url, "explicit": True})
        extra = cluster.torch_packages if accelerator == cluster.accelerator else ()
        uv["sources"] = {**{package: {"index": name} for package in ("torch", *extra)}, **sources}
        # uv asks such an index only for what a script itself depends on.
        dependencies += sorted(package for package in {*extra} if normalized(package) not in named)
    if indexes:
        uv["index"] = [*uv.get("index", []), *indexes]
    recipe = {key: value for key, value in header.items() if key != "tool"}
    if scope and (names := required_packages(dependencies)) and "environments" not in uv:
        recipe["requires-python"] = ",".join(filter(None, (header.get("requires-python"), scope)))
        dependencies = [*narrowed(dependencies, names[0])]
        if overrides := uv.get("override-dependencies"):
            uv["override-dependencies"] = [*narrowed(overrides, names[0])]
    if uv:
        tools["uv"] = uv
    if dependencies:
        recipe["dependencies"] = dependencies
    if tools:
        recipe["tool"] = tools
    import tomli_w

    body = "\n".join(f"# {line}".rstrip() for line in tomli_w.dumps(recipe).splitlines())
    return f"# /// script\n{body}\n# ///\n"


def _part_of(header: Mapping[str, Any], accelerator: str) -> Mapping[str, Any]:
    """Return what an environment file has for an accelerator alone."""
    parts: Mapping[str, Any] = header.get("tool", {}).get("rootstock", {}).get("accelerators", {})
    if unknown := sorted(set(parts) - set(ACCELERATORS)):
        raise ConfigurationError(
            f"[tool.rootstock.accelerators] in an environment file names {unknown[0]!r}, which is no accelerator.",
            f"Known accelerators: {', '.join(ACCELERATORS)}.",
        )
    found: Mapping[str, Any] = parts.get(accelerator, {})
    return found


def _refuse_relative_paths(settings: Mapping[str, Any], table: str) -> None:
    sources = settings.get("sources", {}).values()
    tables = [table for source in sources for table in (source if isinstance(source, list) else [source])]
    paths = [*settings.get("find-links", []), *(table.get("path") for table in tables),
             *(index.get("url") for index in settings.get("index", []))]  # fmt: skip
    for path in paths:
        if isinstance(path, str) and "://" not in path and not os.path.isabs(path):
            raise ConfigurationError(
                f"{table} in an environment file names {path!r}, a relative path.",
                "Write it as an absolute one: the file is copied into roots.",
            )


def wrapper_file(folder: Path, recipe: str) -> Path:
    """Return a script for ``uv run`` that runs the Python file given as its first argument.

    uv names the environment that it makes for a script by the script's path. The path here follows from the content,
    so the same requirements find the same environment again.

    Parameters
    ----------
    folder : Path
        Where such scripts are kept.
    recipe : str
        The requirements, see `recipe_text`.
    """
    text = recipe + 'import runpy, sys\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name="__main__")\n'
    path = folder / sha256(text.encode())[:16] / "rootstock_environment.py"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)
    return path
