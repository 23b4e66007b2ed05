"""Loading a model: starting a fork server for a target, and cleaning up after one that has
ended."""

import asyncio
import contextlib
import functools
from collections.abc import Callable

from supervisor.contract import LoadRefused
from supervisor.deaths.death import Intent
from supervisor.deaths.history import Deaths
from supervisor.log import RepeatLimit, get_logger
from supervisor.loop.changes import Changes
from supervisor.loop.clock import LoopClock
from supervisor.loop.tasks import Tasks
from supervisor.process_control import reap_group
from supervisor.processes.environment import choose_allocator, find_jemalloc
from supervisor.processes.forkserver_handle import ForkServerHandle, ForkServerLost
from supervisor.processes.worker_handle import WorkerHandle
from supervisor.settings import PoolSettings, Target, TargetSource, TargetUnavailable

log = get_logger("supervisor")

_LEAVE_S = 1.0
"""Seconds that a process may take to leave when the pool closes, before it is killed."""
_END_S = 5.0
"""Seconds to wait for its end after that."""
_CLEAR_TRIES, _CLEAR_PAUSE_S = 50, 0.02

CANNOT_LOAD = (
    *(ForkServerLost, LoadRefused, TargetUnavailable, OSError),
    *(TypeError, ValueError, OverflowError, RecursionError),  # options that cannot be carried
)
"""Errors that prevent a load: of the model, its target, or the machine."""


class Loader:
    """Starts fork servers, and holds those that run."""

    def __init__(
        self,
        target: TargetSource,
        settings: PoolSettings,
        deaths: Deaths,
        changes: Changes,
        clock: LoopClock,
        tasks: Tasks,
        workers: set[WorkerHandle],
    ) -> None:
        self._target = target
        self._settings = settings
        self._deaths = deaths
        self._changes = changes
        self._clock = clock
        self._tasks = tasks
        self._workers = workers
        self._jemalloc = find_jemalloc()
        self.allocator = choose_allocator(settings.allocator, self._jemalloc).name
        self.servers: set[ForkServerHandle] = set()
        """Fork servers that run: the one that serves, those that load, those whose last workers are
        leaving."""
        self._left: set[ForkServerHandle] = set()
        """Fork servers that have ended, and may have left processes."""
        self.closing = False
        self.repeats = RepeatLimit()

    async def find_target(self) -> Target:
        """Find the target to load. Raises `TargetUnavailable`."""
        if not callable(self._target):
            return self._target
        try:
            return await self._target()
        except TargetUnavailable:
            raise
        except Exception as error:
            log.exception("model.lookup_failed")
            raise TargetUnavailable(f"{type(error).__name__}: {error}") from error

    async def load(self, target: Target) -> ForkServerHandle:
        """Start a fork server and wait until it has loaded. Raises one of `CANNOT_LOAD`."""
        allocator = choose_allocator(
            self._settings.allocator, self._jemalloc, huge_pages=target.huge_pages
        )
        server = ForkServerHandle(
            target, self._settings, allocator, self._deaths.evidence, self._clock
        )
        self.servers.add(server)
        server.ended.add_done_callback(lambda _: self._ended(server))
        log.info("fork_server.started", pid=server.pid, allocator=self.allocator)
        limit = self._settings.load_timeout_s
        try:
            if not await self._clock.wait(server.loaded, limit):
                server.kill(Intent.HANG)
                raise ForkServerLost(f"loading took longer than {limit:g} s and was ended")
            loaded = server.loaded.result()
        except (ForkServerLost, LoadRefused) as error:
            if server.load_traceback and self.repeats.due(str(error)):
                log.error("model.load_failed", error=str(error), traceback=server.load_traceback)
            raise
        except BaseException:
            server.kill(Intent.SHUTDOWN)
            raise
        facts = {
            "pid": server.pid,
            "load_s": round(loaded.load_s, 3),
            "warm_s": round(loaded.warm_s, 3),
            "sandbox": loaded.sandbox or "off",
            "sandbox_missing": loaded.sandbox_missing or None,
        }
        self.repeats.forget()
        # A model may report any names; ours take precedence.
        reported = {name: value for name, value in loaded.report.items() if name != "event"}
        log.info("model.loaded", **(reported | facts))
        return server

    def _ended(self, server: ForkServerHandle) -> None:
        self.servers.discard(server)
        self._changes.notify()
        if not self.closing:
            clearing = functools.partial(self._clear_after, server)
            self._tasks.once(f"what fork server {server.pid} has left", clearing)
        self._deaths.died("fork server", server.ended.result(), server.outcome.reason)

    async def _clear_after(self, server: ForkServerHandle) -> None:
        """Wait until the workers of a fork server have gone, then end the processes that its model
        had started."""
        self._left.add(server)
        await self._changes.until(lambda: all(w.server is not server for w in self._workers))
        await self._clear(server)

    async def _clear(self, server: ForkServerHandle) -> None:
        """End and reap what is left of its process group."""
        for _ in range(_CLEAR_TRIES):
            if not reap_group(server.pid):
                break
            await asyncio.sleep(_CLEAR_PAUSE_S)
        self._left.discard(server)

    async def close(self) -> None:
        """End all fork servers and workers, and wait for that."""
        workers = self._workers
        self._left |= self.servers
        for worker in list(workers):
            if worker.job is None:
                worker.leave(Intent.SHUTDOWN)
            else:
                worker.kill(Intent.SHUTDOWN)
        await self._within(_LEAVE_S, lambda: not workers)
        for worker in list(workers):
            worker.kill(Intent.SHUTDOWN)
        for server in self.servers:
            server.close()
        await self._within(_LEAVE_S, lambda: not self.servers)
        for server in self.servers:
            server.kill(Intent.SHUTDOWN)
        await self._within(_END_S, lambda: not self.servers and not workers)
        for worker in list(workers):
            log.error("worker.abandoned", worker=worker.slot, pid=worker.pid)
            worker.abandon()
        for server in self.servers:
            log.error("fork_server.abandoned", pid=server.pid)
            server.abandon()
        for server in list(self._left):
            await self._clear(server)

    async def _within(self, seconds: float, predicate: Callable[[], bool]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changes.until(predicate)
