"""Loading of models for sherpa-onnx in real processes: what cannot be loaded ends in a sentence."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from onnx_models import KINDS, expected, make_model, write_network
from places import ONNX_MODEL, SUPPORT

from models.sherpa.files import disk_bytes
from models.sherpa.layout import recognise
from models.sherpa.prediction import predict
from supervisor.processes.environment import choose_allocator, find_jemalloc, process_environment
from supervisor.settings import Allocator

TEXT = "ab ba feed hh cage"
ENGINE = 35_000_000
"""Bytes that the prediction counts for the process itself; these measurements begin after it."""


def loaded(directory: Path, *arguments: str) -> dict[str, Any]:
    """Load a model in a process; return its report, the only output allowed."""
    command = [sys.executable, SUPPORT / "load_onnx.py", directory, *arguments]
    allocator = choose_allocator(Allocator.AUTO, find_jemalloc(), huge_pages=False)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        stdin=subprocess.DEVNULL,
        env=process_environment(os.environ, allocator.variables),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def most_while_loading(directory: Path) -> int:
    """Most anonymous bytes that the process, or the child in which it loads first, has meanwhile,
    without what it had before."""
    command = [sys.executable, SUPPORT / "load_onnx.py", directory]
    allocator = choose_allocator(Allocator.AUTO, find_jemalloc(), huge_pages=False)
    environment = process_environment(os.environ, allocator.variables)
    most = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        while process.poll() is None:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            with contextlib.suppress(OSError):
                for pid in (process.pid, *map(int, children.read_text().split())):
                    with contextlib.suppress(psutil.Error):
                        memory = psutil.Process(pid).memory_info()
                        most = max(most, memory.rss - memory.shared)
        assert process.stdout is not None
        return most - int(json.loads(process.stdout.read())["anonymous_before"])


def refusal(directory: Path, *arguments: str) -> str:
    facts = loaded(directory, *arguments)
    assert facts.get("code") == "model_invalid", facts
    message: str = facts["message"]
    assert str(directory) in message
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_every_small_model_is_loaded_and_recognises_tones(kind: str, tmp_path: Path) -> None:
    facts = loaded(make_model(kind, tmp_path), "none", TEXT)
    assert facts["text"] == expected(kind, TEXT)
    assert facts["threads"] == 1


def test_metadata_that_is_missing_is_named(tmp_path: Path) -> None:
    directory = make_model("sense_voice", tmp_path)
    write_network(directory / "model.onnx", {"model_type": "sense_voice_ctc"})
    message = refusal(directory)
    assert "model.onnx (sense_voice) cannot be loaded" in message
    assert message.endswith("'vocab_size' does not exist in the metadata")


def test_metadata_that_is_wrong_is_quoted(tmp_path: Path) -> None:
    directory = make_model("online_transducer", tmp_path)
    metadata = {"model_type": "zipformer2", "decode_chunk_len": "16", "encoder_dims": "a,b"}
    write_network(directory / "encoder.onnx", metadata)
    message = refusal(directory)
    assert "encoder.onnx" in message
    assert "Invalid value 'a,b' for 'encoder_dims'" in message


def test_a_network_that_cannot_be_computed_is_named(tmp_path: Path) -> None:
    directory = make_model("zipformer_ctc", tmp_path)
    file = directory / "model.onnx"
    file.write_bytes(file.read_bytes().replace(b"MatMul", b"MatMxl"))
    message = refusal(directory)
    assert "No Op registered for MatMxl" in message


def test_a_network_of_another_model_is_refused(tmp_path: Path) -> None:
    directory = make_model("transducer", tmp_path)
    write_network(directory / "decoder.onnx", {"vocab_size": "12", "context_size": "2"})
    assert "decoder" in refusal(directory)


def test_tokens_without_the_blank_are_refused(tmp_path: Path) -> None:
    directory = make_model("zipformer_ctc", tmp_path)
    tokens = directory / "tokens.txt"
    tokens.write_text(tokens.read_text(encoding="utf-8").replace("<blk>", "x"), encoding="utf-8")
    assert "tokens.txt contains the symbol <blk>" in refusal(directory)


def test_tokens_of_another_form_are_refused_with_their_line(tmp_path: Path) -> None:
    directory = make_model("nemo_ctc", tmp_path)
    (directory / "tokens.txt").write_text("a 0\nb c 1\n")
    assert "tokens.txt, line 2: 'b c 1' is not a token and its number" in refusal(directory)
    (directory / "tokens.txt").write_text('["a", "b"]\n')
    assert "tokens.txt, line 1" in refusal(directory)


@pytest.mark.parametrize(("kind", "network"), [("paraformer", "model"), ("transducer", "encoder")])
def test_tokens_of_another_model_are_refused(kind: str, network: str, tmp_path: Path) -> None:
    directory = make_model(kind, tmp_path)
    tokens = directory / "tokens.txt"
    size = len(tokens.read_text(encoding="utf-8").splitlines())
    tokens.write_text("<blk> 0\n</s> 2\n")
    message = refusal(directory)
    assert f"tokens.txt is not the file of tokens of {network}.onnx" in message
    assert f"2 of the model's {size} tokens" in message


def test_tokens_of_whisper_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    (tokens,) = make_model("whisper", tmp_path).glob("*tokens.txt")
    lines = tokens.read_text(encoding="utf-8").splitlines(keepends=True)
    tokens.write_text("".join(lines[: len(lines) // 2]), encoding="utf-8")
    assert "tokens.txt is not the file of tokens of" in refusal(tmp_path)


def test_tokens_that_are_a_space_or_strange_are_taken(tmp_path: Path) -> None:
    directory = make_model("zipformer_ctc", tmp_path)
    tokens = directory / "tokens.txt"
    text = tokens.read_text(encoding="utf-8").replace("▁ ", " ")
    tokens.write_text(f"{text}\u3000 12\r\n\n", encoding="utf-8")
    assert loaded(directory, "none", "a b")["text"] == "a b"


@pytest.mark.parametrize(
    ("mishap", "words"),
    [
        ("crash", "killed by SIGSEGV"),
        ("kill", "where memory runs out"),
        ("exit", "exit status 9"),
        ("raise", "KeyError: 'nothing'"),
        ("thread", "it has 1 threads of its own"),
    ],
)
def test_what_happens_to_a_load_is_said(mishap: str, words: str, tmp_path: Path) -> None:
    assert words in refusal(make_model("wenet_ctc", tmp_path), mishap)


@pytest.mark.parametrize("kind", ["sense_voice", "online_transducer"])
def test_the_memory_of_weights_is_predicted(kind: str, tmp_path: Path) -> None:
    directory = make_model(kind, tmp_path, padding_bytes=120_000_000)
    measured = ENGINE + loaded(directory, "none", TEXT)["anonymous"]
    assert 0.95 * measured < predict(recognise(directory)).model < 1.3 * measured


@pytest.mark.skipif(not ONNX_MODEL, reason="MODELSERVER_TEST_ONNX names no real model")
def test_the_memory_of_a_real_model_is_predicted() -> None:
    directory = Path(ONNX_MODEL)
    measured = ENGINE + loaded(directory, "none", TEXT)["anonymous"]
    assert 0.95 * measured < predict(recognise(directory)).model < 1.3 * measured


@pytest.mark.parametrize("kind", ["sense_voice", "online_transducer"])
def test_the_memory_while_a_model_loads_is_predicted(kind: str, tmp_path: Path) -> None:
    """Weights are copied from the file, and then laid out: more than what is held after that."""
    directory = make_model(kind, tmp_path, padding_bytes=120_000_000)
    measured = ENGINE + most_while_loading(directory)
    prediction = predict(recognise(directory))
    assert measured > prediction.model
    assert 0.95 * measured < prediction.most_while_loading < 1.3 * measured


@pytest.mark.quick
def test_weights_beside_a_network_are_counted(tmp_path: Path) -> None:
    directory = make_model("transducer", tmp_path, suffix=".int8")
    encoder = directory / "encoder.int8.onnx"
    small = predict(recognise(directory))
    for name in ("encoder.int8.onnx.data", "encoder.int8.weights"):
        with (directory / name).open("wb") as writer:
            writer.truncate(1_000_000)
    assert disk_bytes(encoder) == encoder.stat().st_size + 2_000_000
    assert predict(recognise(directory)).model > small.model + 2_000_000


@pytest.mark.quick
def test_eight_bits_and_half_precision_are_told_apart(tmp_path: Path) -> None:
    """Half precision is converted when it is loaded."""
    model = {}
    for suffix in ("", ".int8", ".fp16"):
        directory = tmp_path / f"of{suffix}"
        make_model("zipformer_ctc", directory, padding_bytes=1_000_000, suffix=suffix)
        model[suffix] = predict(recognise(directory)).model
    assert model[""] < model[".int8"] < model[".fp16"]


@pytest.mark.quick
def test_larger_whispers_grow_more(tmp_path: Path) -> None:
    directory = make_model("whisper", tmp_path)
    growth = []
    for layers, width in (("4", "384"), ("6", "512"), ("32", "1280"), ("9" * 9, "9" * 9)):
        metadata = {"model_type": "whisper", "n_text_layer": layers, "n_text_state": width}
        write_network(directory / "tones-encoder.onnx", metadata)
        growth.append(predict(recognise(directory)).growth)
    assert growth == sorted(growth)
    assert 60e6 < growth[1] < 90e6
