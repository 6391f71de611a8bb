"""The table of aliases: names by which the field knows models, of the builds in use.

`rootstock.root.generations.transaction` writes it at the end of each change. It says for which builds it holds: where
others are in use, or it is gone or damaged, the records of the builds are read instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rootstock.errors import RootError
from rootstock.root.layout import VARIANT, RootLayout
from rootstock.root.ownership import give_to_owner
from rootstock.root.record_files import Record, read_record
from rootstock.root.records import read_build, write_file

Aliases = Mapping[str, Mapping[str, str]]  # environment -> alias -> argument of its setup()


@dataclass(frozen=True)
class AliasTable(Record):
    """The aliases of the environments that were in use.

    Attributes
    ----------
    active : Mapping[str, str]
        Which builds that were, as in a `rootstock.root.generations.State`.
    aliases : Aliases
    """

    active: Mapping[str, str]
    aliases: Aliases


def aliases_of_builds(layout: RootLayout, active: Mapping[str, str]) -> Aliases:
    """Return the aliases of the builds in use; one whose record cannot be read has none.

    Parameters
    ----------
    layout : RootLayout
    active : Mapping[str, str]
        As in a `rootstock.root.generations.State`.
    """
    table = _read(layout)
    return table.aliases if table is not None and table.active == active else _recorded(layout, active)


def _read(layout: RootLayout) -> AliasTable | None:
    """Return the table; None if there is none, or it cannot be read: the records of the builds say the same."""
    with suppress(RootError):
        return read_record(AliasTable, layout.aliases_file, "")
    return None


def write_table(layout: RootLayout, active: Mapping[str, str], mode: int) -> None:
    """Write the table, if it is to say something else than it does; a root without aliases has none.

    Parameters
    ----------
    layout, active
        As `aliases_of_builds`.
    mode : int
        Of the file.
    """
    if not table_is_current(layout, active):
        text = AliasTable(active, _recorded(layout, active)).to_json()
        write_file(layout.aliases_file, text.encode(), mode)
        give_to_owner(layout.aliases_file, layout)


def table_is_current(layout: RootLayout, active: Mapping[str, str]) -> bool:
    """Tell whether the table says what it should.

    Parameters
    ----------
    layout, active
        As `aliases_of_builds`.
    """
    wanted = AliasTable(active, _recorded(layout, active))
    if not os.path.lexists(layout.aliases_file) and not wanted.aliases:
        return True
    return _read(layout) == wanted


def _recorded(layout: RootLayout, active: Mapping[str, str]) -> Aliases:
    return dict(_each(layout, active))


def _each(layout: RootLayout, active: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    for name, digest in sorted(active.items()):
        if VARIANT in name or "@" in name:  # the same file, and a pinned version, which has its own name only
            continue
        with suppress(RootError):
            record = read_build(layout.build(name, digest))
            if record and (aliases := _strings(_inside(record.header, "tool", "rootstock", "aliases"))):
                yield name, aliases


def _inside(table: Any, *keys: str) -> Any:
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def _strings(table: Any) -> dict[str, str]:
    """Return a table of strings; an empty one in place of anything else."""
    fits = isinstance(table, Mapping) and all(isinstance(value, str) for value in table.values())
    return dict(table) if fits else {}
