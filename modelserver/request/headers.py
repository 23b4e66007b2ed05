"""Values of headers that name something and have parameters, as clients really write them."""

import re
from urllib.parse import unquote_to_bytes

_PARAMETER = re.compile(rb';\s*([A-Za-z0-9_*-]+)\s*=\s*("(?:\\["\\]|[^"])*"?|[^;]*)')


def media_type(value: str) -> str:
    """Return a media type without its parameters, in lower case."""
    return value.partition(";")[0].strip().lower()


def parameter(value: str, name: str) -> str | None:
    """Return a parameter of a media type; None if it has none of that name."""
    for found, text in _PARAMETER.findall(b";" + value.partition(";")[2].encode("latin-1")):
        if found.decode("latin-1").lower() == name:
            return str(text.strip().strip(b'"').decode("latin-1"))
    return None


def disposition(value: bytes) -> tuple[str | None, str | None]:
    """Name and file name of a Content-Disposition (RFC 7578, RFC 5987), and of what clients make
    of it: unquoted with spaces and semicolons, quotes and backslashes inside, any encoding."""
    found: dict[str, bytes] = {}
    last, at = "", value.find(b";")
    while at >= 0 and (match := _PARAMETER.search(value, at)) is not None:
        between = value[at : match.start()]
        if last and between.strip(b"; \t"):  # the rest of an unquoted name with a semicolon in it
            found[last] += between
        last = match[1].decode("latin-1").lower()
        text = match[2]
        if text[:1] == b'"':
            text = text[1:-1] if text[-1:] == b'"' and len(text) > 1 else text[1:]
            text = re.sub(rb'\\(["\\])', rb"\1", text)
        found.setdefault(last, text.strip())
        at = match.end()
    if last and at >= 0 and value[at:].strip(b"; \t"):
        found[last] += value[at:]
    extended = found.get("filename*")
    if extended is not None:
        return _text(found.get("name")), _extended(extended)
    return _text(found.get("name")), _text(found.get("filename"))


def _extended(value: bytes) -> str:
    charset, _, rest = value.partition(b"'")
    data = unquote_to_bytes(rest.partition(b"'")[2] if b"'" in rest else value)
    try:
        return data.decode(charset.decode("ascii") or "utf-8")
    except (LookupError, UnicodeDecodeError):
        return _text(data) or ""


def _text(data: bytes | None) -> str | None:
    if data is None:
        return None
    for encoding in ("utf-8", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")
