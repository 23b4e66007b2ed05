"""The signals that a server obeys: SIGTERM and SIGINT end it, SIGHUP has it reload, SIGUSR2 has it
start its successor."""

import asyncio
import contextlib
import os
import signal
import sys

import structlog

from modelserver.handover import Upgrader, UpgradeRefused
from modelserver.serving.reloading import Reloader

log: structlog.stdlib.BoundLogger = structlog.get_logger("server")


class Hangups:
    """SIGHUP: reload, or, where the terminal that it was started from is closed, stop."""

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self._terminal = sys.stdin.isatty() if sys.stdin else False
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._requested.set)

    async def obeyed_by(self, reloader: Reloader, stop: "StopSignals") -> None:
        """Reload on each signal, forever; signals that came during the server's start count."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            if self._terminal and not _terminal_is_there():
                log.info("server.terminal_closed")
                stop.first.set()
                return
            await reloader.reload_if_possible()


def _terminal_is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


class StopSignals:
    """SIGTERM and SIGINT: the first asks to stop, the second to stop now."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received, number)

    def _received(self, number: signal.Signals) -> None:
        log.info("server.signal_received", signal=number.name)
        (self.second if self.first.is_set() else self.first).set()


class UpgradeSignals:
    """SIGUSR2: start a successor, which takes our place."""

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, self._requested.set)

    async def obeyed_by(self, upgrader: Upgrader) -> None:
        """Upgrade on each signal, forever; signals that came during the server's start count."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            with contextlib.suppress(UpgradeRefused):  # it has been logged
                await upgrader.upgrade()
