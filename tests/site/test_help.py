"""``--help`` of every command of both command lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from rootstock import errors
from rootstock.admin import bundle_archive  # noqa: F401  # it has an error of its own
from rootstock.cli.site import main as site
from rootstock.cli.user import main as user

# They read nothing that a program would want to have: what they print is meant for one already.
NO_JSON = {"rootstock completion", "rootstock-site completion"}


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


ALL = dict([*commands(user, "rootstock"), *commands(site, "rootstock-site")])
PROPER = {path: command for path, command in ALL.items() if not isinstance(command, click.Group)}


def text_of(path: str) -> str:
    program, *rest = path.split()
    done = CliRunner().invoke(user if program == "rootstock" else site, [*rest, "--help"], prog_name=program)
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("path", PROPER)
def test_every_command_teaches_with_an_example(path: str) -> None:
    text = text_of(path)
    examples = re.search(r"^  Examples?:\n((?:    .+\n)+)", text, re.MULTILINE)
    assert examples, text
    assert any(line.strip().startswith(path) or f" {path} " in line or f"({path} " in line
               for line in examples[1].splitlines()), text  # fmt: skip
    assert "\\b" not in text


@pytest.mark.parametrize("path", PROPER)
def test_every_option_is_described(path: str) -> None:
    for parameter in PROPER[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts[0]}"
            cryptic = re.match(r"Of |The same |Its |\[", parameter.help)  # of what? as what? whose?
            assert not cryptic, f"{path} {parameter.opts[0]}: {parameter.help}"
        else:
            name = parameter.make_metavar(click.Context(PROPER[path])).strip("[].")
            assert re.search(rf"\b{re.escape(name.strip('{}').split('|')[0].split(':')[0])}\b", text_of(path)), name


@pytest.mark.parametrize("path", PROPER)
def test_every_command_that_reads_has_json(path: str) -> None:
    options = {option for parameter in PROPER[path].params for option in parameter.opts}
    writes = "--dry-run" in options or path in NO_JSON or path in WRITES
    assert "--json" in options or writes


WRITES = {
    "rootstock worker",  # answers a server
    "rootstock singlepoint",
    "rootstock relax",
    "rootstock md",
    "rootstock run continue",
    "rootstock run retry-failed",  # write files of structures
    "rootstock-site new-env",  # writes a file
    "rootstock-site render",  # writes files, or compares them: --check
}


@pytest.mark.parametrize("path", ["rootstock", "rootstock-site", *(p for p in ALL if p not in PROPER)])
def test_a_list_of_commands_shows_whole_sentences(path: str) -> None:
    listed = re.search(r"^Commands:\n((?:  .+\n)+)", text_of(path), re.MULTILINE)
    assert listed
    for line in listed[1].splitlines():
        assert re.fullmatch(r"  \S+ +\S.*[^.]\.", line), line


@pytest.mark.parametrize("path", ["rootstock", "rootstock-site"])
def test_every_exit_code_is_named(path: str) -> None:
    def codes(kind: type[errors.RootstockError]) -> set[int]:
        return {kind.exit_code}.union(*map(codes, kind.__subclasses__()))

    documented = set(map(int, re.findall(r"(?:^| ) +(\d+)  \w", text_of(path).split("Exit codes:")[1], re.MULTILINE)))
    assert codes(errors.RootstockError) | {0, 2, 20, 130} == documented
