"""Intentions for a process, and the name of its end."""

from collections.abc import Collection
from dataclasses import dataclass

from supervisor.deaths.death import Death, ExitStatus, Intent, name_death, name_stuck, was_killed
from supervisor.deaths.kernel_oom import OomEvidence
from supervisor.log import get_logger

log = get_logger("supervisor")


@dataclass(slots=True)
class Outcome:
    """Intentions for one process, from its start until its death is named.

    Having asked it to end explains an exit with status 0; having ended it by force explains
    SIGKILL. Any other end has another cause, whatever was intended.
    """

    role: str
    pid: int
    evidence: OomEvidence
    asked: Intent = Intent.NONE
    forced: Intent = Intent.NONE
    reason: str = ""

    def ask(self, intent: Intent, reason: str = "") -> None:
        """Record that the process is asked to end."""
        self.asked, self.reason = intent, reason

    def force(self, intent: Intent, reason: str = "") -> None:
        """Record that the process is ended by force."""
        self.forced, self.reason = intent, reason

    def name(self, status: ExitStatus, below: Collection[int] = ()) -> Death:
        """Name its death. `below`: the processes below it, one of which may have been killed
        first."""
        kernel_oom = was_killed(status) and self._taken_by_kernel(below)
        intent = Intent.NONE
        if was_killed(status):
            intent = self.forced
        elif status.code == 0:
            intent = self.asked
        return name_death(
            self.role,
            self.pid,
            status,
            intent,
            reason=self.reason,
            kernel_oom=kernel_oom,
            memory_short=self.evidence.memory_short(),
        )

    def stuck(self) -> Death:
        """Name the death of a process that got SIGKILL and does not end: in a frozen cgroup, or
        deep in the kernel."""
        return name_stuck(self.role, self.pid, self.forced)

    def _taken_by_kernel(self, below: Collection[int]) -> bool:
        try:
            if below and self.evidence.any_killed(below):
                return True
            # A SIGKILL that was intended is ours, unless the kernel's log names this process.
            return self.evidence.killed(self.pid, by_log_only=self.forced is not Intent.NONE)
        except Exception:
            # The end has to become known, even if its cause does not.
            log.exception("oom_evidence.read_failed", pid=self.pid)
            return False
