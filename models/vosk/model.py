"""Vosk behind the engine contract. Imported only where a model is loaded.

A model whose graph is composed lazily, inside the recogniser, retains its recognisers: a new one
would have to compose the graph again, which costs four times the decoding. A model with a static
graph makes a new recogniser for every request, which is simpler and costs it nothing.
"""

import json
import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from models.contract import (
    DEFAULT_PROFILE,
    PROFILES,
    Abilities,
    Alternative,
    ModelError,
    Partial,
    RecognitionOptions,
    Recognizer,
    Utterance,
    Word,
)
from models.steps import run_steps
from models.vosk.beam import Beam
from models.vosk.endpoints import EndpointRecognizer
from models.vosk.features import sample_rate_of
from models.vosk.loading import load_vosk, vosk
from models.vosk.mapping import read_through

_CHUNK_S = 0.25
"""Seconds of a chunk. Vosk looks for an endpoint after each chunk that it is given, so chunks of
one length are needed for the same audio to give the same text."""

_LONGEST_REUSED_S = 4 * 3600
"""Seconds of audio after which a recogniser is not used again: its times are 32-bit floats that
count from its start, and would be off by a hundredth of a second."""

_MOST_REUSED = 2
"""Recognisers of a lazily composed graph that a process retains: each holds the composed part, some
115 MB after 20 s of speech. Two, so that both channels of a call find one."""


_GUARDED = ("mapped_bytes", "working_set_bytes")
"""Facts that the guard reads, about file cache."""

_PROBLEMS = ("not_mapped", "not_packed")
"""Facts that tell why it was not loaded as requested."""

_UNKNOWN = "[unk]"
"""Word of a grammar that stands for any other speech."""


class VoskModel:
    """Vosk model in memory. Implements `models.contract.Model`."""

    def __init__(
        self,
        directory: Path,
        made: Mapping[str, Path] | None = None,
        *,
        prefetch: bool = False,
        left_out: tuple[str, ...] = (),
        simd: str | None = None,
        form: str = "",
    ) -> None:
        """Load the model in `directory`, with the files in `made` (path inside the model, to a file
        of a prepared model) in place of its own.

        `prefetch`: read a mapped graph through once. `left_out`: folders that are not loaded.
        `simd`: the variant of that library (`models.vosk.simd`) with which this process was
        started. `form`: name of this way to load it, for the report. Raises `ModelError` if Vosk
        refuses the files.
        """
        vosk.SetLogLevel(-1)
        self.sample_rate = sample_rate_of(directory)
        self.chunk_bytes = 2 * int(_CHUNK_S * self.sample_rate)
        self._free: list[ReusableRecognizer] = []
        self._form, self._left_out = form, left_out
        self._model, self.loaded = load_vosk(directory, made or {}, left_out, simd)
        self._beam = Beam(self._model, vosk._ffi, directory)
        self.abilities = Abilities(
            phrases="only" if self.loaded.lazy else "no",
            profiles=PROFILES if self._beam.found else (DEFAULT_PROFILE,),
        )
        self._prefetched = prefetch and self.loaded.graph is not None
        if prefetch and self.loaded.graph is not None:
            read_through(self.loaded.graph)

    def warm(self, pcm: list[bytes]) -> None:
        """Decode the clips (see `models.Model`). With the SIMD library, nothing is packed after
        this check; otherwise a recogniser is retained, which every fork inherits."""
        simd = self.loaded.simd
        if simd is not None:
            simd.alike(lambda: [self.text(clip) for clip in pcm])
            simd.freeze()
            return
        for clip in pcm:
            self.text(clip)

    def text(self, pcm: bytes) -> str:
        """Return the text of a clip, as `Recognizer.accept` takes it."""
        recognizer = self.recognizer(RecognitionOptions())
        said = [one for chunk in self._chunks(pcm) for one in run_steps(recognizer.accept(chunk))]
        said += run_steps(recognizer.finish())
        recognizer.close()
        return " ".join(utterance.text for utterance in said)

    def _chunks(self, pcm: bytes) -> Iterator[bytes]:
        return (pcm[at : at + self.chunk_bytes] for at in range(0, len(pcm), self.chunk_bytes))

    def recognizer(self, options: RecognitionOptions, rate: float | None = None) -> Recognizer:
        """Make a recogniser (see `models.Model`). With a `rate` the engine resamples, and results
        are those of its own programs; otherwise it is a retained recogniser with its composed
        graph, if one is free."""
        if not options.endpoint_ms and not options.max_utterance_s:
            return self._recognizer(options, rate)
        inner = self._recognizer(replace(options, words=True), rate)
        return EndpointRecognizer(inner, rate or self.sample_rate, options)

    def _recognizer(self, options: RecognitionOptions, rate: float | None) -> "VoskRecognizer":
        if rate is not None:
            engine = self._engine_recognizer(rate, options)
            return VoskRecognizer(engine, rate, self._beam, options)
        if self._free and options.grammar is None:
            recognizer = self._free.pop()
            recognizer.begin(options)
            return recognizer
        free = self._free if self.loaded.lazy and options.grammar is None else None
        engine = self._engine_recognizer(self.sample_rate, options)
        return ReusableRecognizer(engine, self.sample_rate, self._beam, options, free)

    def report(self) -> dict[str, Any]:
        """See `models.Model`."""
        facts = {**self.loaded.report(), "prefetched": self._prefetched}
        facts["simd"] = facts["search"] = "engine"
        facts["profiles"] = self._beam.found
        simd = self.loaded.simd
        not_packed = self.loaded.not_packed if simd is None else simd.refused
        if not_packed is not None:
            facts["not_packed"] = not_packed
        elif simd is not None:
            # A graph that is composed while decoding is searched by the engine.
            searches = simd.searches and not self.loaded.lazy
            facts["simd"] = f"packed, {simd.variant}"
            facts["search"] = "simd" if searches else "engine"
            facts["packed_bytes"] = simd.packed_bytes
            facts["aside_bytes"] = simd.aside_bytes
        if self._left_out:
            facts["left_out"] = list(self._left_out)
        guarded = {name: facts.pop(name) for name in _GUARDED if name in facts}
        problems = [str(facts[name]) for name in _PROBLEMS if name in facts]
        report = {"engine": "vosk", "form": self._form, **guarded, "details": facts}
        return report | ({"problems": problems} if problems else {})

    def ignored_keywords(self, keywords: tuple[str, ...]) -> list[str]:
        """Return all keywords: none can be preferred."""
        return list(keywords)

    def unknown_words(self, phrases: tuple[str, ...]) -> list[str]:
        """Return the words that are not in the vocabulary."""
        words = dict.fromkeys(word for phrase in phrases for word in phrase.split())
        return [word for word in words if not self._has(self._own(word))]

    def _has(self, word: str) -> bool:
        return bool(self._model.vosk_model_find_word(word) >= 0)

    def _own(self, word: str) -> str:
        """Return this model's form of "[unk]", which Vosk's clients use; other words unchanged."""
        if word == _UNKNOWN:
            return next((one for one in (_UNKNOWN, "<unk>", "<UNK>") if self._has(one)), word)
        return word

    def _engine_recognizer(self, sample_rate: float, options: RecognitionOptions) -> Any:
        grammar = options.grammar
        self._beam.use(options.profile or DEFAULT_PROFILE)
        if grammar is None:
            return vosk.KaldiRecognizer(self._model, sample_rate)
        if not self.loaded.lazy:
            raise ModelError(
                "grammar_unsupported",
                "this model's graph is compiled: it cannot be limited to phrases",
            )
        # The engine ignores words that it does not know, and needs at least one that it knows.
        unknown = set(self.unknown_words(grammar))
        known = [
            " ".join(map(self._own, phrase.split()))
            for phrase in grammar
            if not unknown.issuperset(phrase.split())
        ]
        if not known:
            raise ModelError(
                "grammar_unknown", "no word of the phrases is in the model's vocabulary"
            )
        return vosk.KaldiRecognizer(self._model, sample_rate, json.dumps(known, ensure_ascii=False))


class VoskRecognizer:
    """Vosk recogniser, used as by the engine's own programs, with the engine's numbers. Implements
    `models.contract.Recognizer`."""

    def __init__(
        self, recognizer: vosk.KaldiRecognizer, rate: float, beam: Beam, options: RecognitionOptions
    ) -> None:
        self._recognizer = recognizer
        self._beam = beam
        # The engine processes its input in pieces of this many samples (Vosk:
        # Recognizer::AcceptWaveform), and looks for an endpoint after the last one. So several
        # pieces, given one after the other, have the same result.
        self._piece_bytes = 2 * int(rate * 0.2)
        self.begin(options)

    def begin(self, options: RecognitionOptions) -> None:
        """Start on new audio. A Vosk recogniser remembers its options, so all are set."""
        self._recognizer.SetWords(options.words)
        self._recognizer.SetMaxAlternatives(options.alternatives)
        self._recognizer.SetPartialWords(options.partial_words)
        self._profile = options.profile or DEFAULT_PROFILE

    def accept(self, pcm: bytes) -> Generator[None, None, list[Utterance]]:
        """See `models.Recognizer`. Raises `ModelError`."""
        ended = yield from self.give(pcm)
        return [self._utterance(self._recognizer.Result())] if ended else []

    def give(self, pcm: bytes) -> Generator[None, None, bool]:
        """Process samples; return whether the engine finds that the utterance has ended. Raises
        `ModelError`."""
        ended = False
        for at in range(0, max(1, len(pcm)), self._piece_bytes):
            if at:
                yield
            self._beam.use(self._profile)  # another profile may have been used since
            try:
                ended = self._recognizer.AcceptWaveform(pcm[at : at + self._piece_bytes])
            except Exception as error:  # the binding raises nothing more specific
                raise ModelError(
                    "engine_failed", f"the engine cannot decode this audio: {error}"
                ) from error
        return ended

    def partial(self) -> Partial:
        """See `models.Recognizer`."""
        result = msgspec.json.decode(self._recognizer.PartialResult(), type=_PartialJson)
        return Partial(result.partial, self._words(result.partial_result))

    def finish(self) -> Generator[None, None, list[Utterance]]:
        """Return the last utterance (see `models.Recognizer`); none if no audio came since the last
        end."""
        yield from ()
        answer = self._recognizer.FinalResult()
        return [] if answer in _NOTHING_CAME else [self._utterance(answer)]

    def pending(self) -> bytes:
        """See `models.Recognizer`."""
        return b""

    def close(self) -> None:
        """See `models.Recognizer`."""

    def _utterance(self, answer: str) -> Utterance:
        result = msgspec.json.decode(answer, type=_FinalJson)
        alternatives = tuple(
            Alternative(a.text, a.confidence, self._words(a.result)) for a in result.alternatives
        )
        if alternatives:
            return Utterance(alternatives[0].text, alternatives[0].words, alternatives)
        return Utterance(result.text, self._words(result.result))

    def _words(self, words: "list[_WordJson]") -> tuple[Word, ...]:
        return tuple(self._word(word) for word in words)

    def _word(self, word: "_WordJson") -> Word:
        return Word(word.word, word.start, word.end, word.conf)


class ReusableRecognizer(VoskRecognizer):
    """Recogniser that serves one request after another: each starts from the initial state, and its
    numbers are rounded so that they do not depend on earlier requests."""

    def __init__(
        self,
        recognizer: vosk.KaldiRecognizer,
        sample_rate: int,
        beam: Beam,
        options: RecognitionOptions,
        free_list: "list[ReusableRecognizer] | None",
    ) -> None:
        """Take over an engine recogniser. `free_list`: list to which it is added when it is closed;
        None: it is not retained."""
        self._rate = sample_rate
        self._free_list = free_list
        self._samples = 0  # processed since it was made
        self._in_utterance = False
        super().__init__(recognizer, sample_rate, beam, options)

    def begin(self, options: RecognitionOptions) -> None:
        super().begin(options)
        self._begun_at_s = self._samples / self._rate
        self._open = True

    def accept(self, pcm: bytes) -> Generator[None, None, list[Utterance]]:
        if not pcm:
            return []
        ended = yield from super().accept(pcm)
        self._in_utterance = not ended
        return ended

    def give(self, pcm: bytes) -> Generator[None, None, bool]:
        self._samples += len(pcm) // 2
        self._in_utterance = True
        return (yield from super().give(pcm))

    def finish(self) -> Generator[None, None, list[Utterance]]:
        if not self._in_utterance:
            # Only the end of an utterance resets the state for the next request: after an endpoint
            # the speaker adaptation would stay, so there must be an utterance to end.
            yield from self.accept(b"\0\0")
        self._in_utterance = False
        return (yield from super().finish())

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        if self._free_list is None or len(self._free_list) >= _MOST_REUSED:
            return
        if self._samples > _LONGEST_REUSED_S * self._rate:
            return
        if self._in_utterance:
            run_steps(self.finish())
        self._free_list.append(self)

    def _word(self, word: "_WordJson") -> Word:
        # Four digits: the sixth depends on earlier requests of a retained recogniser.
        sure = None if word.conf is None else round(word.conf, 4)
        return Word(word.word, self._since_begin(word.start), self._since_begin(word.end), sure)

    def _since_begin(self, time_s: float) -> float:
        """Return a time since `begin`, in hundredths. Times are often halfway between two
        hundredths, and a retained recogniser counts in a 32-bit float: rounded with a bias, all
        give the same."""
        return max(0.0, math.floor((time_s - self._begun_at_s) * 100 + 0.7) / 100)


_NOTHING_CAME = ('{"text": ""}', '{"alternatives" : [{"text": "", "confidence" : 1.0}] }')
"""Answers of the engine if no audio came since the last end (Vosk: StoreEmptyReturn)."""


class _WordJson(msgspec.Struct):
    word: str
    start: float
    end: float
    conf: float | None = None


class _AlternativeJson(msgspec.Struct):
    text: str
    confidence: float
    result: list[_WordJson] = []


class _FinalJson(msgspec.Struct):
    text: str = ""
    result: list[_WordJson] = []
    alternatives: list[_AlternativeJson] = []


class _PartialJson(msgspec.Struct):
    partial: str = ""
    partial_result: list[_WordJson] = []
