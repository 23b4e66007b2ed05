"""Memory over thousands of requests. A part of `bench.py`."""

import asyncio

from contestants import prefork, this_server
from findings import Asked, Finding, Line, Plot, Table, say
from load import closed

_LOOKS = 20


def growth(asked: Asked) -> Finding:
    """Anonymous memory of all processes, while requests go through."""
    files = asked.short(1.0)
    plan = ((this_server, 5000 if asked.full else 1000), (prefork, 1000 if asked.full else 60))
    finding, rows, lines = Finding(raw={"growth": {}}), [], []
    for start, count in plan:
        with start() as contestant:
            done, xs, ys = 0, [0], [contestant.memory_mb()]
            while done < count:
                some = [files[(done + n) % len(files)] for n in range(count // _LOOKS)]
                seen = asyncio.run(closed(contestant, some))
                assert not seen.lost, seen.failed
                done += len(some)
                xs.append(done)
                ys.append(contestant.memory_mb())
            rows.append(
                (contestant.name, str(done), f"{ys[0]:.0f}", f"{ys[_LOOKS // 2]:.0f}",
                 f"{ys[-1]:.0f}")
            )  # fmt: skip
            say(" | ".join(rows[-1]))
            lines.append(Line(contestant.name, xs, ys))
            finding.raw["growth"][contestant.name] = {"requests": xs, "anonymous_mb": ys}
    finding.notes.append("Eight clients send clips of one second.")
    head = ("", "requests", "before, MB", "halfway, MB", "after, MB")
    finding.tables.append(Table("", head, rows))
    finding.plots.append(
        Plot("growth", "Memory over requests", "requests", "MB of anonymous memory", lines)
    )
    return finding
