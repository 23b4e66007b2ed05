"""Comparison of a prepared ONNX model with its original: the texts of the same recordings must be
the same to the letter, and the prepared one must take less memory.

Run as `python -P -m models.sherpa.selfcheck` with a JSON document on standard input: each model is
loaded in a process of its own.
"""

import contextlib
import os
import sys
import time
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from models.contract import Model, ModelError, ModelLocation, RecognitionOptions
from models.prepared.asking import answer_of
from models.steps import run_steps

_WORTH, _LEAST_GAIN_BYTES = 0.9, 16_000_000
"""Share of the original's memory that a prepared model may take at most, and the bytes that it has
to save at least: two loads of one small model differ by a few megabytes."""
_MOST_CLIPS = 8
_MOST_CLIP_S = 20


class _Asked(msgspec.Struct):
    directory: str
    language: str
    clips: list[str]
    prepared: bool


class Answers(msgspec.Struct, frozen=True):
    """Texts of the recordings by one model. `anonymous`: bytes of unreclaimable memory that loading
    and decoding took; `load_s`: seconds."""

    texts: list[str]
    anonymous: int
    load_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Answers of the original and of the prepared model."""

    before: Answers
    after: Answers


def must_answer_alike(
    location: ModelLocation, prepared: Path, environment: Mapping[str, str] | None = None
) -> Comparison:
    """Compare the model at `location` with the prepared one in a directory. `environment`: of a
    process that loads a model; None: that of this process.

    Raises `ModelError`: `answers_differ`, `does_not_pay`, and those of `answer_of`.
    """
    from models.sherpa.layout import recognise

    clips = [str(clip) for clip in recognise(location.directory).clips[:_MOST_CLIPS]]
    asked = _Asked(str(location.directory), location.language, clips, prepared=False)
    environment = os.environ if environment is None else environment
    before = answer_of(__name__, asked, Answers, environment)
    asked = msgspec.structs.replace(asked, directory=str(prepared), prepared=True)
    after = answer_of(__name__, asked, Answers, environment)
    for expected, text in zip(before.texts, after.texts, strict=True):
        if expected != text:
            raise ModelError(
                "answers_differ",
                "the prepared model does not answer like its original: "
                f"{expected[:200]!r} became {text[:200]!r}",
            )
    if after.anonymous > min(_WORTH * before.anonymous, before.anonymous - _LEAST_GAIN_BYTES):
        raise ModelError(
            "does_not_pay",
            f"prepared, {location.name} takes {after.anonymous // 1_000_000} MB of memory instead "
            f"of {before.anonymous // 1_000_000} MB: it is served as it was published",
        )
    return Comparison(before, after)


def _answers(asked: _Asked) -> Answers:
    from models.sherpa.layout import recognise
    from models.sherpa.model import load_sherpa

    at_first, started = _anonymous(), time.monotonic()
    options = {"language": asked.language, "prepared": asked.prepared}
    model = load_sherpa(recognise(Path(asked.directory)), options)
    load_s = time.monotonic() - started
    texts = [_text(model, pcm) for pcm in _recordings(asked, model.sample_rate)]
    return Answers(texts, _anonymous() - at_first, load_s)


def _recordings(asked: _Asked, rate: int) -> Iterator[bytes]:
    """Yield the recordings that came with the model, bundled ones, and noise."""
    from models.clips import clips_for, decode_clip, noise

    for name in asked.clips:
        with contextlib.suppress(wave.Error, EOFError), wave.open(name) as reader:
            form = reader.getframerate(), reader.getnchannels(), reader.getsampwidth()
            if form == (rate, 1, 2):
                yield reader.readframes(min(reader.getnframes(), _MOST_CLIP_S * rate))
    for clip in clips_for(asked.language)[:_MOST_CLIPS]:
        yield decode_clip(clip, rate)
    yield noise(2, rate)


def _text(model: Model, pcm: bytes) -> str:
    recognizer = model.recognizer(RecognitionOptions())
    said = []
    for at in range(0, len(pcm), model.chunk_bytes):
        said += run_steps(recognizer.accept(pcm[at : at + model.chunk_bytes]))
    said += run_steps(recognizer.finish())
    recognizer.close()
    return " ".join(utterance.text for utterance in said)


def _anonymous() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=_Asked)
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(_answers(request)))
