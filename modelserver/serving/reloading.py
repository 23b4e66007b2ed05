"""Reading the settings again and changing the models while the server runs: on SIGHUP, or when the
admin side is asked to."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from modelserver.access.keyring import KeysUnreadable, read_keys
from modelserver.refusal import Refusal
from modelserver.serving.service import SpeechService
from modelserver.settings import Settings
from modelserver.settings.changes import until_restart
from modelserver.settings.configuration import Configuration, ConfigurationError

log: structlog.stdlib.BoundLogger = structlog.get_logger("server")


class SettingsRefused(Refusal):
    """Settings that a running server cannot use; nothing has changed, and the text says why."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_settings", message)


class SettingRow(msgspec.Struct, frozen=True):
    """A setting, as text; `origin`: the file, variable or flag that it is from, or "default"."""

    name: str
    value: str
    origin: str
    about: str


class Reloader:
    """Reloads, one at a time."""

    def __init__(
        self,
        service: SpeechService,
        configuration: Configuration,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        """Reload `service`. `opened`: called if keys were needed before a reload, and are not after
        it."""
        self._service, self._opened = service, opened
        self._configuration = configuration
        self._one = asyncio.Lock()

    async def reload(self) -> None:
        """Apply the settings, and load every model again beside the one that serves; returns when
        that has begun. Raises `SettingsRefused`."""
        async with self._one:
            log.info("server.reload_started")
            open_before = self._service.access.open
            try:
                again = await asyncio.to_thread(self._configuration.again)
                await self._change(again.settings)
                self._configuration = again
            except (ConfigurationError, SettingsRefused) as error:
                self._service.reload_refused = str(error)
                log.error("server.reload_rejected", reason=str(error))
                raise SettingsRefused(str(error)) from error
            self._service.reload_refused = None
            log.info("server.reloaded", models=list(self._service.models))
            if self._service.access.open and not open_before:
                self._opened()

    async def serve(self, model: str) -> None:
        """Serve another model in place of the first, until the settings are read again. Raises
        `SettingsRefused`."""
        async with self._one:
            settings = self._service.settings
            if settings.models:
                raise SettingsRefused(
                    "several models are served: change them in the settings, and reload"
                )
            await self._change(msgspec.structs.replace(settings, model=(model,)))

    async def _change(self, settings: Settings) -> None:
        """Take over other settings as far as a running server can. Raises `SettingsRefused` where
        the keys cannot be read."""
        if keys_file := settings.auth.keys_file:
            try:
                await asyncio.to_thread(read_keys, Path(keys_file))
            except KeysUnreadable as error:
                raise SettingsRefused(f"auth.keys_file: {error}") from error
        settings, late = until_restart(self._service.settings, settings)
        if late:
            log.warning("settings.restart_required", names=late)
        self._service.settings = settings
        await self._service.models.change(settings)

    def in_force(self) -> list[SettingRow]:
        """Return the settings with their origins; those that need a restart, as they will be
        then."""
        return [
            SettingRow(field.name, _text(field.shown(value)), origin, field.about)
            for field, value, origin in self._configuration.rows()
        ]

    async def reload_if_possible(self) -> None:
        """Reload for a caller that cannot receive an error, such as a signal: log the error."""
        try:
            await self.reload()
        except SettingsRefused:
            return  # it has been logged, and all is as it was
        except Exception as error:  # a failed reload does not end the server
            self._service.reload_refused = f"{type(error).__name__}: {error}"
            log.exception("server.reload_failed")


def _text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    return msgspec.json.encode(value).decode()
