"""Reading the settings again and changing the models while the server runs: on SIGHUP, or when the
admin side is asked to."""

import asyncio
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
                self._service.reload_refused = str(error)
                log.error("server.not_reloaded", reason=str(error))
                raise ReloadRefused(str(error)) from error
            self._service.reload_refused = None
            log.info("server.reloaded", models=list(self._service.models))

    async def reload_if_possible(self) -> None:
        """The same for whoever cannot be told; what stands in the way is logged."""
        try:
            await self.reload()
        except ReloadRefused:
            return  # it has been logged, and all is as it was
        except Exception as error:  # a reload that fails is no reason to end
            self._service.reload_refused = f"{type(error).__name__}: {error}"
            log.exception("server.reload_failed")
