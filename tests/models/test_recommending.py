"""Recommendations of models by language."""

import pytest

import models
from models.catalog import ErrorRate
from models.recommending import Candidate, recommend

pytestmark = pytest.mark.quick


def rate(percent: float, on: str = "a set", source: str = "a paper") -> ErrorRate:
    return ErrorRate("zh", percent, on, source)


def candidate(
    name: str,
    *rates: ErrorRate,
    memory: int = 100,
    fits: bool = True,
    obtainable: bool = True,
    preferred: bool = False,
) -> Candidate:
    return Candidate(name, rates, memory, fits, obtainable, preferred)


def chosen(*candidates: Candidate) -> str | None:
    found = recommend(candidates)
    assert found == recommend(candidates[::-1])
    return found.name if found else None


def test_the_one_with_fewer_errors_on_the_same_recordings_is_recommended() -> None:
    good, poor = candidate("good", rate(6.0), memory=900), candidate("poor", rate(9.0), memory=10)
    assert chosen(good, poor) == "good"
    found = recommend([poor, good])
    assert found is not None
    assert found.why == "6 % errors on a set, against 9 % of poor (a paper)"


def test_rates_of_several_sets_are_averaged() -> None:
    one = candidate("one", rate(5.0, "a"), rate(9.0, "b"), rate(1.0, "c"))
    two = candidate("two", rate(6.0, "a"), rate(7.0, "b"))
    assert chosen(one, two) == "two"


@pytest.mark.parametrize("other", [rate(3.0, on="another set"), rate(3.0, source="another paper")])
def test_rates_that_do_not_compare_decide_nothing(other: ErrorRate) -> None:
    small, large = candidate("small", rate(9.0), memory=10), candidate("large", other, memory=20)
    assert chosen(small, large) == "small"


def test_what_does_not_fit_or_cannot_be_had_is_passed_over() -> None:
    big = candidate("big", rate(1.0), fits=False)
    foreign = candidate("foreign", rate(2.0), obtainable=False)
    assert chosen(big, foreign, candidate("left", rate(9.0))) == "left"
    assert chosen(big, foreign) is None
    assert chosen() is None


def test_the_catalogue_decides_where_nothing_compares() -> None:
    small, preferred = candidate("small", memory=10), candidate("own", memory=90, preferred=True)
    assert chosen(small, preferred) == "own"
    # But it does not overrule what was measured.
    assert chosen(candidate("own", rate(9.0), preferred=True), candidate("b", rate(8.0))) == "b"
    # And a model that someone has measured comes before one that no one has.
    assert chosen(small, candidate("measured", rate(50.0), memory=90)) == "measured"
    assert chosen(small, candidate("larger", memory=11)) == "small"


def test_rates_that_go_in_a_circle_still_give_a_model() -> None:
    one = candidate("one", rate(1.0, "a"), rate(9.0, "c"), memory=3)
    two = candidate("two", rate(2.0, "a"), rate(1.0, "b"), memory=2)
    three = candidate("three", rate(2.0, "b"), rate(8.0, "c"), memory=1)
    assert chosen(one, two, three) == "three"


def of_language(tag: str, room: int, workers: int = 2, *, onnx: bool = True) -> str | None:
    """Return the catalogue's recommendation on a machine with so much room."""
    candidates = []
    for entry in models.catalog():
        if entry.speaks(tag):
            needs = entry.memory_bytes + workers * entry.growth_bytes
            rates = entry.rates_for(tag)
            fits = entry.memory_bytes > 0 and needs < room
            had = onnx or entry.engine == "vosk"
            preferred = entry.recommended_for(tag)
            candidates.append(Candidate(entry.name, rates, needs, fits, had, preferred))
    found = recommend(candidates)
    return found.name if found else None


SENSE_VOICE = "sherpa-onnx-sense-voice-zh-en-ja-ko-yue-int8-2024-07-17"


@pytest.mark.parametrize(
    ("tag", "room", "onnx", "name"),
    [
        ("zh", 3_500_000_000, True, SENSE_VOICE),
        ("zh", 700_000_000, True, SENSE_VOICE),
        ("zh", 400_000_000, False, "vosk-model-small-cn-0.22"),
        ("zh", 1_500_000_000, False, "vosk-model-small-cn-0.22"),
        ("zh", 3_500_000_000, False, "vosk-model-cn-0.22"),
        ("yue", 3_500_000_000, True, SENSE_VOICE),
        ("ko", 3_500_000_000, True, "sherpa-onnx-whisper-base"),
        ("ko", 3_500_000_000, False, "vosk-model-small-ko-0.22"),
        ("en", 3_500_000_000, True, "sherpa-onnx-nemo-parakeet-tdt-0.6b-v2-int8"),
        ("en", 700_000_000, True, "sherpa-onnx-nemo-canary-180m-flash-en-es-de-fr-int8"),
        ("ru", 3_500_000_000, True, "sherpa-onnx-nemo-transducer-giga-am-v2-russian-2025-04-19"),
        ("de", 3_500_000_000, True, "sherpa-onnx-nemo-parakeet-tdt-0.6b-v3-int8"),
        ("de", 3_500_000_000, False, "vosk-model-de-0.21"),
        ("es", 3_500_000_000, True, "sherpa-onnx-nemo-parakeet-tdt-0.6b-v3-int8"),
        ("ja", 3_500_000_000, True, "sherpa-onnx-zipformer-ja-reazonspeech-2024-08-01"),
        ("hi", 3_500_000_000, True, "vosk-model-small-hi-0.22"),
        ("ar", 3_500_000_000, True, "sherpa-onnx-whisper-small"),
        ("ar", 3_500_000_000, False, "vosk-model-small-ar-0.3"),
    ],
)
def test_what_the_catalogue_recommends(tag: str, room: int, onnx: bool, name: str) -> None:
    assert of_language(tag, room, onnx=onnx) == name


def test_whisper_tiny_is_recommended_only_where_nothing_else_fits() -> None:
    tags = {tag for entry in models.catalog() for tag in entry.tags}
    tiny = {tag for tag in tags if of_language(tag, 3_500_000_000) == "sherpa-onnx-whisper-tiny"}
    assert tiny == set()


def test_every_error_rate_has_a_source() -> None:
    for entry in models.catalog():
        for published in entry.rates:
            assert entry.speaks(published.language)
            assert published.source.startswith(("https://", "docs/"))
            assert published.on
            assert 0 < published.rate < 100


def test_every_model_says_what_it_takes_to_choose_it() -> None:
    names = [entry.name for entry in models.catalog()]
    assert len(names) == len(set(names))
    for entry in models.catalog():
        assert "und" not in entry.tags
        assert entry.engine == "vosk" or entry.languages
        assert bool(entry.repository) == bool(entry.files)
        assert entry.speed == 0 or entry.speed_source
