"""A live stream on a worker: samples in, the engine's own JSON out.

Imported in the fork server and its workers only.
"""

import re
from collections.abc import Generator

import models
from modelserver.speech.messages import EOF, RESET, StreamRequest
from modelserver.worker.refusals import told_to_the_caller
from supervisor import StreamAnswer

_TIMES = re.compile(r'"(start|end)" : (\d+\.\d+)')


class SpeechStream:
    """One stream (`supervisor.StreamSession`). It has a checkpoint after each utterance."""

    def __init__(self, model: models.Model, request: StreamRequest, before_s: float) -> None:
        """`before_s`: seconds of it that another worker has heard."""
        self._rate = request.sample_rate
        options = models.RecognitionOptions(
            words=request.words,
            alternatives=request.alternatives,
            partial_words=request.partial_words,
            grammar=request.phrases or None,
            profile=request.profile,
        )
        with told_to_the_caller():
            self._recognizer = model.live(request.sample_rate, options)
        self._before_s = before_s

    def feed(self, data: bytes | str, *, quiet: bool) -> Generator[None, None, StreamAnswer]:
        yield
        if data in (EOF, RESET):
            return StreamAnswer([self._in_time(self._recognizer.final())], at_checkpoint=True)
        assert isinstance(data, bytes)
        seconds = len(data) / 2 / self._rate
        with told_to_the_caller():
            ended = yield from self._recognizer.accept(data)
        if ended:
            said = self._in_time(self._recognizer.result())
            return StreamAnswer([said], at_checkpoint=True, units=seconds)
        said = "" if quiet else self._in_time(self._recognizer.partial())
        return StreamAnswer([said], units=seconds)

    def close(self) -> None:
        """Nothing to do: the recogniser goes with the last reference."""

    def _in_time(self, answer: str) -> str:
        """With times from the beginning of the stream."""
        if not self._before_s:
            return answer
        return _TIMES.sub(
            lambda found: f'"{found[1]}" : {float(found[2]) + self._before_s:f}', answer
        )
