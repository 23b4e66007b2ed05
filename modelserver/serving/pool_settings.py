"""The settings of the guard and of a pool, from the server's."""

from modelserver.serving.selection import worker_count
from modelserver.settings import Settings
from supervisor import Allocator, MemorySettings, PoolSettings, Sandbox, StreamSettings


def memory_settings(settings: Settings) -> MemorySettings:
    """Return the settings of the guard."""
    return MemorySettings(
        limit=_unless_auto(settings.memory.limit),
        reserve=_unless_auto(settings.debug.memory_reserve),
        budget=_unless_auto(settings.workers.budget),
        max_rss=_unless_auto(settings.debug.max_rss),
    )


def pool_settings(settings: Settings, first_slot: int = 0) -> PoolSettings:
    """Return the settings of a pool."""
    return PoolSettings(
        workers=worker_count(settings),
        first_slot=first_slot,
        queue=settings.limits.queue,
        hang_s=settings.debug.hang_s,
        nice=settings.debug.nice,
        allocator=Allocator(settings.debug.allocator),
        sandbox=Sandbox(settings.sandbox),
        streams=StreamSettings(replay=settings.debug.stream_replay_s, share=settings.streams.share),
    )


def _unless_auto(size: int | str) -> int | None:
    return size if isinstance(size, int) else None
