"""The worker slots: each has one worker, which is replaced when it ends.

Slots know nothing of jobs.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable

from supervisor.deaths.death import EXPECTED, Death, Intent
from supervisor.deaths.history import Deaths
from supervisor.log import RepeatLimit, get_logger
from supervisor.loop.changes import Changes
from supervisor.loop.clock import LoopClock
from supervisor.loop.tasks import Tasks
from supervisor.processes.backoff import Backoff
from supervisor.processes.forkserver_handle import ForkServerHandle, ForkServerLost
from supervisor.processes.worker_handle import WorkerHandle, WorkerOwner, WorkerStillborn
from supervisor.settings import PoolSettings, Sandbox

log = get_logger("supervisor")

_STABLE_S = 1.0
"""Seconds after which a worker counts as stable. It is then replaced at once, as is one that had a
job; after repeated earlier ends the delay grows."""

_MOVED_WITHIN_S = 2.0
"""Seconds, after the wait for a checkpoint, within which streams that lose nothing are moved."""

_MOST_EACH = 8
"""Workers per slot: beside its own, those of earlier models that still work. With this many, a
successor waits until one of them has gone."""


class _Slot:
    """Worker slot, and the worker on it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: WorkerHandle | None = None
        self.started = 0.0
        self.filling = False
        self.backoff = Backoff(first_s=0.1, longest_s=10.0, forgiven_after_s=_STABLE_S)
        self.failing: str | None = None
        """Reason why its worker is started again only later."""


class WorkerSlots:
    """Fills the slots with workers of the newest fork server."""

    def __init__(
        self,
        settings: PoolSettings,
        owner: WorkerOwner,
        deaths: Deaths,
        changes: Changes,
        clock: LoopClock,
        live_server: Callable[[], ForkServerHandle | None],
    ) -> None:
        self.workers: set[WorkerHandle] = set()
        self.settings = settings
        self._owner = owner
        self._deaths = deaths
        self._changes = changes
        self._clock = clock
        self._live_server = live_server
        first = settings.first_slot
        self._slots = [_Slot(number) for number in range(first, first + settings.workers)]
        self._handover = asyncio.Lock()
        self._repeats = RepeatLimit()

    def keep(self, tasks: Tasks) -> None:
        """Start filling the slots, with `tasks`."""
        tasks.keep("heartbeats", self._watch)
        for slot in self._slots:
            tasks.keep(f"slot {slot.number}", functools.partial(self._keep_slot, slot))

    def able(self) -> bool:
        """Return whether a worker can take a job, or has one."""
        return any(worker.able for worker in self.workers)

    def failing_reason(self) -> str | None:
        """Explain why workers do not stay alive; return None if none fails."""
        return next((slot.failing for slot in self._slots if slot.failing is not None), None)

    def all_fail(self) -> bool:
        """Return whether no slot has a worker that stays alive."""
        return all(slot.failing is not None for slot in self._slots)

    async def childless(self, server: ForkServerHandle) -> None:
        """Wait until the fork server has no worker, and forks none."""
        await self._changes.until(
            lambda: (
                not server.forking
                and all(w.server is not server or w.vacated for w in self.workers)
            )
        )

    async def vacate(self, server: ForkServerHandle, within_s: float) -> None:
        """Recycle all workers; those that still have a job after `within_s` are ended."""
        for worker in list(self.workers):
            worker.recycle("its model is being changed")
        try:
            async with asyncio.timeout(within_s):
                await self.childless(server)
        except TimeoutError:
            for worker in list(self.workers):
                worker.kill(Intent.SHUTDOWN, "its job took longer than a change of models may")
            await self.childless(server)

    async def try_out(self, server: ForkServerHandle) -> WorkerHandle:
        """Start a worker of the new fork server, to be put on a slot once that is the newest.
        Raises `ForkServerLost`, `WorkerStillborn` or `OSError`, having ended the fork server."""
        try:
            return await self._start_worker(self._slots[0].number, server)
        except BaseException:
            server.close()
            raise

    def take_in(self, worker: WorkerHandle) -> None:
        """Put the worker on the first slot."""
        slot = self._slots[0]
        if slot.filling or not worker.able:
            worker.recycle("its slot is taken")
            return
        self._occupy(slot, worker)

    def worker_gone(self, worker: WorkerHandle, death: Death) -> None:
        """Record a worker's end, and notify the owner."""
        job = worker.job
        self.workers.discard(worker)
        try:
            self._owner.worker_lost(worker, death)
        finally:
            self._changes.notify()
            output = worker.output()
            self._deaths.died(
                "worker",
                death,
                worker.outcome.reason,
                slot=worker.slot,
                job=job.id if job else None,
                request_id=job.request_id if job else None,
                output=output,
            )

    # Tasks.

    async def _keep_slot(self, slot: _Slot) -> None:
        """Keep one worker of the newest fork server on this slot."""
        while True:
            await self._changes.until(lambda: self._to_be_filled(slot))
            if slot.worker is not None and slot.worker.vacated:
                worker, slot.worker = slot.worker, None
                await self._rest_after(slot, worker)
                continue
            # One slot at a time moves to another fork server, so that few workers of two models
            # exist at once.
            async with self._handover if slot.worker is not None else contextlib.nullcontext():
                if self._to_be_filled(slot) and (server := self._live_server()) is not None:
                    await self._fill(slot, server)

    async def _fill(self, slot: _Slot, server: ForkServerHandle) -> None:
        slot.started, slot.filling = self._clock.now(), True
        try:
            successor = await self._start_worker(slot.number, server)
        except (ForkServerLost, WorkerStillborn, OSError) as error:
            if server is not self._live_server():
                return  # it was replaced meanwhile, or is gone: another is asked
            delay = max(slot.backoff.failed(0.0), 0.05)
            if self._repeats.due(str(error)):
                log.error(
                    "worker.start_failed", worker=slot.number, reason=str(error), retry_in_s=delay
                )
            await self._rest(slot, delay, str(error))
            return
        finally:
            slot.filling = False
        self._occupy(slot, successor)

    def _occupy(self, slot: _Slot, successor: WorkerHandle) -> None:
        before, slot.worker = slot.worker, successor
        if before is not None:
            before.recycle("a newer model takes its place")

    async def _rest_after(self, slot: _Slot, worker: WorkerHandle) -> None:
        """Wait after a worker has gone; one that was useful, or was asked to leave, is replaced at
        once."""
        death = worker.gone.result() if worker.gone.done() else worker.outcome.stuck()
        useful = worker.useful or death.cause in EXPECTED
        lasted = float("inf") if useful else self._clock.now() - slot.started
        await self._rest(slot, slot.backoff.failed(lasted), death.sentence)

    async def _rest(self, slot: _Slot, delay_s: float, reason: str) -> None:
        if delay_s > 0:
            slot.failing = f"workers do not stay alive: {reason}"
            try:
                await asyncio.sleep(delay_s)
            finally:
                slot.failing = None

    def _to_be_filled(self, slot: _Slot) -> bool:
        """Return whether the slot's worker is gone, belongs to an older fork server, or stays only
        for its streams."""
        worker = slot.worker
        if worker is not None and worker.vacated:
            return True
        if (server := self._live_server()) is None:
            return False
        return worker is None or worker.server is not server or self._overstays(worker)

    def _overstays(self, worker: WorkerHandle) -> bool:
        return worker.stays_for_streams(self.settings.streams.checkpoint_wait_s + _MOVED_WITHIN_S)

    async def _start_worker(self, slot: int, server: ForkServerHandle) -> WorkerHandle:
        most = _MOST_EACH * self.settings.workers
        await self._changes.until(lambda: len(self.workers) < most)
        born = await server.fork()
        worker = WorkerHandle(
            slot,
            server,
            born,
            self._owner,
            self.worker_gone,
            self._changes,
            self._deaths.evidence,
            self._clock,
        )
        self.workers.add(worker)
        self._changes.notify()
        if server.outcome.forced is Intent.SHUTDOWN:  # it was discarded while this one was forked
            worker.kill(Intent.SHUTDOWN, server.outcome.reason)
        elif server.retired:
            worker.recycle("its model is being changed")
        await asyncio.shield(worker.ready)
        self._check_sandbox(worker)
        log.info("worker.started", worker=slot, pid=worker.pid)
        return worker

    def _check_sandbox(self, worker: WorkerHandle) -> None:
        """Check that the sandbox that the fork server has tried is in force in the worker, too.
        Raises `WorkerStillborn` if a worker may not serve without it."""
        promised = worker.server.loaded.result().sandbox
        missing = [name for name in promised if name not in worker.in_force]
        if not missing:
            return
        log.error("worker.sandbox_reduced", worker=worker.slot, pid=worker.pid, missing=missing)
        if self.settings.sandbox is Sandbox.ON:
            reason = f"its sandbox lacks {', '.join(missing)}"
            worker.kill(Intent.SANDBOX, reason)
            raise WorkerStillborn(reason)

    async def _watch(self) -> None:
        """Check the heartbeats, and read what the workers write."""
        while True:
            await asyncio.sleep(self.settings.heartbeat_s / 2)
            if any(self._overstays(worker) for worker in self.workers):
                self._changes.notify()
            for worker in list(self.workers):
                if worker.gone.done():  # the handling of its end has failed
                    self.worker_gone(worker, worker.gone.result())
                    continue
                if output := worker.output():
                    log.warning(
                        "worker.output_captured", worker=worker.slot, pid=worker.pid, text=output
                    )
                if (
                    worker.ending
                    or (silent_s := max(worker.silent_s, worker.overdue_s)) <= self.settings.hang_s
                ):
                    continue
                worker.kill(Intent.HANG)
                log.error(
                    "worker.hung", worker=worker.slot, pid=worker.pid, silent_s=round(silent_s, 1)
                )
