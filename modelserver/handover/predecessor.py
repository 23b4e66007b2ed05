"""The server before this one, seen from its successor: what it hands over, and when it has gone."""

import asyncio
import os
import socket
from collections.abc import MutableMapping

import structlog

from modelserver.handover.sockets import Inherited, connection_name, stored_name
from modelserver.handover.wire import Connection, Ended, Failed, Held, MakeWay, Ready, Wire
from modelserver.settings.configuration import HANDOVER_VARIABLE

log: structlog.stdlib.BoundLogger = structlog.get_logger("server")

_FIRST_WORD_S = 10.0


class Predecessor:
    """The server before this one, if there is one."""

    def __init__(self, wire: Wire | None) -> None:
        self._wire = wire
        self.inherited = Inherited()
        self.held_bytes = 0
        """What will be free once it has gone."""
        self.gone = asyncio.Event()
        self._came = asyncio.Event()
        self._asked_to_go = False
        self._more: asyncio.Task[None] | None = None
        if wire is None:
            self.gone.set()

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> "Predecessor":
        """Return the old process that the environment names. Removes the variable."""
        text = environment.pop(HANDOVER_VARIABLE, "")
        if not text.isdigit():
            return cls(None)
        os.set_inheritable(int(text), False)
        return cls(Wire(socket.socket(fileno=int(text))))

    @property
    def is_there(self) -> bool:
        """True if the old process still runs."""
        return not self.gone.is_set()

    async def introduce(self) -> None:
        """Take what it listens on; what it hands over later is taken as it comes."""
        if self._wire is None:
            return
        try:
            async with asyncio.timeout(_FIRST_WORD_S):
                message, sockets = await self._wire.receive()
        except (Ended, TimeoutError):
            self._has_gone()
            return
        assert isinstance(message, Held)
        self.held_bytes = message.bytes
        for name, sock in zip(message.names, sockets, strict=True):
            self.inherited.take(stored_name(name), sock)
        self._more = asyncio.create_task(self._take_more(), name="predecessor")

    async def _take_more(self) -> None:
        assert self._wire is not None
        try:
            while True:
                message, sockets = await self._wire.receive()
                if isinstance(message, Connection):
                    self.inherited.take(connection_name(message.name), sockets[0])
                    self._came.set()
        except Ended:
            self._has_gone()

    def _has_gone(self) -> None:
        self.held_bytes = 0
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if not self.gone.is_set():
            log.info("upgrade.old_process_exited")
        self.gone.set()
        self._came.set()

    async def something_came(self) -> None:
        """Wait until a connection has been handed over, or the predecessor has gone."""
        await self._came.wait()
        self._came.clear()

    async def make_way(self, needs: int, left: int) -> None:
        """Ask the old process to exit, because both do not fit into memory, and wait for it."""
        if self._wire is not None and not self._asked_to_go:
            self._asked_to_go = True
            log.warning(
                "upgrade.exit_requested",
                needs_bytes=needs,
                left_bytes=left,
                consequence="requests wait until the model is loaded",
            )
            await self._tell(MakeWay(needs, left))
        await self.gone.wait()

    async def ready(self) -> None:
        """Inform the old process that this one serves, and that it may exit."""
        await self._tell(Ready())

    async def failed(self, reason: str) -> None:
        """Inform the old process that this one cannot serve, and that it has to continue."""
        await self._tell(Failed(reason))

    async def _tell(self, message: Ready | MakeWay | Failed) -> None:
        if self._wire is not None:
            try:
                await self._wire.send(message)
            except Ended:
                self._has_gone()

    async def close(self) -> None:
        """Close the connection to the old process."""
        if self._more is not None:
            self._more.cancel()
            await asyncio.gather(self._more, return_exceptions=True)
        self._has_gone()
