"""A running server as an engine: each file is a job there, so that no restart loses it."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, Any

import aiohttp
import msgspec
from yarl import URL

from modelserver import __version__
from modelserver.batch.engine import Engine
from modelserver.batch.errors import EngineUnusable, NotTranscribed
from modelserver.batch.files import STDIN
from modelserver.batch.journal import Note
from modelserver.outbound.reasons import in_words
from modelserver.speech.messages import Speech

_AT_ONCE = 8
"""Files at once: enough that the server's workers never wait for the next one."""
_LOOK_S = 0.3
_LONGEST_LOOK_S = 3.0
_AWAY_S = 300.0
"""Longest absence of a server that has answered before."""
_BUSY_S = 3600.0
"""Longest time for which a server may answer that it is busy."""
_AGAIN = (429, 502, 503, 504)


class Server(Engine):
    """An engine that sends each file to a server as a job."""

    def __init__(self, url: str, key: str | None, parameters: dict[str, str]) -> None:
        """Send jobs to `url`, each with these `parameters`."""
        self._url = URL(url.rstrip("/"))
        self._key, self._parameters = key, parameters
        self._session: aiohttp.ClientSession | None = None
        self.at_once = _AT_ONCE

    async def __aenter__(self) -> "Server":
        headers = {"User-Agent": f"modelserver/{__version__}"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
        try:
            self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)
            async with self._session.get(self._jobs(), params={"limit": "1"}) as answer:
                await self._must_be_ours(answer)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            await self.__aexit__()
            raise EngineUnusable(f"{self._url}: {in_words(error)}") from error
        except EngineUnusable:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def transcribe(
        self, file: str, expected_s: float, note: Note, moved: Callable[[float], None]
    ) -> Speech:
        """See `Engine`."""
        while True:
            if note.job is None:
                note.sent(await self._send(file, note))
            assert note.job is not None
            job = await self._end_of(note.job, expected_s, moved)
            if job is not None:
                break
            note.sent(None)  # it was forgotten there: once more
        if "error" in job:
            raise NotTranscribed(job["error"]["message"])
        said = job["result"]
        said["duration_s"] = said.pop("duration")
        return msgspec.convert(said, Speech)

    async def delivered(self, note: Note) -> None:
        """Delete the job on the server."""
        if note.job is not None:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with self._opened().delete(self._jobs(note.job)):
                    pass

    # --- one job --------------------------------------------------------------------------------

    async def _send(self, file: str, note: Note) -> str:
        """Send a file; return its job's id. Raises `OSError` or one of this package's errors."""
        headers = {"Idempotency-Key": note.key, "Content-Type": "application/octet-stream"}
        piped = file == STDIN or not await asyncio.to_thread(Path(file).is_file)
        patience = _Patience(self._url)
        while True:
            if file == STDIN:
                opened: IO[bytes] = sys.stdin.buffer
            else:
                opened = await asyncio.to_thread(Path(file).open, "rb")
            try:
                async with self._opened().post(
                    self._jobs(), params=self._parameters, data=_blocks(opened), headers=headers
                ) as answer:
                    if answer.status == 202:
                        return str((await answer.json())["id"])
                    error = await _error(answer)
                    if answer.status == 409:
                        await asyncio.sleep(1.0)  # the same request is still on its way
                        continue
                    if answer.status not in _AGAIN or piped:
                        raise NotTranscribed(error)
                    await patience.busy(error, answer.headers.get("Retry-After"))
            except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                if piped:  # what was read from it is gone
                    raise NotTranscribed(f"{self._url}: {in_words(error)}") from error
                await patience.away(error)
            finally:
                if file != STDIN:
                    opened.close()

    async def _end_of(
        self, job_id: str, expected_s: float, moved: Callable[[float], None]
    ) -> dict[str, Any] | None:
        """Wait for a job to end; None if the server has none of that id."""
        patience, look_s = _Patience(self._url), _LOOK_S
        while True:
            try:
                async with self._opened().get(self._jobs(job_id), params=_ALL) as answer:
                    if answer.status == 404:
                        return None
                    if answer.status == 200:
                        patience.there()
                        job: dict[str, Any] = await answer.json()
                        moved(job["progress"] * (expected_s or job.get("duration", 0.0)))
                        if job["state"] in ("done", "failed"):
                            return job
                    elif answer.status in _AGAIN:
                        said = answer.headers.get("Retry-After")
                        await patience.busy(await _error(answer), said)
                    else:
                        await self._must_be_ours(answer)
            except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                await patience.away(error)
            await asyncio.sleep(look_s)
            look_s = min(_LONGEST_LOOK_S, look_s * 1.2)

    def _jobs(self, job_id: str = "") -> URL:
        jobs = self._url / "v1" / "jobs"
        return jobs / job_id if job_id else jobs

    def _opened(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    async def _must_be_ours(self, answer: aiohttp.ClientResponse) -> None:
        """Raise `EngineUnusable` for a server that does not accept or show jobs."""
        if answer.status == 200 or answer.status in _AGAIN:
            return
        if answer.status == 404:
            raise EngineUnusable(f"{self._url} is not a server that accepts jobs")
        raise EngineUnusable(f"{self._url}: {await _error(answer)}")


_ALL = {"words": "true", "segments": "true", "format": "json"}


class _Patience:
    """Bounded waiting for a server that is away or busy."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._since = time.monotonic()
        self._wait_s = 0.5

    def there(self) -> None:
        """Start again: the server has answered."""
        self._since, self._wait_s = time.monotonic(), 0.5

    async def away(self, error: BaseException) -> None:
        """Wait before the next attempt. Raises `EngineUnusable` after `_AWAY_S`."""
        if time.monotonic() - self._since > _AWAY_S:
            raise EngineUnusable(f"{self._url}: {in_words(error)}")
        await asyncio.sleep(self._wait_s)
        self._wait_s = min(5.0, self._wait_s * 1.5)

    async def busy(self, error: str, retry_after: str | None) -> None:
        """Wait as long as the server asks. Raises `EngineUnusable` after `_BUSY_S`."""
        if time.monotonic() - self._since > _BUSY_S:
            raise EngineUnusable(f"{self._url}: {error}")
        wait_s = float(retry_after) if retry_after and retry_after.isdecimal() else 2.0
        await asyncio.sleep(min(60.0, wait_s))


async def _blocks(opened: IO[bytes]) -> AsyncIterator[bytes]:
    while block := await asyncio.to_thread(opened.read, 1 << 18):
        yield block


async def _error(answer: aiohttp.ClientResponse) -> str:
    """Return the message of an error document, or the status of another answer."""
    try:
        return str((await answer.json())["error"]["message"])
    except (aiohttp.ContentTypeError, ValueError, KeyError, TypeError):
        return f"the server answered with {answer.status}"
