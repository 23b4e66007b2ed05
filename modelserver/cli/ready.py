"""Command `modelserver ready`: for health checks of containers and scripts."""

import click

from modelserver.cli.options import with_settings
from modelserver.ready import NotReady, ask
from modelserver.settings.configuration import Configuration


@click.command()
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=4.0,
    show_default=True,
    help="seconds to wait for the answer",
)
@with_settings("host", "port")
def ready(configuration: Configuration, timeout_s: float) -> None:
    """Ask the running server whether it can transcribe now.

    The command requests /readyz, for health checks of containers and scripts. Exit status: 0 if a
    model is loaded and a worker is ready; otherwise 1, and the reason is printed.
    """
    try:
        click.echo(ask(configuration.settings.host, configuration.settings.port, timeout_s))
    except NotReady as error:
        raise click.ClickException(str(error)) from error
