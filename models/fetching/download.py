"""Download of one file over HTTP, which resumes where an earlier attempt broke off.

A part of a file is stored only if the server can be asked for the rest of that very file: if it has
sent a validator (ETag or Last-Modified, RFC 9110, 8.8) and accepts ranges. Proxies are those of the
environment (HTTPS_PROXY, NO_PROXY).
"""

import asyncio
import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from models.contract import ModelError
from models.durable import free_for_us

if TYPE_CHECKING:  # imported by a download only: it takes longer than all else that commands import
    import aiohttp

Progress = Callable[[int, int], None]
"""Receiver of the bytes that are here, and of the total (0: not known)."""

ATTEMPTS, ATTEMPTS_ELSEWHERE = 5, 2
"""Attempts in a row without progress before it fails; the second if another server can be tried."""
_ATTEMPTS_NAMELESS = 2
"""Attempts if the server's name has no address: mostly a machine without a network."""
_FIRST_PAUSE_S = 0.5
_CONNECT_S, _STALL_S = 20.0, 30.0
_BLOCK_BYTES = 1 << 18
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of a file, in bytes. `size`: the exact size, None if it is not known; `most`: the
    largest size that is accepted."""

    size: int | None
    most: int


class _State(msgspec.Struct, frozen=True):
    """Identity of the file that a stored part belongs to."""

    url: str
    validator: str


class _Broken(Exception):
    """Connection that brought less than it should; the text says how."""


def partial_of(file: Path) -> Path:
    """Return the file in which a part of `file` is stored."""
    return file.with_name(f"{file.name}.partial")


async def download(
    url: str,
    file: Path,
    bounds: Bounds,
    on_progress: Progress,
    *,
    stall_s: float = _STALL_S,
    pause_s: float = _FIRST_PAUSE_S,
    attempts: int = ATTEMPTS,
) -> None:
    """Download `url` to `file`. Raises `ModelError`, `OSError`.

    A connection that brings nothing for `stall_s` seconds counts as dead. After `attempts` attempts
    in a row without progress it fails. Anything that cannot be the requested file is deleted.
    """
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=stall_s)
    running = _Attempts(url, file, bounds, on_progress)
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
            fruitless = 0
            while True:
                before = running.here
                try:
                    await running.one(session)
                except (_Broken, aiohttp.ClientError, TimeoutError) as error:
                    fruitless = 0 if running.here > before else fruitless + 1
                    nameless = isinstance(error, aiohttp.ClientConnectorDNSError)
                    if fruitless >= (min(attempts, _ATTEMPTS_NAMELESS) if nameless else attempts):
                        raise running.given_up(error) from error
                    await asyncio.sleep(pause_s * 2**fruitless)
                else:
                    break
        partial_of(file).rename(file)
        _forget(file)
    except ModelError as error:
        if error.code != "download_broken":
            discard(file)
        raise
    except aiohttp.InvalidURL as error:
        raise ModelError("bad_url", f"{url} is not a URL") from error


def discard(file: Path) -> None:
    """Delete the file, its part, and the record of its identity."""
    for path in (file, partial_of(file)):
        path.unlink(missing_ok=True)
    _forget(file)


class _Attempts:
    def __init__(self, url: str, file: Path, bounds: Bounds, on_progress: Progress) -> None:
        self._url = url
        self._file = file
        self._partial = partial_of(file)
        self._bounds = bounds
        self._on_progress = on_progress
        self._state = _read_state(file)
        if self._state is None or self._state.url != url:
            self._partial.unlink(missing_ok=True)
            self._state = None

    @property
    def here(self) -> int:
        """Bytes that are here."""
        with contextlib.suppress(FileNotFoundError):
            return self._partial.stat().st_size
        return 0

    def given_up(self, error: Exception) -> ModelError:
        """Return the error to raise; a part that cannot be resumed is deleted."""
        why = _in_words(error)
        if self._state is None or self.here == 0:
            discard(self._file)
            return ModelError("download_failed", f"{self._url} cannot be downloaded: {why}")
        return ModelError(
            "download_broken",
            f"{self._url} broke off again and again ({why}); {self.here} bytes of it are stored: "
            "the same command resumes from there",
        )

    async def one(self, session: "aiohttp.ClientSession") -> None:
        """Request the missing bytes, and store them."""
        start = self.here if self._state is not None else 0
        headers = {"Accept-Encoding": "identity"}
        if start and self._state is not None:
            headers |= {"Range": f"bytes={start}-", "If-Range": self._state.validator}
        async with session.get(self._url, headers=headers) as response:
            if response.status == 416:
                discard(self._file)
                self._state = None
                raise _Broken("the server has no such part of it")
            if response.status in (408, 429) or response.status >= 500:
                raise _Broken(f"the server answered {response.status} {response.reason}")
            if response.status not in (200, 206):
                raise ModelError(
                    "download_failed",
                    f"{self._url} cannot be downloaded: the server answered {response.status} "
                    f"{response.reason}",
                )
            if response.status == 200:
                start = 0
            if self._url.startswith("https:") and response.url.scheme != "https":
                raise ModelError(
                    "insecure_redirect", f"{self._url} leads to {response.url}, which is not https"
                )
            total = self._total(response, start)
            if total is not None:
                self._must_have_room(total - start)
            self._remember(response)
            await self._take(response, start, total)

    def _total(self, response: "aiohttp.ClientResponse", start: int) -> int | None:
        """Return the size of the whole file. Raises `ModelError` if that size is wrong."""
        total = None if response.content_length is None else start + response.content_length
        if response.status == 206:
            match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if self._state is not None and self._another(response, self._state.validator):
                discard(self._file)
                self._state = None
                raise _Broken("the file has changed on the server")
            if match is None or int(match[1]) != start:
                raise ModelError("lying_server", f"{self._url}: the server sent another part of it")
            total = None if match[3] == "*" else int(match[3])
        size = self._bounds.size
        if size is not None and total is not None and total != size:
            raise ModelError(
                "wrong_size", f"{self._url} has {total} bytes; {size} are known to be right"
            )
        self._must_be_small(total or 0)
        return total if total is not None else size

    @staticmethod
    def _another(response: "aiohttp.ClientResponse", validator: str) -> bool:
        """Return whether the response is of another file than the stored part."""
        told = [response.headers[n] for n in ("ETag", "Last-Modified") if n in response.headers]
        return bool(told) and validator not in told

    def _must_have_room(self, missing: int) -> None:
        """Raise `ModelError` if the disk has too little room, before the first byte is written."""
        free = free_for_us(self._partial.parent)
        if missing > free:
            raise ModelError(
                "no_space", f"{self._url} needs {missing} bytes more, and {free} may be used"
            )

    def _must_be_small(self, count: int) -> None:
        most = self._bounds.size or self._bounds.most
        if count > most:
            raise ModelError("too_large", f"{self._url} is larger than {most} bytes, the most here")

    def _remember(self, response: "aiohttp.ClientResponse") -> None:
        """Record how the file is identified, if its download can be resumed."""
        etag = response.headers.get("ETag", "")
        strong = etag if not etag.startswith("W/") else ""
        validator = strong or response.headers.get("Last-Modified", "")
        ranges = response.status == 206 or response.headers.get("Accept-Ranges") == "bytes"
        self._state = _State(self._url, validator) if validator and ranges else None
        if self._state is None:
            _forget(self._file)
        else:
            _state_of(self._file).write_bytes(msgspec.json.encode(self._state))

    async def _take(
        self, response: "aiohttp.ClientResponse", start: int, total: int | None
    ) -> None:
        here = start
        with self._partial.open("r+b" if start else "wb") as writer:
            writer.seek(start)
            async for block in response.content.iter_chunked(_BLOCK_BYTES):
                here += len(block)
                self._must_be_small(here)
                # A block of this size goes into the page cache at once; nothing else runs here.
                writer.write(block)
                self._on_progress(here, total or 0)
            writer.truncate()
        if total is not None and here < total:
            raise _Broken(f"{here} of {total} bytes came")
        if total is not None and here > total:
            raise ModelError(
                "lying_server", f"{self._url}: received {here} bytes, {total} were announced"
            )


def _in_words(error: Exception) -> str:
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0  # negative if the name is not known
        why = os.strerror(number) if number > 0 else error.strerror
        return f"no connection to {error.host}:{error.port}: {why}"
    return str(error) or type(error).__name__


def _state_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _read_state(file: Path) -> _State | None:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(_state_of(file).read_bytes(), type=_State)
    return None


def _forget(file: Path) -> None:
    _state_of(file).unlink(missing_ok=True)
