"""ONNX models behind the same server: loaded by their own engine, reported by neutral fields."""

from pathlib import Path

import pytest
from onnx_models import expected, make_model, silence, tones
from running import start_server
from wavs import wav_file

import models

SAID = "ab ba"


@pytest.mark.parametrize("kind", ["nemo_ctc", "online_transducer"])
def test_an_onnx_model_is_served_by_its_engine(tmp_path: Path, kind: str) -> None:
    directory = make_model(kind, tmp_path / "toy")
    with start_server(
        tmp_path,
        f"--model={directory}",
        MODELSERVER_LANGUAGE="en",
        MODELSERVER_DEBUG_WARMUP="none",
        MODELSERVER_ENGINES_ONNX_VOICE_ACTIVITY="loudness",
    ) as server:
        server.wait_ready()
        answer = server.convert(wav_file(silence(0.5) + tones(SAID) + silence(0.5)))
        assert answer.json["text"] == expected(kind, SAID)
        (chosen,) = server.events("model.chosen")
        assert (chosen["engine"], chosen["form"]) == ("onnx", "published")
        one = server.health()["models"][0]
        assert (one["engine"], one["form"], one["missing"]) == ("onnx", "published", None)
        metrics = server.ask_admin("GET", "/metrics")[1].decode()
        assert 'engine="onnx",form="published"' in metrics


def test_phrases_are_refused_by_a_model_that_takes_none(tmp_path: Path) -> None:
    directory = make_model("sense_voice", tmp_path / "toy")
    with start_server(
        tmp_path, f"--model={directory}", MODELSERVER_LANGUAGE="en", MODELSERVER_DEBUG_WARMUP="none"
    ) as server:
        server.wait_ready()
        answer = server.convert(wav_file(tones(SAID)), "?phrases=ab")
        assert answer.status == 400
        assert "cannot be limited to phrases" in answer.json["error"]["message"]
        assert models.engine_of(directory).name == "onnx"
