"""The guard: reads memory all the time, lets the policy decide, and carries out its decisions."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace

from supervisor.deaths.death import Cause
from supervisor.deaths.history import Deaths, History
from supervisor.deaths.kernel_oom import OomEvidence, oom_groups
from supervisor.guard import polling
from supervisor.guard.accounting import Account, Accounting
from supervisor.guard.admission_control import AdmissionControl
from supervisor.guard.effects import Effects
from supervisor.guard.limits import limit_in_words
from supervisor.guard.members import Member, Members
from supervisor.guard.observer import Observer
from supervisor.guard.policy import GuardState, decide
from supervisor.guard.snapshot import Snapshots
from supervisor.guard.status import GuardStatus, read_status
from supervisor.log import get_logger
from supervisor.loop.clock import LoopClock
from supervisor.loop.tasks import Tasks, each_of
from supervisor.processes.helper import Helper
from supervisor.processes.worker_handle import WorkerHandle
from supervisor.settings import Headroom, MemorySettings
from supervisor.sizes import in_units
from supervisor.spool import SpoolStore

log = get_logger("guard")

_LATELY_S = 10.0
_STIRRED = 256 * 1024
"""Bytes of growth that call for a decision."""
_DECIDE_EVERY_S = 0.5
"""Seconds after which a decision is made even if nothing has moved, for conditions that last."""


class Guard:
    """Memory guard of the pools that join it. Use as `async with`, around theirs.

    A pool without a guard makes one of its own; give several pools the same guard, so that they
    share one limit. When memory is short, the guard ends processes in this order: children of this
    process that are neither fork servers nor workers (whatever started them, but see
    `leave_alone`), then workers that have grown, then models that are being loaded. It reaps
    orphans of the pools' processes only, unless `reap_strangers` is true.

    `evidence` tells which processes the kernel killed; `history` has the last moments and deaths.
    """

    def __init__(
        self,
        settings: MemorySettings | None = None,
        spools: SpoolStore | None = None,
        *,
        reap_strangers: bool = False,
    ) -> None:
        """Create a guard. `spools`: the store of the inputs, if their memory is to be limited, too.
        `reap_strangers`: reap every child that has ended, as the first process of a container must;
        set it only if no other code in this process starts children and waits for them."""
        self.clock = LoopClock()
        """Clock that the guard reads several times a second, and shares with all pools."""
        self.evidence = OomEvidence(lambda: bool(self.state.level))
        self.history = History()
        self._deaths = Deaths(self.history, self.evidence)
        self.members = Members()
        self.state = GuardState(1)
        self._observer = Observer(
            settings or MemorySettings(), self.members, self.evidence, spools, reap_strangers
        )
        self._snapshots = Snapshots(self._observer, self.members)
        self.admission = AdmissionControl(self._observer, spools, lambda: self.state)
        self._effects = Effects(self._observer, self._snapshots, self.members, self.history, spools)
        self._decided_at, self._decided_at_growth = -1e9, 0
        self._alive_at = -1e9
        self._known = asyncio.Event()
        self._due: asyncio.Future[None] | None = None
        """Resolved when a full reading is due."""
        self._read_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = Tasks()

    async def __aenter__(self) -> "Guard":
        _warn_of_oom_groups()
        await self._read()
        self._tasks.keep("guard", self._keep_watching)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.close()
        await self._effects.close()
        self._observer.close()
        self.evidence.close()

    def join(self, member: Member) -> None:
        """Guard a pool from now on."""
        self.members.add(member)
        self._count_slots()

    def leave(self, member: Member) -> None:
        """Stop guarding a pool."""
        self.members.remove(member)
        self._count_slots()

    def _count_slots(self) -> None:
        slots = max(1, sum(member.slots for member in self.members))
        self.state = replace(self.state, workers=slots, starved_concurrency=0)

    # --- what the pool asks and tells -----------------------------------------------------------

    def hasten(self) -> None:
        """Look sooner, since there is work that may make memory grow."""
        if self._timer is not None and self._observer.polling.resting:
            seconds = min(polling.LOOK_EVERY_S, self._observer.interval())
            if self._timer.when() > asyncio.get_running_loop().time() + seconds:
                self._tick_in(seconds)

    def finished(
        self, member: Member, worker: WorkerHandle, units: float | None, run_s: float
    ) -> None:
        """Learn from a job that the worker has finished, and recycle the worker if it has grown too
        much."""
        self._observer.accounting.look_at(worker.pid, time.monotonic())
        growth = self._observer.accounting.of(worker.pid).growth
        if units:
            member.growth.learn(units, growth - worker.grown_before)
            member.pace.learn(units, run_s)
        budgets = self._observer.budgets
        allowed = budgets.budget.growth.bytes + budgets.for_streams(worker)
        if growth > allowed and self.members.replaceable(worker):
            self._effects.recycle(
                worker, f"it had grown by {in_units(growth)} of {in_units(allowed)}"
            )

    def alive(self) -> bool:
        """Return whether it has looked and decided recently."""
        return self.clock.now() - self._alive_at < _LATELY_S

    @contextlib.asynccontextmanager
    async def helper(
        self, role: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> AsyncIterator[Helper]:
        """Run a helper process, which ends with the block. When memory is short, it is ended before
        any worker. Raises `OSError`."""
        helper = await Helper.start(role, command, environment, self.evidence)
        self.members.helpers.add(helper)
        try:
            yield helper
        finally:
            death = await helper.close()
            self.members.helpers.discard(helper)
            if death is not None:
                self._deaths.died(role, death, helper.outcome.reason)

    def leave_alone(self, pid: int | None) -> None:
        """Leave out the child `pid` and the processes below it, which have a guard of their own:
        they are neither counted nor ended. None: there is no such process any more."""
        self._observer.left_alone = () if pid is None else (pid,)

    def held_bytes(self) -> int:
        """Return what all models and workers hold: memory that would be free without them."""
        return sum(_held(self._observer.accounting, member) for member in self.members)

    def expect_to_be_freed(self, count: Callable[[], int]) -> None:
        """Expect memory of another process that is about to end, `count` bytes: models are chosen
        as if it had ended, and its memory counts against the setting `memory.limit`."""
        self._observer.elsewhere = count

    @property
    def deaths(self) -> dict[Cause, int]:
        """Number of helpers that ended before they had finished, by cause."""
        return dict(self._deaths.by_cause)

    async def look_again(self) -> None:
        """Read everything now, because a process has just gone."""
        await self._read()

    async def headroom(self, member: Member) -> Headroom:
        """Return the memory for a model of this pool, as soon as it is known."""
        await self._known.wait()
        observer = self._observer
        _, left = observer.look()
        freed = _held(self._observer.accounting, member) + observer.elsewhere()
        return Headroom(max(0, left), max(0, left + freed), limit_in_words(observer.budgets.limits))

    def account(self, worker: WorkerHandle) -> Account:
        """Return the memory account of the worker."""
        return self._observer.accounting.of(worker.pid)

    def status(self) -> GuardStatus | None:
        """Return what is known now; None before the first reading."""
        return read_status(self.state, self._observer, self._snapshots, self.admission)

    def starved_needs(self) -> str:
        """Describe how much more memory would end starvation; empty while the model is not
        starved."""
        return self._snapshots.missing() if self.state.starved else ""

    # --- watching -------------------------------------------------------------------------------

    async def _keep_watching(self) -> None:
        """Read whenever a look says that a reading is due."""
        while True:
            self._due, self._read_at = asyncio.get_running_loop().create_future(), time.monotonic()
            self._tick_in(self._observer.interval())
            try:
                await self._due
            finally:
                self._stop_ticking()
            try:
                await self._read()
            except Exception:  # without a full reading the looks continue, with what is known
                log.critical("guard.failed", exc_info=True)
                await asyncio.sleep(polling.LOOK_EVERY_S)

    def _tick(self) -> None:
        """Look, as a timer's callback: half the cost of waking a task."""
        due = True
        try:
            due = self._observer.outdated(self._look())
            due = due or time.monotonic() - self._read_at >= self._observer.polling.reading_every_s(
                self.state.level
            )
        except Exception:
            log.critical("guard.failed", exc_info=True)
        finally:
            if due and self._due is not None and not self._due.done():
                self._due.set_result(None)
            else:
                self._tick_in(self._observer.interval())

    def _tick_in(self, seconds: float) -> None:
        self._stop_ticking()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._tick)

    def _stop_ticking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> int:
        """Look quickly, and decide if there is a reason to; return the bytes that our processes
        have grown since the last full reading."""
        grown, left = self._observer.look()
        self.clock.now()
        overdue = time.monotonic() - self._decided_at > _DECIDE_EVERY_S
        if overdue or abs(grown - self._decided_at_growth) > _STIRRED:
            self._decided_at_growth = grown
            self._decide(left)
        return grown

    async def _read(self) -> None:
        reading = asyncio.create_task(self._observer.read())
        try:
            # A reading takes milliseconds, but many of them if processors are contended; and a leak
            # does not wait.
            while self._observer.reading is not None and not reading.done():
                await asyncio.wait({reading}, timeout=self._observer.interval())
                each_of(self._look)
            await reading
        finally:
            reading.cancel()
        self._known.set()
        self._effects.reap_orphans()
        self._decided_at_growth, left = self._observer.look()
        self._decide(left)
        self._effects.remember(self.state.level)
        self._effects.tidy()
        each_of(*(member.memory_eased for member in self.members))

    def _decide(self, left: int) -> None:
        self._decided_at = time.monotonic()
        before = self.state
        decision = decide(before, self._snapshots.situation(left))
        self.state, self._alive_at = decision.state, self.clock.now()
        if self.state.level != before.level:
            self._effects.level_changed(before, self.state, left)
        if (self.state.starved, self.state.starved_concurrency) != (
            before.starved,
            before.starved_concurrency,
        ):
            self._effects.starvation_changed(self.state)
        each_of(
            *(
                functools.partial(self._effects.do, action, self.state)
                for action in decision.actions
            )
        )


def _held(accounting: Accounting, member: Member) -> int:
    loaded = sum(accounting.of(server.pid).unreclaimable for server in member.lifecycle.servers)
    return loaded + sum(accounting.of(worker.pid).growth for worker in member.lifecycle.workers)


def _warn_of_oom_groups() -> None:
    for group in oom_groups():
        log.warning(
            "guard.oom_group_found",
            cgroup=str(group),
            consequence="the kernel's OOM killer ends the supervisor with any worker",
        )
