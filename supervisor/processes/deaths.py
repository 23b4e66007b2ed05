"""The deaths of one pool's processes: counted, and kept with what was known of memory then."""

from collections import Counter

from supervisor.guard.history import History, Obituary
from supervisor.processes.death import Cause, Death
from supervisor.readings.kernel_oom import OomEvidence


class Deaths:
    """`evidence` tells whom the kernel has killed; `by_cause` counts."""

    def __init__(self, history: History, evidence: OomEvidence) -> None:
        self.evidence = evidence
        self.by_cause: Counter[Cause] = Counter()
        self._history = history

    def died(
        self, role: str, death: Death, *, seat: int | None = None, job: int | None = None
    ) -> Obituary:
        """One more."""
        self.by_cause[death.cause] += 1
        return self._history.died(role, death, seat=seat, job=job)


def last_memory(obituary: Obituary) -> dict[str, int]:
    """What the dead process held when it was last looked at, for the log."""
    last = obituary.last
    return {"kept_bytes": last.kept, "growth_bytes": last.growth} if last else {}
