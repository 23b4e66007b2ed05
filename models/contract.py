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
    """A model's directory, not yet read. `language` is a BCP 47 tag."""

    name: str
    directory: Path
    language: str


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model can do of what a request may ask. Nothing else tells engines apart."""

    streaming: bool = True
    """Results come while somebody speaks; False: the model hears whole stretches of speech, and
    partial results are decoded again and again."""
    words: bool = True
    """Words have times."""
    confidences: bool = True
    """Words have confidences."""
    alternatives: bool = True
    """It gives other readings of an utterance."""
    phrases: Literal["only", "rather", "no"] = "no"
    """Phrases that a request names: nothing else is recognised, they are preferred, or neither."""
    languages: tuple[str, ...] = ()
    """BCP 47 tags that a request may choose from; empty: the model has one language."""
    detects_language: bool = False
    """It finds out which of `languages` is spoken, and says so."""
    written: bool = False
    """Its texts have case, punctuation and digits as people write them: text steps for numbers and
    the spacing of engine words do not apply."""
    profiles: tuple[str, ...] = (DEFAULT_PROFILE,)
    """Those of `PROFILES` that make a difference."""
    longest_s: float | None = None
    """Seconds of audio that it decodes at once; None: any length. Recognisers cut at pauses."""


@dataclass(frozen=True, slots=True)
class RecognitionOptions:
    """What one request asks of a recogniser; every field is set for every request."""

    words: bool = False
    """Give words with times and confidences."""
    alternatives: int = 0
    """Give up to this many readings of each utterance, best first; 0: the best only."""
    partial_words: bool = False
    """Give the words of partial results too."""
    grammar: tuple[str, ...] | None = None
    """Recognise only these phrases."""
    profile: str = ""
    """Search width (`PROFILES`); empty: as the model was published."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word; times in seconds from the start of the request's audio."""

    text: str
    start_s: float
    end_s: float
    confidence: float | None
    """0 to 1; None where the engine gives none (words of alternatives)."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One reading of an utterance; `confidence` is the engine's score, not a probability."""

    text: str
    confidence: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Utterance:
    """A final result: what was said up to an endpoint. `words` only where asked for."""

    text: str
    words: tuple[Word, ...] = ()
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Partial:
    """What an utterance sounds like so far; it may still change."""

    text: str
    words: tuple[Word, ...] = ()


class Recognizer(Protocol):
    """One stream of audio in, utterances out; made by `Model.recognizer`, closed when done."""

    def accept(self, pcm: bytes) -> Utterance | None:
        """Take 16-bit little-endian mono samples at the model's rate.

        Returns an utterance where an endpoint was found, else None.
        """
        ...

    def partial(self) -> Partial:
        """The utterance at hand, so far."""
        ...

    def finish(self) -> Utterance:
        """End of audio: the last utterance, whose text may be empty."""
        ...

    def close(self) -> None:
        """Done, finished or not. May be called twice."""
        ...


class LiveRecognizer(Protocol):
    """A recogniser for a live stream, whose answers are the engine's own JSON, unchanged: what the
    clients of its own server expect to the byte."""

    def accept(self, pcm: bytes) -> Generator[None, None, bool]:
        """Take 16-bit little-endian mono samples at the rate that it was made for, in steps.
        Returns whether an endpoint was found."""
        ...

    def result(self) -> str:
        """The utterance that the endpoint ended."""
        ...

    def partial(self) -> str:
        """The utterance at hand, so far."""
        ...

    def final(self) -> str:
        """The utterance at hand, ended now; the next one starts from nothing."""
        ...


class Model(Protocol):
    """A loaded model, able to be shared by fork."""

    sample_rate: int
    """Samples a second that its recognisers take."""
    has_profiles: bool
    """It can search more or less widely than it was published to."""
    chunk_bytes: int
    """How much a recogniser is best given at once; always the same gives always the same text."""

    def warm(self, pcm: list[bytes]) -> None:
        """Decode these clips (as `Recognizer.accept` takes them) and throw the result away."""
        ...

    def check_simd(self, pcm: list[bytes]) -> bool:
        """Decode the clips without the SIMD library and with it, and do without it from now on if
        a text differs. Returns False if the library is not in this process."""
        ...

    def recognizer(self, options: RecognitionOptions) -> Recognizer:
        """A recogniser that has heard nothing yet. Raises `ModelError` for what the model cannot
        do."""
        ...

    def live(self, sample_rate: float, options: RecognitionOptions) -> LiveRecognizer:
        """A recogniser for a stream of that rate, which the engine resamples itself. Raises
        `ModelError` as `recognizer` does."""
        ...

    def unknown_words(self, phrases: tuple[str, ...]) -> list[str]:
        """Those of a grammar's words that it can never recognise."""
        ...

    def report(self) -> dict[str, Any]:
        """How it was loaded, for logs and status pages."""
        ...


class ModelError(Exception):
    """A model cannot be found, read, or asked for this; `code` is stable, the text for a
    person."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
