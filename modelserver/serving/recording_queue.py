"""The order of long recordings on one model: at most as many are open as there are workers, those
admitted first go first, and what cannot be done in time is refused at once."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator

from supervisor import QueueFull

_SPAN_S = 20.0
"""What the rate is the mean of: seconds in which recordings were open."""
_ENOUGH_S = 20.0
"""Seconds of audio that have to be recognised before the rate is believed."""
_SHARE = 0.95
"""Of the time allowed, what recognising those ahead and itself may take at admission: the rest is
for making samples, which is quick."""
_HOPELESS = 1.1
"""By how much the time left must be missed for one that waits to be refused later."""
_LONGEST_RETRY_S = 60.0


class Rate:
    """Seconds of audio recognised a second, while recordings are open whose samples are made."""

    def __init__(self) -> None:
        self._audio_s = self._time_s = 0.0
        self._at: float | None = None

    def heard(self, seconds: float, now: float) -> None:
        """Count audio that was recognised by `now`, in seconds of a monotonic clock."""
        if self._at is not None:
            took_s = now - self._at
            fades = math.exp(-took_s / _SPAN_S)
            self._audio_s = self._audio_s * fades + seconds
            self._time_s = self._time_s * fades + took_s
        self._at = now

    def pause(self) -> None:
        """No recording is open: the time until the next one does not count."""
        self._at = None

    @property
    def per_s(self) -> float | None:
        """None until enough was recognised."""
        known = self._audio_s >= _ENOUGH_S and self._time_s > 0
        return self._audio_s / self._time_s if known else None


class Turn:
    """The place of one recording in the order, with `left_s` seconds of audio to recognise."""

    def __init__(self, turns: "Turns", left_s: float) -> None:
        self._turns = turns
        self._all_s, self._heard_s = left_s, 0.0
        self._decoded = False
        self.open = False

    @property
    def left_s(self) -> float:
        """Seconds of audio that are not recognised yet."""
        return max(0.0, self._all_s - self._heard_s)

    def decoded(self, seconds: float) -> None:
        """All its samples are there: it is so long, which was only guessed before."""
        self._all_s, self._decoded = seconds, True

    def heard(self, seconds: float) -> None:
        """Count audio of this recording that was recognised."""
        self._heard_s += seconds
        if self._decoded:  # before that a worker was making samples, too
            self._turns.heard(seconds)


class Turns:
    """The turns of one model. Jobs take none: they go on while `idle`."""

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
            self._refuse(self.left_s, seconds, allowed_s * _SHARE, allowed_s)

    @contextlib.asynccontextmanager
    async def turn(
        self, seconds: float, workers: int, allowed_s: float | None
    ) -> AsyncIterator[Turn]:
        """Wait for the turn of a recording of so many seconds, and hold it. `workers`: how many
        recordings may be open at once. Raises `supervisor.QueueFull`, at once if the rate is known,
        where it cannot be done in `allowed_s`."""
        mine = Turn(self, seconds)
        began, believed = time.monotonic(), False
        self._all.append(mine)
        try:
            while not self._may_open(mine, workers):
                if allowed_s is not None and self._rate.per_s is not None:
                    left_s = allowed_s - (time.monotonic() - began)
                    may_take_s = left_s * (_HOPELESS if believed else _SHARE)
                    self._refuse(self._ahead_s(mine), mine.left_s, may_take_s, allowed_s)
                    believed = True
                await self._change()
            if allowed_s is not None and believed:
                left_s = allowed_s - (time.monotonic() - began)
                self._refuse(0.0, mine.left_s, left_s * _HOPELESS, allowed_s)
            mine.open = True
            yield mine
        finally:
            self._all.remove(mine)
            if not any(turn.open for turn in self._all):
                self._rate.pause()
            self._notify()

    async def idle(self) -> None:
        """Wait until no recording is open or waits."""
        while self._all:
            await self._change()

    def heard(self, seconds: float) -> None:
        """See `Turn.heard`."""
        known = self._rate.per_s is not None
        self._rate.heard(seconds, time.monotonic())
        if not known and self._rate.per_s is not None:
            self._notify()

    def _may_open(self, mine: Turn, workers: int) -> bool:
        first = next(turn for turn in self._all if not turn.open)
        return first is mine and sum(turn.open for turn in self._all) < max(1, workers)

    def _ahead_s(self, mine: Turn) -> float:
        return sum(turn.left_s for turn in self._all[: self._all.index(mine)])

    def _refuse(self, ahead_s: float, own_s: float, may_take_s: float, allowed_s: float) -> None:
        per_s = self._rate.per_s
        if per_s is None or (wait_s := (ahead_s + own_s) / per_s) <= may_take_s:
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
