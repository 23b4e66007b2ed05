"""Engine contract: a model that is loaded once, and recognisers that turn PCM into words."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

PROFILES = ("fast", "balanced", "accurate")
"""Names of search widths, from the narrowest; the second one is the model as published."""

DEFAULT_PROFILE = "balanced"


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Directory of a model that is not read yet. `language` is a BCP 47 tag."""

    name: str
    directory: Path
    language: str


@dataclass(frozen=True, slots=True)
class Abilities:
    """Abilities of a model, among those that a request may ask for. Nothing else distinguishes
    engines."""

    streaming: bool = True
    """True if results come during speech; False if the model decodes whole utterances, and decodes
    the present one again for each partial result."""
    words: bool = True
    """True if words have times."""
    confidences: bool = True
    """True if words have confidences."""
    alternatives: bool = True
    """True if the model gives other readings of an utterance."""
    phrases: Literal["only", "rather", "no"] = "no"
    """Use of phrases that a request names: recognition is restricted to them, they are preferred,
    or neither."""
    keywords: bool = False
    """True if the model prefers the keywords of a request while it decodes."""
    languages: tuple[str, ...] = ()
    """BCP 47 tags of the languages that a request may choose from; empty: the model has one
    language. A model without a choice of languages uses the one that it detects."""
    detects_language: bool = False
    """True if the model detects which of `languages` is spoken, and reports it."""
    written: bool = False
    """True if its texts have case, punctuation and digits as people write them: text steps for
    numbers and the spacing of engine words do not apply."""
    profiles: tuple[str, ...] = (DEFAULT_PROFILE,)
    """Names in `PROFILES` that make a difference."""
    longest_s: float | None = None
    """Seconds of audio that it decodes at once; None: any length. Recognisers cut at pauses."""


@dataclass(frozen=True, slots=True)
class RecognitionOptions:
    """Options of one request for a recogniser; every field is set for every request."""

    words: bool = False
    """True for words with times and confidences."""
    alternatives: int = 0
    """Number of readings to give of each utterance, best first; 0: the best only."""
    partials: bool = False
    """True if `Recognizer.partial` will be called: an engine that decodes whole utterances decodes
    the present one from time to time."""
    partial_words: bool = False
    """True for words of partial results, too."""
    grammar: tuple[str, ...] | None = None
    """Phrases to which recognition is restricted."""
    profile: str = ""
    """Search width (`PROFILES`); empty: as the model was published."""
    language: str = ""
    """Language out of `Abilities.languages`; empty: detected, or the model's own."""
    keywords: tuple[str, ...] = ()
    """Words, names and short phrases that are likely to be said. Other words are recognised too."""
    endpoint_ms: int = 0
    """Silence that ends an utterance, in milliseconds; 0: the engine's own rules."""
    max_utterance_s: float = 0.0
    """Length at which an utterance is ended, in seconds; 0: the engine's own rules."""


@dataclass(frozen=True, slots=True)
class Word:
    """Word; times in seconds from the start of the request's audio."""

    text: str
    start_s: float
    end_s: float
    confidence: float | None
    """Confidence from 0 to 1; None if the engine gives none (words of alternatives)."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """Reading of an utterance; `confidence` is the engine's score, not a probability."""

    text: str
    confidence: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Utterance:
    """A final result: what was said up to an endpoint. `words` only where asked for."""

    text: str
    words: tuple[Word, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    start_s: float | None = None
    """Seconds from the start of the request's audio, as `end_s`; None: those of its words."""
    end_s: float | None = None
    language: str = ""
    """BCP 47 tag of the language that the model has found; empty where it finds none."""


@dataclass(frozen=True, slots=True)
class Partial:
    """Unfinished utterance, as recognised so far; it may still change."""

    text: str
    words: tuple[Word, ...] = ()


class Recognizer(Protocol):
    """Recogniser of one stream of audio; made by `Model.recognizer`, closed when done.

    `accept` and `finish` yield between steps, so that other streams of the process have their turn
    and a long computation can be abandoned: some ten milliseconds of work for an engine that
    decodes as audio comes, one utterance for an engine that decodes whole ones.
    """

    def accept(self, pcm: bytes) -> Generator[None, None, list[Utterance]]:
        """Process 16-bit little-endian mono samples at the recogniser's rate.

        Return the utterances that are final now, in order; those may end before this audio.
        """
        ...

    def partial(self) -> Partial:
        """Return the unfinished utterance. Costs no decoding."""
        ...

    def finish(self) -> Generator[None, None, list[Utterance]]:
        """Process the end of the audio; return the last utterances. The next `accept` starts a new
        utterance; its times continue."""
        ...

    def pending(self) -> bytes:
        """Return the audio since the last utterance, from which another recogniser could continue.
        Called when utterances were returned: an engine that decodes as audio comes has none then,
        and need not retain any."""
        ...

    def close(self) -> None:
        """Release the recogniser, finished or not. May be called twice."""
        ...


class Model(Protocol):
    """Loaded model that can be shared by fork: one thread, no file opened after `warm`, and no
    state written by decoding that another process could miss."""

    sample_rate: int
    """Samples per second that its recognisers take."""
    chunk_bytes: int
    """Bytes that a recogniser should be given at once; the same size always gives the same text."""
    abilities: Abilities

    def warm(self, pcm: list[bytes]) -> None:
        """Decode these clips (as `Recognizer.accept` takes them) and discard the result. An engine
        with a faster way of computing checks it with them first."""
        ...

    def recognizer(self, options: RecognitionOptions, rate: float | None = None) -> Recognizer:
        """Make a recogniser in its initial state, for audio of `rate` samples per second (None: the
        model's). Raises `ModelError` for options that the model does not support."""
        ...

    def unknown_words(self, phrases: tuple[str, ...]) -> list[str]:
        """Return the words of a grammar that the model can never recognise."""
        ...

    def ignored_keywords(self, keywords: tuple[str, ...]) -> list[str]:
        """Return the keywords that the model cannot prefer, because it has no tokens for their
        letters or because they are too many."""
        ...

    def report(self) -> dict[str, Any]:
        """Describe how it was loaded, for logs and status pages: `engine`, `form`, and the engine's
        own facts below `details`."""
        ...


class ModelError(Exception):
    """Failure to find, read or use a model. `code` is stable; the text is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
