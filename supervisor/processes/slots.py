"""The slots: one worker on each, whatever dies.

They know nothing of jobs; their owner is told when a worker can take one and when a worker is gone.
"""

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from supervisor.changes import Changes
from supervisor.processes.backoff import Backoff
from supervisor.processes.death import Death, Intent
from supervisor.processes.deaths import Deaths
from supervisor.processes.forkserver import ForkServer, ForkServerLost
from supervisor.processes.worker import Worker, WorkerState, WorkerStillborn
from supervisor.settings import PoolSettings
from supervisor.wire.messages import AnyMessage
from supervisor.wire.scoreboard import Scoreboard

log: structlog.stdlib.BoundLogger = structlog.get_logger("supervisor")

_STABLE_S = 1.0
"""A worker that has lived this long, or had a job, is replaced at once; one that dies sooner, again
and again, is given ever more time."""


class WorkersOwner(Protocol):
    """Who works with the workers."""

    def worker_able(self, worker: Worker) -> None:
        """It is idle for the first time."""

    def worker_message(self, worker: Worker, message: AnyMessage) -> None:
        """It tells of its job."""

    def worker_leaving(self, worker: Worker) -> None:
        """It was asked to leave: no more jobs for it."""

    def worker_gone(self, worker: Worker, death: Death) -> None:
        """It has ended; `worker.job` is what it had."""


class WorkerSlots:
    """Keeps the workers, of whatever fork server is the newest."""

    def __init__(
        self,
        settings: PoolSettings,
        owner: WorkersOwner,
        deaths: Deaths,
        changes: Changes,
        live_server: Callable[[], ForkServer | None],
    ) -> None:
        self.workers: set[Worker] = set()
        self.settings = settings
        self._owner = owner
        self._deaths = deaths
        self._changes = changes
        self._live_server = live_server
        # A worker and its successor may live side by side, so there are two records a slot.
        self._free_records = list(range(2 * settings.workers))
        self.scoreboard_fd = Scoreboard.create_fd(2 * settings.workers)
        self.scoreboard = Scoreboard(self.scoreboard_fd, 2 * settings.workers)
        self._failing: dict[int, str] = {}  # slot -> why its worker is started again only later
        self._handover = asyncio.Lock()

    def keep(self, group: asyncio.TaskGroup) -> None:
        """Begin, with tasks in `group`."""
        group.create_task(self._watch_heartbeats())
        first = self.settings.first_slot
        for slot in range(first, first + self.settings.workers):
            group.create_task(self._keep_slot(slot))

    def close(self) -> None:
        """All workers have gone."""
        self.scoreboard.close()
        os.close(self.scoreboard_fd)

    def able(self) -> bool:
        """A worker can take a job, or has one."""
        return any(worker.able for worker in self.workers)

    def failing_reason(self) -> str | None:
        """Why workers do not stay alive; None if none fails."""
        return next(iter(self._failing.values()), None)

    def all_fail(self) -> bool:
        """No slot has a worker that stays alive."""
        return len(self._failing) == self.settings.workers

    def retire(self, worker: Worker, reason: str = "") -> None:
        """Recycle: it leaves after its job, and another takes its slot."""
        self._owner.worker_leaving(worker)
        worker.leave(Intent.RECYCLE, reason)

    # A worker's own calls.

    def worker_message(self, worker: Worker, message: AnyMessage) -> None:
        self._owner.worker_message(worker, message)

    def worker_gone(self, worker: Worker, death: Death) -> None:
        self.workers.discard(worker)
        self.scoreboard.clear(worker.record)
        self._free_records.append(worker.record)
        job = worker.job.id if worker.job else None
        self._deaths.died("worker", death, worker.outcome.reason, slot=worker.slot, job=job)
        self._owner.worker_gone(worker, death)
        self._changes.notify()

    # Tasks.

    async def _keep_slot(self, slot: int) -> None:
        """Keep one worker on this slot, of the newest fork server."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(first_s=0.1, longest_s=10.0, forgiven_after_s=_STABLE_S)
        worker: Worker | None = None
        started = loop.time()
        while True:
            await self._changes.until(functools.partial(self._to_be_filled, worker))
            if worker is not None and worker.gone.done():
                # One that has worked, or was at work, is replaced at once.
                useful = worker.jobs_done > 0 or worker.job is not None
                lasted = float("inf") if useful else loop.time() - started
                await self._rest(slot, backoff.failed(lasted), worker.gone.result().sentence)
                worker = None
                continue
            started = loop.time()
            server = self._live_server()
            assert server is not None
            try:
                async with self._handover if worker is not None else contextlib.nullcontext():
                    successor = await self._start_worker(slot, server)
            except (ForkServerLost, WorkerStillborn, OSError) as error:
                delay = max(backoff.failed(0.0), 0.05)
                log.error("worker.not_started", worker=slot, reason=str(error), retry_in_s=delay)
                await self._rest(slot, delay, str(error))
                continue
            if worker is not None:
                self.retire(worker)
            worker = successor

    async def _rest(self, slot: int, delay_s: float, reason: str) -> None:
        if delay_s > 0:
            self._failing[slot] = f"workers do not stay alive: {reason}"
            await asyncio.sleep(delay_s)
            del self._failing[slot]

    def _to_be_filled(self, worker: Worker | None) -> bool:
        """The slot's worker is gone, or belongs to an older fork server than there is."""
        if worker is not None and worker.gone.done():
            return True
        server = self._live_server()
        return server is not None and (worker is None or worker.server is not server)

    async def _start_worker(self, slot: int, server: ForkServer) -> Worker:
        record = self._free_records.pop()
        try:
            born = await server.fork(record)
        except BaseException:
            self._free_records.append(record)
            raise
        worker = Worker(slot, record, server, born, self, self._deaths.evidence)
        self.workers.add(worker)
        try:
            async with asyncio.timeout(self.settings.hang_s):
                await asyncio.shield(worker.ready)
        except TimeoutError:
            worker.kill(Intent.HANG)
            raise WorkerStillborn(f"worker process {worker.pid} did not get ready") from None
        log.info("worker.ready", worker=slot, pid=worker.pid)
        self._owner.worker_able(worker)
        self._changes.notify()
        return worker

    async def _watch_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self.settings.heartbeat_s / 2)
            now = time.monotonic_ns()
            for worker in list(self.workers):
                if worker.state is WorkerState.STARTING or not worker.running:
                    continue
                silent_s = self.scoreboard.read(worker.record).silent_s(now)
                if silent_s > self.settings.hang_s:
                    log.error(
                        "worker.hung",
                        worker=worker.slot,
                        pid=worker.pid,
                        silent_s=round(silent_s, 1),
                    )
                    worker.kill(Intent.HANG)
