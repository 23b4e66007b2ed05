"""A client that is refused while it sends 400 MB at 5 MB/s: does it see why?

    python benchmarks/slow_refusals.py [--size 400000000] [--rate 5000000]

curl, requests, httpx and aiohttp, to the server and through nginx as it is shipped, all at once.
"""

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import aiohttp
import httpx
import requests
from running import start_server
from test_gateway import nginx

_PIECE = 1 << 18


class Line:
    """A file of zeros, on a slow line."""

    def __init__(self, size: int, rate: int) -> None:
        self._size, self._rate = size, rate

    def __iter__(self) -> Iterator[bytes]:
        started, sent = time.monotonic(), 0
        while sent < self._size:
            time.sleep(max(0.0, started + sent / self._rate - time.monotonic()))
            yield bytes(min(_PIECE, self._size - sent))
            sent += _PIECE

    async def slowly(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece
            await asyncio.sleep(0)


def by_requests(url: str, line: Line, size: int) -> int:
    # Without a length, which it would send beside its chunks: refused when it is too much.
    return requests.post(url, data=iter(line), timeout=600).status_code


def by_httpx(url: str, line: Line, size: int) -> int:
    headers = {"Content-Length": str(size)}
    return httpx.post(url, content=iter(line), headers=headers, timeout=600).status_code


def by_aiohttp(url: str, line: Line, size: int) -> int:
    async def send() -> int:
        headers = {"Content-Length": str(size)}
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=line.slowly(), headers=headers) as answer,
        ):
            return answer.status

    return asyncio.run(send())


def by_curl(url: str, line: Line, size: int) -> int:
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(size)
        command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Expect:"]
        command += ["--limit-rate", str(line._rate), "--data-binary", f"@{file.name}", url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return int(done.stdout or 0)


CLIENTS: dict[str, Callable[[str, Line, int], int]] = {
    "requests": by_requests,
    "httpx": by_httpx,
    "aiohttp": by_aiohttp,
    "curl": by_curl,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=400_000_000)
    parser.add_argument("--rate", type=int, default=5_000_000)
    asked = parser.parse_args()
    lock = threading.Lock()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o755)
        server = stack.enter_context(
            start_server(
                directory, MODELSERVER_DEBUG_WARMUP="none", MODELSERVER_LIMITS_BODY="256MiB"
            )
        )
        server.wait_whole()
        gateway = stack.enter_context(nginx(directory, server.port, "1026m"))
        doors = {"directly": server.url, "nginx": f"http://127.0.0.1:{gateway.port}"}

        def one(door: str, client: str) -> None:
            started = time.monotonic()
            line = Line(asked.size, asked.rate)
            try:
                said = str(CLIENTS[client](f"{doors[door]}/api/audio/convert", line, asked.size))
            except (OSError, httpx.HTTPError, aiohttp.ClientError) as error:
                said = repr(error)[:100]
            with lock:
                print(f"{client:9} {door:9} {said} after {time.monotonic() - started:.0f} s")

        with ThreadPoolExecutor(8) as threads:
            pairs = [(door, client) for door in doors for client in CLIENTS]
            list(threads.map(lambda pair: one(*pair), pairs))


if __name__ == "__main__":
    main()
