"""From an engine's utterances to segments and words as callers get them."""

from collections.abc import Iterable

import models
from modelserver.speech.messages import SpeechAlternative, SpeechSegment, SpeechWord
from modelserver.speech.transcript import is_engine_token, reader_text


def words_of(
    utterance: models.Utterance, channel: int | None = None, from_s: float = 0.0
) -> list[SpeechWord]:
    """What people would call words; times with `from_s` added."""
    return [
        SpeechWord(
            word.text,
            round(word.start_s + from_s, 2),
            round(word.end_s + from_s, 2),
            word.confidence,
            channel,
        )
        for word in utterance.words
        if not is_engine_token(word.text)
    ]


def segment_of(
    utterance: models.Utterance,
    channel: int | None = None,
    *,
    from_s: float = 0.0,
    words: bool = False,
) -> SpeechSegment | None:
    """The utterance with its times, and with its `words` if they are wanted; None if nothing was
    said. It must have been asked for with words."""
    spoken = words_of(utterance, channel, from_s)
    if not spoken:
        return None
    return SpeechSegment(
        start=spoken[0].start,
        end=spoken[-1].end,
        text=reader_text([utterance.text]),
        channel=channel,
        words=spoken if words else [],
        alternatives=[
            SpeechAlternative(reader_text([reading.text]), round(reading.confidence, 4))
            for reading in utterance.alternatives
        ],
    )


def segment_of_words(words: list[SpeechWord]) -> SpeechSegment:
    """What they come to; at least one."""
    return SpeechSegment(
        start=words[0].start,
        end=words[-1].end,
        text=reader_text(word.word for word in words),
        words=words,
    )


def in_order(segments: Iterable[SpeechSegment]) -> list[SpeechSegment]:
    """Of time, and of channels."""
    return sorted(segments, key=lambda segment: (segment.start, segment.channel or 0))
