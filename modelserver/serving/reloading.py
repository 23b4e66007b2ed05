"""Reading the settings again and changing the models while the server runs: on SIGHUP, or when the
admin side is asked to."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import structlog

from modelserver.serving.service import SettingsRefused, SpeechService
from modelserver.settings.configuration import Configuration, ConfigurationError

log: structlog.stdlib.BoundLogger = structlog.get_logger("server")


class ReloadRefused(Exception):
    """The settings cannot be used, and nothing has changed; the text says why."""


class SettingRow(msgspec.Struct, frozen=True):
    """A setting, as text; `origin`: the file, variable or flag that it is from, or "default"."""

    name: str
    value: str
    origin: str
    about: str


class Reloader:
    """Reloads, one at a time."""

    def __init__(self, service: SpeechService, configuration: Configuration) -> None:
        self._service = service
        self._configuration = configuration
        self._one = asyncio.Lock()

    async def reload(self) -> None:
        """Take over the settings, and load every model anew beside the one that serves; returns
        when that has begun. Raises `ReloadRefused`."""
        async with self._one:
            log.info("server.reloading")
            try:
                again = await asyncio.to_thread(self._configuration.again)
                await self._service.reload(again.settings)
                self._configuration = again
            except (ConfigurationError, SettingsRefused) as error:
                self._service.reload_refused = str(error)
                log.error("server.not_reloaded", reason=str(error))
                raise ReloadRefused(str(error)) from error
            self._service.reload_refused = None
            log.info("server.reloaded", models=list(self._service.models))

    def in_force(self) -> list[SettingRow]:
        """Every setting, with where it is from; what takes a new start, as it will be then."""
        return [
            SettingRow(field.name, _text(field.shown(value)), origin, field.about)
            for field, value, origin in self._configuration.rows()
        ]

    async def reload_if_possible(self) -> None:
        """The same for whoever cannot be told; what stands in the way is logged."""
        try:
            await self.reload()
        except ReloadRefused:
            return  # it has been logged, and all is as it was
        except Exception as error:  # a reload that fails is no reason to end
            self._service.reload_refused = f"{type(error).__name__}: {error}"
            log.exception("server.reload_failed")


def _text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    return msgspec.json.encode(value).decode()
