"""Killed workers: requests that clients lose, and the time until as many workers are able as
before. A part of `bench.py`."""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence

import psutil
from contestants import THIS, Contestant, Start, litserve, mosec, prefork, this_server, threads
from findings import Asked, Finding, Table, say
from load import Seen, gone, steady

_CLIENTS = 4
_RECOVERY_S = 15.0


def vosk_deaths(asked: Asked) -> Finding:
    """SIGKILL to one that decodes, again and again, under load."""
    finding = deaths(asked, (this_server, threads, mosec, litserve, prefork))
    lost = sum(finding.raw["deaths"][THIS]["lost"].values())
    finding.target("requests that modelserver lost", 0, [lost], most=True)
    return finding


def deaths(asked: Asked, starts: Sequence[Start]) -> Finding:
    """Requests lost, and seconds until all can decode again, of several servers."""
    kills = 10 if asked.full else 3
    files = asked.short(3.0)
    finding, rows = Finding(raw={"deaths": {}}), []
    for start in starts:
        name, seen, back = asyncio.run(_one(start, files, kills))
        ready = [one for one in back if one is not None]
        lost = seen.lost
        rows.append(
            (
                name,
                str(len(back)),
                str(lost),
                str(len(seen.took_s)),
                f"{1000 * statistics.median(ready):.0f} ms" if ready else "never",
                f"{1000 * max(ready):.0f} ms" if len(ready) == len(back) and ready else "never",
            )
        )
        say(" | ".join(rows[-1]))
        finding.raw["deaths"][name] = {"lost": seen.failed, "answered": len(seen.took_s),
                                       "back_s": back}  # fmt: skip
    finding.notes += [
        f"{_CLIENTS} clients send requests without a pause.",
        f"SIGKILL ends a process that decodes, up to {kills} times.",
        "A request is lost if it receives no right answer.",
        "Once a server has ended and does not return, counting stops.",
        "Recovery is the time until as many processes can decode as before.",
    ]
    head = ("", "killed", "requests lost", "answered", "recovery, median", "recovery, longest")
    finding.tables.append(Table("", head, rows))
    return finding


async def _one(
    start: Start, files: list[bytes], kills: int
) -> tuple[str, Seen, list[float | None]]:
    chance, seen, back = random.Random(1), Seen(), list[float | None]()
    over = False
    with start() as contestant:
        clients = asyncio.create_task(steady(contestant, files, lambda: over, seen, _CLIENTS))
        await asyncio.sleep(2)
        for _ in range(kills):
            before = await asyncio.to_thread(contestant.able)
            victims = [one for one in contestant.workers() if one.memory_info().rss > 100e6]
            chance.choice(victims or contestant.workers()).kill()
            back.append(await _back(contestant, before))
            if back[-1] is None:
                break
            await asyncio.sleep(2)
        over = True
        await gone(clients, seen, _RECOVERY_S if back[-1] is not None else 0.0)
    return contestant.name, seen, back


async def _back(contestant: Contestant, before: int) -> float | None:
    """Return the seconds until as many can decode as before, once one fewer could; None: not in
    time."""
    killed, fewer = time.monotonic(), False
    while time.monotonic() < killed + _RECOVERY_S:
        try:
            now = await asyncio.to_thread(contestant.able)
        except (psutil.NoSuchProcess, OSError, AssertionError):
            now = 0
        fewer = fewer or now < before or time.monotonic() > killed + 0.5
        if not contestant.processes():
            return None
        if fewer and now >= before:
            return time.monotonic() - killed
        await asyncio.sleep(0.005)
    return None
