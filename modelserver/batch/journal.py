"""What a batch has done, as it does it: one that was stopped goes on where it was.

A file of JSON lines, each written before anything depends on it. A file that has changed since, or
that is asked for otherwise, is transcribed anew.
"""

import os
import secrets
from pathlib import Path
from typing import IO

import msgspec

from modelserver.batch.files import STDIN
from modelserver.batch.remote import is_url, stamp

_NOT_UTF8 = "\0"
"""Which no name has in it."""


class JournalUnusable(Exception):
    """It cannot be read or written; the text says why."""


class _Line(msgspec.Struct, omit_defaults=True):
    """The latest of a file holds. `stamp`: of its content; `asked`: of how it is to be heard and
    written; `key`: what the request is known by, wherever it was sent; `job`: its id there."""

    file: str
    stamp: str
    asked: str
    key: str
    job: str | None = None
    done: bool = False


class Note:
    """Of one file."""

    def __init__(self, journal: "Journal | None", line: _Line) -> None:
        self._journal, self._line = journal, line

    @property
    def key(self) -> str:
        """Of all requests for it."""
        return self._line.key

    @property
    def job(self) -> str | None:
        """Its id where it was sent; None if it was not, as far as is known."""
        return self._line.job

    def sent(self, job: str | None) -> None:
        """As what; None: it is not there any more. Raises `JournalUnusable`."""
        self._write(msgspec.structs.replace(self._line, job=job))

    def done(self) -> None:
        """Its transcript is written. Raises `JournalUnusable`."""
        self._write(msgspec.structs.replace(self._line, done=True))

    def _write(self, line: _Line) -> None:
        self._line = line
        if self._journal is not None:
            self._journal.write(line)


class Journal:
    """Use as `with`."""

    def __init__(self, file: Path | None, asked: str) -> None:
        """`file`: None for none that is kept. `asked`: what else makes a transcript another one.
        Raises `JournalUnusable`."""
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
        """Of that file, from before if it is the same still. `stamp`: `stamp_of` it, if that is
        known already."""
        stamp = stamp_of(file) if stamp is None else stamp
        before = self._lines.get(file)
        if before is not None and (before.stamp, before.asked) == (stamp, self._asked):
            return Note(self, before)
        line = _Line(file, stamp, self._asked, secrets.token_hex(16))
        note = Note(self if file != STDIN else None, line)
        note.sent(None)
        return note

    def is_done(self, file: str, stamp: str | None = None) -> bool:
        """Nothing is left to do for it."""
        before = self._lines.get(file)
        if before is None or not before.done or before.asked != self._asked:
            return False
        return before.stamp == (stamp_of(file) if stamp is None else stamp)

    def forget(self) -> None:
        """All is done: it is of no use any more."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def write(self, line: _Line) -> None:
        """On the disk when this returns."""
        if self._file is None:
            return
        kept = msgspec.structs.replace(line, file=_as_unicode(line.file))
        try:
            self._file.write(msgspec.json.encode(kept) + b"\n")
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
                raise JournalUnusable(f"{file} is no journal of this command") from None
            continue  # cut off in the middle
        found.append((name, msgspec.structs.replace(line, file=name)))
    return found


def _as_unicode(name: str) -> str:
    """A file's name as JSON can hold it: in hexadecimal digits where it is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return _NOT_UTF8 + os.fsencode(name).hex()
    return name


def _as_name(kept: str) -> str:
    if not kept.startswith(_NOT_UTF8):
        return kept
    return os.fsdecode(bytes.fromhex(kept.removeprefix(_NOT_UTF8)))


def stamp_of(file: str) -> str:
    """Of what is in it, without reading it; empty where there is none, or it cannot be told.
    Blocks."""
    if is_url(file):
        return stamp(file)
    try:
        status = Path(file).stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
