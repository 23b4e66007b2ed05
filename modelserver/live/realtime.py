"""Realtime API of OpenAI for transcription: `/v1/realtime?intent=transcription`.

The generally available shape, as OpenAI's Python and Node packages type it. Errors in an event are
answered with an "error" event, and the session continues.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec
from aiohttp import WSCloseCode, web

from modelserver.http.decoding import decoded
from modelserver.http.errors import failed, refusal_of
from modelserver.http.middleware import CLIENT_SECRET, KEY_NAME, NOT_ALLOWED, NOTES, REQUEST_ID
from modelserver.live.realtime_events import (
    Append,
    Clear,
    Cleared,
    Commit,
    EventRefusal,
    ServerEvent,
    Session,
    SessionCreated,
    SessionOptions,
    SessionUpdate,
    SessionUpdated,
    client_event,
    error_event,
    id_of,
    new_id,
)
from modelserver.live.realtime_items import RealtimeItems
from modelserver.live.realtime_options import RealtimeOptions, first_options
from modelserver.live.session import Audio, Input, LiveSession, Signal, live_session
from modelserver.live.websockets import LiveSocket, SocketClient, close_of, serve_socket
from modelserver.refusal import Refusal
from modelserver.speech.messages import Caption
from supervisor import PoolError

_SUBPROTOCOL = "realtime"
_ALL_ENDED = Caption("final", 0, "", 0.0, 0.0, finalized=True)
"""The answer to a commit for which no worker has to do anything."""


async def realtime(request: web.Request) -> web.StreamResponse:
    """Answer a stream of OpenAI's protocol."""
    return await serve_socket(request, _Client, _SUBPROTOCOL)


class _Client(SocketClient):
    session: LiveSession
    _options: RealtimeOptions

    def __init__(self, request: web.Request, socket: LiveSocket) -> None:
        super().__init__(request, socket)
        self._id = new_id("sess")
        self._expires_at = int(time.time() + self.service.settings.streams.longest_s)
        self._items = RealtimeItems()
        self._sending = asyncio.Lock()
        """Events of one cause are sent in one go."""
        self._next: RealtimeOptions | None = None
        """Options that need a new stream."""

    async def run(self) -> tuple[int, str]:
        try:
            self._options = self._first_options()
            self._items.turn_detection = self._options.turn_detection
            code, reason = await self._run_streams()
        except (Refusal, PoolError) as error:
            known = refusal_of(error) or failed()
            await self._send([*self._items.fail(known), error_event(known)])
            return close_of(known)
        if reason:  # the server ends it
            await self._send([*self._items.finish(), error_event(_expired(code, reason))])
        return code, reason

    async def _run_streams(self) -> tuple[int, str]:
        first: type[SessionCreated] | type[SessionUpdated] = SessionCreated
        while True:
            async with self._stream():
                await self._send([first(session=self._described())])
                end = await self.carry(self.session)
                if self._next is None:
                    return end
                await self.session.end()
            self._items.stream_ended()
            self._options, self._next = self._next, None
            self._items.turn_detection = self._options.turn_detection
            first = SessionUpdated

    @contextlib.asynccontextmanager
    async def _stream(self) -> AsyncIterator[None]:
        """Admit a stream to the model. Raises `supervisor.PoolError` or `NotAllowed`."""
        served = self._options.served
        self.request[NOTES].update(model=served.label)
        async with live_session(
            self.service,
            served,
            self._tell,
            self.request[REQUEST_ID],
            self.request.get(KEY_NAME),
            since=self.since,
        ) as self.session:
            yield

    def _first_options(self) -> RealtimeOptions:
        """Return the options that the query names. Raises `Refusal`."""
        if (refused := self.request.get(NOT_ALLOWED)) is not None:
            raise refused
        query = self.request.query
        if query.get("intent", "transcription") != "transcription" or "call_id" in query:
            raise EventRefusal(
                "bad_parameter", "sessions are for transcription: intent=transcription", "intent"
            )
        models = self.service.models
        options = first_options(models, query.get("model") or None)
        if (secret := self.request.get(CLIENT_SECRET)) is not None:
            options = options.updated(decoded(secret.session, SessionOptions), models)
        return options

    # --- from the client ------------------------------------------------------------------------

    def audio(self, data: bytes) -> Audio:
        raise EventRefusal(
            "bad_request", "binary messages are not read: send input_audio_buffer.append"
        )

    async def _receive(self) -> Input:
        try:
            return await super()._receive()
        except EventRefusal as refused:
            await self._send([error_event(refused)])
            return Signal.KEEPALIVE

    async def text(self, text: str) -> Input:
        try:
            return await self._obey(text)
        except EventRefusal as refused:
            await self._send([error_event(refused, id_of(text))])
            return Signal.KEEPALIVE

    async def _obey(self, text: str) -> Input:
        """Carry out a client's event. Raises `EventRefusal`."""
        match client_event(text):
            case Append(audio=data):
                return self._append(data)
            case Commit():
                return await self._end(self._items.commit())
            case Clear():
                if self._items.clear():
                    return await self._end([Cleared()])
                await self._send([Cleared()])
                return Signal.KEEPALIVE
            case SessionUpdate(session=wanted):
                return await self._update(wanted)

    def _append(self, data: bytes) -> Input:
        if not data:
            return Signal.KEEPALIVE
        if not self.session.begun:
            self.session.begin(self._options.request())
        raw = self._options.raw
        seconds = len(data) / (raw.frame_bytes * raw.rate)
        self._items.appended(seconds)
        return Audio(data, seconds)

    async def _end(self, events: list[ServerEvent]) -> Input:
        """End what the client has ended: by the worker's answer, or immediately if there is no
        worker."""
        if self.session.begun:
            await self._send(events)
            return Signal.RESET
        await self._send([*events, *self._items.caption(_ALL_ENDED)])
        return Signal.KEEPALIVE

    async def _update(self, wanted: SessionOptions) -> Input:
        before = self._options
        options = before.updated(wanted, self.service.models)
        another_model = options.served is not before.served
        if another_model or (self.session.begun and options.needs_new_stream(before)):
            self._next = options
            return Signal.LEAVE
        self._options = options
        self._items.turn_detection = options.turn_detection
        await self._send([SessionUpdated(session=self._described())])
        return Signal.KEEPALIVE

    # --- from the worker ------------------------------------------------------------------------

    async def _tell(self, answer: dict[str, Any]) -> None:
        if "kind" in answer:
            await self._send(self._items.caption(msgspec.convert(answer, Caption)))

    def _described(self) -> Session:
        return self._options.session(self._id, self._expires_at)

    async def _send(self, events: Iterable[ServerEvent]) -> None:
        async with self._sending:
            for event in events:
                await self.socket.send_text(msgspec.json.encode(event).decode())


def _expired(code: int, reason: str) -> Refusal:
    if code == WSCloseCode.GOING_AWAY:
        return Refusal("shutting_down", reason)
    return EventRefusal("session_expired", f"the session has ended: {reason}")
