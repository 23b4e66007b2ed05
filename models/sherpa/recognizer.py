"""Recognisers over sherpa-onnx: voice activity finds stretches of speech, a decoder decodes them.

An offline model decodes a stretch once it is complete, and repeatedly for partial results. A
streaming model decodes a stretch as it comes. Neither gets silence, for which models invent texts,
and neither has state from one stretch to the next.
"""

import time
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from models.contract import Partial, RecognitionOptions, Utterance
from models.sherpa.decoding import Decoded
from models.sherpa.segmenter import Segment, Segmenter
from models.sherpa.vad import Detector

_FRAMES_A_STEP = 16
"""Frames per step: half a second of audio, some milliseconds for voice activity."""
_PARTIAL_SHARE = 4
"""Factor of the pause after a partial result over the time that decoding it took."""


class Decoder(Protocol):
    """Decoder of one stretch of speech after the other."""

    partial_every_s: float
    """Seconds of audio between two partial results, at least."""

    def listen(self, start: int, audio: bytearray) -> Iterator[None]:
        """Process the stretch so far: it starts at sample `start`. Yields between steps."""
        ...

    def partial(self, start: int, audio: bytearray) -> Decoded:
        """Return the result of the stretch so far."""
        ...

    def finish(self, segment: Segment) -> Generator[None, None, Decoded]:
        """Return the result of the complete stretch. Yields between steps."""
        ...


class SegmentRecognizer:
    """Implements `models.contract.Recognizer` with a decoder of stretches."""

    def __init__(
        self,
        decoder: Decoder,
        detector: Detector,
        segmenter: Segmenter,
        *,
        rate: int,
        frame_samples: int,
        options: RecognitionOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decoder, self._detector, self._segmenter = decoder, detector, segmenter
        self._rate, self._frame_bytes = rate, 2 * frame_samples
        self._options, self._clock = options, clock
        self._rest = b""
        self._samples = 0  # in whole frames, and what `finish` has made whole
        self._partial = Partial("")
        self._partial_until = 0
        self._partial_not_before = 0.0

    def accept(self, pcm: bytes) -> Generator[None, None, list[Utterance]]:
        """Process samples; one step is a stretch of speech, or half a second of audio."""
        data = self._rest + pcm if self._rest else pcm
        utterances: list[Utterance] = []
        whole = len(data) - len(data) % self._frame_bytes
        self._rest = data[whole:]
        for number, at in enumerate(range(0, whole, self._frame_bytes)):
            if number and number % _FRAMES_A_STEP == 0:
                yield
            self._samples += self._frame_bytes // 2
            segment = self._segmenter.push(data[at : at + self._frame_bytes])
            if segment is not None:
                yield
                utterances += yield from self._finished(segment)
            elif self._segmenter.speaking:
                yield from self._decoder.listen(self._segmenter.start, self._segmenter.audio)
        if self._wants_partial():
            yield
            self._decode_partial()
        return utterances

    def partial(self) -> Partial:
        """Return the last partial result of the present stretch."""
        return self._partial

    def finish(self) -> Generator[None, None, list[Utterance]]:
        """Decode the present stretch. The next audio is another recording, whose times continue."""
        utterances: list[Utterance] = []
        rest, self._rest = self._rest[: len(self._rest) // 2 * 2], b""
        if rest:
            segment = self._segmenter.push(rest.ljust(self._frame_bytes, b"\0"))
            if segment is not None:
                yield
                utterances += yield from self._finished(segment)
        self._samples += len(rest) // 2
        segment = self._segmenter.flush(self._samples)
        if segment is not None:
            yield
            utterances += yield from self._finished(segment)
        self._partial, self._partial_until = Partial(""), 0
        self._detector.reset()
        return utterances

    def pending(self) -> bytes:
        """Return the present stretch, or the audio that will precede the next one."""
        return bytes(self._segmenter.audio) + self._rest

    def close(self) -> None:
        """Release the audio."""
        self._segmenter.audio.clear()
        self._rest = b""

    def _finished(self, segment: Segment) -> Generator[None, None, list[Utterance]]:
        self._partial, self._partial_until = Partial(""), 0
        decoded = yield from self._decoder.finish(segment)
        if not decoded.text:
            return []
        start_s = segment.start / self._rate
        end_s = start_s + len(segment.pcm) / 2 / self._rate
        utterance = Utterance(
            decoded.text,
            decoded.words,
            start_s=round(start_s, 3),
            end_s=round(end_s, 3),
            language=decoded.language,
        )
        return [utterance]

    def _wants_partial(self) -> bool:
        if not self._options.partials or not self._segmenter.speaking:
            return False
        return (
            self._samples - self._partial_until >= self._decoder.partial_every_s * self._rate
            and self._clock() >= self._partial_not_before
        )

    def _decode_partial(self) -> None:
        begun = self._clock()
        decoded = self._decoder.partial(self._segmenter.start, self._segmenter.audio)
        ended = self._clock()
        self._partial_not_before = ended + _PARTIAL_SHARE * (ended - begun)
        self._partial_until = self._samples
        words = decoded.words if self._options.partial_words else ()
        self._partial = Partial(decoded.text, words)
