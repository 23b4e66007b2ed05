"""The admin listener's life, beside the public one."""

import contextlib
from pathlib import Path

import structlog

from modelserver.admin.address import (
    AUTO,
    AdminAddress,
    BadAddress,
    admin_address,
    bind_unix,
    host_and_port,
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
from modelserver.settings import AdminSettings

_MOST_CONNECTIONS = 32
"""Whoever they are from: without a bound, who has no token could take every descriptor."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("admin")


class AdminRefused(Exception):
    """The admin side cannot listen as it was told; the text says why."""


class AdminListener:
    """Use as `async with`. Raises `AdminRefused` on entry, but not for an automatic address."""

    def __init__(
        self,
        service: SpeechService,
        jobs: JobService,
        reloader: Reloader,
        upgrader: Upgrader,
        sockets: Sockets,
        *,
        before: bool,
    ) -> None:
        """`before`: the server that we follow may still listen on the same path, which is ours
        now."""
        self._service, self._jobs = service, jobs
        self._reloader, self._upgrader = reloader, upgrader
        self._sockets, self._before = sockets, before
        self._settings = service.settings.admin
        self._history = History(service)
        self._http: HttpServer | None = None
        self._agent: Agent | None = None
        self._path: tuple[Path, int] | None = None

    async def __aenter__(self) -> "AdminListener":
        if self._settings.agent:
            await self._listen_for_gateways(self._settings.agent)
        try:
            address = admin_address(self._settings)
            if address is not None:
                await self._listen(address)
                await self._history.__aenter__()
        except (OSError, BadAddress) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            message = f"the admin side cannot listen on {self._settings.listen}: {reason}"
            if self._settings.listen != AUTO:
                raise AdminRefused(message) from error
            log.warning("admin.not_listening", reason=message)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._history.__aexit__()
        if self._agent is not None:
            await self._agent.__aexit__()
        if self._http is not None:
            await self._http.close()
        if self._path is not None:
            path, inode = self._path
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:
                    path.unlink()

    def stop_accepting(self) -> None:
        """Another process answers from now on."""
        if self._http is not None:
            self._http.stop_accepting()
        if self._agent is not None:
            self._agent.stop_accepting()

    async def _listen_for_gateways(self, where: str) -> None:
        try:
            if (address := host_and_port(where)) is None:
                raise BadAddress("it is no host:port")
            sock = self._sockets.listen(AGENT, address.host, address.port)
        except (OSError, BadAddress) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            raise AdminRefused(f"cannot listen on admin.agent, {where}: {reason}") from error
        self._agent = Agent(self._service, sock)
        await self._agent.__aenter__()
        log.info("agent.listening", address=url_of(sock).replace("http", "tcp", 1))

    async def _listen(self, address: AdminAddress) -> None:
        token = read_token(self._settings) if address.path is None else None
        if address.path is None and not token:
            raise BadAddress("it needs a token: set admin.token or admin.token_file")
        if address.path is not None:
            sock = bind_unix(address.path, in_place_of=self._before)
            self._path = address.path, address.path.stat().st_ino
        else:
            sock = self._sockets.listen(ADMIN, address.host, address.port)
        connections = Connections(_MOST_CONNECTIONS, told_why=0)
        app = build_admin(
            self._service,
            self._jobs,
            self._history,
            self._reloader,
            self._upgrader,
            token,
            connections,
        )
        self._http = HttpServer(app, sock, connections, self._service.traffic, give_up=False)
        await self._http.start()
        where = str(address) if address.path is not None else url_of(sock)
        log.info("admin.listening", address=where)


def read_token(settings: AdminSettings) -> str | None:
    """The token, of the setting or of its file; None where there is none. Raises `OSError`."""
    if settings.token_file:
        return Path(settings.token_file).expanduser().read_text(encoding="utf-8").strip() or None
    return settings.token or None
