"""The guard's policy: what it decides of one situation after another."""

from dataclasses import replace

import pytest
from situations import GIB, budget, situation, worker

from supervisor.deaths.death import Intent
from supervisor.deaths.level import Level
from supervisor.guard.limits import MIB
from supervisor.guard.policy import (
    Action,
    End,
    GuardState,
    HelperView,
    LoadView,
    Recycle,
    Situation,
    Trim,
    decide,
)
from supervisor.guard.starvation import Waiting

pytestmark = pytest.mark.quick


def one(state: GuardState, now: Situation) -> tuple[GuardState, list[Action]]:
    decision = decide(state, now)
    return decision.state, list(decision.actions)


# --- budgets --------------------------------------------------------------------------------------


def test_nothing_is_done_where_nothing_is_wrong() -> None:
    state, actions = one(GuardState(2), situation(500 * MIB, worker(growth=100 * MIB)))
    assert state == GuardState(2)
    assert actions == []


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_over_its_budget_is_recycled_when_it_can_be(busy: bool) -> None:
    _, actions = one(GuardState(2), situation(500 * MIB, worker(growth=201 * MIB, busy=busy)))
    (action,) = actions
    assert isinstance(action, Recycle)
    assert "211 MB of 210 MB" in action.reason


def test_a_worker_that_is_leaving_is_not_asked_twice() -> None:
    now = situation(500 * MIB, worker(growth=201 * MIB, busy=True, leaving=True))
    assert one(GuardState(2), now)[1] == []


@pytest.mark.parametrize("leaving", [False, True])
def test_a_worker_over_its_hard_budget_is_ended_even_if_nothing_else_is_wrong(
    leaving: bool,
) -> None:
    now = situation(5 * GIB, worker(growth=301 * MIB, busy=True, leaving=leaving))
    (action,) = one(GuardState(2), now)[1]
    assert isinstance(action, End)
    assert action.intent is Intent.BUDGET
    assert "316 MB" in action.reason
    assert "315 MB are allowed" in action.reason


def test_what_a_worker_shares_counts_for_max_rss_only() -> None:
    fat = worker(growth=10 * MIB, unreclaimable=700 * MIB)
    assert one(GuardState(2), situation(5 * GIB, fat))[1] == []
    now = situation(5 * GIB, fat, allowed=budget(max_rss=600 * MIB))
    (action,) = one(GuardState(2), now)[1]
    assert isinstance(action, End)
    assert "debug.max_rss" in action.reason


# --- levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "level"),
    [(81, Level.NORMAL), (79, Level.PRESSURE), (29, Level.CRITICAL), (-5, Level.CRITICAL)],
)
def test_levels_go_up_at_once(left: int, level: Level) -> None:
    assert one(GuardState(2), situation(left * MIB))[0].level is level


def test_levels_go_down_one_by_one_after_a_while_with_room_to_spare() -> None:
    state = one(GuardState(2), situation(20 * MIB))[0]
    levels = []
    for tenth in range(80):
        state = one(state, situation(500 * MIB, time=101 + tenth / 10))[0]
        levels.append(state.level)
    assert levels.index(Level.PRESSURE) == 20
    assert levels.index(Level.NORMAL) == 41
    state = one(GuardState(2), situation(79 * MIB))[0]
    for second in range(60):
        state = one(state, situation(100 * MIB, time=101 + second))[0]
    assert state.level is Level.PRESSURE  # 100 is more than 80, and less than half as much again


def test_a_level_that_wavers_around_its_border_changes_once() -> None:
    state, changes = GuardState(2), 0
    for tick in range(400):
        before = state.level
        left = (80 + (15 if tick % 2 else -15)) * MIB
        state = one(state, situation(left, time=tick / 4))[0]
        changes += state.level is not before
    assert changes == 1


@pytest.mark.parametrize(
    ("level", "work", "streams", "memory", "concurrency"),
    [
        (Level.NORMAL, True, True, True, 4),
        (Level.PRESSURE, True, False, False, 4),
        (Level.CRITICAL, False, False, False, 1),
    ],
)
def test_what_a_level_stands_for(
    level: Level, work: bool, streams: bool, memory: bool, concurrency: int
) -> None:
    state = GuardState(4, level)
    assert (state.takes_work, state.takes_streams) == (work, streams)
    assert (state.spools_in_memory, state.concurrency) == (memory, concurrency)


def test_pressure_trims_and_recycles_the_fattest_idle_worker_but_no_busy_one() -> None:
    now = situation(
        60 * MIB,
        worker(1, growth=20 * MIB),
        worker(2, growth=50 * MIB),
        worker(3, growth=90 * MIB, busy=True),
    )
    state, actions = one(GuardState(3), now)
    assert actions[0] == Trim()
    assert isinstance(actions[1], Recycle)
    assert actions[1].pid == 2
    assert len(actions) == 2
    again = one(state, replace(now, time=now.time + 0.1))[1]
    assert again == []  # what was done has to show first


def test_a_slim_worker_is_left_alone() -> None:
    for left in (60, 5, -20):
        actions = one(GuardState(2), situation(left * MIB, worker(growth=3 * MIB, busy=True)))[1]
        assert actions == [Trim()]


def test_critical_asks_busy_workers_to_leave_and_ends_the_fattest_when_little_is_left() -> None:
    busy = (worker(1, growth=40 * MIB, busy=True), worker(2, growth=60 * MIB, busy=True))
    _, actions = one(GuardState(2), situation(20 * MIB, *busy))
    assert [type(action) for action in actions] == [Trim, Recycle]
    _, actions = one(GuardState(2), situation(10 * MIB, *busy))
    (_, kill) = actions
    assert isinstance(kill, End)
    assert kill.pid == 2
    assert kill.intent is Intent.SHORTAGE


def test_what_grows_fast_is_ended_before_what_is_merely_large() -> None:
    now = situation(
        40 * MIB,
        worker(1, growth=150 * MIB, busy=True),
        worker(2, growth=30 * MIB, busy=True, rate=1e9),
    )
    (_, kill) = one(GuardState(2), now)[1]
    assert isinstance(kill, End)
    assert kill.pid == 2


def test_a_second_fast_leak_does_not_wait_for_the_first_ones_memory() -> None:
    now = situation(40 * MIB, worker(1, growth=150 * MIB, busy=True, rate=2e9))
    state = one(GuardState(2), now)[0]
    later = situation(20 * MIB, worker(2, growth=90 * MIB, busy=True, rate=2e9), time=100.1)
    assert [a.pid for a in one(state, later)[1] if isinstance(a, End)] == [2]
    slow = situation(5 * MIB, worker(2, growth=90 * MIB, busy=True), time=100.1)
    assert not [a for a in one(state, slow)[1] if isinstance(a, End)]


def test_a_load_that_does_not_fit_is_ended_and_no_slim_worker() -> None:
    loading = (LoadView(9, 800 * MIB, 3e8),)
    state, actions = one(
        GuardState(2), situation(20 * MIB, worker(growth=2 * MIB, busy=True), loading=loading)
    )
    (_, end) = actions
    assert isinstance(end, End)
    assert end.pid == 9
    assert "loaded 839 MB" in end.reason
    assert one(state, situation(20 * MIB, loading=loading, time=100.1))[1] == []


def test_a_helper_goes_before_anybody_who_serves() -> None:
    now = situation(10 * MIB, worker(1, growth=90 * MIB, busy=True))
    now = replace(now, helpers=(HelperView(7, 20 * MIB), HelperView(8, 500 * MIB)))
    state, actions = one(GuardState(2), now)
    (_, end) = actions
    assert isinstance(end, End)
    assert end.pid == 8
    assert one(state, replace(now, time=100.1, left=70 * MIB))[1] == []


# --- starved --------------------------------------------------------------------------------------


def starve(state: GuardState, seconds: range, waiting: Waiting) -> GuardState:
    for second in seconds:
        state = one(state, situation(time=float(second), waiting=waiting))[0]
    return state


def lost(share: float) -> Waiting:
    """Return waits in which this share of the workers' time goes into reading pages again."""
    return Waiting(faults=500.0, refaults=600.0, share=share)


FED = Waiting()


def test_time_lost_for_a_while_means_starved_and_its_end_means_fed() -> None:
    state = starve(GuardState(4), range(2), lost(0.15))
    assert not state.starved
    state = starve(state, range(2, 5), lost(0.15))
    assert state.starved
    assert state.level is Level.NORMAL
    assert state.concurrency == 4  # one waits for its pages while another works
    state = starve(state, range(5, 14), FED)
    assert state.starved
    assert not starve(state, range(14, 20), FED).starved


def test_less_than_a_tenth_of_the_time_is_no_starvation() -> None:
    assert not starve(GuardState(4), range(30), lost(0.09)).starved


def test_thrashing_means_fewer_workers_at_once_and_its_end_means_more() -> None:
    state = starve(GuardState(4), range(5), lost(0.8))
    assert state.concurrency == 2
    state = starve(state, range(5, 60), lost(0.8))
    assert state.concurrency == 1
    state = starve(state, range(60, 75), lost(0.6))
    assert state.concurrency == 1  # between the two, all stays as it is
    state = starve(state, range(75, 90), lost(0.2))
    assert state.starved
    assert state.concurrency in (2, 3)
    state = starve(state, range(90, 150), FED)
    assert not state.starved
    assert state.concurrency == 4


def test_on_a_slow_disk_pages_read_for_the_first_time_count_for_how_many_work_at_once() -> None:
    state = starve(GuardState(2), range(15), Waiting(750, 540, 0.93))
    assert (state.starved, state.concurrency) == (True, 1)


@pytest.mark.parametrize(
    "waiting",
    [Waiting(5000, 0, 0.9), Waiting(5000, 400, 0.9)],
    ids=["nothing was there before", "little was"],
)
def test_a_cold_start_is_no_starvation(waiting: Waiting) -> None:
    """Pages read for the first time are major faults, but were never taken back."""
    assert not starve(GuardState(2), range(30), waiting).starved


@pytest.mark.parametrize(
    "waiting", [Waiting(0, 5000, 0.9), Waiting(5, 5000, 0.9)], ids=["no faults", "hardly any"]
)
def test_somebody_elses_refaults_are_no_starvation(waiting: Waiting) -> None:
    assert not starve(GuardState(2), range(30), waiting).starved


def test_few_faults_on_a_slow_disk_cost_as_much_as_many_on_a_fast_one() -> None:
    assert starve(GuardState(2), range(5), Waiting(60, 60, 0.6)).starved
    assert starve(GuardState(2), range(5), Waiting(6000, 6000, 0.6)).starved


def test_one_worker_can_be_starved_and_fed_again() -> None:
    state = starve(GuardState(1), range(5), lost(0.9))
    assert state.starved
    assert state.concurrency == 1
    assert not starve(state, range(5, 20), FED).starved
