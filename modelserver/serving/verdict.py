"""The health verdict: one word, and sentences that say why it is not "ok"."""

import time
from typing import TYPE_CHECKING

from supervisor import PoolState, PoolStatus, counted, in_units

if TYPE_CHECKING:  # commands import this module, too, and need no server
    from modelserver.serving.service import SpeechService

RECENT_S = 60.0
"""Seconds for which the unexpected end of a process degrades the health."""


def in_a_line(service: "SpeechService") -> str:
    """Return the verdict in one line, as systemd shows it."""
    status = service.status()
    word, reasons = verdict(service, status)
    if reasons:
        return f"{word}: {'; '.join(reasons)}"
    able = sum(worker.state.value in ("idle", "busy") for worker in status.workers)
    at_work = f"{counted(able, 'worker')}, {counted(status.admitted, 'request')}"
    return f"{word}: {status.model.get('model')}, {at_work}"


def verdict(service: "SpeechService", status: PoolStatus) -> tuple[str, list[str]]:
    """Return "ok", "degraded", "unavailable" or "draining", and the reasons."""
    reasons = service.stale()
    if status.reason is not None:
        reasons.append(status.reason)
    if (guard := status.guard) is not None:
        if guard.state.level:
            reasons.append(
                f"memory is short ({guard.state.level.word}): {in_units(guard.left)} are left "
                f"until {guard.tightest.name} is full"
            )
        if guard.state.starved:
            reasons.append(
                "the model is starved: the kernel evicts its pages and reads them again; "
                f"{status.starved_needs} would end it"
            )
        if guard.spools_refused is not None:
            directory = service.spools.limits.directory
            reasons.append(
                f"larger uploads are refused: {directory} (spool.directory): {guard.spools_refused}"
            )
    now = time.time()
    recent = [o for o in status.last_deaths if now - o.time < RECENT_S]
    reasons += [o.death.sentence for o in recent[-3:]]
    if status.state is PoolState.DRAINING:
        return "draining", ["the server takes no new requests", *reasons]
    if status.reason is not None or (guard is not None and not guard.state.takes_work):
        return "unavailable", reasons
    return ("degraded" if reasons else "ok"), reasons
