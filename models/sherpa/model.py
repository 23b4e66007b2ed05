"""sherpa-onnx behind the engine contract. Imported only where a model is loaded.

Everything is loaded before workers are forked, on one thread: the networks, which all streams
share, and the voice activity network. Decoding opens no file.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from models.contract import ModelError, RecognitionOptions, Recognizer
from models.sherpa.abilities import abilities_of, known_language, language_to_tell
from models.sherpa.decoding import Calls
from models.sherpa.hotwords import Hotwords
from models.sherpa.layout import Layout
from models.sherpa.loading import check_tokens, load_safely
from models.sherpa.offline import WholeDecoder
from models.sherpa.online import StreamDecoder
from models.sherpa.recognizer import Decoder, SegmentRecognizer
from models.sherpa.resampled import ResampledRecognizer
from models.sherpa.runtime import memory_file, session_options
from models.sherpa.search import BEAM, GREEDY
from models.sherpa.segmenter import Segmenter
from models.sherpa.vad import Detector, Detectors, Loudness, Silero
from models.steps import run_steps

_CHUNK_S = 0.25
_STREAM_LONGEST_S = 60.0
"""Seconds after which a stretch of speech is cut for a streaming model."""
_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "sense_voice": {"use_itn": True},
    "whisper": {"language": ""},
}


def load_sherpa(layout: Layout, options: Mapping[str, Any]) -> "SherpaModel":
    """Load a recognised model.

    `options`: `language` (BCP 47 tag of the model's location), `prepared` (its networks are
    optimised already), `form` (for the report), `voice_activity` ("silero", or "loudness":
    everything loud is recognised), `search` (see `models.sherpa.search`). Raises `ModelError`.
    """
    return SherpaModel(layout, options)


class SherpaModel:
    """Model for sherpa-onnx in memory. Implements `models.contract.Model`."""

    def __init__(self, layout: Layout, options: Mapping[str, Any]) -> None:
        """See `load_sherpa`."""
        self.sample_rate = layout.sample_rate
        self.chunk_bytes = 2 * int(_CHUNK_S * self.sample_rate)
        search = str(options.get("search", GREEDY))
        self.abilities = abilities_of(layout, keywords=search != GREEDY)
        self._layout = layout
        self._form = str(options.get("form", "published"))
        self._language = str(options.get("language", ""))
        self._details = {
            "kind": layout.kind.name,
            "quantised": layout.quantised,
            "files": [file.name for file in layout.networks],
            "language": language_to_tell(layout, "", self._language),
        }
        self._hotwords = Hotwords(layout.files["tokens"]) if self.abilities.keywords else None
        check_tokens(layout)
        with session_options(prepared=bool(options.get("prepared"))) as provider:
            made = load_safely(
                layout,
                lambda: _make_all(layout, provider, search, self._hotwords),
                try_out=lambda made: _try_out(layout, made),
            )
        self._calls, self._preferring = Calls(layout, made[0]), Calls(layout, made[-1])
        self._detectors: Detectors
        if options.get("voice_activity", "silero") == "loudness":
            self._detectors = Loudness(self.sample_rate)
        else:
            self._detectors = Silero(self.sample_rate)

    def warm(self, pcm: list[bytes]) -> None:
        """Decode the clips, each as one recording, whether there is speech in them or not."""
        told = language_to_tell(self._layout, "", self._language)
        options = RecognitionOptions(words=self.abilities.words)
        with_keyword = replace(options, keywords=self._some_keyword())
        rounds = [(options, clip) for clip in pcm]
        rounds += [(with_keyword, clip) for clip in pcm[:1] if with_keyword.keywords]
        for asked, clip in rounds:
            recognizer = self._recognizer(asked, told, _Always(self._detectors.detector()))
            for at in range(0, len(clip), self.chunk_bytes):
                run_steps(recognizer.accept(clip[at : at + self.chunk_bytes]))
            run_steps(recognizer.finish())
            recognizer.close()

    def recognizer(self, options: RecognitionOptions, rate: float | None = None) -> Recognizer:
        """Make a recogniser. Raises `ModelError` for a grammar and for an unknown language."""
        if options.grammar is not None:
            raise ModelError("grammar_unsupported", "this model cannot be limited to phrases")
        language = options.language
        if language and known_language(self._layout, language) is None:
            known = ", ".join(self.abilities.languages) or "no choice of languages"
            raise ModelError(
                "language_unsupported", f"unexpected language {language!r}: this model has {known}"
            )
        told = language_to_tell(self._layout, language, self._language)
        recognizer = self._recognizer(options, told, self._detectors.detector())
        if rate is None or rate == self.sample_rate:
            return recognizer
        return ResampledRecognizer(recognizer, rate, self.sample_rate)

    def _some_keyword(self) -> tuple[str, ...]:
        """Return a keyword that the model has tokens for; nothing if it prefers none."""
        return () if self._hotwords is None else self._hotwords.sample

    def _recognizer(
        self, options: RecognitionOptions, language: str, detector: Detector
    ) -> SegmentRecognizer:
        decoder: Decoder
        hotwords = "" if self._hotwords is None else self._hotwords.text(options.keywords)
        calls = self._preferring if hotwords else self._calls
        if self._layout.streaming:
            decoder, longest_s = StreamDecoder(calls, options, hotwords), _STREAM_LONGEST_S
        else:
            decoder = WholeDecoder(calls, options, language, hotwords)
            longest_s = self._layout.longest_s or _STREAM_LONGEST_S
        limited = 0 < options.max_utterance_s < longest_s
        segmenter = Segmenter(
            detector.probability,
            self.sample_rate,
            self._detectors.frame_samples,
            options.max_utterance_s if limited else longest_s,
            cuts_back=limited or options.endpoint_ms > 0 or not self._layout.streaming,
            pause_s=options.endpoint_ms / 1000 or None,
        )
        return SegmentRecognizer(
            decoder,
            detector,
            segmenter,
            rate=self.sample_rate,
            frame_samples=self._detectors.frame_samples,
            options=options,
        )

    def unknown_words(self, phrases: tuple[str, ...]) -> list[str]:
        """Return an empty list: grammars are not supported."""
        return []

    def ignored_keywords(self, keywords: tuple[str, ...]) -> list[str]:
        """Return the keywords that cannot be hotwords."""
        return list(keywords) if self._hotwords is None else self._hotwords.ignored(keywords)

    def report(self) -> dict[str, Any]:
        """Describe how it was loaded."""
        return {"engine": "onnx", "form": self._form, "details": self._details}


class _Always:
    """Detector that takes everything for speech. Implements `models.sherpa.vad.Detector`."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def probability(self, frame: bytes) -> float:
        self._detector.probability(frame)
        return 1.0

    def reset(self) -> None:
        self._detector.reset()


def _make_all(
    layout: Layout, provider: str, search: str, hotwords: Hotwords | None
) -> tuple[Any, ...]:
    """Make the library's recognisers: for requests without keywords, and for those with keywords.
    They may be the same one."""
    made: list[Any] = []
    if search != BEAM or hotwords is None:
        made.append(_make(layout, provider))
    if hotwords is not None:
        with memory_file(hotwords.table()) as tokens:
            made.append(
                _make(layout, provider, decoding_method="modified_beam_search", tokens=tokens)
            )
    return tuple(made)


def _make(layout: Layout, provider: str, **more: str) -> Any:
    """Make a recogniser of the library, or end the process (`models.sherpa.loading`)."""
    import sherpa_onnx

    kind = layout.kind
    made_by = sherpa_onnx.OnlineRecognizer if kind.streaming else sherpa_onnx.OfflineRecognizer
    factory: Callable[..., Any] = getattr(made_by, kind.factory)
    arguments: dict[str, Any] = {name: str(file) for name, file in layout.files.items()}
    arguments |= {**layout.arguments, **_ARGUMENTS.get(kind.name, {})}
    return factory(**arguments | more, num_threads=1, provider=provider)


def _try_out(layout: Layout, recognizers: tuple[Any, ...]) -> None:
    """Decode a second of silence: networks that do not belong together fail only now. Raises the
    library's exceptions; its log is not checked, since some models find no end in silence."""
    for made in recognizers:
        stream = made.create_stream()
        stream.accept_waveform(layout.sample_rate, [0.0] * layout.sample_rate)
        if not layout.streaming:
            made.decode_stream(stream)
            continue
        stream.input_finished()
        while made.is_ready(stream):
            made.decode_stream(stream)
