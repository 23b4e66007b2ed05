"""Where jobs are kept: an SQLite database (with a write-ahead log) and a directory of audio files.

What is told to be kept is on the disk when the call returns, so that neither a kill nor a loss of
power takes it back. Everything here waits for the disk, and belongs into a thread of its own.
"""

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from modelserver.jobs.record import (
    STATES,
    UNFINISHED,
    Delivery,
    Failure,
    Job,
    Repeat,
    State,
    Wanted,
)
from modelserver.speech.joining import HeardPiece
from modelserver.speech.messages import Speech
from supervisor import SpoolFull

_VERSION = 2
_SUFFIX = ".audio"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    wanted BLOB NOT NULL,
    size INTEGER NOT NULL,
    seconds REAL NOT NULL,
    request_id TEXT NOT NULL,
    pieces_of TEXT,
    speech BLOB,
    error BLOB,
    repeat_key TEXT,
    fingerprint TEXT,
    url TEXT,
    delivery TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at REAL,
    traceparent TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX IF NOT EXISTS by_repeat ON jobs (owner, repeat_key)
    WHERE repeat_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, number);
CREATE INDEX IF NOT EXISTS by_delivery ON jobs (next_at) WHERE delivery = 'waiting';
CREATE TABLE IF NOT EXISTS pieces (
    job TEXT NOT NULL,
    number INTEGER NOT NULL,
    heard BLOB NOT NULL,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
"""
_FROM_1 = """
BEGIN;
ALTER TABLE jobs ADD COLUMN traceparent TEXT NOT NULL DEFAULT '';
PRAGMA user_version = 2;
COMMIT;
"""
_COLUMNS = (
    "id, owner, state, created, wanted, size, seconds, request_id, started, ended, error, url, "
    "delivery, attempts, next_at, traceparent"
)


class InUse(Exception):
    """Another server has this directory."""


class Damaged(Exception):
    """The database cannot be used as it is; the text says why."""


class JobStore:
    """All of it. Calls raise `sqlite3.Error` where the disk does not let them, and `SpoolFull`
    where it is full."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory, and takes it. Raises `InUse`, `Damaged` or `OSError`."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._lock = _locked(directory / "lock")
            try:
                self._db = _opened(directory / "jobs.db")
                self._path = directory
                self._tidy()
            except sqlite3.DatabaseError as error:
                os.close(self._lock)
                raise Damaged(f"{directory / 'jobs.db'}: {error}") from error
        except BaseException:
            os.close(self.directory)
            raise

    def close(self) -> None:
        """Let another have it."""
        self._db.close()
        os.close(self._lock)
        os.close(self.directory)

    def audio(self, job_id: str) -> Path:
        """Where its audio is, while it is needed."""
        return self._path / (job_id + _SUFFIX)

    # --- changes --------------------------------------------------------------------------------

    def add(self, job: Job, repeat: Repeat | None) -> None:
        """One whose audio is there. Raises `sqlite3.IntegrityError` where that was asked before."""
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

    def begins(self, job_id: str, now: float) -> None:
        """It is worked on."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET state = 'running', started = coalesce(started, ?) "
                "WHERE id = ? AND state IN ('waiting', 'running')",
                (now, job_id),
            )

    def waits(self, job_id: str) -> None:
        """It is not worked on any more, and is not over."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET state = 'waiting' WHERE id = ? AND state = 'running'", (job_id,)
            )

    def begin_pieces(self, job_id: str, pieces_of: str) -> dict[int, HeardPiece]:
        """What is known of it, if it was cut and heard in the same way (`pieces_of`)."""
        row = self._db.execute("SELECT pieces_of FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is not None and row[0] == pieces_of:
            found = self._db.execute("SELECT number, heard FROM pieces WHERE job = ?", (job_id,))
            return {n: msgspec.json.decode(heard, type=HeardPiece) for n, heard in found}
        with self._change() as db:
            db.execute("DELETE FROM pieces WHERE job = ?", (job_id,))
            db.execute("UPDATE jobs SET pieces_of = ? WHERE id = ?", (pieces_of, job_id))
        return {}

    def keep_piece(self, job_id: str, number: int, heard: HeardPiece) -> None:
        """What was understood of one."""
        with self._change() as db:
            db.execute(
                "INSERT OR REPLACE INTO pieces SELECT id, ?, ? FROM jobs WHERE id = ?",
                (number, msgspec.json.encode(heard), job_id),
            )

    def ends(self, job_id: str, now: float, speech: Speech | None, error: Failure | None) -> bool:
        """It is over; False where it was already, or is not there any more."""
        with self._change() as db:
            changed = db.execute(
                "UPDATE jobs SET state = ?, ended = ?, speech = ?, error = ?, "
                "seconds = coalesce(?, seconds), "
                "delivery = iif(url IS NULL, NULL, 'waiting'), next_at = ? "
                "WHERE id = ? AND state IN ('waiting', 'running')",
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
        self._unlink(job_id)
        return changed > 0

    def remove(self, job_ids: Iterable[str]) -> None:
        """Forget them."""
        gone = list(job_ids)
        with self._change() as db:
            for job_id in gone:
                db.execute("DELETE FROM pieces WHERE job = ?", (job_id,))
                db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        for job_id in gone:
            self._unlink(job_id)
        self._db.execute("PRAGMA incremental_vacuum")

    def attempt(self, job_id: str, next_at: float) -> Delivery | None:
        """Its message is about to be sent; the next time, if that is needed, is `next_at`. None
        where it is not to be sent any more."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET attempts = attempts + 1, next_at = ? "
                "WHERE id = ? AND delivery = 'waiting'",
                (next_at, job_id),
            )
        job = self.get(job_id)
        delivery = job.delivery if job else None
        return delivery if delivery and delivery.state == "waiting" else None

    def move(self, seconds: float, now: float) -> None:
        """The clock was set by so much: all that has happened, and what is due, is so by the new
        time."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET created = min(created + :by, :now), "
                "started = min(started + :by, :now), ended = min(ended + :by, :now), "
                "next_at = next_at + :by",
                {"by": seconds, "now": now},
            )

    def delivered(self, job_id: str, *, given_up: bool) -> None:
        """Its message needs no attempt any more."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET delivery = ?, next_at = NULL WHERE id = ?",
                ("given_up" if given_up else "delivered", job_id),
            )

    # --- readings -------------------------------------------------------------------------------

    def get(self, job_id: str, *, speech: bool = False) -> Job | None:
        """One of them."""
        columns = f"{_COLUMNS}, speech" if speech else _COLUMNS
        row = self._db.execute(
            f"SELECT {columns} FROM jobs WHERE id = ?",  # noqa: S608 - words of our own
            (job_id,),
        ).fetchone()
        return None if row is None else _job(row)

    def repeated(self, owner: str, key: str) -> tuple[str, str] | None:
        """Id and fingerprint of what was asked before."""
        found: tuple[str, str] | None = self._db.execute(
            "SELECT id, fingerprint FROM jobs WHERE owner = ? AND repeat_key = ?", (owner, key)
        ).fetchone()
        return found

    def listed(
        self, owner: str | None, state: State | None, before: str | None, limit: int
    ) -> list[Job]:
        """The newest first, from the one `before`; `owner`: None for all."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM jobs "  # noqa: S608 - words of our own
            "WHERE (?1 IS NULL OR owner = ?1) AND (?2 IS NULL OR state = ?2) AND "
            "(?3 IS NULL OR number < (SELECT number FROM jobs WHERE id = ?3)) "
            "ORDER BY number DESC LIMIT ?4",
            (owner, state, before, limit),
        )
        return [_job(row) for row in rows]

    def unfinished(self) -> list[Job]:
        """In the order in which they came."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM jobs WHERE state IN (?, ?) "  # noqa: S608 - words of our own
            "ORDER BY number",
            UNFINISHED,
        )
        return [_job(row) for row in rows]

    def counts(self) -> dict[State, int]:
        """How many there are in each state."""
        found = dict(self._db.execute("SELECT state, count(*) FROM jobs GROUP BY state"))
        return {state: found.get(state, 0) for state in STATES}

    def held_bytes(self) -> int:
        """By all of them: their audio while it is needed, and their transcripts."""
        (held,) = self._db.execute(
            "SELECT sum(iif(state IN ('waiting', 'running'), size, 0) + length(wanted) "
            "+ coalesce(length(speech), 0)) FROM jobs"
        ).fetchone()
        return held or 0

    def oldest_over(self, limit: int) -> list[tuple[str, float]]:
        """Ids of those that have been over the longest, and when they ended; the message of none
        of them is still to be delivered."""
        return list(
            self._db.execute(
                "SELECT id, ended FROM jobs WHERE state IN ('done', 'failed') "
                "AND delivery IS NOT 'waiting' ORDER BY ended LIMIT ?",
                (limit,),
            )
        )

    def due(self, now: float, limit: int) -> tuple[list[str], float | None]:
        """Ids of those whose message is due, and when the next will be."""
        due = self._db.execute(
            "SELECT id FROM jobs WHERE delivery = 'waiting' AND next_at <= ? "
            "ORDER BY next_at LIMIT ?",
            (now, limit),
        )
        ids = [row[0] for row in due]
        (later,) = self._db.execute(
            "SELECT min(next_at) FROM jobs WHERE delivery = 'waiting' AND next_at > ?", (now,)
        ).fetchone()
        return ids, later

    # --- inside ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises `SpoolFull`."""
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise SpoolFull("no space left to keep jobs") from error
            raise

    def _tidy(self) -> None:
        """What a server that was killed has left: audio that no job needs, and jobs that were being
        worked on."""
        with self._change() as db:
            db.execute("UPDATE jobs SET state = 'waiting' WHERE state = 'running'")
        needed = {job.id + _SUFFIX for job in self.unfinished()}
        for file in self._path.glob(f"*{_SUFFIX}"):
            if file.name not in needed:
                file.unlink(missing_ok=True)

    def _unlink(self, job_id: str) -> None:
        with contextlib.suppress(OSError):
            self.audio(job_id).unlink(missing_ok=True)


def directory_problem(directory: Path) -> str | None:
    """Say why jobs cannot be kept there; None if they can, once a server that uses the directory
    now has released it. Waits for the disk."""
    try:
        JobStore(directory).close()
    except Damaged as error:
        return str(error)
    except OSError as error:
        return f"{directory}: {error.strerror}"
    except InUse:
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            return f"{directory}: {os.strerror(errno.EACCES)}"
        try:
            with contextlib.closing(sqlite3.connect(directory / "jobs.db")) as db:
                (version,) = db.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            return f"{directory / 'jobs.db'}: {error}"
        if version > _VERSION:
            return f"{directory / 'jobs.db'}: {_of_another_version(version)}"
    return None


def _of_another_version(version: int) -> str:
    return f"it is of another version of this program ({version})"


def _locked(file: Path) -> int:
    lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise InUse(f"another server uses {file.parent} (jobs.directory)") from error
    return lock


def _opened(file: Path) -> sqlite3.Connection:
    """The database, with its tables. Raises `sqlite3.Error`."""
    db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    try:
        file.chmod(0o600)
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")  # a commit survives a loss of power
        db.execute("PRAGMA journal_size_limit = 4194304")
        db.execute("PRAGMA cache_size = -256")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 1:  # before jobs knew the trace that they are a part of
            db.executescript(_FROM_1)
        elif version not in (0, _VERSION):
            raise sqlite3.DatabaseError(_of_another_version(version))
        db.executescript(_SCHEMA)
        db.execute(f"PRAGMA user_version = {_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _job(row: tuple[Any, ...]) -> Job:
    (
        job_id, owner, state, created, wanted, size, seconds, request_id, started, ended, error,
        url, delivery, attempts, next_at, traceparent, *rest,
    ) = row  # fmt: skip
    return Job(
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
