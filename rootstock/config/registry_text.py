"""The root's registry where somebody has edited it: what a command changes goes into their text, and the rest stays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rootstock.config.cluster_settings import check_setting, flatten
from rootstock.config.site import Site
from rootstock.errors import ConfigurationError
from rootstock.root.plain_files import parse_toml


def merge_registry(site: Site, edited: bytes) -> bytes:
    """Return an edited ``{root}/clusters.toml`` with the settings that an installation uses.

    Parameters
    ----------
    site : Site
        Its settings, which hold those of the file already, unless something outranks them.
    edited : bytes
        The file as it is now.

    Returns
    -------
    bytes
        The same where it says the same already. Comments, order and what is said of other clusters stay.

    Raises
    ------
    ConfigurationError
        If it is no TOML, or is written in a way that no key can be put into.
    """
    import tomlkit  # here, since it is needed for an edited file only
    from tomlkit.exceptions import TOMLKitError

    path, name = site.layout.clusters_file, site.cluster.name
    wanted = {**site.cluster.said(), "root": str(site.layout.root)}
    try:
        before = parse_toml(text := edited.decode())
        differences = _differences(before.get("clusters", {}).get(name, {}), wanted, f"{path}, cluster {name}")
        document = tomlkit.parse(text)
        with _before_the_end(document, name):
            for key, value in differences.items():
                _put(document, name, key.split("."), value)
        if before.get("default") != name:
            document["default"] = name
        merged = tomlkit.dumps(document)
        after = parse_toml(merged)
    except (ValueError, TOMLKitError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}.", "Correct that line.") from error
    if _said(after) != {**_said(before), **{f"clusters.{name}.{key}": value for key, value in differences.items()}}:
        lines = "\n".join(f"  {key} = {json.dumps(value, ensure_ascii=False)}" for key, value in differences.items())
        raise ConfigurationError(
            f"{path} is written in a way that no key can be put into.", f"Write into its table of {name!r}:\n{lines}"
        )
    return merged.encode()


def _said(registry: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that a registry says of clusters."""
    clusters = registry.get("clusters", {})
    return {f"clusters.{name}.{key}": value for name, table in clusters.items() for key, value in flatten(table)}


def _differences(table: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the settings that a table lacks or has otherwise, as TOML has them."""
    now = {key: check_setting(key, value, where) for key, value in flatten(table)}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in wanted.items()
        if key not in now or now[key] != value
    }


def _put(document: Any, name: str, keys: list[str], value: Any) -> None:
    """Set a value in the table of a cluster; what it holds of it already keeps its comment."""
    import tomlkit
    from tomlkit.items import InlineTable, Table

    cluster = _into(document, ["clusters", name])
    headed = _headed(cluster, keys[:-1]) if isinstance(cluster, Table) and keys[1:] else None
    if headed is None and isinstance(cluster, Table) and _is_dotted(cluster, keys[0]) and _get(cluster, keys) is None:
        cluster.append(tomlkit.key(keys), _item(value))  # as the keys beside it
        return
    table = _into(cluster, keys[:-1]) if headed is None else headed
    before = table.get(keys[-1])
    if isinstance(before, tomlkit.items.Array) and isinstance(value, list):
        for each in [each for each in before.unwrap() if each not in value]:
            before.remove(each)
        before.extend([each for each in value if each not in before.unwrap()])
        if before.unwrap() == value:  # with the comments in it
            return
    if isinstance(before, Table | InlineTable) and isinstance(value, dict):
        for each in [each for each in before if each not in value]:
            del before[each]
        before.update(value)
        return
    table[keys[-1]] = _item(value)


def _into(table: Any, keys: list[str]) -> Any:
    """Return the table at some keys below another one, which is made if it is not there."""
    import tomlkit

    for key in keys:
        if key not in table:
            inline = isinstance(table, tomlkit.items.InlineTable)
            table[key] = tomlkit.inline_table() if inline else tomlkit.table(is_super_table=key == "clusters")
        table = table[key]
    return table


def _get(table: Any, keys: list[str]) -> Any:
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def _headed(table: Any, keys: list[str]) -> Any:
    """Return the table at some keys that has a header of its own, even beside dotted keys; None if there is none."""
    from tomlkit.items import Table

    for key, item in table.value.body:
        if key is not None and key.key == keys[0] and not key.is_dotted() and isinstance(item, Table):
            found = _headed(item, keys[1:]) if keys[1:] else None if item.is_super_table() else item
            if found is not None:
                return found
    return None


def _is_dotted(table: Any, name: str) -> bool:
    """Tell whether a key of a table is written as ``name.another = ...``."""
    return any(key is not None and key.key == name and key.is_dotted() for key, _ in table.value.body)


def _item(value: Any) -> Any:
    import tomlkit

    if isinstance(value, dict):
        item = tomlkit.inline_table()
        item.update(value)
        return item
    item = tomlkit.item(value)
    if isinstance(item, tomlkit.items.Array):
        item.multiline(len(item) > 1)
    return item


@contextmanager
def _before_the_end(document: Any, name: str) -> Iterator[None]:
    """Have what is put into a cluster's table stand before the comments at its end, which are of what follows."""
    from tomlkit.items import Table

    def last() -> Any:
        table = document.get("clusters", {}).get(name)
        while isinstance(table, Table) and (body := table.value.body):
            key, item = body[-1]
            if key is None or key.is_dotted() or not isinstance(item, Table):
                return table
            table = item
        return table

    end: list[Any] = []
    if isinstance(table := last(), Table):
        while table.value.body and table.value.body[-1][0] is None:
            end.insert(0, table.value.body.pop()[1])
    yield
    table = last()
    for item in end:
        table.add(item)
