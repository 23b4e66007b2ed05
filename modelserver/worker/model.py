"""Model that the fork server loads and every worker inherits: from audio in a spool to a
transcript.

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
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import msgspec

import models
from modelserver.audio.channels import channel_choice
from modelserver.settings.plugins import PUNCTUATION
from modelserver.speech.languages import closest_language
from modelserver.speech.messages import (
    CaptionRequest,
    Decoded,
    DecodedPiece,
    DecodeRequest,
    PunctuationToUse,
    Speech,
    SpeechProgress,
    SpeechRequest,
    SpeechSegment,
    StreamRequest,
)
from modelserver.speech.segments import (
    SegmentMaker,
    in_order,
    in_transcript,
    main_language,
    words_of,
)
from modelserver.worker.abilities import not_as_asked
from modelserver.worker.captions import CaptionStream
from modelserver.worker.pieces import Cutter
from modelserver.worker.profiles import ProfiledModel
from modelserver.worker.punctuation_step import punctuation_step
from modelserver.worker.reader import AudioReader
from modelserver.worker.refusals import as_job_errors
from modelserver.worker.text_steps import TextSteps, TextStream, WritingModel
from modelserver.worker.vosk_stream import VoskStream
from supervisor import LoadError, LoadRefused, SpoolView, StreamSession, allocator_in_use

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
    punctuation: dict[str, str] | None = None,
) -> "SpeechModel":
    """Load a model in the fork server. `options`: `models.Form.load`; `punctuation`:
    `modelserver.speech.messages.PunctuationToUse`. Raises `supervisor.LoadError`, and
    `LoadRefused` for a text step that cannot be used."""
    to_use = msgspec.convert(punctuation or {}, PunctuationToUse)
    try:
        steps = TextSteps(text_steps, language, {PUNCTUATION: punctuation_step(to_use)})
    except models.ModelError as error:
        raise LoadRefused(f"{error}; repair or remove it (text.steps), and reload") from error
    _import_whole(av)
    _load_character_sets()
    location = models.ModelLocation(name, Path(directory), language)
    try:
        model = models.engine_named(engine).load(location, options)
    except models.ModelError as error:
        raise LoadError(str(error)) from error
    if model.abilities.written:
        steps.leave_written()
    whole: models.Model = ProfiledModel(model, profile)
    if steps.report:
        whole = WritingModel(whole, steps)
    return SpeechModel(whole, name, language, warmup, steps)


def _import_whole(package: ModuleType) -> None:
    """Import all modules of a package now: a worker's sandbox opens no files later. Except its
    command, and what downloads files for PyAV's own examples, with an HTTP client."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name.rpartition(".")[2] not in ("__main__", "datasets"):
            importlib.import_module(module.name)


def _load_character_sets() -> None:
    """Load the character sets in which MPEG-TS names its services (ETSI EN 300 468, annex A):
    FFmpeg has the C library convert them, which loads a file for each. They stay loaded."""
    libc = ctypes.CDLL(None)
    libc.iconv_open.restype = ctypes.c_void_p
    for name in _SERVICE_NAME_SETS:
        libc.iconv_open(b"UTF-8", name.encode())


class SpeechModel:
    """A loaded model as the supervisor serves it (`supervisor.Servable`)."""

    def __init__(
        self, model: models.Model, name: str, language: str, warmup: str, steps: TextSteps
    ) -> None:
        """`model` with the `steps` in place already."""
        self._model = model
        self._name = name
        self._language = language
        self._warmup = warmup
        self._steps = steps
        self._segments = SegmentMaker(model.abilities.written, language)

    def warm(self) -> None:
        """Make the first request as fast as the hundredth."""
        rate = self._model.sample_rate
        match self._warmup:
            case "clips":
                self._model.warm(models.warm_up_clips(self._language, rate))
            case "clip":
                self._model.warm(models.warm_up_clips(self._language, rate, shortest=True))
            case "noise":
                self._model.warm([models.noise(_NOISE_S, rate)])

    def report(self) -> dict[str, Any]:
        """Return facts for the log and the status pages."""
        return {
            "model": self._name,
            **self._model.report(),
            "language": self._language,
            "abilities": _unusual(self._model.abilities),
            "warmup": self._warmup,
            "allocator_in_use": allocator_in_use(),
        }

    def run(
        self, request: dict[str, Any], spool: SpoolView | None
    ) -> Generator[Any, None, dict[str, Any]]:
        """Process one file, a quarter of a second of audio per step; progress is seconds of audio
        done."""
        assert spool is not None
        done: Speech | Decoded
        with as_job_errors():
            if "piece_s" in request:
                done = yield from self._decode(msgspec.convert(request, DecodeRequest), spool)
            else:
                done = yield from self._transcribe(msgspec.convert(request, SpeechRequest), spool)
        answer: dict[str, Any] = msgspec.to_builtins(done)
        return answer

    def _transcribe(self, asked: SpeechRequest, spool: SpoolView) -> Generator[Any, None, Speech]:
        reader = AudioReader(spool, _size(spool), self._model.sample_rate, **_as_asked(asked))
        recognised = yield from self._recognise(reader, asked)
        return self._speech(recognised, reader, asked)

    def _decode(self, request: DecodeRequest, spool: SpoolView) -> Generator[Any, None, Decoded]:
        """Yield a long recording's samples in pieces; of each channel, if they are recognised
        separately."""
        asked, rate, count = request.asked, self._model.sample_rate, 0
        reader = AudioReader(spool, _size(spool), rate, **_as_asked(asked))
        cutters = [
            Cutter(rate, request.piece_s, overlap=self._model.abilities.words)
            for _ in range(max(1, len(reader.numbers)))
        ]
        chunks = ((n, cutters[n].feed(chunk)) for n, chunk in reader.pcm(self._model.chunk_bytes))
        rests = ((n, cutter.finish()) for n, cutter in enumerate(cutters))
        for channel, pieces in itertools.chain(chunks, rests):
            for piece in pieces:
                values = dataclasses.asdict(piece) | {"number": count}
                count += 1
                yield msgspec.to_builtins(
                    DecodedPiece(**values, rate=rate, channel=reader.channel(channel)),
                    builtin_types=(bytes,),
                )
            yield None
        return Decoded(
            round(reader.duration_s, 3),
            count,
            self._name,
            self._language_asked(asked),
            [*reader.warnings, *self._not_as_asked(asked)],
            len(cutters),
        )

    def open(self, request: dict[str, Any], before: float, checkpoint: Any) -> StreamSession:
        """Open a live stream (`supervisor.Streaming`); `before`: seconds of it that another worker
        received."""
        if "texts" in request:
            keywords, phrases = tuple(request.get("keywords", ())), bool(request.get("phrases"))
            return TextStream(self._steps.for_request(keywords, phrases=phrases))
        if "sample_rate" in request:
            vosk = msgspec.convert(request, StreamRequest)
            return VoskStream(self._model, vosk, before, checkpoint)
        asked = msgspec.convert(request, CaptionRequest)
        return CaptionStream(self._model, self._steps, self._segments, asked, before, checkpoint)

    def _recognise(
        self, reader: AudioReader, asked: SpeechRequest
    ) -> Generator[Any, None, list[list[models.Utterance]]]:
        """Return the utterances of each channel that is recognised; one list if they are mixed."""
        count = max(1, len(reader.numbers))
        options = asked.options(
            # Times of segments are those of their words.
            words=asked.words or asked.segments or asked.partials or bool(reader.numbers),
            partials=asked.partials and count == 1,
        )
        recognised: list[list[models.Utterance]] = [[] for _ in range(count)]
        with contextlib.ExitStack() as open_ones:
            recognizers = []
            for _ in range(count):
                recognizer = self._model.recognizer(options)
                open_ones.callback(recognizer.close)
                recognizers.append(recognizer)
            done_bytes, reported = 0, time.monotonic()
            for number, chunk in reader.pcm(self._model.chunk_bytes):
                said = yield from recognizers[number].accept(chunk)
                recognised[number] += said
                done_bytes += len(chunk)
                done_s = round(done_bytes / 2 / self._model.sample_rate / count, 3)
                now = time.monotonic()
                if asked.partials and said:
                    reported = now
                    yield from self._finals(said, reader.channel(number), asked, done_s, count)
                elif now - reported >= _REPORT_S:
                    reported, partial = now, None
                    if options.partials:
                        partial = self._segments.text([recognizers[number].partial().text])
                    yield msgspec.to_builtins(SpeechProgress(done_s, partial, None, count))
                else:
                    yield None
            for number, recognizer in enumerate(recognizers):
                said = yield from recognizer.finish()
                recognised[number] += said
                if asked.partials:
                    channel, done_s = reader.channel(number), reader.duration_s
                    yield from self._finals(said, channel, asked, done_s, count)
        return recognised

    def _finals(
        self,
        said: list[models.Utterance],
        channel: int | None,
        asked: SpeechRequest,
        done_s: float,
        count: int,
    ) -> Iterator[Any]:
        segments = [self._segments.segment(one, channel, words=asked.words) for one in said]
        for segment in segments or [None]:
            yield msgspec.to_builtins(SpeechProgress(done_s, None, segment, count))

    def _speech(
        self, recognised: list[list[models.Utterance]], reader: AudioReader, asked: SpeechRequest
    ) -> Speech:
        by_channel = [
            (utterance, number)
            for utterances, number in zip(recognised, reader.numbers or (None,), strict=True)
            for utterance in utterances
        ]
        segments: list[SpeechSegment] = []
        if reader.numbers or asked.segments:
            words = asked.segments and asked.words
            made = (
                self._segments.segment(said, number, words=words) for said, number in by_channel
            )
            segments = in_order(segment for segment in made if segment is not None)
        texts = [segment.text for segment in segments] if reader.numbers else [
            utterance.text for utterance, _ in by_channel
        ]  # fmt: skip
        otherwise = self._language_asked(asked)
        language = main_language(((said.language, said.text) for said, _ in by_channel), otherwise)
        spoken = (word for said, number in by_channel for word in words_of(said, number))
        return Speech(
            text=self._segments.text(texts),
            duration_s=round(reader.duration_s, 3),
            model=self._name,
            language=language,
            words=sorted(spoken, key=lambda word: word.start) if asked.words else [],
            warnings=[*reader.warnings, *self._not_as_asked(asked)],
            segments=in_transcript(segments, language, otherwise),
            channels=max(1, len(reader.numbers)),
        )

    def _language_asked(self, asked: SpeechRequest) -> str:
        """Return the language of the request, for a model that detects none."""
        languages = self._model.abilities.languages
        return closest_language(asked.language, languages) or self._language

    def _not_as_asked(self, asked: SpeechRequest) -> list[str]:
        words = asked.words and asked.words_asked_for
        return not_as_asked(self._model, self._steps, asked, words=words)


def _unusual(abilities: models.Abilities) -> dict[str, Any]:
    """Return the abilities that differ from those of most models, for the log."""
    usual = msgspec.to_builtins(models.Abilities())
    found = msgspec.to_builtins(abilities)
    return {name: value for name, value in found.items() if value != usual[name]}


def _as_asked(asked: SpeechRequest) -> dict[str, Any]:
    """Return the arguments of the reader in a request."""
    return {
        "raw": asked.raw,
        "channels": channel_choice(asked.channels),
        "longest_s": asked.longest_audio_s,
    }


def _size(spool: SpoolView) -> int:
    spool.seek(0, os.SEEK_END)
    return spool.tell()
