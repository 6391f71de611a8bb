"""The works that are cited with a model, as BibTeX."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from rootstock import __version__

Work = Mapping[str, Any]  # a table of `rootstock.config.header_kinds.CITATION`, or {"note": ...}

ASE: Work = {
    "authors": "Larsen, Ask Hjorth and Mortensen, Jens Jørgen and Blomqvist, Jakob and Castelli, Ivano E. and others",
    "title": "The atomic simulation environment---a Python library for working with atoms",
    "journal": "Journal of Physics: Condensed Matter", "volume": "29", "pages": "273002", "year": 2017,
    "doi": "10.1088/1361-648X/aa680e",
}  # fmt: skip
OWN: Work = {  # as CITATION.cff has it
    "authors": "{The Rootstock developers}",
    "title": "Rootstock: machine-learned interatomic potentials for a whole HPC cluster",
    "year": int(__version__.partition(".")[0]), "version": __version__,
}  # fmt: skip
_FIELDS = ("author", "title", "journal", "volume", "pages", "year", "version", "doi", "eprint", "archiveprefix", "url",
           "note")  # fmt: skip
_NAMES = {"authors": "author", "arxiv": "eprint"}
_SMALL = ("a", "an", "on", "the")  # words that say nothing in a key
_AS_IT_IS = ("doi", "eprint", "url")  # addresses, which the packages of LaTeX read by themselves
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\textbraceleft{}", "}": r"\textbraceright{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", **{each: f"\\{each}" for each in "&%$#_"},
}  # fmt: skip


def works_of(citation: str | Iterable[Work], model: str | None) -> list[Work]:
    """Return the works that an environment file names for a model.

    Parameters
    ----------
    citation : str or iterable of Mapping
        The key ``citation`` of its header.
    model : str or None
        The model's name; empty if the environment has one without a name. None means all of its models.
    """
    if isinstance(citation, str):
        return [{"note": citation}] if citation else []
    return [
        work
        for work in citation
        if "models" not in work or model is None or any(fnmatchcase(model, pattern) for pattern in work["models"])
    ]


def with_keys(works: Iterable[Work]) -> dict[str, Work]:
    """Return works by their keys for ``\\cite{}``: name, year and first word of the title; no key twice."""
    keyed: dict[str, Work] = {}
    for work in works:
        if work in keyed.values():
            continue
        plain = _key(work)
        key, letters = plain, iter("bcdefghijklmnopqrstuvwxyz")
        while key in keyed:
            key = plain + next(letters, f"-{len(keyed)}")
        keyed[key] = work
    return keyed


def bibtex(keyed: Mapping[str, Work]) -> str:
    """Return the entries of a bibliography.

    Parameters
    ----------
    keyed : Mapping[str, Work]
        As `with_keys` returns them.
    """
    return "\n\n".join(_entry(key, work) for key, work in keyed.items())


def line(work: Work) -> str:
    """Return a work in a line, for people."""
    authors = [name.strip("{}").partition(",")[0] for name in _people(work)]
    by = f"{authors[0]} et al." if len(authors) > 2 else " and ".join(authors)
    place = " ".join(str(work[key]) for key in ("journal", "volume") if key in work)
    where = ", ".join(filter(None, [work.get("title", ""), place, str(work.get("pages", "")).replace("--", "–")]))
    where = f"{where} ({work['year']})".strip() if "year" in work else where
    found = [f"{name}:{work[key]}" for key, name in (("doi", "doi"), ("arxiv", "arXiv")) if key in work][:1]
    parts = [by, where, *(found or [work.get("url", "")]), work.get("note", "")]
    return ", ".join(filter(None, parts))


def _people(work: Work) -> list[str]:
    return [name.strip() for name in str(work.get("authors", "")).split(" and ") if name.strip()]


def _key(work: Work) -> str:
    name = next(iter(_people(work)), work.get("note", ""))
    family = name.partition(",")[0] if "," in name else name.split(" ")[-1]
    words = [word for word in re.findall("[^\\W_]+", work.get("title", "")) if word.lower() not in _SMALL]
    parts = (words[:1], work.get("year", "")) if name.startswith("{") else (family, work.get("year", ""), words[:1])
    text = "".join("".join(part) if isinstance(part, list) else str(part) for part in parts)
    return re.sub("[^a-z0-9]", "", unicodedata.normalize("NFKD", text.lower().replace("ø", "o"))) or "work"


def _entry(key: str, work: Work) -> str:
    named = {_NAMES.get(name, name): value for name, value in work.items()}
    if "eprint" in named:
        named["archiveprefix"] = "arXiv"
    kind = "article" if "journal" in named else "misc"
    lines = [f"  {name} = {{{_value(name, named[name])}}}," for name in _FIELDS if name in named]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _value(name: str, value: Any) -> str:
    """Return a field's value: with nothing that TeX would act upon, and with as many braces closed as opened."""
    text = " ".join(str(value).split())
    if name in _AS_IT_IS:
        return re.sub(r"[{}\\]", "", text)
    whole = name == "author" and re.fullmatch(r"\{[^{}]*\}", text)  # the name of a group, which is not taken apart
    inner = "".join(_LATEX.get(letter, letter) for letter in (text[1:-1] if whole else text))
    return f"{{{inner}}}" if whole or name == "title" else inner
