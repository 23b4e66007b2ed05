"""SRT and WebVTT made of words with times."""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from modelserver.speech.messages import SpeechWord
from modelserver.speech.transcript import join_words

_LONGEST_TEXT = 42
"""Columns a cue: what subtitlers take for one line. A letter of Chinese, Japanese or Korean takes
two."""
_LONGEST_S = 6.0
_PAUSE_S = 0.8
"""A silence this long begins a new cue."""


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle; times in seconds."""

    start_s: float
    end_s: float
    text: str


def cues(words: Iterable[SpeechWord]) -> Iterator[Cue]:
    """The words in cues, broken at pauses and where a line is full."""
    line: list[SpeechWord] = []
    for word in words:
        if line and _must_break(line, word):
            yield _cue(line)
            line = []
        line.append(word)
    if line:
        yield _cue(line)


def srt(words: Iterable[SpeechWord]) -> str:
    """SubRip."""
    blocks = [
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{cue.text}\n"
        for number, cue in enumerate(cues(words), start=1)
    ]
    return "\n".join(blocks)


def vtt(words: Iterable[SpeechWord]) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/)."""
    blocks = [
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{_escaped(cue.text)}\n"
        for cue in cues(words)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


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
    return Cue(line[0].start, line[-1].end, join_words(w.word for w in line))


def _clock(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
