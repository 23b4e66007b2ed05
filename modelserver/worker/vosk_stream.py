"""A live stream of the Vosk project's protocol on a worker: samples in, an answer to each message.

Imported in the fork server and its workers only.
"""

import dataclasses
from collections.abc import Generator
from typing import Any

import msgspec

import models
from modelserver.speech.messages import EOF, RESET, StreamRequest
from modelserver.speech.transcript import reader_text
from modelserver.speech.vosk_answers import final_answer, partial_answer
from modelserver.worker.continued import ContinuedRecognizer
from modelserver.worker.refusals import as_job_errors
from supervisor import StreamAnswer

_PIECE_S = 0.25


class _Checkpoint(msgspec.Struct):
    """End of an utterance, for a session that continues from there."""

    seconds: float
    """Seconds of audio that had arrived by then."""
    rest: bytes


class VoskStream:
    """Live stream of the Vosk protocol (`supervisor.StreamSession`). It has a checkpoint after each
    utterance."""

    def __init__(
        self, model: models.Model, request: StreamRequest, before_s: float, checkpoint: Any
    ) -> None:
        """Recognise a stream. `before_s`: seconds of it that another worker has recognised;
        `checkpoint`: the last one of that worker's session."""
        self._request = request
        self._rate = request.sample_rate
        self._written = model.abilities.written
        options = request.options(
            words=request.words, partials=True, partial_words=request.partial_words
        )
        at = (
            _Checkpoint(0.0, b"")
            if checkpoint is None
            else msgspec.convert(checkpoint, _Checkpoint)
        )
        # Its audio is of no use where audio after it is lost.
        rest = at.rest if before_s < at.seconds + 1.0 else b""
        with as_job_errors():
            recognizer = model.recognizer(options, rate=self._rate)
        self._recognizer = ContinuedRecognizer(
            recognizer,
            max(0.0, before_s - len(rest) / 2 / self._rate),
            rest,
            2 * int(_PIECE_S * self._rate),
        )
        self._seconds = before_s

    def feed(self, data: bytes | str, *, quiet: bool) -> Generator[None, None, StreamAnswer]:
        yield
        with as_job_errors():
            if data in (EOF, RESET):
                said = yield from self._recognizer.finish()
                return self._answer(self._final(said), 0.0)
            assert isinstance(data, bytes)
            said = yield from self._recognizer.accept(data)
            seconds = len(data) / 2 / self._rate
            self._seconds += seconds
            if said:
                return self._answer(self._final(said), seconds)
            return self._answer("" if quiet else self._partial(), seconds)

    def close(self) -> None:
        self._recognizer.close()

    def _answer(self, answer: str, seconds: float) -> StreamAnswer:
        rest = self._recognizer.take_rest()
        if rest is None:
            return StreamAnswer([answer], units=seconds)
        reached = msgspec.to_builtins(_Checkpoint(self._seconds, rest), builtin_types=(bytes,))
        return StreamAnswer([answer], at_checkpoint=True, checkpoint=reached, units=seconds)

    def _final(self, said: list[models.Utterance]) -> str:
        """Several utterances are one answer: clients wait for one to each message."""
        if self._request.for_readers:
            said = [
                dataclasses.replace(
                    one,
                    text=self._for_readers(one.text),
                    alternatives=tuple(
                        dataclasses.replace(other, text=self._for_readers(other.text))
                        for other in one.alternatives
                    ),
                )
                for one in said
            ]
        return final_answer(said, alternatives=self._request.alternatives > 0)

    def _partial(self) -> str:
        partial = self._recognizer.partial()
        if self._request.for_readers:
            partial = models.Partial(self._for_readers(partial.text), partial.words)
        return partial_answer(partial)

    def _for_readers(self, text: str) -> str:
        return reader_text([text], written=self._written)
