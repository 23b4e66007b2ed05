"""The flags that set settings, shared by the commands."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from modelserver.admin.address import BadAddress, must_be_usable
from modelserver.settings.configuration import (
    FLAG,
    Configuration,
    ConfigurationError,
    read_configuration,
)

# Flag, setting, what it says in the help.
_FLAGS = {
    "host": ("--host", "address to listen on"),
    "port": ("--port", "port to listen on; 0: any free one"),
    "workers.count": ("--workers", "worker processes; 0: one for each usable CPU"),
    "model": ("--model", 'a name in the models directory, a path, or "auto"'),
    "models_dir": ("--models-dir", "where installed models are"),
    "prepared_dir": ("--prepared-dir", "where prepared models are kept"),
    "rescoring": ("--rescoring", "auto, on or off"),
    "kernels": ("--kernels", "auto, packed or off"),
    "models_url": ("--models-url", "where models are fetched from"),
    "prepare": ("--prepare", "auto, never or first"),
    "language": ("--language", "what the model speaks, as a BCP 47 tag"),
    "allocator": ("--allocator", "auto, jemalloc or glibc"),
    "sandbox": ("--sandbox", "auto, on or off"),
    "profile": ("--profile", "fast, balanced or accurate"),
    "warmup": ("--warmup", "clips, noise or none"),
    "admin.listen": ("--admin-listen", "auto, unix:/path, host:port or off"),
    "vosk.port": ("--vosk-port", "a port of its own for the Vosk project's protocol"),
    "wyoming.uri": ("--wyoming", "where to speak Wyoming, such as tcp://127.0.0.1:10300"),
    "log.level": ("--log-level", "debug, info, warning or error"),
    "log.format": ("--log-format", "auto, text or json"),
}

SERVER_SETTINGS = tuple(_FLAGS)
"""All of them, for commands about the server."""


BACKGROUND = click.option("--background", type=int, metavar="SERVER_PID", hidden=True)
"""For commands that a server runs in a process beside it."""


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds `--config` and the flags of these settings; the command gets a `Configuration`
    instead of them as its first argument, or ends with the reason."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(config: Path | None, **arguments: Any) -> None:
            flags = {name: arguments.pop(_argument(name)) for name in names}
            command(_read(config, flags), **arguments)

        decorated: Callable[..., None] = wrapped
        for name in reversed(names):
            flag, text = _FLAGS[name]
            decorated = click.option(flag, _argument(name), metavar="VALUE", help=text)(decorated)
        return click.option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            help="settings file [default: /etc/modelserver.toml if it is there]",
        )(decorated)

    return decorate


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
