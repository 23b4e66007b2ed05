"""Sends many large uploads at once and prints how each was answered.

echo '{"bytes": 4000000, "admin": "/path/of/admin.sock"}' | python burst.py URL COUNT
"""

import asyncio
import json
import struct
import sys
from collections import Counter

import aiohttp

_CHUNK = bytes(64 * 1024)


async def body(size: int):  # type: ignore[no-untyped-def]
    yield struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        size,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        16_000,
        32_000,
        2,
        16,
        b"data",
        size - 44,
    )
    for _ in range((size - 44) // len(_CHUNK)):
        yield _CHUNK
    yield bytes((size - 44) % len(_CHUNK))


async def one(session: aiohttp.ClientSession, url: str, size: int) -> str:
    headers = {"Content-Length": str(size), "Content-Type": "audio/wav", "Expect": "100-continue"}
    async with session.post(url + "/api/audio/convert", data=body(size), headers=headers) as answer:
        document = await answer.json()
        return str(answer.status) if answer.status == 200 else document["error"]["code"]


async def most_on_disk(admin: str, most: list[int]) -> None:
    connector = aiohttp.UnixConnector(admin)
    async with aiohttp.ClientSession(connector=connector) as session:
        while True:
            async with session.get("http://admin/admin/health") as answer:
                most.append((await answer.json())["spools"]["disk_bytes"])
            await asyncio.sleep(0.05)


async def main(url: str, count: int, size: int, admin: str) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=90)
    most = [0]
    watching = asyncio.create_task(most_on_disk(admin, most))
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        codes = Counter(await asyncio.gather(*(one(session, url, size) for _ in range(count))))
    watching.cancel()
    print(json.dumps({"codes": codes, "most_on_disk": max(most)}))


what = json.load(sys.stdin)
asyncio.run(main(sys.argv[1], int(sys.argv[2]), what["bytes"], what["admin"]))
