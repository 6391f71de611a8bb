"""What is in use in a root, and what was put into use there and is gone.

A link in ``active`` says which build is in use. The newest generation says which links there were when the last
command had ended: one that is missing since was removed by somebody.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rootstock.errors import RootError
from rootstock.root.generations import Generation, latest, read_state
from rootstock.root.layout import RootLayout
from rootstock.root.records import BUILD_RECORD, active_build, is_in_use


def build_in_use(layout: RootLayout, name: str) -> Path | None:
    """Return the folder of an environment's main build; None if none is in use, and none should be.

    Parameters
    ----------
    layout : RootLayout
    name : str
        The environment.

    Raises
    ------
    RootError
        If a build was put into use and its link is gone or leads to no build, or you may not look there.
    """
    build = active_build(layout.active(name))
    if build is None and (error := _lost(layout, _newest(layout), name)):
        raise error
    return build


def link_problems(layout: RootLayout) -> dict[str, RootError]:
    """Return what is wrong with what points to builds: a link that is gone, or leads to nothing that can be read.

    Parameters
    ----------
    layout : RootLayout

    Returns
    -------
    dict of str to RootError
        By the name of the link, which is that of the environment for its main build; or ``client VERSION``.
    """
    newest, present = _newest(layout), read_state(layout)
    expected = newest.state if newest else present
    problems = {}
    for name in sorted({*expected.active, *present.active}):
        try:
            lost = _lost(layout, newest, name) if active_build(layout.active(name)) is None else None
        except RootError as error:
            lost = error
        if lost:
            problems[name] = lost
    for version in sorted({*expected.clients, *present.clients}):
        try:
            if is_in_use(layout.client(version)):
                continue
            fault = f"{layout.client(version)} leads to no build: the module of rootstock {version} does not work."
            problems[f"client {version}"] = RootError(fault, how_to_put_back(layout))
        except RootError as error:
            problems[f"client {version}"] = error
    return problems


def _newest(layout: RootLayout) -> Generation | None:
    """Return the newest generation; None if there is none, or it cannot be read, which others tell of."""
    with contextlib.suppress(RootError):
        return latest(layout)
    return None


def _lost(layout: RootLayout, newest: Generation | None, link: str) -> RootError | None:
    if newest is None or link not in newest.state.active:
        return None
    return RootError(
        f"{layout.active(link)} is missing: generation {newest.number} put build {newest.state.active[link]} "
        "into use there.",
        how_to_put_back(layout),
    )


def how_to_put_back(layout: RootLayout) -> str:
    """Say how links come back that somebody has removed."""
    return f"An admin puts it back with: rootstock-site install --root {layout.root}"


def was_built(layout: RootLayout, name: str) -> bool:
    """Tell whether an environment was ever built, whatever has become of it.

    Parameters
    ----------
    layout : RootLayout
    name : str
        The environment.
    """
    newest = _newest(layout)
    noted = newest is not None and name in newest.state.active
    return noted or os.path.lexists(layout.active(name)) or any(published_builds(layout, name))


def published_builds(layout: RootLayout, name: str) -> Iterator[Path]:
    """Yield the builds of an environment, in use or not.

    Parameters
    ----------
    layout : RootLayout
    name : str
        The environment.
    """
    return (record.parent for record in sorted(layout.builds(name).glob(f"[!.]*/{BUILD_RECORD}")))
