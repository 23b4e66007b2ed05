"""Command `modelserver models clean`: remove prepared forms of models, and leftovers."""

from dataclasses import dataclass
from pathlib import Path

import click

import models
from models.fetching import broken_downloads
from models.leftovers import Leftover, remove_leftover
from modelserver.cli.errors import must_be_ours, told
from modelserver.cli.options import with_settings
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from supervisor import in_units


@click.command("clean")
@click.argument("name", required=False)
@click.option("--dry-run", is_flag=True, help="list what would be removed, and remove nothing")
@with_settings("models_dir", "prepared_dir")
def clean_models(configuration: Configuration, name: str | None, dry_run: bool) -> None:
    """Remove prepared forms of a model, or leftovers.

    With NAME, the prepared forms of that model are removed; the model itself stays. NAME may also
    be one prepared form, by its directory's name.

    Without NAME, leftovers are removed: what killed downloads and preparations have left, and
    prepared models of other versions or of models that were replaced or removed.

    Files that a running process is still making stay.
    """
    settings = configuration.settings
    if name is not None:
        for prepared in prepared_forms(settings, name):
            if dry_run:
                click.echo(f"would remove {prepared.made.directory}")
            else:
                delete_prepared(prepared)
        return
    with told():
        for directory in (settings.prepared_dir, settings.models_dir):
            if directory.exists() and not dry_run:
                must_be_ours(directory)
        found = [
            leftover for store in _stores() for leftover in store.leftovers(settings.prepared_dir)
        ]
        found += broken_downloads(settings.models_dir)
        freed = sum(leftover.bytes for leftover in found if dry_run or _removed(leftover))
    for leftover in found:
        click.echo(f"{leftover.path}: {leftover.why}, {in_units(leftover.bytes)}")
    if not found:
        click.echo("nothing to remove")
    elif dry_run:
        click.echo(f"would free {in_units(freed)}")
    else:
        click.echo(f"freed {in_units(freed)}")


@dataclass(frozen=True, slots=True)
class PreparedForm:
    """A prepared model, and the store of the engine that has made it."""

    store: models.PreparedStore
    made: models.Prepared

    @property
    def directory(self) -> Path:
        """Directory of the files that were made."""
        return self.made.directory


def _stores() -> list[models.PreparedStore]:
    return [engine.store for engine in models.installed_engines() if engine.store is not None]


def all_prepared(directory: Path) -> list[PreparedForm]:
    """Return the prepared models of all engines in a directory."""
    return [PreparedForm(store, made) for store in _stores() for made in store.all(directory)]


def prepared_forms(settings: Settings, name: str | None) -> list[PreparedForm]:
    """Return the prepared forms of a model, or of that directory name, or all. Raises
    `click.ClickException` if there are none."""
    everything = all_prepared(settings.prepared_dir)
    found = [m for m in everything if name in (None, m.made.name, m.directory.name)]
    if not found:
        names = ", ".join(m.directory.name for m in everything) or "none"
        wanted = f"{name} is not prepared" if name else "nothing is prepared"
        raise click.ClickException(
            f"{wanted} in {settings.prepared_dir}; there: {names}. "
            f"To prepare a model: modelserver models prepare {name or 'MODEL'}"
        )
    return found


def delete_prepared(prepared: PreparedForm) -> None:
    """Delete a prepared form. Raises `click.ClickException`."""
    try:
        prepared.store.remove(prepared.directory)
    except OSError as error:
        raise click.ClickException(f"{prepared.directory}: {error.strerror}") from error
    click.echo(f"removed {prepared.directory}")


def _removed(leftover: Leftover) -> bool:
    try:
        return remove_leftover(leftover)
    except OSError as error:
        where = error.filename or leftover.path
        raise click.ClickException(f"{where} cannot be removed: {error.strerror}") from error
