"""The guard's policy in charge of simulated workers, and of what real ones once did."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from places import SUPPORT
from situations import LIMITS, budget, situation, worker

from supervisor.deaths.level import Level
from supervisor.guard.limits import MIB, Explained, Limits
from supervisor.guard.policy import End, GuardState, Recycle, Situation, WorkerView, decide

pytestmark = pytest.mark.quick


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
            if isinstance(action, End):
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


RECORDED = SUPPORT / "traces"


@pytest.mark.parametrize("trace", sorted(RECORDED.glob("*.json")), ids=lambda path: path.stem)
def test_recorded_traces_are_decided_as_they_were_meant_to_be(trace: Path) -> None:
    """Replay the readings of a real pool in a real cgroup (`record_traces.py`)."""
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
                WorkerView(pid, True, False, growth, unreclaimable)
                for pid, growth, unreclaimable in moment["workers"]
            ),
        )
        decision = decide(state, now)
        state = decision.state
        levels.add(state.level.word)
        killed += sum(isinstance(action, End) for action in decision.actions)
        recycled += sum(isinstance(action, Recycle) for action in decision.actions)
    assert sorted(levels) == sorted(recorded["expect"]["levels"])
    assert killed >= recorded["expect"]["kills_at_least"]
    assert killed <= recorded["expect"]["kills_at_most"]
