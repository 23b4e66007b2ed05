"""Keywords of a model, from a file that is read again when it has changed.

One keyword a line, in UTF-8; `#` begins a comment. The file is read in a thread: requests take the
words that were read last, and never wait for a disk.
"""

import asyncio
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec.structs
import structlog

from modelserver.rereading import Stamp, read_if_changed
from modelserver.speech.messages import RecognitionRequest
from modelserver.speech.phrases import BadText, must_be_few, one_text

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

_MOST_FILE_BYTES = 1024 * 1024
"""Size of the file, with its comments."""

_Request = TypeVar("_Request", bound=RecognitionRequest)


class KeywordsUnreadable(Exception):
    """The file cannot be read, or a line of it is not a keyword; the text says which."""


def read_keywords(file: Path) -> tuple[str, ...]:
    """Return the keywords of a file, each once. Raises `KeywordsUnreadable`."""
    try:
        # A pipe without a writer would be waited for.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as reader:
            if not stat.S_ISREG(os.fstat(reader.fileno()).st_mode):
                raise KeywordsUnreadable(f"{file} is not a file")
            content = reader.read(_MOST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise KeywordsUnreadable(f"{file} cannot be read: {reason}") from error
    if len(content) > _MOST_FILE_BYTES:
        raise KeywordsUnreadable(f"{file} is larger than {_MOST_FILE_BYTES} bytes")
    keywords: dict[str, None] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            keywords[one_text(line.partition(b"#")[0].decode())] = None
        except UnicodeDecodeError:
            raise KeywordsUnreadable(f"{file}, line {number}: not UTF-8") from None
        except BadText as error:
            raise KeywordsUnreadable(f"{file}, line {number}: {error}") from None
    keywords.pop("", None)
    try:
        must_be_few(keywords)
    except BadText as error:
        raise KeywordsUnreadable(f"{file}: {error}") from None
    return tuple(keywords)


@dataclass(slots=True)
class KeywordsFile:
    """The keywords of a model. A file that has become unreadable leaves them as they were."""

    name: str
    """Path of the file; empty: there is none."""
    words: tuple[str, ...] = ()
    _stamp: Stamp | None = None
    _problem: str | None = None

    def renamed(self, name: str) -> "KeywordsFile":
        """Return the keywords of the file `name`, none of them read yet; these, if it is this."""
        return self if name == self.name else KeywordsFile(name)

    async def look(self, label: str) -> None:
        """Read the file if it has changed; what is wrong with it is logged once. `label`: the
        model's, for the log: a file may be that of several."""
        if not self.name:
            return
        try:
            found = await asyncio.to_thread(
                read_if_changed, Path(self.name), self._stamp, read_keywords
            )
        except KeywordsUnreadable as error:
            if str(error) != self._problem:
                self._problem = str(error)
                log.error(
                    "keywords.rejected", label=label, reason=self._problem, keywords=len(self.words)
                )
            return
        if found is not None or self._problem is not None:
            self._problem = None
            if found is not None:
                self._stamp, self.words = found
            log.info("keywords.read", label=label, file=self.name, keywords=len(self.words))

    def added_to(self, request: _Request) -> _Request:
        """Return a request that has the model's keywords behind its own."""
        if not self.words:
            return request
        given = set(request.keywords)
        words = tuple(word for word in self.words if word not in given) if given else self.words
        return msgspec.structs.replace(
            request, keywords=request.keywords + words, model_keywords=len(words)
        )
