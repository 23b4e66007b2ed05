"""What the guard would keep to here and now, for whoever runs no pool."""

from supervisor.guard.limits import Explained, Limits, bounds_of, find_budget, find_limits
from supervisor.readings.memory import MemoryReader
from supervisor.settings import Headroom, MemorySettings, PoolSettings
from supervisor.sizes import in_units


def explain_limits(settings: PoolSettings) -> dict[str, Explained]:
    """Before a model is loaded, by the names of the settings."""
    limits = find_limits(bounds_of(MemoryReader().read(), settings.memory, 0), settings.memory)
    budget = find_budget(settings.memory, None, settings.workers)
    return {"memory.limit": limits.limit, "memory.reserve": limits.reserve} | {
        "workers.budget": budget.growth
    }


def find_headroom(settings: MemorySettings) -> Headroom:
    """What there is for a model."""
    bounds = bounds_of(MemoryReader().read(), settings, 0)
    limits = find_limits(bounds, settings)
    left = min(bound.headroom for bound in bounds) - limits.reserve.bytes
    return Headroom(max(0, left), max(0, left), limit_in_words(limits))


def limit_in_words(limits: Limits) -> str:
    """For a sentence about what does not fit."""
    return f"{in_units(limits.limit.bytes)} is the limit ({limits.limit.reason})"
