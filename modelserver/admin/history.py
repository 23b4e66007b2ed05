"""Recent memory use and work, in two bounded rings, for the admin page.

Sampled four times a second from values that the guard has read already, so that it costs next to
nothing.
"""

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from supervisor import PackedRing, Tasks

if TYPE_CHECKING:  # commands import this module, too, and need no server
    from modelserver.serving.service import SpeechService

SHORT_S, LONG_S = 0.25, 10.0
_SHORT, _LONG = 720, 1080
"""Three minutes, and three hours."""
_WINDOW_S = 60.0
_SORTED_EVERY_S = 1.0
_LEVELS = {"normal": 0, "pressure": 1, "critical": 2}


class Sample(msgspec.Struct, array_like=True, frozen=True):
    """State at one moment. `time`: Unix time. Sizes in bytes: the limit, the part of it in use, and
    of that the part of the model, of the workers' growth, of uploads and of the supervisor itself;
    `mapped`: the part of the model in the file cache. `level`: 0 to 2, normal to critical. Rates
    per second since the sample before; `p50`, `p95`: seconds that requests with audio took in the
    last minute."""

    time: float
    limit: int
    reserve: int
    used: int
    model: int
    growth: int
    spools: int
    supervisor: int
    mapped: int
    level: int
    admitted: int
    waiting: int
    streams: int
    requests: float
    failures: float
    audio: float
    p50: float | None
    p95: float | None


FIELDS = tuple(field.name for field in msgspec.structs.fields(Sample))


class History:
    """Use as `async with`."""

    def __init__(self, service: "SpeechService") -> None:
        self._service = service
        self.short, self.long = PackedRing.of(Sample, _SHORT), PackedRing.of(Sample, _LONG)
        self._tasks = Tasks()
        self._before: dict[float, tuple[float, int, int, float]] = {}
        self._sorted_at = -1e9
        self._percentiles: tuple[float | None, float | None] = None, None

    async def __aenter__(self) -> "History":
        self._tasks.keep("history", self._sample_for_ever)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.close()

    def since(self, when: float, long: bool = False) -> list[Sample]:
        """Return the samples after that time."""
        found = []
        for sample in reversed(self.long if long else self.short):
            if sample.time <= when:
                break
            found.append(sample)
        return found[::-1]

    async def _sample_for_ever(self) -> None:
        next_long = 0.0
        while True:
            if (sample := self._sample(SHORT_S)) is not None:
                self.short.append(sample)
                if time.monotonic() >= next_long:
                    next_long = time.monotonic() + LONG_S
                    self.long.append(self._sample(LONG_S) or sample)
            await asyncio.sleep(SHORT_S)

    def _sample(self, period: float) -> Sample | None:
        service = self._service
        guard = service.guard.status()
        moments = service.guard.history.moments
        if guard is None or not moments:
            return None
        pools = [served.pool for served in service.models.all_served() if served.pool is not None]
        unreclaimable = {"supervisor": 0, "fork server": 0}
        growth = 0
        for process in moments[-1].processes:
            if process.role in unreclaimable:
                unreclaimable[process.role] += process.unreclaimable
            elif process.role == "worker":
                growth += process.growth
        requests, failures, audio = self._rates(period)
        p50, p95 = self._latency()
        return Sample(
            time=round(time.time(), 2),
            limit=guard.limits.limit.bytes,
            reserve=guard.limits.reserve.bytes,
            used=guard.used,
            model=unreclaimable["fork server"],
            growth=growth,
            spools=service.spools.memory_bytes,
            supervisor=unreclaimable["supervisor"],
            mapped=guard.mapped,
            level=_LEVELS[guard.state.level.word],
            admitted=sum(pool.admitted for pool in pools),
            waiting=sum(pool.waiting for pool in pools),
            streams=sum(len(pool.streams) for pool in pools),
            requests=requests,
            failures=failures,
            audio=audio,
            p50=p50,
            p95=p95,
        )

    def _rates(self, period: float) -> tuple[float, float, float]:
        traffic, now = self._service.traffic, time.monotonic()
        counts = (now, traffic.answers, traffic.failures, traffic.audio_s)
        before = self._before.get(period, counts)
        self._before[period] = counts
        span = counts[0] - before[0]
        if span <= 0:
            return 0.0, 0.0, 0.0
        return (
            round((counts[1] - before[1]) / span, 2),
            round((counts[2] - before[2]) / span, 2),
            round((counts[3] - before[3]) / span, 2),
        )

    def _latency(self) -> tuple[float | None, float | None]:
        """Return the percentiles, as they were at most a second ago: a thousand requests are
        sorted for them."""
        now = time.monotonic()
        if now - self._sorted_at >= _SORTED_EVERY_S:
            self._sorted_at, self._percentiles = now, self._sorted(now - _WINDOW_S)
        return self._percentiles

    def _sorted(self, since: float) -> tuple[float | None, float | None]:
        taken = sorted(s for when, s in self._service.traffic.latest if when > since)
        if not taken:
            return None, None
        return round(taken[len(taken) // 2], 3), round(taken[int(len(taken) * 0.95)], 3)
