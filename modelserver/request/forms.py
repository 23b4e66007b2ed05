"""A form (multipart/*) as it comes in: its parts, with names as clients really write them.

python-multipart finds the parts; what their headers mean is read here, since names come unquoted,
in any encoding, and with whatever a file system allows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from modelserver.refusal import Refusal
from modelserver.request.headers import disposition, media_type
from modelserver.speech.phrases import MOST_TEXTS

MOST_PARTS = MOST_TEXTS + 65
"""Parts of a form: a file, 64 fields, and a list with a part for each of its texts."""
_MOST_HEADERS = 256
_MOST_HEADER_BYTES = 32 * 1024
"""Most bytes of all headers of one part together. Only the three that are used are stored."""
_USED_HEADERS = ("content-disposition", "content-type", "content-transfer-encoding")


@dataclass(slots=True)
class Part:
    """Part of a form. `file_name`: None if it has none, which makes it a field; it may be empty."""

    name: str = ""
    file_name: str | None = None
    media_type: str = ""
    base64: bool = False

    @property
    def called_file(self) -> bool:
        """True if the headers say that the part is a file, rather than text."""
        return self.file_name is not None or self.media_type.startswith(("audio/", "video/"))


Event = Part | bytes | None
"""A part begins, some of its bytes, or it has ended."""


class FormParser:
    """Parser of a form, which is fed with its bytes. Raises `Refusal` for anything that is not a
    form."""

    def __init__(self, boundary: str) -> None:
        self._events: list[Event] = []
        self._part = Part()
        self._headers: dict[str, bytes] = {}
        self._name, self._value = bytearray(), bytearray()
        self._header_bytes = 0
        self._parts = 0
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary.encode("latin-1", "replace"),
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._data,
                    "on_part_end": lambda: self._events.append(None),
                    "on_end": self._end,
                },
                max_header_count=_MOST_HEADERS,
                max_header_size=_MOST_HEADER_BYTES,
            )
        except (FormParserError, ValueError) as error:
            raise _malformed(str(error)) from error

    def overhead_bytes(self, data: bytes) -> int:
        """Count the bytes of `data` that no event will show: those after the closing boundary."""
        return len(data) if self._ended else 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events of the next bytes."""
        if self._ended:
            return  # an epilogue, which says nothing
        try:
            self._parser.write(data)
        except (FormParserError, ValueError) as error:
            raise _malformed(str(error)) from error
        events, self._events = self._events, []
        yield from events

    def finish(self) -> None:
        """End the input."""
        if not self._parts:
            raise _malformed("no part of it begins with its boundary")
        if not self._ended:
            raise Refusal("incomplete_body", "the form ended before its closing boundary")

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise _malformed(f"it has more than {MOST_PARTS} parts")
        self._part = Part()
        self._headers.clear()
        self._header_bytes = 0

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, length: int) -> None:
        self._header_bytes += length
        if self._header_bytes > _MOST_HEADER_BYTES:
            raise _malformed(f"the headers of a part have more than {_MOST_HEADER_BYTES} bytes")

    def _header_end(self) -> None:
        name = self._name.decode("latin-1").strip().lower()
        if name in _USED_HEADERS:
            self._headers[name] = bytes(self._value.strip())
        self._name.clear()
        self._value.clear()

    def _headers_end(self) -> None:
        headers = self._headers
        self._part.media_type = media_type(headers.get("content-type", b"").decode("latin-1"))
        coding = headers.get("content-transfer-encoding", b"").decode("latin-1").lower()
        self._part.base64 = coding == "base64"
        if coding not in ("", "7bit", "8bit", "binary", "base64"):
            raise _malformed(f"the Content-Transfer-Encoding {coding[:40]!r} is not known")
        name, self._part.file_name = disposition(headers.get("content-disposition", b""))
        self._part.name = name or ""
        self._events.append(self._part)

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def _end(self) -> None:
        self._ended = True


def _malformed(why: str) -> Refusal:
    return Refusal("malformed_multipart", f"the form cannot be read: {why}")
