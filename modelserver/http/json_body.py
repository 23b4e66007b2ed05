"""A JSON body with audio in it, `{"audio": "BASE64", ...}`, taken apart as it comes: the audio may
be larger than should be held at once. One object, without others inside."""

from collections.abc import Iterator
from enum import Enum

import msgspec

from modelserver.http.errors import ApiError

AUDIO_KEYS = ("audio", "file", "data", "audio_base64", "audio_data", "content")

_SPACE = b" \t\r\n"
_LONGEST = 64 * 1024

Found = tuple[str, str] | bytes
"""A field with its value as text, or some of the audio's characters."""


class _Expects(Enum):
    START = "{"
    KEY = "a key"
    COLON = ":"
    VALUE = "a value"
    AUDIO = "the audio's text"
    NEXT = ", or }"
    NOTHING = "nothing more"


class JsonBody:
    """Fed with the body's bytes. Raises `ApiError`."""

    def __init__(self) -> None:
        self._expects = _Expects.START
        self._data = b""
        self._key = ""
        self._first = True
        self.found_audio = False

    def feed(self, data: bytes) -> Iterator[Found]:
        """What the next bytes bring."""
        self._data += data
        while True:
            if self._expects is _Expects.AUDIO:
                if (text := self._audio()) is not None:
                    yield text
                    continue
                return
            before = (self._expects, len(self._data))
            field = self._step()
            if field is not None:
                yield field
            if before == (self._expects, len(self._data)):
                if len(self._data) > _LONGEST:
                    raise _bad("a value is too long")
                return

    def finish(self) -> None:
        """There is no more."""
        if self._expects is not _Expects.NOTHING:
            raise ApiError("incomplete_body", f"the JSON ended where {self._expects.value} was due")

    def _step(self) -> tuple[str, str] | None:
        """One token, if all of it is there."""
        data = self._data = self._data.lstrip(_SPACE)
        if not data:
            return None
        match self._expects:
            case _Expects.START:
                self._must_be(data[:1], b"{")
                self._move(1, _Expects.KEY)
            case _Expects.KEY if data[:1] == b"}" and self._first:
                self._move(1, _Expects.NOTHING)
            case _Expects.KEY:
                self._must_be(data[:1], b'"')
                if (end := _string_end(data)) is not None:
                    self._key, self._first = str(_decoded(data[:end])), False
                    self._move(end, _Expects.COLON)
            case _Expects.COLON:
                self._must_be(data[:1], b":")
                self._move(1, _Expects.VALUE)
            case _Expects.VALUE:
                return self._value(data)
            case _Expects.NEXT:
                self._must_be(data[:1], b",}")
                self._move(1, _Expects.KEY if data[:1] == b"," else _Expects.NOTHING)
            case _:
                raise _bad("something follows the object")
        return None

    def _value(self, data: bytes) -> tuple[str, str] | None:
        if data[:1] in (b"{", b"["):
            raise _bad(f"{self._key!r} is neither text nor a number")
        if data[:1] == b'"':
            if self._key.lower() in AUDIO_KEYS:
                if self.found_audio:
                    raise ApiError("too_many_files", "the JSON holds audio twice")
                self.found_audio = True
                self._move(1, _Expects.AUDIO)
                return None
            end = _string_end(data)
        else:
            ends = [at for at in (data.find(c) for c in (b",", b"}", *_EACH_SPACE)) if at >= 0]
            end = min(ends) if ends else None
        if end is None:
            return None
        value = _decoded(data[:end])
        self._move(end, _Expects.NEXT)
        if value is None:
            return None
        if isinstance(value, bool):
            return self._key, "true" if value else "false"
        return self._key, str(value)

    def _audio(self) -> bytes | None:
        """Some of the string, without its escapes; None where more has to come."""
        end, escape = self._data.find(b'"'), self._data.find(b"\\")
        if escape >= 0 and (end < 0 or escape < end):
            if escape:
                return self._taken(escape, 0)
            if len(self._data) < 2:
                return None
            character = self._data[1:2]
            if character == b"u":
                if len(self._data) < 6:
                    return None
                text = _decoded(b'"' + self._data[:6] + b'"')
                self._data = self._data[6:]
                return str(text).encode()
            self._data = self._data[2:]
            return b"" if character in b"nrtbf" else character
        if end >= 0:
            text = self._taken(end, 1)
            self._expects = _Expects.NEXT
            return text
        return self._taken(len(self._data), 0) if self._data else None

    def _taken(self, length: int, more: int) -> bytes:
        text, self._data = self._data[:length], self._data[length + more :]
        return text

    def _move(self, length: int, expects: _Expects) -> None:
        self._data, self._expects = self._data[length:], expects

    def _must_be(self, byte: bytes, allowed: bytes) -> None:
        if byte not in [allowed[at : at + 1] for at in range(len(allowed))]:
            raise _bad(f"{byte.decode('latin-1')!r} where {self._expects.value} was due")


_EACH_SPACE = (b" ", b"\t", b"\r", b"\n")


def _string_end(data: bytes) -> int | None:
    """Where the string at the beginning of `data` ends; None where that is still to come."""
    at = 1
    while (at := data.find(b'"', at)) >= 0:
        escapes = len(data[:at]) - len(data[:at].rstrip(b"\\"))
        at += 1
        if escapes % 2 == 0:
            return at
    return None


def _decoded(text: bytes) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(str(error)) from error


def _bad(why: str) -> ApiError:
    return ApiError("bad_request", f"the JSON cannot be read: {why}")
