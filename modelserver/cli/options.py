"""The flags that set settings, shared by the commands."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from modelserver.admin.address import BadAddress, must_be_usable
from modelserver.refusal import Refusal
from modelserver.request.endpoints import read_endpoint_ms, read_max_utterance_s
from modelserver.settings import Settings
from modelserver.settings.configuration import (
    FLAG,
    Configuration,
    ConfigurationError,
    read_configuration,
)
from modelserver.settings.fields import Field, fields, value_of
from modelserver.settings.schema import shown
from modelserver.speech.phrases import keyword_list

_FLAGGED = {field.name: field for field in fields() if field.flag}
_DEFAULTS = Settings()

SERVER_SETTINGS = tuple(_FLAGGED)
"""Names of the settings that have a flag, for commands about the server."""


BACKGROUND = click.option("--background", type=int, metavar="SERVER_PID", hidden=True)
"""Option of commands that a server runs in a process beside it."""


def _listed(_: click.Context, option: click.Option, values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return keyword_list(",".join(values).split(","), option.opts[0])
    except Refusal as refused:
        raise click.UsageError(refused.message) from None


KEYWORDS = click.option(
    "--keywords",
    multiple=True,
    metavar="WORDS",
    callback=_listed,
    help="words and names that are likely to be said, separated by commas",
)


def with_endpoints(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--endpoint-ms` and `--max-utterance-s`; without them the command gets 0."""
    for flag, unit, read, about in (
        (
            "--max-utterance-s",
            "S",
            read_max_utterance_s,
            "seconds of speech after which an utterance is ended",
        ),
        ("--endpoint-ms", "MS", read_endpoint_ms, "milliseconds of silence that end an utterance"),
    ):
        command = click.option(
            flag,
            default="0",
            metavar=unit,
            callback=_checked(read),
            help=f"{about}  [default: by the model's own rules]",
        )(command)
    return command


def _checked(read: Callable[[object, str], float]) -> Callable[..., float]:
    def check(context: click.Context, option: click.Option, value: str) -> float:
        try:
            return read(value, option.opts[0])
        except Refusal as refused:
            raise click.UsageError(refused.message) from None

    return check


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add `--config` and the flags of these settings; the command gets a `Configuration`
    instead of them as its first argument, or ends with the reason."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(config: Path | None, **arguments: Any) -> None:
            flags = {name: arguments.pop(_argument(name)) for name in names}
            configuration = _read(config, flags)
            # A command about the whole server begins with it; others may fail for it.
            unread = configuration.unread
            if unread and names == SERVER_SETTINGS:
                click.echo(unread, err=True)
            try:
                command(configuration, **arguments)
            except click.ClickException:
                if unread and names != SERVER_SETTINGS:
                    click.echo(unread, err=True)
                raise

        decorated: Callable[..., None] = wrapped
        for name in reversed(names):
            field = _FLAGGED[name]
            decorated = click.option(
                field.flag, _argument(name), metavar=field.metavar, help=_help(field)
            )(decorated)
        return click.option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            help="settings file  [default: /etc/modelserver.toml, if it exists]",
        )(decorated)

    return decorate


def _help(field: Field) -> str:
    """Return the help of a setting's flag, with the default."""
    value = value_of(_DEFAULTS, field.name)
    if isinstance(value, Path):
        value = shown(value)
    if isinstance(value, tuple):
        value = ",".join(value)
    return field.about if value == "" else f"{field.about}  [default: {value}]"


def _argument(name: str) -> str:
    return "set_" + name.replace(".", "_")


def _read(file: Path | None, flags: dict[str, Any]) -> Configuration:
    try:
        configuration = read_configuration(file, os.environ, flags)
        must_be_usable(configuration.settings.admin)
    except ConfigurationError as error:
        kind = click.UsageError if error.origin == FLAG else click.ClickException
        raise kind(str(error)) from error
    except BadAddress as error:
        raise click.ClickException(str(error)) from error
    return configuration
