"""Command `modelserver completion`: completion of commands and options for shells."""

import click
from click.shell_completion import get_completion_class

PROGRAM = "modelserver"
_VARIABLE = "_MODELSERVER_COMPLETE"
"""Variable by which click is asked for completions."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    The script completes commands and options.

    Write it to the file that your shell reads:

    \b
    bash:  ~/.local/share/bash-completion/completions/modelserver
    zsh:   DIRECTORY/_modelserver, with DIRECTORY in $fpath
    fish:  ~/.config/fish/completions/modelserver.fish

    Example: modelserver completion fish > ~/.config/fish/completions/modelserver.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(ctx.find_root().command, {}, PROGRAM, _VARIABLE)
    click.echo(script.source_template % script.source_vars())
