"""Licences, training sets and functionals: one word for each, so that models can be compared and filtered by them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rootstock.config.model_string import did_you_mean

CLASSES = ("open", "academic", "gated", "unknown")
# SPDX identifiers, https://spdx.org/licenses/, and what the field has besides.
_OPEN = (
    "0BSD", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0",
    "CC-BY-SA-4.0", "CC0-1.0", "CDDL-1.0", "CECILL-2.1", "EUPL-1.2", "GPL-2.0-only", "GPL-2.0-or-later",
    "GPL-3.0-only", "GPL-3.0-or-later", "ISC", "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only",
    "LGPL-3.0-or-later", "MIT", "MPL-2.0", "NIST-PD", "NIST-PD-fallback", "NIST-Software", "Unlicense",
)  # fmt: skip
_ACADEMIC = (
    "ASL",  # Academic Software License, of MACE's and GRACE's authors
    "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0", "PolyForm-Noncommercial-1.0.0",
)  # fmt: skip
_GATED = ("FAIR-Chemistry-1.0",)  # FAIR Chemistry License v1, of UMA and OMol25's models
LICENCES = {
    **dict.fromkeys(_OPEN, "open"), **dict.fromkeys(_ACADEMIC, "academic"), **dict.fromkeys(_GATED, "gated"),
}  # fmt: skip
_ELSEWHERE = "as stated at "  # begins a licence that only a page states

# Several, of a model with several heads, are separated by commas. PBE+U is what MPtrj, Alexandria and OMat24 were
# computed: with U for some elements in oxides and fluorides, and plain PBE otherwise.
FUNCTIONALS = (
    "B3LYP", "B3LYP-D3(BJ)", "BEEF-vdW", "CCSD(T)", "GFN1-xTB", "GFN2-xTB", "HSE06", "IPEA1-xTB", "LDA", "OptB88vdW",
    "PBE", "PBE+U", "PBE+U-D3", "PBE-D3", "PBE-D3(BJ)", "PBE0", "PBE0+MBD", "PBEsol", "r2SCAN", "RPBE", "RPBE-D3",
    "SCAN", "wB97M", "wB97M-D3(BJ)", "wB97M-V", "wB97X", "wB97X-D3",
)  # fmt: skip
# Several are joined by ` + `. Others are as welcome: data sets are many.
TRAINING_SETS = (
    "Alexandria", "ANI-1ccx", "ANI-1x", "ANI-2x", "JARVIS-DFT", "MAD", "MatPES-PBE", "MatPES-r2SCAN",
    "Materials Project", "MP-r2SCAN", "MPtrj", "OC20", "OC22", "ODAC23", "OMat24", "OMC25", "OMol25", "OPoly26",
    "QM7-X", "sAlex", "SPICE 1", "SPICE 2",
)  # fmt: skip


def licence_class(licence: str, gated: str = "") -> str:
    """Return what a licence allows: one of `CLASSES`.

    Parameters
    ----------
    licence : str
        Its identifier.
    gated : str
        The page where its terms are accepted; empty if nobody asks for that.

    Examples
    --------
    >>> licence_class("MIT"), licence_class("ASL"), licence_class("see the page")
    ('open', 'academic', 'unknown')
    """
    return "gated" if gated else LICENCES.get(licence, "unknown")


def odd_licence(licence: str) -> str:
    """Say what is wrong with the name of a licence; empty if it is one that `licence_class` knows, or none.

    Parameters
    ----------
    licence : str
    """
    if not licence or licence in LICENCES or licence.startswith(_ELSEWHERE):
        return ""
    meant = _meant(licence, LICENCES) or (
        f" Use an identifier of https://spdx.org/licenses/, ASL or FAIR-Chemistry-1.0; or '{_ELSEWHERE}PAGE'."
    )
    return f"licence {licence!r} is in no class: users see it as unknown.{meant}"


def each_functional(functional: str) -> list[str]:
    """Return the functionals of a model, each by itself.

    >>> each_functional("PBE+U, wB97M-V")
    ['PBE+U', 'wB97M-V']
    """
    return [name for part in functional.split(",") if (name := part.strip())]


def odd_functionals(functional: str) -> Iterator[str]:
    """Yield what is unusual about the functionals of a model.

    Parameters
    ----------
    functional : str
        One or several, separated by commas.
    """
    for name in each_functional(functional):
        if name not in FUNCTIONALS:
            meant = _meant(name, FUNCTIONALS) or f" Known: {', '.join(FUNCTIONALS)}."
            yield f"functional {name!r} is none that filters know.{meant}"


def odd_training_sets(training_set: str) -> Iterator[str]:
    """Yield which training sets are spelt in another way than in other files; those that nobody knows are left alone.

    Parameters
    ----------
    training_set : str
        One or several, joined by ``+`` or commas.
    """
    for name in filter(None, (part.strip() for part in re.split(r" \+ |,", training_set))):
        usual = {_plain(known): known for known in TRAINING_SETS}.get(_plain(name), name)
        if usual != name:
            yield f"training set {name!r} is spelt {usual!r} in other files."


def _plain(name: str) -> str:
    return re.sub("v(?=[0-9])|[^a-z0-9]", "", name.lower().replace("ω", "w"))


def _meant(name: str, names: Iterable[str]) -> str:
    """Return a sentence that names what is spelt alike, or begins so; empty if nothing does."""
    known = {_plain(each): each for each in names}
    if _plain(name) in known:
        return f" Write {known[_plain(name)]!r}."
    longer = [each for plain, each in known.items() if plain.startswith(_plain(name))]
    return f" Did you mean {' or '.join(map(repr, longer[:4]))}?" if longer else did_you_mean(name, known.values())
