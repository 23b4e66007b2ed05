"""Settings of pools, guards and spools: which model to load and how, and which limits to
enforce."""

import enum
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Allocator(enum.Enum):
    """Setting of the allocator; `AUTO` uses jemalloc if it is installed."""

    AUTO = "auto"
    JEMALLOC = "jemalloc"
    GLIBC = "glibc"


class Sandbox(enum.Enum):
    """Setting of the sandbox that workers enter after their warm-up. `AUTO`: as much of it as the
    machine supports; `ON`: all of it, or no model is served."""

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
    """Heap on huge pages: faster if much of it is used, a waste if little is."""
    needs: int | None = None
    """Bytes that it and its workers are expected to hold, if known: decides whether it is loaded
    beside the model that serves, or after that was unloaded."""


class TargetUnavailable(Exception):
    """Error: there is nothing to load now; the text says why."""


TargetSource = Target | Callable[[], Awaitable[Target]]
"""Target, or a function that finds one before each load; it may raise `TargetUnavailable`, and is
called again later."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """Memory for a model and its workers, in bytes: `now`, beside what is loaded, and `most`, if
    that were unloaded. `limit` names what bounds it."""

    now: int
    most: int
    limit: str


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """Limits that the guard enforces, in bytes; None: derived from the machine."""

    limit: int | None = None
    """Memory of all processes together."""
    reserve: int | None = None
    """Memory that is left unused below the limit."""
    budget: int | None = None
    """Growth of a worker after which it is recycled."""
    max_rss: int | None = None
    """Memory of a worker, including shared memory but not mapped files, after which it is ended."""


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Limits of spools, and their directory. Sizes in bytes."""

    memory_each: int = 2 * 1024 * 1024
    """Size past which a spool moves to disk."""
    memory_total: int = 64 * 1024 * 1024
    """Total size in memory past which a spool moves to disk."""
    directory: Path = Path(tempfile.gettempdir())


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Settings of each stream, in bytes of its messages or in units of the caller's choice."""

    window: int = 64 * 1024
    """Bytes sent to its worker and not answered yet, at most, except for a single message."""
    unread: int = 64
    """Answers that its caller may leave unread: with more, its input waits."""
    replay: float = 60.0
    """Units of input that are retained for a replay; older input is lost to it."""
    replay_bytes: int = 16 * 1024 * 1024
    """Bytes of input of a stream that has to be retained whole."""
    replay_total: int = 64 * 1024 * 1024
    """Bytes of input that all streams retain together: past it, the stream that retains most drops
    its replay buffer."""
    answer_s: float = 60.0
    """Seconds without an answer after which a stream ends."""
    checkpoint_wait_s: float = 5.0
    """Seconds that a worker that is to leave waits for a stream's next checkpoint; then the stream
    is moved as it is, if it loses nothing by that."""
    share: float = 0.7
    """Share of the workers' time that streams may use together."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Settings of a pool. Times in seconds, sizes in bytes."""

    workers: int = 2
    first_slot: int = 0
    """Number of the first worker, for several pools that are numbered consecutively."""
    queue: int = 64
    """Jobs admitted beyond those that the workers can run at once."""
    attempts: int = 2
    """Workers that a job may lose before it fails; kills from outside do not count, up to five."""
    hang_s: float = 20.0
    """Age of a heartbeat after which a worker is ended."""
    nice: int = 5
    """Priority of the fork server and workers below the supervisor's (0 to 19), so that the
    supervisor gets its turn when they use every processor."""
    load_timeout_s: float = 600.0
    """Time after which a fork server that has not loaded its model is ended."""
    allocator: Allocator = Allocator.AUTO
    streams: StreamSettings = StreamSettings()
    sandbox: Sandbox = Sandbox.OFF
    """Sandbox of the workers, for models whose steps open no files and start no processes."""

    @property
    def heartbeat_s(self) -> float:
        """Seconds between an idle worker's signs of life."""
        return min(1.0, self.hang_s / 4)
