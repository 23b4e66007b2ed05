"""`modelserver serve`: the server."""

from pathlib import Path

import click

from modelserver.cli.errors import must_be_ours
from modelserver.cli.options import SERVER_SETTINGS, with_settings
from modelserver.logs import configure_logs
from modelserver.settings.configuration import Configuration


@click.command()
@with_settings(*SERVER_SETTINGS)
def serve(configuration: Configuration) -> None:
    """Serve speech recognition over HTTP until SIGTERM or Ctrl-C.

    Root is refused where the directories of jobs or prepared models are another user's.
    """
    from modelserver.server import CannotStart, run_server
    from supervisor import keep_together

    if not Path("/proc/self/status").exists():
        raise click.ClickException(
            "/proc is not mounted: the server reads there what memory it has"
        )
    settings = configuration.settings
    for directory in (settings.jobs.directory, settings.prepared_dir):
        must_be_ours(Path(directory))
    keep_together()
    configure_logs(configuration.settings.log)
    try:
        run_server(configuration)
    except CannotStart as error:
        raise click.ClickException(str(error)) from error
