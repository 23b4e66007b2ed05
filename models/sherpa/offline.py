"""Decoder of an offline model: a stretch of speech at once."""

from collections.abc import Generator, Iterator

from models.contract import RecognitionOptions
from models.sherpa.decoding import Calls, Decoded
from models.sherpa.segmenter import Segment


class WholeDecoder:
    """Implements `models.sherpa.recognizer.Decoder`: one decode is one step."""

    partial_every_s = 0.5

    def __init__(
        self, calls: Calls, options: RecognitionOptions, language: str, hotwords: str
    ) -> None:
        self._calls, self._options = calls, options
        self._language, self._hotwords = language, hotwords

    def listen(self, start: int, audio: bytearray) -> Iterator[None]:
        """Wait for the rest of the stretch."""
        return iter(())

    def partial(self, start: int, audio: bytearray) -> Decoded:
        """Decode the stretch so far."""
        return self._decode(start, bytes(audio), words=self._options.partial_words)

    def finish(self, segment: Segment) -> Generator[None, None, Decoded]:
        """Decode the stretch."""
        decoded = self._decode(segment.start, segment.pcm, words=self._options.words)
        yield
        return decoded

    def _decode(self, start: int, pcm: bytes, *, words: bool) -> Decoded:
        start_s = start / self._calls.layout.sample_rate
        return self._calls.decode(
            pcm, self._language, start_s, words=words, hotwords=self._hotwords
        )
