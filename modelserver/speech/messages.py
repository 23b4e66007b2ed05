"""Requests to a speech worker and its answers, and the location of its model."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

import models
from modelserver.audio.formats import RawFormat
from supervisor import Target


class RecognitionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Options of recognition that files and streams share; see `models.RecognitionOptions`."""

    alternatives: int = 0
    phrases: tuple[str, ...] = ()
    profile: str = ""
    """Name of one of `models.PROFILES`; empty: the model's own."""
    language: str = ""
    """BCP 47 tag, for a model that has several."""
    keywords: tuple[str, ...] = ()
    model_keywords: int = 0
    """Number of keywords that are the model's own (`keywords_file`): they are the last ones."""
    endpoint_ms: int = 0
    max_utterance_s: float = 0.0

    def options(
        self, *, words: bool, partials: bool, partial_words: bool = False
    ) -> models.RecognitionOptions:
        """Return the options of a recogniser."""
        return models.RecognitionOptions(
            words=words,
            alternatives=self.alternatives,
            partials=partials,
            partial_words=partial_words,
            grammar=self.phrases or None,
            profile=self.profile,
            language=self.language,
            keywords=self.keywords,
            endpoint_ms=self.endpoint_ms,
            max_utterance_s=self.max_utterance_s,
        )


_OF_CLIENTS = tuple(
    name for name in RecognitionRequest.__struct_fields__ if name != "model_keywords"
)


def recognition_of(asked: object) -> dict[str, Any]:
    """Return the options of a `RecognitionRequest` that clients choose, from the attributes of
    `asked` with the same names. Its language may be None."""
    chosen = {name: getattr(asked, name) for name in _OF_CLIENTS}
    return chosen | {"language": chosen["language"] or ""}


class SpeechRequest(RecognitionRequest, frozen=True):
    """Request to transcribe a file. `channels`: "mix", "split", or numbers with commas;
    `partials`: its progress is `SpeechProgress` with what is understood so far."""

    words: bool = False
    segments: bool = False
    partials: bool = False
    longest_audio_s: float | None = None
    raw: RawFormat | None = None
    channels: str = "mix"
    words_asked_for: bool = True
    """The client has asked for `words`: it is warned of what they lack."""


class DecodeRequest(msgspec.Struct, frozen=True):
    """Request to decode a long recording, for which `asked` is wanted in the end: its samples, in
    pieces of at most `piece_s` seconds. The progress is `DecodedPiece`s, the answer `Decoded`."""

    piece_s: float
    asked: SpeechRequest


class DecodedPiece(msgspec.Struct, frozen=True):
    """See `modelserver.worker.pieces.AudioPiece`; `number`: counted over all channels; `rate`:
    samples a second; `channel`: its number, where channels are recognised one by one."""

    number: int
    start: float
    begin: float
    end: float
    paused: bool
    pcm: bytes
    rate: int
    channel: int | None = None


class Decoded(msgspec.Struct, frozen=True):
    """Answer to a `DecodeRequest` at the end of the recording. `channels`: how many are recognised
    separately; 1 if they are mixed."""

    duration_s: float
    pieces: int
    model: str
    language: str
    warnings: list[str]
    channels: int = 1


class SpeechWord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Word with its times in seconds from the start of the audio. `channel`: counted from 0, if
    each is recognised separately."""

    word: str
    start: float
    end: float
    confidence: float | None = None
    channel: int | None = None


class SpeechAlternative(msgspec.Struct, frozen=True):
    """Alternative reading of a segment; `confidence` is the engine's score, not a probability."""

    text: str
    confidence: float


class SpeechSegment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Segment between two pauses; times in seconds from the start of the audio. `alternatives`: all
    readings, best first, if requested; `language`: the detected one, if it is not the transcript's,
    or, while there is no transcript, the model's own."""

    start: float
    end: float
    text: str
    channel: int | None = None
    words: list[SpeechWord] = []
    alternatives: list[SpeechAlternative] = []
    language: str | None = None


class SpeechProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """Progress of a file. `segment`: a new final one; `partial`: the text so far of the one in
    progress; `channels`: how many are recognised separately, 1 if they are mixed."""

    done_s: float
    partial: str | None = None
    segment: SpeechSegment | None = None
    channels: int = 1

    @property
    def recognised_s(self) -> float:
        """Seconds of audio that are recognised so far: each channel counts, if they are apart."""
        return self.done_s * self.channels


OnProgress = Callable[[SpeechProgress], None]
"""Receiver of the progress of a file."""


class Speech(msgspec.Struct, frozen=True):
    """Answer of a worker. `duration_s`: the length of the audio that arrived; `language`: the
    detected one, or else the requested one or the model's own."""

    text: str
    duration_s: float
    model: str
    language: str
    words: list[SpeechWord] = []
    warnings: list[str] = []
    segments: list[SpeechSegment] = []
    """Segments in order of time, if requested or if channels are recognised separately."""
    channels: int = 1
    """Number of channels that were recognised separately; 1 if they were mixed."""

    @property
    def recognised_s(self) -> float:
        """Seconds of audio that were recognised: each channel counts, where they are apart."""
        return self.duration_s * self.channels


class StreamRequest(RecognitionRequest, frozen=True):
    """Request for a live stream of the Vosk project's protocol. Its input is raw samples (bytes),
    or one of the words below; its answers are that protocol's. `for_readers`: with texts as people
    write them."""

    sample_rate: float
    words: bool = True
    partial_words: bool = False
    for_readers: bool = False


EOF, RESET = "eof", "reset"
"""The audio is over; the utterance is over, and the next one starts from nothing."""


class CaptionRequest(RecognitionRequest, frozen=True):
    """Request for a live stream of any audio. Its input is bytes (of a container, or of samples in
    the format `raw`), or one of the words above; its answers are captions."""

    raw: RawFormat | None = None
    words: bool = False
    partials: bool = True
    channels: str = "mix"
    with_audio: bool = False
    """Answer with the audio of each utterance, too (`UtteranceAudio`): for a second pass."""


class UtteranceAudio(msgspec.Struct, frozen=True):
    """Samples (16-bit, mono), `rate` a second, that the recogniser was given; before the caption
    that they brought."""

    pcm: bytes
    rate: int


class Caption(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker's answer on such a stream: what is understood of a segment so far ("partial"), or
    what was said in it ("final"); times in seconds from the start of the stream. `finalized`: it
    was ended because the client asked for that."""

    kind: Literal["partial", "final"]
    segment: int
    text: str
    start: float
    end: float
    words: list[SpeechWord] | None = None
    alternatives: list[SpeechAlternative] | None = None
    finalized: bool = False
    language: str | None = None
    """Language as in `SpeechSegment`."""


class LastCaption(msgspec.Struct, frozen=True):
    """Last answer of a stream: seconds of audio, and number of segments."""

    duration: float
    segments: int
    warnings: list[str]


class PunctuationToUse(msgspec.Struct, frozen=True):
    """Punctuation model that a process loads. `directory`: empty where the step has nothing to do;
    `problem`: why the model that the settings name cannot be used, in words."""

    directory: str = ""
    problem: str = ""


def speech_target(
    engine: str,
    form: models.Form,
    variables: Mapping[str, str],
    *,
    warmup: str,
    profile: str,
    text_steps: tuple[str, ...],
    punctuation: PunctuationToUse,
    needs: int,
) -> Target:
    """Tells a pool to load `modelserver.worker.model` with a model of `engine` in this form, in a
    process with the `variables` of what the form requires; `needs` is what that takes, in bytes."""
    options = {
        "engine": engine,
        "directory": str(form.location.directory),
        "name": form.location.name,
        "language": form.location.language,
        "options": dict(form.load),
        # Whether what it requires may be used is found out with speech.
        "warmup": warmup if form.requirement is None else "clips" if warmup != "none" else "clip",
        "profile": profile,
        "text_steps": list(text_steps),
        "punctuation": msgspec.to_builtins(punctuation),
    }
    return Target(
        "modelserver.worker.model",
        "load",
        options,
        {**form.environment, **variables},
        huge_pages=form.huge_pages,
        needs=needs,
    )
