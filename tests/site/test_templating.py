"""Quoting, checked by the programs that read it, and the templates of a site."""

from __future__ import annotations

import itertools
import re
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from rootstock.config.clusters import Cluster
from rootstock.config.render import render_modulefiles
from rootstock.config.site import Site
from rootstock.config.templates import line, quote, word
from rootstock.errors import RenderError
from rootstock.root.layout import RootLayout
from tests.support.commands import run
from tests.support.needs import need_program

ROOT = Path("/opt/rootstock")
CLUSTER = Cluster(name="hill", origins={}, contact="help@hill.example")

SPECIAL = "'\"\\$`[](){}<>|&;!#*?~%^=,: -@é日"
HOSTILE = [
    "",
    "$(touch owned)",
    "`touch owned`",
    "[exec touch owned]",
    "]==] touch owned",
    "'; touch owned; '",
    '"; touch owned; "',
    "\\'; touch owned; \\'",
    "${HOME} $HOME ~ ~root !! !$ !touch %d",
    "{{ cluster }} {% raw %}",
    "-n",
    "é 日本 \U0001f331",
    *SPECIAL,
    *map("".join, itertools.product(SPECIAL, repeat=2)),
]


def chunks(values, size=200):
    return [values[start : start + size] for start in range(0, len(values), size)]


def printed(bare, command, language, script):
    """Print every hostile value by a program of `language`; each call of `script` writes some, one in each line."""
    text = "\n".join(script([quote(language, value) for value in chunk]) for chunk in chunks(HOSTILE))
    done = bare(*command, text)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("shell", ["dash", "bash", "zsh"])
def test_sh(bare, tmp_path, shell):
    command = [need_program(shell, shell), "-c"]
    assert printed(bare, command, "sh", lambda literals: f"printf '%s\\n' {' '.join(literals)}") == HOSTILE
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("setting", ["", "set backslash_quote", "set histchars='!^'"])
def test_csh(bare, tmp_path, setting):
    command = [need_program("tcsh", "tcsh"), "-f", "-c"]
    found = printed(bare, command, "csh", lambda literals: f"{setting}\nprintf '%s\\n' {' '.join(literals)}")
    assert found == HOSTILE
    assert not (tmp_path / "owned").exists()


def test_fish(bare, tmp_path):
    command = [need_program("fish", "fish"), "--no-config", "-c"]
    assert printed(bare, command, "fish", lambda literals: f"printf '%s\\n' {' '.join(literals)}") == HOSTILE
    assert not (tmp_path / "owned").exists()


def test_lua(bare, tmp_path):
    command = [need_program("lua5.3", "lua5.3"), "-e"]
    found = printed(bare, command, "lua", lambda literals: "\n".join(f"print({literal})" for literal in literals))
    assert found == HOSTILE
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("body", ["{}", "proc inner {{ }} {{\n{}\n}}\ninner"], ids=["top", "procedure"])
def test_tcl(bare, tmp_path, body):
    tclsh = need_program("tclsh8.6", "tcl8.6")
    script = tmp_path / "script.tcl"

    def through_a_file(literals):
        return body.format("\n".join(f"puts {literal}" for literal in literals))

    script.write_text("\n".join(through_a_file([quote("tcl", v) for v in chunk]) for chunk in chunks(HOSTILE)))
    done = bare(tclsh, script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:-1] == HOSTILE
    assert not (tmp_path / "owned").exists()


def test_toml():
    text = "values = [\n" + "".join(f"{quote('toml', value)},\n" for value in HOSTILE) + "]\n"
    assert tomllib.loads(text)["values"] == HOSTILE


@pytest.mark.parametrize("language", ["sh", "csh", "fish", "lua", "tcl", "toml"])
@pytest.mark.parametrize("control", ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\udc80"])
def test_control_characters_are_refused(language, control):
    value = f"one{control}touch owned"
    with pytest.raises(RenderError, match=re.escape(f"{value!r} holds a control character.")):
        quote(language, value)
    with pytest.raises(RenderError, match=re.escape(f"{value!r} holds a control character.")):
        line(value)


@pytest.mark.parametrize("value", ["", "a b", "../a", "a/b", "-a", "a\n", "é", "$(a)"])
def test_a_word_is_one_word(value):
    with pytest.raises(RenderError, match=re.escape(f"{value!r} is not one plain word.")):
        word(value)


def render(cluster=CLUSTER, *template_dirs):
    texts = render_modulefiles(Site(RootLayout(ROOT), cluster, template_dirs), "0.3.0")
    return {path.name: text for path, text in texts.items()}


def site(folder, **templates):
    """Write templates of a site, given as modulefile_lua=TEXT."""
    folder.mkdir(exist_ok=True)
    for name, text in templates.items():
        (folder / f"{name.replace('_', '.')}.j2").write_text(text)
    return folder


def test_a_control_character_in_a_setting_is_refused():
    with pytest.raises(RenderError, match=r"help\.txt\.j2, line \d+: 'a\\nb' holds a control character\."):
        render(replace(CLUSTER, contact="a\nb"))


def test_a_site_changes_one_block_and_keeps_the_rest(tmp_path):
    templates = site(
        tmp_path,
        modulefile_lua="""\
{% extends "rootstock/modulefile.lua.j2" %}
{% block environment %}
{{ super() }}
setenv("SITE", {{ cluster.contact | lua }})
{%- endblock %}
""",
    )
    packaged, ours = render(), render(CLUSTER, templates)
    last = 'prepend_path("PATH", "/opt/rootstock/client/0.3.0/bin")\n'
    assert ours["0.3.0.lua"] == packaged["0.3.0.lua"].replace(last, f'{last}\nsetenv("SITE", "help@hill.example")')
    assert ours["0.3.0"] == packaged["0.3.0"]


def test_a_site_says_its_help_once_for_both_systems(tmp_path):
    templates = site(tmp_path, help_txt='Ask "{{ cluster.contact | line }}" [today].\n')
    texts = render(CLUSTER, templates)
    assert 'help(table.concat({\n    "Ask \\"help@hill.example\\" [today].",\n}, "\\n"))' in texts["0.3.0.lua"]
    assert 'puts stderr "Ask \\"help@hill.example\\" \\[today\\]."\n}' in texts["0.3.0"]


def test_the_first_folder_of_templates_wins(tmp_path):
    first = site(tmp_path / "first", modulefile_lua="-- first\n")
    second = site(tmp_path / "second", modulefile_lua="-- second\n", modulefile_tcl="# second\n")
    texts = render(CLUSTER, first, second)
    assert (texts["0.3.0.lua"], texts["0.3.0"]) == ("-- first\n", "# second\n")


def test_macros_and_captured_text_are_checked_once(tmp_path):
    macro = '{% macro set(name) %}setenv({{ name | lua }}, "1"){% endmacro %}'
    text = macro + '{% set all %}{{ set("A") }}{% endset %}{{ all }}\n'
    assert render(CLUSTER, site(tmp_path, modulefile_lua=text))["0.3.0.lua"] == 'setenv("A", "1")\n'


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('setenv("X", "{{ root }}")\n', "'/opt/rootstock') would be printed unquoted.", "Add a filter: sh, csh"),
        ('\nsetenv("X", {{ cluster.contact }})\n', "line 2: 'help@hill.example' would be printed unquoted.", "Add"),
        ("\n\n{{ rot | lua }}\n", "line 3: 'rot' is undefined.", "A template knows cluster, root, version,"),
        (
            "{{ cluster.rot | lua }}\n",
            "'rootstock.config.cluster_settings.Cluster object' has no attribute 'rot'.",
            "A template knows",
        ),
        ("\n{% block %}\n", "line 2: expected token 'name', got 'end of statement block'", "Correct that line."),
        ("{{ root | luaa }}\n", "line 1: No filter named 'luaa'.", "Correct that line."),
        (
            "{% extends 'rootstock/nothing.j2' %}\n",
            "line 1: there is no template 'rootstock/nothing.j2'",
            "can start from the packaged one",
        ),
        ("{{ 1 // 0 }}\n", "line 1: integer division or modulo by zero", "Correct that line."),
        (
            "{{ version | word }}\n{{ (version ~ ' ') | word }}\n",
            "line 2: '0.3.0 ' is not one plain word.",
            "Use letters",
        ),
    ],
)
def test_a_wrong_template_is_named_with_its_line(tmp_path, text, message, hint):
    templates = site(tmp_path, modulefile_lua=text)
    with pytest.raises(RenderError) as caught:
        render(CLUSTER, templates)
    assert str(templates / "modulefile.lua.j2") in caught.value.message
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_template_that_is_no_text(tmp_path):
    (tmp_path / "modulefile.lua.j2").write_bytes(b"\xff")
    with pytest.raises(RenderError, match=r"modulefile\.lua\.j2: 'utf-8' codec can't decode byte 0xff"):
        render(CLUSTER, tmp_path)


def test_rendering_is_no_part_of_importing_rootstock():
    code = "import rootstock, rootstock.config.clusters, sys; print('jinja2' in sys.modules)"
    assert run(sys.executable, "-c", code, check=True).stdout == "False\n"
