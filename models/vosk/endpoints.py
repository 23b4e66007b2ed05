"""Vosk recogniser whose utterances end as a request asks.

The engine finds the end of an utterance by rules that its model was published with, and leaves it
to its caller to end one. Here its answer is one of several reasons. Each utterance starts from the
initial state, and all lengths are counted in audio: results depend neither on how audio arrives,
nor on the worker.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Protocol

from models.contract import Alternative, Partial, RecognitionOptions, Recognizer, Utterance, Word
from models.vosk.silence import FRAME_S, Silence

_PIECE = 10
"""Frames that the engine is given at once."""
_RULES = 25
"""Frames of silence after which the engine may find an end: 0.5 s."""
_BEHIND = 50
"""Frames that the engine is behind the audio at most, with a margin."""
_OWN_LONGEST = 1000
"""Frames (20 s) after which the engine finds an end all the time."""
_GAP_S, _NEW_S = 0.4, 1.0
"""Seconds of a gap before a word, and of the word's age, by which a word belongs to the next
utterance: the engine ended the present one before it had decoded the word."""
_TRUNCATED_S = 0.1
"""Seconds before the end of the audio within which a word may be incomplete."""
_MOST_AGAIN_S = 5.0
"""Seconds of audio that are decoded once more when an utterance is cut because of its length."""
_LEAST = 5
"""Frames that an utterance has at least."""

_Cut = Callable[[tuple[Word, ...], float], float]
"""Function from the words of an utterance and its length to the time at which it is cut; seconds
from its start."""


class EngineRecognizer(Recognizer, Protocol):
    """Recogniser that can be given audio without ending an utterance."""

    def give(self, pcm: bytes) -> Generator[None, None, bool]:
        """Process samples; return whether the engine finds that the utterance has ended."""
        ...


class EndpointRecognizer:
    """Implements `models.contract.Recognizer` over one that gives words."""

    def __init__(self, inner: EngineRecognizer, rate: float, options: RecognitionOptions) -> None:
        """Wrap a recogniser; `rate`: samples per second that `inner` takes."""
        self._inner, self._rate = inner, rate
        self._words = options.words
        self._pause = _frames(options.endpoint_ms / 1000)
        self._longest = _frames(options.max_utterance_s) or _OWN_LONGEST
        self._frame_bytes = 2 * max(1, round(rate * FRAME_S))
        self._rest = b""
        """Audio that is less than a frame."""
        self._start = self._again = 0
        """Bytes before the utterance, and the number of those that the engine was given twice."""
        self._begin()

    def _begin(self) -> None:
        self._audio = bytearray()
        self._given = 0
        self._silence = Silence()
        self._text: str | None = None
        self._since = 0
        """Frame since which the engine's text has been `_text`."""

    def accept(self, pcm: bytes) -> Generator[None, None, list[Utterance]]:
        """Process samples; one step is 0.2 s of them."""
        data, at = self._rest + pcm, 0
        said: list[Utterance] = []
        while at + self._frame_bytes <= len(data):
            frame = data[at : at + self._frame_bytes]
            at += self._frame_bytes
            self._audio += frame
            self._silence.push(frame)
            if not self._is_due():
                continue
            ended = yield from self._give()
            yield
            if self._is_too_long():
                utterances, again = yield from self._end(self._cut_for_length)
            elif self._paused():
                utterances, again = yield from self._end(_whole)
            elif ended and self._engine_is_right():
                utterances, again = yield from self._end(self._cut_for_new_word)
            else:
                continue
            said += utterances
            if again:
                data, at = again + data[at:], 0
        self._rest = data[at:]
        return said

    def partial(self) -> Partial:
        """See `models.Recognizer`."""
        found = self._inner.partial()
        return Partial(found.text, self._in_time(found.words))

    def finish(self) -> Generator[None, None, list[Utterance]]:
        """See `models.Recognizer`."""
        self._audio += self._rest[: len(self._rest) // 2 * 2]
        self._rest = b""
        yield from self._give()
        utterances, _ = yield from self._end(_whole)
        return utterances

    def pending(self) -> bytes:
        """See `models.Recognizer`."""
        return bytes(self._audio) + self._rest

    def close(self) -> None:
        """See `models.Recognizer`."""
        self._inner.close()

    @property
    def _length(self) -> int:
        """Number of frames of the utterance."""
        return len(self._audio) // self._frame_bytes

    def _is_due(self) -> bool:
        return (
            self._silence.sounding == self._longest
            or len(self._audio) - self._given >= _PIECE * self._frame_bytes
            or (self._silence.quiet == self._pause > 0 and self._silence.has_speech)
        )

    def _give(self) -> Generator[None, None, bool]:
        pcm = bytes(self._audio[self._given :])
        self._given = len(self._audio)
        ended = (yield from self._inner.give(pcm)) if pcm else False
        text = self._inner.partial().text if ended or self._pause > _BEHIND else None
        if text is None or text != self._text:
            self._text, self._since = text, self._length
        return ended

    # --- reasons to end an utterance ------------------------------------------------------------

    def _is_too_long(self) -> bool:
        """Return whether the utterance has its greatest length. Silence at its beginning does not
        count: it would end in the first word."""
        most = self._longest + _OWN_LONGEST
        return self._silence.sounding >= self._longest or self._length >= most

    def _paused(self) -> bool:
        """Return whether the audio is quiet, and the engine finds no new words."""
        return (
            self._silence.has_speech
            and self._silence.quiet >= self._pause > 0
            and self._length - self._since >= self._pause - _BEHIND
        )

    def _engine_is_right(self) -> bool:
        """Return whether the engine finds silence, or noise, for long enough."""
        if not self._text:
            return True
        unchanged = self._length - self._since
        if self._length < _OWN_LONGEST:
            return unchanged >= self._pause or self._pause <= _RULES
        pause = max(self._pause, _RULES)
        return self._silence.quiet >= pause or unchanged >= pause + _RULES

    # --- where it ends --------------------------------------------------------------------------

    def _cut_for_length(self, words: tuple[Word, ...], end_s: float) -> float:
        """Return the middle of the longest gap between words, of those in the last part."""
        first_s = end_s - min(self._longest * FRAME_S / 2, _MOST_AGAIN_S)
        nexts = [*(word.start_s for word in words), end_s][1:]
        gaps = [
            (round(until - word.end_s, 2), word.end_s, until)
            for word, until in zip(words, nexts, strict=False)
            if first_s <= word.end_s < end_s - _TRUNCATED_S
        ]
        if not gaps:
            return words[-1].start_s if words and words[-1].start_s >= first_s else end_s
        gap_s, begin, until = max(gaps)
        if until < end_s:
            return (begin + until) / 2
        return end_s if gap_s >= _GAP_S else begin + min(gap_s / 2, _TRUNCATED_S / 2)

    def _cut_for_new_word(self, words: tuple[Word, ...], end_s: float) -> float:
        """Return the middle of the gap before a word that has just begun."""
        ends = [0.0, *(word.end_s for word in words)]
        for before, word in zip(ends, words, strict=False):
            if word.start_s - before >= _GAP_S and word.start_s >= end_s - _NEW_S:
                return (before + word.start_s) / 2
        return end_s

    def _end(self, cut: _Cut) -> Generator[None, None, tuple[list[Utterance], bytes]]:
        """End the utterance; return it, and the audio that does not belong to it."""
        found = yield from self._inner.finish()
        said = [_with_words(utterance, self._in_time) for utterance in found]
        start_s, frame_s = self._start / 2 / self._rate, self._frame_bytes / 2 / self._rate
        words = tuple(word for utterance in said for word in utterance.words)
        cut_s = cut(_moved(words, -start_s), round(self._length * frame_s, 3))
        at = int(round(cut_s / frame_s, 2))
        again = b""
        if _LEAST <= at < self._length:
            again = bytes(self._audio[at * self._frame_bytes :])
            said = [_until(utterance, start_s + cut_s) for utterance in said]
        self._start += len(self._audio) - len(again)
        self._again += len(again)
        self._begin()
        if not self._words:
            said = [_with_words(utterance, lambda words: ()) for utterance in said]
        return said, again

    # --- results --------------------------------------------------------------------------------

    def _in_time(self, words: tuple[Word, ...]) -> tuple[Word, ...]:
        """Return the words with the times of the audio: the engine counts some of it twice."""
        return _moved(words, -self._again / 2 / self._rate)


def _frames(seconds: float) -> int:
    return math.ceil(round(seconds / FRAME_S, 3))


def _whole(words: tuple[Word, ...], end_s: float) -> float:
    """Cut nothing off."""
    return end_s


def _moved(words: tuple[Word, ...], by_s: float) -> tuple[Word, ...]:
    return tuple(
        replace(word, start_s=round(word.start_s + by_s, 6), end_s=round(word.end_s + by_s, 6))
        for word in words
    )


def _until(utterance: Utterance, cut_s: float) -> Utterance:
    """Return the words before `cut_s`, and their text."""

    def before(words: tuple[Word, ...]) -> tuple[Word, ...]:
        return tuple(word for word in words if (word.start_s + word.end_s) / 2 < cut_s)

    cut = _with_words(utterance, before)
    # Readings that differed only after the cut are merged.
    readings: dict[str, Alternative] = {}
    for one in cut.alternatives:
        text = _text(one.words)
        readings.setdefault(text, replace(one, text=text))
    return replace(cut, text=_text(cut.words), alternatives=tuple(readings.values()))


def _text(words: tuple[Word, ...]) -> str:
    return " ".join(word.text for word in words)


def _with_words(
    utterance: Utterance, change: Callable[[tuple[Word, ...]], tuple[Word, ...]]
) -> Utterance:
    """Return the utterance with the words of all of its readings changed."""
    return replace(
        utterance,
        words=change(utterance.words),
        alternatives=tuple(replace(one, words=change(one.words)) for one in utterance.alternatives),
    )
