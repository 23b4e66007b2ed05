"""The deaths of processes that belong together: counted, logged, and kept with what was known of
memory then."""

from collections import Counter

from supervisor.deaths.death import EXPECTED, Cause, Death
from supervisor.deaths.history import History
from supervisor.deaths.kernel_oom import OomEvidence
from supervisor.log import get_logger

log = get_logger("supervisor")

_EVENTS = {"worker": "worker.exited", "fork server": "fork_server.exited"}
"""What the log calls it, by role; everybody else is a helper."""


class Deaths:
    """`evidence` tells whom the kernel has killed; `by_cause` counts."""

    def __init__(self, history: History, evidence: OomEvidence) -> None:
        self.evidence = evidence
        self.by_cause: Counter[Cause] = Counter()
        self._history = history

    def died(
        self,
        role: str,
        death: Death,
        reason: str,
        *,
        slot: int | None = None,
        job: int | None = None,
        request_id: str | None = None,
        output: str = "",
    ) -> None:
        """One more; `reason` is why we meant it, if we did; `output`: what it wrote last."""
        self.by_cause[death.cause] += 1
        last = self._history.died(role, death, slot=slot, job=job).last
        (log.info if death.cause in EXPECTED else log.warning)(
            _EVENTS.get(role, "helper.exited"),
            role=role if role not in _EVENTS else None,
            worker=slot,
            pid=death.pid,
            cause=death.cause.value,
            exit_code=death.status.code,
            signal=death.status.signal,
            job=job,
            request_id=request_id,
            reason=reason or None,
            unreclaimable_bytes=last.unreclaimable if last else None,
            growth_bytes=last.growth if last else None,
            output=output or None,
        )
