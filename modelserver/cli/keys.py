"""Command `modelserver keys`: keys for the public side."""

from pathlib import Path

import click

from modelserver.access.keyring import KeysUnreadable, add_key, read_keys, remove_key
from modelserver.cli.options import with_settings
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration


@click.group()
def keys() -> None:
    """Create, list and revoke API keys.

    A client sends its key as `Authorization: Bearer KEY`. The file that the setting auth.keys_file
    names holds a hash of each key; a running server reads it again when it changes.
    """


@keys.command()
@click.argument("name")
@with_settings()
def add(configuration: Configuration, name: str) -> None:
    """Create a key for NAME and print it once.

    NAME is up to 64 letters, digits and . _ @ -, such as the name of the client. The file holds
    only a hash of the key: it cannot be printed again.
    """
    try:
        key = add_key(_file(configuration.settings), name)
    except KeysUnreadable as error:
        raise click.ClickException(str(error)) from error
    click.echo(key)


@keys.command("list")
@with_settings()
def list_keys(configuration: Configuration) -> None:
    """List the names that have a key, one a line."""
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
    """Revoke NAME's key: a running server rejects it within seconds."""
    try:
        there = remove_key(_file(configuration.settings), name)
    except KeysUnreadable as error:
        raise click.ClickException(str(error)) from error
    if not there:
        raise click.ClickException(
            f"there is no key for {name!r}: `modelserver keys list` shows the names"
        )


def _file(settings: Settings) -> Path:
    if not settings.auth.keys_file:
        raise click.ClickException(
            "auth.keys_file is not set: name the file in the settings, or with "
            "MODELSERVER_AUTH_KEYS_FILE"
        )
    return Path(settings.auth.keys_file)
