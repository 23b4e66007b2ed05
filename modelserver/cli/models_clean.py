"""`modelserver models clean`: remove what no model needs any more."""

import click

from models.fetching import broken_downloads
from models.vosk.leftovers import old_builds
from models.vosk.prepared import Leftover, find_leftovers, remove_leftover
from modelserver.cli.errors import must_be_ours, told
from modelserver.cli.options import with_settings
from modelserver.settings.configuration import Configuration
from supervisor import in_units


@click.command("clean")
@click.option("--dry-run", is_flag=True, help="list it, and remove nothing")
@with_settings("models_dir", "prepared_dir")
def clean_models(configuration: Configuration, dry_run: bool) -> None:
    """Remove what killed runs, other versions, and models that were replaced or uninstalled have
    left in the directories of models and prepared models. What a running process is still making
    stays."""
    settings = configuration.settings
    with told():
        for directory in (settings.prepared_dir, settings.models_dir):
            if directory.exists() and not dry_run:
                must_be_ours(directory)
        found = [
            *find_leftovers(settings.prepared_dir),
            *old_builds(settings.prepared_dir),
            *broken_downloads(settings.models_dir),
        ]
        freed = sum(leftover.bytes for leftover in found if dry_run or _removed(leftover))
    for leftover in found:
        click.echo(f"{leftover.path}: {leftover.why}, {in_units(leftover.bytes)}")
    if not found:
        click.echo("nothing to remove")
    elif dry_run:
        click.echo(f"would free {in_units(freed)}")
    else:
        click.echo(f"freed {in_units(freed)}")


def _removed(leftover: Leftover) -> bool:
    try:
        return remove_leftover(leftover)
    except OSError as error:
        where = error.filename or leftover.path
        raise click.ClickException(f"{where} cannot be removed: {error.strerror}") from error
