"""Command lines that say things in another program's words, or in another order: the line that was meant."""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import click

from rootstock.config.clusters import cluster_names, require_root
from rootstock.config.environment_file import packaged_names, registered_names
from rootstock.config.model_names import root_aliases
from rootstock.config.model_string import parse_model_string
from rootstock.errors import RootstockError
from rootstock.root.layout import RootLayout

_MODEL, _STRUCTURE = "MODEL", "STRUCTURE"

# Options of other programs (janus-core, ase, matcalc ...), by what they are here. A command that has an option of that
# name itself means its own.
_OPTIONS = {
    _MODEL: "--model --models --model-name --model-path --arch --architecture --calculator --calc --checkpoint -m",
    _STRUCTURE: "--struct --structure --structures --input --input-file --atoms --file -i",
    "--calc-kwargs": "--kwargs --calculator-kwargs --setup-kwargs --parameters -p",
    "--cluster": "--site",
    "--env": "--env --environment --environments --envs",
    "--file-prefix": "--prefix",
    "--format": "--input-format --read-format",
    "--fmax": "--force-tolerance --tolerance --tol",
    "--friction": "--gamma",
    "--opt-cell-fully": "--relax-cell --cell-relax",
    "--out": "--output --outfile --output-file --out-file -o",
    "--overwrite": "--force",
    "--pressure": "--press",
    "--properties": "--property",
    "--seed": "--random-seed",
    "--socket": "--unixsocket --unix-socket --socket-path",
    "--stats-every": "--log-every --loginterval",
    "--steps": "--max-steps --maxsteps --nsteps --num-steps -n",
    "--temp": "--temperature --temperature-k -t",
    "--threads": "--nthreads --num-threads --n-threads -j",
    "--timestep": "--dt --time-step",
    "--traj": "--trajectory --write-traj",
}
_OURS = {word: ours for ours, words in _OPTIONS.items() for word in words.split()}

_FLAGS = {"--cpu": ("--device", "cpu"), "--gpu": ("--device", "cuda"), "--cuda": ("--device", "cuda")}

_COMMANDS = {
    "single-point": "singlepoint", "sp": "singlepoint", "energy": "singlepoint", "run": "singlepoint",
    "calculate": "singlepoint", "geomopt": "relax", "opt": "relax", "optimize": "relax", "optimise": "relax",
    "minimize": "relax", "relaxation": "relax", "dynamics": "md", "models": "list", "ls": "list", "info": "show",
    "driver": "worker", "serve": "worker", "check": "doctor", "download": "warm", "fetch": "warm", "update": "install",
    "upgrade": "install", "add": "install", "remove": "uninstall", "help": "--help", "version": "--version",
}  # fmt: skip
_WITH_MODEL = {"list": "show", "doctor": "why-not"}  # which command tells of one model what this one does of all
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"  # what a text processor makes of hyphens
_RESTART = "-restart.json"
_CHECKPOINTS = (".model", ".pt", ".pth", ".ckpt")


@dataclass
class _Line:
    """The words of a command line: its own options, what is none, and what others call otherwise."""

    options: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)  # by options of other programs
    arguments: list[str] = field(default_factory=list)
    structures: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # options that nobody knows

    @property
    def positional(self) -> list[str]:
        model = self.models if len(self.models) < 2 else [_MODEL]  # such as --arch and --model
        return [*model, *self.arguments, *self.structures]


def explain(context: click.Context, words: list[str]) -> str:
    """Return what is wrong with the words of a command line, and the line that was meant; empty if nothing is seen.

    Parameters
    ----------
    context : click.Context
        Of the command. Which models there are is asked of the root that its parameters name, where they are known.
    words : list of str
        What follows the command.
    """
    command, line = context.command, _read(context.command, list(words))
    if line.unknown:
        said = "; ".join(line.remarks)
        return f"{said[0].upper()}{said[1:]}; there is no option {line.unknown[0]}." if said else ""
    name, positional, options = context.command_path, line.positional, line.options
    takes = [param.name for param in command.params if isinstance(param, click.Argument)]
    if not takes and positional and command.name in _WITH_MODEL:
        what = "clusters" if name.endswith("cluster list") else "models"
        said = f"'{name}' is about all {what}, {_WITH_MODEL[command.name]!r} about one"
        return _advice(said, [*name.split()[:-1], _WITH_MODEL[command.name], *positional])
    if not takes and positional and "--env" in _flags(command):
        more = [word for each in positional for word in ("--env", each)]
        return _advice(f"'{name}' takes environments by --env", [*name.split(), *more, *options])
    if "model" in takes:
        _restart_file(line, options, positional)
        if order := _order(context, positional):
            line.remarks.append(order)
        if "--structure" in _flags(command):
            options = [*(word for each in positional[1:] for word in ("--structure", each)), *options]
            if positional[1:]:
                line.remarks.append("the structure is given by --structure")
            positional = positional[:1]
    if not line.remarks:
        return ""
    return _advice("; ".join(line.remarks), [*name.split(), *positional, *options])


def _read(command: click.Command, words: list[str]) -> _Line:
    """Take a line apart."""
    flags, line = _flags(command), _Line()
    while words:
        word = _with_hyphens(words.pop(0), flags, line)
        option, equals, value = word.partition("=")
        if word == "--":
            line.arguments += words
            break
        if not word.startswith("-") or word == "-":
            line.arguments.append(word)
        elif option in flags:
            line.options.append(word)
            if not flags[option] and not equals and words:
                line.options.append(words.pop(0))
        elif option[:2] in flags and not option.startswith("--"):
            line.options.append(word)
        else:
            _translate(command, line, option, [value] if equals else words)
    return line


def _with_hyphens(word: str, flags: Mapping[str, bool], line: _Line) -> str:
    """Return a word with the hyphens that an option begins with here; a remark says if it had others."""
    bare = word.lstrip(f"-{_DASHES}")
    begin = word[: len(word) - len(bare)]
    name = bare.partition("=")[0]
    if not bare or begin == "--" or (begin == "-" and len(name) < 2) or not begin:
        return word
    meant = f"--{name}" if len(name) > 1 else f"-{name}"
    if begin == "-" and not {meant, meant.lower().replace("_", "-")} & {*flags, *_OURS, *_FLAGS}:
        return word  # short options in one word
    line.remarks.append(f"{begin}{name} is written {meant}")
    return f"{meant[: -len(name)]}{bare}"


def _translate(command: click.Command, line: _Line, option: str, words: list[str]) -> None:
    """Add what an option of another program is here; its value is taken from the words that follow."""
    flags = _flags(command)
    arguments = {param.human_readable_name.rstrip(".") for param in command.params if isinstance(param, click.Argument)}
    plain = option.lower().replace("_", "-") if option.startswith("--") else option
    ours = plain if plain in flags else _OURS.get(plain, "")
    if plain in _FLAGS and "--device" in flags:
        line.options += _FLAGS[plain]
        line.remarks.append(f"{option} is {' '.join(_FLAGS[plain])} here")
        return
    if ours == _STRUCTURE and "--structure" in flags:
        ours = "--structure"
    if ours == "--env" and ours not in flags:
        ours = _MODEL
    if ours not in {*flags, *arguments, *([_MODEL] if command.name in _WITH_MODEL else [])}:
        line.unknown.append(option)
        return
    if ours.startswith("-") and flags[ours]:
        line.options.append(ours)
        line.remarks.append(f"{option} is {ours} here")
        return
    value = words.pop(0) if words and not words[0].startswith("--") and words[0] not in flags else "..."
    if ours == _MODEL:
        line.models.append(value)
        if _MODEL in arguments:
            line.remarks.append(f"MODEL is the first argument, without {option}")
    elif ours == _STRUCTURE:
        line.structures.append(value)
        place = "follow MODEL" if _MODEL in arguments else "come first"
        line.remarks.append(f"structures {place}, without {option}")
    else:
        line.options += [ours, value]
        line.remarks.append(f"{option} is {ours} here")


def _flags(command: click.Command) -> dict[str, bool]:
    """Return the options of a command, and of each whether it is a flag."""
    flags = {"--help": True, "-h": True}
    for param in command.params:
        if isinstance(param, click.Option):
            flags |= dict.fromkeys((*param.opts, *param.secondary_opts), param.is_flag or param.count)
    return flags


def _restart_file(line: _Line, options: list[str], positional: list[str]) -> None:
    """Take a file behind ``--restart`` away, in place, and name it by ``--file-prefix``."""
    files = [word for word in positional[2:] if word.endswith(_RESTART)]
    if "--restart" in options and "--file-prefix" not in options and files:
        positional.remove(files[0])
        options += ["--file-prefix", files[0].removesuffix(_RESTART)]
        line.remarks.append("--restart takes no file: its name follows from --file-prefix")


def _order(context: click.Context, positional: list[str]) -> str:
    """Put the model first, in place; return what to say if it was not there."""
    if not positional:
        return ""
    first, rest = positional[0], positional[1:]
    strange = [word for word in rest if not _is_file(word)]
    if not (_is_file(first) or strange) or is_model(context, first):
        return ""
    meant = next((word for word in strange if is_model(context, word)), None)
    if meant is not None:
        positional.remove(meant)
        positional.insert(0, meant)
        return f"MODEL comes first, then the rest: {meant!r} is the model"
    if not _is_file(first):
        return ""
    if first.endswith(_CHECKPOINTS):
        positional[0] = f"ENVIRONMENT-{Path(first).absolute()}"
        return f"{first!r} is a file; a checkpoint of your own is written as ENVIRONMENT-PATH"
    takes_files = len([param for param in context.command.params if isinstance(param, click.Argument)]) > 1
    positional[:1] = [_MODEL, first] if takes_files or "--structure" in _flags(context.command) else [_MODEL]
    return f"{first!r} is a file, and the first argument is MODEL, one of those that 'rootstock list' shows"


def _is_file(word: str) -> bool:
    """Tell whether a word names a file; ``PATH@INDEX`` picks from one."""
    return os.path.isfile(word) or os.path.isfile(word.rpartition("@")[0])  # Path raises if a name is too long


def is_model(context: click.Context, word: str) -> bool:
    """Tell whether a word is a model of the root that is meant, or, where that is not known, one of ours.

    Parameters
    ----------
    context : click.Context
    word : str
    """
    names = packaged_names()
    with contextlib.suppress(RootstockError, OSError):
        layout = RootLayout(require_root(context.params.get("cluster"), context.params.get("root")))
        names = registered_names(layout) or names
        if any(word in held for held in root_aliases(layout).values()):
            return True
    return parse_model_string(word, names)[0] in names


def explain_command(group: click.Group, path: str, words: list[str], other: str) -> str:
    """Return what to type in place of a command that there is not.

    Parameters
    ----------
    group : click.Group
    path : str
        As it was typed.
    words : list of str
        The unknown command, and what follows it.
    other : str
        The module of the other command line.
    """
    word, *rest = words
    if word.startswith("-"):
        if command := next((each for each in rest if each in group.commands), ""):
            after = [each for each in words if each != command]
            return _advice("Options follow the command", [path, command, *after])
        return ""
    if (meant := _COMMANDS.get(word.lower(), word.lower())) in group.commands or meant.startswith("--"):
        line = [meant, *rest] if meant in group.commands else [*rest[:1], meant]
        return _advice(f"There is no command {word!r}", [*path.split(), *line])
    if "show" in group.commands and word in cluster_names() and path.endswith("cluster"):
        return _advice(f"{word!r} is a cluster", [*path.split(), "show", word, *rest])
    known = dict.fromkeys(group.commands, path)
    if other:
        program = "rootstock" if path == "rootstock-site" else "rootstock-site"
        theirs = import_module(other).main.commands
        known = dict.fromkeys(theirs, program) | known
        if meant in theirs:
            return _advice(f"{word!r} is a command of {program}", [program, meant, *rest])
    if path == "rootstock" and (_is_file(word) or is_model(click.Context(group), word)):
        what = "file" if _is_file(word) else "model"
        model = next((each for each in words if is_model(click.Context(group), each)), _MODEL)
        files = [each for each in words if each != model]
        return _advice(f"{word!r} is a {what}; the command comes first", [path, "singlepoint", model, *files])
    close = [f"'{known[name]} {name}'" for name in difflib.get_close_matches(word, known)]
    return f"There is no command {word!r}. Did you mean {' or '.join(close)}?" if close else ""


def _advice(said: str, line: list[str]) -> str:
    return f"{said[0].upper()}{said[1:]}. Run:\n  {shlex.join(line)}"
