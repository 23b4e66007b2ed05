"""Profiles: one model in memory, which searches as widely as it is asked to."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from running import RunningServer, start_server

import models
from models.prepared.view import make_view
from models.vosk.beam import Beam, published_width, widths
from models.vosk.prepared import PreparedModel
from modelserver.serving.selection import choose_model
from modelserver.settings import Settings
from modelserver.worker.conditioning import END_S, FRONT_S, Level, near_silence
from modelserver.worker.profiles import ProfiledModel
from supervisor import Headroom

RATE = 16_000
NARROW = "--beam=8.0\n--max-active=2000\n"


def said(model: models.Model, pcm: bytes, profile: str) -> list[models.Utterance]:
    recognizer = model.recognizer(models.RecognitionOptions(words=True, profile=profile))
    pieces = range(0, len(pcm), model.chunk_bytes)
    steps = [recognizer.accept(pcm[at : at + model.chunk_bytes]) for at in pieces]
    heard = [one for each in (*steps, recognizer.finish()) for one in models.run_steps(each)]
    recognizer.close()
    return heard


def text(model: models.Model, pcm: bytes, profile: str) -> str:
    return " ".join(utterance.text for utterance in said(model, pcm, profile))


def load(location: models.ModelLocation, prepared: PreparedModel | None = None) -> models.Model:
    made = {name: str(file) for name, file in prepared.made.items()} if prepared else {}
    return models.engine_named("vosk").load(location, {"made": made})


@pytest.fixture(scope="module")
def model(embedded: models.ModelLocation, prepared_embedded: PreparedModel) -> models.Model:
    return load(embedded, prepared_embedded)


@pytest.fixture(scope="module")
def lazy(small: models.ModelLocation) -> models.Model:
    """A model whose graph is composed lazily: its recognisers are used again, whatever their
    profile."""
    return load(small)


@pytest.fixture(params=["prepared", "composed lazily"])
def either(request: pytest.FixtureRequest, model: models.Model, lazy: models.Model) -> models.Model:
    """The model in either form."""
    return model if request.param == "prepared" else lazy


def test_a_profile_is_what_its_settings_would_be(
    embedded: models.ModelLocation,
    prepared_embedded: PreparedModel,
    model: models.Model,
    clips: list[bytes],
    tmp_path: Path,
) -> None:
    conf = (embedded.directory / "conf" / "model.conf").read_text()
    kept = [line for line in conf.splitlines() if not line.startswith(("--beam", "--max-active"))]
    own = widths(embedded.directory)
    assert (own["fast"].beam, own["fast"].max_active) == (8.0, 2000)
    assert (own["balanced"].beam, own["balanced"].max_active) == (10.0, 3000)
    assert (own["accurate"].beam, own["accurate"].max_active) == (13.0, 7000)
    for number, profile in enumerate(("fast", "accurate")):
        view = tmp_path / str(number)
        width = own[profile]
        lines = [*kept, f"--beam={width.beam}", f"--max-active={width.max_active}", ""]
        changed: dict[str, bytes | Path] = {"conf/model.conf": "\n".join(lines).encode()}
        make_view(embedded.directory, view, changed, frozenset())
        like_it = load(models.ModelLocation("like it", view, "ko"), prepared_embedded)
        for clip in (clip[: RATE * 2 * 3] for clip in clips):
            assert text(model, clip, profile) == text(like_it, clip, "balanced") != ""


def test_recognisers_with_different_profiles_take_turns(
    either: models.Model, clips: list[bytes]
) -> None:
    clip = clips[0][: RATE * 2 * 3]
    alone = {profile: text(either, clip, profile) for profile in models.PROFILES}
    by_profile = {
        profile: either.recognizer(models.RecognitionOptions(profile=profile))
        for profile in models.PROFILES
    }
    heard: dict[str, list[str]] = {profile: [] for profile in models.PROFILES}
    for at in range(0, len(clip), either.chunk_bytes):
        for profile, recognizer in by_profile.items():
            said_so = models.run_steps(recognizer.accept(clip[at : at + either.chunk_bytes]))
            heard[profile] += [utterance.text for utterance in said_so]
    for profile, recognizer in by_profile.items():
        heard[profile] += [one.text for one in models.run_steps(recognizer.finish())]
        recognizer.close()
    assert {profile: " ".join(texts) for profile, texts in heard.items()} == alone


def test_without_the_place_all_search_as_published(
    embedded: models.ModelLocation, model: models.Model, clips: list[bytes], tmp_path: Path
) -> None:
    """Model whose files differ from those that were loaded."""
    from models.vosk.loading import vosk

    make_view(embedded.directory, tmp_path, {"conf/model.conf": NARROW.encode()}, frozenset())
    beam = Beam(model._model, vosk._ffi, tmp_path)  # type: ignore[attr-defined]
    assert not beam.found
    before = text(model, clips[0], "balanced")
    beam.use("fast")
    assert text(model, clips[0], "balanced") == before


def test_models_of_the_old_layout_have_the_widths_that_the_engine_gives_them(
    tmp_path: Path,
) -> None:
    assert published_width(tmp_path)["beam"] == 13.0
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "model.conf").write_text("--beam=15 # wide\n# --max-active=5\n")
    assert published_width(tmp_path)["beam"] == 15.0
    assert widths(tmp_path)["accurate"].max_active == 2**31 - 1


def test_times_are_those_of_the_audio_as_it_came(either: models.Model, clips: list[bytes]) -> None:
    profiled = ProfiledModel(either, "accurate")
    plain = [word for one in said(either, clips[0], "accurate") for word in one.words]
    conditioned = [word for one in said(profiled, clips[0], "") for word in one.words]
    length_s = len(clips[0]) / 2 / RATE
    both = [
        (one, other)
        for one in plain
        for other in conditioned
        if one.text == other.text and abs(one.start_s - other.start_s) < 0.15
    ]
    assert len(both) >= len(plain) / 2
    assert all(0 <= word.start_s < word.end_s <= length_s + 0.05 for word in conditioned)
    # The same recogniser again, from nothing.
    again = [word for one in said(profiled, clips[0], "") for word in one.words]
    assert again == conditioned


def test_one_recogniser_hears_one_utterance_after_the_other(
    either: models.Model, clips: list[bytes]
) -> None:
    """Recognise like the pieces of a long recording: near-silence is not counted."""
    recognizer = ProfiledModel(either, "accurate").recognizer(models.RecognitionOptions(words=True))
    starts = []
    for _ in range(3):
        for at in range(0, len(clips[0]), either.chunk_bytes):
            models.run_steps(recognizer.accept(clips[0][at : at + either.chunk_bytes]))
        last = models.run_steps(recognizer.finish())
        starts.append([word.start_s for utterance in last for word in utterance.words])
    recognizer.close()
    length_s = len(clips[0]) / 2 / RATE
    for number, found in enumerate(starts):
        first, last = number * length_s - 0.01, (number + 1) * length_s
        assert found
        assert all(first <= start <= last for start in found)


def test_loud_audio_is_brought_down_and_quiet_audio_left_alone() -> None:
    def loudness(pcm: bytes) -> float:
        samples = memoryview(pcm).cast("h")
        return float((sum(s * s for s in samples) / len(samples)) ** 0.5)

    loud = (b"\x00\x60" + b"\x00\xa0") * (RATE // 4)
    level = Level()
    assert loudness(level.moderate(loud)) < loudness(loud)
    assert loudness(level.moderate(loud)) == pytest.approx(0.1 * 32_768, rel=0.01)
    quiet = near_silence(1.0, RATE)
    assert loudness(level.moderate(quiet)) < loudness(quiet)  # as much as what was loud
    assert Level().moderate(quiet) == quiet
    assert len(near_silence(FRONT_S + END_S, RATE)) == 2 * round(0.8 * RATE)


def test_what_is_not_found_is_said(model: models.Model, clips: list[bytes]) -> None:
    from modelserver.worker.abilities import not_available

    assert not_available(model, "accurate") == []
    blind = ProfiledModel(model, "balanced")
    blind.abilities = replace(model.abilities, profiles=(models.DEFAULT_PROFILE,))
    assert "accurate" in not_available(blind, "accurate")[0]
    assert not_available(blind, "") == not_available(blind, "balanced") == []


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, prepared_embedded: PreparedModel
) -> Iterator[RunningServer]:
    assert prepared_embedded
    with start_server(
        tmp_path_factory.mktemp("profiles"), MODELSERVER_PROFILE="accurate"
    ) as running:
        running.wait_ready()
        yield running


def test_a_request_names_its_profile(server: RunningServer, wav_clips: list[bytes]) -> None:
    wav = wav_clips[0]
    texts = {}
    for profile in models.PROFILES:
        answer = server.convert(wav, f"?profile={profile}&words=true")
        assert answer.status == 200
        texts[profile] = answer.json["text"]
        assert "warnings" not in answer.json
    assert server.convert(wav).json["text"] == texts["accurate"]
    refused = server.convert(wav, "?profile=best")
    assert refused.status == 400
    assert "fast, balanced, accurate" in refused.json["error"]["message"]


def test_room_is_counted_for_the_profile_that_requests_have(tmp_path: Path) -> None:
    """Use a model as it was published: the composed part of its graph is each worker's own."""
    settings = Settings(prepared_dir=tmp_path, models_dir=tmp_path)
    room = Headroom(10**10, 10**10, "the machine")
    balanced = choose_model(settings, room).prediction
    accurate = choose_model(msgspec.structs.replace(settings, profile="accurate"), room).prediction
    assert accurate.growth == balanced.growth_accurate > 2 * balanced.growth
    assert accurate.model == balanced.model
