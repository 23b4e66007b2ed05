"""Command `modelserver serve`: the server."""

import sys
from pathlib import Path

import click

import models
from modelserver.cli.errors import must_be_ours
from modelserver.cli.options import SERVER_SETTINGS, with_settings
from modelserver.logs import configure_logs
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from modelserver.settings.labels import own_settings, settings_for


@click.command()
@with_settings(*SERVER_SETTINGS)
def serve(configuration: Configuration) -> None:
    """Serve speech recognition over HTTP until SIGTERM or Ctrl-C.

    Root is refused if the directories of jobs or prepared models belong to another user.
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
    if sys.stderr.isatty() and (missing := _missing_model(settings)) is not None:
        click.echo(missing, err=True)
    keep_together()
    configure_logs(configuration.settings.log)
    try:
        run_server(configuration)
    except CannotStart as error:
        raise click.ClickException(str(error)) from error


def _missing_model(settings: Settings) -> str | None:
    """Return what to do where no model of the settings is installed; the server waits for one."""
    missing = None
    for label, own in own_settings(settings).items():
        for name in settings_for(settings, label, own).model:
            try:
                models.find_model(name, settings.models_dir)
            except models.ModelError as error:
                if error.code != "model_not_found":
                    return None
                missing = missing or error.message
            else:
                return None
    return missing
