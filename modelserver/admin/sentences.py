"""The health document in sentences, for `modelserver status`, `top` and `doctor`.

The admin page has its own, in two languages; the line of systemd is `serving.verdict`'s.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from modelserver.admin.health import Health
from modelserver.serving.verdict import RECENT_S
from supervisor import in_units


@dataclass(frozen=True, slots=True)
class Sentence:
    """Sentence about a subject. `mark`: "warn", "bad", or "" if it needs no attention."""

    subject: str
    text: str
    mark: str = ""


def requests_sentence(health: Health) -> Sentence:
    """Say how many requests are in progress, and how many wait."""
    queue = health.queue
    text = f"{queue.admitted} of {queue.limit} in progress, {queue.waiting} waiting"
    return Sentence("requests", text, "warn" if queue.waiting else "")


def streams_sentence(health: Health) -> Sentence:
    """Say how many live streams are open, and how late their results are."""
    streams = health.streams
    text = (
        f"{streams.open} open, {streams.behind_s:.1f} s behind at most; so far "
        f"{streams.replays} moved to another worker, {streams.refused} refused"
    )
    return Sentence("streams", text, "warn" if streams.behind_s > 1 else "")


def memory_sentences(health: Health) -> Iterator[Sentence]:
    """Say what is used and left; nothing until memory has been read."""
    if (memory := health.memory) is None:
        return
    room = max(1, memory.limit_bytes - memory.reserve_bytes)
    text = (
        f"{memory.level}{', starved' if memory.starved else ''}; {in_units(memory.used_bytes)} of "
        f"{in_units(room)} used, {in_units(memory.left_bytes)} left until {memory.tightest} is full"
    )
    mark = {"normal": "warn" if memory.starved else "", "pressure": "warn"}.get(memory.level, "bad")
    yield Sentence("memory", text, mark)
    yield Sentence("mapped", f"{in_units(memory.mapped_bytes)} of the model")


def uploads_sentence(health: Health) -> Sentence:
    """Say how much of uploads is in memory and on the disk."""
    spools = health.spools
    text = f"{in_units(spools.memory_bytes)} in memory, {in_units(spools.disk_bytes)} on the disk"
    return Sentence("uploads", text)


def jobs_sentence(health: Health) -> Sentence:
    """Say how many jobs there are, by state, or why there can be none."""
    jobs = health.jobs
    if jobs.problem is not None:
        return Sentence("jobs", f"rejected: {jobs.problem}", "bad")
    counted = ", ".join(f"{count} {state}" for state, count in jobs.counts.items() if count)
    return Sentence("jobs", f"{counted or 'none'}; {in_units(jobs.bytes)} on the disk")


def death_sentences(health: Health, most: int) -> Iterator[Sentence]:
    """Say how processes ended without being asked, the newest first."""
    for death in health.last_deaths[:most]:
        age = time.time() - death.time
        yield Sentence(f"{span(age)} ago", death.sentence, "warn" if age < RECENT_S else "")


def span(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    seconds = max(0.0, seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
