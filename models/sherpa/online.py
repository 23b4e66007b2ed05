"""Decoder of a streaming model: a stretch of speech as it comes, with a stream of its own.

The library's own endpoint rules are the same for all streams of a recogniser, and its reset keeps
the model's state. A new stream for each stretch avoids both.
"""

from collections.abc import Generator, Iterator
from typing import Any

from models.contract import RecognitionOptions
from models.sherpa.decoding import Calls, Decoded, floats
from models.sherpa.segmenter import Segment

_PADDING_S = 0.8
"""Seconds of silence behind the last audio, so that the model decodes all of it: more than its
look-ahead."""


class StreamDecoder:
    """Implements `models.sherpa.recognizer.Decoder`: one chunk of the model is one step."""

    partial_every_s = 0.0

    def __init__(self, calls: Calls, options: RecognitionOptions, hotwords: str) -> None:
        self._calls, self._options, self._hotwords = calls, options, hotwords
        self._stream: Any = None
        self._start = 0
        self._given = 0

    def listen(self, start: int, audio: bytearray) -> Iterator[None]:
        """Decode as far as there is audio."""
        if self._stream is None or self._start != start:  # the last stretch was a click, not speech
            self._stream = self._calls.stream(self._hotwords)
            self._start, self._given = start, 0
        yield from self._give(bytes(audio[self._given :]))

    def partial(self, start: int, audio: bytearray) -> Decoded:
        """Return the result so far."""
        return self._result(len(audio) // 2, words=self._options.partial_words)

    def finish(self, segment: Segment) -> Generator[None, None, Decoded]:
        """Decode the rest. A stretch that was cut before decoded audio is decoded once more."""
        if segment.cut and self._given > len(segment.pcm):
            self._stream = None
        yield from self.listen(segment.start, bytearray(segment.pcm))
        yield from self._give(bytes(2 * int(_PADDING_S * self._calls.layout.sample_rate)))
        self._calls.call(self._stream.input_finished)
        yield from self._steps()
        decoded = self._result(len(segment.pcm) // 2, words=self._options.words)
        self._stream = None
        return decoded

    def _give(self, pcm: bytes) -> Iterator[None]:
        if pcm:
            rate = self._calls.layout.sample_rate
            self._calls.call(self._stream.accept_waveform, rate, floats(pcm))
            self._given += len(pcm)
        yield from self._steps()

    def _steps(self) -> Iterator[None]:
        recognizer = self._calls.recognizer
        while recognizer.is_ready(self._stream):
            self._calls.call(recognizer.decode_stream, self._stream)
            yield

    def _result(self, samples: int, *, words: bool) -> Decoded:
        if self._stream is None:
            return Decoded()
        rate = self._calls.layout.sample_rate
        start_s, end_s = self._start / rate, (self._start + samples) / rate
        result = self._calls.recognizer.get_result_all(self._stream)
        return self._calls.result(result, "ys_probs", start_s, end_s, words=words, found=True)
