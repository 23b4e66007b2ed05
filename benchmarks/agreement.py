"""Whether locust and our own clients tell the same of the same server. A part of `bench.py`."""

import asyncio
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from contestants import Contestant, this_server
from findings import Asked, Finding, LeftOutError, Table, say
from load import Seen, steady
from tables import spread

_USERS = 4
_WITHIN = 0.05


def agreement(asked: Asked) -> Finding:
    """The same files, as many users, in turn."""
    if importlib.util.find_spec("locust") is None:  # to import it would patch this process
        raise LeftOutError("it needs locust (the extra `benchmark`)")
    seconds = 20 if asked.full else 8
    files = asked.short(6.0)
    rates: dict[str, list[float]] = {"our clients": [], "locust": []}
    medians: dict[str, list[float]] = {"our clients": [], "locust": []}
    with this_server() as contestant:
        asyncio.run(_ours(contestant, files, 2))
        for _ in range(max(3, asked.rounds)):
            seen = asyncio.run(_ours(contestant, files, seconds))
            rates["our clients"].append(len(seen.took_s) / seen.wall_s)
            medians["our clients"].append(statistics.median(seen.took_s))
            found = _locust(contestant, asked.audio, seconds)
            rates["locust"].append(found["rate"])
            medians["locust"].append(found["median_s"])
            say(", ".join(f"{name} {rate[-1]:.1f} a second" for name, rate in rates.items()))
    ratio = [a / b for a, b in zip(rates["locust"], rates["our clients"], strict=True)]
    waits = [a / b for a, b in zip(medians["locust"], medians["our clients"], strict=True)]
    finding = Finding(raw={"a_second": rates, "median_s": medians})
    finding.said.append(f"{_USERS} users without a pause, {seconds} s each in turn.")
    for what, found_ in (("requests a second", ratio), ("median latency", waits)):
        middle = sorted(found_)[len(found_) // 2]
        finding.said.append(
            f"locust over our clients, {what}: {spread(found_, '.3f')}; the bar is within 5 %: "
            f"{'met' if abs(middle - 1) <= _WITHIN else 'not met'}."
        )
    finding.tables.append(
        Table(
            "",
            ("", "requests a second", "median, s"),
            [(name, spread(rates[name], ".1f"), spread(medians[name], ".3f")) for name in rates],
        )
    )
    return finding


async def _ours(contestant: Contestant, files: list[bytes], seconds: float) -> Seen:
    seen, ends = Seen(), time.monotonic() + seconds
    await steady(contestant, files, lambda: time.monotonic() > ends, seen, _USERS)
    assert not seen.lost, seen.failed
    return seen


def _locust(contestant: Contestant, audio: Path, seconds: int) -> dict[str, Any]:
    host = contestant.url.replace("ws", "http", 1).rstrip("/")
    command = [
        *(sys.executable, "-m", "locust", "--headless", "--json", "--loglevel", "ERROR"),
        *("-f", str(Path(__file__).with_name("locustfile.py")), "--host", host),
        *("--users", str(_USERS), "--spawn-rate", str(_USERS), "--run-time", f"{seconds}s"),
        *("--stop-timeout", "30", "Steady"),
    ]
    environment = os.environ | {"LOCUST_AUDIO": str(audio), "LOCUST_LONGEST_S": "6"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "[" not in done.stdout:
        raise LeftOutError(done.stderr.strip()[-500:] or "locust said nothing")
    (all_,) = json.loads(done.stdout[done.stdout.index("[") :])
    assert not all_["num_failures"], done.stderr
    took_s = all_["last_request_timestamp"] - all_["start_time"]
    times = sorted((float(ms), count) for ms, count in all_["response_times"].items())
    half, passed = all_["num_requests"] / 2, 0
    for ms, count in times:
        passed += count
        if passed >= half:
            return {"rate": all_["num_requests"] / took_s, "median_s": ms / 1000}
    raise AssertionError(all_)
