"""Wyoming, the protocol of Home Assistant's voice assistants: events on a plain connection.

Source: the package `wyoming`, which does the wire. A client may ask what there is (`describe`), and
sends `transcribe`, `audio-start`, `audio-chunk` ..., `audio-stop`; it gets `transcript`, before it
the text in pieces as it is final (`transcript-start`, `-chunk`, `-stop`), and `error` with a code.
The protocol has no keys and no encryption. Imported only where it is served.
"""

import asyncio
import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, async_read_event, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.ping import Ping, Pong

from modelserver import __version__
from modelserver.handover import Sockets
from modelserver.handover.sockets import WYOMING
from modelserver.http.errors import as_api_error
from modelserver.serving.live import Ended, LiveSession, Why, live_session
from modelserver.serving.service import SpeechService, UnknownModel
from modelserver.speech.messages import StreamRequest
from modelserver.speech.transcript import reader_text
from supervisor import PoolError

log: structlog.stdlib.BoundLogger = structlog.get_logger("wyoming")

_MOST_BYTES = 1024 * 1024
"""Of one event's parts."""
_RATES = range(1000, 192_001)
_MOST_CONNECTIONS = 256
_WRITE_S = 20.0
_PIECE_S = 0.25
"""As files are heard: the same audio gives the same text, however it comes."""
_PUBLISHER = Attribution("alphacephei.com", "https://alphacephei.com/vosk/")


class BadUri(Exception):
    """The address cannot be listened on; the text says why."""


class _Refused(Exception):
    """The client is told this, and its connection is closed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _CannotHear(Exception):
    """Samples of a form that is not heard; the text says which is."""


class _BoundedReader:
    """What the library reads from: no part of an event may be larger than is sensible."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def readline(self) -> bytes:
        try:
            return await self._reader.readline()
        except ValueError:
            raise _Refused("bad_request", "an event's first line is too long") from None

    async def readexactly(self, count: int) -> bytes:
        if not 0 <= count <= _MOST_BYTES:
            raise _Refused("bad_request", f"an event of {count} bytes; {_MOST_BYTES} are allowed")
        return await self._reader.readexactly(count)


class WyomingListener:
    """Use as `async with`: listens, and at the end lets every client have its transcript."""

    def __init__(self, service: SpeechService, uri: str, sockets: Sockets) -> None:
        self._service = service
        self._uri, self._sockets = uri, sockets
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._announcement: Any = None
        self._socket: socket.socket | None = None
        self._path: Path | None = None

    def bind(self) -> None:
        """Take the address, so that `__aenter__` cannot fail. Raises `BadUri`."""
        parts = urlsplit(self._uri)
        try:
            if parts.scheme == "unix":
                self._path = Path(parts.path)
                self._socket = _bind_beside(self._path)
            elif parts.scheme == "tcp" and parts.hostname and parts.port is not None:
                self._socket = self._sockets.listen(WYOMING, parts.hostname, parts.port)
            else:
                raise BadUri(f"{self._uri!r}: it must be tcp://HOST:PORT or unix:///PATH")
        except (OSError, ValueError) as error:
            raise BadUri(f"cannot listen on {self._uri}: {error}") from error
        name = self._service.settings.wyoming.announce
        if name and parts.scheme == "tcp":
            try:
                from modelserver.announcing import Announcement
            except ImportError as error:
                raise BadUri("wyoming.announce needs: pip install modelserver[zeroconf]") from error
            port = self._socket.getsockname()[1]
            self._announcement = Announcement(name, parts.hostname or "", port)

    async def __aenter__(self) -> "WyomingListener":
        assert self._socket is not None
        if self._path is None:
            self._server = await asyncio.start_server(self._accept, sock=self._socket)
        else:
            self._server = await asyncio.start_unix_server(self._accept, sock=self._socket)
        return self

    async def take_path(self) -> None:
        """Take the path of a server that listened there before, and announce this one. What stands
        in the way is logged."""
        assert self._socket is not None
        if self._path is not None:
            try:
                _beside(self._path).rename(self._path)
            except OSError as error:
                log.error("wyoming.not_listening", reason=f"{self._path}: {error.strerror}")
                return
        address = self._path or self._socket.getsockname()
        log.info("wyoming.listening", uri=self._uri, addresses=[str(address)])
        if self._announcement is not None:
            await self._announcement.begin()

    def close(self) -> None:
        """Give back what was bound and is not served."""
        if self._socket is not None:
            self._socket.close()
        if self._path is not None:
            _beside(self._path).unlink(missing_ok=True)

    async def __aexit__(self, *exception: object) -> None:
        if self._announcement is not None:
            await self._announcement.end()
        self.stop_accepting()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self.close()

    def stop_accepting(self) -> None:
        """Those that are there go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) <= _MOST_CONNECTIONS:
                await _Client(self._service, reader, writer).serve()
        except asyncio.CancelledError:
            pass  # the server ends
        except Exception:
            log.exception("wyoming.client_failed")
        finally:
            self._clients.discard(task)
            writer.close()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}-{os.getpid()}")


def _bind_beside(path: Path) -> socket.socket:
    """Bind a Unix socket next to `path`: another server may answer there until this one takes
    it."""
    if path.exists() and not path.is_socket():
        raise FileExistsError(errno.EEXIST, "it is there, and is not a socket")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _beside(path).unlink(missing_ok=True)
        sock.bind(str(_beside(path)))
        sock.listen()
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class _Client:
    """One connection. It may transcribe one recording after the other."""

    def __init__(
        self, service: SpeechService, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._service = service
        self._reader = _BoundedReader(reader)
        self._writer = writer
        self._wanted = Transcribe()

    async def serve(self) -> None:
        """Until the client goes, or does what cannot be."""
        try:
            while (event := await self._next()) is not None:
                if Describe.is_type(event.type):
                    await self._write(self._info().event())
                elif Ping.is_type(event.type):
                    await self._write(Pong(text=Ping.from_event(event).text).event())
                elif Transcribe.is_type(event.type):
                    self._wanted = Transcribe.from_event(event)
                elif AudioStart.is_type(event.type):
                    await self._recording(AudioStart.from_event(event))
                    self._wanted = Transcribe()
                # What is not known is not for us, as the protocol has it.
        except _Refused as refused:
            await self._fail(refused.code, refused.message)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass  # it has gone

    async def _next(self) -> Event | None:
        idle_s = self._service.settings.streams.idle_s
        try:
            async with asyncio.timeout(idle_s):
                return await self._read()
        except TimeoutError:
            raise _Refused("idle", f"nothing came for {idle_s:g} s") from None

    async def _read(self) -> Event | None:
        try:
            return await async_read_event(self._reader)  # type: ignore[arg-type]  # ours counts
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _Refused("bad_request", f"this is no event: {error}") from None

    async def _write(self, event: Event) -> None:
        async with asyncio.timeout(_WRITE_S):
            await async_write_event(event, self._writer)

    async def _fail(self, code: str, message: str) -> None:
        log.info("wyoming.refused", code=code, reason=message)
        with contextlib.suppress(ConnectionError, TimeoutError):
            await self._write(Error(text=message, code=code).event())

    def _info(self) -> Info:
        models = [
            AsrModel(
                name=served.label,
                attribution=_PUBLISHER,
                installed=True,
                description=served.in_words(),
                version=None,
                languages=[served.language],
            )
            for served in self._service.models.values()
        ]
        program = AsrProgram(
            name="modelserver",
            attribution=_PUBLISHER,
            installed=True,
            description="Vosk models, served",
            version=__version__,
            models=models,
            supports_transcript_streaming=True,
        )
        return Info(asr=[program])

    async def _recording(self, start: AudioStart) -> None:
        """One recording. Who is refused may be sending still, and could not hear why otherwise."""
        try:
            await self._transcribe(start)
            return
        except (UnknownModel, PoolError) as error:
            known = as_api_error(error)
            await self._fail(known.code if known else "internal", str(error))
        except _CannotHear as error:
            await self._fail("unsupported_audio", str(error))
        while (event := await self._next()) is not None:
            if AudioStop.is_type(event.type):
                return

    async def _transcribe(self, start: AudioStart) -> None:
        if (start.width, start.channels) != (2, 1) or start.rate not in _RATES:
            raise _CannotHear(
                f"samples of {start.width} bytes on {start.channels} channels, {start.rate} a "
                "second; 2 bytes on 1 channel are heard"
            )
        served = self._find()
        text: list[str] = []

        async def tell(answer: str) -> None:
            said = msgspec.json.decode(answer)
            if said.get("text"):
                text.append(said["text"])
                await self._write(TranscriptChunk(text=reader_text([said["text"]])).event())

        async with live_session(self._service, served, tell) as session:
            session.begin(StreamRequest(float(start.rate), words=False))
            await self._write(TranscriptStart(language=served.language).event())
            try:
                async with session.listening():
                    await self._listen(session, start.rate)
                    await session.end()
            except Ended as ended:
                if ended.why is Why.IDLE:
                    raise _Refused("idle", ended.reason) from None
                await session.end()
        await self._write(TranscriptStop().event())
        await self._write(Transcript(text=reader_text(text), language=served.language).event())

    def _find(self) -> Any:
        """The model by its name, or by its language; Home Assistant names either or none."""
        name, language = self._wanted.name, self._wanted.language
        return self._service.find(name or None, None if name else language or None)

    async def _listen(self, session: LiveSession, rate: int) -> None:
        """Until the client has said all."""
        heard = bytearray()
        piece_bytes = 2 * int(rate * _PIECE_S)
        while True:
            event = await self._read()
            if event is None:
                raise ConnectionResetError
            if AudioStop.is_type(event.type):
                break
            if not AudioChunk.is_type(event.type):
                continue
            session.busy()
            heard += AudioChunk.from_event(event).audio
            while len(heard) >= piece_bytes:
                await session.ask(bytes(heard[:piece_bytes]), piece_bytes / 2 / rate)
                del heard[:piece_bytes]
            session.heard()
        if heard:
            await session.ask(bytes(heard), len(heard) / 2 / rate)
