"""The guard's decisions, without processes: the policy over generated and recorded traces, the
estimates, admission and the limits."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from supervisor.errors import MemoryPressure, QueueFull, ResourceExhausted, SpoolFull, TooLarge
from supervisor.guard.admission import Ask, Supply, may_begin, refusal
from supervisor.guard.estimate import PRIOR_BYTES_PER_UNIT, GrowthEstimate, Pace
from supervisor.guard.limits import (
    MIB,
    SETTING,
    Budget,
    Explained,
    Limits,
    bounds_of,
    find_budget,
    find_limits,
)
from supervisor.guard.policy import (
    Action,
    EndHelper,
    EndLoad,
    GuardState,
    HelperView,
    Kill,
    Level,
    LoadView,
    Recycle,
    Situation,
    Trim,
    WorkerView,
    decide,
)
from supervisor.readings.memory import Bound, CgroupMemory, MachineMemory, MemoryReading
from supervisor.settings import MemorySettings

GIB = 1024 * MIB
LIMITS = Limits(Explained(1024 * MIB, "a test"), Explained(32 * MIB, "a test"), 80 * MIB, 30 * MIB)


def budget(growth: int = 200 * MIB, max_rss: int | None = None) -> Budget:
    most = None if max_rss is None else Explained(max_rss, "workers.max_rss")
    return Budget(Explained(growth, "a test"), Explained(growth * 3 // 2, "a test"), most)


def worker(
    pid: int = 1,
    *,
    growth: int = 0,
    busy: bool = False,
    leaving: bool = False,
    kept: int = 0,
    rate: float = 0.0,
) -> WorkerView:
    return WorkerView(pid, busy, leaving, growth, kept or growth + 100 * MIB, rate)


def situation(
    left: int = 500 * MIB,
    *workers: WorkerView,
    time: float = 100.0,
    loading: tuple[LoadView, ...] = (),
    faults: float = 0.0,
    refaults: float = 0.0,
    allowed: Budget | None = None,
) -> Situation:
    allowed = allowed or budget()
    return Situation(time, left, LIMITS, allowed, workers, loading, (), faults, refaults)


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
    assert "201 MiB of 200 MiB" in action.reason


def test_a_worker_that_is_leaving_is_not_asked_twice() -> None:
    now = situation(500 * MIB, worker(growth=201 * MIB, busy=True, leaving=True))
    assert one(GuardState(2), now)[1] == []


@pytest.mark.parametrize("leaving", [False, True])
def test_a_worker_over_its_hard_budget_is_ended_even_if_nothing_else_is_wrong(
    leaving: bool,
) -> None:
    now = situation(5 * GIB, worker(growth=301 * MIB, busy=True, leaving=leaving))
    (action,) = one(GuardState(2), now)[1]
    assert isinstance(action, Kill)
    assert action.own_fault
    assert "301 MiB" in action.reason
    assert "300 MiB are allowed" in action.reason


def test_what_a_worker_shares_counts_for_max_rss_only() -> None:
    fat = worker(growth=10 * MIB, kept=700 * MIB)
    assert one(GuardState(2), situation(5 * GIB, fat))[1] == []
    now = situation(5 * GIB, fat, allowed=budget(max_rss=600 * MIB))
    (action,) = one(GuardState(2), now)[1]
    assert isinstance(action, Kill)
    assert "workers.max_rss" in action.reason


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
    assert isinstance(kill, Kill)
    assert kill.pid == 2
    assert not kill.own_fault


def test_what_grows_fast_is_ended_before_what_is_merely_large() -> None:
    now = situation(
        40 * MIB,
        worker(1, growth=150 * MIB, busy=True),
        worker(2, growth=30 * MIB, busy=True, rate=1e9),
    )
    (_, kill) = one(GuardState(2), now)[1]
    assert isinstance(kill, Kill)
    assert kill.pid == 2


def test_a_second_fast_leak_does_not_wait_for_the_first_ones_memory() -> None:
    now = situation(40 * MIB, worker(1, growth=150 * MIB, busy=True, rate=2e9))
    state = one(GuardState(2), now)[0]
    later = situation(20 * MIB, worker(2, growth=90 * MIB, busy=True, rate=2e9), time=100.1)
    assert [a.pid for a in one(state, later)[1] if isinstance(a, Kill)] == [2]
    slow = situation(5 * MIB, worker(2, growth=90 * MIB, busy=True), time=100.1)
    assert not [a for a in one(state, slow)[1] if isinstance(a, Kill)]


def test_a_load_that_does_not_fit_is_ended_and_no_slim_worker() -> None:
    loading = (LoadView(9, 800 * MIB, 3e8),)
    state, actions = one(
        GuardState(2), situation(20 * MIB, worker(growth=2 * MIB, busy=True), loading=loading)
    )
    (_, end) = actions
    assert isinstance(end, EndLoad)
    assert end.pid == 9
    assert "loaded 800 MiB" in end.reason
    assert one(state, situation(20 * MIB, loading=loading, time=100.1))[1] == []


def test_a_helper_goes_before_anybody_who_serves() -> None:
    now = situation(10 * MIB, worker(1, growth=90 * MIB, busy=True))
    now = replace(now, helpers=(HelperView(7, 20 * MIB), HelperView(8, 500 * MIB)))
    state, actions = one(GuardState(2), now)
    (_, end) = actions
    assert isinstance(end, EndHelper)
    assert end.pid == 8
    assert one(state, replace(now, time=100.1, left=70 * MIB))[1] == []


# --- starved --------------------------------------------------------------------------------------


def starve(state: GuardState, seconds: range, faults: float, refaults: float) -> GuardState:
    for second in seconds:
        now = situation(time=float(second), faults=faults, refaults=refaults)
        state = one(state, now)[0]
    return state


def test_refaults_that_last_mean_starved_and_their_end_means_fed() -> None:
    state = starve(GuardState(4), range(2), 1500, 1800)
    assert not state.starved
    state = starve(state, range(2, 5), 1500, 1800)
    assert state.starved
    assert state.level is Level.NORMAL
    assert state.concurrency == 4  # one waits for its pages while another works
    state = starve(state, range(5, 14), 0, 0)
    assert state.starved
    assert not starve(state, range(14, 20), 0, 0).starved


def test_thrashing_means_fewer_workers_at_once_and_its_end_means_more() -> None:
    state = starve(GuardState(4), range(5), 11_000, 12_000)
    assert state.concurrency == 2
    state = starve(state, range(5, 60), 11_000, 12_000)
    assert state.concurrency == 1
    state = starve(state, range(60, 75), 7_000, 7_000)
    assert state.concurrency == 1  # between the two, all stays as it is
    state = starve(state, range(75, 90), 2_000, 2_000)
    assert state.starved
    assert state.concurrency in (2, 3)
    state = starve(state, range(90, 150), 0, 0)
    assert not state.starved
    assert state.concurrency == 4


def test_a_cold_start_is_no_starvation() -> None:
    """Pages read for the first time are major faults, but were never taken back."""
    assert not starve(GuardState(2), range(30), 5000, 0).starved


def test_somebody_elses_refaults_are_no_starvation() -> None:
    assert not starve(GuardState(2), range(30), 0, 5000).starved


def test_one_worker_can_be_starved_and_fed_again() -> None:
    state = starve(GuardState(1), range(5), 20_000, 20_000)
    assert state.starved
    assert state.concurrency == 1
    assert not starve(state, range(5, 20), 0, 0).starved


# --- simulation -----------------------------------------------------------------------------------


@dataclass
class World:
    """Workers that grow, a limit, and the policy in charge. The time of a step is what the guard
    would wait between two looks."""

    limit: int = 1024 * MIB
    base: int = 300 * MIB
    others: int = 0
    growth: dict[int, int] = field(default_factory=lambda: {1: 0, 2: 0})
    rate: dict[int, float] = field(default_factory=dict)
    busy: set[int] = field(default_factory=set)
    leaving: set[int] = field(default_factory=set)
    state: GuardState = field(default_factory=lambda: GuardState(2))
    time: float = 0.0
    most: int = 0
    killed: list[int] = field(default_factory=list)
    recycled: list[int] = field(default_factory=list)

    @property
    def used(self) -> int:
        return self.base + self.others + sum(self.growth.values())

    def step(self) -> None:
        left = self.limit - self.used - LIMITS.reserve.bytes
        interval = max(0.01, min(0.25, (left + LIMITS.reserve.bytes) / 2e9))
        self.time += interval
        for pid, rate in self.rate.items():
            self.growth[pid] += int(rate * interval)
        self.most = max(self.most, self.used)
        left = self.limit - self.used - LIMITS.reserve.bytes
        views = [
            worker(
                pid,
                growth=growth,
                busy=pid in self.busy,
                leaving=pid in self.leaving,
                rate=self.rate.get(pid, 0.0),
            )
            for pid, growth in self.growth.items()
        ]
        decision = decide(
            self.state, situation(left, *views, time=self.time, allowed=budget(600 * MIB))
        )
        self.state = decision.state
        for action in decision.actions:
            if isinstance(action, Kill):
                self.killed.append(action.pid)
                self._replace(action.pid)
            elif isinstance(action, Recycle):
                self.recycled.append(action.pid)
                self.leaving.add(action.pid)
                if action.pid not in self.busy:
                    self._replace(action.pid)

    def _replace(self, pid: int) -> None:
        self.growth[pid] = 0
        self.rate.pop(pid, None)
        self.leaving.discard(pid)

    def run(self, seconds: float) -> "World":
        end = self.time + seconds
        while self.time < end:
            self.step()
        return self


@pytest.mark.parametrize("rate", [1e6, 1e7, 1e8, 5e8, 1e9, 1.5e9])
@pytest.mark.parametrize("limit", [512, 1024, 8192])
def test_no_leak_of_any_speed_reaches_the_limit(rate: float, limit: int) -> None:
    world = World(limit * MIB, rate={1: rate}, busy={1, 2})
    world.run(max(5.0, 2 * limit * MIB / rate))
    assert world.most < world.limit
    assert world.killed == [1]


def test_two_leaks_at_once_are_ended_both() -> None:
    world = World(rate={1: 6e8, 2: 5e8}, busy={1, 2}).run(10)
    assert world.most < world.limit
    assert sorted(world.killed) == [1, 2]


def test_a_neighbour_that_comes_and_goes_costs_workers_that_did_nothing_no_life() -> None:
    world = World().run(2)
    world.others = 680 * MIB
    world.run(3)
    assert world.state.level is Level.CRITICAL
    assert world.killed == world.recycled == []
    world.others = 0
    world.run(10)
    assert world.state.level is Level.NORMAL


def test_memory_that_grows_and_is_used_again_settles() -> None:
    """Growth as that of a composed graph: fast, then ever slower."""
    world = World(limit=2048 * MIB, busy={1, 2})
    for second in range(600):
        for pid in (1, 2):
            world.rate[pid] = 20e6 / (1 + second / 5)
        world.run(1)
    assert world.killed == world.recycled == []
    assert world.state.level is Level.NORMAL


RECORDED = Path(__file__).parent / "traces"


@pytest.mark.parametrize("trace", sorted(RECORDED.glob("*.json")), ids=lambda path: path.stem)
def test_recorded_traces_are_decided_as_they_were_meant_to_be(trace: Path) -> None:
    """What a real pool in a real cgroup saw (`record_traces.py`), decided anew."""
    recorded = json.loads(trace.read_text(encoding="utf-8"))
    limits = Limits(
        Explained(recorded["limit"], ""),
        Explained(recorded["reserve"], ""),
        recorded["pressure_below"],
        recorded["critical_below"],
    )
    state, levels, killed, recycled = GuardState(recorded["workers"]), set(), 0, 0
    for moment in recorded["moments"]:
        now = Situation(
            moment["time"],
            moment["left"],
            limits,
            budget(recorded["budget"]),
            tuple(
                WorkerView(pid, True, False, growth, kept)
                for pid, growth, kept in moment["workers"]
            ),
        )
        decision = decide(state, now)
        state = decision.state
        levels.add(state.level.word)
        killed += sum(isinstance(action, Kill) for action in decision.actions)
        recycled += sum(isinstance(action, Recycle) for action in decision.actions)
    assert sorted(levels) == sorted(recorded["expect"]["levels"])
    assert killed >= recorded["expect"]["kills_at_least"]
    assert killed <= recorded["expect"]["kills_at_most"]


# --- limits ---------------------------------------------------------------------------------------


def reading(available: int, *cgroups: tuple[int | None, int]) -> MemoryReading:
    groups = tuple(
        CgroupMemory(Path(f"/g{number}"), limit, "memory.max", used, 0, 0, None)
        for number, (limit, used) in enumerate(cgroups)
    )
    return MemoryReading(0.0, MachineMemory(4 * GIB, available, 0, 0), groups, None, 0)


def test_the_smallest_limit_counts_and_is_named() -> None:
    now = reading(3 * GIB, (None, 0), (2 * GIB, 0), (GIB, 0))
    limits = find_limits(bounds_of(now, MemorySettings(), 0), MemorySettings())
    assert limits.limit == Explained(GIB, "cgroup /g2 (memory.max)")
    own = MemorySettings(limit=512 * MIB)
    limits = find_limits(bounds_of(now, own, 0), own)
    assert limits.limit == Explained(512 * MIB, SETTING)
    assert limits.reserve.bytes == 16 * MIB
    assert "1/32" in limits.reserve.reason


def test_without_any_limit_the_machine_is_the_limit() -> None:
    limits = find_limits(bounds_of(reading(3 * GIB), MemorySettings(), 0), MemorySettings())
    assert limits.limit == Explained(4 * GIB, "the machine")


def test_every_bound_counts_by_what_it_has_left() -> None:
    """A parent that others fill is tighter than our own smaller limit."""
    now = reading(3 * GIB, (2 * GIB, 2 * GIB - 10 * MIB), (GIB, 100 * MIB))
    bounds = bounds_of(now, MemorySettings(limit=GIB), 100 * MIB)
    assert min(bounds, key=lambda bound: bound.headroom) == Bound(
        "cgroup /g0 (memory.max)", 2 * GIB, 2 * GIB - 10 * MIB
    )


def test_a_reserve_that_was_set_is_taken() -> None:
    own = MemorySettings(reserve=100 * MIB)
    limits = find_limits(bounds_of(reading(GIB), own, 0), own)
    assert limits.reserve == Explained(100 * MIB, "the setting memory.reserve")


@pytest.mark.parametrize(
    ("left", "workers", "expected"), [(1000, 2, 400), (20, 4, 32), (100_000, 2, 1024)]
)
def test_an_automatic_budget_is_a_share_of_what_is_left(
    left: int, workers: int, expected: int
) -> None:
    found = find_budget(MemorySettings(), left * MIB, workers)
    assert found.growth.bytes == expected * MIB
    assert found.hard.bytes == expected * MIB * 3 // 2
    assert f"the {left} MiB left" in found.growth.reason


def test_a_budget_that_was_set_is_taken() -> None:
    found = find_budget(MemorySettings(budget=50 * MIB, max_rss=70 * MIB), 10 * GIB, 2)
    assert found.growth == Explained(50 * MIB, "the setting workers.budget")
    assert found.max_rss == Explained(70 * MIB, "workers.max_rss")


# --- estimates ------------------------------------------------------------------------------------


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


# --- admission ------------------------------------------------------------------------------------


def supply(**changes: object) -> Supply:
    usual = Supply(
        state=GuardState(2),
        left=500 * MIB,
        reserved=0,
        capacity=600 * MIB,
        most_growth=300 * MIB,
        s_per_unit=0.1,
        seats=2,
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
    assert "400 MiB" in refused.message
    assert "300 MiB" in refused.message
    refused = refusal(Ask(input_bytes=2 * GIB), supply(), None)
    assert isinstance(refused, TooLarge)
    assert "2048 MiB" in refused.message


def test_critical_memory_refuses_everything_and_pressure_streams_only() -> None:
    critical = supply(state=GuardState(2, Level.CRITICAL), left=10 * MIB)
    refused = refusal(Ask(1.0), critical, None)
    assert isinstance(refused, MemoryPressure)
    assert refused.retry_after_s is not None
    assert "10 MiB are left" in refused.message
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


def test_a_job_alone_is_tried_however_long_it_may_take() -> None:
    assert refusal(Ask(1000.0, None, 30.0), supply(), None) is None


def test_a_disk_that_others_are_promised_refuses_for_now() -> None:
    refused = refusal(Ask(input_bytes=200 * MIB), supply(disk_left=100 * MIB), None)
    assert isinstance(refused, SpoolFull)
    assert refused.retry_after_s is not None
    assert "100 MiB are left" in refused.message
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
