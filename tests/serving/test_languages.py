"""Models that speak several languages: found by each of them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from onnx_models import make_model

import models
from modelserver.api.about import about_model
from modelserver.serving.loading import ModelLoading
from modelserver.serving.registry import ModelRegistry, UnknownModel
from modelserver.serving.served import ServedModel
from modelserver.settings import Settings
from modelserver.speech.languages import closest_language
from modelserver.speech.messages import SpeechSegment
from modelserver.speech.segments import in_transcript, main_language
from modelserver.speech.subtitles import spread_words, srt

pytestmark = pytest.mark.quick

ABILITIES = models.Abilities(words=False, languages=("zh", "yue", "en"), detects_language=True)


def served(
    label: str, language: str, abilities: models.Abilities, *, takes_phrases: bool = False
) -> ServedModel:
    """Return a model whose pool has loaded it; `takes_phrases`: in another form."""
    made = ServedModel.__new__(ServedModel)
    made.label, made.settings = label, Settings()
    report = {"model": label, "language": language, "abilities": msgspec.to_builtins(abilities)}
    pool: Any = SimpleNamespace(report=lambda: report)
    made.pool = pool
    loading: Any = SimpleNamespace(takes_phrases=lambda: takes_phrases)
    made._loading = loading
    return made


@pytest.fixture
def registry() -> ModelRegistry:
    found = ModelRegistry.__new__(ModelRegistry)
    korean, several = served("ko", "ko", models.Abilities()), served("many", "zh", ABILITIES)
    found._models = {"ko": korean, "many": several}
    return found


def test_a_model_is_found_by_each_of_its_languages(registry: ModelRegistry) -> None:
    assert registry.find(language="ko-KR").label == "ko"
    for language in ("zh-CN", "yue", "en-US"):
        assert registry.find(language=language).label == "many"
    with pytest.raises(UnknownModel, match=r"ko \(ko, ko\), many \(many, zh yue en\)"):
        registry.find(language="fr")


def test_the_list_of_models_says_what_each_can_do(registry: ModelRegistry) -> None:
    (korean, several) = map(about_model, registry.values())
    assert korean.languages == ["ko"]
    assert (several.languages, several.abilities) == (["zh", "yue", "en"], ABILITIES)


def test_phrases_that_another_form_takes_are_an_ability() -> None:
    prepared = about_model(served("ko", "ko", models.Abilities(), takes_phrases=True)).abilities
    assert prepared is not None
    assert prepared.phrases == "only"
    without = about_model(served("ko", "ko", models.Abilities())).abilities
    assert without is not None
    assert without.phrases == "no"


async def test_what_an_unloaded_model_can_do_is_read_from_its_directory(tmp_path: Path) -> None:
    nothing: Any = None
    loading = ModelLoading(nothing, nothing, nothing, phrases=False)
    await loading.look(Settings(models_dir=tmp_path, model=("sherpa-onnx-small",)))
    assert loading.abilities is None
    make_model("whisper", tmp_path / "sherpa-onnx-small")
    await loading.look(Settings(models_dir=tmp_path, model=("sherpa-onnx-small",)))
    assert loading.abilities is not None
    assert {"en", "ko", "zh"} <= set(loading.abilities.languages)
    assert not loading.abilities.words


def test_many_languages_are_counted_and_an_unknown_one_is_none_of_them() -> None:
    tags = tuple(f"x{letter}" for letter in "abcdefghijkl")
    several = served("many", "und", models.Abilities(languages=tags))
    assert several.languages == list(tags)
    assert several.in_words() == "many (many, 12 languages)"
    assert served("odd", "und", models.Abilities()).languages == ["und"]


def test_a_language_is_the_closest_of_a_model() -> None:
    assert closest_language("zh-TW", ("zh-CN", "zh-TW")) == "zh-TW"
    assert closest_language("zh_HK", ("en", "zh-CN", "zh-TW")) == "zh-CN"
    assert closest_language("ko", ("en",)) is None
    assert closest_language("", ("en",)) is None


def test_the_language_of_a_text_is_that_of_most_of_it() -> None:
    assert main_language([("en", "hello"), (None, "안녕하세요 여러분")], "ko") == "ko"
    assert main_language([("en", "hello you there"), ("ko", "안녕하세요")], "ko") == "en"
    assert main_language([("en", "")], "ko") == main_language([], "ko") == "ko"


def test_segments_name_a_language_that_is_not_the_transcripts() -> None:
    segments = [SpeechSegment(0, 1, "a", language="en"), SpeechSegment(1, 2, "b")]
    assert [one.language for one in in_transcript(segments, "en", "zh")] == [None, "zh"]
    assert [one.language for one in in_transcript(segments, "zh", "zh")] == ["en", None]


def test_subtitles_without_times_of_words_are_spread_over_each_segment() -> None:
    segments = [SpeechSegment(1.0, 3.0, "Hello there."), SpeechSegment(5.0, 6.0, "你好。")]
    words = spread_words(segments)
    assert [word.word for word in words] == ["Hello", "there.", "你", "好", "。"]
    assert (words[0].start, words[1].end, words[2].start, words[-1].end) == (1.0, 3.0, 5.0, 6.0)
    assert [line for line in srt(words).splitlines() if "-->" not in line] == [
        "1", "Hello there.", "", "2", "你好。",
    ]  # fmt: skip
    long = spread_words([SpeechSegment(0.0, 20.0, "word " * 30)])
    assert srt(long).count("-->") > 3
