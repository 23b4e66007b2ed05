"""Live stream of any audio on a worker: captions out, each with its segment and its times. Imported
in the fork server and its workers only.

The audio is recognised in pieces of the same size as a file's, however it arrives: the same audio
gives the same text.
"""

from collections.abc import Generator
from typing import Any

import msgspec

import models
from modelserver.audio.channels import channel_choice
from modelserver.audio.formats import RawFormat
from modelserver.speech.messages import (
    EOF,
    RESET,
    Caption,
    CaptionRequest,
    LastCaption,
    SpeechSegment,
    UtteranceAudio,
)
from modelserver.speech.segments import SegmentMaker
from modelserver.worker.abilities import not_as_asked
from modelserver.worker.continued import ContinuedRecognizer
from modelserver.worker.live_audio import LiveAudio
from modelserver.worker.refusals import as_job_errors
from modelserver.worker.text_steps import TextSteps
from supervisor import StreamAnswer


class _Checkpoint(msgspec.Struct):
    """End of an utterance, for a session that continues from there."""

    segment: int
    samples: int
    """Samples that were recognised until then."""
    rest: bytes = b""
    """Last of those bytes, which another recogniser has to receive again."""
    raw: RawFormat | None = None
    """Format of the samples that follow, if nothing before them is needed. None in a container."""
    pcm: bytes = b""
    """Samples that were decoded, and not recognised yet."""
    undecoded: bytes = b""


class CaptionStream:
    """Live stream with captions (`supervisor.StreamSession`)."""

    def __init__(
        self,
        model: models.Model,
        steps: TextSteps,
        segments: SegmentMaker,
        request: CaptionRequest,
        before_s: float,
        checkpoint: Any,
    ) -> None:
        """Recognise a stream. `before_s`: seconds of it that another worker received and that are
        not replayed; `checkpoint`: the last one of that worker's session."""
        self._request, self._segments = request, segments
        self._rate, self._piece_bytes = model.sample_rate, model.chunk_bytes
        at = _Checkpoint(0, 0) if checkpoint is None else msgspec.convert(checkpoint, _Checkpoint)
        self._segment = at.segment
        raw = at.raw or request.raw
        self._audio = LiveAudio(
            self._rate,
            raw=raw,
            channels=channel_choice(request.channels),
            restarts=request.raw is None,
        )
        self._skip_bytes = 0
        self._pending = bytearray()
        self._samples, rest = at.samples, at.rest
        if at.raw is not None:
            known = at.samples + (len(at.pcm) + len(at.undecoded)) / 2
            if before_s > known / self._rate + 1.0:  # more has gone than the checkpoint covers
                self._samples, rest = int(before_s * self._rate), b""
            else:
                self._pending += at.pcm
                self._audio.feed(at.undecoded)
        elif checkpoint is None:
            self._samples = int(before_s * self._rate)  # more has gone than is kept of samples
        elif at.samples:
            self._skip_bytes = 2 * at.samples  # all of it comes again
        from_s = (self._samples - len(rest) // 2) / self._rate
        self._utterance_s = round(from_s, 3)
        self._said = ""
        options = request.options(words=True, partials=request.partials)
        with as_job_errors():
            recognizer = model.recognizer(options)
        self._recognizer = ContinuedRecognizer(recognizer, from_s, rest, self._piece_bytes)
        self._warned = not_as_asked(model, steps, request, words=request.words)

    def feed(self, data: bytes | str, *, quiet: bool) -> Generator[None, None, StreamAnswer]:
        yield
        with as_job_errors():
            return (yield from self._feed(data, quiet=quiet))

    def close(self) -> None:
        self._audio.close()
        self._recognizer.close()

    def _feed(self, data: bytes | str, *, quiet: bool) -> Generator[None, None, StreamAnswer]:
        before = self._samples
        values: list[Any] = []
        if isinstance(data, bytes):
            self._audio.feed(data)
        elif data == EOF:
            self._audio.end()
        elif data == RESET:
            self._audio.flush()
        for block in self._audio.blocks():
            self._take(block)
            while len(self._pending) >= self._piece_bytes:
                yield from self._recognise(self._piece_bytes, values)
                yield
        if data in (EOF, RESET):
            if self._pending:
                yield from self._recognise(len(self._pending), values)
            said = yield from self._recognizer.finish()
            self._final(said, values, asked_for=data == RESET)
        elif self._samples != before and self._request.partials and not quiet:
            self._partial(values)
        if data == EOF:
            values.append(msgspec.to_builtins(self._last()))
        if self._request.raw is None and self._samples != before:
            values.append({"recognised_until": self._recognised_s})
        units = (self._samples - before) / self._rate
        rest = self._recognizer.take_rest()
        if rest is None:
            return StreamAnswer(values, units=units)
        reached = _Checkpoint(self._segment, self._samples, rest, self._audio.raw)
        if reached.raw is not None:
            reached.pcm, reached.undecoded = bytes(self._pending), self._audio.rest()
        return StreamAnswer(
            values,
            at_checkpoint=reached.raw is not None,
            checkpoint=msgspec.to_builtins(reached, builtin_types=(bytes,)),
            units=units,
        )

    def _take(self, block: bytes) -> None:
        skipped = min(len(block), self._skip_bytes)
        self._skip_bytes -= skipped
        self._pending += memoryview(block)[skipped:]

    def _recognise(self, size: int, values: list[Any]) -> Generator[None, None, None]:
        piece = bytes(self._pending[:size])
        del self._pending[:size]
        self._samples += len(piece) // 2
        if self._request.with_audio:
            audio = UtteranceAudio(piece, self._rate)
            values.append(msgspec.to_builtins(audio, builtin_types=(bytes,)))
        if said := (yield from self._recognizer.accept(piece)):
            self._final(said, values, asked_for=False)

    @property
    def _recognised_s(self) -> float:
        return round(self._samples / self._rate, 3)

    def _final(self, said: list[models.Utterance], values: list[Any], *, asked_for: bool) -> None:
        made = [self._segments.segment(one, words=self._request.words) for one in said]
        segments = [segment for segment in made if segment is not None]
        if asked_for and not segments:
            segments.append(SpeechSegment(self._recognised_s, self._recognised_s, ""))
        for segment in segments:
            caption = Caption(
                kind="final",
                segment=self._segment,
                text=segment.text,
                start=segment.start,
                end=segment.end,
                words=segment.words or None,
                alternatives=segment.alternatives or None,
                finalized=asked_for and segment is segments[-1],
                language=segment.language,
            )
            values.append(msgspec.to_builtins(caption))
            self._segment += 1
        self._utterance_s = round((self._samples - self._recognizer.rest_bytes / 2) / self._rate, 3)
        self._said = ""

    def _partial(self, values: list[Any]) -> None:
        text = self._segments.text([self._recognizer.partial().text])
        if text == self._said:
            return
        self._said = text
        caption = Caption("partial", self._segment, text, self._utterance_s, self._recognised_s)
        values.append(msgspec.to_builtins(caption))

    def _last(self) -> LastCaption:
        return LastCaption(
            self._recognised_s, self._segment, [*self._warned, *self._audio.warnings]
        )
