"""Limits: which there are, which one counts, and how much of it a worker may use."""

from pathlib import Path

import pytest
from situations import GIB

from supervisor.guard.limits import MIB, SETTING, Explained, bounds_of, find_budget, find_limits
from supervisor.readings.memory import Bound, CgroupMemory, MachineMemory, MemoryReading
from supervisor.settings import MemorySettings
from supervisor.sizes import in_units

pytestmark = pytest.mark.quick


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
        "cgroup /g0 (memory.max)", 2 * GIB, 2 * GIB - 10 * MIB, Path("/g0")
    )


def test_a_reserve_that_was_set_is_taken() -> None:
    own = MemorySettings(reserve=100 * MIB)
    limits = find_limits(bounds_of(reading(GIB), own, 0), own)
    assert limits.reserve == Explained(100 * MIB, "the setting debug.memory_reserve")


@pytest.mark.parametrize(
    ("left", "workers", "expected"), [(1000, 2, 400), (20, 4, 32), (100_000, 2, 1024)]
)
def test_an_automatic_budget_is_a_share_of_what_is_left(
    left: int, workers: int, expected: int
) -> None:
    found = find_budget(MemorySettings(), left * MIB, workers)
    assert found.growth.bytes == expected * MIB
    assert found.hard.bytes == expected * MIB * 3 // 2
    assert f"the {in_units(left * MIB)} left" in found.growth.reason


def test_a_budget_that_was_set_is_taken() -> None:
    found = find_budget(MemorySettings(budget=50 * MIB, max_rss=70 * MIB), 10 * GIB, 2)
    assert found.growth == Explained(50 * MIB, "the setting workers.budget")
    assert found.max_rss == Explained(70 * MIB, "debug.max_rss")
