"""An answer that shows what is understood while a file is being decoded, as server-sent events.

"progress" says how far it is, "partial" and "final" what is understood, "done" brings the document
that would have been the answer, and "error" the error document. One of the last two ends it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from modelserver.http.errors import ApiError, ErrorDocument, ErrorInside, as_api_error
from modelserver.http.events import EventStream
from modelserver.http.middleware import NOTES, REQUEST_ID
from modelserver.speech.messages import SpeechProgress

_STAY_S = 15.0
_REPORT_S = 0.5
"""How often "progress" is sent, at the most."""


class Progress(msgspec.Struct):
    """Seconds of audio that are done."""

    done: float


class PartialText(msgspec.Struct):
    """Of the segment at hand; it may still change."""

    text: str


async def answer_in_events(
    request: web.Request, work: Callable[[Callable[[SpeechProgress], None]], Awaitable[Any]]
) -> web.StreamResponse:
    """Do the `work`, which tells how far it is, and answers with a document."""
    events = EventStream(request)
    waiting = _Waiting()
    working = asyncio.ensure_future(work(waiting.tell))
    working.add_done_callback(lambda _: waiting.some.set())
    try:
        await events.open()
        while not (working.done() and not waiting.events):
            try:
                async with asyncio.timeout(_STAY_S):
                    await waiting.some.wait()
            except TimeoutError:
                await events.stay()
            for name, document in waiting.take():
                await events.send(name, document)
        try:
            await events.send("done", working.result())
        except Exception as error:
            if (known := as_api_error(error)) is None:
                raise
            await _fail(request, events, known)
        await events.close()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    return events.response


async def _fail(request: web.Request, events: EventStream, error: ApiError) -> None:
    request[NOTES].update(event_error=error.code)
    document = ErrorInside(error.code, error.message, request[REQUEST_ID])
    await events.send("error", ErrorDocument(document))


class _Waiting:
    """What has not been sent yet; of a client that reads slowly only what still matters."""

    def __init__(self) -> None:
        self.events: deque[tuple[str, object]] = deque()
        self.some = asyncio.Event()
        self._reported_at = 0.0
        self._partial = ""

    def tell(self, progress: SpeechProgress) -> None:
        if progress.segment is not None:
            self._partial = ""
            self._forget_last("partial")
            self.events.append(("final", progress.segment))
        elif progress.partial and progress.partial != self._partial:
            self._partial = progress.partial
            self._forget_last("partial")
            self.events.append(("partial", PartialText(progress.partial)))
        now = asyncio.get_running_loop().time()
        if now - self._reported_at >= _REPORT_S:
            self._reported_at = now
            self._forget_last("progress")
            self.events.append(("progress", Progress(progress.done_s)))
        if self.events:
            self.some.set()

    def take(self) -> list[tuple[str, object]]:
        """And wait for more."""
        said = list(self.events)
        self.events.clear()
        self.some.clear()
        return said

    def _forget_last(self, name: str) -> None:
        if self.events and self.events[-1][0] == name:
            self.events.pop()
