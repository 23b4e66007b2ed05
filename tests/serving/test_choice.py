"""Choice of a model for the available memory: decided from files, before anything is loaded."""

import struct
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace as set_to
from onnx_models import make_model
from punctuation_models import make_chinese
from small_model import SMALL_WORDS, add_rescoring, make_small_model

import models
from models.sherpa import engine as sherpa_engine
from modelserver.serving.listing import overview
from modelserver.serving.loading import ModelLoading
from modelserver.serving.requirements import RequirementSupply
from modelserver.serving.selection import Choice, candidate, choose_model
from modelserver.settings import Settings, WorkerSettings
from modelserver.settings.changes import with_values
from supervisor import Headroom, TargetUnavailable, in_units

pytestmark = pytest.mark.quick

LIMIT = "300 MB is the limit (a test)"


def headroom(count: float) -> Headroom:
    return Headroom(int(count), int(count), LIMIT)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, embedded: models.ModelLocation) -> Path:
    """A models directory with a big model (the embedded one with rescoring) and a small one, of
    which sizes are all that counts here."""
    home = tmp_path_factory.mktemp("home")
    words = SMALL_WORDS.split()
    little, large = home / "vosk-model-small-cn-0.22", home / "vosk-model-cn-0.22"
    make_small_model(embedded.directory, little, words, table_of_all=True)
    big = make_small_model(embedded.directory, large, words, table_of_all=True)
    add_rescoring(big, states=10, arcs_each=4, lm_ints=75_000_000)
    network = big / "rnnlm"
    network.mkdir()
    (network / "final.raw").write_bytes(bytes(10_000_000))
    matrix = b"\0BFM \4" + struct.pack("<i", 500_000) + b"\4" + struct.pack("<i", 100)
    (network / "feat_embedding.final.mat").write_bytes(matrix)
    return home


@pytest.fixture
def settings(home: Path, tmp_path: Path) -> Settings:
    return Settings(
        model=("vosk-model-cn-0.22", "vosk-model-small-cn-0.22"),
        models_dir=home,
        prepared_dir=tmp_path,
        workers=WorkerSettings(count=2),
    )


def with_rescoring(settings: Settings, value: str) -> Settings:
    return with_values(settings, {"engines.vosk.rescoring": value})


def left_out(choice: Choice) -> tuple[str, ...]:
    return tuple(choice.form.load["left_out"])


def test_the_first_that_fits_is_chosen_whole(settings: Settings) -> None:
    choice = choose_model(settings, headroom(4e9))
    assert (choice.location.name, choice.location.language) == ("vosk-model-cn-0.22", "zh")
    assert (left_out(choice), choice.passed_over) == ((), ())
    names = [part.name for part in choice.prediction.parts]
    assert names[-2:] == ["rescoring with n-grams", "rescoring with a network"]


def test_rescoring_that_does_not_fit_is_left_out(settings: Settings, home: Path) -> None:
    whole = candidate(
        models.find_model("vosk-model-cn-0.22", home), with_rescoring(settings, "on")
    ).needs(2)
    assert left_out(choose_model(settings, headroom(whole))) == ()
    trimmed = choose_model(settings, headroom(whole - 1))
    assert trimmed.location.name == "vosk-model-cn-0.22"
    assert left_out(trimmed) == ("rescore", "rnnlm")
    assert "errors" in trimmed.form.consequence
    assert whole - trimmed.needs(2) > 300e6


def test_rescoring_may_be_wanted_or_not_at_any_rate(settings: Settings) -> None:
    assert left_out(choose_model(with_rescoring(settings, "off"), headroom(9e9)))
    # With rescoring only, the big one does not fit, and the next is taken.
    choice = choose_model(with_rescoring(settings, "on"), headroom(6e8))
    assert (choice.location.name, left_out(choice)) == ("vosk-model-small-cn-0.22", ())


def test_the_next_is_served_and_it_is_said_why(settings: Settings) -> None:
    choice = choose_model(
        replace_models(settings, "vosk-model-big-gone", "vosk-model-small-cn-0.22"), headroom(4e9)
    )
    assert choice.location.name == "vosk-model-small-cn-0.22"
    (reason,) = choice.passed_over
    assert "there is no model 'vosk-model-big-gone'" in reason


def replace_models(settings: Settings, *names: str) -> Settings:
    return set_to(settings, model=names)


def test_what_does_not_fit_is_refused_with_numbers_and_with_what_would_fit(
    settings: Settings,
) -> None:
    one = replace_models(settings, "vosk-model-cn-0.22")
    with pytest.raises(TargetUnavailable) as caught:
        choose_model(one, headroom(3.5e8))
    said = str(caught.value)
    assert said.startswith("vosk-model-cn-0.22 does not fit: it needs 4")
    assert f"for 2 workers), and there is room for 350 MB ({LIMIT})" in said
    assert "; prepared, it would need" in said
    assert "`modelserver models prepare`" in said


def test_what_would_fit_is_what_is_installed_or_else_what_is_known(
    settings: Settings, home: Path
) -> None:
    one = replace_models(settings, "vosk-model-cn-0.22")
    with pytest.raises(TargetUnavailable, match=r"what would fit: vosk-model-small-cn-0\.22 \("):
        choose_model(with_rescoring(one, "on"), headroom(6e8))
    with pytest.raises(
        TargetUnavailable, match=r"can be fetched with `modelserver models pull`: vosk-model-small"
    ):
        choose_model(one, headroom(3e8))
    with pytest.raises(TargetUnavailable, match="nothing that is installed or known would fit"):
        choose_model(one, headroom(1e7))
    assert home.is_dir()


def test_more_workers_need_more(settings: Settings) -> None:
    choice = choose_model(settings, headroom(4e9))
    assert choice.needs(3) - choice.needs(2) == choice.needs(2) - choice.needs(1) > 10e6
    assert choice.workers_within(choice.prediction.model + 3 * choice.prediction.growth) == 3
    assert choice.workers_within(0) == 0


def test_what_a_model_takes_while_it_loads_has_to_fit_too(
    settings: Settings, tmp_path: Path
) -> None:
    """An ONNX model takes more while it loads than with one worker after that."""
    directory = make_model("sense_voice", tmp_path / "tones", padding_bytes=80_000_000)
    one = set_to(settings, model=(str(directory),), workers=WorkerSettings(count=1))
    choice = candidate(models.find_model(str(directory), tmp_path), one)
    served, loading = choice.serving_bytes(1), choice.loading_bytes
    assert served < loading == choice.needs(1)
    assert choose_model(one, headroom(loading)).location.directory == directory
    with pytest.raises(TargetUnavailable) as caught:
        choose_model(one, headroom(loading - 1))
    assert f"it needs {in_units(loading)} while it loads" in str(caught.value)
    with pytest.raises(TargetUnavailable, match="for the model, the rest for 1 worker"):
        choose_model(one, headroom(served - 1))
    assert choice.needs(4) == choice.serving_bytes(4) > loading


async def test_a_model_that_is_not_loaded_yet_is_known_to_take_no_phrases(
    settings: Settings, tmp_path: Path
) -> None:
    """Check that it is not loaded a second time to find that out."""

    async def no_room() -> bool:
        return False

    async def anyway(needs: int, left: int) -> None:
        """Load it despite the lack of memory."""

    supply = cast("RequirementSupply", None)
    loading = ModelLoading(supply, no_room, anyway, phrases=False)
    assert loading.takes_phrases()
    tones = make_model("sense_voice", tmp_path / "tones")
    await loading.look(set_to(settings, model=(str(tones),)))
    assert not loading.takes_phrases()
    await loading.look(settings)
    assert loading.takes_phrases()


def test_a_room_that_is_full_now_may_be_large_enough_when_the_old_model_is_gone(
    settings: Settings,
) -> None:
    choice = choose_model(settings, Headroom(int(1e7), int(4e9), LIMIT))
    assert choice.location.name == "vosk-model-cn-0.22"


def test_the_catalogue_is_sound() -> None:
    names = [entry.name for entry in models.catalog()]
    assert len(set(names)) == len(names) > 30
    assert names[:2] == ["vosk-model-small-cn-0.22", "vosk-model-cn-0.22"]
    for entry in models.catalog():
        if entry.engine == "vosk" or entry.download_bytes:  # some have no published size
            assert entry.download_bytes > 20e6
            assert entry.memory_bytes > entry.download_bytes
        assert entry.md5 == "" or len(bytes.fromhex(entry.md5)) == 16
        assert entry.sha256 == "" or len(bytes.fromhex(entry.sha256)) == 32
        assert entry.size == 0 or entry.md5
        assert entry.tags
        if entry.engine == "vosk":  # others may have several, and say which
            assert models.language_of(entry.name) != "und"


def test_an_installed_model_without_its_engine_is_listed_with_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "sherpa-onnx-whisper-base"
    make_model("whisper", tmp_path / name)
    monkeypatch.setattr(sherpa_engine, "_PACKAGES", ("no_such_package",))
    listed = overview(Settings(models_dir=tmp_path), headroom(4e9), language="ko")
    (row,) = (row for row in listed.rows if row.name == name)
    assert (row.state, row.language, row.licence) == (
        "installed, needs onnx",
        "99 languages",
        "MIT",
    )
    assert row.installed
    assert "no_such_package is not installed" in (row.missing or "")


def test_a_form_has_to_fit_with_its_punctuation_model(settings: Settings, tmp_path: Path) -> None:
    marks = make_chinese(tmp_path / "marks")
    step = {"text.steps": ("punctuation",), "text.punctuation_model": str(marks)}
    both = with_values(with_rescoring(settings, "auto"), step)
    alone = choose_model(settings, headroom(4e9))
    whole = choose_model(both, headroom(4e9))
    assert whole.punctuation.model is not None
    memory = whole.punctuation.model.part.private
    assert memory > 30e6
    assert whole.prediction.model == alone.prediction.model + memory
    assert whole.prediction.growth > alone.prediction.growth
    assert left_out(whole) == left_out(choose_model(settings, headroom(whole.needs(2) - 1))) == ()
    assert left_out(choose_model(both, headroom(whole.needs(2) - 1))) == ("rescore", "rnnlm")
    korean = choose_model(with_values(both, {"language": "ko"}), headroom(4e9))
    assert korean.prediction.model == alone.prediction.model
    missing = with_values(both, {"text.punctuation_model": "/nowhere/at-all"})
    problem = choose_model(missing, headroom(4e9)).punctuation.problem
    assert problem.startswith("text.punctuation_model: /nowhere/at-all is not a punctuation model")
