"""Warnings about keywords that make no difference."""

from typing import Any

import pytest
from late_model import LateModel

from modelserver.speech.messages import SpeechRequest
from modelserver.worker.abilities import not_as_asked
from modelserver.worker.text_steps import TextSteps, WritingModel

pytestmark = pytest.mark.quick


def warnings(*steps: str, language: str = "en", **asked: Any) -> list[str]:
    model = WritingModel(LateModel(), TextSteps(steps, language))
    return not_as_asked(model, SpeechRequest(**asked), words=False)


def test_keywords_that_neither_the_model_nor_a_step_uses_are_named() -> None:
    (warning,) = warnings(keywords=("Zaphod",))
    assert warning.startswith("keywords: this model cannot prefer them; the text step vocabulary")
    assert warnings("vocabulary", keywords=("Zaphod",)) == []
    assert warnings() == []


def test_a_client_is_not_warned_of_the_keywords_of_the_models_file() -> None:
    assert warnings(keywords=("Zaphod",), model_keywords=1) == []
    (warning,) = warnings(keywords=("Zaphod", "Trillian"), model_keywords=1)
    assert warning in warnings(keywords=("Zaphod",))
