"""Options of recognition on their way from a request to a worker."""

import dataclasses

import pytest

from modelserver.live.vosk import _Wanted
from modelserver.request.parameters import Parameters
from modelserver.speech.messages import RecognitionRequest, SpeechRequest, recognition_of

pytestmark = pytest.mark.quick

CHOSEN = {
    "alternatives": 3,
    "phrases": ("a", "b"),
    "profile": "fast",
    "language": "zh",
    "keywords": ("c",),
    "endpoint_ms": 700,
    "max_utterance_s": 20.0,
}


def test_every_option_that_clients_choose_reaches_the_worker() -> None:
    """Options that clients cannot choose are named here, so that a new one is not forgotten."""
    assert {*RecognitionRequest.__struct_fields__} == {*CHOSEN, "model_keywords"}
    asked = dataclasses.replace(Parameters(), **CHOSEN)  # type: ignore[arg-type]
    assert recognition_of(SpeechRequest(**recognition_of(asked))) == CHOSEN
    wanted = dataclasses.replace(_Wanted(8000.0), **CHOSEN)  # type: ignore[arg-type]
    assert recognition_of(wanted.request()) == CHOSEN


def test_no_language_is_an_empty_one() -> None:
    assert recognition_of(Parameters())["language"] == ""
