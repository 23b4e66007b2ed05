"""What the fork server loads and every worker inherits: audio in a spool to a transcript.

Imported in those processes only; the supervisor names it in a `supervisor.Target`.
"""

import contextlib
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec

import models
from modelserver.audio.channels import channel_choice
from modelserver.audio.errors import AudioError
from modelserver.audio.reader import AudioReader
from modelserver.speech.messages import (
    Speech,
    SpeechRequest,
    SpeechSegment,
    SpeechWord,
    StreamRequest,
)
from modelserver.speech.stream import SpeechStream
from modelserver.speech.transcript import is_engine_token, reader_text
from supervisor import JobError, SpoolView, allocator_in_use

_NOISE_S = 10


def load(
    directory: str,
    made: dict[str, str],
    left_out: list[str],
    name: str,
    language: str,
    warmup: str,
    prefetch: bool,
    kernels: str | None = None,
) -> "SpeechModel":
    """Called in the fork server. Raises `models.ModelError`."""
    files = {inside: Path(file) for inside, file in made.items()}
    model = models.load_model(
        Path(directory), files, prefetch=prefetch, left_out=tuple(left_out), kernels=kernels
    )
    return SpeechModel(model, name, language, warmup, with_kernels=kernels is not None)


class SpeechModel:
    """A loaded model as the supervisor serves it (`supervisor.Servable`)."""

    def __init__(
        self,
        model: models.Model,
        name: str,
        language: str,
        warmup: str,
        *,
        with_kernels: bool = False,
    ) -> None:
        self._model = model
        self._name = name
        self._language = language
        self._warmup = warmup
        self._with_kernels = with_kernels

    def warm(self) -> None:
        """Make the first request as fast as the hundredth."""
        rate = self._model.sample_rate
        if self._with_kernels and self._model.check_kernels(
            models.warm_up_clips(self._language, rate)
        ):
            return  # which has decoded them
        match self._warmup:
            case "clips":
                self._model.warm(models.warm_up_clips(self._language, rate))
            case "noise":
                self._model.warm([models.noise(_NOISE_S, rate)])

    def report(self) -> dict[str, Any]:
        """For the log and the status pages."""
        return {
            "model": self._name,
            **self._model.report(),
            "language": self._language,
            "warmup": self._warmup,
            "allocator_in_use": allocator_in_use(),
        }

    def run(
        self, request: dict[str, Any], spool: SpoolView | None
    ) -> Generator[Any, None, dict[str, Any]]:
        """One file, a quarter of a second of audio a step; progress is seconds of audio done."""
        assert spool is not None
        asked = msgspec.convert(request, SpeechRequest)
        try:
            reader = AudioReader(
                spool,
                _size(spool),
                self._model.sample_rate,
                raw=asked.raw,
                channels=channel_choice(asked.channels),
                longest_s=asked.longest_audio_s,
            )
            heard = yield from self._recognise(reader, asked)
        except AudioError as error:
            raise JobError(error.code, error.message) from error
        answer: dict[str, Any] = msgspec.to_builtins(self._speech(heard, reader))
        return answer

    def open(self, request: dict[str, Any], before: float, mark: Any) -> SpeechStream:
        """A live stream (`supervisor.Streaming`); `before`: seconds of it that are settled."""
        return SpeechStream(self._model, msgspec.convert(request, StreamRequest), before)

    def _recognise(
        self, reader: AudioReader, asked: SpeechRequest
    ) -> Generator[Any, None, list[list[models.Utterance]]]:
        """What was said on each channel that is heard; one if they are mixed."""
        # The order of what is said on several channels is that of its words.
        words = asked.words or bool(reader.numbers)
        options = models.RecognitionOptions(words=words, alternatives=asked.alternatives)
        count = max(1, len(reader.numbers))
        utterances: list[list[models.Utterance]] = [[] for _ in range(count)]
        with contextlib.ExitStack() as open_ones:
            recognizers = []
            for _ in range(count):
                recognizer = self._model.recognizer(options)
                open_ones.callback(recognizer.close)
                recognizers.append(recognizer)
            done_bytes, reported = 0, time.monotonic()
            for number, chunk in reader.pcm(self._model.chunk_bytes):
                if (utterance := recognizers[number].accept(chunk)) is not None:
                    utterances[number].append(utterance)
                done_bytes += len(chunk)
                now = time.monotonic()
                if now - reported < 0.2:
                    yield None
                else:
                    reported = now
                    yield done_bytes / 2 / self._model.sample_rate / count
            for number, recognizer in enumerate(recognizers):
                utterances[number].append(recognizer.finish())
        return utterances

    def _speech(self, heard: list[list[models.Utterance]], reader: AudioReader) -> Speech:
        if reader.numbers:
            segments = _segments(heard, reader.numbers)
            text = reader_text(segment.text for segment in segments)
        else:
            segments = []
            text = reader_text(utterance.text for utterance in heard[0])
        words = [
            SpeechWord(w.text, w.start_s, w.end_s, w.confidence, number)
            for utterances, number in zip(heard, reader.numbers or (None,), strict=True)
            for utterance in utterances
            for w in utterance.words
            if not is_engine_token(w.text)
        ]
        return Speech(
            text=text,
            duration_s=round(reader.duration_s, 3),
            model=self._name,
            language=self._language,
            words=sorted(words, key=lambda word: word.start),
            warnings=reader.warnings,
            segments=segments,
        )


def _segments(heard: list[list[models.Utterance]], numbers: tuple[int, ...]) -> list[SpeechSegment]:
    """What was said on each channel, in the order of time."""
    segments = []
    for utterances, number in zip(heard, numbers, strict=True):
        for utterance in utterances:
            words = [word for word in utterance.words if not is_engine_token(word.text)]
            if words:
                text = reader_text([utterance.text])
                segments.append(SpeechSegment(words[0].start_s, words[-1].end_s, text, number))
    return sorted(segments, key=lambda segment: (segment.start, segment.channel))


def _size(spool: SpoolView) -> int:
    spool.seek(0, os.SEEK_END)
    return spool.tell()
