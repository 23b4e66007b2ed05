"""Expected needs of a job, and its admission."""

from dataclasses import replace

import pytest
from situations import GIB

from supervisor.deaths.level import Level
from supervisor.errors import MemoryPressure, QueueFull, ResourceExhausted, SpoolFull, TooLarge
from supervisor.guard.estimate import PRIOR_BYTES_PER_UNIT, GrowthEstimate, Pace
from supervisor.guard.limits import MIB
from supervisor.guard.policy import GuardState
from supervisor.guard.refusal import Ask, Supply, may_begin, refusal

pytestmark = pytest.mark.quick


def test_growth_is_expected_by_the_prior_until_jobs_have_been_seen() -> None:
    estimate = GrowthEstimate()
    assert estimate.expected(10.0) == 10 * PRIOR_BYTES_PER_UNIT
    for _ in range(5):
        estimate.learn(10.0, 0)
    assert estimate.expected(10.0) == 10 * PRIOR_BYTES_PER_UNIT
    assert estimate.certain(10.0) is None


def test_growth_is_learned_as_an_upper_quantile() -> None:
    estimate = GrowthEstimate()
    for number in range(100):
        estimate.learn(10.0, number * MIB)
    assert estimate.expected(10.0) == 94 * MIB
    assert estimate.certain(20.0) == 188 * MIB


def test_short_jobs_say_nothing_certain_of_long_ones() -> None:
    estimate = GrowthEstimate()
    for _ in range(100):
        estimate.learn(2.0, 10 * MIB)
    assert estimate.certain(3600.0) is None


def test_old_jobs_are_forgotten() -> None:
    estimate = GrowthEstimate()
    for growth in (100 * MIB, 0):
        for _ in range(300):
            estimate.learn(1.0, growth)
    assert estimate.expected(1.0) == 0


def test_the_pace_is_that_of_now() -> None:
    pace = Pace()
    for _ in range(4):
        pace.learn(10.0, 1.0)
    assert pace.s_per_unit is None
    pace.learn(10.0, 1.0)
    assert pace.s_per_unit == pytest.approx(0.1)
    for _ in range(50):
        pace.learn(10.0, 4.0)
    assert pace.s_per_unit == pytest.approx(0.4, rel=0.02)


def supply(**changes: object) -> Supply:
    usual = Supply(
        state=GuardState(2),
        left=500 * MIB,
        reserved=0,
        capacity=600 * MIB,
        most_growth=300 * MIB,
        s_per_unit=0.1,
        slots=2,
        queued_units=0.0,
        disk_total=GIB,
        disk_left=GIB,
        spool_memory_each=2 * MIB,
        descriptors_free=900,
        descriptors_total=1024,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def test_what_fits_comes_in() -> None:
    assert refusal(Ask(10.0, MIB, 30.0), supply(), None) is None
    assert refusal(Ask(), supply(s_per_unit=None), None) is None


def test_what_could_never_fit_is_refused_with_the_numbers() -> None:
    refused = refusal(Ask(100.0), supply(), 400 * MIB)
    assert isinstance(refused, TooLarge)
    assert "419 MB" in refused.message
    assert "315 MB" in refused.message
    refused = refusal(Ask(input_bytes=2 * GIB), supply(), None)
    assert isinstance(refused, TooLarge)
    assert "2.1 GB" in refused.message


def test_critical_memory_refuses_everything_and_pressure_streams_only() -> None:
    critical = supply(state=GuardState(2, Level.CRITICAL), left=10 * MIB)
    refused = refusal(Ask(1.0), critical, None)
    assert isinstance(refused, MemoryPressure)
    assert refused.retry_after_s is not None
    assert "10 MB are left" in refused.message
    pressure = supply(state=GuardState(2, Level.PRESSURE))
    assert refusal(Ask(1.0), pressure, None) is None
    assert isinstance(refusal(Ask(stream=True), pressure, None), MemoryPressure)


def test_what_would_not_be_done_in_time_is_refused_at_once() -> None:
    busy = supply(queued_units=1000.0)  # 50 s for two workers
    assert refusal(Ask(10.0, None, 60.0), busy, None) is None
    refused = refusal(Ask(10.0, None, 30.0), busy, None)
    assert isinstance(refused, QueueFull)
    assert refused.retry_after_s == pytest.approx(20.5)
    fewer = replace(busy, state=GuardState(2, starved=True, starved_concurrency=1))
    refused = refusal(Ask(10.0, None, 60.0), fewer, None)
    assert isinstance(refused, MemoryPressure)


def test_a_job_alone_is_tried_where_it_may_just_be_done() -> None:
    assert refusal(Ask(400.0, None, 30.0), supply(), None) is None  # 40 s
    assert refusal(Ask(1000.0), supply(), None) is None


def test_a_job_that_could_not_be_done_in_time_alone_is_refused() -> None:
    refused = refusal(Ask(1000.0, None, 30.0), supply(), None)
    assert isinstance(refused, TooLarge)
    assert "would take about 100 s" in refused.message
    assert "30 s are allowed" in refused.message


def test_a_disk_that_others_are_promised_refuses_for_now() -> None:
    refused = refusal(Ask(input_bytes=200 * MIB), supply(disk_left=100 * MIB), None)
    assert isinstance(refused, SpoolFull)
    assert refused.retry_after_s is not None
    assert "105 MB are left" in refused.message
    assert refusal(Ask(input_bytes=MIB), supply(disk_left=0), None) is None  # in memory


def test_full_descriptors_refuse() -> None:
    refused = refusal(Ask(), supply(descriptors_free=20), None)
    assert isinstance(refused, ResourceExhausted)
    assert "20 file descriptors are left of 1024" in refused.message


def test_a_job_waits_for_room_but_never_for_nothing() -> None:
    assert may_begin(100 * MIB, supply(), alone=False)
    assert not may_begin(100 * MIB, supply(reserved=450 * MIB), alone=False)
    assert may_begin(100 * MIB, supply(reserved=450 * MIB), alone=True)
    assert not may_begin(0, supply(state=GuardState(2, Level.CRITICAL)), alone=False)
