"""Totals of jobs on the disk: read once, then counted as they change."""

import sqlite3
from collections import Counter

_AUDIO = "iif(ended IS NULL, size, 0)"
_FINISHED = "iif(ended IS NULL, 0, length(wanted) + coalesce(length(speech), 0))"
"""Bytes that a row stands for, in SQL."""

Row = tuple[str, int, int]
"""Owner, bytes of audio and, of a finished job, bytes of its record."""


class Held:
    """Bytes of unfinished jobs' audio, and of finished ones' records."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.audio_bytes = self.finished_bytes = 0
        self._finished_of: Counter[str] = Counter()

    def read(self) -> None:
        """Count all that is there."""
        rows: list[Row] = self._db.execute(
            f"SELECT owner, sum({_AUDIO}), sum({_FINISHED}) FROM jobs GROUP BY owner"  # noqa: S608
        ).fetchall()
        self.audio_bytes = sum(audio for _, audio, _ in rows)
        self.finished_bytes = sum(finished for *_, finished in rows)
        self._finished_of = Counter({owner: finished for owner, _, finished in rows if finished})

    def of(self, job_id: str) -> Row | None:
        """Return owner, audio bytes and record bytes of one job; None where it is gone."""
        found: Row | None = self._db.execute(
            f"SELECT owner, {_AUDIO}, {_FINISHED} FROM jobs WHERE id = ?",  # noqa: S608 - our own
            (job_id,),
        ).fetchone()
        return found

    def added(self, size: int) -> None:
        """Count a new job with `size` bytes of audio."""
        self.audio_bytes += size

    def changed(self, before: Row | None, after: Row | None) -> None:
        """Count a change of a job; None stands for a job that does not exist."""
        for row, sign in ((before, -1), (after, 1)):
            if row is not None:
                owner, audio, finished = row
                self.audio_bytes += sign * audio
                self.finished_bytes += sign * finished
                self._finished_of[owner] += sign * finished
                if not self._finished_of[owner]:
                    del self._finished_of[owner]

    def largest_owner(self) -> str:
        """Return the owner whose finished jobs hold the most bytes. There must be one."""
        return self._finished_of.most_common(1)[0][0]
