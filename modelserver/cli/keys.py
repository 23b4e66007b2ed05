"""Command `modelserver keys`: keys for the public side."""

from pathlib import Path

import click

from modelserver.access.keyring import KeysUnreadable, add_key, read_keys, remove_key
from modelserver.cli.options import with_settings
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration


@click.group()
def keys() -> None:
    """Make, list and revoke API keys.

    A client sends its key as `Authorization: Bearer KEY`. Keys are in the file that the setting
    auth.keys_file names; a server that runs reads it again when it has changed.
    """


@keys.command()
@click.argument("name")
@with_settings()
def add(configuration: Configuration, name: str) -> None:
    """Make a key for NAME, and print it; it cannot be shown again."""
    try:
        key = add_key(_file(configuration.settings), name)
    except KeysUnreadable as error:
        raise click.ClickException(str(error)) from error
    click.echo(key)


@keys.command("list")
@with_settings()
def list_keys(configuration: Configuration) -> None:
    """List the names that have a key."""
    file = _file(configuration.settings)
    try:
        for name in read_keys(file) if file.exists() else ():
            click.echo(name)
    except KeysUnreadable as error:
        raise click.ClickException(str(error)) from error


@keys.command()
@click.argument("name")
@with_settings()
def remove(configuration: Configuration, name: str) -> None:
    """Revoke NAME's key."""
    try:
        there = remove_key(_file(configuration.settings), name)
    except KeysUnreadable as error:
        raise click.ClickException(str(error)) from error
    if not there:
        raise click.ClickException(f"there is no key for {name}")


def _file(settings: Settings) -> Path:
    if not settings.auth.keys_file:
        raise click.ClickException(
            "auth.keys_file is not set: name the file in the settings, or with "
            "MODELSERVER_AUTH_KEYS_FILE"
        )
    return Path(settings.auth.keys_file)
