"""The file of keys: a name and a key's hash a line. Keys themselves are stored nowhere.

A key is 32 random bytes, so that a plain SHA-256 of it cannot be guessed back.
"""

import contextlib
import fcntl
import grp
import hashlib
import hmac
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modelserver.rereading import Stamp, read_if_changed

_PREFIX = "ms-"
_SERVICE_GROUP = "modelserver"
"""Group of the unit that `make install` puts in place."""
_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._@-]{0,63})\s+sha256:(?P<hash>[0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LOOK_S = 1.0
"""Seconds between two checks whether the file has changed, at least."""
_LONGEST_KEY = 512


class KeysUnreadable(Exception):
    """The file cannot be read, or a line of it means nothing; the text says which."""


def new_key() -> str:
    """Return a new random key."""
    return _PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """Return the hash that the file holds of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(file: Path) -> dict[str, str]:
    """Names, and the hashes of their keys. Raises `KeysUnreadable`."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise KeysUnreadable(f"{file} cannot be read: {reason}") from error
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        if (found := _LINE.fullmatch(text)) is None:
            raise KeysUnreadable(
                f"{file}, line {number}: a name and sha256:HASH are expected (`modelserver keys "
                "add NAME` writes such a line)"
            )
        if found["name"] in keys:
            raise KeysUnreadable(f"{file}, line {number}: {found['name']} occurs twice")
        keys[found["name"]] = found["hash"]
    return keys


def add_key(file: Path, name: str) -> str:
    """Add a new key under `name`, and return it; the file is created if needed. Raises
    `KeysUnreadable`."""
    if not _NAME.fullmatch(name):
        raise KeysUnreadable(
            f"{name[:70]!r} is not a valid name: use up to 64 letters, digits and . _ @ -"
        )
    key = new_key()
    with _alone(file):
        keys = read_keys(file) if file.exists() else {}
        if name in keys:
            raise KeysUnreadable(f"there is a key for {name} already: remove it first")
        _replace(file, _text_of(file) + f"{name} sha256:{hash_of(key)}\n")
    return key


def remove_key(file: Path, name: str) -> bool:
    """Remove a key; returns False if none has that name. Raises `KeysUnreadable`."""
    with _alone(file):
        if name not in read_keys(file):
            return False
        rest = [
            line
            for line in _text_of(file).splitlines(keepends=True)
            if line.partition("#")[0].split()[:1] != [name]
        ]
        _replace(file, "".join(rest))
    return True


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keep other commands from changing the file meanwhile: its directory is locked, since the file
    itself is replaced. Raises `KeysUnreadable`."""
    try:
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KeysUnreadable(f"{file.parent} cannot be read: {error.strerror}") from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _text_of(file: Path) -> str:
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return text if not text or text.endswith("\n") else text + "\n"


def _replace(file: Path, text: str) -> None:
    """Replace the file in one step: readers see the old text or the new. Owner and mode stay. A new
    file that root creates belongs to the owner of its directory, or is readable by the service's
    group if that exists."""
    try:
        before = file.stat() if file.exists() else None
        descriptor, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as written:
            written.write(text)
            written.flush()
            os.fsync(written.fileno())
            if before is not None:
                os.fchmod(written.fileno(), before.st_mode & 0o777)
                if os.geteuid() == 0:
                    os.fchown(written.fileno(), before.st_uid, before.st_gid)
            elif os.geteuid() == 0 and (home := file.parent.stat()).st_uid != 0:
                os.fchown(written.fileno(), home.st_uid, home.st_gid)
            elif os.geteuid() == 0 and (group := _service_group()) is not None:
                os.fchown(written.fileno(), 0, group)
                os.fchmod(written.fileno(), 0o640)
        Path(partial).replace(file)
    except OSError as error:
        raise KeysUnreadable(f"{file} cannot be written: {error.strerror}") from error


def _service_group() -> int | None:
    try:
        return grp.getgrnam(_SERVICE_GROUP).gr_gid
    except KeyError:
        return None


@dataclass(slots=True)
class Keyring:
    """Keys of a file, read again when it has changed. If it becomes unreadable the keyring keeps
    the keys it had; `problem` says why."""

    file: Path
    problem: str | None = None
    _keys: dict[str, str] = field(default_factory=dict)
    _stamp: Stamp | None = None
    _looked_at: float = float("-inf")

    def name_of(self, key: str) -> str | None:
        """Return the name of a key; None if it is unknown. Takes as long for either."""
        self._look()
        if len(key) > _LONGEST_KEY:
            return None
        given, found = hash_of(key), None
        for name, known in self._keys.items():
            if hmac.compare_digest(given, known):
                found = name
        return found

    def hash_of(self, name: str) -> str | None:
        """Return the hash of the key of that name; None if there is none (any more)."""
        self._look()
        return self._keys.get(name)

    def read(self) -> None:
        """Read the file if it has changed. Raises `KeysUnreadable`."""
        found = read_if_changed(self.file, self._stamp, read_keys)
        if found is not None:
            self._stamp, self._keys = found

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        try:
            self.read()
        except KeysUnreadable as error:
            self.problem = str(error)
        else:
            self.problem = None
