"""The lifecycle: a loaded fork server at all times, whatever dies and whatever is to be loaded next.

Its workers are kept by the slots.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from supervisor.changes import Changes
from supervisor.guard.history import History
from supervisor.processes.backoff import Backoff
from supervisor.processes.death import Cause, Death, Intent
from supervisor.processes.deaths import Deaths
from supervisor.processes.environment import choose_allocator, find_jemalloc
from supervisor.processes.forkserver import ForkServer, ForkServerLost
from supervisor.processes.process import become_subreaper
from supervisor.processes.slots import WorkerSlots, WorkersOwner
from supervisor.processes.worker import Worker
from supervisor.readings.kernel_oom import OomEvidence
from supervisor.settings import Headroom, PoolSettings, Target, TargetSource, TargetUnavailable
from supervisor.sizes import in_units
from supervisor.wire.scoreboard import Scoreboard

log: structlog.stdlib.BoundLogger = structlog.get_logger("supervisor")

_LEAVE_S = 1.0
"""How long a process may take to leave when the lifecycle closes, before it is killed."""


class LifecycleOwner(WorkersOwner, Protocol):
    """Who works with the workers, and knows what room there is."""

    async def headroom(self) -> Headroom:
        """What there is for a model."""


class ProcessLifecycle:
    """Keeps the processes. Use as `async with`; entering returns while the model loads."""

    def __init__(
        self,
        target: TargetSource,
        settings: PoolSettings,
        owner: LifecycleOwner,
        history: History,
        evidence: OomEvidence,
    ) -> None:
        """`history` is told of deaths, `evidence` asked about them."""
        self.settings = settings
        self._jemalloc = find_jemalloc()
        self.allocator = choose_allocator(settings.allocator, self._jemalloc)
        self.server: ForkServer | None = None
        """The newest fork server that has loaded; it may have ended."""
        self._deaths = Deaths(history, evidence)
        self.servers: set[ForkServer] = set()
        """All that run: the one that serves, those that load, those whose last worker leaves."""
        self.load_failures = 0
        self.loads = 0
        """How often loading has come to an end, well or not."""
        self.load_death: Death | None = None
        """How the last fork server ended that did not get its model loaded; None after one that
        did."""
        self._target = target
        self._owner = owner
        self._changes = Changes()
        self._slots = WorkerSlots(settings, owner, self._deaths, self._changes, self.live_server)
        self._unready_because = "the model is not loaded yet"
        self._renewal = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._main: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "ProcessLifecycle":
        become_subreaper()
        self._main = asyncio.create_task(self._keep_all(), name="lifecycle")
        self._main.add_done_callback(self._main_ended)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._main is not None
        self._main.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._main
        await self._end_processes()
        self._slots.close()

    def unready_reason(self) -> str | None:
        """Why no worker is able now; None if one is."""
        if self._slots.able():
            return None
        if self.live_server() is None:
            return self._unready_because
        return self._slots.failing_reason() or "the workers are being started"

    def alive(self) -> bool:
        """Its tasks run."""
        return self._main is not None and not self._main.done()

    def hopeless(self) -> bool:
        """No worker is able, and it will take longer than the milliseconds of a replacement."""
        if self.unready_reason() is None:
            return False
        return self.live_server() is None or self._slots.all_fail()

    def live_server(self) -> ForkServer | None:
        """The loaded fork server, if it lives."""
        return None if self.server is None or self.server.ended.done() else self.server

    def renew(self) -> None:
        """Load the target anew, beside the one that serves, and move over to it; if it cannot be
        loaded, all stays as it is."""
        self._renewal.set()

    @property
    def workers(self) -> set[Worker]:
        """All that run, and those of whom it is not known yet that they do not."""
        return self._slots.workers

    @property
    def scoreboard(self) -> Scoreboard:
        """What the workers write of themselves."""
        return self._slots.scoreboard

    @property
    def deaths(self) -> dict[Cause, int]:
        """How many processes have ended, by cause."""
        return self._deaths.by_cause

    def retire(self, worker: Worker, reason: str = "") -> None:
        """Recycle: it leaves after its job, and another takes its slot."""
        self._slots.retire(worker, reason)

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until `predicate` holds; it is asked again after every change."""
        await self._changes.until(predicate)

    def notify(self) -> None:
        """Something that an `until` may wait for has changed."""
        self._changes.notify()

    # Tasks.

    async def _keep_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._keep_fork_server())
            self._slots.keep(group)

    def _main_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._unready_because = "the supervisor has failed; its log says how"
            log.critical("supervisor.failed", exc_info=error)

    async def _keep_fork_server(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(first_s=0.5, longest_s=30.0, forgiven_after_s=60.0)
        while True:
            started = loop.time()
            self._renewal.clear()
            before = self.live_server()
            try:
                target = await self._target() if callable(self._target) else self._target
                if before is not None:
                    await self._make_room(before, target)
                self._install(await self._load(target))
                self.load_death = None
            except (ForkServerLost, TargetUnavailable, OSError) as error:
                self.load_death = error.death if isinstance(error, ForkServerLost) else None
                if before is not None:
                    log.error("model.not_renewed", reason=str(error))
                if self.live_server() is None and not await self._go_back(before):
                    self._load_over()
                    await self._sleep_after_failure(backoff, str(error))
                    continue
            self._load_over()
            assert self.server is not None
            await self._renewal_or_end(self.server)
            if self.server.ended.done():
                death = self.server.ended.result()
                self._unready_because = f"{death.sentence}; the model is being loaded again"
                await asyncio.sleep(backoff.failed(loop.time() - started))

    def _load_over(self) -> None:
        self.loads += 1
        self.notify()

    async def _make_room(self, before: ForkServer, target: Target) -> None:
        """Where both do not fit, the one that serves goes first, with its workers, after their
        jobs."""
        headroom = await self._owner.headroom()
        if target.needs is None or target.needs <= headroom.now:
            return
        self._unready_because = (
            f"the model is being changed: {in_units(target.needs)} are needed for the new one and "
            f"{in_units(headroom.now)} are left beside the old one"
        )
        log.warning(
            "model.changed_in_turn",
            needs_bytes=target.needs,
            left_bytes=headroom.now,
            consequence="no request is taken until the new one is loaded",
        )
        self.server = None
        for worker in list(self.workers):
            self.retire(worker, "its model is being changed")
        await self._end_when_childless(before)
        await asyncio.shield(before.ended)

    async def _go_back(self, before: ForkServer | None) -> bool:
        """The one that had to go is loaded again; False if that fails too."""
        if before is None or before.outcome.intent is not Intent.SHUTDOWN:
            return False
        log.warning("model.going_back")
        try:
            self._install(await self._load(before.target))
        except (ForkServerLost, OSError) as error:
            log.error("model.not_back", reason=str(error))
            return False
        return True

    async def _sleep_after_failure(self, backoff: Backoff, reason: str) -> None:
        delay = max(backoff.failed(0.0), 0.5)
        self.load_failures += 1
        self._unready_because = f"the model cannot be loaded: {reason}"
        self.notify()
        log.error("model.unavailable", reason=reason, attempt=backoff.failures, retry_in_s=delay)
        await asyncio.sleep(delay)

    def _install(self, server: ForkServer) -> None:
        """The slots move to it one by one; the one before ends when its last worker has left."""
        before, self.server = self.live_server(), server
        if before is not None:
            assert self._group is not None
            self._group.create_task(self._end_when_childless(before))
        self.notify()

    async def _end_when_childless(self, server: ForkServer) -> None:
        await self.until(lambda: all(worker.server is not server for worker in self.workers))
        server.close()

    async def _renewal_or_end(self, server: ForkServer) -> None:
        renewal = asyncio.create_task(self._renewal.wait())
        events: set[asyncio.Future[Any]] = {renewal, server.ended}
        try:
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
        finally:
            renewal.cancel()

    async def _load(self, target: Target) -> ForkServer:
        allocator = choose_allocator(
            self.settings.allocator, self._jemalloc, huge_pages=target.huge_pages
        )
        server = ForkServer(
            target,
            self.settings,
            allocator,
            self._slots.scoreboard_fd,
            self.scoreboard.records,
            self._deaths.evidence,
        )
        self.servers.add(server)
        server.ended.add_done_callback(lambda _: self._fork_server_ended(server))
        log.info("fork_server.started", pid=server.pid, allocator=self.allocator.name)
        try:
            async with asyncio.timeout(self.settings.load_timeout_s):
                loaded = await asyncio.shield(server.loaded)
        except TimeoutError:
            server.kill(Intent.HANG)
            limit = self.settings.load_timeout_s
            raise ForkServerLost(f"loading took longer than {limit:g} s and was ended") from None
        except asyncio.CancelledError:
            server.kill(Intent.SHUTDOWN)
            raise
        log.info(
            "model.loaded",
            pid=server.pid,
            load_s=round(loaded.load_s, 3),
            warm_s=round(loaded.warm_s, 3),
            **loaded.report,
        )
        return server

    def _fork_server_ended(self, server: ForkServer) -> None:
        self.servers.discard(server)
        self._deaths.died("fork server", server.ended.result(), server.outcome.reason)
        self.notify()

    async def _end_processes(self) -> None:
        for worker in self.workers:
            if worker.job is None:
                worker.leave(Intent.SHUTDOWN)
            else:
                worker.kill(Intent.SHUTDOWN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await self.until(lambda: not self.workers)
        for worker in self.workers:
            worker.kill(Intent.SHUTDOWN)
        for server in self.servers:
            server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await self.until(lambda: not self.servers)
        for server in self.servers:
            server.kill(Intent.SHUTDOWN)
        await self.until(lambda: not self.servers and not self.workers)
