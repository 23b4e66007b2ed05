"""The database of jobs as a file: its tables, its versions, its lock, and where it may not be."""

import fcntl
import os
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger("jobs")

VERSION = 2
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
CREATE INDEX IF NOT EXISTS by_owner ON jobs (owner, number);
CREATE INDEX IF NOT EXISTS by_owner_and_state ON jobs (owner, state, number);
CREATE INDEX IF NOT EXISTS by_end ON jobs (ended) WHERE ended IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_owner_and_end ON jobs (owner, ended) WHERE ended IS NOT NULL;
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
_NETWORK = {"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "nfs", "nfs4", "smb3"}


class InUse(Exception):
    """Failure to open a directory that another server uses."""


class Damaged(Exception):
    """The database cannot be used as it is; the text says why."""


def lock(directory: Path) -> int:
    """Take the directory; returns the descriptor that holds it. Raises `InUse` or `OSError`."""
    held = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        raise InUse(
            f"another server uses {directory}: give this one another jobs.directory"
        ) from error
    except BaseException:
        os.close(held)
        raise
    return held


def open_database(file: Path) -> sqlite3.Connection:
    """Open the database, with its tables. Raises `sqlite3.Error`."""
    db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    try:
        file.chmod(0o600)
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")  # a commit survives a loss of power
        db.execute("PRAGMA journal_size_limit = 4194304")
        db.execute("PRAGMA cache_size = -256")
        db.create_function("host_of", 1, host_of, deterministic=True)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 1:  # before jobs knew the trace that they are a part of
            db.executescript(_FROM_1)
        elif version not in (0, VERSION):
            raise sqlite3.DatabaseError(of_another_version(version))
        db.executescript(_SCHEMA)
        db.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def version_of(file: Path) -> int:
    """Return the version of a database that another server may be using. Raises `sqlite3.Error`."""
    db = sqlite3.connect(file)
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        return int(version)
    finally:
        db.close()


def of_another_version(version: int) -> str:
    """Return the reason why a database of another version is not used."""
    return f"it is of another version of this program ({version})"


def host_of(url: str | None) -> str:
    """Host and port of a URL, as one text; empty for what is not a URL."""
    try:
        return urlsplit(url or "").netloc.lower()
    except ValueError:
        return ""


def filesystem_of(directory: Path) -> str:
    """Return the kind of file system that a directory is on, by the kernel's name."""
    found, path = "", directory.resolve()
    for mount in sorted(psutil.disk_partitions(all=True), key=lambda one: len(one.mountpoint)):
        if path.is_relative_to(mount.mountpoint):
            found = mount.fstype
    return found


def warn_of_network(directory: Path) -> None:
    """Log where jobs are stored on another machine's disk: SQLite's write-ahead log needs memory
    that all its users share, and locks that hold (sqlite.org/wal.html)."""
    if (kind := filesystem_of(directory)) in _NETWORK:
        log.warning(
            "jobs.network_directory_detected",
            directory=str(directory),
            filesystem=kind,
            consequence="a second server may not notice this one, and the database may be damaged: "
            "set jobs.directory to a local disk",
        )
