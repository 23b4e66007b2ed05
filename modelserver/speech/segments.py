"""Conversion of an engine's utterances to segments and words for callers."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

import models
from modelserver.speech.languages import primary_language
from modelserver.speech.messages import SpeechAlternative, SpeechSegment, SpeechWord
from modelserver.speech.transcript import is_engine_token, join_texts, reader_text


def words_of(utterance: models.Utterance, channel: int | None = None) -> list[SpeechWord]:
    """Return what people would call words."""
    return [
        SpeechWord(
            word.text, round(word.start_s, 2), round(word.end_s, 2), word.confidence, channel
        )
        for word in utterance.words
        if not is_engine_token(word.text)
    ]


@dataclass(frozen=True, slots=True)
class SegmentMaker:
    """Makes segments of one model's utterances. `written`: see `models.Abilities`; `language`: the
    model's own."""

    written: bool
    language: str

    def text(self, texts: Iterable[str]) -> str:
        """Return the texts of utterances as one for readers."""
        return reader_text(texts, written=self.written)

    def segment(
        self, utterance: models.Utterance, channel: int | None = None, *, words: bool = False
    ) -> SpeechSegment | None:
        """Return the utterance with its times, and with its `words` if they are wanted; None if
        nothing was said. It must have been asked for with words, which its times are taken of."""
        spoken = words_of(utterance, channel)
        text = self.text([utterance.text])
        if not spoken and not text:
            return None
        start_s, end_s = utterance.start_s or 0.0, utterance.end_s or utterance.start_s or 0.0
        return SpeechSegment(
            start=spoken[0].start if spoken else round(start_s, 2),
            end=spoken[-1].end if spoken else round(end_s, 2),
            text=text,
            channel=channel,
            words=spoken if words else [],
            alternatives=[
                SpeechAlternative(self.text([reading.text]), round(reading.confidence, 4))
                for reading in utterance.alternatives
            ],
            language=self._other_language(utterance.language),
        )

    def _other_language(self, language: str) -> str | None:
        if not language or primary_language(language) == primary_language(self.language):
            return None
        return language


def segment_of_words(words: list[SpeechWord], language: str | None = None) -> SpeechSegment:
    """Return the segment that the words (at least one) make up."""
    return SpeechSegment(
        start=words[0].start,
        end=words[-1].end,
        text=join_texts(word.word for word in words),
        words=words,
        language=language,
    )


def in_order(segments: Iterable[SpeechSegment]) -> list[SpeechSegment]:
    """Return the segments in order of time, then of channel."""
    return sorted(segments, key=lambda segment: (segment.start, segment.channel or 0))


def in_transcript(
    segments: Iterable[SpeechSegment], language: str, otherwise: str
) -> list[SpeechSegment]:
    """Return the segments, each with its language where that is not the transcript's `language`;
    `otherwise`: the language of those that name none."""
    return [
        msgspec.structs.replace(segment, language=None if own == language else own)
        for segment in segments
        for own in [segment.language or otherwise]
    ]


def main_language(spoken: Iterable[tuple[str | None, str]], otherwise: str) -> str:
    """Return the language of most of the text, of pairs of a language and a text in it;
    `otherwise` where the language of a text was not detected."""
    letters: Counter[str] = Counter()
    for language, text in spoken:
        letters[language or otherwise] += len(text)
    return max(letters, key=letters.__getitem__) if letters.total() else otherwise
