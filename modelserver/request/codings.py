"""Decoding of wrapped bodies: gzip and deflate, base64, a data: URL.

Decodes as bytes arrive; the caller bounds the output.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Iterator

from modelserver.refusal import Refusal

_MOST_AT_ONCE = 1 << 18
_AT_THE_START = 128
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=\r\n \t"
_DATA_URL = re.compile(rb"^\s*data:([^,]{0,1000}),", re.IGNORECASE)


class Inflater:
    """gzip (several members too) or deflate (with zlib's header, or, as some send it, without)."""

    def __init__(self, coding: str) -> None:
        self._gzip = coding == "gzip"
        self._stream = zlib.decompressobj(31 if self._gzip else 15)
        self._begun = False
        self._over = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next bytes expand to, in pieces of bounded size. Raises `Refusal`."""
        while data:
            if self._over:
                if not self._gzip or not data.strip(b"\0"):
                    return
                self._stream, self._over = zlib.decompressobj(31), False
            try:
                out = self._stream.decompress(data, _MOST_AT_ONCE)
            except zlib.error as error:
                if self._begun or self._gzip:
                    raise Refusal(
                        "bad_request", f"the body is not what its Content-Encoding says: {error}"
                    ) from error
                self._stream, self._begun = zlib.decompressobj(-15), True
                continue
            self._begun = True
            if out:
                yield out
            data = self._stream.unconsumed_tail
            if self._stream.eof:
                data, self._over = self._stream.unused_data, True

    def finish(self) -> None:
        """End the input. Raises `Refusal`."""
        if self._begun and not self._over:
            raise Refusal("incomplete_body", "the compressed body ended too early")


class Base64:
    """Base64, with line ends anywhere, in either alphabet, padded or not."""

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> bytes:
        """Decode the next characters. Raises `Refusal`."""
        if data.translate(None, _ALPHABET):
            raise Refusal("bad_request", "the audio is not base64, or it is damaged")
        text = self._left + data.translate(None, b"\r\n \t=")
        whole = len(text) // 4 * 4
        self._left = text[whole:]
        return self._decoded(text[:whole])

    def finish(self) -> bytes:
        """Return the rest."""
        text, self._left = self._left, b""
        return self._decoded(text + b"=" * (-len(text) % 4)) if text else b""

    def _decoded(self, text: bytes) -> bytes:
        try:
            return base64.b64decode(text.translate(bytes.maketrans(b"-_", b"+/")), validate=True)
        except binascii.Error as error:
            raise Refusal("bad_request", f"the audio is not base64: {error}") from error


class Unwrapped:
    """Bytes that may be a data: URL, or, if that is allowed, base64; else as they are."""

    def __init__(self, *, base64: bool, certain: bool = False) -> None:
        """Decode a body or a part. `base64`: decode text that looks like it; `certain`: the client
        declared it."""
        self._may_be, self._certain = base64, certain
        self._start = b""
        self._known = False
        self._decoder: Base64 | None = None

    def feed(self, data: bytes) -> bytes:
        """Decode the next bytes. Raises `Refusal`."""
        if not self._known:
            self._start = self._start + data if self._start else data  # a large one is not copied
            if not self._decide(complete=False):
                return b""
            data, self._start = self._start, b""
        return self._decoder.feed(data) if self._decoder is not None else data

    def finish(self) -> bytes:
        """Return the rest."""
        rest = b""
        if not self._known:
            self._decide(complete=True)
            rest = self._start if self._decoder is None else self._decoder.feed(self._start)
        return rest + (self._decoder.finish() if self._decoder is not None else b"")

    def _decide(self, *, complete: bool) -> bool:
        start = self._start
        if b"data:".startswith(start[:5].lower()):
            match = _DATA_URL.match(start)
            if match is None and not complete and len(start) < 2000:
                return False
            if match is not None and match[1].lower().endswith(b";base64"):
                self._start = start[match.end() :]
                self._decoder = Base64()
            self._known = True
            return True
        if self._certain:
            self._decoder, self._known = Base64(), True
            return True
        if self._may_be and len(start) < _AT_THE_START and not complete:
            if not start.translate(None, _ALPHABET):
                return False
        elif self._may_be and start.strip() and not start.translate(None, _ALPHABET):
            self._decoder = Base64()
        self._known = True
        return True
