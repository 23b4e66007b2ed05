"""Load of a plan: how often recordings come, and how long they are."""

import csv
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean

import msgspec

from supervisor import counted

_SAMPLE = 2_000
_LEAST = 20


class LoadUnreadable(Exception):
    """File without a usable load; the text says what it should contain."""


class _Event(msgspec.Struct):
    """Event of the server's log (`log.format = "json"`): a request with audio."""

    event: str = ""
    timestamp: str = ""
    audio_s: float | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """Recordings, `rate` per second, that come independently (a Poisson process). `lengths`: a
    sample of their seconds of audio; `of`: its source, in words."""

    rate: float
    lengths: tuple[float, ...]
    of: str

    @property
    def mean_s(self) -> float:
        """Seconds of a recording, on average."""
        return fmean(self.lengths)


def supposed(rate: float, mean_s: float, spread: float, seed: int = 1) -> Load:
    """Return a load with lengths spread as speech's often are (lognormal). `spread`: their standard
    deviation over their mean."""
    if spread <= 0:
        return Load(rate, (mean_s,), f"recordings of {mean_s:g} s each")
    sigma = math.sqrt(math.log1p(spread * spread))
    chosen = random.Random(seed)  # noqa: S311 - no secret
    drawn = [chosen.lognormvariate(-sigma * sigma / 2, sigma) for _ in range(_SAMPLE)]
    scale = mean_s / fmean(drawn)
    return Load(
        rate,
        tuple(one * scale for one in drawn),
        f"recordings of {mean_s:g} s on average, lognormal with a spread of {spread:g}",
    )


def of_file(file: Path) -> Load:
    """Read a load from a server's log in JSON, or from lines "when,seconds" (when: seconds, or a
    date and time). Raises `LoadUnreadable` or `OSError`."""
    rows = sorted(_logged(file) or _listed(file))
    if len(rows) < _LEAST:
        raise LoadUnreadable(
            f"{file}: {counted(len(rows), 'recording')} in it, and at least {_LEAST} are needed: a "
            "log of this server with log.format = json, or lines of when,seconds"
        )
    span_s = rows[-1][0] - rows[0][0]
    if span_s <= 0:
        raise LoadUnreadable(f"{file}: all of its recordings came at the same time")
    busiest = _busiest(rows, span_s)
    return Load(
        busiest,
        tuple(length for _, length in rows),
        f"{counted(len(rows), 'recording')} of {file.name}, at the rate of its busiest tenth",
    )


def _busiest(rows: list[tuple[float, float]], span_s: float) -> float:
    """Return the rate in the busiest tenth of the time: machines have to carry that, not the
    mean."""
    part_s = span_s / 10
    counts = [0] * 10
    for when, _ in rows:
        counts[min(9, int((when - rows[0][0]) / part_s))] += 1
    return max(counts) / part_s


def _logged(file: Path) -> list[tuple[float, float]]:
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = msgspec.json.decode(line, type=_Event)
            if event.event == "request.done" and event.audio_s and event.status == 200:
                found.append((_seconds(event.timestamp), event.audio_s))
        except (msgspec.DecodeError, ValueError):
            continue
    return found


def _listed(file: Path) -> Iterator[tuple[float, float]]:
    with file.open(newline="", encoding="utf-8", errors="replace") as lines:
        for row in csv.reader(lines):
            try:
                when, length = _seconds(row[0]), float(row[1])
            except (ValueError, IndexError):
                continue  # a heading
            if math.isfinite(when) and 0 < length < math.inf:
                yield when, length


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text.strip()).timestamp()
