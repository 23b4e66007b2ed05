"""Number of people who can speak at once: live streams at the pace of speech, beside the Vosk
project's protocol as its own server does it. A part of `bench.py`; `streams.py` looks closer at
ours."""

import asyncio
import statistics

import utterances
from contestants import THIS, Contestant, this_server, threads
from findings import Asked, Finding, Line, Plot, Table, say
from streams import Timings, many
from tables import percentile

IN_TIME_S = 0.5
"""Seconds by which 95 of 100 results may be late, for the streams to count as carried."""
_RATIO = 12


def carried(asked: Asked) -> Finding:
    """Find the most streams whose results come in time; report the first word and the last."""
    seconds = 20.0 if asked.full else 10.0
    spoken = asked.files()
    length = int(seconds * utterances.RATE) * 2
    joined = [b"".join(spoken[n:] + spoken[:n]) for n in range(len(spoken))]
    audio = [(one * (length // len(one) + 1))[:length] for one in joined]
    finding, rows, lines = Finding(raw={"streams": {}}), [], []
    most: dict[str, int] = {}
    with threads() as theirs, this_server(MODELSERVER_STREAMS_SHARE="1") as ours:
        plan = [(theirs, (1, 2, 3, 4)), (ours, (1, 24, 48, 72))]
        if asked.full:
            plan = [(theirs, (1, 2, 3, 4, 5, 6)), (ours, (1, 12, 24, 30, 36, 48, 60, 72, 84))]
        for contestant, counts in plan:
            late = []
            for count in counts:
                timings = asyncio.run(many(contestant.url, count, audio))
                rows.append(_row(contestant, count, timings))
                say(" | ".join(rows[-1]))
                p95 = percentile(timings.late_s or [0.0], 0.95)
                taken = count - timings.refused - timings.broken
                late.append((taken, p95))
                if p95 <= IN_TIME_S and not timings.broken:
                    most[contestant.name] = max(most.get(contestant.name, 0), taken)
                finding.raw["streams"].setdefault(contestant.name, []).append(
                    {"asked": count, "taken": taken, "p95_late_s": p95,
                     "median_late_s": statistics.median(timings.late_s or [0.0]),
                     "first_word_s": timings.first_s, "last_result_s": timings.last_s}
                )  # fmt: skip
            taken_of, late_of = zip(*sorted(late), strict=True)
            lines.append(Line(contestant.name, taken_of, late_of))
    names = [theirs.name, THIS]
    finding.notes += [
        f"Each client sends {seconds:g} s of speech at the pace of speech, 0.2 s in a message.",
        "The delay of a result is counted from the message that it belongs to.",
        f"Streams are in time if 95 % of the results have a delay of at most {IN_TIME_S:g} s.",
        f"{THIS} rejects streams that it cannot carry; `{theirs.name}` accepts all.",
        "All workers may carry streams (`streams.share = 1`).",
        "In time: " + ", ".join(f"{most.get(name, 0)} ({name})" for name in names) + ".",
    ]
    least = most.get(theirs.name, 0)
    carried_by_both = [most.get(THIS, 0) / least] if least else []
    finding.target(f"live streams, {THIS} / {theirs.name}", _RATIO, carried_by_both)
    head = ("", "streams", "rejected", "broken", "delay, median, ms", "delay, 95th percentile, ms",
            "first word, ms", "last result after the end, ms")  # fmt: skip
    finding.tables.append(Table("", head, rows))
    finding.plots.append(
        Plot("streams", "Delay of results over live streams", "streams taken",
             "95th percentile, seconds", lines, log_x=True, log_y=True)
    )  # fmt: skip
    return finding


def _row(contestant: Contestant, count: int, timings: Timings) -> tuple[str, ...]:
    return (
        contestant.name,
        str(count),
        str(timings.refused),
        str(timings.broken),
        f"{1000 * statistics.median(timings.late_s or [0.0]):.0f}",
        f"{1000 * percentile(timings.late_s or [0.0], 0.95):.0f}",
        f"{1000 * statistics.median(timings.first_s or [0.0]):.0f}",
        f"{1000 * statistics.median(timings.last_s or [0.0]):.0f}",
    )
