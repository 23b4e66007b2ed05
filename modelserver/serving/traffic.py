"""Counts what passes through the public side, for the metrics."""

import time
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterator

_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


_WORK = ("/api/audio/convert", "/v1/audio/transcriptions", "/api/ask")
"""The routes whose durations say how quick the server is."""


class Histogram:
    """Durations in seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(_BOUNDS_S, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Upper bound as text, and how many were not above it; the last bound is "+Inf"."""
        total = 0
        for bound, count in zip((*map(str, _BOUNDS_S), "+Inf"), self._counts, strict=True):
            total += count
            yield bound, total


class Traffic:
    """The counts since the start. A request's code is its error's, or "ok"."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int, str]] = Counter()
        self.durations: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.abandoned = 0
        self.audio_s = 0.0
        self.answers = self.failures = 0
        """All answers, and those with a status of 500 and more."""
        self.latest: deque[tuple[float, float]] = deque(maxlen=1024)
        """Of requests with audio: when they were answered (by CLOCK_MONOTONIC), and after how many
        seconds."""
        self.stream_ends: Counter[str] = Counter()
        """Of live streams, by their WebSocket's close code."""

    def answered(self, route: str, status: int, code: str | None, seconds: float) -> None:
        """A request has its answer."""
        self.requests[route, status, code or "ok"] += 1
        self.answers += 1
        self.failures += status >= 500
        if route in _WORK:
            self.latest.append((time.monotonic(), seconds))
        self.durations[route].observe(seconds)
