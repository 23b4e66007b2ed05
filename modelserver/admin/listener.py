"""The listener of the admin side, beside the public one."""

import contextlib
import socket
from pathlib import Path

import structlog

from modelserver.admin.address import (
    AUTO,
    AdminAddress,
    BadAddress,
    admin_address,
    beside,
    bind_unix,
    host_and_port,
    read_token,
    take_path,
)
from modelserver.admin.agent import Agent
from modelserver.admin.application import build_admin
from modelserver.admin.history import History
from modelserver.handover import Sockets, Upgrader
from modelserver.handover.sockets import ADMIN, AGENT
from modelserver.http.connections import Connections
from modelserver.http.listening import HttpServer, url_of
from modelserver.jobs.service import JobService
from modelserver.serving.reloading import Reloader
from modelserver.serving.service import SpeechService

_MOST_CONNECTIONS = 32
"""Most connections, authenticated or not: without a bound, a client without a token could use up
every file descriptor."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("admin")


class AdminRefused(Exception):
    """The admin side cannot listen: the text says why."""


class AdminListener:
    """The admin side and the agent for gateways. Use as `async with`, after `bind`."""

    def __init__(
        self, service: SpeechService, jobs: JobService, sockets: Sockets, *, before: bool
    ) -> None:
        """Listen as the settings say. `before`: an older server may still listen on the same path,
        until `take_path`."""
        self._service, self._jobs = service, jobs
        self._sockets, self._before = sockets, before
        self._settings = service.settings.admin
        self._history = History(service)
        self._socket: socket.socket | None = None
        self._token: str | None = None
        self._http: HttpServer | None = None
        self._agent: Agent | None = None
        self._agent_address = ""
        self._path: Path | None = None
        self._inode = 0

    def bind(self) -> None:
        """Take the addresses, and read the token. Raises `AdminRefused`, but not for an automatic
        address."""
        if self._settings.agent:
            self._bind_agent(self._settings.agent)
        try:
            if (address := admin_address(self._settings)) is not None:
                self._bind(address)
        except (OSError, UnicodeDecodeError, BadAddress) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            message = f"the admin side cannot listen on {self._settings.listen}: {reason}"
            if self._settings.listen != AUTO:
                raise AdminRefused(message) from error
            log.warning("admin.start_failed", reason=message)

    def _bind_agent(self, where: str) -> None:
        try:
            if (address := host_and_port(where)) is None:
                raise BadAddress("it is not host:port")
            sock = self._sockets.listen(AGENT, address.host, address.port)
        except (OSError, BadAddress) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            raise AdminRefused(f"cannot listen on admin.agent, {where}: {reason}") from error
        self._agent = Agent(self._service, sock)
        self._agent_address = url_of(sock).replace("http", "tcp", 1)

    def _bind(self, address: AdminAddress) -> None:
        if address.path is not None:
            self._socket = bind_unix(address.path, in_place_of=self._before)
            self._path = beside(address.path) if self._before else address.path
            self._inode = self._path.stat().st_ino
            return
        self._token = read_token(self._settings)
        if not self._token:
            raise BadAddress(
                "a token is required, and the file that admin.token_file names is empty"
            )
        self._socket = self._sockets.listen(ADMIN, address.host, address.port)

    async def listen(self, reloader: Reloader, upgrader: Upgrader) -> None:
        """Answer on what was bound."""
        if self._agent is not None:
            await self._agent.__aenter__()
            log.info("agent.started", address=self._agent_address)
        if self._socket is None:
            return
        connections = Connections(_MOST_CONNECTIONS, told_why=0)
        app = build_admin(
            self._service, self._jobs, self._history, reloader, upgrader, self._token, connections
        )
        self._http = HttpServer(
            app, self._socket, connections, self._service.traffic, give_up=False
        )
        await self._http.start()
        await self._history.__aenter__()
        if not self._before:
            self._log_address()

    def take_path(self) -> None:
        """Take the path of the server that we follow; what stands in the way is logged."""
        address = admin_address(self._settings)
        if not self._before or self._socket is None or address is None:
            return
        if address.path is not None:
            try:
                take_path(address.path)
            except OSError as error:
                log.error("admin.start_failed", reason=f"{address}: {error.strerror}")
                return
            self._path = address.path
        self._log_address()

    def _log_address(self) -> None:
        assert self._socket is not None
        address = admin_address(self._settings)
        over_tcp = self._socket.family is not socket.AF_UNIX
        log.info("admin.started", address=url_of(self._socket) if over_tcp else str(address))

    async def __aenter__(self) -> "AdminListener":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._history.__aexit__()
        if self._agent is not None:
            await self._agent.__aexit__()
        if self._http is not None:
            await self._http.close()
        self.close()

    def close(self) -> None:
        """Give back what was bound; the path too, if it is still ours."""
        if self._socket is not None:
            self._socket.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()
            self._path = None

    def stop_accepting(self) -> None:
        """Stop accepting connections: another process answers from now on."""
        if self._http is not None:
            self._http.stop_accepting()
        if self._agent is not None:
            self._agent.stop_accepting()
