"""Settings of pools, guards and spools: which model to load and how, and what to keep to."""

import enum
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Allocator(enum.Enum):
    """The setting; `AUTO` takes jemalloc where the machine has it."""

    AUTO = "auto"
    JEMALLOC = "jemalloc"
    GLIBC = "glibc"


class Sandbox(enum.Enum):
    """The setting: whether workers give up, after their warm-up, what they do not need. `AUTO`: as
    much of it as this machine can; `ON`: or no model is served."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Target:
    """Target that a fork server loads: `module.function(**options)` (see `supervisor.contract`).

    `options` travel as MessagePack. `environment` is added to the fork server's own, before exec.
    """

    module: str
    function: str = "load"
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    import_path: tuple[str, ...] = ()
    huge_pages: bool = True
    """Its heap on huge pages: faster where much of it is walked, a waste where little is."""
    needs: int | None = None
    """Bytes that it and its workers are expected to hold, where that is known: decides whether it
    is loaded beside the one that serves, or after that has gone."""


class TargetUnavailable(Exception):
    """There is nothing to load now; the text says why."""


TargetSource = Target | Callable[[], Awaitable[Target]]
"""A target, or what finds one anew before each load; it may raise `TargetUnavailable`, and is
asked again later."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """Memory for a model and its workers, in bytes: `now`, beside what is loaded already, and
    `most`, if that were gone. `limit` says what bounds it."""

    now: int
    most: int
    limit: str


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """Limits that the guard keeps to, in bytes; None: found out from the machine."""

    limit: int | None = None
    """All processes together."""
    reserve: int | None = None
    """Left unused below the limit."""
    budget: int | None = None
    """What a worker may grow by before it is recycled."""
    max_rss: int | None = None
    """What a worker may hold, with what it shares, before it is ended; mapped files aside."""


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Limits of spools, and their directory. All sizes in bytes."""

    memory_each: int = 2 * 1024 * 1024
    """One spool moves to disk when it grows past this."""
    memory_total: int = 64 * 1024 * 1024
    """A spool moves to disk when all those in memory together would grow past this."""
    directory: Path = Path(tempfile.gettempdir())


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Of each stream, in bytes of its messages or in units of the caller's choice."""

    window: int = 64 * 1024
    """Sent to its worker and not answered yet, at the most, but for a single message."""
    unread: int = 64
    """Answers that nobody has taken yet: with more, its input waits."""
    replay: float = 60.0
    """Units of input that are retained for a replay; what is older is lost to it."""
    replay_bytes: int = 16 * 1024 * 1024
    """Of input that has to be retained whole."""
    replay_total: int = 64 * 1024 * 1024
    """Of the input that all streams retain together: past it, the one that retains most drops its
    replay buffer."""
    answer_s: float = 60.0
    """An input that is not answered for so long ends its stream."""
    checkpoint_wait_s: float = 5.0
    """How long a worker that is to leave waits for a stream's next checkpoint before the stream is
    moved as it is, if nothing of it is lost by that."""
    share: float = 0.7
    """Of the workers' time, what streams may need together."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Settings of a pool. Times in seconds, sizes in bytes."""

    workers: int = 2
    first_slot: int = 0
    """What the first worker is numbered, where several pools number theirs one after the other."""
    queue: int = 64
    """Jobs admitted beyond those that the workers can run at once."""
    attempts: int = 2
    """How many workers a job may use up before it is given up."""
    hang_s: float = 20.0
    """A worker whose heartbeat is older than this is ended."""
    nice: int = 5
    """By how much the priority of fork server and workers is below the supervisor's (0 to 19), so
    that it looks in time where they keep every processor busy."""
    load_timeout_s: float = 600.0
    """A fork server that has not loaded its model by then is ended."""
    allocator: Allocator = Allocator.AUTO
    streams: StreamSettings = StreamSettings()
    sandbox: Sandbox = Sandbox.OFF
    """For models whose steps open no files and start no processes."""

    @property
    def heartbeat_s(self) -> float:
        """Seconds between an idle worker's signs of life."""
        return min(1.0, self.hang_s / 4)
