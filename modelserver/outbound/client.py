"""Requests of the server to other servers, on behalf of the sender of a job.

The address that was looked at is the one that is connected to, so that a name cannot become
another's in between.
"""

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from modelserver import __version__
from modelserver.outbound.hosts import AllowedHosts
from modelserver.outbound.reasons import in_words

_MOST_REDIRECTS = 5


class Failed(Exception):
    """A request to another server has failed; the text says why."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits on slow answers, as for uploads: some bytes within `idle_s` seconds, and after that at
    least `least_bytes_s` bytes per second."""

    idle_s: float
    least_bytes_s: float


class _Pace:
    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._began, self._received = time.monotonic(), 0

    def came(self, size: int, host: str) -> None:
        """Raises `Failed` where all came too slowly so far."""
        self._received += size
        took, patience = time.monotonic() - self._began, self._patience
        if took > patience.idle_s and self._received < patience.least_bytes_s * took:
            raise Failed(
                f"{host} has sent {self._received} bytes in {took:.0f} s; "
                f"{patience.least_bytes_s:g} per second are required (limits.upload_min_bytes_s)"
            )


class _Resolver(AbstractResolver):
    def __init__(self, hosts: Callable[[], AllowedHosts]) -> None:
        self._hosts = hosts
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        for one in found:
            self._hosts().check_address(ipaddress.ip_address(one["host"].partition("%")[0]), host)
        return found

    async def close(self) -> None:
        await self._system.close()


def as_given(checked: URL, text: str) -> URL:
    """Return the URL that `text` names, byte for byte, because a signature may cover it. Host and
    port are those that were `checked`; only characters that no URL may contain (spaces, control
    characters, letters beyond ASCII) are encoded."""
    rest = text.strip().partition("#")[0].partition("//")[2]
    start = next((at for at, letter in enumerate(rest) if letter in "/?"), len(rest))
    path, mark, query = _encoded(rest[start:]).partition("?")
    authority = str(checked.origin()) + (path or "/")
    return URL(authority + mark + query, encoded=True)


def _encoded(text: str) -> str:
    return "".join(
        letter
        if "!" <= letter <= "~"
        else "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogateescape"))
        for letter in text
    )


class OutboundClient:
    """Use as `async with`."""

    def __init__(self, hosts: Callable[[], AllowedHosts]) -> None:
        """Contact only the hosts that `hosts` returns."""
        self._hosts = hosts
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "OutboundClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolver = _Resolver(self._hosts)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=resolver, use_dns_cache=False, force_close=True
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"modelserver/{__version__}"},
                auto_decompress=False,
            )
        return self._session

    def _checked(self, text: str) -> URL:
        return as_given(self._hosts().check(text), text)

    async def fetch(self, text: str, patience: Patience) -> AsyncIterator[bytes]:
        """Yield the content of a URL, at an upload's pace. Raises `Refused` or `Failed`."""
        idle_s = patience.idle_s
        waits = aiohttp.ClientTimeout(total=None, sock_connect=idle_s, sock_read=idle_s)
        url = self._checked(text)
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                async with contextlib.AsyncExitStack() as held:
                    request = self._opened().get(
                        url,
                        allow_redirects=False,
                        timeout=waits,
                        headers={"Accept-Encoding": "identity"},
                    )
                    async with asyncio.timeout(idle_s):
                        response = await held.enter_async_context(request)
                    if response.status in (301, 302, 303, 307, 308):
                        text = urljoin(str(url), response.headers.get("Location", ""))
                        url = self._checked(text)
                        continue
                    if response.status != 200:
                        raise Failed(f"{url.host} answered with {response.status}")
                    pace = _Pace(patience)
                    async for chunk in response.content.iter_any():
                        pace.came(len(chunk), url.host or "")
                        yield chunk
                    return
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Failed(f"the download from {url.host} failed: {in_words(error)}") from error
        except ValueError as error:
            raise Failed(f"{url.host} redirects to what is not a URL") from error
        raise Failed(f"{url.host} redirects more than {_MOST_REDIRECTS} times")

    async def post(
        self, text: str, body: bytes, headers: dict[str, str], timeout_s: float
    ) -> tuple[int, str | None]:
        """Status and Retry-After of the answer. Raises `Refused` or `Failed`."""
        url = self._checked(text)
        try:
            async with self._opened().post(
                url,
                data=body,
                headers={"Content-Type": "application/json", **headers},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                return response.status, response.headers.get("Retry-After")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Failed(in_words(error)) from error
