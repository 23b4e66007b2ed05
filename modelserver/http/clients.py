"""Who a client is, and which web pages may use the API: by the settings of proxies and CORS."""

import functools
import ipaddress

from aiohttp import web

from modelserver.settings import CorsSettings, ProxySettings

_METHODS = "GET, POST, DELETE, OPTIONS"
_HEADERS = "Authorization, Content-Type, X-Request-ID, Accept, Content-Encoding, Idempotency-Key"
_EXPOSED = "X-Request-ID, Retry-After, Location, Idempotency-Replayed"
_REMEMBERED_S = 600


def client_address(request: web.BaseRequest, proxies: ProxySettings) -> str:
    """The address of the client: what the last gateway that is trusted says, or who connected."""
    client = request.remote or ""
    if not _is_in(client, proxies.trusted):
        return client
    told = ",".join(request.headers.getall("X-Forwarded-For", []))
    for part in reversed(told.split(",")):
        address = part.strip().strip('"')
        if address.startswith("["):
            address = address[1:].partition("]")[0]
        elif address.count(":") == 1:
            address = address.partition(":")[0]
        if not _is_address(address):
            break
        client = address
        if not _is_in(address, proxies.trusted):
            break
    return client


def allowed_origin(request: web.BaseRequest, cors: CorsSettings) -> str | None:
    """The page that asks, if it may; None if it may not, or is none."""
    origin = request.headers.get("Origin")
    if origin is None or not cors.origins:
        return None
    if "*" in cors.origins:
        return "*"
    return origin if origin.lower() in (o.lower().rstrip("/") for o in cors.origins) else None


def cors_headers(origin: str) -> dict[str, str]:
    """What an answer says to the page at `origin`."""
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _EXPOSED}


def preflight(origin: str) -> web.Response:
    """The answer to a browser that asks before it sends."""
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _HEADERS,
            "Access-Control-Max-Age": str(_REMEMBERED_S),
        },
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=1024)
def _is_in(address: str, networks: tuple[str, ...]) -> bool:
    try:
        one = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(one in ipaddress.ip_network(network, strict=False) for network in networks)
