"""The second engine as the server asks it: what it knows before loading, and its refusals."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx_models import Network, make_model, write_network
from places import SUPPORT

from models.contract import ModelError, ModelLocation
from models.engine import EngineSettings
from models.sherpa import engine as sherpa_engine
from models.sherpa.engine import ENGINE

SETTINGS = EngineSettings(Path("/nowhere"), values={"voice_activity": "loudness"})


def location(directory: Path) -> ModelLocation:
    return ModelLocation("tones", directory, "ko")


def refused(act: Callable[[], Any]) -> ModelError:
    with pytest.raises(ModelError) as caught:
        act()
    return caught.value


@pytest.mark.quick
def test_a_model_has_one_form_with_its_abilities(tmp_path: Path) -> None:
    directory = make_model("online_transducer", tmp_path)
    assert ENGINE.problem(directory) is None
    (form,) = ENGINE.forms(location(directory), SETTINGS)
    assert form.name == "published"
    assert form.abilities.streaming
    assert form.abilities.confidences
    assert form.prediction.model > 40_000_000
    wanted = {"voice_activity": "loudness", "form": "published", "language": "ko"}
    wanted["search"] = "both"
    assert form.load == {**wanted, "prepared": False, "directory": str(directory)}
    assert form.details["kind"] == "online_transducer"


@pytest.mark.quick
def test_other_directories_are_refused_with_the_reason(tmp_path: Path) -> None:
    assert ENGINE.problem(tmp_path) == "no network (.onnx) is in it"
    error = refused(lambda: ENGINE.forms(location(tmp_path), SETTINGS))
    assert error.code == "model_invalid"
    assert error.message == f"{tmp_path}: no network (.onnx) is in it"


@pytest.mark.quick
def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ENGINE.missing() is None
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sherpa_onnx" else find(name)
    )
    missing = ENGINE.missing()
    assert missing is not None
    assert "sherpa_onnx is not installed" in missing
    assert "pip install 'modelserver[onnx]'" in missing
    assert ENGINE.findings(SETTINGS)[0].text == missing


@pytest.mark.quick
def test_a_directory_that_is_left_of_a_package_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "left_behind" / "lib").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sherpa_engine, "_PACKAGES", ("left_behind",))
    assert "left_behind is not installed" in (ENGINE.missing() or "")


def test_a_wrong_file_is_an_error_of_the_load(tmp_path: Path) -> None:
    directory = make_model("zipformer_ctc", tmp_path)
    write_network(directory / "model.onnx", {"model_type": "sense_voice_ctc"})
    form = ENGINE.forms(location(directory), SETTINGS)[0]
    error = refused(lambda: ENGINE.load(form.location, form.load))
    assert error.code == "model_invalid"
    assert "'vocab_size' does not exist in the metadata" in error.message


def test_a_network_of_another_model_is_an_error_of_the_load(tmp_path: Path) -> None:
    """The library loads it: it is found to be too narrow when something is decoded."""
    directory = make_model("transducer", tmp_path)
    network = Network()
    parts = [network.input(name, ["N", 5]) for name in ("encoder_out", "decoder_out")]
    network.output(network.node("Add", *parts), "logit", ["N", 5])
    network.write(directory / "joiner.onnx", {"joiner_dim": 5})
    form = ENGINE.forms(location(directory), SETTINGS)[0]
    error = refused(lambda: ENGINE.load(form.location, form.load))
    assert error.code == "model_invalid"
    assert "joiner.onnx (transducer) cannot be loaded" in error.message
    assert "invalid dimensions for input: encoder_out" in error.message


def test_a_loaded_model_has_one_thread(tmp_path: Path) -> None:
    """The library is there only once a model is loaded."""
    command = (
        "import sys; from pathlib import Path; from models.contract import ModelLocation;"
        "from models.sherpa.engine import ENGINE; from models.sherpa.loading import threads;"
        "assert ENGINE.missing() is None and 'sherpa_onnx' not in sys.modules;"
        "model = ENGINE.load(ModelLocation('tones', Path(sys.argv[1]), 'ko'), {});"
        "model.warm([bytes(64_000)]); print(threads())"
    )
    for kind in ("transducer", "online_zipformer2_ctc", "whisper"):
        directory = make_model(kind, tmp_path / kind)
        done = subprocess.run(
            [sys.executable, "-c", command, directory],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        )
        assert (done.stdout, done.stderr) == ("1\n", "")
