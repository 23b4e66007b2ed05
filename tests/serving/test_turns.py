"""The order of long recordings: by admission, as many at once as there are workers, and an early
refusal for those that cannot be done in time."""

import asyncio

import pytest
from stopwatch import wait_for

from modelserver.serving.recording_queue import Rate, Turns
from supervisor import QueueFull

pytestmark = pytest.mark.quick


def known(turns: Turns, per_s: float) -> None:
    """Let the rate be so many seconds of audio a second."""
    turns._rate._audio_s, turns._rate._time_s = 10 * per_s, 10.0


class Waiting:
    """Recordings of a test: the outcome of each, by its number."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.open: list[int] = []
        self.refused: dict[int, QueueFull] = {}
        self._ends: dict[int, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, seconds: float, workers: int = 1, allowed_s: float | None = 30.0) -> None:
        number = len(self._tasks)
        self._ends[number] = asyncio.Event()
        self._tasks.append(asyncio.create_task(self._one(number, seconds, workers, allowed_s)))

    async def _one(
        self, number: int, seconds: float, workers: int, allowed_s: float | None
    ) -> None:
        try:
            async with self.turns.turn(seconds, workers, allowed_s) as turn:
                self.open.append(number)
                await self._ends[number].wait()
                turn.recognised(seconds)
        except QueueFull as error:
            self.refused[number] = error

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def end(self, number: int) -> None:
        self._ends[number].set()
        await self.settle()

    async def __aenter__(self) -> "Waiting":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_they_are_open_in_the_order_of_their_admission() -> None:
    async with Waiting(Turns()) as waiting:
        for _ in range(4):
            waiting.add(100, workers=2)
        await waiting.settle()
        assert waiting.open == [0, 1]
        await waiting.end(1)
        assert waiting.open == [0, 1, 2]
        await waiting.end(0)
        assert waiting.open == [0, 1, 2, 3]


async def test_what_cannot_be_done_in_time_is_refused_at_once() -> None:
    turns = Turns()
    known(turns, 20)  # 570 s of audio in 95 % of 30 s
    async with Waiting(turns) as waiting:
        for _ in range(6):
            waiting.add(150)
        await waiting.settle()
        assert sorted(waiting.refused) == [3, 4, 5]
        assert all(1 <= (one.retry_after_s or 0) <= 60 for one in waiting.refused.values())
        assert "limits.request_s" in waiting.refused[3].message
        waiting.add(100)  # a shorter one still fits
        await waiting.settle()
        assert 6 not in waiting.refused
        with pytest.raises(QueueFull):
            turns.refuse_late(100, 30)
        turns.refuse_late(10, 30)


async def test_what_is_left_counts_and_not_what_was_there() -> None:
    turns = Turns()
    known(turns, 20)
    async with turns.turn(500, 1, 30) as first, Waiting(turns) as waiting:
        waiting.add(150)
        await waiting.settle()
        assert list(waiting.refused) == [0]
        first.decoded(300)
        first.recognised(200)
        waiting.add(150)
        await waiting.settle()
        assert list(waiting.refused) == [0]


async def test_while_nothing_is_known_they_wait_and_are_refused_once_it_is() -> None:
    turns = Turns()
    async with Waiting(turns) as waiting:
        for _ in range(6):
            waiting.add(150)
        await waiting.settle()
        assert not waiting.refused
        known(turns, 20)
        turns.recognised(0.0)
        turns._notify()
        await waiting.settle()
        assert sorted(waiting.refused) == [3, 4, 5]


class Clock:
    """The time of a simulation."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("own_s", [4.2, 3.9, 3.5, 2.6], ids=str)
@pytest.mark.parametrize("making", [0.01, 0.05, 0.1], ids=str)
@pytest.mark.parametrize("first", [0.92, 1.0, 1.08], ids=str)
async def test_on_a_fresh_server_as_many_are_done_as_one_after_the_other_would_be(
    monkeypatch: pytest.MonkeyPatch, own_s: float, making: float, first: float
) -> None:
    """Twelve of 150 s at once, each done in `own_s`, of which making its samples takes the part
    `making`; the first 20 s are `first` times as fast."""
    clock, turns = Clock(), Turns()
    monkeypatch.setattr("modelserver.serving.recording_queue.time", clock)
    refused: dict[int, float] = {}
    done: list[int] = []
    heard_s = 0.0

    async def one(number: int) -> None:
        nonlocal heard_s
        try:
            async with turns.turn(150, 1, 30) as turn:
                clock.now += own_s * making
                turn.decoded(150.0)
                for _ in range(75):
                    turn.recognised(2.0)
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    heard_s += 2
                    clock.now += own_s * (1 - making) / 75 / (first if heard_s <= 20 else 1)
            if clock.now - 1000 <= 30:
                done.append(number)
        except QueueFull:
            refused[number] = clock.now - 1000

    tasks = [asyncio.create_task(one(number)) for number in range(12)]
    await asyncio.gather(*tasks)
    assert len(done) == int(30 / own_s)
    assert done == list(range(len(done)))
    late = [when for when in refused.values() if when > own_s]
    assert len(done) + len(refused) == 12
    assert len(late) <= 1, "the rest at once"


async def test_one_alone_is_tried_however_slow_it_was() -> None:
    turns = Turns()
    known(turns, 2.1)
    turns.refuse_late(1000, 30)
    async with turns.turn(1000, 1, 30) as turn:
        assert turn.open


async def test_jobs_go_on_when_no_recording_is_there() -> None:
    turns = Turns()
    await wait_for(turns.idle(), 1)
    async with turns.turn(100, 1, None):
        waits = asyncio.create_task(turns.idle())
        await asyncio.sleep(0)
        assert not waits.done()
    await wait_for(waits, 1)


async def test_one_that_goes_makes_place_for_the_next() -> None:
    turns = Turns()
    async with Waiting(turns) as waiting:
        waiting.add(100)
        await waiting.settle()
        goes = asyncio.create_task(_hold(turns))
        await asyncio.sleep(0)
        waiting.add(100)
        await waiting.settle()
        goes.cancel()
        await asyncio.gather(goes, return_exceptions=True)
        await waiting.end(0)
        assert waiting.open == [0, 1]
        await waiting.end(1)
        assert len(turns) == 0


async def _hold(turns: Turns) -> None:
    async with turns.turn(100, 1, None):
        await asyncio.Event().wait()


async def test_what_is_recognised_while_samples_are_made_says_nothing_of_the_rate() -> None:
    turns = Turns()
    async with turns.turn(100, 1, 30) as turn:
        for _ in range(30):
            turn.recognised(2.0)
        assert turn.left_s == 40
        assert turns._rate.per_s is None
        turn.decoded(80)
        assert turn.left_s == 20
        for _ in range(30):
            await asyncio.sleep(0)
            turn.recognised(2.0)
        assert turns._rate.per_s is not None
        assert turn.left_s == 0


def test_the_rate_is_that_of_the_time_in_which_something_was_open() -> None:
    rate = Rate()
    for at in range(20):
        rate.recognised(2.0, at / 10)
    assert rate.per_s == pytest.approx(20, rel=0.05)
    rate.pause()
    for at in range(20):
        rate.recognised(2.0, 1000 + at / 10)
    assert rate.per_s == pytest.approx(20, rel=0.05)
    assert Rate().per_s is None
