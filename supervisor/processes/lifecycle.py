"""The process lifecycle: a loaded fork server at all times, whatever ends and whatever is to be
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
    """Lifecycle of fork servers and workers. Use as `async with`; the model loads after
    entering."""

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
        """Create the lifecycle. `headroom`: what there is for a model; `evidence`: for causes of
        death."""
        self.settings = settings
        self.server: ForkServerHandle | None = None
        """Newest fork server that has loaded; it may have ended."""
        self.deaths = Deaths(history, evidence)
        self.load_failures = 0
        self.load_error: Exception | None = None
        """Error of the last load; None if it succeeded."""
        self.not_renewed: str | None = None
        """Reason why the last change of models failed; None if it did not, or there was none."""
        self._wanted, self.answered = 0, 0
        """Numbers of changes of models that were requested, and that have ended, well or not."""
        self._headroom = headroom
        self._clock = clock
        self.changes = Changes()
        self._slots = WorkerSlots(
            settings, owner, self.deaths, self.changes, clock, self.live_server
        )
        self.workers = self._slots.workers
        """Workers that run, and those whose end is not known yet."""
        self._backoff = Backoff(first_s=0.5, longest_s=30.0, forgiven_after_s=60.0)
        self._loading_since = 0.0
        self._unready_because = "the model is not loaded yet"
        self._tasks = Tasks()
        self.loader = Loader(
            target, settings, self.deaths, self.changes, clock, self._tasks, self.workers
        )
        self.servers = self.loader.servers
        """Fork servers that run: the one that serves, those that load, those that are ending."""

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
        """Explain why no worker is able now; return None if one is."""
        if self._slots.able():
            return None
        if self.live_server() is None:
            return self._unready_because
        return self._slots.failing_reason() or "the workers are being started"

    def alive(self) -> bool:
        """Return whether its tasks run."""
        return self._tasks.alive()

    def hopeless(self) -> bool:
        """Return whether no worker is able, and none will be within milliseconds."""
        if self.unready_reason() is None:
            return False
        return self.live_server() is None or self._slots.all_fail()

    def live_server(self) -> ForkServerHandle | None:
        """Return the loaded fork server, if it runs and was not ended by us."""
        server = self.server
        if server is None or server.ended.done() or server.outcome.forced is not Intent.NONE:
            return None
        return server

    def loaded(self) -> Loaded | None:
        """Return the message of the live fork server about its loaded model."""
        server = self.live_server()
        return server.loaded.result() if server else None

    def report(self) -> dict[str, Any]:
        """Return what the loaded model reports about itself; empty if there is none."""
        loaded = self.loaded()
        return loaded.report if loaded else {}

    def renew(self) -> int:
        """Load the target again, beside the model that serves, and move over to it; if it cannot be
        loaded, everything stays as it is. The change is done once `answered` has reached the
        returned number."""
        self._wanted += 1
        self.loader.repeats.forget()
        self.changes.notify()
        return self._wanted

    def discard(self, reason: str) -> None:
        """Discard the fork server that serves, with its workers; load the target again at once."""
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
        """Load the target if there is no fork server, or wait after a failure."""
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
        """Load the target beside `before`, or after it if both do not fit."""
        wanted = self._wanted
        self._loading_since = self._clock.now()
        try:
            target = await self._unless_it_dies(self.loader.find_target)
            if (now := self.live_server()) is not None:
                before = now
                await self._make_room(before, target)
            server = await self.loader.load(target)
            # If there is a model to return to, workers that die at their start are a failure, too.
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
        """Find a target. Finding it may take long: if the fork server that serves ends meanwhile,
        its model is loaded again."""
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
        """Unload the model that serves first if both do not fit, after its workers' jobs."""
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
        """Load the former model again; return False if that fails, too."""
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
        """Wait for a while, or until `renew` is called; after a refusal, only for `renew`."""
        delay: float | None = max(self._backoff.failed(0.0), 0.5)
        delay = None if isinstance(self.load_error, LoadRefused) else delay
        self.load_failures += 1
        self._unready_because = f"the model cannot be loaded: {reason}"
        self._answer(wanted)
        if self.loader.repeats.due(f"unavailable: {reason}"):
            attempt = self._backoff.failures
            log.error("model.start_failed", reason=reason, attempt=attempt, retry_in_s=delay)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self.changes.until(lambda: self._wanted > self.answered)

    def _install(self, server: ForkServerHandle) -> None:
        """Move the slots to a fork server; the former one ends when its last worker has left."""
        before, self.server = self.live_server(), server
        if before is not None:
            ending = functools.partial(self._end_when_childless, before)
            self._tasks.once(f"end of fork server {before.pid}", ending)
        self.changes.notify()

    async def _end_when_childless(self, server: ForkServerHandle) -> None:
        await self._slots.childless(server)
        server.close()
