"""Makes tests/support/traces/*.json: what the guard of a real pool saw in a real cgroup.

    python tests/support/record_traces.py

The numbers are a machine's; `expect` in each says what any sound policy must make of them.
"""

import json
from pathlib import Path
from typing import Any

from cgroup import MB, memory_cgroup
from neighbour import neighbour
from remote_pool import RemotePool, remote_pool
from running import until

TRACES = Path(__file__).parent / "traces"


def record(name: str, pool: RemotePool, workers: int, expect: dict[str, Any]) -> None:
    status = pool.status()
    moments = pool.answer(pool.ask(moments=True))["result"]
    limit, reserve = status["limits"]
    pressure, critical = status["thresholds"]
    trace = {
        "limit": limit,
        "reserve": reserve,
        "pressure_below": pressure,
        "critical_below": critical,
        "budget": status["budget"],
        "workers": workers,
        "expect": expect,
        "moments": moments,
    }
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in trace.items())
    (TRACES / f"{name}.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def main() -> None:
    TRACES.mkdir(exist_ok=True)
    with memory_cgroup(600 * MB) as group, remote_pool(group.enter) as pool:
        pool.run(do="leak", bytes=2000 * MB, rate=60 * MB)
        expect = {"levels": ["normal"], "kills_at_least": 1, "kills_at_most": 8}
        record("slow_leak", pool, 2, expect)
    with memory_cgroup(600 * MB) as group, remote_pool(group.enter) as pool:
        for _ in range(20):
            pool.run(do="steps", count=10)
        expect = {"levels": ["normal"], "kills_at_least": 0, "kills_at_most": 0}
        record("quiet", pool, 2, expect)
    with memory_cgroup(600 * MB) as group, remote_pool(group.enter) as pool:
        with neighbour(group.enter) as other:
            other.take(pool.status()["left"] - 5 * MB)
            pool.event("guard.level_changed", now="critical")
            other.give_back()
            until(lambda: pool.status()["level"] == "normal", 20)
        expect = {
            "levels": ["critical", "normal", "pressure"],
            "kills_at_least": 0,
            "kills_at_most": 0,
        }
        record("neighbour", pool, 2, expect)


if __name__ == "__main__":
    main()
