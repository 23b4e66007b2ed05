"""What jobs hold on the disk: read once, and counted as it changes."""

import sqlite3
from collections import Counter

_AUDIO = "iif(ended IS NULL, size, 0)"
_KEPT = "iif(ended IS NULL, 0, length(wanted) + coalesce(length(speech), 0))"
"""Bytes that a row stands for, in SQL."""

Row = tuple[str, int, int]
"""Owner, bytes of audio and bytes kept of a finished job."""


class Held:
    """Bytes of unfinished jobs' audio, and of what is kept of finished ones."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.audio_bytes = self.kept_bytes = 0
        self._kept_of: Counter[str] = Counter()

    def read(self) -> None:
        """Count all that is there."""
        rows: list[Row] = self._db.execute(
            f"SELECT owner, sum({_AUDIO}), sum({_KEPT}) FROM jobs GROUP BY owner"  # noqa: S608
        ).fetchall()
        self.audio_bytes = sum(audio for _, audio, _ in rows)
        self.kept_bytes = sum(kept for *_, kept in rows)
        self._kept_of = Counter({owner: kept for owner, _, kept in rows if kept})

    def of(self, job_id: str) -> Row | None:
        """Return owner, audio bytes and kept bytes of one job; None where it is gone."""
        found: Row | None = self._db.execute(
            f"SELECT owner, {_AUDIO}, {_KEPT} FROM jobs WHERE id = ?",  # noqa: S608 - our own
            (job_id,),
        ).fetchone()
        return found

    def added(self, size: int) -> None:
        """A job has come, with so many bytes of audio."""
        self.audio_bytes += size

    def changed(self, before: Row | None, after: Row | None) -> None:
        """A job has become another; None where it was not there, or is gone."""
        for row, sign in ((before, -1), (after, 1)):
            if row is not None:
                owner, audio, kept = row
                self.audio_bytes += sign * audio
                self.kept_bytes += sign * kept
                self._kept_of[owner] += sign * kept
                if not self._kept_of[owner]:
                    del self._kept_of[owner]

    def largest_owner(self) -> str:
        """The owner whose finished jobs hold the most. There must be one."""
        return self._kept_of.most_common(1)[0][0]
