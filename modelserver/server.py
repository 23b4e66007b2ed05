"""The server's life: listen, serve, drain, end; or hand all over to its successor. Runs in the
supervisor process."""

import asyncio
import contextlib
import gc
import os
import socket
import time
from pathlib import Path
from typing import Any

import structlog
import uvloop

from models.extras import how_to_install
from modelserver import __version__
from modelserver.access.keyring import KeysUnreadable
from modelserver.admin.listener import AdminListener, AdminRefused
from modelserver.api.jobs import message_of
from modelserver.api.routes import build_application, build_vosk_application
from modelserver.assistant.service import Assistant
from modelserver.handover import Predecessor, Sockets, Upgrader
from modelserver.handover.sockets import Inherited, connection_name, stored_name
from modelserver.handover.systemd import Notifier, keep_systemd_informed
from modelserver.http.connections import connections_beside
from modelserver.http.loopback import is_loopback
from modelserver.jobs.service import JobService
from modelserver.jobs.store import why_unusable
from modelserver.jobs.webhooks import SecretUnreadable
from modelserver.listeners import CannotListen, PublicListeners
from modelserver.serving.reloading import Reloader
from modelserver.serving.service import SpeechService
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from modelserver.signals import Hangups, StopSignals, UpgradeSignals
from supervisor import AllocatorMissing, counted, directory_problem, raise_descriptor_limit

log: structlog.stdlib.BoundLogger = structlog.get_logger("server")

_PATIENCE_S = 30.0
"""Seconds for which clients of the process before this one wait for the model."""
_JOBS_S = 10.0
_BARRIER_S = 5.0


_LEAST_DESCRIPTORS = 64
"""Descriptors of an idle server with one worker, with some to spare."""
_CANNOT = (AllocatorMissing, CannotListen, AdminRefused)


class CannotStart(Exception):
    """The server cannot begin; the text says why."""


def run_server(configuration: Configuration) -> None:
    """Serve until a signal asks to stop. Raises `CannotStart`."""
    gc.freeze()  # a collection that looks through all modules would stop every request
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(configuration))


async def _serve(configuration: Configuration) -> None:
    predecessor = Predecessor.from_environment(os.environ)
    try:
        await predecessor.introduce()
        await Server(configuration, predecessor).serve()
    except CannotStart as error:
        await predecessor.failed(str(error))
        raise
    finally:
        await predecessor.close()


class Server:
    """The server, from start to end. Raises `CannotStart`."""

    def __init__(self, configuration: Configuration, predecessor: Predecessor) -> None:
        self._started = time.monotonic()
        self._configuration, self._predecessor = configuration, predecessor
        self._settings = settings = configuration.settings
        self._notifier = Notifier.from_environment()
        inherited = predecessor.inherited
        if not predecessor.is_there:
            inherited = Inherited.from_systemd(os.environ)
        self._sockets = Sockets(inherited)
        if (most := raise_descriptor_limit()) < _LEAST_DESCRIPTORS:
            self._sockets.close()
            raise CannotStart(
                f"a process may open {counted(most, 'file')} (ulimit -n), and the server needs "
                f"at least {_LEAST_DESCRIPTORS}, and one for each connection"
            )
        try:
            self._listeners = PublicListeners(settings, self._sockets)
            self._build()
        except _CANNOT as error:
            self._sockets.close()
            raise CannotStart(str(error)) from error
        except BaseException:
            self._sockets.close()
            raise

    def _build(self) -> None:
        settings = self._settings
        if (problem := directory_problem(settings.spool.directory)) is not None:
            raise CannotStart(f"spool.directory: {problem}; larger uploads have to go there")
        self._service = service = SpeechService(settings)
        service.models.make_way = self._predecessor.make_way
        service.guard.expect_to_be_freed(lambda: self._predecessor.held_bytes)
        try:
            service.access.check()
        except KeysUnreadable as error:
            raise CannotStart(f"auth.keys_file: {error}") from error
        try:
            self._jobs = JobService(service, message_of)
        except SecretUnreadable as error:
            raise CannotStart(f"jobs.webhook_secret_file: {error}") from error
        self._assistant = Assistant(lambda: service.settings.assistant)
        self._upgrader = Upgrader(service, self._configuration, self._sockets, self._notifier)
        following = self._predecessor.is_there
        if following and settings.jobs.queue:
            _must_keep_jobs(settings.jobs.directory)
        self._admin = AdminListener(service, self._jobs, self._sockets, before=following)
        self._wyoming = None
        try:
            self._admin.bind()
            self._wyoming = _wyoming(service, settings, self._sockets)
        except BaseException:
            self._admin.close()
            raise

    async def serve(self) -> None:
        """Serve until a signal asks to stop. Raises `CannotStart`."""
        self._stop, hangups, upgrades = StopSignals(), Hangups(), UpgradeSignals()
        service = self._service
        reloader = Reloader(service, self._configuration, lambda: _warn(service))
        following = self._predecessor.is_there
        try:
            async with contextlib.AsyncExitStack() as stack:
                # What has been bound is given back, however far the start came.
                stack.callback(self._admin.close)
                if self._wyoming is not None:
                    stack.callback(self._wyoming.close)
                await stack.enter_async_context(service)
                keeping = asyncio.create_task(keep_systemd_informed(service, self._notifier))
                keeping.add_done_callback(_tell_if_failed)
                if following:
                    self._jobs.patience_s = _PATIENCE_S
                    await self._model_is_there()
                await stack.enter_async_context(self._jobs)
                await stack.enter_async_context(self._assistant)
                self._prepare_to_accept()
                await stack.enter_async_context(self._admin)
                await self._admin.listen(reloader, self._upgrader)
                if self._wyoming is not None:
                    await stack.enter_async_context(self._wyoming)
                self._sockets.close_unused()
                if following:
                    # Nothing that can fail is left: from here on the one before ends.
                    await self._accept()
                    await self._predecessor.ready()
                self._admin.take_path()
                if self._wyoming is not None:
                    await self._wyoming.take_path()
                background = [
                    asyncio.create_task(self._adopt() if following else self._accept_when_loaded()),
                    asyncio.create_task(
                        _log_when_ready(service, self._listeners.url, self._started)
                    ),
                    asyncio.create_task(hangups.obeyed_by(reloader, self._stop)),
                    asyncio.create_task(upgrades.obeyed_by(self._upgrader)),
                ]
                background[0].add_done_callback(_tell_if_failed)
                await _first_of(self._stop.first, self._upgrader.leaving)
                for task in (keeping, *background):
                    task.cancel()
                await self._leave()
        finally:
            await self._listeners.close()
            self._upgrader.close()
            self._notifier.close()
        log.info("server.stopped")

    # --- beginning ------------------------------------------------------------------------------

    async def _model_is_there(self) -> None:
        """Wait for our model, loaded beside that of the server before or after it has ended.
        Raises `CannotStart` where the model cannot be loaded and the other server still serves."""
        predecessor = self._predecessor
        loaded = asyncio.create_task(self._service.models.loaded_or_failed())
        stop = asyncio.create_task(self._stop.first.wait())
        gone = asyncio.create_task(predecessor.gone.wait())
        await asyncio.wait({loaded, stop, gone}, return_when=asyncio.FIRST_COMPLETED)
        # While no process serves, clients wait no longer than after a restart.
        await asyncio.wait({loaded, stop}, timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        for task in (stop, gone):
            task.cancel()
        if not loaded.done():
            loaded.cancel()
        if self._stop.first.is_set():
            raise CannotStart("it was stopped before it had started")
        if predecessor.is_there and (reason := loaded.result()) is not None:
            raise CannotStart(f"it does not replace the old server: {reason}")

    def _prepare_to_accept(self) -> None:
        service = self._service
        self._connections = connections_beside(service.models.most_admitted)
        self._app = build_application(service, self._jobs, self._assistant, self._connections)
        self._vosk_app = build_vosk_application(service, self._connections)

    async def _accept_when_loaded(self) -> None:
        """Clients that were there before this process wait for the model, for a while."""
        if self._listeners.waited_for:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    await self._service.models.loaded_or_failed()
        await self._accept()

    async def _accept(self) -> None:
        service = self._service
        await self._listeners.accept(self._app, self._vosk_app, self._connections, service.traffic)
        service.url = self._listeners.url
        self._keep_sockets()
        _warn(service)
        log.info(
            "server.started",
            version=__version__,
            url=self._listeners.url,
            workers=service.models.default.slots,
            models=list(service.models),
        )

    async def _adopt(self) -> None:
        """Serve the connections that the server before hands over, until it has gone."""
        while self._predecessor.is_there:
            await self._predecessor.something_came()
            await self._listeners.adopt()
        await self._listeners.adopt()  # what came just before it had gone

    def _keep_sockets(self) -> None:
        """Systemd keeps them for the time between us and the next. What it had for us is ours
        now: a connection would not end with its end here."""
        for stored in self._sockets.stored:
            self._notifier.forget(stored)
        for name, sock in self._sockets.held_by_us():
            self._sockets.outlive |= self._notifier.store(stored_name(name), sock)

    # --- ending ---------------------------------------------------------------------------------

    async def _leave(self) -> None:
        """Leave the place to the process that takes over, now or after this one has exited; or stop
        serving."""
        service, drain_s = self._service, self._settings.drain_s
        began = time.monotonic()
        upgraded = self._upgrader.leaving.is_set()
        followed = upgraded or self._sockets.outlive
        if not upgraded:
            self._upgrader.abandon()
            self._notifier.tell(STOPPING=1, STATUS="draining: no new requests are taken")
            await self._give_notice(refuse=not followed)
        if not followed:
            self._sockets.close()
        self._listeners.stop_accepting()
        if followed:
            self._admin.stop_accepting()
            if self._wyoming is not None:
                self._wyoming.stop_accepting()
        log.info("server.drain_started", drain_s=drain_s, handed_over=followed)
        if followed:
            service.drain.announce()
            service.drain.end_streams()
            give = self._upgrader.give if upgraded else self._store
            no_requests = asyncio.Event()
            handing = asyncio.create_task(
                self._listeners.hand_over(give, drain_s, self._stop.second, no_requests)
            )
            handing.add_done_callback(lambda _: no_requests.set())
            await self._jobs.pause()
            # Who is still here may ask for a job next, unless it is a stream: one whose client does
            # not say goodbye is waited for much longer.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_JOBS_S, drain_s)):
                    await no_requests.wait()
            await self._jobs.hand_over(min(_JOBS_S, drain_s))
            log.info("server.connections_transferred", connections=await handing)
        else:
            await self._jobs.pause()
        left_s = max(0.0, drain_s - (time.monotonic() - began))
        in_time = await _drain(service, left_s, self._stop)
        await service.drain.end_uploads()
        log.info("server.drained" if in_time else "server.drain_interrupted")
        if followed and not upgraded:
            await asyncio.to_thread(self._notifier.wait_until_read, _BARRIER_S)

    async def _give_notice(self, *, refuse: bool) -> None:
        """Gateways get to know before they notice. `refuse`: when it is over."""
        service = self._service
        if refuse:
            notice_s = service.drain.stop_admitting()
        else:
            service.drain.announce()
            notice_s = self._settings.notice_s
        if notice_s:
            log.info("server.shutdown_announced", notice_s=notice_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(notice_s):
                    await self._stop.second.wait()

    async def _store(self, name: str, sock: socket.socket) -> bool:
        return self._notifier.store(connection_name(name), sock)


def _must_keep_jobs(directory: Path) -> None:
    """Raise `CannotStart` if the jobs of the server before could not continue."""
    if (problem := why_unusable(directory)) is not None:
        raise CannotStart(
            f"jobs.directory: {problem}; with jobs.queue = 0 the server starts without jobs"
        )


def _warn(service: SpeechService) -> None:
    """Log what an operator may not have meant."""
    settings = service.settings
    if service.access.open and not is_loopback(settings.host):
        log.warning(
            "server.exposed",
            host=settings.host,
            reason="every client that reaches this address may use it: auth.keys_file is not set",
        )
    if not service.access.open and settings.wyoming.uri:
        log.warning(
            "wyoming.exposed",
            reason="the Wyoming protocol has no authentication: auth does not apply to it",
        )


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def _wyoming(service: SpeechService, settings: Settings, sockets: Sockets) -> Any:
    """Return Wyoming's listener, bound, if there is to be one. Raises `CannotStart`."""
    if not settings.wyoming.uri:
        return None
    try:
        from modelserver.live.wyoming import BadUri, WyomingListener
    except ImportError as error:
        raise CannotStart(
            "wyoming.uri is set, and the package that speaks it is not installed: "
            f"{how_to_install('wyoming')}"
        ) from error
    listener = WyomingListener(service, settings.wyoming.uri, sockets)
    try:
        listener.bind()
    except BadUri as error:
        listener.close()
        raise CannotStart(f"wyoming.uri: {error}") from error
    return listener


async def _log_when_ready(service: SpeechService, url: str, started: float) -> None:
    """Log that the server is ready at its URL."""
    if (pool := service.models.default.pool) is not None:
        await pool.wait_ready()
        log.info(
            "server.ready",
            url=url,
            model=service.models.default.in_words(),
            after_s=round(time.monotonic() - started, 3),
        )


def _tell_if_failed(task: asyncio.Task[None]) -> None:
    """Log the failure of the task that informs the service manager, which would otherwise fail
    unnoticed."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("server.task_failed", task="service manager", exc_info=error)


async def _drain(service: SpeechService, drain_s: float, stop: "StopSignals") -> bool:
    """Let requests in flight finish; a second signal ends the patience."""
    draining = asyncio.create_task(service.drain.finish(drain_s))
    impatient = asyncio.create_task(stop.second.wait())
    await asyncio.wait({draining, impatient}, return_when=asyncio.FIRST_COMPLETED)
    impatient.cancel()
    if not draining.done():
        draining.cancel()
        return False
    return draining.result()
