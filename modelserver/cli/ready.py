"""Command `modelserver ready`: for health checks of containers and scripts."""

import click

from modelserver.cli.options import with_settings
from modelserver.ready import NotReady, ask
from modelserver.settings.configuration import Configuration


@click.command()
@click.option("--timeout", "timeout_s", type=float, default=4.0, help="seconds to wait for it")
@with_settings("host", "port")
def ready(configuration: Configuration, timeout_s: float) -> None:
    """Ask the running server whether it can transcribe now.

    The answer is that of /readyz. Exit status: 0 if it can; otherwise 1, and the reason is printed.
    """
    try:
        click.echo(ask(configuration.settings.host, configuration.settings.port, timeout_s))
    except NotReady as error:
        raise click.ClickException(str(error)) from error
