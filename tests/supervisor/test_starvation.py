"""Starvation, from readings of one after another."""

import pytest

from supervisor.guard.starvation import NO_WAITING, Waiting, WaitingMeter, WorkReading

pytestmark = pytest.mark.quick


def readings(meter: WaitingMeter, *rows: tuple[float, float | None, int, int]) -> Waiting:
    """Take readings of one worker, a second apart: seconds of work, of running, faults; and all
    refaults."""
    for second, (work_s, ran_s, faults, refaults) in enumerate(rows):
        meter.take(float(second), [WorkReading(1, work_s, ran_s, faults)], refaults)
    return meter.waiting()


def test_a_worker_that_computes_waits_for_nothing() -> None:
    waiting = readings(WaitingMeter(), (5.0, 5.0, 7, 0), (6.0, 6.0, 7, 0), (7.0, 7.0, 7, 0))
    assert waiting == Waiting(0.0, 0.0, 0.0)


def test_what_it_neither_ran_nor_stood_in_line_for_a_processor_is_waiting() -> None:
    waiting = readings(WaitingMeter(), (0.0, 0.0, 0, 0), (1.0, 0.4, 100, 90), (2.0, 0.8, 200, 180))
    assert waiting.share == pytest.approx(0.6)
    assert (waiting.faults, waiting.refaults) == (100.0, 90.0)
    assert waiting.lost == pytest.approx(0.6 * 0.9)


def test_the_time_between_two_jobs_is_not_waiting() -> None:
    # A tenth of each second is work, all of it computing.
    waiting = readings(WaitingMeter(), *((n / 10, n / 10, n, n) for n in range(10)))
    assert waiting == NO_WAITING  # too little work in three seconds to say anything
    waiting = readings(WaitingMeter(), *((n / 2, n / 2, 50 * n, 50 * n) for n in range(10)))
    assert (waiting.faults, waiting.share) == (100.0, 0.0)


def test_where_the_kernel_does_not_tell_what_ran_faults_are_counted_instead() -> None:
    waiting = readings(WaitingMeter(), (0.0, None, 0, 0), (1.0, None, 2000, 2000))
    assert waiting.share == pytest.approx(0.2)
    waiting = readings(WaitingMeter(), (0.0, None, 0, 0), (1.0, None, 90_000, 90_000))
    assert waiting.share == 1.0  # no more than all of it


def test_workers_may_come_and_go() -> None:
    meter = WaitingMeter()
    meter.take(0.0, [WorkReading(1, 10.0, 2.0, 900)], 0)
    meter.take(1.0, [WorkReading(1, 11.0, 2.5, 950), WorkReading(2, 3.0, 0.1, 7000)], 50)
    meter.take(2.0, [WorkReading(2, 4.0, 1.1, 7000)], 50)
    waiting = meter.waiting()
    assert waiting.faults == 25.0  # what the second had before it was first seen is not counted
    assert waiting.share == pytest.approx(0.25)
    assert (meter.faults, meter.waited_s) == (50, pytest.approx(0.5))


def test_only_the_last_seconds_count() -> None:
    meter = WaitingMeter()
    readings(meter, *((float(n), n * 0.1, n * 1000, n * 1000) for n in range(10)))
    assert meter.waiting().share == pytest.approx(0.9)
    for second in range(10, 20):
        meter.take(float(second), [WorkReading(1, float(second), second - 8.1, 9000)], 9000)
    assert meter.waiting().lost == 0.0
