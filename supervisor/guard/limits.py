"""Limits in force, computed from settings and readings, each with its reason."""

from dataclasses import dataclass

from supervisor.readings.memory import Bound, MemoryReader, MemoryReading
from supervisor.settings import Headroom, MemorySettings
from supervisor.sizes import in_units

MIB = 1024 * 1024

_RESERVE_SHARE, _RESERVE_LEAST, _RESERVE_MOST = 1 / 32, 8 * MIB, 512 * MIB
_PRESSURE_SHARE, _PRESSURE_LEAST, _PRESSURE_MOST = 0.08, 16 * MIB, 1024 * MIB
_CRITICAL_SHARE, _CRITICAL_LEAST, _CRITICAL_MOST = 0.03, 8 * MIB, 384 * MIB
_BUDGET_SHARE, _BUDGET_LEAST, _BUDGET_MOST = 0.8, 32 * MIB, 1024 * MIB
_HARD_OVER_BUDGET = 1.5

SETTING = "the setting memory.limit"


@dataclass(frozen=True, slots=True)
class Explained:
    """Number of bytes, and the reason for it."""

    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Limit that memory has to fit into, a reserve below it, and the amounts of memory left below
    which each level begins. In bytes."""

    limit: Explained
    reserve: Explained
    pressure_below: int
    critical_below: int


@dataclass(frozen=True, slots=True)
class Budget:
    """Budget of one worker: over `growth` it is recycled when possible, over `hard` it is ended at
    once. `max_rss` bounds its shared memory and its growth together, without mapped files."""

    growth: Explained
    hard: Explained
    max_rss: Explained | None


def bounds_of(
    reading: MemoryReading, settings: MemorySettings, tree_used: int
) -> tuple[Bound, ...]:
    """Return everything that bounds our memory: the setting, against the use of our own processes;
    the machine and the cgroups, against the use of everyone in them."""
    set_limit = () if settings.limit is None else (Bound(SETTING, settings.limit, tree_used),)
    return (*set_limit, *reading.bounds)


def find_limits(bounds: tuple[Bound, ...], settings: MemorySettings) -> Limits:
    """Return the smallest limit, and the values that follow from it."""
    smallest = min(bounds, key=lambda bound: bound.limit)
    limit = smallest.limit
    if settings.reserve is not None:
        reserve = Explained(settings.reserve, "the setting debug.memory_reserve")
    else:
        reserve = Explained(
            _share(limit, _RESERVE_SHARE, _RESERVE_LEAST, _RESERVE_MOST),
            f"auto: 1/{1 / _RESERVE_SHARE:.0f} of the limit, from {in_units(_RESERVE_LEAST)} to "
            f"{in_units(_RESERVE_MOST)}",
        )
    return Limits(
        Explained(limit, smallest.name),
        reserve,
        _share(limit, _PRESSURE_SHARE, _PRESSURE_LEAST, _PRESSURE_MOST),
        _share(limit, _CRITICAL_SHARE, _CRITICAL_LEAST, _CRITICAL_MOST),
    )


def find_budget(
    settings: MemorySettings, left: int | None, workers: int, shared: int = 0
) -> Budget:
    """Return the budget of each of `workers`. `left`: bytes that are left beside the model, to be
    shared; None before it is loaded, when only the setting counts. `shared`: memory of the model
    that a worker holds from its start."""
    if settings.budget is not None:
        growth = Explained(settings.budget, "the setting workers.budget")
    elif left is None:
        growth = Explained(
            _BUDGET_MOST,
            "auto: at most this; its share of the memory left beside the model is known once that "
            "is loaded",
        )
    else:
        growth = Explained(
            max(_BUDGET_LEAST, min(_BUDGET_MOST, int(left * _BUDGET_SHARE / workers))),
            f"auto: {_BUDGET_SHARE:.0%} of the {in_units(left)} left beside the model, shared by "
            f"{workers}, from {in_units(_BUDGET_LEAST)} to {in_units(_BUDGET_MOST)}",
        )
    hard = Explained(
        int(growth.bytes * _HARD_OVER_BUDGET), f"{_HARD_OVER_BUDGET:g} times workers.budget"
    )
    return Budget(growth, hard, _max_rss(settings.max_rss, shared))


def _max_rss(wanted: int | None, shared: int) -> Explained | None:
    """Return the bound, raised above what a worker holds from its start: otherwise each worker
    would be ended as soon as it started."""
    if wanted is None:
        return None
    least = shared + _BUDGET_LEAST
    if shared and wanted < least:
        return Explained(
            least,
            f"debug.max_rss is {in_units(wanted)}, and a worker starts with {in_units(shared)}",
        )
    return Explained(wanted, "debug.max_rss")


def _share(limit: int, share: float, least: int, most: int) -> int:
    return max(least, min(most, int(limit * share)))


# --- here and now, for programs that run no pool -------------------------------------------------


def explain_limits(settings: MemorySettings) -> dict[str, Explained]:
    """Explain the limits that the guard would enforce before a model is loaded, by the names of the
    settings."""
    limits = find_limits(bounds_of(MemoryReader().read(), settings, 0), settings)
    budget = find_budget(settings, None, 1)
    return {"memory.limit": limits.limit, "debug.memory_reserve": limits.reserve} | {
        "workers.budget": budget.growth
    }


def find_headroom(settings: MemorySettings) -> Headroom:
    """Return the memory for a model."""
    bounds = bounds_of(MemoryReader().read(), settings, 0)
    limits = find_limits(bounds, settings)
    left = min(bound.headroom for bound in bounds) - limits.reserve.bytes
    return Headroom(max(0, left), max(0, left), limit_in_words(limits))


def limit_in_words(limits: Limits) -> str:
    """Describe the limit, for a sentence about something that does not fit."""
    return f"{in_units(limits.limit.bytes)} is the limit ({limits.limit.reason})"
