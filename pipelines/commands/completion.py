"""`d2s completion`: a script for shell completion of commands, options and values."""

import click
from click.shell_completion import get_completion_class

from pipelines.console.command_line import print_text

SHELLS = ("bash", "zsh", "fish")
# The environment variable that click reads, named after the program.
VARIABLE = "_D2S_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that lets SHELL complete commands and options with the TAB key.

    Evaluate it in the shell's start-up file (`~/.bashrc`, `~/.zshrc`), or save it to a file.

    \b
    Examples:
      eval "$(d2s completion bash)"
      eval "$(d2s completion zsh)"
      d2s completion fish > ~/.config/fish/completions/d2s.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    print_text(found(ctx.find_root().command, {}, "d2s", VARIABLE).source())
