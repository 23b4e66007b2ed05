"""When the guard looks next: at once when the kernel says that something happens, at the latest
before the fastest growth could use up what is left, and no more often than that needs.

Most of the time nothing has moved. So between two looks come glances, which read one counter a
process and end there: they cost a tenth of a look.
"""

import asyncio
from functools import partial

import structlog

from supervisor.guard.observer import (
    LEAST_INTERVAL_S,
    LOOK_AT_REST_EVERY_S,
    LOOK_EVERY_S,
    READ_AT_REST_EVERY_S,
    READ_EVERY_S,
    READ_IF_TOLD_EVERY_S,
    Observer,
)
from supervisor.guard.policy import Level
from supervisor.readings.alarms import KernelAlarms

log: structlog.stdlib.BoundLogger = structlog.get_logger("guard")

_ALERT_S = 0.5
"""So long after an alarm nobody relies on the next."""


class Watch:
    """Use `wait` again and again, from one task; `close` at the end."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._alarms = KernelAlarms()
        log.info("guard.alarms", kernel=self._alarms.names or ["none: it is polled"])
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] | None = None
        self.critical = False
        """There is so little left that alarms are not relied on."""
        self._until = self._glanced_at = self._alert_until = 0.0
        self._listening = False
        self._listen()

    async def wait(self, most_s: float) -> None:
        """Until there is something to look at, or nobody has looked for a while."""
        every_s = LOOK_AT_REST_EVERY_S if self._observer.at_rest() else LOOK_EVERY_S
        self._until = self._loop.time() + min(most_s, every_s)
        self._over = self._loop.create_future()
        self._glance_later()
        try:
            await self._over
        finally:
            self._over = None
            if self._timer is not None:
                self._timer.cancel()

    def interval(self) -> float:
        """Seconds until the next glance."""
        alert = self.critical or self._loop.time() < self._alert_until
        return self._observer.interval(None if alert else self._alarms)

    def reading_every(self, level: Level) -> float:
        """Seconds between two whole readings, when nothing happens."""
        if self._observer.accounting.outdated:
            return READ_EVERY_S  # somebody has come or gone: what each holds is only estimated
        if level is Level.NORMAL and self._observer.at_rest():
            return READ_AT_REST_EVERY_S
        told = self.interval() >= LOOK_EVERY_S > self._observer.interval()
        return READ_IF_TOLD_EVERY_S if told else READ_EVERY_S

    def keep_armed(self) -> None:
        """To be called after a whole reading: what is charged has moved."""
        groups = self._observer.groups_to_watch(self._alarms)
        self._observer.run(partial(self._alarms.keep_armed, groups))

    def hasten(self) -> None:
        """There is work now: what was slow to come may be fast from here on."""
        if self._timer is not None and self._over is not None:
            self._timer.cancel()
            self._until = min(self._until, self._loop.time() + LOOK_EVERY_S)
            self._glance_later()

    def close(self) -> None:
        """Listen no more."""
        self._loop.remove_reader(self._alarms.fileno())
        self._alarms.close()

    def _glance_later(self) -> None:
        at = min(self._loop.time() + self.interval(), self._until)
        self._timer = self._loop.call_at(at, self._glance)

    def _glance(self) -> None:
        self._glanced_at = self._loop.time()
        self._listen()
        if self._over is None or self._over.done():
            return
        if self._glanced_at >= self._until or self._observer.stirred():
            self._over.set_result(None)
        else:
            self._glance_later()

    def _listen(self) -> None:
        if self._listening:
            return
        self._listening = True
        self._loop.add_reader(self._alarms.fileno(), self._rang)

    def _rang(self) -> None:
        """Alarms may come in thousands: no more is heard before the next glance."""
        self._loop.remove_reader(self._alarms.fileno())
        self._listening = False
        self._alarms.heard()
        now = self._loop.time()
        self._alert_until = now + _ALERT_S
        if self._timer is not None and self._over is not None:
            self._timer.cancel()
            soon = max(now, self._glanced_at + LEAST_INTERVAL_S)
            self._timer = self._loop.call_at(min(soon, self._until), self._glance)
