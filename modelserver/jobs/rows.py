"""A job as a row of the database, and back. A row that cannot be read is a job that has failed."""

from typing import Any

import msgspec

from modelserver.jobs.record import STATES, Delivery, Failure, Job, Wanted
from modelserver.speech.messages import Speech, SpeechRequest

COLUMNS = (
    "id, owner, state, created, wanted, size, seconds, request_id, started, ended, error, url, "
    "delivery, attempts, next_at, traceparent"
)
UNREADABLE = "the job cannot be read: it is damaged, or of another version of this program"


def readable(row: tuple[Any, ...]) -> bool:
    """Return whether a row can be read as a job by this version."""
    try:
        _read(row)
    except (msgspec.DecodeError, TypeError, ValueError):
        return False
    return True


def job_of(row: tuple[Any, ...]) -> Job:
    """Return the job of a row of `COLUMNS`, with its speech if the row includes it; a failed job if
    the row cannot be read."""
    try:
        return _read(row)
    except (msgspec.DecodeError, TypeError, ValueError):
        return Job(
            id=str(row[0]),
            owner=str(row[1]),
            state="failed",
            created=_number(row[3]),
            wanted=Wanted(SpeechRequest()),
            size=0,
            seconds=0.0,
            ended=_number(row[9]),
            error=Failure("internal", UNREADABLE),
            delivery=Delivery(str(row[11]), row[12] or "waiting") if row[11] else None,
        )


def _read(row: tuple[Any, ...]) -> Job:
    (
        job_id, owner, state, created, wanted, size, seconds, request_id, started, ended, error,
        url, delivery, attempts, next_at, traceparent, *rest,
    ) = row  # fmt: skip
    if state not in STATES:
        raise ValueError(state)
    found = Job(
        id=job_id,
        owner=owner,
        state=state,
        created=created,
        wanted=msgspec.json.decode(wanted, type=Wanted),
        size=size,
        seconds=seconds,
        request_id=request_id,
        traceparent=traceparent,
        started=started,
        ended=ended,
        speech=msgspec.json.decode(rest[0], type=Speech) if rest and rest[0] else None,
        error=msgspec.json.decode(error, type=Failure) if error else None,
        delivery=Delivery(url, delivery or "waiting", attempts, next_at or 0.0) if url else None,
    )
    # SQLite keeps whatever it is given: a number may be a text.
    msgspec.convert((created, size, seconds, started, ended), _Numbers)
    return found


_Numbers = tuple[float, int, float, float | None, float | None]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
