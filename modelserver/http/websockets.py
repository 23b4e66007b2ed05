"""What every WebSocket of ours has in common: how it is opened, and how its end is told."""

import enum

import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from modelserver.http.errors import ApiError, as_api_error
from modelserver.http.keys import SERVICE
from modelserver.http.middleware import NOTES
from modelserver.serving.live import LiveSession, Why
from supervisor import PoolError

log: structlog.stdlib.BoundLogger = structlog.get_logger("http")

PROTOCOL = "modelserver"
"""The subprotocol, for who names one beside their key."""
_MOST_REASON_BYTES = 123
"""Of a close frame (RFC 6455, 5.5)."""


_NOT_UNDERSTOOD = ("bad_request", "not_audio", "unsupported_audio")


class CloseCode(enum.IntEnum):
    """Beside those of RFC 6455: why a stream was ended."""

    IDLE = 4408
    TOO_OLD = 4410


def open_socket(request: web.Request) -> web.WebSocketResponse:
    """Not prepared yet."""
    settings = request.app[SERVICE].settings.streams
    return web.WebSocketResponse(
        heartbeat=settings.ping_s,
        max_msg_size=settings.message,
        compress=False,
        protocols=(PROTOCOL,),
    )


def closed_by(socket: web.WebSocketResponse, message: WSMessage) -> int:
    """The close code, after a message that says that the client, or the connection, has ended
    it."""
    if message.type is WSMsgType.ERROR:
        if (error := socket.exception()) is not None:
            log.debug("stream.socket_failed", error=str(error))
        return socket.close_code or int(WSCloseCode.PROTOCOL_ERROR)
    return socket.close_code or int(WSCloseCode.ABNORMAL_CLOSURE)


def end_code(why: Why) -> int:
    """With which a stream is closed that its client has not ended."""
    match why:
        case Why.SHUTDOWN:
            return int(WSCloseCode.GOING_AWAY)
        case Why.IDLE:
            return int(CloseCode.IDLE)
        case Why.TOO_OLD:
            return int(CloseCode.TOO_OLD)


def close_of(error: ApiError | PoolError) -> tuple[int, str]:
    """Code and reason for what has ended a stream."""
    known = as_api_error(error)
    if known is None:
        return int(WSCloseCode.INTERNAL_ERROR), error.message
    if known.status == 503:
        code = WSCloseCode.TRY_AGAIN_LATER
    elif known.code in _NOT_UNDERSTOOD:
        code = WSCloseCode.UNSUPPORTED_DATA
    elif known.status < 500:
        code = WSCloseCode.POLICY_VIOLATION
    else:
        code = WSCloseCode.INTERNAL_ERROR
    return int(code), f"{known.code}: {known.message}"


def cut_reason(reason: str) -> bytes:
    """As much of it as a close frame holds."""
    return reason.encode()[:_MOST_REASON_BYTES].decode(errors="ignore").encode()


def tell_end(request: web.Request, session: LiveSession | None, code: int, reason: str) -> None:
    """For the log and the metrics."""
    request.app[SERVICE].traffic.stream_ends[str(code)] += 1
    request[NOTES].update(close=code, reason=reason or None)
    if session is not None:
        request[NOTES].update(audio_s=round(session.heard_s, 3), replays=session.replays)
