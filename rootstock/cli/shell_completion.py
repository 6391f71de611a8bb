"""``completion SHELL`` of both command lines."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from rootstock.cli.command import Command

_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


def completion_of(program: str) -> click.Command:
    """Return the command that prints the completion script of a command line."""
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"

    @click.command("completion", cls=Command)
    @click.argument("shell", type=click.Choice(list(_SHELLS)))
    def completion(shell: str) -> None:
        click.echo(_SHELLS[shell](click.Command(program), {}, program, variable).source())

    completion.help = f"""Print the completion script of SHELL.

    With it a shell completes commands, options, models and clusters.

    \b
    Examples:
      eval "$({program} completion bash)"    # for this shell; in ~/.bashrc for all
      {program} completion bash > ~/.local/share/bash-completion/completions/{program}    # read when first needed
      eval "$({program} completion zsh)"     # in ~/.zshrc, after compinit
      {program} completion fish > ~/.config/fish/completions/{program}.fish
    """
    return completion
