"""Authentication on the admin side: the token in each request, or a cookie that a browser gets for
it once."""

import asyncio
import hmac
import secrets
import time
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from modelserver.access.gate import bearer_of
from modelserver.refusal import Refusal

log: structlog.stdlib.BoundLogger = structlog.get_logger("admin")

_COOKIE = "modelserver_admin"
_SESSION_S = 12 * 3600.0
_MOST_SESSIONS = 100
_AFTER_WRONG_S = 0.5


class AdminAccess:
    """Access to the admin side by token or by session. `token`: None if none is needed (a Unix
    socket)."""

    def __init__(self, token: str | None) -> None:
        self._token = token
        self._sessions: dict[str, float] = {}
        """Until when each is good, by CLOCK_MONOTONIC."""

    @property
    def token_needed(self) -> bool:
        """Return whether requests must bring the token."""
        return self._token is not None

    def is_in(self, request: web.Request) -> bool:
        """Return whether the request may read."""
        return (
            self._token is None
            # By the token alone: where a proxy stands in between, every address is its own.
            or self._is_token(bearer_of(request.headers.get("Authorization", "")))
            or self._has_session(request)
        )

    def must_be_allowed(self, request: web.Request) -> None:
        """Raise `Refusal` unless the request is authenticated and, if it changes anything, comes
        from the admin page."""
        if self.is_in(request):
            if request.method not in ("GET", "HEAD") and not _from_our_page(request):
                raise Refusal("unauthorized", "the request comes from a page of another site")
            return
        raise Refusal(
            "unauthorized",
            "send the admin token: Authorization: Bearer TOKEN",
            headers={"WWW-Authenticate": 'Bearer realm="modelserver admin"'},
        )

    async def let_in(self, request: web.Request, token: str, response: web.Response) -> None:
        """Set a session cookie, valid for half a day, in exchange for the token. Raises `Refusal`
        for a wrong one."""
        if not _from_our_page(request):
            raise Refusal("unauthorized", "the request comes from a page of another site")
        if self._token is not None and not self._is_token(token):
            log.warning("admin.token_rejected")
            await asyncio.sleep(_AFTER_WRONG_S)
            raise Refusal("unauthorized", "this is not the admin token")
        now = time.monotonic()
        self._sessions = {one: until for one, until in self._sessions.items() if until > now}
        while len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[min(self._sessions, key=lambda one: self._sessions[one])]
        session = secrets.token_urlsafe(32)
        self._sessions[session] = now + _SESSION_S
        response.set_cookie(
            _COOKIE,
            session,
            max_age=int(_SESSION_S),
            path="",  # the browser's default: the page's folder, also behind a path prefix
            httponly=True,
            samesite="Strict",
            secure=request.headers.get("X-Forwarded-Proto") == "https",
        )
        log.info("admin.login_accepted")

    def let_out(self, request: web.Request, response: web.Response) -> None:
        """End the session of the request's cookie."""
        self._sessions.pop(request.cookies.get(_COOKIE, ""), None)
        response.del_cookie(_COOKIE, path="")

    def _has_session(self, request: web.Request) -> bool:
        return self._sessions.get(request.cookies.get(_COOKIE, ""), 0.0) > time.monotonic()

    def _is_token(self, sent: str) -> bool:
        wanted = (self._token or "").strip()
        return hmac.compare_digest(_bytes(sent), _bytes(wanted))


def _from_our_page(request: web.Request) -> bool:
    """Return whether the browser says that a call which changes something comes from our page; true
    without a browser."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("Host")


def _bytes(text: str) -> bytes:
    """Return a header as bytes, which may be any."""
    return text.encode("utf-8", "surrogateescape")
