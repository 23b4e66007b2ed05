"""The guard's effects: it ends, recycles and trims processes, moves spools, and logs, as the policy
decides."""

import functools
import time
from collections.abc import Iterable

from supervisor.deaths.history import History
from supervisor.deaths.level import Level
from supervisor.errors import SpoolFull
from supervisor.guard.members import Members
from supervisor.guard.observer import Observer
from supervisor.guard.policy import Action, End, GuardState, Recycle, Trim
from supervisor.guard.snapshot import Snapshots
from supervisor.log import RepeatLimit, get_logger
from supervisor.loop.tasks import Tasks
from supervisor.process_control import kill_descendant, reap_orphan
from supervisor.processes.worker_handle import WorkerHandle, WorkerState
from supervisor.spool import Spool, SpoolStore
from supervisor.trim import release_free_memory

log = get_logger("guard")

_TIDY_EVERY_S = 60.0
"""Seconds between two calls. Each takes some milliseconds, in which no other thread of this process
can allocate."""


class Effects:
    """Effects of the policy's decisions; call `close` at the end."""

    def __init__(
        self,
        observer: Observer,
        snapshots: Snapshots,
        members: Members,
        history: History,
        spools: SpoolStore | None,
    ) -> None:
        self._observer = observer
        self._snapshots = snapshots
        self._members = members
        self._history = history
        self._spools = spools
        self._moving = Tasks()
        self._repeats = RepeatLimit()
        self._tidied_at = time.monotonic()

    async def close(self) -> None:
        """Stop moving spools."""
        await self._moving.close()

    def remember(self, level: Level) -> None:
        """Remember the present readings, for records of deaths."""
        self._history.passed(self._snapshots.moment(level))

    def tidy(self) -> None:
        """Return memory that this process has freed to the kernel, once in a while: the C library
        keeps it, in pieces that become useless over time."""
        if (now := time.monotonic()) - self._tidied_at > _TIDY_EVERY_S:
            self._tidied_at = now
            self._observer.run(release_free_memory)

    def reap_orphans(self) -> None:
        """Reap orphans that have ended, as the first process of a container must."""
        for pid in self._observer.orphans:
            if reap_orphan(pid):
                log.info("orphan.reaped", pid=pid)

    def level_changed(self, before: GuardState, state: GuardState, left: int) -> None:
        """Log the change of level; while memory is short, uploads are held on disk."""
        bound = self._observer.tightest()
        (log.warning if state.level > before.level else log.info)(
            "guard.level_changed",
            now=state.level.word,
            was=before.level.word,
            left_bytes=left,
            tightest=bound.name,
            limit_bytes=bound.limit,
            used_bytes=bound.used,
        )
        if self._spools is not None:
            self._spools.memory_allowed = state.spools_in_memory
        if not state.spools_in_memory and before.spools_in_memory:
            self._move_spools()

    def starvation_changed(self, state: GuardState) -> None:
        """Log that the model is starved, or has recovered."""
        waiting = self._observer.meter.waiting()
        (log.warning if state.starved else log.info)(
            "guard.starved" if state.starved else "guard.recovered",
            concurrency=state.concurrency,
            lost_share=round(waiting.lost, 2),
            faults_per_s=round(waiting.faults),
            refaults_per_s=round(waiting.refaults),
            would_end_it=self._snapshots.missing() if state.starved else None,
        )

    def do(self, action: Action, state: GuardState) -> None:
        """Carry out one of the policy's actions."""
        match action:
            case Trim():
                self._trim()
            case Recycle():
                for worker in self._members.workers:
                    if worker.pid == action.pid:
                        worker.hurried = state.level is Level.CRITICAL
                        self.recycle(worker, action.reason)
            case End():
                self.remember(state.level)
                self._end(action)

    def _end(self, action: End) -> None:
        pid, reason, intent = action.pid, action.reason, action.intent
        for worker in self._members.workers:
            if worker.pid == pid:
                if not worker.ending:
                    worker.kill(intent, reason)
                    log.warning("guard.worker_ended", worker=worker.slot, pid=pid, reason=reason)
                return
        for server in self._members.servers:
            if server.pid == pid:
                server.kill_all(intent, reason)
                log.error("guard.load_ended", pid=pid, reason=reason)
                return
        if (helper := self._members.helper_around(pid)) is not None:
            helper.outcome.force(intent, reason)
        kill_descendant(pid)
        self._observer.helper_ended(pid)
        log.warning("guard.helper_ended", pid=pid, reason=reason)

    def recycle(self, worker: WorkerHandle, reason: str) -> None:
        """Have the worker leave, after its job if it has one."""
        if worker.state in (WorkerState.IDLE, WorkerState.BUSY):
            worker.recycle(reason)
            log.info(
                "worker.recycled", worker=worker.slot, pid=worker.pid, cause="budget", reason=reason
            )

    def _trim(self) -> None:
        for worker in self._members.workers:
            if worker.state is WorkerState.IDLE and not worker.streams:
                worker.trim()
        for server in self._members.live_servers:
            server.trim()
        self._observer.run(release_free_memory)
        log.info("guard.memory_trimmed")

    def _move_spools(self) -> None:
        """Move inputs of waiting jobs to disk; the others are already mapped by a worker."""
        inputs = [one for member in self._members for one in member.waiting_inputs()]
        spools = [one for one in inputs if isinstance(one, Spool)]
        self._moving.once("spools to disk", functools.partial(self._to_disk, spools))

    async def _to_disk(self, spools: Iterable[Spool]) -> None:
        for spool in spools:
            try:
                await spool.to_disk()
            except SpoolFull as error:
                if self._repeats.due(error.message):
                    log.warning("guard.spool_move_failed", reason=error.message)
                return
