"""Answers to HAProxy's `agent-check`: how much work this server can take.

An answer is one line on a TCP connection: "up ready 12% maxconn:4", "drain", "maint #...", "ready
down #..."; "ready" cancels an earlier "drain" or "maint". Source: the configuration manual of
HAProxy (`agent-check` and `agent-send`).
"""

import asyncio
import contextlib
import math
import socket

from modelserver.serving.service import SpeechService
from modelserver.serving.sizing import AT_ONCE_EACH

_AT_ONCE = 32
_QUESTION_S = 0.02
"""Within that it is there, if there is one."""
_ANSWER_S = 1.0
_LONGEST_QUESTION = 64
_LONGEST_REASON = 100
_PACE_UNKNOWN = 0.1
"""Seconds of work a second of audio takes, before any was seen."""
_UNITS_A_PERCENT = 4.0
"""Audio seconds a second that are one percent: a server of two processors has some 10 %, one of
sixty-four some 250 %, of which 256 is the most."""


class Agent:
    """Use as `async with`."""

    def __init__(self, service: SpeechService, sock: socket.socket) -> None:
        self._service, self._socket = service, sock
        self._server: asyncio.Server | None = None
        self._open = 0

    async def __aenter__(self) -> "Agent":
        self._server = await asyncio.start_server(
            self._answer, sock=self._socket, limit=_LONGEST_QUESTION
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop_accepting()

    def stop_accepting(self) -> None:
        """Questions that have come are answered."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _AT_ONCE:
                question = b""
                with contextlib.suppress(TimeoutError, ValueError):
                    async with asyncio.timeout(_QUESTION_S):
                        question = await reader.readline()
                kind = question.strip().decode(errors="replace")
                writer.write(line(self._service, kind).encode())
                async with asyncio.timeout(_ANSWER_S):
                    await writer.drain()
        except (OSError, TimeoutError):
            pass
        finally:
            self._open -= 1
            writer.close()


def line(service: SpeechService, kind: str = "") -> str:
    """Return the answer for one kind of work: recordings (""), "streams", which last long, or
    "jobs", for which no client waits."""
    status = service.status()
    pools = [served.pool for served in service.models.values() if served.pool is not None]
    if reason := service.drain.reason:
        if status.admitted or any(len(pool.streams) for pool in pools):
            return "drain\n"
        return f"maint #{_plain(reason)}, and all requests have ended\n"
    default = service.models.default.pool
    if status.reason is not None and (default is None or default.hopeless()):
        return f"ready down #{_plain(status.reason)}\n"
    guard = status.guard
    if guard is not None:
        takes = guard.state.takes_streams if kind == "streams" else guard.state.takes_work
        if not takes:
            return "drain\n"
    # A worker that is being replaced counts as available.
    able = max(1, sum(worker.state.value in ("idle", "busy") for worker in status.workers))
    at_once = able if guard is None else max(1, min(able, guard.state.concurrency))
    pace = status.s_per_unit or _PACE_UNKNOWN
    percent = min(256, max(1, math.ceil(at_once / pace / _UNITS_A_PERCENT)))
    said = f"up ready {percent}%"
    if kind == "jobs":
        return f"{said}\n"
    if kind == "streams":
        most = sum(pool.streams.capacity(status.s_per_unit) for pool in pools)
    else:
        most = min(AT_ONCE_EACH * at_once, service.models.most_admitted)
    return f"{said} maxconn:{most}\n"


def _plain(text: str) -> str:
    """Return the text without what may not stand in such a line."""
    plain = "".join(c if " " <= c <= "~" and c not in "#,;" else " " for c in text)
    return " ".join(plain.split())[:_LONGEST_REASON]
