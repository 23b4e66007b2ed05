"""Conditioning of audio for recognition: a moderate level, and near-silence before and after it.

Models are trained on speech that has a beginning and an end, and on levels at which people record.
The effect was measured (docs/decisions.md). It is part of the profile "accurate".
"""

import array
import functools
import math
import random
import sys
from collections.abc import Generator

import models
from modelserver.worker.times import retimed, retimed_words

FRONT_S, END_S = 0.3, 0.5
_LOUD = 0.1 * 32_768
"""The root mean square of a loud quarter of a second, at a moderate level (-20 dBFS)."""
_HISS = 4
"""Amplitude of the noise of near-silence: no room is as silent as zeros."""


class ConditionedRecognizer:
    """A recogniser (`models.Recognizer`) whose audio is conditioned; times are those of the audio
    as it came."""

    def __init__(self, inner: models.Recognizer, rate: int, chunk_bytes: int) -> None:
        self._inner, self._rate, self._chunk_bytes = inner, rate, chunk_bytes
        self._pending = bytearray()
        self._level = Level()
        self._begun = False
        self._came = b""
        """Audio as it came that `pending` may have to return."""
        self._added_s = 0.0
        """Seconds of near-silence before the current utterance."""
        self._came_s = self._from_s = 0.0
        """Seconds of audio: in total, and before the current utterance."""

    def accept(self, pcm: bytes) -> Generator[None, None, list[models.Utterance]]:
        """See `models.Recognizer`."""
        if not pcm:
            return []
        self._begin()
        self._came_s += len(pcm) / 2 / self._rate
        self._pending += self._level.moderate(pcm)
        size = len(self._pending) // self._chunk_bytes * self._chunk_bytes
        said = yield from self._recognise(size)
        held = len(self._inner.pending()) + len(self._pending)
        self._came = (self._came + pcm)[-held:] if held else b""
        return said

    def partial(self) -> models.Partial:
        """See `models.Recognizer`."""
        found = self._inner.partial()
        return models.Partial(found.text, retimed_words(found.words, self._in_time))

    def finish(self) -> Generator[None, None, list[models.Utterance]]:
        """See `models.Recognizer`."""
        if self._begun:
            self._pending += near_silence(END_S, self._rate)
        said = yield from self._recognise(len(self._pending))
        last = yield from self._inner.finish()
        said += [retimed(utterance, self._in_time) for utterance in last]
        if self._begun:
            self._added_s += END_S
        self._begun, self._came = False, b""
        return _joined(said)

    def pending(self) -> bytes:
        """See `models.Recognizer`."""
        return self._came

    def close(self) -> None:
        """See `models.Recognizer`."""
        self._inner.close()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._pending += near_silence(FRONT_S, self._rate)
            self._added_s += FRONT_S
            self._from_s = self._came_s

    def _recognise(self, size: int) -> Generator[None, None, list[models.Utterance]]:
        block, self._pending = bytes(self._pending[:size]), self._pending[size:]
        said: list[models.Utterance] = []
        for at in range(0, size, self._chunk_bytes):
            said += yield from self._inner.accept(block[at : at + self._chunk_bytes])
        return [retimed(utterance, self._in_time) for utterance in said]

    def _in_time(self, time_s: float) -> float:
        # Words may begin or end in what was added.
        return round(min(max(self._from_s, time_s - self._added_s), self._came_s), 2)


class Level:
    """Brings loud audio down, chunk by chunk: never up, and never abruptly."""

    def __init__(self) -> None:
        self._gain = 1.0

    def moderate(self, pcm: bytes) -> bytes:
        """Return the next samples (16-bit, little-endian, mono) at the level that they should
        have."""
        samples = array.array("h", pcm)
        if sys.byteorder == "big":
            samples.byteswap()
        loudness = math.sqrt(sum(sample * sample for sample in samples) / len(samples))
        before, self._gain = self._gain, min(self._gain, _LOUD / max(loudness, 1.0))
        if before == 1.0 == self._gain:
            return pcm
        step = (self._gain - before) / len(samples)
        moderate = array.array(
            "h", (round(s * (before + step * at)) for at, s in enumerate(samples, 1))
        )
        if sys.byteorder == "big":
            moderate.byteswap()
        return moderate.tobytes()


@functools.cache
def near_silence(seconds: float, rate: int) -> bytes:
    """Return the noise of a silent room; the same each time."""
    noise = random.Random(0)  # noqa: S311 - it is to be the same each time
    count = round(seconds * rate)
    samples = array.array("h", (noise.randint(-_HISS, _HISS) for _ in range(count)))
    if sys.byteorder == "big":
        samples.byteswap()
    return samples.tobytes()


def _joined(said: list[models.Utterance]) -> list[models.Utterance]:
    """Return one utterance: the near-silence at the end may have made two of it, of which mostly
    the second says nothing."""
    speech = [utterance for utterance in said if utterance.text]
    if len(speech) < 2:
        return speech or said[:1]
    whole = models.Utterance(
        " ".join(utterance.text for utterance in speech),
        tuple(word for utterance in speech for word in utterance.words),
        start_s=speech[0].start_s,
        end_s=speech[-1].end_s,
        language=speech[0].language,
    )
    return [whole]
