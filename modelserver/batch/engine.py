"""What transcribes: an engine gets a file and its note in the journal, and gives what was said."""

from collections.abc import Callable
from typing import Protocol

from modelserver.batch.journal import Note
from modelserver.speech.messages import Speech


class Engine(Protocol):
    """Use as `async with`. Raises `EngineUnusable` on entry (`batch.errors`)."""

    at_once: int
    """How many files it can be given at once."""

    async def __aenter__(self) -> "Engine": ...

    async def __aexit__(self, *exception: object) -> None: ...

    async def transcribe(
        self, file: str, expected_s: float, note: Note, moved: Callable[[float], None]
    ) -> Speech:
        """`moved` hears how many seconds of it are done. Raises `NotTranscribed`, `OSError`, or
        `EngineUnusable` where no other file could be transcribed either."""
        ...

    async def delivered(self, note: Note) -> None:
        """Its transcript is where it belongs."""
        ...

    def summary(self) -> str:
        """Who has done how much, for a last line; empty where that goes without saying."""
        ...
