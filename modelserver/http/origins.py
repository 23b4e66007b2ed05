"""Web pages that may use a server from a visitor's browser, by the Origin and Host headers.

A page of another site cannot read an answer without CORS, but it can send forms and open
WebSockets, and for the browser a page whose name is pointed at this machine (DNS rebinding) belongs
to this server.
"""

import ipaddress
import os
from urllib.parse import urlsplit

from aiohttp import web

from modelserver.refusal import Refusal
from modelserver.settings import CorsSettings

_METHODS = "GET, POST, DELETE, OPTIONS"
_HEADERS = "Authorization, Content-Type, X-Request-ID, Accept, Content-Encoding, Idempotency-Key"
_EXPOSED = "X-Request-ID, Retry-After, Location, Idempotency-Replayed"
_REMEMBERED_S = 600
_MOST_HEADERS = 4000
_SAFE = ("GET", "HEAD", "OPTIONS")
_LOCAL_ENDS = {
    "localhost", "local", "internal", "lan", "home", "corp", "private", "intranet", "test", "svc",
}  # fmt: skip
"""Last labels of names that cannot be registered in the public DNS (RFC 6761, 6762 and 8375, and
names that ICANN reserves)."""


def allowed_origin(request: web.BaseRequest, cors: CorsSettings) -> str | None:
    """Return the origin of the page that asks, if `cors.origins` has it; "*" where it has all."""
    origin = request.headers.get("Origin")
    if origin is None or not cors.origins:
        return None
    if "*" in cors.origins:
        return "*"
    return origin if origin.lower() in (o.lower().rstrip("/") for o in cors.origins) else None


def cors_headers(origin: str) -> dict[str, str]:
    """Return what an answer says to the page at `origin`."""
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _EXPOSED}


def preflight(request: web.BaseRequest, origin: str) -> web.Response:
    """Return the answer to a browser that asks before it sends: all headers that it names are
    allowed."""
    asked = request.headers.get("Access-Control-Request-Headers", "")
    named = [one.strip() for one in asked[:_MOST_HEADERS].split(",") if one.strip()]
    known = {one.lower() for one in _HEADERS.split(", ")}
    headers = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": ", ".join(
            [_HEADERS, *(one for one in named if one.lower() not in known)]
        ),
        "Access-Control-Max-Age": str(_REMEMBERED_S),
        "Vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Private-Network",
    }
    if request.headers.get("Access-Control-Request-Private-Network") == "true":
        headers["Access-Control-Allow-Private-Network"] = "true"
    return web.Response(status=204, headers=headers)


def refuse_other_pages(request: web.BaseRequest, cors: CorsSettings) -> None:
    """Refuse what a page of another site sends or opens: any method but GET, and WebSockets.

    Programs that are not browsers send no Origin. Raises `Refusal`.
    """
    origin = request.headers.get("Origin")
    opens_socket = "websocket" in request.headers.get("Upgrade", "").lower()
    if origin is None or (request.method in _SAFE and not opens_socket):
        return
    if allowed_origin(request, cors) is not None:
        return
    # A gateway may have changed Host; a page can change neither of these.
    if request.headers.get("Sec-Fetch-Site") == "same-origin":
        return
    host = host_name(request.headers.get("Host", ""))
    if host and host == host_name(origin.partition("://")[2]):
        return
    raise Refusal(
        "origin_refused",
        f"pages of {origin[:100]} may not use this server: add that origin to cors.origins, or let "
        "the gateway pass the Host header on",
    )


def refuse_other_names(request: web.BaseRequest, names: tuple[str, ...]) -> None:
    """Refuse a request whose Host is a name of the public DNS, but for those in `names`.

    Any page can point a name of its own at this machine; what is asked for by an address or a local
    name was not. Raises `Refusal`.
    """
    host = host_name(request.headers.get("Host", ""))
    if _is_local(host) or any(_matches(host, name.lower()) for name in names):
        return
    raise Refusal(
        "host_refused",
        f"{host[:100]} is not a name of this server: add it to server_names, or require keys "
        "(auth.keys_file)",
    )


def host_name(netloc: str) -> str:
    """Return the host of "host:port", in lower case; empty if there is none."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return netloc.lower()


def _is_local(host: str) -> bool:
    if "." not in host:
        return True  # `localhost`, a name of the local network, an IPv6 address, or none at all
    try:
        ipaddress.ip_address(host)
    except ValueError:
        last = host.rpartition(".")[2]
        own = os.uname().nodename.lower()
        return last in _LOCAL_ENDS or host.endswith(".home.arpa") or host == own
    return True


def _matches(host: str, name: str) -> bool:
    return name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:]))
