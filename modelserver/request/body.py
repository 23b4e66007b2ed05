"""A request's body, streamed into a spool: audio as it is, a form with a file in it, or JSON."""

import re
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from enum import Enum

from aiohttp import web

from modelserver.audio.errors import not_audio
from modelserver.audio.formats import RawFormat, type_encoding
from modelserver.audio.probe import Gate, mangled
from modelserver.http.app_keys import SERVICE
from modelserver.http.middleware import unknown_expectation
from modelserver.refusal import Refusal
from modelserver.request.codings import Base64, Unwrapped
from modelserver.request.forms import FormParser, Part
from modelserver.request.headers import media_type, parameter
from modelserver.request.json_body import MOST_BYTES, JsonBody, json_too_large
from modelserver.request.parameters import LISTS
from modelserver.request.receiving import body_chunks, content_coding, is_json
from modelserver.settings import LimitSettings
from supervisor import Spool

_FORM_OVERHEAD_BYTES = 1024 * 1024
"""Bytes that the boundaries, headers and fields of a form may add to the file."""
_LONGEST_FIELD = 64 * 1024
_LONGEST_NAME = 100
"""Most characters of a parameter's name; a field with a longer one is ignored."""
_BASE64_SHARE = 4 / 3
_LISTS = (*LISTS, "timestamp_granularities", "include")
"""Fields that may be there several times, once for each value."""
_INDEX = re.compile(r"\[[0-9]{0,6}\]$")
"""Lists are sent as `name`, `name[]` or `name[0]`, `name[1]`, ..."""
_TEXT_NAMES = ("file", "audio")
"""Names of a text field that is the audio if the form has no file."""


@dataclass(slots=True)
class Received:
    """Content of a body. `seconds` of audio are a guess unless they are `known`."""

    seconds: float
    known: bool
    fields: dict[str, str] = field(default_factory=dict)


def must_be_acceptable(request: web.Request, limits: LimitSettings) -> None:
    """Refuse what can be refused for its headers. Raises `Refusal`."""
    content_coding(request)
    form, json, length = _is_form(request), is_json(request), request.content_length or 0
    most = limits.body * (_BASE64_SHARE if json else 1)
    if length > most + (_FORM_OVERHEAD_BYTES if form or json else 0):
        raise _too_large(limits)
    if json and length > MOST_BYTES:
        raise json_too_large()
    if form and not parameter(request.headers["Content-Type"], "boundary"):
        raise Refusal(
            "malformed_multipart",
            "the form's Content-Type has no boundary: do not set that header by hand, the client "
            "does it with the boundary that it uses",
        )


async def hold_continue(request: web.Request) -> web.Response | None:
    """Answer an `Expect` other than 100-continue on a route with uploads; `BodyReader.receive`
    answers `Expect: 100-continue` when the body is wanted."""
    return unknown_expectation(request)


class BodyReader:
    """Reads the body of one request into a spool."""

    def __init__(
        self,
        request: web.Request,
        spool: Spool,
        limits: LimitSettings,
        raw: RawFormat | None,
        *,
        link: str | None = None,
    ) -> None:
        """Read the body of `request` into `spool`.

        `raw`: the format of samples without a container, as far as the query says; `link`: the
        field that may replace the audio.
        """
        self._link = link
        self._request, self._spool, self._limits, self._raw = request, spool, limits, raw
        self._is_form, self._is_json = _is_form(request), is_json(request)
        wrapped = self._is_form or self._is_json
        plain = not wrapped and content_coding(request) is None
        self._length = request.content_length if plain else None
        self._gate = self._new_gate()
        self._fields: dict[str, str] = {}
        self._others = 0
        self._unwrap: Unwrapped | Base64 | None = None

    async def take(self, chunks: AsyncIterator[bytes]) -> Received:
        """Read audio from elsewhere. Raises what `receive` raises."""
        self._gate, self._unwrap = self._new_gate(), None
        async for chunk in chunks:
            await self.audio(chunk)
        seconds, known = self._gate.finish()
        return Received(seconds, known, self._fields)

    async def receive(self) -> Received:
        """Take it in, refusing as early as can be; there is nothing in the spool where a link has
        come in its place. Raises `Refusal` or `SpoolFull`."""
        chunks = body_chunks(self._request, self._limits)
        if self._is_form:
            await self._form(chunks)
        elif self._is_json:
            await self._json(chunks)
        else:
            self._unwrap = Unwrapped(base64=False)
            async for chunk in chunks:
                await self.audio(chunk)
            await self.audio_ends()
        if self._linked and not self._spool.size:
            return Received(0.0, known=False, fields=self._fields)
        seconds, known = self._gate.finish()
        return Received(seconds, known, self._fields)

    @property
    def _linked(self) -> bool:
        return self._link is not None and bool(self._fields.get(self._link))

    # --- what they are --------------------------------------------------------------------------

    async def _form(self, chunks: AsyncIterator[bytes]) -> None:
        parser = FormParser(parameter(self._request.headers["Content-Type"], "boundary") or "")
        form = _Form(self)
        async for chunk in chunks:
            self.count_others(parser.overhead_bytes(chunk))
            for event in parser.feed(chunk):
                if isinstance(event, Part):
                    form.begin(event)
                elif event is not None:
                    await form.data(event)
                else:
                    await form.end()
        parser.finish()
        if form.refused is not None and not form.file:
            raise form.refused
        if not form.found and not self._linked:
            there = ", ".join(repr(name) for name in self._fields) or "nothing"
            raise Refusal("missing_file", f"the form has no file; it has {there}")

    async def _json(self, chunks: AsyncIterator[bytes]) -> None:
        async with self._request.app[SERVICE].open_spool() as text:
            body = JsonBody(text)
            await body.receive(chunks)
            self._unwrap = Unwrapped(base64=True, certain=True)
            async for found in body.audio():
                await self.audio(found)
        for name, value in body.fields.items():
            self.count_others(len(name) + len(value))
            self.set_field(name, value)
        if not body.has_audio and not self._linked:
            raise Refusal("missing_file", 'the JSON holds no audio: {"audio": "BASE64"} does')
        await self.audio_ends()

    def count_others(self, length: int) -> None:
        """Count bytes that are not audio, which are bounded. Raises `Refusal`."""
        self._others += length
        if self._others > _FORM_OVERHEAD_BYTES:
            raise Refusal("body_too_large", "the body is too large without the audio")

    def set_field(self, name: str, value: str) -> None:
        """Store a field of text. Raises `Refusal` for a field that is repeated with another value
        and is not a list."""
        name = _INDEX.sub("", name)
        if name in self._fields and name in _LISTS:
            if len(self._fields[name]) + len(value) >= _LONGEST_FIELD:
                raise Refusal("body_too_large", f"the field {name!r} is too long")
            self._fields[name] += f"\n{value}"
            return
        if self._fields.setdefault(name, value) != value:
            raise Refusal("bad_parameter", f"{name[:60]} is given twice, with different values")

    async def begin_audio(self, unwrap: Unwrapped | Base64) -> None:
        """Treat what follows as the audio, and discard what came before."""
        await self._spool.clear()
        self._gate, self._unwrap = self._new_gate(), unwrap

    async def audio(self, chunk: bytes) -> None:
        """Take some audio. Raises `Refusal` or `SpoolFull`."""
        if self._unwrap is not None:
            chunk = self._unwrap.feed(chunk)
        if not chunk:
            return
        if self._spool.size + len(chunk) > self._limits.body:
            raise _too_large(self._limits)
        if not self._spool.size and mangled(chunk):
            raise not_audio(
                "this was a WAV file before its zero bytes and line ends were taken out: with curl "
                "write --data-binary @FILE instead of -d @FILE"
            )
        self._gate.feed(chunk)
        await self._spool.write(chunk)

    async def audio_ends(self) -> None:
        """End the audio. Raises the same."""
        unwrap, self._unwrap = self._unwrap, None
        if unwrap is not None and (rest := unwrap.finish()):
            await self.audio(rest)

    def _new_gate(self) -> Gate:
        kind = media_type(self._request.headers.get("Content-Type", ""))
        lacks_rate = self._raw is None and type_encoding(kind) is not None
        return Gate(self._limits.audio_s, self._raw, self._length, lacks_rate=lacks_rate)


class _PartIs(Enum):
    """The state of the part at hand."""

    FIELD = "field"
    FILE = "file"
    """Part of which nothing has arrived yet: an input that was left empty is not a file."""
    AUDIO = "audio"
    """The file, as it comes."""
    TEXT = "text"
    """Part of which nothing has arrived yet, and which may be the audio if there is no file."""
    TEXT_AUDIO = "text audio"
    SKIPPED = "skipped"


class _Form:
    """Classification of a form's parts: its file, and its fields. A file is a part that declares
    itself one; text that is called `file` or `audio` is the audio if there is no file."""

    def __init__(self, body: BodyReader) -> None:
        self._body = body
        self._part = Part()
        self._held = bytearray()
        self._is = _PartIs.FIELD
        self.file = self._text = False
        self.refused: Refusal | None = None
        """What speaks against text that may have been audio."""

    @property
    def found(self) -> bool:
        """True if the form holds audio."""
        return self.file or self._text

    def begin(self, part: Part) -> None:
        """Begin the next part."""
        self._part = part
        self._held.clear()
        if part.called_file:
            self._is = _PartIs.FILE
        elif not part.name or part.name.lower() in _TEXT_NAMES:
            self._is = _PartIs.SKIPPED if self.file else _PartIs.TEXT
        elif len(part.name) > _LONGEST_NAME:
            self._is = _PartIs.SKIPPED
        else:
            self._is = _PartIs.FIELD

    async def data(self, data: bytes) -> None:
        """Take some bytes of the part."""
        body = self._body
        match self._is:
            case _PartIs.FILE:
                if self.file:
                    raise Refusal("too_many_files", "the form holds more than one file")
                self.file, self._text, self._is = True, False, _PartIs.AUDIO
                coded = self._part.base64
                await body.begin_audio(Base64() if coded else Unwrapped(base64=False))
                await body.audio(data)
            case _PartIs.TEXT:
                if self._text:
                    raise Refusal("too_many_files", "the form holds more than one file")
                self._text, self._is = True, _PartIs.TEXT_AUDIO
                await body.begin_audio(Unwrapped(base64=True, certain=self._part.base64))
                await self._maybe(body.audio(data))
            case _PartIs.TEXT_AUDIO:
                await self._maybe(body.audio(data))
            case _PartIs.AUDIO:
                await body.audio(data)
            case _PartIs.SKIPPED:
                body.count_others(len(data))
            case _PartIs.FIELD:
                body.count_others(len(data))
                if len(self._held) + len(data) > _LONGEST_FIELD:
                    raise Refusal("body_too_large", f"the field {self._part.name!r} is too long")
                self._held += data

    async def _maybe(self, taken: Awaitable[None]) -> None:
        """Text that may be audio; what speaks against it is said at the end, if no file comes."""
        try:
            await taken
        except Refusal as error:
            if error.code == "body_too_large":
                raise
            self.refused, self._is = error, _PartIs.SKIPPED

    async def end(self) -> None:
        """End the part."""
        match self._is:
            case _PartIs.TEXT_AUDIO:
                await self._maybe(self._body.audio_ends())
            case _PartIs.AUDIO:
                await self._body.audio_ends()
            case _PartIs.FIELD if self._part.name:
                text = bytes(self._held).decode("utf-8", "replace")
                self._body.set_field(self._part.name, text)


def _is_form(request: web.Request) -> bool:
    return media_type(request.headers.get("Content-Type", "")).startswith("multipart/")


def _too_large(limits: LimitSettings) -> Refusal:
    return Refusal(
        "body_too_large",
        f"the body is too large: {limits.body} bytes are allowed (limits.body), and "
        f"{limits.audio_s:g} s of audio (limits.audio_s); send it compressed (FLAC, Opus, MP3), or "
        "in pieces",
    )
