"""The process lifecycle: a loaded fork server at all times, whatever dies and whatever is to be
loaded next.

The slots manage its workers.
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from supervisor.contract import LoadRefused
from supervisor.deaths.death import Intent
from supervisor.deaths.history import Deaths, History
from supervisor.deaths.kernel_oom import OomEvidence
from supervisor.log import get_logger
from supervisor.loop.changes import Changes
from supervisor.loop.clock import LoopClock
from supervisor.loop.tasks import Tasks
from supervisor.process_control import become_subreaper, not_started
from supervisor.processes.backoff import Backoff
from supervisor.processes.forkserver_handle import ForkServerHandle
from supervisor.processes.loading import CANNOT_LOAD, Loader
from supervisor.processes.slots import WorkerSlots
from supervisor.processes.worker_handle import WorkerOwner, WorkerStillborn
from supervisor.settings import Headroom, PoolSettings, Target, TargetSource
from supervisor.sizes import in_units
from supervisor.wire.messages import Loaded

log = get_logger("supervisor")


class ProcessLifecycle:
    """Keeps the processes. Use as `async with`; entering returns while the model loads."""

    def __init__(
        self,
        target: TargetSource,
        settings: PoolSettings,
        owner: WorkerOwner,
        headroom: Callable[[], Awaitable[Headroom]],
        history: History,
        evidence: OomEvidence,
        clock: LoopClock,
    ) -> None:
        """`headroom`: what there is for a model. `history` is told of deaths, `evidence` asked
        about them."""
        self.settings = settings
        self.server: ForkServerHandle | None = None
        """The newest fork server that has loaded; it may have ended."""
        self.deaths = Deaths(history, evidence)
        self.load_failures = 0
        self.load_error: Exception | None = None
        """Why the last load failed; None if it did not."""
        self.not_renewed: str | None = None
        """Why the last change of models came to nothing; None if it did not, or there was none."""
        self._wanted, self.answered = 0, 0
        """Changes of models that were asked for, and those of them that have ended, well or not."""
        self._headroom = headroom
        self._clock = clock
        self.changes = Changes()
        self._slots = WorkerSlots(
            settings, owner, self.deaths, self.changes, clock, self.live_server
        )
        self.workers = self._slots.workers
        """All that run, and those of whom it is not known yet that they do not."""
        self._backoff = Backoff(first_s=0.5, longest_s=30.0, forgiven_after_s=60.0)
        self._loading_since = 0.0
        self._unready_because = "the model is not loaded yet"
        self._tasks = Tasks()
        self.loader = Loader(
            target, settings, self.deaths, self.changes, clock, self._tasks, self.workers
        )
        self.servers = self.loader.servers
        """All that run: the one that serves, those that load, those whose last worker leaves."""

    async def __aenter__(self) -> "ProcessLifecycle":
        become_subreaper()
        self._tasks.keep("fork server", self._keep_fork_server)
        self._slots.keep(self._tasks)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.loader.closing = True
        try:
            await self._tasks.close()
        finally:
            await self.loader.close()

    def unready_reason(self) -> str | None:
        """Explain why no worker is able now; None if one is."""
        if self._slots.able():
            return None
        if self.live_server() is None:
            return self._unready_because
        return self._slots.failing_reason() or "the workers are being started"

    def alive(self) -> bool:
        """Tell whether its tasks run."""
        return self._tasks.alive()

    def hopeless(self) -> bool:
        """No worker is able, and it will take longer than the milliseconds of a replacement."""
        if self.unready_reason() is None:
            return False
        return self.live_server() is None or self._slots.all_fail()

    def live_server(self) -> ForkServerHandle | None:
        """The loaded fork server, if it lives and nobody has ended it."""
        server = self.server
        if server is None or server.ended.done() or server.outcome.forced is not Intent.NONE:
            return None
        return server

    def loaded(self) -> Loaded | None:
        """Return what the live fork server told when its model was in memory."""
        server = self.live_server()
        return server.loaded.result() if server else None

    def report(self) -> dict[str, Any]:
        """Return what the loaded model tells about itself; empty while there is none."""
        loaded = self.loaded()
        return loaded.report if loaded else {}

    def renew(self) -> int:
        """Load the target anew, beside the one that serves, and move over to it; if it cannot be
        loaded, all stays as it is. Once `answered` has reached what is returned, it is over."""
        self._wanted += 1
        self.changes.notify()
        return self._wanted

    def discard(self, reason: str) -> None:
        """Discard the fork server that serves, and its workers: load the target anew, now."""
        if (server := self.live_server()) is None:
            return
        server.kill(Intent.SHUTDOWN)
        for worker in list(self.workers):
            if worker.server is server:
                worker.kill(Intent.SHUTDOWN, reason)
        self.changes.notify()
        log.error("model.discarded", pid=server.pid, reason=reason)

    # --- the one task that decides which fork server there is -------------------------------------

    async def _keep_fork_server(self) -> None:
        while True:
            server = self.live_server()
            if server is None:
                await self._load_first()
            elif self._wanted > self.answered:
                await self._change(server)
            else:
                await self.changes.until(
                    lambda: self._wanted > self.answered or self.live_server() is None
                )

    async def _load_first(self) -> None:
        """There is none: load the target, or sleep on it."""
        if self.server is not None:
            death = await asyncio.shield(self.server.ended)
            self._unready_because = f"{death.sentence}; the model is being loaded again"
            lasted, self.server = self._clock.now() - self._loading_since, None
            await asyncio.sleep(self._backoff.failed(lasted))
        wanted = self._wanted
        self._loading_since = self._clock.now()
        try:
            self._install(await self.loader.load(await self.loader.find_target()))
        except CANNOT_LOAD as error:
            self.load_error = error
            await self._sleep_after_failure(not_started(error), wanted)
            return
        self.load_error = None
        self._answer(wanted)

    async def _change(self, before: ForkServerHandle) -> None:
        """Load the target beside `before`, or after it where both do not fit."""
        wanted = self._wanted
        self._loading_since = self._clock.now()
        try:
            target = await self._unless_it_dies(self.loader.find_target)
            if (now := self.live_server()) is not None:
                before = now
                await self._make_room(before, target)
            server = await self.loader.load(target)
            # Where there is something to go back to, workers that die at birth are a failure, too.
            first = await self._slots.try_out(server) if self.live_server() else None
            self._install(server)
            if first is not None:
                self._slots.take_in(first)
        except (*CANNOT_LOAD, WorkerStillborn) as error:
            self.load_error, self.not_renewed = error, str(error)
            log.error("model.renewal_failed", reason=str(error))
            if self.live_server() is None and not await self._go_back(before):
                await self._sleep_after_failure(str(error), wanted)
                return
        else:
            self.load_error, self.not_renewed = None, None
        self._answer(wanted)

    async def _unless_it_dies(self, find: Callable[[], Awaitable[Target]]) -> Target:
        """A target may take long to be found: that is no reason to be without the one that there
        was, should its fork server die meanwhile."""
        finding = asyncio.ensure_future(find())
        try:
            while not finding.done():
                server = self.server
                assert server is not None
                events: set[asyncio.Future[Any]] = {finding, server.ended}
                await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
                if finding.done() or not server.ended.done():
                    continue
                self._unready_because = (
                    f"{server.ended.result().sentence}; the model is being loaded again"
                )
                await asyncio.sleep(self._backoff.failed(0.0))
                with contextlib.suppress(*CANNOT_LOAD):
                    self._install(await self.loader.load(server.target))
            return await finding
        finally:
            finding.cancel()

    def _answer(self, wanted: int) -> None:
        self.answered = wanted
        self.changes.notify()

    async def _make_room(self, before: ForkServerHandle, target: Target) -> None:
        """Let the one that serves go first where both do not fit, with its workers, after their
        jobs."""
        headroom = await self._headroom()
        if target.needs is None or target.needs <= headroom.now:
            return
        self._unready_because = (
            f"the model is being changed: {in_units(target.needs)} are needed for the new one and "
            f"{in_units(headroom.now)} are left beside the old one"
        )
        log.warning(
            "model.swap_started", needs_bytes=target.needs, left_bytes=headroom.now, overlap=False
        )
        self.server, before.retired = None, True
        await self._slots.vacate(before, self.settings.load_timeout_s)
        before.close()
        await asyncio.shield(before.ended)

    async def _go_back(self, before: ForkServerHandle) -> bool:
        """Load the one that had to go again; False if that fails too."""
        if before.outcome.asked is not Intent.SHUTDOWN:
            return False
        log.warning("model.rollback_started")
        try:
            self._install(await self.loader.load(before.target))
        except CANNOT_LOAD as error:
            log.error("model.rollback_failed", reason=str(error))
            return False
        return True

    async def _sleep_after_failure(self, reason: str, wanted: int) -> None:
        """Sleep for a while, or until `renew` is called; after a refusal only that ends it."""
        delay: float | None = max(self._backoff.failed(0.0), 0.5)
        if isinstance(self.load_error, LoadRefused):
            delay = None
        self.load_failures += 1
        self._unready_because = f"the model cannot be loaded: {reason}"
        self._answer(wanted)
        log.error(
            "model.unavailable", reason=reason, attempt=self._backoff.failures, retry_in_s=delay
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self.changes.until(lambda: self._wanted > self.answered)

    def _install(self, server: ForkServerHandle) -> None:
        """Move the slots to it one by one; the one before ends when its last worker has left."""
        before, self.server = self.live_server(), server
        if before is not None:
            ending = functools.partial(self._end_when_childless, before)
            self._tasks.once(f"end of fork server {before.pid}", ending)
        self.changes.notify()

    async def _end_when_childless(self, server: ForkServerHandle) -> None:
        await self._slots.childless(server)
        server.close()
