"""The server's life: listen, serve, drain, end. Runs in the supervisor process."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator

import structlog
import uvloop

from modelserver import __version__
from modelserver.access.keyring import KeysUnreadable
from modelserver.admin.listener import AdminListener, AdminRefused
from modelserver.assistant.service import Assistant
from modelserver.http.application import build_application, build_vosk_application
from modelserver.http.connections import connections_beside
from modelserver.http.jobs import message_of
from modelserver.http.listening import HttpServer, bind, is_loopback, url_of
from modelserver.jobs.service import JobService
from modelserver.jobs.webhooks import SecretUnreadable
from modelserver.notify import Notifier, keep_systemd_informed
from modelserver.serving.reloading import Reloader
from modelserver.serving.service import SpeechService
from modelserver.settings import Settings
from modelserver.settings.configuration import Configuration
from modelserver.tracing import CannotTrace
from supervisor import AllocatorMissing, directory_problem, raise_descriptor_limit

log: structlog.stdlib.BoundLogger = structlog.get_logger("server")


class CannotStart(Exception):
    """The server cannot begin; the text says why."""


def run_server(configuration: Configuration) -> None:
    """Serve until told to stop. Raises `CannotStart`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(configuration))


async def _serve(configuration: Configuration) -> None:
    settings, started = configuration.settings, time.monotonic()
    try:
        sock = bind(settings.host, settings.port)
    except OSError as error:
        raise CannotStart(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}"
        ) from error
    vosk_sock = _vosk_socket(settings, sock)
    raise_descriptor_limit()
    if (problem := directory_problem(settings.spool.directory)) is not None:
        sock.close()
        raise CannotStart(f"spool.directory: {problem}; larger uploads have to go there")
    try:
        service = SpeechService(settings)
    except (AllocatorMissing, CannotTrace) as error:
        sock.close()
        raise CannotStart(str(error)) from error
    try:
        service.access.check()
    except KeysUnreadable as error:
        sock.close()
        raise CannotStart(f"auth.keys_file: {error}") from error
    stop, hangups = StopSignals(), Hangups()
    notifier = Notifier.from_environment()
    connections = connections_beside(service.places)
    try:
        jobs = JobService(service, message_of)
    except SecretUnreadable as error:
        sock.close()
        raise CannotStart(f"jobs.webhook_secret_file: {error}") from error
    assistant = Assistant(lambda: service.settings.assistant)
    app = build_application(service, jobs, assistant, connections)
    http = HttpServer(app, sock, connections, service.traffic, give_up=True)
    await http.start()
    fronts = [http]
    if vosk_sock is not None:
        vosk_app = build_vosk_application(service, connections)
        fronts.append(HttpServer(vosk_app, vosk_sock, connections, service.traffic, give_up=True))
        await fronts[-1].start()
        log.info("vosk.listening", url=url_of(vosk_sock).replace("http", "ws", 1))
    if service.access.open and not is_loopback(settings.host):
        log.warning(
            "server.open_to_all",
            host=settings.host,
            reason="anybody who reaches this address may use it: auth.keys_file is not set",
        )
    if not service.access.open and settings.wyoming.uri:
        log.warning(
            "wyoming.without_keys", reason="its protocol has none: auth does not hold there"
        )
    log.info(
        "server.listening",
        version=__version__,
        url=url_of(sock),
        workers=service.default.slots,
        models=list(service.models),
    )
    try:
        reloader = Reloader(service, configuration)
        admin = AdminListener(service, jobs, reloader)
        async with service, jobs, assistant, admin, _wyoming(service, settings):
            informing = asyncio.create_task(keep_systemd_informed(service, notifier))
            informing.add_done_callback(_tell_if_failed)
            telling = asyncio.create_task(_tell_when_ready(service, started))
            reloading = asyncio.create_task(hangups.obeyed_by(reloader, stop))
            await stop.first.wait()
            informing.cancel()
            reloading.cancel()
            telling.cancel()
            notifier.tell(STOPPING=1, STATUS="draining: no new requests are taken")
            if notice_s := service.stop_admitting():
                log.info("server.gives_notice", notice_s=notice_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(notice_s):
                        await stop.second.wait()
            for front in fronts:
                front.stop_accepting()
            log.info("server.draining", drain_s=settings.drain_s)
            await jobs.pause()
            in_time = await _drain(service, settings.drain_s, stop)
            await service.end_uploads()
            log.info("server.drained" if in_time else "server.drain_cut_short")
    except (AdminRefused, WyomingRefused) as error:
        raise CannotStart(str(error)) from error
    finally:
        for front in fronts:
            await front.close()
        notifier.close()
    log.info("server.stopped")


def _vosk_socket(settings: Settings, other: socket.socket) -> socket.socket | None:
    """For the Vosk project's protocol, if it has a port of its own. Raises `CannotStart`."""
    if not settings.vosk.port:
        return None
    try:
        return bind(settings.host, settings.vosk.port)
    except OSError as error:
        other.close()
        raise CannotStart(
            f"cannot listen on {settings.host} port {settings.vosk.port} (vosk.port): "
            f"{error.strerror}"
        ) from error


class WyomingRefused(Exception):
    """It cannot be served; the text says why."""


@contextlib.asynccontextmanager
async def _wyoming(service: SpeechService, settings: Settings) -> AsyncIterator[None]:
    """Its listener, if there is to be one. Raises `WyomingRefused`."""
    if not settings.wyoming.uri:
        yield
        return
    try:
        from modelserver.wyoming import BadUri, WyomingListener
    except ImportError as error:
        raise WyomingRefused(
            "wyoming.uri is set, and the package that speaks it is not installed: "
            "pip install modelserver[wyoming]"
        ) from error
    listener = WyomingListener(service, settings.wyoming.uri)
    try:
        await listener.__aenter__()
    except BadUri as error:
        raise WyomingRefused(f"wyoming.uri: {error}") from error
    try:
        yield
    finally:
        await listener.__aexit__()


async def _tell_when_ready(service: SpeechService, started: float) -> None:
    """One line for who waits for it."""
    if (pool := service.default.pool) is not None:
        await pool.wait_ready()
        log.info(
            "server.ready",
            model=service.default.in_words(),
            after_s=round(time.monotonic() - started, 3),
        )


def _tell_if_failed(task: asyncio.Task[None]) -> None:
    """The service manager would be told nothing any more, and nobody why."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("server.task_failed", task="service manager", exc_info=error)


async def _drain(service: SpeechService, drain_s: float, stop: "StopSignals") -> bool:
    """Let requests in flight finish; a second signal ends the patience."""
    draining = asyncio.create_task(service.drain(drain_s))
    impatient = asyncio.create_task(stop.second.wait())
    await asyncio.wait({draining, impatient}, return_when=asyncio.FIRST_COMPLETED)
    impatient.cancel()
    if not draining.done():
        draining.cancel()
        return False
    return draining.result()


class Hangups:
    """SIGHUP: reload, or, where the terminal that it was started from is closed, stop."""

    def __init__(self) -> None:
        self._told = asyncio.Event()
        self._terminal = sys.stdin.isatty() if sys.stdin else False
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._told.set)

    async def obeyed_by(self, reloader: Reloader, stop: "StopSignals") -> None:
        """For ever; what came while the server was starting is not forgotten."""
        while True:
            await self._told.wait()
            self._told.clear()
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
        log.info("server.signal", signal=number.name)
        (self.second if self.first.is_set() else self.first).set()
