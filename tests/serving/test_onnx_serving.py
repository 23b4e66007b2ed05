"""A server with an ONNX model: small models that recognise tones, so that loudness is speech."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx_models import LETTER_S, expected, make_model, silence, tones, write_network
from running import RunningServer, start_server, until
from wavs import wav_file

TEXT = "ab ba feed"
LOUDNESS = {"MODELSERVER_ENGINES_ONNX_VOICE_ACTIVITY": "loudness"}


@pytest.fixture(
    scope="module", params=["zipformer_ctc", "online_transducer", "whisper", "paraformer"]
)
def kind(request: pytest.FixtureRequest) -> str:
    """Offline and streaming, with times and without."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp(kind)
    model = make_model(kind, directory / "tones")
    with start_server(
        directory, f"--model={model}", MODELSERVER_WORKERS_COUNT="2", **LOUDNESS
    ) as server:
        server.wait_whole()
        yield server


def recording(*texts: str) -> bytes:
    """Return the texts, with two seconds of silence after each."""
    return wav_file(silence(0.5) + b"".join(tones(text) + silence(2) for text in texts))


def test_a_file_is_transcribed(server: RunningServer, kind: str) -> None:
    answer = server.convert(recording(TEXT))
    assert answer.status == 200, answer.body
    assert answer.json["text"] == expected(kind, TEXT)


def test_utterances_have_times(server: RunningServer, kind: str) -> None:
    answer = server.convert(recording("abc", "feed"), "?segments=true")
    assert answer.status == 200, answer.body
    first, second = answer.json["segments"]
    assert [first["text"], second["text"]] == [expected(kind, text) for text in ("abc", "feed")]
    begins = 0.5 + 3 * LETTER_S + 2
    assert abs(first["start"] - 0.5) < 0.5
    assert abs(second["start"] - begins) < 0.5
    assert second["end"] < begins + 4 * LETTER_S + 1


def test_both_workers_answer_at_once_from_one_model(server: RunningServer, kind: str) -> None:
    loaded = server.events("model.loaded")
    assert [event["engine"] for event in loaded] == ["onnx"]
    assert len(server.workers()) == 2
    assert server.fork_server().num_threads() == 1
    assert [worker.num_threads() for worker in server.workers()] == [1, 1]


def test_engine_and_form_are_reported_by_neutral_fields(server: RunningServer) -> None:
    (chosen,) = server.events("model.chosen")
    assert (chosen["engine"], chosen["form"]) == ("onnx", "published")
    (model,) = server.health()["models"]
    assert (model["engine"], model["form"], model["missing"]) == ("onnx", "published", None)
    metrics = server.ask_admin("GET", "/metrics")[1].decode()
    assert 'modelserver_model_info{engine="onnx",form="published",' in metrics


def test_phrases_are_refused_by_a_model_that_takes_none(server: RunningServer) -> None:
    answer = server.convert(recording("a b"), "?phrases=ab")
    assert answer.status == 400
    assert "cannot be limited to phrases" in answer.json["error"]["message"]


def test_the_library_writes_nothing_into_the_log(server: RunningServer) -> None:
    assert server.convert(recording("a b")).status == 200
    lines = (server.admin.parent / "server.log").read_text().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []


def test_the_reason_why_a_model_cannot_be_loaded_is_reported(tmp_path: Path) -> None:
    """The library ends the process that loads it: the server lives, and says which file and why."""
    model = make_model("sense_voice", tmp_path / "wrong")
    write_network(model / "model.onnx", {"model_type": "sense_voice_ctc"})
    why = "model.onnx (sense_voice) cannot be loaded: 'vocab_size' does not exist in the metadata"
    with start_server(tmp_path, f"--model={model}", **LOUDNESS) as server:
        event = server.wait_event("model.load_failed", timeout_s=30)
        assert why in event["error"]
        assert until(lambda: why in str(server.health()), what="the reason in health")
        assert server.convert(recording("a")).status == 503
