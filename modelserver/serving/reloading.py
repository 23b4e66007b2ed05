"""Reading the settings again and changing the models while the server runs: on SIGHUP, or when the
admin side is asked to."""

import asyncio
import signal
from collections.abc import Callable

import structlog

from modelserver.serving.service import SettingsRefused, SpeechService
from modelserver.settings import Settings
from modelserver.settings.configuration import ConfigurationError

log: structlog.stdlib.BoundLogger = structlog.get_logger("server")


class ReloadRefused(Exception):
    """The settings cannot be used, and nothing has changed; the text says why."""


class Reloader:
    """Reloads, one at a time."""

    def __init__(self, service: SpeechService, read: Callable[[], Settings]) -> None:
        """`read` raises `ConfigurationError`."""
        self._service = service
        self._read = read
        self._one = asyncio.Lock()

    async def reload(self) -> None:
        """Take over the settings, and load every model anew beside the one that serves; returns
        when that has begun. Raises `ReloadRefused`."""
        async with self._one:
            log.info("server.reloading")
            try:
                await self._service.reload(await asyncio.to_thread(self._read))
            except (ConfigurationError, SettingsRefused) as error:
                log.error("server.not_reloaded", reason=str(error))
                raise ReloadRefused(str(error)) from error
            log.info("server.reloaded", models=list(self._service.models))

    async def on_hangup(self) -> None:
        """Reload on each SIGHUP; for ever."""
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, told.set)
        while True:
            await told.wait()
            told.clear()
            try:
                await self.reload()
            except ReloadRefused:
                continue  # it has been logged, and all is as it was
            except Exception:  # a reload that fails is no reason to end
                log.exception("server.reload_failed")
