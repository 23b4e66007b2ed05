"""An answer that shows what is understood while a file is being decoded, as server-sent events.

"progress" says how far it is, "partial" and "final" what is understood, "done" brings the document
that would have been the answer, and "error" the error document. One of the last two ends it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from aiohttp import web

from modelserver.http.errors import ErrorDocument, ErrorInside, refusal_of
from modelserver.http.events import EventStream
from modelserver.http.middleware import NOTES, REQUEST_ID
from modelserver.refusal import Refusal
from modelserver.speech.messages import SpeechProgress

_STAY_S = 15.0
_REPORT_S = 0.5
"""Seconds between two "progress" events, at least."""


class Progress(msgspec.Struct):
    """Seconds of audio that are done."""

    done: float


class PartialText(msgspec.Struct):
    """Text of the segment at hand; it may still change."""

    text: str


@dataclass(frozen=True, slots=True)
class Event:
    """Event with its name, if it has one, and its document. Of events that are `passing`, a client
    that reads slowly receives only the last."""

    name: str | None
    document: object
    passing: bool = False


class Story(Protocol):
    """Translator of progress into the events of one API."""

    def events(self, progress: Any) -> Iterator[Event]:
        """Yield the events for progress, as the work reports it."""
        ...

    def done(self, result: Any) -> Event:
        """Return the last event of work that has succeeded."""
        ...

    def failed(self, error: Refusal, request_id: str) -> Event:
        """Return the last event of work that has failed."""
        ...


async def stream_events(
    request: web.Request, work: Callable[[Callable[[Any], None]], Awaitable[Any]], story: Story
) -> web.StreamResponse:
    """Do the `work`, which tells how far it is, and tell the client."""
    events = EventStream(request)
    waiting = _Waiting(story)
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
            for event in waiting.take():
                await events.send(event.name, event.document)
        try:
            last = story.done(working.result())
        except Exception as error:
            if (known := refusal_of(error)) is None:
                raise
            request[NOTES].update(event_error=known.code)
            last = story.failed(known, request[REQUEST_ID])
        await events.send_large(last.name, last.document)
        await events.close()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    return events.response


class OurStory:
    """The events that the module describes."""

    def __init__(self) -> None:
        self._reported_at = 0.0
        self._partial = ""

    def events(self, progress: SpeechProgress) -> Iterator[Event]:
        """Yield each event only where it is news."""
        if progress.segment is not None:
            self._partial = ""
            yield Event("final", progress.segment)
        elif progress.partial and progress.partial != self._partial:
            self._partial = progress.partial
            yield Event("partial", PartialText(progress.partial), passing=True)
        now = time.monotonic()
        if now - self._reported_at >= _REPORT_S:
            self._reported_at = now
            yield Event("progress", Progress(progress.done_s), passing=True)

    def done(self, result: Any) -> Event:
        """Return the event with the document that is the answer without events."""
        return Event("done", result)

    def failed(self, error: Refusal, request_id: str) -> Event:
        """Return the event with the error document."""
        document = ErrorInside(error.code, error.message, request_id)
        return Event("error", ErrorDocument(document))


class _Waiting:
    """Events that have not been sent yet. Of each kind that is `passing` only the last is queued,
    and only until something lasting comes after it."""

    def __init__(self, story: Story) -> None:
        self._lasting: list[Event] = []
        self._passing: dict[str | None, Event] = {}
        self.some = asyncio.Event()
        self._story = story

    @property
    def events(self) -> list[Event]:
        """Pending events, in the order in which they are sent."""
        return [*self._lasting, *self._passing.values()]

    def tell(self, progress: Any) -> None:
        for event in self._story.events(progress):
            if event.passing:
                self._passing[event.name] = event
            else:
                self._passing.clear()
                self._lasting.append(event)
            self.some.set()

    def take(self) -> list[Event]:
        """Remove and return the pending events."""
        said = self.events
        self._lasting.clear()
        self._passing.clear()
        self.some.clear()
        return said
