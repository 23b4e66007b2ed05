"""A recogniser of a live stream that may have begun on another worker.

An engine may find the end of an utterance later than its audio. So where an utterance has ended
there is audio after it that a recogniser on another worker has to be given again, before new audio.
"""

from collections.abc import Generator

import models
from modelserver.worker.times import retimed, retimed_words

_MOST_REST_BYTES = 400 * 1024
"""Audio after an utterance that fits into a checkpoint: twelve seconds at 16 kHz."""


class ContinuedRecognizer:
    """A recogniser whose times are those of the stream."""

    def __init__(
        self, recognizer: models.Recognizer, from_s: float, rest: bytes, piece_bytes: int
    ) -> None:
        """Continue another worker's recogniser. `from_s`: where in the stream `rest` begins, in
        seconds; `rest`: what `take_rest` has returned on the other worker, which is accepted in
        pieces of `piece_bytes`."""
        self._recognizer = recognizer
        self._from_s = from_s
        self._before, self._piece_bytes = rest, piece_bytes
        self._rest: bytes | None = None

    def accept(self, pcm: bytes) -> Generator[None, None, list[models.Utterance]]:
        """See `models.Recognizer`."""
        said = yield from self._accept_rest()
        said += yield from self._accept(pcm)
        return [self._in_stream(utterance) for utterance in said]

    def finish(self) -> Generator[None, None, list[models.Utterance]]:
        """See `models.Recognizer`."""
        said = yield from self._accept_rest()
        said += yield from self._recognizer.finish()
        self._rest = b""
        return [self._in_stream(utterance) for utterance in said]

    def partial(self) -> models.Partial:
        """See `models.Recognizer`."""
        found = self._recognizer.partial()
        return models.Partial(found.text, retimed_words(found.words, self._moved))

    def close(self) -> None:
        """See `models.Recognizer`."""
        self._recognizer.close()

    @property
    def rest_bytes(self) -> int:
        """Bytes of audio after the last utterance, since `take_rest`."""
        return len(self._rest or b"")

    def take_rest(self) -> bytes | None:
        """Return the audio after the last utterance that has ended since the last call. None if
        none has, or if the audio is too much for a checkpoint."""
        rest, self._rest = self._rest, None
        return rest if rest is not None and len(rest) <= _MOST_REST_BYTES else None

    def _accept_rest(self) -> Generator[None, None, list[models.Utterance]]:
        before, self._before = self._before, b""
        said: list[models.Utterance] = []
        for at in range(0, len(before), self._piece_bytes):
            said += yield from self._accept(before[at : at + self._piece_bytes])
        return said

    def _accept(self, pcm: bytes) -> Generator[None, None, list[models.Utterance]]:
        said = yield from self._recognizer.accept(pcm)
        if said:
            self._rest = self._recognizer.pending()
        elif self._rest is not None and len(self._rest) <= _MOST_REST_BYTES:
            self._rest += pcm
        return said

    def _in_stream(self, utterance: models.Utterance) -> models.Utterance:
        return retimed(utterance, self._moved) if self._from_s else utterance

    def _moved(self, time_s: float) -> float:
        return time_s + self._from_s
