"""The Accept header."""

from aiohttp import web


def wants_plain_text(request: web.Request) -> bool:
    """Return whether the client prefers text/plain to application/json (RFC 9110, section
    12.5.1)."""
    accept = ",".join(request.headers.getall("Accept", ["*/*"]))
    if accept == "*/*":
        return False
    plain = _quality(accept, "text", "plain")
    return plain > 0 and plain > _quality(accept, "application", "json")


def wants_events(request: web.Request) -> bool:
    """Return whether the client wants the answer as events, as `EventSource` asks for it."""
    accept = ",".join(request.headers.getall("Accept", [""]))
    if "event-stream" not in accept.lower():
        return False
    return _quality(accept, "text", "event-stream", exact=True) > 0


def _quality(accept: str, kind: str, subtype: str, *, exact: bool = False) -> float:
    """Return the q of the most specific range that matches; `exact`: of the type itself only."""
    best = (-1, 0.0)
    for item in accept.split(","):
        media_range, *parameters = [piece.strip().lower() for piece in item.split(";")]
        try:
            specificity = ["*/*", f"{kind}/*", f"{kind}/{subtype}"].index(media_range)
        except ValueError:
            continue
        if exact and specificity < 2:
            continue
        best = max(best, (specificity, _q(parameters)))
    return best[1]


def _q(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
