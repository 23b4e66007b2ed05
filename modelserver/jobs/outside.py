"""What the server asks of others, on behalf of whoever has sent a job.

The address that was looked at is the one that is connected to, so that a name cannot become
another's in between.
"""

import ipaddress
import socket
from collections.abc import AsyncIterator, Callable

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from modelserver import __version__
from modelserver.access.hosts import AllowedHosts
from modelserver.unreached import in_words

_MOST_REDIRECTS = 5


class Failed(Exception):
    """It was asked for, and did not come; the text says why."""


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


class Outside:
    """Use as `async with`."""

    def __init__(self, hosts: Callable[[], AllowedHosts]) -> None:
        """`hosts`: those that are allowed now."""
        self._hosts = hosts
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Outside":
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

    async def fetch(self, text: str, timeout_s: float) -> AsyncIterator[bytes]:
        """What is at that URL; nothing may take longer than that to come. Raises `Refused` or
        `Failed`."""
        waits = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        url = self._hosts().check(text)
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                async with self._opened().get(
                    url,
                    allow_redirects=False,
                    timeout=waits,
                    headers={"Accept-Encoding": "identity"},
                ) as response:
                    if response.status in (301, 302, 303, 307, 308):
                        there = response.headers.get("Location", "")
                        url = self._hosts().check(str(url.join(URL(there))))
                        continue
                    if response.status != 200:
                        raise Failed(f"{url.host} answered with {response.status}")
                    async for chunk in response.content.iter_any():
                        yield chunk
                    return
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Failed(f"{url.host} does not give it: {in_words(error)}") from error
        except ValueError as error:
            raise Failed(f"{url.host} leads to what is no URL") from error
        raise Failed(f"{url.host} leads on more than {_MOST_REDIRECTS} times")

    async def post(
        self, text: str, body: bytes, headers: dict[str, str], timeout_s: float
    ) -> tuple[int, str | None]:
        """Status and Retry-After of the answer. Raises `Refused` or `Failed`."""
        url = self._hosts().check(text)
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
