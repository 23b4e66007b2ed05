"""The interface of what transcribes files for a command."""

from collections.abc import Callable
from typing import Protocol

from modelserver.batch.journal import Note
from modelserver.speech.messages import Speech


class Engine(Protocol):
    """Transcribes files, inside `async with`. Raises `EngineUnusable` on entry (`batch.errors`)."""

    at_once: int
    """Number of files that may be given to it at once."""

    async def __aenter__(self) -> "Engine": ...

    async def __aexit__(self, *exception: object) -> None: ...

    async def transcribe(
        self, file: str, expected_s: float, note: Note, moved: Callable[[float], None]
    ) -> Speech:
        """Transcribe a file; `moved` is called with the seconds of it that are done.

        Raises `NotTranscribed`, `OSError`, or `EngineUnusable` where no other file could be
        transcribed either.
        """
        ...

    async def delivered(self, note: Note) -> None:
        """Release what is held for a file, once its transcript is written."""
        return  # most engines hold nothing

    def summary(self) -> str:
        """Return which machines did how much, for the last line; empty if there is only one."""
        return ""
