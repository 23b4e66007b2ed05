"""Warnings about keywords that make no difference."""

from pathlib import Path
from typing import Any

import pytest
from late_model import LateModel

from modelserver.speech.messages import SpeechRequest
from modelserver.worker.abilities import not_as_asked
from modelserver.worker.text_steps import TextSteps, WritingModel

pytestmark = pytest.mark.quick


def warnings(*steps: str, language: str = "en", **asked: Any) -> list[str]:
    made = TextSteps(steps, language)
    return not_as_asked(WritingModel(LateModel(), made), made, SpeechRequest(**asked), words=False)


def test_keywords_that_neither_the_model_nor_a_step_uses_are_named() -> None:
    (warning,) = warnings(keywords=("Zaphod",))
    assert warning.startswith("keywords: this model cannot prefer them; the text step vocabulary")
    assert warnings("vocabulary", keywords=("Zaphod",)) == []
    assert warnings() == []


def test_a_client_is_not_warned_of_the_keywords_of_the_models_file() -> None:
    assert warnings(keywords=("Zaphod",), model_keywords=1) == []
    (warning,) = warnings(keywords=("Zaphod", "Trillian"), model_keywords=1)
    assert warning in warnings(keywords=("Zaphod",))


def test_a_step_that_fails_on_keywords_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use a step of any name: it counts that it takes keywords."""
    (tmp_path / "brittle.py").write_text(
        "class Step:\n"
        "    def __init__(self, language): pass\n"
        "    def __call__(self, text): return text\n"
        "    def with_keywords(self, keywords):\n"
        "        if 'Zaphod' in keywords: raise ValueError('two heads')\n"
        "        return self\n"
    )
    information = tmp_path / "brittle-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: brittle\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[modelserver.text_steps]\nbrittle = brittle:Step\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert warnings("brittle", keywords=("Trillian",)) == []
    assert warnings("brittle", keywords=("Zaphod",)) == [
        "keywords: the text step brittle cannot use them: two heads"
    ]
