"""`modelserver serve`: the server."""

import click

from modelserver.cli.options import SERVER_SETTINGS, with_settings
from modelserver.logs import configure_logs
from modelserver.settings.configuration import Configuration


@click.command()
@with_settings(*SERVER_SETTINGS)
def serve(configuration: Configuration) -> None:
    """Serve speech recognition over HTTP until SIGTERM or Ctrl-C."""
    from modelserver.server import CannotStart, run_server

    configure_logs(configuration.settings.log)
    try:
        run_server(configuration)
    except CannotStart as error:
        raise click.ClickException(str(error)) from error
