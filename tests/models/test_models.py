"""Finding a model, viewing it, and recognising with it, kept and new."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

import models
from models.clips import noise
from models.language import language_of
from models.prepared.view import make_view
from models.vosk.features import sample_rate_of, served_features
from models.vosk.layout import layout_problem
from models.vosk.model import VoskModel


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("vosk-model-small-ko-0.22", "ko"),
        ("vosk-model-small-cn-0.22", "zh"),
        ("vosk-model-cn-0.22", "zh"),
        ("vosk-model-en-us-0.22-lgraph", "en-US"),
        ("vosk-model-small-ja-0.22", "ja"),
        ("vosk-model-small-uk-v3-nano", "uk"),
        ("vosk-model-fr-0.6-linto-2.2.0", "fr"),
        ("vosk-model-tl-ph-generic-0.6", "tl-PH"),
        ("my-own-model", "und"),
        ("vosk-model-", "und"),
    ],
)
def test_a_models_language_is_known_from_its_name(name: str, language: str) -> None:
    assert language_of(name) == language


def fake_model(directory: Path, *files: str) -> Path:
    for file in files or ("am/final.mdl", "conf/mfcc.conf", "graph/HCLr.fst", "graph/Gr.fst"):
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text(file)
    return directory


def test_auto_is_the_embedded_model_where_nothing_is_installed(tmp_path: Path) -> None:
    location = models.find_model("auto", tmp_path)
    assert (location.name, location.language) == ("vosk-model-small-ko-0.22", "ko")


def test_auto_prefers_the_only_model_installed(tmp_path: Path) -> None:
    fake_model(tmp_path / "vosk-model-small-fr-0.22")
    assert models.find_model("auto", tmp_path).language == "fr"


def test_auto_prefers_the_products_default_among_many(tmp_path: Path) -> None:
    fake_model(tmp_path / "vosk-model-small-fr-0.22")
    fake_model(tmp_path / "vosk-model-small-cn-0.22")
    assert models.find_model("auto", tmp_path).language == "zh"


def test_a_model_is_found_by_name_or_path(tmp_path: Path) -> None:
    directory = fake_model(tmp_path / "models" / "mine")
    assert models.find_model("mine", tmp_path / "models").directory == directory
    assert models.find_model(str(directory), tmp_path).directory == directory
    assert models.find_model("mine", tmp_path / "models", "ko").language == "ko"


def test_a_name_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    fake_model(tmp_path / "mine")
    with pytest.raises(models.ModelError, match=r"no model 'yours'.*mine, vosk-model-small-ko"):
        models.find_model("yours", tmp_path)


@pytest.mark.parametrize(
    ("wanted", "said"), [("auto", "no model is installed"), ("gone", "installed: none")]
)
def test_without_any_model_it_is_said_how_to_get_one_for_a_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, said: str
) -> None:
    monkeypatch.setattr("models.location.EMBEDDED_PACKAGE", "not_installed")
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(models.ModelError, match=said) as refused:
        models.find_model(wanted, tmp_path)
    assert "modelserver models pull zh" in refused.value.message


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (("graph/HCLG.fst",), "am/final.mdl is missing"),
        (("am/final.mdl",), "neither HCLG.fst nor"),
        (("am/final.mdl", "graph/HCLr.fst"), "neither HCLG.fst nor"),
        (("am/final.mdl", "graph/HCLG.fst"), None),
        (("final.mdl", "HCLG.fst"), None),
    ],
)
def test_a_directory_without_the_parts_of_a_model_is_refused(
    tmp_path: Path, files: tuple[str, ...], problem: str | None
) -> None:
    fake_model(tmp_path / "m", *files)
    found = layout_problem(tmp_path / "m")
    assert (found is None) == (problem is None)
    assert problem is None or problem in (found or "")


def test_a_path_that_is_not_there_is_told() -> None:
    with pytest.raises(models.ModelError, match="no such directory"):
        models.find_model("/nonexistent/model", Path("/nonexistent"))


@pytest.mark.parametrize("name", ["loop/", "~nosuchuser/model", "n" * 300, "/" + "n" * 300, "a/\0"])
def test_a_path_that_cannot_be_followed_is_told(tmp_path: Path, name: str) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    wanted = str(loop) if name == "loop/" else name
    with pytest.raises(models.ModelError, match="cannot be used as a path"):
        models.find_model(wanted, tmp_path)
    with pytest.raises(models.ModelError, match="cannot be used as a path"):
        models.find_punctuation(wanted, tmp_path, "zh")


def test_a_view_links_to_the_original_and_replaces_what_it_is_told(tmp_path: Path) -> None:
    original = fake_model(tmp_path / "original")
    (original / "rescore").mkdir()
    (original / "rescore" / "G.fst").write_text("big")
    view = tmp_path / "view"
    make_view(
        original,
        view,
        {"conf/mfcc.conf": b"new", "graph/HCLG.fst": original / "am/final.mdl"},
        frozenset({"rescore/G.fst"}),
    )
    assert (view / "am/final.mdl").resolve() == original / "am/final.mdl"
    assert (view / "conf/mfcc.conf").read_bytes() == b"new"
    assert (view / "graph/HCLG.fst").read_text() == "am/final.mdl"
    assert not (view / "rescore/G.fst").exists()
    assert (original / "conf/mfcc.conf").read_text() == "conf/mfcc.conf"


def test_dither_is_turned_off_whatever_the_model_says(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/mfcc.conf").write_text("--num-ceps=40\n--dither=1.0\n--high-freq=7600")
    replaced = served_features(tmp_path)["conf/mfcc.conf"].decode()
    assert replaced.startswith("--num-ceps=40\n--high-freq=7600\n--dither=0\n")


def test_streams_of_any_rate_are_allowed_whatever_the_model_says(tmp_path: Path) -> None:
    (tmp_path / "mfcc.conf").write_bytes(b"# caf\xe9\n--allow-upsample=false\n--use-energy=false")
    lines = served_features(tmp_path)["mfcc.conf"].splitlines()
    assert lines[:2] == [b"# caf\xe9", b"--use-energy=false"]
    assert set(lines[2:]) == {b"--dither=0", b"--allow-upsample=true", b"--allow-downsample=true"}
    assert served_features(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("--sample-frequency=8000  # telephones", 8000),
        ("--sample-frequency=16000.0", 16_000),
        ("# --sample-frequency=8000", 16_000),
        ("--sample-frequency=", 16_000),
        ("--sample-frequency=nan", 16_000),
        ("--sample-frequency=1e99", 16_000),
        ("", 16_000),
    ],
)
def test_a_model_says_its_rate(tmp_path: Path, text: str, rate: int) -> None:
    (tmp_path / "mfcc.conf").write_text(text)
    assert sample_rate_of(tmp_path) == rate
    assert sample_rate_of(tmp_path / "none") == 16_000


def test_a_view_follows_links_to_directories_and_not_for_ever(tmp_path: Path) -> None:
    shared, original = tmp_path / "shared", tmp_path / "original"
    shared.mkdir()
    (shared / "HCLG.fst").write_text("graph")
    original.mkdir()
    (original / "graph").symlink_to(shared)
    make_view(original, tmp_path / "view", {}, frozenset())
    assert (tmp_path / "view/graph/HCLG.fst").resolve() == shared / "HCLG.fst"
    (shared / "above").symlink_to(original)
    with pytest.raises(models.ModelError, match="nested deeper than a model is"):
        make_view(original, tmp_path / "again", {}, frozenset())


# --- recognition with graphs that are composed lazily ---------------------------------------------


@pytest.fixture(scope="module")
def model(small: models.ModelLocation) -> VoskModel:
    return VoskModel(small.directory)


@pytest.fixture(scope="module")
def large(embedded: models.ModelLocation) -> VoskModel:
    """The embedded model, whose recognisers compose enough to throw some of it away."""
    return VoskModel(embedded.directory)


ALL = models.RecognitionOptions(words=True)


def recognise(
    model: VoskModel, pcm: bytes, options: models.RecognitionOptions = ALL
) -> list[models.Utterance]:
    recognizer = model.recognizer(options)
    heard = []
    for at in range(0, len(pcm), model.chunk_bytes):
        heard += models.run_steps(recognizer.accept(pcm[at : at + model.chunk_bytes]))
    heard += models.run_steps(recognizer.finish())
    recognizer.close()
    return heard


def text(utterances: list[models.Utterance]) -> str:
    return " ".join(u.text for u in utterances if u.text)


def test_speech_becomes_words_with_times_and_confidences(
    model: VoskModel, clips: list[bytes]
) -> None:
    heard = recognise(model, clips[2])
    words = [word for utterance in heard for word in utterance.words]
    assert "어제" in text(heard)
    assert text(heard).split() == [word.text for word in words]
    assert all(0 <= w.start_s < w.end_s <= len(clips[2]) / 32_000 for w in words)
    assert all(w.confidence is not None and 0 < w.confidence <= 1 for w in words)
    assert [w.start_s for w in words] == sorted(w.start_s for w in words)


def test_a_kept_recogniser_hears_what_a_new_one_hears(large: VoskModel, clips: list[bytes]) -> None:
    fresh = []
    for clip in clips:
        large._free.clear()
        fresh.append(recognise(large, clip))
    kept = [recognise(large, clip) for clip in reversed(clips)]
    assert len(large._free) == 1
    assert kept[::-1] == fresh


def test_no_more_than_two_recognisers_are_kept(model: VoskModel) -> None:
    recognizers = [model.recognizer(ALL) for _ in range(4)]
    for recognizer in recognizers:
        recognizer.close()
    assert len(model._free) == 2
    model._free.clear()


def test_what_the_engine_cannot_decode_is_an_error_with_a_code(model: VoskModel) -> None:
    """Have the binding raise its least specific exception."""
    recognizer = model.recognizer(ALL, rate=16_000)

    def fail(_: bytes) -> int:
        raise Exception("Failed to process waveform")

    recognizer._recognizer = types.SimpleNamespace(AcceptWaveform=fail)
    with pytest.raises(models.ModelError, match="Failed to process waveform") as caught:
        list(recognizer.accept(b"\0\0"))
    assert caught.value.code == "engine_failed"


def test_audio_that_ends_at_an_endpoint_leaves_nothing_behind(
    model: VoskModel, clips: list[bytes]
) -> None:
    expected = recognise(model, clips[2])
    recognizer = model.recognizer(ALL)
    speech = clips[0] + noise(3, model.sample_rate, level=20)
    endpoints = 0
    for at in range(0, len(speech), model.chunk_bytes):
        if models.run_steps(recognizer.accept(speech[at : at + model.chunk_bytes])):
            endpoints += 1
            break
    assert endpoints == 1
    assert text(models.run_steps(recognizer.finish())) == ""
    recognizer.close()
    assert recognise(model, clips[2]) == expected


def test_a_recogniser_given_up_in_the_middle_leaves_nothing_behind(
    model: VoskModel, clips: list[bytes]
) -> None:
    expected = recognise(model, clips[2])
    recognizer = model.recognizer(ALL)
    models.run_steps(recognizer.accept(clips[0][: len(clips[0]) // 2]))
    recognizer.close()
    assert recognise(model, clips[2]) == expected


def test_options_do_not_stick(model: VoskModel, clips: list[bytes]) -> None:
    plain = models.RecognitionOptions()
    many = models.RecognitionOptions(words=True, alternatives=3, partial_words=True)
    first = recognise(model, clips[2], plain)
    rich = recognise(model, clips[2], many)
    assert recognise(model, clips[2], plain) == first
    assert all(not u.words and not u.alternatives for u in first)
    assert len(rich[0].alternatives) == 3
    assert rich[0].alternatives[0].words


def test_silence_and_nothing_have_no_text(model: VoskModel) -> None:
    assert text(recognise(model, bytes(32_000))) == ""
    assert text(recognise(model, b"")) == ""


def test_partial_results_grow_into_the_final_one(model: VoskModel, clips: list[bytes]) -> None:
    recognizer = model.recognizer(models.RecognitionOptions(words=True, partial_words=True))
    partials = []
    for at in range(0, len(clips[2]), model.chunk_bytes):
        models.run_steps(recognizer.accept(clips[2][at : at + model.chunk_bytes]))
        partials.append(recognizer.partial())
    models.run_steps(recognizer.finish())
    recognizer.close()
    assert partials[0].text == ""
    assert max(len(p.text) for p in partials) > 10
    assert any(p.words for p in partials)


def test_a_grammar_is_kept_to(model: VoskModel, clips: list[bytes]) -> None:
    options = models.RecognitionOptions(words=True, grammar=("어제", "친구", "시장", "[unk]"))
    heard = text(recognise(model, clips[2], options)).split()
    assert set(heard) <= {"어제", "친구", "시장", "[unk]"}
    assert "어제" in text(recognise(model, clips[2]))


def test_a_directory_that_vosk_cannot_read_is_an_error_and_not_an_exit(tmp_path: Path) -> None:
    with pytest.raises(models.ModelError, match="cannot read"):
        VoskModel(tmp_path)


def test_what_every_worker_inherits_is_what_it_needs() -> None:
    """Check that there is no event loop, no HTTP, and none of the modules with which the engine's
    package fetches models; a later import gets the real module."""
    code = (
        "import sys, av, supervisor.child, modelserver.worker.model, models.vosk.model\n"
        "import models.vosk.forms\n"
        "modelserver.worker.model._import_whole(av)\n"
        "unwanted = {'asyncio', 'aiohttp', 'email', 'ssl', 'http', 'requests', 'tqdm', 'srt'}\n"
        "print(sorted(unwanted & set(sys.modules)))\n"
        "import requests, tqdm, urllib.request\n"
        "print(callable(requests.get), callable(tqdm.tqdm), callable(urllib.request.urlretrieve))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "True True True"]
