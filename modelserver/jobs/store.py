"""The store of jobs: an SQLite database (with a write-ahead log) and a directory of audio files.

What a call stores is on the disk when it returns, so that neither a kill nor a loss of
power takes it back. Everything here waits for the disk, and belongs into a thread of its own.
"""

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import structlog

from modelserver.jobs.queries import JobReadings, UnknownCursor
from modelserver.jobs.record import Delivery, Failure, Job, Repeat
from modelserver.jobs.rows import COLUMNS, UNREADABLE, readable
from modelserver.jobs.schema import (
    VERSION,
    Damaged,
    InUse,
    lock,
    of_another_version,
    open_database,
    version_of,
    warn_of_network,
)
from modelserver.jobs.totals import Held
from modelserver.speech.joining import RecognisedPiece
from modelserver.speech.messages import Speech
from supervisor import SpoolFull

__all__ = ["Damaged", "InUse", "JobStore", "UnknownCursor", "why_unusable"]

log: structlog.stdlib.BoundLogger = structlog.get_logger("jobs")

_SUFFIX = ".audio"
_FORGOTTEN_AT_ONCE = 20
_PAGES_AT_ONCE = 16384
"""Pages of the database that are returned to the disk at once: some 64 MiB."""


class JobStore(JobReadings):
    """Store of all jobs. Methods raise `sqlite3.Error` if the disk fails, and `SpoolFull` if it is
    full."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory, and takes it. Raises `InUse`, `Damaged` or `OSError`."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:  # given back where anything of this fails
            self.directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, self.directory)
            held.callback(os.close, lock(directory))
            try:
                self._db = open_database(directory / "jobs.db")
                held.callback(self._db.close)
                self._path = directory
                self._held = Held(self._db)
                self._tidy()
            except sqlite3.DatabaseError as error:
                raise Damaged(f"{directory / 'jobs.db'}: {error}") from error
            self._open = held.pop_all()
        warn_of_network(directory)

    def close(self) -> None:
        """Let another have it."""
        self._open.close()

    def audio(self, job_id: str) -> Path:
        """Return the path of a job's audio."""
        return self._path / (job_id + _SUFFIX)

    # --- changes --------------------------------------------------------------------------------

    def add(self, job: Job, repeat: Repeat | None) -> None:
        """Add a job whose audio is there. Raises `sqlite3.IntegrityError` for a repeated
        request."""
        delivery = job.delivery
        with self._change() as db:
            db.execute(
                "INSERT INTO jobs (id, owner, state, created, wanted, size, seconds, request_id, "
                "repeat_key, fingerprint, url, traceparent) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job.id,
                    job.owner,
                    job.state,
                    job.created,
                    msgspec.json.encode(job.wanted),
                    job.size,
                    job.seconds,
                    job.request_id,
                    repeat.key if repeat else None,
                    repeat.fingerprint if repeat else None,
                    delivery.url if delivery else None,
                    job.traceparent,
                ),
            )
        self._held.added(job.size)

    def begins(self, job_id: str, now: float) -> None:
        """Note that a job is worked on."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET state = 'running', started = coalesce(started, ?) "
                "WHERE id = ? AND state IN ('waiting', 'running')",
                (now, job_id),
            )

    def waits(self, job_id: str) -> None:
        """Note that a job waits again."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET state = 'waiting' WHERE id = ? AND state = 'running'", (job_id,)
            )

    def begin_pieces(self, job_id: str, pieces_of: str) -> dict[int, RecognisedPiece]:
        """Return the stored pieces of a job if it was cut and recognised in the same way
        (`pieces_of`); delete them otherwise."""
        row = self._db.execute("SELECT pieces_of FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is not None and row[0] == pieces_of:
            found = self._db.execute("SELECT number, heard FROM pieces WHERE job = ?", (job_id,))
            with contextlib.suppress(msgspec.DecodeError):  # another version's
                return {
                    n: msgspec.json.decode(recognised, type=RecognisedPiece)
                    for n, recognised in found
                }
        with self._change() as db:
            db.execute("DELETE FROM pieces WHERE job = ?", (job_id,))
            db.execute("UPDATE jobs SET pieces_of = ? WHERE id = ?", (pieces_of, job_id))
        return {}

    def keep_piece(self, job_id: str, number: int, recognised: RecognisedPiece) -> None:
        """Keep the transcript of a piece."""
        with self._change() as db:
            db.execute(
                "INSERT OR REPLACE INTO pieces SELECT id, ?, ? FROM jobs WHERE id = ?",
                (number, msgspec.json.encode(recognised), job_id),
            )

    def ends(self, job_id: str, now: float, speech: Speech | None, error: Failure | None) -> bool:
        """Note the end of a job; False where it has ended already, or is gone."""
        before = self._held.of(job_id)
        with self._change() as db:
            changed = db.execute(
                "UPDATE jobs SET state = ?, ended = ?, speech = ?, error = ?, "
                "seconds = coalesce(?, seconds), "
                "delivery = iif(url IS NULL, NULL, 'waiting'), next_at = ? "
                "WHERE id = ? AND ended IS NULL",
                (
                    "done" if speech else "failed",
                    now,
                    msgspec.json.encode(speech) if speech else None,
                    msgspec.json.encode(error) if error else None,
                    speech.duration_s if speech else None,
                    now,
                    job_id,
                ),
            ).rowcount
            db.execute("DELETE FROM pieces WHERE job = ?", (job_id,))
        self._held.changed(before, self._held.of(job_id))
        self._unlink(job_id)
        return changed > 0

    def remove(self, job_ids: Iterable[str]) -> None:
        """Delete jobs, with their audio and results."""
        gone = list(job_ids)
        held = [self._held.of(job_id) for job_id in gone]
        with self._change() as db:
            for job_id in gone:
                db.execute("DELETE FROM pieces WHERE job = ?", (job_id,))
                db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        for job_id, before in zip(gone, held, strict=True):
            self._held.changed(before, None)
            self._unlink(job_id)
        self.shrink()

    def forget(self, now: float, keep_s: float, most_bytes: int) -> tuple[int, bool, float]:
        """Forget some of those that ended more than `keep_s` ago; or, where finished jobs hold more
        than `most_bytes`, the oldest of the owner who holds the most. Returns how many, whether
        the database can become smaller, and in how many seconds the next will be too old."""
        over = self.oldest_over(_FORGOTTEN_AT_ONCE)
        gone = [job_id for job_id, ended in over if ended < now - keep_s]
        if not gone and self._held.finished_bytes > most_bytes:
            most = self.oldest_over(_FORGOTTEN_AT_ONCE, self.largest_owner())
            gone = [job_id for job_id, _ in most]
        if gone:
            self.remove(gone)
        next_s = over[0][1] + keep_s - now if over else keep_s
        return len(gone), self.shrink(), max(0.0, next_s)

    def shrink(self) -> bool:
        """Give some free pages of the database back to the disk; True if there are more."""
        before = self._free_pages()
        # Only a script runs the pragma to its end: a statement frees one page.
        self._db.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
        if (left := self._free_pages()) < before:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return 0 < left < before

    def _free_pages(self) -> int:
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return int(free)

    def attempt(self, job_id: str, next_at: float) -> Delivery | None:
        """Count an attempt to deliver the job's message; `next_at`: when the next one is due if
        this one fails. Return None if there is nothing more to send."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET attempts = attempts + 1, next_at = ? "
                "WHERE id = ? AND delivery = 'waiting'",
                (next_at, job_id),
            )
        job = self.get(job_id)
        delivery = job.delivery if job else None
        return delivery if delivery and delivery.state == "waiting" else None

    def attempt_at(self, job_id: str, next_at: float) -> None:
        """Note when a job's message is to be sent again."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET next_at = ? WHERE id = ? AND delivery = 'waiting'",
                (next_at, job_id),
            )

    def move(self, seconds: float, now: float) -> None:
        """Shift all times of jobs by `seconds`, by which the clock was set."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET created = min(created + :by, :now), "
                "started = min(started + :by, :now), ended = min(ended + :by, :now), "
                "next_at = next_at + :by",
                {"by": seconds, "now": now},
            )

    def delivered(self, job_id: str, *, given_up: bool) -> None:
        """Note that a job's message needs no further attempt."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET delivery = ?, next_at = NULL WHERE id = ?",
                ("given_up" if given_up else "delivered", job_id),
            )

    # --- what is held ---------------------------------------------------------------------------

    def held_bytes(self) -> int:
        """Return the bytes of all jobs: audio while it is needed, and transcripts."""
        return self._held.audio_bytes + self._held.finished_bytes

    def finished_bytes(self) -> int:
        """Return the bytes of the jobs that are over."""
        return self._held.finished_bytes

    def largest_owner(self) -> str:
        """Return the owner whose finished jobs hold the most bytes. There must be one."""
        return self._held.largest_owner()

    # --- inside ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """Run one transaction. Raises `SpoolFull`."""
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise SpoolFull("no space left to keep jobs") from error
            raise

    def _tidy(self) -> None:
        """Clean up after a server that was killed: delete audio that no job needs, queue jobs again
        that were running, and fail jobs that cannot be read."""
        with self._change() as db:
            db.execute("UPDATE jobs SET state = 'waiting' WHERE state = 'running'")
            lost = db.execute(
                f"SELECT {COLUMNS} FROM jobs WHERE ended IS NULL"  # noqa: S608 - our own
            ).fetchall()
        for row in lost:
            if not readable(row):
                log.error("job.read_failed", job=row[0])
                self.ends(row[0], time.time(), None, Failure("internal", UNREADABLE))
        self._held.read()
        needed = {row[0] + _SUFFIX for row in self._unfinished_rows()}
        for file in self._path.glob(f"*{_SUFFIX}"):
            if file.name not in needed:
                file.unlink(missing_ok=True)

    def _unlink(self, job_id: str) -> None:
        with contextlib.suppress(OSError):
            self.audio(job_id).unlink(missing_ok=True)


def why_unusable(directory: Path) -> str | None:
    """Explain why jobs cannot be stored there; None if they can, once a server that uses the
    directory now has released it. Waits for the disk."""
    try:
        JobStore(directory).close()
    except (Damaged, SpoolFull) as error:
        return str(error)
    except OSError as error:
        return f"{directory}: {error.strerror}"
    except InUse:
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            return f"{directory}: {os.strerror(errno.EACCES)}"
        file = directory / "jobs.db"
        try:
            version = version_of(file)
        except sqlite3.Error as error:
            return f"{file}: {error}"
        return f"{file}: {of_another_version(version)}" if version > VERSION else None
    return None
