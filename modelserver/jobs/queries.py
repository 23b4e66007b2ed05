"""Queries of the database of jobs: a job, lists, and what is due."""

import re
import sqlite3
from collections.abc import Collection, Iterable
from typing import Any

from modelserver.jobs.record import STATES, UNFINISHED, Job, State
from modelserver.jobs.rows import COLUMNS, job_of
from modelserver.refusal import Refusal

_CURSOR = re.compile(r"(?P<id>.+?)(~(?P<number>[0-9a-f]{1,15}))?", re.DOTALL)
_TIME_OF_ID = re.compile(r"-([0-9a-f]{11})[0-9a-f]{10}")


class UnknownCursor(Refusal):
    """Refusal of a cursor that is neither a job's id nor from an earlier list."""

    def __init__(self) -> None:
        super().__init__(
            "bad_parameter", "before is what next was in an earlier list, or the id of a job"
        )


class JobReadings:
    """The half of `JobStore` that changes nothing. Calls raise `sqlite3.Error`."""

    _db: sqlite3.Connection

    def get(self, job_id: str, *, speech: bool = False) -> Job | None:
        """Return a job, or None."""
        columns = f"{COLUMNS}, speech" if speech else COLUMNS
        row = self._db.execute(
            f"SELECT {columns} FROM jobs WHERE id = ?",  # noqa: S608 - words of our own
            (job_id,),
        ).fetchone()
        return None if row is None else job_of(row)

    def repeated(self, owner: str, key: str) -> tuple[str, str] | None:
        """Id and fingerprint of what was asked before."""
        found: tuple[str, str] | None = self._db.execute(
            "SELECT id, fingerprint FROM jobs WHERE owner = ? AND repeat_key = ?", (owner, key)
        ).fetchone()
        return found

    def listed(
        self, owner: str | None, state: State | None, before: str | None, limit: int
    ) -> list[Job]:
        """Return the newest jobs first, after the one that the cursor `before` names, even if that
        is deleted; `owner`: None for all. Raises `UnknownCursor`."""
        wanted: dict[str, object] = {}
        if owner is not None:
            wanted["owner = ?"] = owner
        if state is not None:
            wanted["state = ?"] = state
        if before is not None:
            wanted["number < ?"] = self._number(before)
        where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
        rows = self._db.execute(
            f"SELECT {COLUMNS} FROM jobs {where} "  # noqa: S608 - words of our own
            "ORDER BY number DESC LIMIT ?",
            (*wanted.values(), limit),
        )
        return [job_of(row) for row in rows]

    def cursor(self, job_id: str) -> str:
        """Return the cursor that `listed` takes for the jobs after this one, also once it is
        gone."""
        (number,) = self._db.execute("SELECT number FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return f"{job_id}~{number:x}"

    def _number(self, cursor: str) -> int:
        """Return the position in the list that a cursor, or an id alone, means. Raises
        `UnknownCursor`."""
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise UnknownCursor
        if found["number"]:
            return int(found["number"], 16)
        row = self._db.execute("SELECT number FROM jobs WHERE id = ?", (cursor,)).fetchone()
        if row is None:  # it is gone: its id says when it came
            came = _TIME_OF_ID.search(cursor)
            if came is None:
                raise UnknownCursor
            row = self._db.execute(
                "SELECT coalesce(max(number), 0) + 1 FROM jobs WHERE created < ?",
                ((int(came[1], 16) + 1) / 1000,),
            ).fetchone()
        return int(row[0])

    def unfinished(self) -> list[Job]:
        """Return the unfinished jobs in the order in which they arrived."""
        return [job_of(row) for row in self._unfinished_rows()]

    def _unfinished_rows(self) -> Iterable[tuple[Any, ...]]:
        return self._db.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE state IN (?, ?) "  # noqa: S608 - words of our own
            "ORDER BY number",
            UNFINISHED,
        )

    def counts(self) -> dict[State, int]:
        """Return how many jobs are in each state."""
        found = dict(self._db.execute("SELECT state, count(*) FROM jobs GROUP BY state"))
        return {state: found.get(state, 0) for state in STATES}

    def oldest_over(self, limit: int, owner: str | None = None) -> list[tuple[str, float]]:
        """Ids of those that have been over the longest, of all or of one owner, and when they
        ended; the message of none of them is still to be delivered."""
        of_owner, values = ("AND owner = ? ", (owner,)) if owner is not None else ("", ())
        return list(
            self._db.execute(
                "SELECT id, ended FROM jobs WHERE ended IS NOT NULL "  # noqa: S608 - our own
                f"AND delivery IS NOT 'waiting' {of_owner}ORDER BY ended LIMIT ?",
                (*values, limit),
            )
        )

    def due(
        self, now: float, limit: int, without: Collection[str] = ()
    ) -> tuple[list[str], float | None]:
        """Ids of those whose message is due, but for those to hosts `without` (of `host_of`), and
        when the next will be."""
        marks = ", ".join("?" * len(without))
        due = self._db.execute(
            "SELECT id FROM jobs WHERE delivery = 'waiting' AND next_at <= ? "  # noqa: S608
            f"AND host_of(url) NOT IN ({marks}) ORDER BY next_at LIMIT ?",
            (now, *without, limit),
        )
        ids = [row[0] for row in due]
        (later,) = self._db.execute(
            "SELECT min(next_at) FROM jobs WHERE delivery = 'waiting' AND next_at > ?", (now,)
        ).fetchone()
        return ids, later
