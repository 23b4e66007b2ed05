"""Events of the Wyoming protocol as clients send them: read one at a time, bounded and checked.

Source: the format and the event types in the README of the package `wyoming`. That package reads
events too, but takes an event that it cannot read for the end of the connection, and leaves fields
unchecked; so a client would never learn what is wrong.
"""

import asyncio
from typing import Any, TypeVar

import msgspec

from modelserver.audio.errors import unsupported
from modelserver.audio.formats import RawFormat, raw_format
from modelserver.refusal import Refusal
from modelserver.speech.phrases import usable_keywords

TRANSCRIBE, DESCRIBE, PING = "transcribe", "describe", "ping"
AUDIO_START, AUDIO_CHUNK, AUDIO_STOP = "audio-start", "audio-chunk", "audio-stop"

_MOST_DATA_BYTES = 64 * 1024
_MOST_PAYLOAD_BYTES = 1024 * 1024
_ENCODINGS = {1: "u8", 2: "s16le", 3: "s24le", 4: "s32le"}
"""Encodings by bytes per sample, as in WAV files and in the package's own converter."""

_Kind = TypeVar("_Kind")


class BadEvent(Refusal):
    """An event cannot be read or lacks a field."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_request", message)


class ClientEvent(msgspec.Struct):
    """An event: its type, its fields and the bytes that follow them."""

    type: str
    data: dict[str, Any]
    payload: bytes = b""


class _Header(msgspec.Struct):
    type: str
    data: dict[str, Any] | None = None
    data_length: int | None = None
    payload_length: int | None = None


class Wanted(msgspec.Struct, frozen=True):
    """The content of a `transcribe` event: a model's name, or any model's language; and names and
    terms that are likely to be said."""

    name: str | None = None
    language: str | None = None
    transcript_names: list[Any] | None = None
    transcript_terms: list[Any] | None = None

    @property
    def keywords(self) -> tuple[str, ...]:
        """The names, then the terms, as far as they can be used: a client of this protocol reads
        no error before it has sent all of its audio."""
        return usable_keywords([*(self.transcript_names or ()), *(self.transcript_terms or ())])


class _Ping(msgspec.Struct):
    text: str | None = None


class _Form(msgspec.Struct):
    rate: int
    width: int
    channels: int


async def read_event(reader: asyncio.StreamReader) -> ClientEvent | None:
    """Return the next event, or None at the end of the connection.

    Raises `BadEvent`, and `asyncio.IncompleteReadError` if the connection ends within an event.
    """
    try:
        line = await reader.readline()
    except ValueError:  # longer than the reader's limit
        raise BadEvent("an event's first line is too long: put its fields into data") from None
    if not line:
        return None
    header = _decoded(line, _Header)
    data = header.data or {}
    if header.data_length:
        more = await _part(reader, "data_length", header.data_length, _MOST_DATA_BYTES)
        data |= _decoded(more, dict[str, Any])
    payload = b""
    if header.payload_length:
        length = header.payload_length
        payload = await _part(reader, "payload_length", length, _MOST_PAYLOAD_BYTES)
    return ClientEvent(header.type, data, payload)


def wanted_of(event: ClientEvent) -> Wanted:
    """Return what a `transcribe` event asks for. Raises `BadEvent`."""
    return _fields(event, Wanted)


def ping_text(event: ClientEvent) -> str | None:
    """Return what a `pong` repeats. Raises `BadEvent`."""
    return _fields(event, _Ping).text


def samples_of(event: ClientEvent) -> RawFormat:
    """Return the form of the samples that an `audio-start` or `audio-chunk` event names.

    Raises `BadEvent` if a field is missing, and `AudioError` for a form that is not supported.
    """
    form = _fields(event, _Form)
    encoding = _ENCODINGS.get(form.width)
    if encoding is None:
        known = ", ".join(map(str, _ENCODINGS))
        raise unsupported(f"samples of {form.width} bytes (width); allowed are {known}")
    return raw_format(encoding, form.rate, form.channels)


async def _part(reader: asyncio.StreamReader, name: str, length: int, most: int) -> bytes:
    if not 0 < length <= most:
        raise BadEvent(f"{name} is {length}; at most {most} bytes are allowed")
    return await reader.readexactly(length)


def _decoded(data: bytes, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadEvent(f"this is not an event of the Wyoming protocol: {error}") from None


def _fields(event: ClientEvent, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.convert(event.data, kind, strict=False)
    except msgspec.MsgspecError as error:
        raise BadEvent(f"{event.type}: {error}") from None
