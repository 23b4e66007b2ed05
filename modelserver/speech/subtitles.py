"""SRT and WebVTT made of words with times.

Where a model gives none, the words of a segment are spread over its time.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from modelserver.speech.messages import Speech, SpeechSegment, SpeechWord
from modelserver.speech.transcript import join_words, spaced_out

_LONGEST_TEXT = 42
"""Columns a cue: what subtitlers take for one line. A letter of Chinese, Japanese or Korean takes
two."""
_LONGEST_S = 6.0
_PAUSE_S = 0.8
"""A silence this long begins a new cue."""


@dataclass(frozen=True, slots=True)
class Cue:
    """Subtitle; times in seconds. `channel`: the channel of the words, counted from 0, if channels
    are recognised separately."""

    start_s: float
    end_s: float
    text: str
    channel: int | None = None


def cues(words: Iterable[SpeechWord]) -> list[Cue]:
    """Arrange the words in cues, broken at pauses and where a line is full; each of one channel,
    and all in the order of their starts."""
    by_channel: dict[int | None, list[SpeechWord]] = {}
    for word in words:
        by_channel.setdefault(word.channel, []).append(word)
    found = [cue for spoken in by_channel.values() for cue in _cues(spoken)]
    return sorted(found, key=lambda cue: (cue.start_s, cue.channel or 0))


def _cues(words: Iterable[SpeechWord]) -> Iterator[Cue]:
    line: list[SpeechWord] = []
    for word in words:
        if line and _must_break(line, word):
            yield _cue(line)
            line = []
        line.append(word)
    if line:
        yield _cue(line)


def srt(words: Iterable[SpeechWord]) -> str:
    """SubRip; cues of several channels begin with whose they are: "[1] "."""
    blocks = [
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n"
        f"{_marked(cue, '[{}] ')}{cue.text}\n"
        for number, cue in enumerate(cues(words), start=1)
    ]
    return "\n".join(blocks)


def vtt(words: Iterable[SpeechWord]) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/); cues of several channels are voices: "<v 1>"."""
    blocks = [
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n"
        f"{_marked(cue, '<v {}>')}{_escaped(cue.text)}\n"
        for cue in cues(words)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def timed_words(speech: Speech) -> list[SpeechWord]:
    """Return the words of a transcript with their times; if the model gives no times of words,
    those of its segments, spread over the time of each."""
    return speech.words or spread_words(speech.segments)


def spread_words(segments: Iterable[SpeechSegment]) -> list[SpeechWord]:
    """Return the words of the segments, as if all letters were spoken equally fast."""
    return [word for segment in segments for word in _spread(segment)]


def _spread(segment: SpeechSegment) -> Iterator[SpeechWord]:
    words = spaced_out(segment.text).split()
    columns = sum(map(_columns, words))
    at = 0
    for word in words:
        start, at = at, at + _columns(word)
        begin, end = (
            segment.start + (segment.end - segment.start) * place / columns for place in (start, at)
        )
        yield SpeechWord(word, round(begin, 2), round(end, 2), channel=segment.channel)


def _marked(cue: Cue, mark: str) -> str:
    """Channels are counted from 1 for people who read."""
    return "" if cue.channel is None else mark.format(cue.channel + 1)


def _must_break(line: list[SpeechWord], word: SpeechWord) -> bool:
    text = join_words([*(w.word for w in line), word.word])
    return (
        word.start - line[-1].end >= _PAUSE_S
        or word.end - line[0].start > _LONGEST_S
        or _columns(text) > _LONGEST_TEXT
    )


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _cue(line: list[SpeechWord]) -> Cue:
    return Cue(line[0].start, line[-1].end, join_words(w.word for w in line), line[0].channel)


def _clock(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
