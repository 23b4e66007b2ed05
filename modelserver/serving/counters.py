"""Counts what passes through the public side, for the metrics."""

import time
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterator

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_RATIOS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0)

_WORK = ("/api/audio/convert", "/v1/audio/transcriptions", "/api/ask")
"""The routes whose durations say how quick the server is."""
_PROBES = ("/healthz", "/readyz")


class Histogram:
    """A histogram of values, in seconds by default."""

    def __init__(self, bounds: tuple[float, ...] = _SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Upper bound as text, and how many were not above it; the last bound is "+Inf"."""
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield bound, total


class Traffic:
    """The counts since the start. A request's code is its error's, or "ok"."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int, str]] = Counter()
        self.durations: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.waits: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.work: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.real_time_factors: defaultdict[str, Histogram] = defaultdict(
            lambda: Histogram(_RATIOS)
        )
        """Of recordings, by their model: what they waited for a worker, what decoding took, and
        that as a share of their length."""
        self.abandoned = 0
        self.audio_s = 0.0
        self.answers = self.failures = 0
        """All answers but those to probes, and those with a status of 500 and more."""
        self.latest: deque[tuple[float, float]] = deque(maxlen=1024)
        """Of requests with audio: when they were answered (by CLOCK_MONOTONIC), and after how many
        seconds."""
        self.stream_ends: Counter[str] = Counter()
        """Of live streams, by their WebSocket's close code."""

    def recognized(self, model: str, queued_s: float, run_s: float, audio_s: float) -> None:
        """Count a recording that was decoded."""
        self.audio_s += audio_s
        self.waits[model].observe(queued_s)
        self.work[model].observe(run_s)
        if audio_s > 0:
            self.real_time_factors[model].observe(run_s / audio_s)

    def answered(self, route: str, status: int, code: str | None, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests[route, status, code or "ok"] += 1
        if route not in _PROBES:  # a probe may find that it is not ready
            self.answers += 1
            self.failures += status >= 500
        if route in _WORK:
            self.latest.append((time.monotonic(), seconds))
        self.durations[route].observe(seconds)
