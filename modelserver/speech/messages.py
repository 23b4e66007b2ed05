"""What a speech worker is asked and what it answers, and where its model comes from."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

import models
from modelserver.audio.formats import RawFormat
from supervisor import Target


class SpeechRequest(msgspec.Struct, frozen=True):
    """What a worker is asked. `channels`: "mix", "split", or the numbers of some, with commas."""

    words: bool = False
    alternatives: int = 0
    longest_audio_s: float | None = None
    raw: RawFormat | None = None
    channels: str = "mix"


class SpeechWord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One word; times in seconds from the start of the audio. `channel`: where each is heard by
    itself, counted from 0."""

    word: str
    start: float
    end: float
    confidence: float | None = None
    channel: int | None = None


class SpeechSegment(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was said in one go; times in seconds from the start of the audio."""

    start: float
    end: float
    text: str
    channel: int | None = None


class Speech(msgspec.Struct, frozen=True):
    """What a worker answers. `duration_s` is the length of the audio that was there."""

    text: str
    duration_s: float
    model: str
    language: str
    words: list[SpeechWord] = []
    warnings: list[str] = []
    segments: list[SpeechSegment] = []
    """In the order of time; only where channels are heard one by one."""


class StreamRequest(msgspec.Struct, frozen=True):
    """What a worker is asked for a live stream. Its input is raw samples (bytes), or one of the
    words below; its answers are the engine's own JSON."""

    sample_rate: float
    words: bool = True
    alternatives: int = 0
    partial_words: bool = False


EOF, RESET = "eof", "reset"
"""The audio is over; the utterance is over, and the next one starts from nothing."""


def speech_target(
    location: models.ModelLocation,
    made: Mapping[str, Path],
    *,
    left_out: tuple[str, ...],
    warmup: str,
    prefetch: bool,
    environment: Mapping[str, str],
    kernels: str | None,
    needs: int,
) -> Target:
    """Tells a pool to load `modelserver.speech.model` with the model at `location`, with what a
    prepared model has `made` new in place of its own files and without the folders `left_out`, in
    a process that `environment` gives these `kernels`; `needs` is what that takes, in bytes."""
    options = {
        "directory": str(location.directory),
        "left_out": list(left_out),
        "made": {name: str(file) for name, file in made.items()},
        "name": location.name,
        "language": location.language,
        "warmup": warmup,
        "prefetch": prefetch,
        "kernels": kernels,
    }
    # What a lazily composed graph becomes is large and walked all the time; beside a mapped graph
    # the heap is small.
    lazy = not made
    return Target(
        "modelserver.speech.model", "load", options, environment, huge_pages=lazy, needs=needs
    )
