"""`completion`: complete commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from cli.exit_codes import DONE, USAGE
from cli.options import command

_NAMES = ("backupforge", "bf")


@command(
    "completion",
    short_help="Print the script that completes commands in a shell.",
    examples=[
        ('eval "$(backupforge completion bash)"', "in ~/.bashrc"),
        ('eval "$(backupforge completion zsh)"', "in ~/.zshrc, behind compinit"),
        ("backupforge completion fish > ~/.config/fish/completions/backupforge.fish", "once"),
    ],
    exit_codes=(DONE, USAGE),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def run(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options, for `backupforge` and `bf`."""
    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(f"cannot complete in {shell}")
    program = context.find_root().command
    for name in _NAMES:
        click.echo(completion(program, {}, name, f"_{name.upper()}_COMPLETE").source())
