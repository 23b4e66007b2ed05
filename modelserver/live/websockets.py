"""Common parts of the WebSocket protocols: the socket, the stream that it carries, and how both
end."""

import abc
import asyncio
import contextlib
import enum
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from modelserver.http.app_keys import SERVICE
from modelserver.http.errors import STATUS, close_reason, refusal_of
from modelserver.http.events import WRITE_S
from modelserver.http.middleware import NOTES
from modelserver.live.session import Audio, Ended, Input, LiveSession, Signal, Why
from modelserver.refusal import Refusal
from supervisor import PoolError

log: structlog.stdlib.BoundLogger = structlog.get_logger("http")

PROTOCOL = "modelserver"
"""The subprotocol, for who names one beside their key."""


_NOT_UNDERSTOOD = ("bad_request", "not_audio", "unsupported_audio")


class CloseCode(enum.IntEnum):
    """Close codes beside those that aiohttp names."""

    NONE_GIVEN = 1005
    IDLE = 4408
    TOO_OLD = 4410


class LiveSocket(web.WebSocketResponse):
    """A WebSocket with pings of our own: aiohttp counts a pong as missing that waits behind audio
    which has not been read yet."""

    def __init__(
        self, request: web.Request, protocol: str, *, ping_s: float, message_bytes: int
    ) -> None:
        super().__init__(
            autoping=False, max_msg_size=message_bytes, compress=False, protocols=(protocol,)
        )
        self._request, self._ping_s = request, ping_s

    async def next_message(self) -> WSMessage:
        """Wait for the next message that is neither a ping nor a pong.

        Raises `ConnectionResetError` where nothing comes, not even an answer to a ping.
        """
        asked = False
        while True:
            try:
                message = await self.receive(timeout=self._ping_s / 2 if asked else self._ping_s)
            except TimeoutError:
                if asked:
                    self._abort()
                    raise ConnectionResetError("the client answers no ping") from None
                asked = True
                await self._in_time(self.ping())
                continue
            asked = False
            if message.type is WSMsgType.PING:
                await self._in_time(self.pong(message.data))
            elif message.type is not WSMsgType.PONG:
                return message

    async def send_text(self, text: str) -> None:
        """Send a message. Raises `ConnectionResetError` where the client does not read."""
        await self._in_time(self.send_str(text))

    async def _in_time(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(WRITE_S):
                await sending
        except TimeoutError:
            self._abort()
            raise ConnectionResetError(f"the client has read nothing for {WRITE_S:g} s") from None

    def _abort(self) -> None:
        if (transport := self._request.transport) is not None:
            transport.abort()


_KNOWN_CODES = {*map(int, WSCloseCode), *map(int, CloseCode)}
"""Others, which a client may invent, are counted together."""


def open_socket(request: web.Request, protocol: str = PROTOCOL) -> LiveSocket:
    """Return a socket whose handshake is not made yet; `protocol`: the subprotocol that it has."""
    debug = request.app[SERVICE].settings.debug
    return LiveSocket(
        request, protocol, ping_s=debug.stream_ping_s, message_bytes=debug.stream_message
    )


def _closed_by(socket: web.WebSocketResponse, message: WSMessage) -> int:
    """Return the close code, after a message that ends the stream."""
    if message.type is WSMsgType.ERROR:
        if (error := socket.exception()) is not None:
            log.debug("stream.socket_failed", error=str(error))
        return socket.close_code or int(WSCloseCode.PROTOCOL_ERROR)
    if message.type is WSMsgType.CLOSE and not socket.close_code:
        return CloseCode.NONE_GIVEN
    return socket.close_code or int(WSCloseCode.ABNORMAL_CLOSURE)


def _end_code(why: Why) -> int:
    """Return the code that closes a stream which its client has not ended."""
    match why:
        case Why.SHUTDOWN:
            return int(WSCloseCode.GOING_AWAY)
        case Why.IDLE:
            return int(CloseCode.IDLE)
        case Why.TOO_OLD:
            return int(CloseCode.TOO_OLD)


def close_of(error: Refusal | PoolError) -> tuple[int, str]:
    """Return code and reason for the error that has ended a stream."""
    known = refusal_of(error)
    if known is None:
        return int(WSCloseCode.INTERNAL_ERROR), error.message
    if STATUS[known.code] == 503:
        code = WSCloseCode.TRY_AGAIN_LATER
    elif known.code in _NOT_UNDERSTOOD:
        code = WSCloseCode.UNSUPPORTED_DATA
    elif STATUS[known.code] < 500:
        code = WSCloseCode.POLICY_VIOLATION
    else:
        code = WSCloseCode.INTERNAL_ERROR
    return int(code), f"{known.code}: {known.message}"


class SocketClient(abc.ABC):
    """A client on a WebSocket. A protocol says how its messages are translated."""

    def __init__(self, request: web.Request, socket: LiveSocket) -> None:
        self.request, self.socket = request, socket
        self.service = request.app[SERVICE]
        self.since = asyncio.get_running_loop().time()
        """When the client came: a stream that takes another one's place is not younger."""
        self.session: LiveSession | None = None
        self.reason = "closed"
        """Why the stream ends: the client has closed it, or what the server says."""
        self._closed_with = int(WSCloseCode.OK)

    @abc.abstractmethod
    async def run(self) -> tuple[int, str]:
        """Serve the client until either side ends it; returns how to close."""

    @abc.abstractmethod
    def audio(self, data: bytes) -> Audio:
        """Translate a binary message."""

    @abc.abstractmethod
    async def text(self, text: str) -> Input:
        """Translate, or answer, a text message."""

    async def serve(self) -> None:
        """Serve the client, then close the socket."""
        try:
            code, reason = await self.run()
        except (ConnectionError, asyncio.CancelledError) as gone:  # the client, without a word
            self._note_end(int(WSCloseCode.ABNORMAL_CLOSURE), "")
            if isinstance(gone, asyncio.CancelledError):
                raise
            return
        self._note_end(code, reason)
        if self.session is not None:
            await self.session.close()
        with contextlib.suppress(ConnectionError):
            await self.socket.close(code=code, message=close_reason(reason))

    async def carry(self, session: LiveSession) -> tuple[int, str]:
        """Carry the stream; returns how to close."""
        try:
            await session.carry(self._receive)
        except Ended as ended:
            self.reason = ended.reason
            await session.end_soon()  # the last result first
            return _end_code(ended.why), ended.reason
        return self._closed_with, ""

    async def _receive(self) -> Input:
        message = await self.socket.next_message()
        match message.type:
            case WSMsgType.BINARY:
                return self.audio(message.data)
            case WSMsgType.TEXT:
                return await self.text(message.data)
        self._closed_with = _closed_by(self.socket, message)
        self._note_end(self._closed_with, "")
        return Signal.LEAVE

    def _note_end(self, code: int, reason: str) -> None:
        """Note it for the log and the metrics. What is noted first counts: a client that has closed
        its stream may be gone before the rest is done."""
        notes = self.request[NOTES]
        if "close" in notes:
            return
        label = str(code) if code in _KNOWN_CODES else "other"
        self.service.traffic.stream_ends[label] += 1
        notes.update(close=code, reason=reason or None)
        if self.session is not None:
            notes.update(audio_s=round(self.session.audio_s, 3), replays=self.session.replays)


async def serve_socket(
    request: web.Request,
    client: Callable[[web.Request, LiveSocket], SocketClient],
    protocol: str = PROTOCOL,
) -> LiveSocket:
    """Make the handshake and serve the client. The handshake always succeeds, because a browser
    hides from its page why one failed. Raises `Refusal` if the request is not for a WebSocket."""
    socket = open_socket(request, protocol)
    if not socket.can_prepare(request).ok:
        raise Refusal("upgrade_required", "this is a WebSocket")
    await socket.prepare(request)
    await client(request, socket).serve()
    return socket
