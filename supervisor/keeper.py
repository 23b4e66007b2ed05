"""The keeper: one loaded fork server and one worker on every seat, whatever dies.

It knows nothing of jobs; its owner is told when a worker can take one and when a worker is gone.
"""

import asyncio
import contextlib
import functools
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from supervisor.backoff import Backoff
from supervisor.death import Cause, Death, Intent
from supervisor.environment import choose_allocator, find_jemalloc
from supervisor.forkserver import ForkServer, ForkServerLost
from supervisor.guard.history import History, Obituary
from supervisor.messages import AnyMessage
from supervisor.process import become_subreaper
from supervisor.readings.kernel_oom import OomEvidence
from supervisor.scoreboard import Scoreboard
from supervisor.settings import PoolSettings, TargetSource, TargetUnavailable
from supervisor.worker import Worker, WorkerState, WorkerStillborn

log: structlog.stdlib.BoundLogger = structlog.get_logger("supervisor")

_STABLE_S = 1.0
"""A worker that has lived this long, or had a job, is replaced at once; one that dies sooner, again
and again, is given ever more time."""

_LEAVE_S = 1.0
"""How long a process may take to leave when the keeper closes, before it is killed."""


class KeeperOwner(Protocol):
    """Who works with the workers."""

    def worker_able(self, worker: Worker) -> None:
        """It is idle for the first time."""

    def worker_message(self, worker: Worker, message: AnyMessage) -> None:
        """It tells of its job."""

    def worker_leaving(self, worker: Worker) -> None:
        """It was asked to leave: no more jobs for it."""

    def worker_gone(self, worker: Worker, death: Death) -> None:
        """It has ended; `worker.job` is what it had."""


class Keeper:
    """Keeps the processes. Use as `async with`; entering returns while the model loads."""

    def __init__(self, target: TargetSource, settings: PoolSettings, owner: KeeperOwner) -> None:
        self.settings = settings
        self._jemalloc = find_jemalloc()
        self.allocator = choose_allocator(settings.allocator, self._jemalloc)
        self.server: ForkServer | None = None
        """The newest fork server that has loaded; it may have ended."""
        self.workers: set[Worker] = set()
        self.deaths: Counter[Cause] = Counter()
        self.history = History()
        self.evidence = OomEvidence()
        self.servers: set[ForkServer] = set()
        """All that run: the one that serves, those that load, those whose last worker leaves."""
        self.load_failures = 0
        self._target = target
        self._owner = owner
        # A worker and its successor may live side by side, so there are two records a seat.
        self._free_records = list(range(2 * settings.workers))
        self._scoreboard_fd = Scoreboard.create_fd(2 * settings.workers)
        self.scoreboard = Scoreboard(self._scoreboard_fd, 2 * settings.workers)
        self._unready_because = "the model is not loaded yet"
        self._failing: dict[int, str] = {}  # seat -> why its worker is started again only later
        self._changed = asyncio.Event()
        self._renewal = asyncio.Event()
        self._handover = asyncio.Lock()
        self._group: asyncio.TaskGroup | None = None
        self._main: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Keeper":
        become_subreaper()
        self._main = asyncio.create_task(self._keep_all(), name="keeper")
        self._main.add_done_callback(self._main_ended)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._main is not None
        self._main.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._main
        await self._end_processes()
        self.scoreboard.close()
        self.evidence.close()
        os.close(self._scoreboard_fd)

    def unready_reason(self) -> str | None:
        """Why no worker is able now; None if one is."""
        if any(worker.able for worker in self.workers):
            return None
        if self.live_server() is None:
            return self._unready_because
        return next(iter(self._failing.values()), "the workers are being started")

    def alive(self) -> bool:
        """Its tasks run."""
        return self._main is not None and not self._main.done()

    def hopeless(self) -> bool:
        """No worker is able, and it will take longer than the milliseconds of a replacement."""
        if self.unready_reason() is None:
            return False
        all_fail = len(self._failing) == self.settings.workers
        return self.live_server() is None or all_fail

    def live_server(self) -> ForkServer | None:
        """The loaded fork server, if it lives."""
        return None if self.server is None or self.server.ended.done() else self.server

    def renew(self) -> None:
        """Load the target anew, beside the one that serves, and move over to it; if it cannot be
        loaded, all stays as it is."""
        self._renewal.set()

    def retire(self, worker: Worker, reason: str = "") -> None:
        """Recycle: it leaves after its job, and another takes its seat."""
        self._owner.worker_leaving(worker)
        worker.leave(Intent.RECYCLE, reason)

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until `predicate` holds; it is asked again after every change."""
        while not predicate():
            await self._changed.wait()

    def notify(self) -> None:
        """Something that an `until` may wait for has changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    # A worker's own calls.

    def worker_message(self, worker: Worker, message: AnyMessage) -> None:
        self._owner.worker_message(worker, message)

    def worker_gone(self, worker: Worker, death: Death) -> None:
        self.workers.discard(worker)
        self.scoreboard.clear(worker.record)
        self._free_records.append(worker.record)
        self.deaths[death.cause] += 1
        job = worker.job.id if worker.job else None
        obituary = self.history.died("worker", death, seat=worker.seat, job=job)
        expected = death.cause in (Cause.RECYCLED, Cause.SHUTDOWN)
        (log.info if expected else log.warning)(
            "worker.exited",
            worker=worker.seat,
            pid=worker.pid,
            cause=death.cause.value,
            exit_code=death.status.code,
            signal=death.status.signal,
            job=job,
            reason=worker.fate.reason or None,
            **_last_memory(obituary),
        )
        self._owner.worker_gone(worker, death)
        self.notify()

    # Tasks.

    async def _keep_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._keep_fork_server())
            group.create_task(self._watch_heartbeats())
            for seat in range(self.settings.workers):
                group.create_task(self._keep_seat(seat))

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
            try:
                server = await self._load()
            except (ForkServerLost, TargetUnavailable, OSError) as error:
                if self.live_server() is None:
                    await self._sleep_after_failure(backoff, str(error))
                    continue
                log.error("model.not_renewed", reason=str(error))
            else:
                self._install(server)
            assert self.server is not None
            await self._renewal_or_end(self.server)
            if self.server.ended.done():
                death = self.server.ended.result()
                self._unready_because = f"{death.sentence}; the model is being loaded again"
                await asyncio.sleep(backoff.failed(loop.time() - started))

    async def _sleep_after_failure(self, backoff: Backoff, reason: str) -> None:
        delay = max(backoff.failed(0.0), 0.5)
        self.load_failures += 1
        self._unready_because = f"the model cannot be loaded: {reason}"
        log.error("model.unavailable", reason=reason, attempt=backoff.failures, retry_in_s=delay)
        await asyncio.sleep(delay)

    def _install(self, server: ForkServer) -> None:
        """The seats move to it one by one; the one before ends when its last worker has left."""
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

    async def _load(self) -> ForkServer:
        target = await self._target() if callable(self._target) else self._target
        allocator = choose_allocator(
            self.settings.allocator, self._jemalloc, huge_pages=target.huge_pages
        )
        server = ForkServer(
            target,
            self.settings,
            allocator,
            self._scoreboard_fd,
            self.scoreboard.records,
            self.evidence,
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
        death = server.ended.result()
        self.deaths[death.cause] += 1
        obituary = self.history.died("fork server", death)
        (log.info if death.cause is Cause.SHUTDOWN else log.warning)(
            "fork_server.exited",
            pid=server.pid,
            cause=death.cause.value,
            exit_code=death.status.code,
            signal=death.status.signal,
            reason=server.fate.reason or None,
            **_last_memory(obituary),
        )
        self.notify()

    async def _keep_seat(self, seat: int) -> None:
        """Keep one worker on this seat, of the newest fork server."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(first_s=0.1, longest_s=10.0, forgiven_after_s=_STABLE_S)
        worker: Worker | None = None
        started = loop.time()
        while True:
            await self.until(functools.partial(self._to_be_filled, worker))
            if worker is not None and worker.gone.done():
                # One that has worked, or was at work, is replaced at once.
                useful = worker.jobs_done > 0 or worker.job is not None
                lasted = float("inf") if useful else loop.time() - started
                await self._rest(seat, backoff.failed(lasted), worker.gone.result().sentence)
                worker = None
                continue
            started = loop.time()
            server = self.live_server()
            assert server is not None
            try:
                async with self._handover if worker is not None else contextlib.nullcontext():
                    successor = await self._start_worker(seat, server)
            except (ForkServerLost, WorkerStillborn, OSError) as error:
                delay = max(backoff.failed(0.0), 0.05)
                log.error("worker.not_started", worker=seat, reason=str(error), retry_in_s=delay)
                await self._rest(seat, delay, str(error))
                continue
            if worker is not None:
                self.retire(worker)
            worker = successor

    async def _rest(self, seat: int, delay_s: float, reason: str) -> None:
        if delay_s > 0:
            self._failing[seat] = f"workers do not stay alive: {reason}"
            await asyncio.sleep(delay_s)
            del self._failing[seat]

    def _to_be_filled(self, worker: Worker | None) -> bool:
        """The seat's worker is gone, or belongs to an older fork server than there is."""
        if worker is not None and worker.gone.done():
            return True
        server = self.live_server()
        return server is not None and (worker is None or worker.server is not server)

    async def _start_worker(self, seat: int, server: ForkServer) -> Worker:
        record = self._free_records.pop()
        try:
            born = await server.fork(record)
        except BaseException:
            self._free_records.append(record)
            raise
        worker = Worker(seat, record, server, born, self, self.evidence)
        self.workers.add(worker)
        try:
            async with asyncio.timeout(self.settings.hang_s):
                await asyncio.shield(worker.ready)
        except TimeoutError:
            worker.kill(Intent.HANG)
            raise WorkerStillborn(f"worker process {worker.pid} did not get ready") from None
        log.info("worker.ready", worker=seat, pid=worker.pid)
        self._owner.worker_able(worker)
        self.notify()
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
                        worker=worker.seat,
                        pid=worker.pid,
                        silent_s=round(silent_s, 1),
                    )
                    worker.kill(Intent.HANG)

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


def _last_memory(obituary: Obituary) -> dict[str, int]:
    """What the dead process held when it was last looked at, for the log."""
    last = obituary.last
    return {"kept_bytes": last.kept, "growth_bytes": last.growth} if last else {}
