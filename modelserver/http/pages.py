"""The pages: files of ours, with headers that let nothing else in."""

import gzip
import hashlib
import importlib.resources
import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from modelserver.http.middleware import expect_continue
from modelserver.web import PAGES

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'{sockets}; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""Frames of the same site may show a page, as Home Assistant does."""
_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")
_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


class _File:
    """A file of a page, which is stored in the package as it is or compressed."""

    def __init__(self, name: str) -> None:
        stored = importlib.resources.files("modelserver.web").joinpath(name).read_bytes()
        plain_name = name.removesuffix(".gz")
        self.kind = _KINDS[plain_name.rpartition(".")[2]]
        self.tag = hashlib.sha256(stored).hexdigest()[:16]
        self._plain = stored if plain_name == name else None
        self._compressed = None if plain_name == name else stored

    def plain(self) -> bytes:
        """Return the file for clients that accept no compression: few."""
        return self._plain if self._plain is not None else gzip.decompress(self.compressed())

    def compressed(self) -> bytes:
        """Return the compressed file, which is made when it is first asked for."""
        if self._compressed is None:
            self._compressed = gzip.compress(self.plain(), mtime=0)
        return self._compressed


def add_pages(app: web.Application) -> None:
    """Add the routes of the pages. They contain nothing that needs a key."""
    for path, name in PAGES.items():
        app.router.add_get(path, page(name), expect_handler=expect_continue)


def page(name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Answers with that file, and headers that let the page use this server and nothing else."""
    file = _File(name)

    async def answer(request: web.Request) -> web.Response:
        given = request.if_none_match
        if given and any(tag.value == file.tag for tag in given):
            response = web.Response(status=304)
        elif "gzip" in request.headers.get("Accept-Encoding", ""):
            response = web.Response(body=file.compressed(), content_type=file.kind, charset="utf-8")
            response.headers["Content-Encoding"] = "gzip"
        else:
            response = web.Response(body=file.plain(), content_type=file.kind, charset="utf-8")
        response.etag = file.tag
        response.headers.update(
            {
                "Vary": "Accept-Encoding",
                "Cache-Control": "no-cache",
                "Content-Security-Policy": _policy(request),
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
            }
        )
        return response

    return answer


def _policy(request: web.Request) -> str:
    """Return the policy; it names WebSockets of this host, which Safari does not count as `'self'`.

    Any port: a gateway may have left it out of the Host header.
    """
    host = _HOST.fullmatch(request.headers.get("Host", ""))
    sockets = f" ws://{host[1]}:* wss://{host[1]}:*" if host else ""
    return _POLICY.format(sockets=sockets)
