"""What the fork server loads and every worker inherits: audio in a spool to a transcript.

Imported in those processes only; the supervisor names it in a `supervisor.Target`.
"""

import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec

import models
from modelserver.audio.decode import WavReader
from modelserver.audio.errors import AudioError, too_long
from modelserver.speech.messages import Speech, SpeechRequest, SpeechWord
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
) -> "SpeechModel":
    """Called in the fork server. Raises `models.ModelError`."""
    files = {inside: Path(file) for inside, file in made.items()}
    model = models.load_model(Path(directory), files, prefetch=prefetch, left_out=tuple(left_out))
    return SpeechModel(model, name, language, warmup)


class SpeechModel:
    """A loaded model as the supervisor serves it (`supervisor.Servable`)."""

    def __init__(self, model: models.Model, name: str, language: str, warmup: str) -> None:
        self._model = model
        self._name = name
        self._language = language
        self._warmup = warmup

    def warm(self) -> None:
        """Make the first request as fast as the hundredth."""
        rate = self._model.sample_rate
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
            reader = WavReader(spool, _size(spool), self._model.sample_rate)
            if asked.longest_audio_s is not None and reader.duration_s > asked.longest_audio_s:
                raise too_long(reader.duration_s, asked.longest_audio_s)
        except AudioError as error:
            raise JobError(error.code, error.message) from error
        utterances: list[models.Utterance] = []
        options = models.RecognitionOptions(words=asked.words, alternatives=asked.alternatives)
        recognizer = self._model.recognizer(options)
        try:
            done_bytes, reported = 0, time.monotonic()
            for chunk in reader.pcm(self._model.chunk_bytes):
                if (utterance := recognizer.accept(chunk)) is not None:
                    utterances.append(utterance)
                done_bytes += len(chunk)
                now = time.monotonic()
                if now - reported < 0.2:
                    yield None
                else:
                    reported = now
                    yield done_bytes / 2 / self._model.sample_rate
            utterances.append(recognizer.finish())
        finally:
            recognizer.close()
        answer: dict[str, Any] = msgspec.to_builtins(self._speech(utterances, reader))
        return answer

    def _speech(self, utterances: list[models.Utterance], reader: WavReader) -> Speech:
        words = [
            SpeechWord(w.text, w.start_s, w.end_s, w.confidence)
            for utterance in utterances
            for w in utterance.words
            if not is_engine_token(w.text)
        ]
        warnings = []
        if reader.cut_short:
            warnings.append("the file is cut short: what is there was recognised")
        return Speech(
            text=reader_text(utterance.text for utterance in utterances),
            duration_s=round(reader.duration_s, 3),
            model=self._name,
            language=self._language,
            words=words,
            warnings=warnings,
        )


def _size(spool: SpoolView) -> int:
    spool.seek(0, os.SEEK_END)
    return spool.tell()
