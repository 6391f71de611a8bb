"""Templates whose values cannot be forgotten unquoted.

A template prints nothing that has not been through a filter. One for each language returns a complete literal, which
means its value to the last character and nothing else, whatever quotes, brackets or substitutions that holds::

    sh  csh  fish  lua  tcl  toml     {{ cluster.contact | lua }} gives "ask \\"Ann\\" [[today]]"
    line                              as it is: for comments, a scheduler's directives, text that is quoted later
    word                              as it is, but refused unless it is one plain word, as versions and keys are

Control characters are refused everywhere: no language here quotes a line break for every program that reads it.

A site changes a template by a file of the same name in ``{root}/templates``. It can keep most of the packaged one,
which is always to be had under the prefix ``rootstock/``::

    {% extends "rootstock/modulefile.lua.j2" %}
    {% block extra %}
    setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    {% endblock %}

Templates of web pages escape every value by themselves (`render_html`).
"""

from __future__ import annotations

import fnmatch
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from rootstock.config.packaged import data_folder
from rootstock.errors import ConfigurationError, RenderError
from rootstock.root.plain_files import TEXT_LIMIT, read_bytes

# Language -> (quote, what would end or change the literal, how that is written instead).
_QUOTING = {
    "sh": ("'", r"'", r"'\\''"),
    # `!` recalls history even between single quotes, and `set backslash_quote` makes a backslash there special:
    # outside the quotes a backslash means the same to every csh.
    "csh": ("'", r"(['\\!])", r"'\\\1'"),
    "fish": ("'", r"(['\\])", r"\\\1"),
    "lua": ('"', r'(["\\])', r"\\\1"),
    # Braces do nothing between double quotes, but Tcl counts those of a procedure's body before it reads the body.
    "tcl": ('"', r'(["\\$\[\]{}])', r"\\\1"),
    "toml": ('"', r'(["\\])', r"\\\1"),
}
_TEMPLATE = "[!.]*.j2"
_OURS = "environment.py.j2"  # of `new-env`, which knows no root
_WORD = re.compile(r"\w[\w.+-]*", re.ASCII)
_EXTENDS = 'A site\'s template can start from the packaged one: {% extends "rootstock/NAME.j2" %}.'


class Literal(str):
    """Text that may stand in a rendering as it is."""

    __slots__ = ()


def line(value: object) -> Literal:
    """Return `value` unchanged.

    Raises
    ------
    RenderError
        If it holds a control character.
    """
    text = str(value)
    if not text.isprintable():
        raise RenderError(f"{text!r} holds a control character.", "Correct the value: it must be one printable line.")
    return Literal(text)


def word(value: object) -> Literal:
    """Return `value` unchanged.

    Raises
    ------
    RenderError
        If it is anything but one plain word.
    """
    text = str(value)
    if not _WORD.fullmatch(text):
        raise RenderError(f"{text!r} is not one plain word.", "Use letters, digits and . _ + - only.")
    return Literal(text)


def quote(language: str, value: object) -> Literal:
    """Return a value as a literal of a language; `line` refuses control characters.

    Parameters
    ----------
    language : {'sh', 'csh', 'fish', 'lua', 'tcl', 'toml'}
    value
        What `str` makes a text of.
    """
    mark, special, written = _QUOTING[language]
    return Literal(mark + re.sub(special, written, line(value)) + mark)


def render_template(name: str, variables: Mapping[str, Any], template_dirs: Sequence[Path]) -> str:
    """Render a template.

    Parameters
    ----------
    name : str
        The template's name.
    variables : mapping
        What the template knows.
    template_dirs : sequence of Path
        Folders that outrank the packaged templates, the first most.

    Returns
    -------
    str

    Raises
    ------
    RenderError
        If a value cannot be written or the template is wrong. It says which line of which file.
    """
    return _render(_environment(template_dirs), name, variables)


def render_html(name: str, variables: Mapping[str, Any], template_dirs: Sequence[Path]) -> str:
    """Render a template of a web page, where every value is escaped. Errors are those of `render_template`.

    Parameters
    ----------
    name, variables, template_dirs
        As for `render_template`.
    """
    environment = jinja2.Environment(
        loader=_loader(template_dirs), undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return _render(environment, name, variables)


def _render(environment: jinja2.Environment, name: str, variables: Mapping[str, Any]) -> str:
    try:
        return str(environment.get_template(name).render(variables))
    except RenderError as error:
        raise RenderError(f"{_place(error, name)}: {error.message}", error.hint) from error
    except jinja2.TemplateNotFound as error:
        raise RenderError(
            f"{_place(error, name)}: there is no template {error.name!r}.",
            f"Those of a site are files NAME.j2 in a folder. {_EXTENDS}",
        ) from error
    except jinja2.UndefinedError as error:
        raise RenderError(
            f"{_place(error, name)}: {error.message}.", f"A template knows {', '.join(variables)}."
        ) from error
    # A site's template is a program and a file: it may divide by zero, or be unreadable.
    except (jinja2.TemplateError, ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
        raise RenderError(f"{_place(error, name)}: {error}", f"Correct that line. {_EXTENDS}") from error


class _Environment(jinja2.Environment):
    @staticmethod
    def concat(parts: Iterable[str]) -> Literal:
        # What a block, a macro or {% set %} captured was checked piece by piece, so super() may be printed again.
        return Literal("".join(parts))


def site_templates(folders: Iterable[Path]) -> dict[str, bytes]:
    """Return the templates in some folders, by their names. Of one name the first counts.

    Raises
    ------
    ConfigurationError
        If a folder holds none that is ever rendered.
    """
    known = {path.name for path in data_folder("site_templates").glob(_TEMPLATE)} - {_OURS}
    found: dict[str, bytes] = {}
    for folder in folders:
        texts = {path.name: read_bytes(path, TEXT_LIMIT) for path in sorted(folder.glob(_TEMPLATE)) if path.is_file()}
        if not known.intersection(texts):
            raise ConfigurationError(
                f"{folder} holds no template that Rootstock knows.", f"Those are {', '.join(sorted(known))}."
            )
        found = texts | found
    return found


class _Folder(jinja2.FileSystemLoader):
    """Templates of a site: only those that `site_templates` would find, so that a root can hold all of them."""

    def get_source(self, environment: jinja2.Environment, template: str) -> Any:
        if not fnmatch.fnmatchcase(template, _TEMPLATE) or "/" in template:
            raise jinja2.TemplateNotFound(template)
        return super().get_source(environment, template)


def _loader(template_dirs: Sequence[Path]) -> jinja2.BaseLoader:
    packaged = jinja2.FileSystemLoader(data_folder("site_templates"))
    original = jinja2.PrefixLoader({"rootstock": packaged})
    return jinja2.ChoiceLoader([original, _Folder(list(template_dirs)), packaged])


def _environment(template_dirs: Sequence[Path]) -> jinja2.Environment:
    environment = _Environment(
        loader=_loader(template_dirs),
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        autoescape=False,  # HTML's quoting is of no use here; `_finalize` sees that the right one is not forgotten
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"line": line, "word": word, **{name: partial(quote, name) for name in _QUOTING}}
    return environment


def _finalize(value: Any) -> Any:
    """Let into a rendering only what a filter has made safe; jinja asks for the value of every expression."""
    if isinstance(value, (Literal, int, jinja2.Undefined)):  # printing an Undefined is jinja's own error
        return value
    raise RenderError(f"{value!r} would be printed unquoted.", f"Add a filter: {', '.join(_QUOTING)}, line or word.")


def _place(error: BaseException, name: str) -> str:
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".j2")]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else name
