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
    """Abilities of a model among the things that a request may ask for. Nothing else tells engines
    apart."""

    streaming: bool = True
    """Results come during speech; False: the model decodes whole utterances, and
    partial results are decoded again and again."""
    words: bool = True
    """Words have times."""
    confidences: bool = True
    """Words have confidences."""
    alternatives: bool = True
    """The model gives other readings of an utterance."""
    phrases: Literal["only", "rather", "no"] = "no"
    """Phrases that a request names: nothing else is recognised, they are preferred, or neither."""
    keywords: bool = False
    """The model prefers the keywords of a request while it decodes."""
    languages: tuple[str, ...] = ()
    """BCP 47 tags of all that it recognises, which a request may choose from; empty: it has one
    language. A model that cannot be told goes by what it detects."""
    detects_language: bool = False
    """The model detects which of `languages` is spoken, and reports it."""
    written: bool = False
    """Its texts have case, punctuation and digits as people write them: text steps for numbers and
    the spacing of engine words do not apply."""
    profiles: tuple[str, ...] = (DEFAULT_PROFILE,)
    """Names out of `PROFILES` that make a difference."""
    longest_s: float | None = None
    """Seconds of audio that it decodes at once; None: any length. Recognisers cut at pauses."""


@dataclass(frozen=True, slots=True)
class RecognitionOptions:
    """What one request asks of a recogniser; every field is set for every request."""

    words: bool = False
    """Give words with times and confidences."""
    alternatives: int = 0
    """Give up to this many readings of each utterance, best first; 0: the best only."""
    partials: bool = False
    """`Recognizer.partial` will be called: an engine that decodes whole utterances decodes the one
    at hand from time to time."""
    partial_words: bool = False
    """Give the words of partial results too."""
    grammar: tuple[str, ...] | None = None
    """Recognise only these phrases."""
    profile: str = ""
    """Search width (`PROFILES`); empty: as the model was published."""
    language: str = ""
    """One of `Abilities.languages`; empty: as the model finds it, or its own."""
    keywords: tuple[str, ...] = ()
    """Words, names and short phrases that are likely to be said. Other words are recognised too."""
    endpoint_ms: int = 0
    """Silence that ends an utterance, in milliseconds; 0: the engine's own rules."""
    max_utterance_s: float = 0.0
    """Length at which an utterance is ended, in seconds; 0: the engine's own rules."""


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
    start_s: float | None = None
    """Seconds from the start of the request's audio, as `end_s`; None: those of its words."""
    end_s: float | None = None
    language: str = ""
    """BCP 47 tag of the language that the model has found; empty where it finds none."""


@dataclass(frozen=True, slots=True)
class Partial:
    """What an utterance sounds like so far; it may still change."""

    text: str
    words: tuple[Word, ...] = ()


class Recognizer(Protocol):
    """One stream of audio in, utterances out; made by `Model.recognizer`, closed when done.

    `accept` and `finish` yield between steps, so that other streams of the process have their turn
    and a long computation can be given up: some ten milliseconds of work for an engine that
    decodes as audio comes, one utterance for an engine that decodes whole ones.
    """

    def accept(self, pcm: bytes) -> Generator[None, None, list[Utterance]]:
        """Take 16-bit little-endian mono samples at the recogniser's rate.

        Returns the utterances that are final now, in order; those may end before this audio.
        """
        ...

    def partial(self) -> Partial:
        """Return the utterance at hand, so far. Costs no decoding."""
        ...

    def finish(self) -> Generator[None, None, list[Utterance]]:
        """Take the end of the audio; returns the last utterances. The next `accept` starts a new
        utterance, with times that go on."""
        ...

    def pending(self) -> bytes:
        """Return the audio since the last utterance that another recogniser has to be given to go
        on from here. It is asked for when utterances were returned: an engine that decodes as
        audio comes has none then, and need not keep any."""
        ...

    def close(self) -> None:
        """Done, finished or not. May be called twice."""
        ...


class Model(Protocol):
    """A loaded model, able to be shared by fork: one thread, no file opened after `warm`, nothing
    written by decoding that another process could miss."""

    sample_rate: int
    """Samples a second that its recognisers take."""
    chunk_bytes: int
    """How much a recogniser is best given at once; always the same gives always the same text."""
    abilities: Abilities

    def warm(self, pcm: list[bytes]) -> None:
        """Decode these clips (as `Recognizer.accept` takes them) and throw the result away. An
        engine that has a faster way of computing checks it with them first."""
        ...

    def recognizer(self, options: RecognitionOptions, rate: float | None = None) -> Recognizer:
        """Make a recogniser that has heard nothing yet, for audio of `rate` samples a second
        (the model's, where None). Raises `ModelError` for what the model cannot do."""
        ...

    def unknown_words(self, phrases: tuple[str, ...]) -> list[str]:
        """Return the words of a grammar that the model can never recognise."""
        ...

    def ignored_keywords(self, keywords: tuple[str, ...]) -> list[str]:
        """Return the keywords that the model cannot prefer, as it has no tokens for their letters
        or no room for so many."""
        ...

    def report(self) -> dict[str, Any]:
        """Describe how it was loaded, for logs and status pages: `engine`, `form`, and the engine's
        own facts below `details`."""
        ...


class ModelError(Exception):
    """A model cannot be found, read, or asked for this; `code` is stable, the text for a
    person."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
