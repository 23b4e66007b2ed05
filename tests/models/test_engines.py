"""Facts about a model before it is loaded: its engine, and its forms."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
from small_model import SMALL_WORDS, add_rescoring, make_small_model

import models
from models import engines
from models.engine import Requirement
from modelserver.serving.learned import Lessons
from modelserver.serving.requirements import RequirementMissing, RequirementSupply
from modelserver.serving.selection import candidates, choose_model
from modelserver.settings import Settings
from modelserver.settings.changes import with_values
from supervisor import Headroom, TargetUnavailable

pytestmark = pytest.mark.quick

ROOM = Headroom(10**10, 10**10, "the machine")


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, embedded: models.ModelLocation
) -> models.ModelLocation:
    """A model with rescoring."""
    directory = tmp_path_factory.mktemp("home") / "model"
    make_small_model(embedded.directory, directory, SMALL_WORDS.split())
    add_rescoring(directory, states=10, arcs_each=4, lm_ints=50_000_000)
    return models.ModelLocation("model", directory, "ko")


def settings(model: models.ModelLocation, store: Path, **vosk: str) -> Settings:
    values = {f"engines.vosk.{name}": value for name, value in vosk.items()}
    one = Settings(model=(str(model.directory),), prepared_dir=store, models_dir=store)
    return with_values(one, values)


def names(model: models.ModelLocation, store: Path, **vosk: str) -> list[str]:
    return [one.form.name for one in candidates(model, settings(model, store, **vosk))]


def test_a_directory_without_a_model_is_refused_with_what_each_engine_misses(
    tmp_path: Path,
) -> None:
    with pytest.raises(models.ModelError) as caught:
        models.engine_of(tmp_path)
    assert caught.value.code == "model_invalid"
    for engine in models.installed_engines():
        assert f"{engine.problem(tmp_path)} ({engine.name})" in caught.value.message


@pytest.mark.parametrize(
    ("file", "name"), [("model.onnx", "onnx"), ("am/final.mdl", "vosk"), ("graph/HCLG.fst", "vosk")]
)
def test_only_the_engine_whose_files_are_there_says_what_it_misses(
    file: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(models.ModelError) as caught:
        models.engine_of(tmp_path)
    problem = models.engine_named(name).problem(tmp_path)
    assert caught.value.message == f"{tmp_path} is not a model: {problem}"


def test_what_every_engine_misses_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(models.ModelError) as caught:
        models.engine_of(tmp_path / "nowhere")
    assert str(caught.value).endswith("nowhere is not a model: there is no such directory")


def test_an_engine_that_is_not_installed_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_MODULES", ("models.nothing.engine", "models.vosk.engine"))
    assert [engine.name for engine in engines._engines()] == ["vosk"]
    with pytest.raises(models.ModelError, match="no engine 'nothing'; there are: vosk"):
        models.engine_named("nothing")


def test_forms_are_offered_best_first(model: models.ModelLocation, tmp_path: Path) -> None:
    assert names(model, tmp_path) == ["published", "published-trimmed"]
    assert names(model, tmp_path, rescoring="on") == ["published"]
    assert names(model, tmp_path, rescoring="off") == ["published"]
    assert names(model, tmp_path, rescoring="on", simd="on") == ["published-simd"]
    whole, trimmed = candidates(model, settings(model, tmp_path))
    assert whole.form.consequence == ""
    assert "errors" in trimmed.form.consequence
    assert whole.prediction.model > trimmed.prediction.model
    assert {whole.last, trimmed.last} == {False, True}


def test_what_one_form_was_shown_to_need_counts_for_those_that_need_no_less(
    model: models.ModelLocation, tmp_path: Path
) -> None:
    lessons = Lessons()
    whole, trimmed = (one.form for one in candidates(model, settings(model, tmp_path)))
    lessons.needs[whole.key] = whole.prediction.model, 10**9
    assert (lessons.needs_of(whole), lessons.needs_of(trimmed)) == (10**9, 0)
    lessons.needs[trimmed.key] = trimmed.prediction.model, 2 * 10**9
    assert (lessons.needs_of(whole), lessons.needs_of(trimmed)) == (2 * 10**9, 2 * 10**9)


def test_a_requirement_that_cannot_be_had_is_done_without_unless_it_is_insisted_on(
    model: models.ModelLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unavailable = {"SIMD library": "there is no compiler"}
    insisting = settings(model, tmp_path, simd="on")
    with pytest.raises(
        TargetUnavailable,
        match=r"model cannot be loaded: engines\.vosk\.simd = on: the SIMD library is not used",
    ):
        choose_model(insisting, ROOM, unavailable=unavailable)
    engine = models.engine_of(model.directory)
    (plain,) = candidates(model, settings(model, tmp_path, rescoring="on"))
    (best, *_) = candidates(model, insisting)
    assert best.form.requirement is not None
    requirement = dataclasses.replace(best.form.requirement, setting="")
    forms = [dataclasses.replace(best.form, requirement=requirement), plain.form]
    monkeypatch.setattr(type(engine), "forms", lambda *_: forms)
    assert choose_model(insisting, ROOM).form.name == "published-simd"
    choice = choose_model(insisting, ROOM, unavailable=unavailable)
    assert (choice.form.name, choice.missing) == (
        "published",
        "the SIMD library is not used: there is no compiler",
    )


class NoGuard:
    """A guard whose helpers are not to be started."""


async def test_a_requirement_is_found_or_refused_with_the_reason() -> None:
    found: Mapping[str, str] | None = {"LD_PRELOAD": "x.so"}
    requirement = Requirement("library", ("nothing",), lambda: found, "it is slower")
    supply = RequirementSupply(NoGuard())  # type: ignore[arg-type]
    assert await supply.get(requirement) == found
    impossible = dataclasses.replace(requirement, problem=lambda: "no processor can run it")
    with pytest.raises(RequirementMissing, match="no processor can run it"):
        await supply.get(impossible)
    large = dataclasses.replace(requirement, find=lambda: None, needs_memory=1 << 60)
    with pytest.raises(RequirementMissing, match="it is not built yet"):
        await supply.get(large)
