"""The outcome of one file, and how its transcript is written."""

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modelserver.batch.engine import Engine
from modelserver.batch.errors import NotTranscribed
from modelserver.batch.journal import Note
from modelserver.speech.messages import Speech
from modelserver.speech.subtitles import srt, timed_words, vtt


@dataclass(frozen=True, slots=True)
class Outcome:
    """A file's transcript, or why there is none."""

    file: str
    speech: Speech | None = None
    error: str | None = None


async def outcome_of(
    engine: Engine, file: str, expected_s: float, note: Note, moved: Callable[[float], None]
) -> Outcome:
    """Transcribe one file. Raises `EngineUnusable` where no other could be transcribed either."""
    try:
        return Outcome(file, await engine.transcribe(file, expected_s, note, moved))
    except NotTranscribed as error:
        return Outcome(file, error=str(error))
    except OSError as error:
        return Outcome(file, error=error.strerror or str(error))


class _Document(msgspec.Struct):
    file: str
    speech: Speech


def readable(name: str) -> str:
    """Return a file's name as text; bytes of it that are not UTF-8 are written like `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _as_json(outcome: Outcome) -> str:
    assert outcome.speech is not None
    return msgspec.json.encode(_Document(readable(outcome.file), outcome.speech)).decode() + "\n"


WRITERS: dict[str, Callable[[Outcome], str]] = {
    "text": lambda outcome: f"{outcome.speech.text}\n" if outcome.speech else "",
    "json": _as_json,
    "srt": lambda outcome: srt(timed_words(outcome.speech)) if outcome.speech else "",
    "vtt": lambda outcome: vtt(timed_words(outcome.speech)) if outcome.speech else "",
}


def write_whole(target: Path, text: str) -> None:
    """Write a file so that it is complete whenever it is found. Raises `OSError`.

    A target that is not a plain file (a pipe), or whose directory is not writable, is written in
    place.
    """
    target = target.resolve()  # a link stays one
    if target.exists() and not (target.is_file() and os.access(target.parent, os.W_OK)):
        target.write_text(text, encoding="utf-8")
        return
    partial = target.with_name(f".modelserver-{zlib.crc32(os.fsencode(target.name)):08x}")
    try:
        partial.write_text(text, encoding="utf-8")
        if target.exists():
            partial.chmod(target.stat().st_mode & 0o777)
        partial.replace(target)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


SUFFIX = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
