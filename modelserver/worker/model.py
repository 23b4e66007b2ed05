"""What the fork server loads and every worker inherits: audio in a spool to a transcript.

Imported in those processes only; the supervisor names it in a `supervisor.Target`.
"""

import contextlib
import ctypes
import dataclasses
import importlib
import itertools
import os
import pkgutil
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import msgspec

import models
from modelserver.audio.channels import channel_choice
from modelserver.speech.messages import (
    CaptionRequest,
    Decoded,
    DecodedPiece,
    DecodeRequest,
    Speech,
    SpeechProgress,
    SpeechRequest,
    SpeechSegment,
    StreamRequest,
)
from modelserver.speech.segments import in_order, segment_of, words_of
from modelserver.speech.transcript import reader_text
from modelserver.worker.captions import CaptionStream
from modelserver.worker.pieces import Cutter
from modelserver.worker.profiles import ProfiledModel, not_as_asked
from modelserver.worker.reader import AudioReader
from modelserver.worker.refusals import told_to_the_caller
from modelserver.worker.text_steps import TextSteps, TextStream, WritingModel
from modelserver.worker.vosk_stream import SpeechStream
from supervisor import SpoolView, StreamSession, allocator_in_use

_NOISE_S = 10
_REPORT_S = 0.2
_SERVICE_NAME_SETS = (
    *(f"ISO-8859-{part}" for part in (*range(1, 12), *range(13, 17))),
    *("ISO6937", "UCS-2BE", "UTF-16BE", "KSC_5601", "GB2312", "BIG5", "UTF-8"),
)


def load(
    engine: str,
    directory: str,
    name: str,
    language: str,
    options: dict[str, Any],
    warmup: str,
    profile: str = models.DEFAULT_PROFILE,
    text_steps: Iterable[str] = (),
) -> "SpeechModel":
    """Called in the fork server. `options`: `models.Form.load`. Raises `models.ModelError`."""
    steps = TextSteps(text_steps, language)
    _import_whole(av)
    _load_character_sets()
    location = models.ModelLocation(name, Path(directory), language)
    model = models.engine_named(engine).load(location, options)
    whole: models.Model = ProfiledModel(model, profile)
    if steps.report:
        whole = WritingModel(whole, steps)
    with_simd = options.get("simd") is not None
    return SpeechModel(whole, name, language, warmup, steps, with_simd=with_simd)


def _import_whole(package: ModuleType) -> None:
    """A worker's sandbox opens no files: what is imported on first use is imported here."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _load_character_sets() -> None:
    """In which MPEG-TS names its services (ETSI EN 300 468, annex A): FFmpeg has the C library
    convert them, which loads a file for each. They are left open."""
    libc = ctypes.CDLL(None)
    libc.iconv_open.restype = ctypes.c_void_p
    for name in _SERVICE_NAME_SETS:
        libc.iconv_open(b"UTF-8", name.encode())


class SpeechModel:
    """A loaded model as the supervisor serves it (`supervisor.Servable`)."""

    def __init__(
        self,
        model: models.Model,
        name: str,
        language: str,
        warmup: str,
        steps: TextSteps,
        *,
        with_simd: bool = False,
    ) -> None:
        """`model` with the `steps` in place already."""
        self._model = model
        self._name = name
        self._language = language
        self._warmup = warmup
        self._steps = steps
        self._with_simd = with_simd

    def warm(self) -> None:
        """Make the first request as fast as the hundredth."""
        rate = self._model.sample_rate
        if self._with_simd and self._model.check_simd(models.warm_up_clips(self._language, rate)):
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
        done: Speech | Decoded
        with told_to_the_caller():
            if "piece_s" in request:
                done = yield from self._decode(msgspec.convert(request, DecodeRequest), spool)
            else:
                done = yield from self._transcribe(msgspec.convert(request, SpeechRequest), spool)
        answer: dict[str, Any] = msgspec.to_builtins(done)
        return answer

    def _transcribe(self, asked: SpeechRequest, spool: SpoolView) -> Generator[Any, None, Speech]:
        reader = AudioReader(
            spool,
            _size(spool),
            self._model.sample_rate,
            raw=asked.raw,
            channels=channel_choice(asked.channels),
            longest_s=asked.longest_audio_s,
        )
        heard = yield from self._recognise(reader, asked)
        return self._speech(heard, reader, asked)

    def _decode(self, asked: DecodeRequest, spool: SpoolView) -> Generator[Any, None, Decoded]:
        """A long recording's samples in pieces; of each channel, where they are kept apart."""
        rate, count = self._model.sample_rate, 0
        reader = AudioReader(
            spool,
            _size(spool),
            rate,
            raw=asked.raw,
            channels=channel_choice(asked.channels),
            longest_s=asked.longest_audio_s,
        )
        cutters = [Cutter(rate, asked.piece_s) for _ in range(max(1, len(reader.numbers)))]
        chunks = ((n, cutters[n].feed(chunk)) for n, chunk in reader.pcm(self._model.chunk_bytes))
        rests = ((n, cutter.finish()) for n, cutter in enumerate(cutters))
        for channel, pieces in itertools.chain(chunks, rests):
            for piece in pieces:
                told = dataclasses.asdict(piece) | {"number": count}
                count += 1
                yield msgspec.to_builtins(
                    DecodedPiece(**told, rate=rate, channel=reader.channel(channel)),
                    builtin_types=(bytes,),
                )
            yield None
        warnings = [*reader.warnings, *not_as_asked(self._model, asked.phrases, asked.profile)]
        return Decoded(
            round(reader.duration_s, 3), count, self._name, self._language, warnings, len(cutters)
        )

    def open(self, request: dict[str, Any], before: float, mark: Any) -> StreamSession:
        """A live stream (`supervisor.Streaming`); `before`: seconds of it that came elsewhere."""
        if "texts" in request:
            return TextStream(self._steps)
        if "sample_rate" in request:
            return SpeechStream(self._model, msgspec.convert(request, StreamRequest), before)
        return CaptionStream(self._model, msgspec.convert(request, CaptionRequest), before, mark)

    def _recognise(
        self, reader: AudioReader, asked: SpeechRequest
    ) -> Generator[Any, None, list[list[models.Utterance]]]:
        """What was said on each channel that is heard; one if they are mixed."""
        # Times of segments are those of their words.
        words = asked.words or asked.segments or asked.partials or bool(reader.numbers)
        options = models.RecognitionOptions(
            words=words,
            alternatives=asked.alternatives,
            grammar=asked.phrases or None,
            profile=asked.profile,
        )
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
                utterance = recognizers[number].accept(chunk)
                done_bytes += len(chunk)
                now = time.monotonic()
                due = now - reported >= _REPORT_S
                if utterance is not None:
                    utterances[number].append(utterance)
                if not due and not (asked.partials and utterance is not None):
                    yield None
                    continue
                reported = now
                done_s = round(done_bytes / 2 / self._model.sample_rate / count, 3)
                partial, segment = None, None
                if asked.partials and utterance is not None:
                    segment = segment_of(utterance, reader.channel(number), words=asked.words)
                elif asked.partials and count == 1:
                    partial = reader_text([recognizers[number].partial().text])
                yield msgspec.to_builtins(SpeechProgress(done_s, partial, segment, count))
            for number, recognizer in enumerate(recognizers):
                utterances[number].append(recognizer.finish())
                if asked.partials:
                    last, channel = utterances[number][-1], reader.channel(number)
                    segment = segment_of(last, channel, words=asked.words)
                    last_progress = SpeechProgress(reader.duration_s, None, segment, count)
                    yield msgspec.to_builtins(last_progress)
        return utterances

    def _speech(
        self, heard: list[list[models.Utterance]], reader: AudioReader, asked: SpeechRequest
    ) -> Speech:
        by_channel = list(zip(heard, reader.numbers or (None,), strict=True))
        segments: list[SpeechSegment] = []
        if reader.numbers or asked.segments:
            segments = in_order(
                segment
                for utterances, number in by_channel
                for utterance in utterances
                if (segment := segment_of(utterance, number, words=asked.segments and asked.words))
            )
        said = (
            [segment.text for segment in segments]
            if reader.numbers
            else [utterance.text for utterance in heard[0]]
        )
        words = (
            word
            for utterances, number in by_channel
            for utterance in utterances
            for word in words_of(utterance, number)
        )
        return Speech(
            text=reader_text(said),
            duration_s=round(reader.duration_s, 3),
            model=self._name,
            language=self._language,
            words=sorted(words, key=lambda word: word.start) if asked.words else [],
            warnings=[*reader.warnings, *not_as_asked(self._model, asked.phrases, asked.profile)],
            segments=segments,
            channels=max(1, len(reader.numbers)),
        )


def _size(spool: SpoolView) -> int:
    spool.seek(0, os.SEEK_END)
    return spool.tell()
