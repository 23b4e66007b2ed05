"""Streams over the recognisers of sherpa-onnx, with small models that recognise tones."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dying_worker import answers_after_a_death, fed, finals, pieces
from onnx_models import RATE, make_model, silence, tones

import models
from models.sherpa.layout import recognise
from models.sherpa.model import load_sherpa
from modelserver.audio.formats import RawFormat
from modelserver.speech.messages import EOF, CaptionRequest, StreamRequest
from modelserver.worker.model import SpeechModel
from modelserver.worker.profiles import ProfiledModel
from modelserver.worker.text_steps import TextSteps

KINDS = ("sense_voice", "paraformer", "online_transducer")
SPEECH = silence(0.8) + tones("abc ab") + silence(1.2) + tones("dead") + silence(1) + tones("gh")


@pytest.fixture(scope="module", params=KINDS)
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> SpeechModel:
    directory: Path = make_model(request.param, tmp_path_factory.mktemp("models") / "small")
    loaded = load_sherpa(recognise(directory), {"voice_activity": "loudness"})
    profiled = ProfiledModel(loaded, models.DEFAULT_PROFILE)
    return SpeechModel(profiled, "small", "zh", "none", TextSteps((), "zh"))


def captions(**more: Any) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(
        CaptionRequest(raw=RawFormat("s16le", RATE), **more)
    )
    return built


def test_captions_are_the_same_wherever_the_worker_dies(model: SpeechModel) -> None:
    inputs = pieces(SPEECH, 0.3, RATE)
    asked = captions(words=True, partials=False)
    alone = finals(answers_after_a_death(model, asked, inputs, 0))
    assert len(alone) == 3
    assert all(one["start"] < one["end"] for one in alone)
    for dies_after in range(1, len(inputs), 2):
        again = finals(answers_after_a_death(model, asked, inputs, dies_after))
        assert [one["text"] for one in again] == [one["text"] for one in alone]
        for one, other in zip(again, alone, strict=True):
            # Stretches begin at frames, which are counted from where a recogniser begins.
            assert one["start"] == pytest.approx(other["start"], abs=0.06)
            assert one["end"] == pytest.approx(other["end"], abs=0.06)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_the_vosk_protocol_is_spoken_at_any_rate(model: SpeechModel, rate: int) -> None:
    speech = silence(0.8, rate) + tones("ab", rate) + silence(1.2, rate) + tones("de", rate)
    session = model.open(msgspec.to_builtins(StreamRequest(rate)), 0.0, None)
    said = [json.loads(fed(session, data).values[0]) for data in pieces(speech, 0.3, rate)]
    texts = [one["text"] for one in said if one.get("text")]
    assert len(texts) == 2
    assert any(one.get("partial") for one in said)
    for final in (one for one in said if "result" in one):
        assert all(word["start"] < word["end"] for word in final["result"])


def test_partial_captions_come_before_the_final_one(model: SpeechModel) -> None:
    session = model.open(captions(), 0.0, None)
    said = [one for data in pieces(SPEECH, 0.1, RATE) for one in fed(session, data).values]
    kinds = [(one["segment"], one["kind"]) for one in said if "kind" in one]
    assert (0, "partial") in kinds
    assert kinds == sorted(kinds, key=lambda one: (one[0], one[1] == "final"))
    assert said[-1]["segments"] == 3
    assert fed(model.open(captions(), 0.0, None), EOF).values[-1]["segments"] == 0
