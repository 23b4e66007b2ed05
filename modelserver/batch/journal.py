"""The journal of a batch, from which an interrupted batch resumes.

A file of JSON lines, each written before anything depends on it. A recording that has changed
since, or that is asked for with other parameters, is transcribed again.
"""

import os
import secrets
from pathlib import Path
from typing import IO

import msgspec

from modelserver.batch.files import STDIN
from modelserver.batch.remote import is_url, stamp

_NOT_UTF8 = "\0"
"""Mark that no file name contains."""


class JournalUnusable(Exception):
    """The journal cannot be read or written; the text says why."""


class _Line(msgspec.Struct, omit_defaults=True):
    """The state of one file: its last line holds.

    `stamp`: of its content; `asked`: of the parameters; `key`: the idempotency key of its job;
    `job`: the id of its job on a server.
    """

    file: str
    stamp: str
    asked: str
    key: str
    job: str | None = None
    done: bool = False


class Note:
    """The journal's entry of one file."""

    def __init__(self, journal: "Journal | None", line: _Line) -> None:
        self._journal, self._line = journal, line

    @property
    def key(self) -> str:
        """Idempotency key of all requests for the file."""
        return self._line.key

    @property
    def job(self) -> str | None:
        """Id of the job on a server; None if none is known."""
        return self._line.job

    def sent(self, job: str | None) -> None:
        """Record the job's id, or None if the server lost it. Raises `JournalUnusable`."""
        self._write(msgspec.structs.replace(self._line, job=job))

    def done(self) -> None:
        """Record that the transcript is written. Raises `JournalUnusable`."""
        self._write(msgspec.structs.replace(self._line, done=True))

    def _write(self, line: _Line) -> None:
        self._line = line
        if self._journal is not None:
            self._journal.write(line)


class Journal:
    """Entries of all files, stored in a file; use as `with`."""

    def __init__(self, file: Path | None, asked: str) -> None:
        """Open the journal in `file`, or one in memory for None. `asked`: the parameters that make
        a transcript another one. Raises `JournalUnusable`."""
        self._asked = asked
        self._path = file
        self._lines: dict[str, _Line] = {}
        self._file: IO[bytes] | None = None
        if file is None:
            return
        try:
            self._lines = dict(_read(file))
            self._file = file.open("ab")
        except OSError as error:
            raise JournalUnusable(f"{file}: {error.strerror}") from error

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def note(self, file: str, stamp: str | None = None) -> Note:
        """Return the file's entry: the one from before if nothing has changed. `stamp`: `stamp_of`
        the file, if that is known already."""
        stamp = stamp_of(file) if stamp is None else stamp
        before = self._lines.get(file)
        if before is not None and (before.stamp, before.asked) == (stamp, self._asked):
            return Note(self, before)
        line = _Line(file, stamp, self._asked, secrets.token_hex(16))
        note = Note(self if file != STDIN else None, line)
        note.sent(None)
        return note

    def is_done(self, file: str, stamp: str | None = None) -> bool:
        """Return whether the file's transcript is written and up to date."""
        before = self._lines.get(file)
        if before is None or not before.done or before.asked != self._asked:
            return False
        return before.stamp == (stamp_of(file) if stamp is None else stamp)

    def forget(self) -> None:
        """Delete the journal once all is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def write(self, line: _Line) -> None:
        """Write a line to the disk. Raises `JournalUnusable`."""
        if self._file is None:
            return
        written = msgspec.structs.replace(line, file=_as_unicode(line.file))
        try:
            self._file.write(msgspec.json.encode(written) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise JournalUnusable(f"{self._path}: {error.strerror}") from error


def _read(file: Path) -> list[tuple[str, _Line]]:
    if not file.exists():
        return []
    found: list[tuple[str, _Line]] = []
    for text in file.read_bytes().splitlines():
        try:
            line = msgspec.json.decode(text, type=_Line)
            name = _as_name(line.file)
        except (msgspec.DecodeError, ValueError):
            if not found and text:
                raise JournalUnusable(f"{file} is not a journal of this command") from None
            continue  # cut off in the middle
        found.append((name, msgspec.structs.replace(line, file=name)))
    return found


def _as_unicode(name: str) -> str:
    """Return a file's name as JSON can hold it: in hexadecimal digits if it is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return _NOT_UTF8 + os.fsencode(name).hex()
    return name


def _as_name(written: str) -> str:
    if not written.startswith(_NOT_UTF8):
        return written
    return os.fsdecode(bytes.fromhex(written.removeprefix(_NOT_UTF8)))


def stamp_of(file: str) -> str:
    """Return what changes with a file's content, without reading it; empty if that is unknown.
    Blocks."""
    if is_url(file):
        return stamp(file)
    try:
        status = Path(file).stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
