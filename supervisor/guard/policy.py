"""The memory policy: a pure function from a state and a situation to a new state and actions.

Nothing here reads or kills.
"""

from dataclasses import dataclass, replace

from supervisor.deaths.death import Intent
from supervisor.deaths.level import Level
from supervisor.guard.limits import MIB, Budget, Limits
from supervisor.guard.starvation import NO_WAITING, Waiting
from supervisor.sizes import in_units

WORTH_IT = 8 * MIB
"""Least growth, in bytes, for which a process is ended to free memory."""

MOST_THREADS = 64
"""Threads that a sandboxed worker may have: more could use up the processes of a cgroup or a
user."""

_LEAVE_FACTOR = 1.5
"""Factor of a level's threshold above which memory must be left for the level to end..."""
_LEAVE_S = 2.0
"""...for as many seconds as this."""
_SOON_S = 0.2
"""Seconds: memory that would be used up sooner, at the present rate, is an emergency."""
_TRIM_EVERY_S = 30.0
_RECYCLE_EVERY_S = 0.5
_KILL_EVERY_S = 0.5

STARVED_SHARE = 0.1
"""Share of the workers' time spent reading pages of the model again, from which it counts as
starved."""
THRASHING_SHARE, _CALMER_SHARE = 0.75, 0.5
"""Shares of the workers' time spent waiting for pages. Above the first the disk is the bottleneck,
and fewer workers get more done. Below the second one worker computes while another waits (measured
in docs/decisions.md)."""
_STARVED_ENTER_S, _STARVED_LEAVE_S = 2.0, 10.0
_CONCURRENCY_STEP_S = 10.0


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as the policy sees it, in bytes; `rate` in bytes per second.

    `growth` is its own, `unreclaimable` includes memory shared with its parent; mapped files are in
    neither. `replaceable`: there is a fork server to make another. `extra`: growth allowed beyond
    the budget, for streams beside the first; `hard`: the budget with which its current work began,
    None for the present one; `threads`: number of threads of a worker in a sandbox.
    """

    pid: int
    busy: bool
    leaving: bool
    growth: int
    unreclaimable: int
    rate: float = 0.0
    replaceable: bool = True
    extra: int = 0
    hard: int | None = None
    threads: int = 1


@dataclass(frozen=True, slots=True)
class LoadView:
    """A fork server that is still loading its model."""

    pid: int
    unreclaimable: int
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class HelperView:
    """Process below the supervisor that can be ended and repeated, such as one that prepares a
    model."""

    pid: int
    unreclaimable: int


@dataclass(frozen=True, slots=True)
class Situation:
    """Situation at one moment. `left`: bytes until the tightest limit less the reserve; negative
    when the reserve is being used. `waiting`: the workers' waits in the last seconds."""

    time: float
    left: int
    limits: Limits
    budget: Budget
    workers: tuple[WorkerView, ...]
    loading: tuple[LoadView, ...] = ()
    helpers: tuple[HelperView, ...] = ()
    waiting: Waiting = NO_WAITING


@dataclass(frozen=True, slots=True)
class GuardState:
    """State that the policy remembers until it decides again.

    `concurrency` is how many of the `workers` may work at once; `starved_concurrency` is 0 where
    all may.
    """

    workers: int
    level: Level = Level.NORMAL
    starved: bool = False
    starved_concurrency: int = 0
    better_since: float | None = None
    starving_since: float | None = None
    fed_since: float | None = None
    stepped_at: float = -1e9
    trimmed_at: float = -1e9
    recycled_at: float = -1e9
    killed_at: float = -1e9

    @property
    def takes_work(self) -> bool:
        """True if new jobs may come in."""
        return self.level < Level.CRITICAL

    @property
    def takes_streams(self) -> bool:
        """True if new jobs of unknown length may come in."""
        return self.level == Level.NORMAL

    @property
    def spools_in_memory(self) -> bool:
        """True if uploads may be held in memory."""
        return self.level == Level.NORMAL

    @property
    def concurrency(self) -> int:
        """Number of workers that may work at once."""
        if self.level == Level.CRITICAL:
            return 1
        return self.starved_concurrency or self.workers


@dataclass(frozen=True, slots=True)
class Recycle:
    """Action: the worker leaves, now if it is idle, else after its job."""

    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """Action: the worker, loading fork server or helper is ended now; a worker's job runs again on
    another.

    `intent`: `BUDGET` if it exceeded its own budget, `SHORTAGE` if it is ended to free memory for
    the others, `SANDBOX` for something that no worker may do.
    """

    pid: int
    reason: str
    intent: Intent


@dataclass(frozen=True, slots=True)
class Trim:
    """Action: every process returns freed memory to the kernel."""


Action = Recycle | End | Trim


@dataclass(frozen=True, slots=True)
class Decision:
    """New state, and actions to take."""

    state: GuardState
    actions: tuple[Action, ...]


def decide(state: GuardState, now: Situation) -> Decision:
    """Decide about the budgets, then about the memory left, then about the file cache."""
    actions = _one_kill([action for worker in now.workers if (action := _keep(worker, now))], now)
    state = _starvation(_levels(state, now), now)
    touched = {action.pid for action in actions if not isinstance(action, Trim)}
    others = tuple(w for w in now.workers if w.pid not in touched)
    if state.level == Level.NORMAL:
        return Decision(state, tuple(actions))
    if now.time - state.trimmed_at >= _TRIM_EVERY_S:
        state = replace(state, trimmed_at=now.time)
        actions.append(Trim())
    emergency = _emergency(now)
    step = _relieve(state, now, others, emergency=emergency)
    if isinstance(step, Recycle):
        state = replace(state, recycled_at=now.time)
    elif step is not None:
        state = replace(state, killed_at=now.time)
    return Decision(state, (*actions, step) if step else tuple(actions))


def _one_kill(actions: list[Action], now: Situation) -> list[Action]:
    """Keep one of several kills, of the largest worker: the others are decided again when its
    effect is known."""
    growth = {worker.pid: worker.growth for worker in now.workers}
    kills = [action for action in actions if isinstance(action, End)]
    largest = max(kills, key=lambda kill: growth[kill.pid], default=None)
    return [a for a in actions if not isinstance(a, End) or a is largest]


def _keep(worker: WorkerView, now: Situation) -> Action | None:
    """Return the action for a worker that exceeds its own limits; None if it does not."""
    budget = now.budget
    if worker.threads > MOST_THREADS:
        reason = f"it had {worker.threads} threads, and {MOST_THREADS} are allowed"
        return End(worker.pid, reason, Intent.SANDBOX)
    hard = (budget.hard.bytes if worker.hard is None else worker.hard) + worker.extra
    # A worker without work can leave by itself.
    at_rest = not worker.busy and not worker.leaving and worker.replaceable
    if worker.growth > hard and not at_rest:
        return End(
            worker.pid,
            f"it had grown by {in_units(worker.growth)}, and {in_units(hard)} are "
            f"allowed ({budget.hard.reason})",
            Intent.BUDGET,
        )
    if budget.max_rss is not None and worker.unreclaimable > budget.max_rss.bytes:
        return End(
            worker.pid,
            f"it held {in_units(worker.unreclaimable)}, and {in_units(budget.max_rss.bytes)} are "
            f"allowed ({budget.max_rss.reason})",
            Intent.BUDGET,
        )
    soft = budget.growth.bytes + worker.extra
    if worker.growth > soft and not worker.leaving and worker.replaceable:
        reason = f"it had grown by {in_units(worker.growth)} of {in_units(soft)}"
        return Recycle(worker.pid, reason)
    return None


def _levels(state: GuardState, now: Situation) -> GuardState:
    """Return the state with its level: raised at once, lowered one by one after a while."""
    below = {Level.PRESSURE: now.limits.pressure_below, Level.CRITICAL: now.limits.critical_below}
    worst = max((lvl for lvl, bytes_ in below.items() if now.left < bytes_), default=Level.NORMAL)
    if worst > state.level:
        return replace(state, level=worst, better_since=None, trimmed_at=-1e9)
    if state.level == Level.NORMAL or now.left < below[state.level] * _LEAVE_FACTOR:
        return replace(state, better_since=None)
    since = now.time if state.better_since is None else state.better_since
    if now.time - since < _LEAVE_S:
        return replace(state, better_since=since)
    return replace(state, level=Level(state.level - 1), better_since=None)


def _emergency(now: Situation) -> bool:
    """Return whether a polite request would take too long, judged by the memory left now: the level
    may be out of date."""
    if now.left >= now.limits.pressure_below:
        return False
    rates = [worker.rate for worker in now.workers] + [load.rate for load in now.loading]
    rate = sum(max(0.0, rate) for rate in rates)
    soon = now.left + now.limits.reserve.bytes < rate * _SOON_S
    return soon or now.left < now.limits.critical_below // 2


def _relieve(
    state: GuardState, now: Situation, workers: tuple[WorkerView, ...], *, emergency: bool
) -> Action | None:
    """Return the one action that frees most and costs least; None if there is none."""
    left = f"{in_units(max(0, now.left))} were left of {in_units(now.limits.limit.bytes)}"
    rested = now.time - state.killed_at >= _KILL_EVERY_S
    helper = max(now.helpers, key=lambda helper: helper.unreclaimable, default=None)
    if helper is not None and helper.unreclaimable > WORTH_IT and rested:
        return End(
            helper.pid, f"{left}, and it held {in_units(helper.unreclaimable)}", Intent.SHORTAGE
        )
    fat = sorted((w for w in workers if w.growth > WORTH_IT), key=lambda w: w.growth)
    if emergency:
        # What grows has to stop; otherwise the largest is ended.
        running = [w for w in fat if w.busy or not w.leaving]
        victim = max(running, key=lambda w: w.rate * _SOON_S + w.growth, default=None)
        # Wait for the memory of the last kill to show, unless this worker is too fast.
        headroom = now.left + now.limits.reserve.bytes
        if victim is not None and (rested or victim.rate * _SOON_S > headroom):
            return End(
                victim.pid,
                f"{left}, and it had grown most, by {in_units(victim.growth)}",
                Intent.SHORTAGE,
            )
        if victim is None and rested and now.loading:
            largest = max(now.loading, key=lambda load: load.unreclaimable)
            return End(
                largest.pid,
                f"{left} when it had loaded {in_units(largest.unreclaimable)} of the model",
                Intent.SHORTAGE,
            )
    if not rested or now.time - state.recycled_at < _RECYCLE_EVERY_S:
        return None
    fat = [w for w in fat if w.replaceable]
    idle = [w for w in fat if not w.busy and not w.leaving]
    if idle:
        return Recycle(idle[-1].pid, f"{left}, and it had grown by {in_units(idle[-1].growth)}")
    busy = [w for w in fat if w.busy and not w.leaving]
    if busy and state.level == Level.CRITICAL:
        return Recycle(busy[-1].pid, f"{left}, and it had grown by {in_units(busy[-1].growth)}")
    return None


def _starvation(state: GuardState, now: Situation) -> GuardState:
    """Return the state with starvation: whether the model's pages are evicted and read again. If
    that takes most of the time, fewer workers run at once, step by step, and step by step back."""
    if now.waiting.lost < STARVED_SHARE:
        return _fed(replace(state, starving_since=None), now)
    since = now.time if state.starving_since is None else state.starving_since
    starved = state.starved or now.time - since >= _STARVED_ENTER_S
    state = replace(state, starving_since=since, fed_since=None, starved=starved)
    if not starved or now.time - state.stepped_at < _CONCURRENCY_STEP_S:
        return state
    if now.waiting.share >= THRASHING_SHARE and state.concurrency > 1:
        fewer = state.workers // 2 if not state.starved_concurrency else state.concurrency - 1
        return replace(state, starved_concurrency=max(1, fewer), stepped_at=now.time)
    if now.waiting.share < _CALMER_SHARE:
        return _one_more(state, now)
    return state


def _fed(state: GuardState, now: Situation) -> GuardState:
    """Return the state without starvation: it ends after a while, with all workers at work
    again."""
    if not state.starved:
        return replace(state, fed_since=None)
    since = now.time if state.fed_since is None else state.fed_since
    state = replace(state, fed_since=since)
    if now.time - max(since, state.stepped_at) < _STARVED_LEAVE_S:
        return state
    if state.starved_concurrency:
        return _one_more(state, now)
    return replace(state, starved=False, fed_since=None)


def _one_more(state: GuardState, now: Situation) -> GuardState:
    if not state.starved_concurrency:
        return state
    more = state.starved_concurrency + 1
    allowed = 0 if more >= state.workers else more
    return replace(state, starved_concurrency=allowed, stepped_at=now.time)
