"""Calls of sherpa-onnx, from samples to a result; a failed decode is an error.

The library has two ways to fail: it raises, or it logs an exception and returns an empty text.
"""

import re
from array import array
from dataclasses import dataclass
from typing import Any

from models.contract import ModelError, Word
from models.sherpa.abilities import abilities_of
from models.sherpa.layout import Layout
from models.sherpa.messages import LibraryMessages
from models.sherpa.words import words_of

_FAILED = "Caught exception"
_WHISPER_PADDING_S = 0.5
"""Seconds of silence behind the audio: without it the limit of 6 tokens per second cuts fast
speech."""
_NO_SPEECH = re.compile(r"[\s.]*(?:[\[(（【*♪][^\])）】*♪]*[\])）】*♪][\s.]*)*")
"""Whisper's names of sounds, such as [Music], (applause), *sighs*, and nothing else."""
_TAGS = re.compile(r"<\|([^|]*)\|>")


@dataclass(frozen=True, slots=True)
class Decoded:
    """Result of one stretch of speech."""

    text: str = ""
    words: tuple[Word, ...] = ()
    language: str = ""
    """Language that the model has detected; empty if it did not detect one."""


def floats(pcm: bytes) -> "array[float]":
    """Return 16-bit samples as the library takes them: -1 to 1."""
    return array("f", [sample * (1 / 32768) for sample in array("h", pcm)])


class Calls:
    """Calls of one recogniser of the library."""

    def __init__(self, layout: Layout, recognizer: Any) -> None:
        """Wrap a recogniser: a `sherpa_onnx.OfflineRecognizer` or `OnlineRecognizer`."""
        self.layout = layout
        self.recognizer = recognizer
        self._abilities = abilities_of(layout)
        self._messages = LibraryMessages()
        self._language = ""
        self._whisper = layout.kind.name == "whisper"

    def call(self, function: Any, *arguments: Any) -> Any:
        """Call the library. Raises `ModelError`, code `engine_failed`."""
        try:
            with self._messages.caught() as texts:
                answer = function(*arguments)
        except Exception as error:  # the binding raises nothing more specific
            raise _failed(str(error)) from error
        if _FAILED in texts[0]:
            raise _failed(texts[0].partition(_FAILED)[2])
        return answer

    def stream(self, hotwords: str) -> Any:
        """Make a stream. `hotwords`: see `models.sherpa.hotwords`; may be empty."""
        return self.call(self.recognizer.create_stream, *((hotwords,) if hotwords else ()))

    def decode(
        self, pcm: bytes, language: str, start_s: float, *, words: bool, hotwords: str = ""
    ) -> Decoded:
        """Decode a stretch of speech at once. `language`: a tag, or empty. `start_s`: its start,
        from which the times of words count. `hotwords`: see `stream`."""
        self._choose(language)
        stream = self.stream(hotwords)
        if self.layout.kind.name == "cohere" and language:
            stream.set_option("language", language)
        rate = self.layout.sample_rate
        samples = floats(pcm)
        if self._whisper:
            room = int((self.layout.kind.longest_s - 0.1) * rate) - len(samples)
            samples.extend([0.0] * max(0, min(room, int(_WHISPER_PADDING_S * rate))))
        self.call(stream.accept_waveform, rate, samples)
        self.call(self.recognizer.decode_stream, stream)
        end_s = start_s + len(pcm) / 2 / rate
        scores = "ys_log_probs"
        return self.result(stream.result, scores, start_s, end_s, words=words, found=not language)

    def result(
        self, result: Any, scores: str, start_s: float, end_s: float, *, words: bool, found: bool
    ) -> Decoded:
        """Convert a result of the library. `scores`: name of its tokens' log probabilities.
        `found`: the model was not given a language."""
        text = _text_of(result)
        if self._whisper and _NO_SPEECH.fullmatch(text):
            text = ""
        spoken: tuple[Word, ...] = ()
        if words and text and self._abilities.words:
            spoken = words_of(
                text,
                result.tokens,
                result.timestamps,
                start_s=start_s,
                end_s=end_s,
                log_probabilities=getattr(result, scores) if self._abilities.confidences else (),
            )
        language = ""
        if found and text and self._abilities.detects_language:
            detected = _TAGS.sub(r"\1", getattr(result, "lang", "")).strip()
            language = detected if detected in self.layout.languages else ""
        return Decoded(text, spoken, language)

    def _choose(self, language: str) -> None:
        """Set the language that the library expects from now on. Loads nothing."""
        kind = self.layout.kind.name
        if language == self._language or kind not in ("whisper", "canary"):
            return
        config = self.recognizer.config
        if kind == "whisper":
            config.model_config.whisper.language = language
        else:
            config.model_config.canary.src_lang = config.model_config.canary.tgt_lang = language
        self.recognizer.recognizer.set_config(config)
        self._language = language


def _text_of(result: Any) -> str:
    try:
        text: str = result.text
    except UnicodeDecodeError as error:  # the last character is incomplete
        text = error.object.decode("utf-8", "ignore")
    return _TAGS.sub("", text).strip()


def _failed(text: str) -> ModelError:
    line = " ".join(text.split("Return an empty result")[0].split()).strip(" :,")[:300]
    return ModelError("engine_failed", f"the engine cannot decode this audio: {line}")
