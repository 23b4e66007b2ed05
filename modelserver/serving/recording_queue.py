"""The order of long recordings on one model: at most as many are open as there are workers, those
admitted first go first, and what cannot be done in time is refused at once."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator

from supervisor import QueueFull

_SPAN_S = 20.0
"""Seconds of open recordings over which the rate is averaged."""
_ENOUGH_S = 20.0
"""Seconds of audio that have to be recognised before the rate is believed."""
_FIRM_S, _FIRM_TIME_S = 100.0, 3.0
"""The same before a small difference is believed: seconds of audio, or of time."""
_HOPELESS = 1.1
"""Factor by which the remaining time must be exceeded before a waiting recording is refused later,
or on a rate that is not firm."""
_LONGEST_RETRY_S = 60.0


class Rate:
    """Seconds of audio recognised a second, while recordings are open whose samples are made; and
    what it takes to make those."""

    def __init__(self) -> None:
        self._audio_s = self._time_s = 0.0
        self._making = 0.0
        self._at: float | None = None

    def recognised(self, seconds: float, now: float) -> None:
        """Count audio that was recognised by `now`, in seconds of a monotonic clock."""
        if self._at is not None:
            took_s = now - self._at
            fades = math.exp(-took_s / _SPAN_S)
            self._audio_s = self._audio_s * fades + seconds
            self._time_s = self._time_s * fades + took_s
        self._at = now

    def made(self, seconds: float, took_s: float) -> None:
        """Count the time in which the samples of `seconds` of audio were made and nothing else was
        done: none where other recordings were open, as `recognised` counts it there."""
        self._making = ((self._making or took_s / seconds) + took_s / seconds) / 2

    def pause(self) -> None:
        """Pause the measurement: no recording is open until the next one."""
        self._at = None

    @property
    def paused(self) -> bool:
        """True if the measurement is paused."""
        return self._at is None

    @property
    def per_s(self) -> float | None:
        """Seconds of audio a second; None until enough was recognised."""
        known = self._audio_s >= _ENOUGH_S and self._time_s > 0
        return self._audio_s / self._time_s if known else None

    @property
    def firm(self) -> bool:
        """Enough was recognised to tell what can just be done."""
        enough = self._audio_s >= _FIRM_S or self._time_s >= _FIRM_TIME_S
        return self.per_s is not None and enough

    def time_s(self, seconds: float, to_make_s: float) -> float | None:
        """Return how long it takes to recognise `seconds` of audio, and to make the samples of
        `to_make_s` of them; None as `per_s`."""
        per_s = self.per_s
        return None if per_s is None else seconds / per_s + to_make_s * self._making


class Turn:
    """The position of one recording in the queue, with `left_s` seconds of audio to recognise."""

    def __init__(self, turns: "Turns", left_s: float) -> None:
        self._turns = turns
        self._all_s, self._recognised_s = left_s, 0.0
        self._decoded = False
        self._opened: float | None = None
        self._alone = False

    @property
    def open(self) -> bool:
        """True if a worker is working on the recording."""
        return self._opened is not None

    def begin(self, *, alone: bool) -> None:
        """Open it; `alone`: no other recording is open."""
        self._opened, self._alone = time.monotonic(), alone

    @property
    def left_s(self) -> float:
        """Seconds of audio that are not recognised yet."""
        return max(0.0, self._all_s - self._recognised_s)

    @property
    def to_make_s(self) -> float:
        """Seconds of audio whose samples are not made yet."""
        return 0.0 if self._decoded else self.left_s

    def decoded(self, seconds: float) -> None:
        """Record that all samples have arrived, and the length, which was a guess before."""
        self._all_s, self._decoded = seconds, True
        if self._opened is not None and self.left_s > 0:
            # Beside others, that time is in the rate.
            took_s = time.monotonic() - self._opened if self._alone else 0.0
            self._turns.made(self.left_s, took_s)

    def recognised(self, seconds: float) -> None:
        """Count audio of this recording that was recognised."""
        self._recognised_s += seconds
        if self._decoded:  # before that a worker was making samples, too
            self._turns.recognised(seconds)


class Turns:
    """Turns of the recordings of one model. Jobs take none: they run while `idle`."""

    def __init__(self) -> None:
        self._rate = Rate()
        self._all: list[Turn] = []  # in order of admission
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._all)

    @property
    def left_s(self) -> float:
        """Seconds of audio that are left of all recordings."""
        return sum(turn.left_s for turn in self._all)

    def refuse_late(self, seconds: float, allowed_s: float) -> None:
        """Raise `supervisor.QueueFull` where `seconds` of audio more could not be recognised in
        `allowed_s`, behind those that are here."""
        if self._all:
            to_make_s = sum(turn.to_make_s for turn in self._all) + seconds
            self._refuse(self.left_s + seconds, to_make_s, allowed_s * self._slack, allowed_s)

    @contextlib.asynccontextmanager
    async def turn(
        self, seconds: float, workers: int, allowed_s: float | None
    ) -> AsyncIterator[Turn]:
        """Wait for the turn of a recording of `seconds` seconds, and hold it. `workers`: most
        recordings that may be open at once. Raises `supervisor.QueueFull` if the recording cannot
        be done in `allowed_s`: immediately if the rate is known; a narrow miss is decided when the
        rate is firm."""
        mine = Turn(self, seconds)
        began, believed, waited = time.monotonic(), False, False
        self._all.append(mine)
        try:
            while not self._may_open(mine, workers):
                if allowed_s is not None:
                    left_s = allowed_s - (time.monotonic() - began)
                    slack = _HOPELESS if believed else self._slack
                    seconds, to_make_s = self._with_those_ahead(mine)
                    self._refuse(seconds, to_make_s, left_s * slack, allowed_s)
                    believed = self._rate.firm
                await self._change()
                waited = True
            if allowed_s is not None and waited:
                left_s = allowed_s - (time.monotonic() - began)
                self._refuse(mine.left_s, mine.to_make_s, left_s * _HOPELESS, allowed_s)
            mine.begin(alone=self._rate.paused)
            yield mine
        finally:
            self._all.remove(mine)
            if not any(turn.open for turn in self._all):
                self._rate.recognised(0.0, time.monotonic())  # the last words took their time, too
                self._rate.pause()
            self._notify()

    async def idle(self) -> None:
        """Wait until no recording is open or waits."""
        while self._all:
            await self._change()

    def recognised(self, seconds: float) -> None:
        """See `Turn.recognised`."""
        rate = self._rate
        before = rate.per_s is None, rate.firm
        rate.recognised(seconds, time.monotonic())
        if (rate.per_s is None, rate.firm) != before:
            self._notify()

    def made(self, seconds: float, took_s: float) -> None:
        """See `Rate.made`."""
        self._rate.made(seconds, took_s)

    @property
    def _slack(self) -> float:
        return 1.0 if self._rate.firm else _HOPELESS

    def _may_open(self, mine: Turn, workers: int) -> bool:
        first = next(turn for turn in self._all if not turn.open)
        return first is mine and sum(turn.open for turn in self._all) < max(1, workers)

    def _with_those_ahead(self, mine: Turn) -> tuple[float, float]:
        """Return the seconds of audio to recognise until it is done, and those to make."""
        turns = self._all[: self._all.index(mine) + 1]
        return sum(turn.left_s for turn in turns), sum(turn.to_make_s for turn in turns)

    def _refuse(
        self, seconds: float, to_make_s: float, may_take_s: float, allowed_s: float
    ) -> None:
        wait_s = self._rate.time_s(seconds, to_make_s)
        if wait_s is None or wait_s <= may_take_s:
            return
        raise QueueFull(
            f"too many long recordings are waiting: this one would take about {wait_s:.0f} s, and "
            f"{allowed_s:g} s are allowed (limits.request_s); send it again later, or as a job",
            min(_LONGEST_RETRY_S, max(1.0, wait_s - may_take_s)),
        )

    async def _change(self) -> None:
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
