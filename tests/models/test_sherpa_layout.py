"""Recognition of models for sherpa-onnx, by names and metadata of their files."""

import os
import random
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from onnx_models import KINDS as MADE
from onnx_models import make_model, write_network
from places import ROOT
from stopwatch import processor_s

from models.sherpa.kinds import KINDS
from models.sherpa.layout import Layout, recognise
from models.sherpa.metadata import NotOnnx, read_metadata
from models.sherpa.refusals import NotRecognised

pytestmark = pytest.mark.quick

ZIPFORMER = {"model_type": "zipformer2"}
STREAMING = {"model_type": "zipformer2", "decode_chunk_len": "32", "T": "45"}
NEMO = {"model_type": "EncDecHybridRNNTCTCBPEModel", "vocab_size": "1024"}
CACHED = {"cache_last_channel_dim1": "17", "window_size": "121"}
WHISPER = {"model_type": "whisper-tiny.en", "is_multilingual": "0"}
SENSE_VOICE = {"model_type": "sense_voice_ctc"}


def written(
    directory: Path, networks: Mapping[str, Mapping[str, str]], others: Iterable[str] = ()
) -> Path:
    """Return a directory with these networks, each with its metadata, and these other files."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, metadata in networks.items():
        write_network(directory / name, metadata)
    for name in others:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("<blk> 0\na 1\n")
    return directory


def names(layout: Layout) -> dict[str, str]:
    return {argument: file.name for argument, file in layout.files.items()}


def reason(directory: Path) -> str:
    with pytest.raises(NotRecognised) as refused:
        recognise(directory)
    return str(refused.value)


def three(metadata: Mapping[str, str], form: str = "{}.onnx") -> dict[str, Mapping[str, str]]:
    parts = {"encoder": metadata, "decoder": {}, "joiner": {}}
    return {form.format(part): its for part, its in parts.items()}


def test_languages_are_counted_once_and_bounded(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    codes = [first + second for first in letters for second in letters]
    metadata = {"model_type": "whisper-x", "is_multilingual": "1"}
    pair = {"encoder.onnx": metadata | {"all_language_codes": ",".join(["en", "en", *codes])}}
    layout = recognise(written(tmp_path, pair | {"decoder.onnx": {}}, ["tokens.txt"]))
    assert layout.languages[:2] == ("en", "aa")
    assert len(layout.languages) == len(set(layout.languages)) == 200


def test_pipes_are_not_read(tmp_path: Path) -> None:
    """Use pipes, which would block a reader."""
    directory = written(tmp_path, {"model.onnx": SENSE_VOICE})
    os.mkfifo(directory / "tokens.txt")
    assert "tokens.txt is missing" in reason(directory)
    (directory / "tokens.txt").unlink()
    written(directory, {}, ["tokens.txt", "test_wavs/b.wav"])
    os.mkfifo(directory / "test_wavs" / "a.wav")
    assert recognise(directory).clips == (directory / "test_wavs" / "b.wav",)


ORT = b"\0\0\0\0ORTM\0\0"

SINGLE = {
    "sense_voice": SENSE_VOICE,
    "paraformer": {"model_type": "paraformer"},
    "zipformer_ctc": {"model_type": "zipformer2_ctc"},
    "nemo_ctc": {"model_type": "EncDecCTCModelBPE"},
    "wenet_ctc": {"model_type": "wenet_ctc", "subsampling_factor": "4"},
    "telespeech_ctc": {"model_type": "telespeech_ctc"},
    "tdnn_ctc": {"model_type": "tdnn"},
    "dolphin_ctc": {"model_type": "dolphin", "mean": "0", "invstd": "1"},
    "omnilingual_ctc": {"model_type": "omnilingual-asr"},
    "medasr_ctc": {"model_type": "medasr_ctc"},
    "fire_red_asr_ctc": {"model_type": "fire-red-asr-2-ctc"},
    "online_zipformer2_ctc": STREAMING,
    "online_nemo_ctc": {**NEMO, **CACHED},
    "online_wenet_ctc": {"model_type": "wenet_ctc", "chunk_size": "8", "left_chunks": "5"},
    "online_t_one_ctc": {"model_type": "t-one"},
}
ENCODERS = {
    "transducer": ZIPFORMER,
    "nemo_transducer": NEMO,
    "online_transducer": STREAMING,
    "whisper": WHISPER,
    "canary": {"model_type": "EncDecMultiTaskModel"},
    "cohere": {"model_type": "cohere-transcribe-03-2026"},
    "fire_red_asr": {"num_decoder_layers": "16", "cmvn_mean": "0"},
    "online_paraformer": {"model_type": "paraformer", "decoder_num_blocks": "16"},
}
BY_NAMES = {
    "moonshine": (
        [
            "preprocess.onnx",
            "encode.int8.onnx",
            "uncached_decode.int8.onnx",
            "cached_decode.int8.onnx",
        ],
        ["tokens.txt"],
    ),
    "moonshine_v2": (["encoder_model.ort", "decoder_model_merged.ort"], ["tokens.txt"]),
    "qwen3_asr": (
        ["conv_frontend.onnx", "encoder.int8.onnx", "decoder.int8.onnx"],
        [f"tokenizer/{name}" for name in ("vocab.json", "merges.txt", "tokenizer_config.json")],
    ),
    "funasr_nano": (
        ["encoder_adaptor.int8.onnx", "llm.int8.onnx", "embedding.int8.onnx"],
        [f"Qwen3-0.6B/{name}" for name in ("vocab.json", "merges.txt", "tokenizer.json")],
    ),
}


@pytest.mark.parametrize("kind", SINGLE)
def test_a_model_in_one_file_is_recognised_by_its_metadata(kind: str, tmp_path: Path) -> None:
    layout = recognise(written(tmp_path, {"model.int8.onnx": SINGLE[kind]}, ["tokens.txt"]))
    assert layout.kind.name == kind
    assert layout.networks == (tmp_path / "model.int8.onnx",)
    assert layout.files["tokens"] == tmp_path / "tokens.txt"
    assert layout.quantised


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_model_with_an_encoder_is_recognised_by_its_metadata(kind: str, tmp_path: Path) -> None:
    parts = KINDS[kind].arguments
    networks = {f"{part}.onnx": ENCODERS[kind] if part == "encoder" else {} for part in parts}
    layout = recognise(written(tmp_path, networks, ["tokens.txt"]))
    assert layout.kind.name == kind
    assert names(layout) == {"tokens": "tokens.txt", **{part: f"{part}.onnx" for part in parts}}
    assert not layout.quantised


@pytest.mark.parametrize("kind", BY_NAMES)
def test_a_model_is_recognised_by_the_names_of_its_files(kind: str, tmp_path: Path) -> None:
    networks, others = BY_NAMES[kind]
    written(tmp_path, {name: {} for name in networks if name.endswith(".onnx")}, others)
    for name in networks:
        if name.endswith(".ort"):
            (tmp_path / name).write_bytes(ORT)
    layout = recognise(tmp_path)
    assert layout.kind.name == kind
    assert sorted(file.name for file in layout.networks) == sorted(networks)
    words = layout.files.get("tokens") or layout.files["tokenizer"]
    assert words.name in ("tokens.txt", "tokenizer", "Qwen3-0.6B")


def test_every_kind_is_tried_here() -> None:
    assert {*SINGLE, *ENCODERS, *BY_NAMES} == set(KINDS)


def test_the_documents_name_every_kind() -> None:
    page = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
    assert [name for name in KINDS if f"`{name}`" not in page] == []


@pytest.mark.parametrize("kind", MADE)
def test_the_small_models_are_of_their_kind(kind: str, tmp_path: Path) -> None:
    assert recognise(make_model(kind, tmp_path)).kind.name == kind


@pytest.mark.parametrize("folder", ["am", "am-onnx"])
def test_a_model_of_vosk_0_52_is_a_transducer(folder: str, tmp_path: Path) -> None:
    written(tmp_path / folder, three(ZIPFORMER))
    layout = recognise(written(tmp_path, {}, ["lang/tokens.txt"]))
    assert layout.kind.name == "transducer"
    assert layout.files["encoder"] == tmp_path / folder / "encoder.onnx"
    assert layout.files["tokens"] == tmp_path / "lang" / "tokens.txt"


def test_a_transducer_of_the_oldest_exports_is_known_by_its_decoder(tmp_path: Path) -> None:
    written(tmp_path, three({}), ["tokens.txt"])
    assert "does not say what it is" in reason(tmp_path)
    write_network(tmp_path / "decoder.onnx", {"vocab_size": "500", "context_size": "2"})
    assert recognise(tmp_path).kind.name == "transducer"


def test_eight_bits_are_preferred_except_for_the_decoder_of_a_transducer(tmp_path: Path) -> None:
    form = "{}-epoch-99-avg-1"
    written(tmp_path, three(ZIPFORMER, f"{form}.onnx"))
    written(tmp_path, three(ZIPFORMER, f"{form}.int8.onnx"))
    written(tmp_path, three(ZIPFORMER, f"{form}.fp16.onnx"), ["tokens.txt"])
    assert names(recognise(tmp_path)) == {
        "encoder": "encoder-epoch-99-avg-1.int8.onnx",
        "decoder": "decoder-epoch-99-avg-1.onnx",
        "joiner": "joiner-epoch-99-avg-1.int8.onnx",
        "tokens": "tokens.txt",
    }


def test_of_several_models_the_streaming_one_is_loaded_whole(tmp_path: Path) -> None:
    for form, metadata in (
        ("{}-epoch-99-avg-1.int8.onnx", ZIPFORMER),
        ("{}-epoch-99-avg-1-chunk-16-left-64.onnx", STREAMING),
        ("{}-epoch-99-avg-1-chunk-16-left-128.onnx", STREAMING),
    ):
        written(tmp_path, three(metadata, form))
    layout = recognise(written(tmp_path, {}, ["tokens.txt"]))
    assert layout.streaming
    assert {file.name.partition("-")[2] for file in layout.networks} == {
        "epoch-99-avg-1-chunk-16-left-128.onnx"
    }


def test_half_precision_is_loaded_where_there_is_nothing_else(tmp_path: Path) -> None:
    layout = recognise(written(tmp_path, {"model.fp16.onnx": SENSE_VOICE}, ["tokens.txt"]))
    assert names(layout)["model"] == "model.fp16.onnx"


def test_networks_for_other_purposes_are_left_alone(tmp_path: Path) -> None:
    beside = {"silero_vad.onnx": {}, "punct.onnx": {}, "lm.onnx": {}}
    layout = recognise(written(tmp_path, {"model.onnx": SENSE_VOICE, **beside}, ["tokens.txt"]))
    assert names(layout)["model"] == "model.onnx"


def test_whisper_has_the_languages_of_its_metadata(tmp_path: Path) -> None:
    many = {
        "model_type": "whisper-base",
        "is_multilingual": "1",
        "all_language_codes": "en,zh,../x",
    }
    files = {"base-encoder.onnx": many, "base-decoder.onnx": {}}
    layout = recognise(written(tmp_path / "many", files, ["base-tokens.txt", "tiny-tokens.txt"]))
    assert layout.languages == ("en", "zh")
    assert layout.detects_language
    assert layout.written
    assert layout.longest_s == 29.5
    assert names(layout)["tokens"] == "base-tokens.txt"
    one = {"tiny.en-encoder.onnx": WHISPER, "tiny.en-decoder.onnx": {}}
    layout = recognise(written(tmp_path / "one", one, ["tiny.en-tokens.txt"]))
    assert layout.languages == ()
    assert not layout.detects_language


def test_a_model_with_full_stops_among_its_tokens_writes(tmp_path: Path) -> None:
    written(tmp_path, {"model.onnx": SINGLE["nemo_ctc"]}, ["tokens.txt"])
    assert not recognise(tmp_path).written
    (tmp_path / "tokens.txt").write_text("▁a 0\n▁. 1\n<blk> 2\n", encoding="utf-8")
    assert recognise(tmp_path).written


def test_what_streams_has_no_longest_piece_and_others_have(tmp_path: Path) -> None:
    online = recognise(make_model("online_transducer", tmp_path / "online"))
    assert (online.streaming, online.longest_s) == (True, None)
    offline = recognise(make_model("transducer", tmp_path / "offline"))
    assert (offline.streaming, offline.longest_s) == (False, 25)


def test_arguments_follow_from_the_metadata(tmp_path: Path) -> None:
    wenet = written(tmp_path / "w", {"model.onnx": SINGLE["online_wenet_ctc"]}, ["tokens.txt"])
    assert recognise(wenet).arguments == {"chunk_size": 8, "num_left_chunks": 5}
    offline = written(tmp_path / "t", three(NEMO), ["tokens.txt"])
    assert recognise(offline).arguments == {"model_type": "nemo_transducer"}
    online = written(tmp_path / "o", three(STREAMING), ["tokens.txt"])
    assert recognise(online).arguments == {"model_type": "zipformer2"}


def test_recordings_that_came_with_it_are_found(tmp_path: Path) -> None:
    written(
        tmp_path, {"model.onnx": SENSE_VOICE}, ["tokens.txt", "test_wavs/ko.wav", "test_wavs/a"]
    )
    assert recognise(tmp_path).clips == (tmp_path / "test_wavs" / "ko.wav",)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert reason(tmp_path / "nowhere") == "there is no such directory"
    assert reason(written(tmp_path / "a", {})) == "no network (.onnx) is in it"
    no_tokens = reason(written(tmp_path / "b", {"model.onnx": SENSE_VOICE}))
    assert "model.onnx is there, and tokens.txt is missing" in no_tokens
    other_tokens = reason(written(tmp_path / "c", {"model.onnx": SENSE_VOICE}, ["tokens.json"]))
    assert "its tokens are in a file of another form" in other_tokens
    pair = {name: its for name, its in three(ZIPFORMER).items() if "joiner" not in name}
    assert "joiner.onnx is missing" in reason(written(tmp_path / "d", pair, ["tokens.txt"]))
    alone = reason(written(tmp_path / "e", {"encoder.onnx": WHISPER}, ["tokens.txt"]))
    assert alone == "there is encoder.onnx, but no decoder.onnx"
    written(tmp_path / "f" / "inner", {"model.onnx": SENSE_VOICE})
    assert "there is one in its directory inner" in reason(tmp_path / "f")
    parts = {"conv_frontend.onnx": {}, "encoder.onnx": {}, "decoder.onnx": {}}
    assert "tokenizer_config.json" in reason(written(tmp_path / "g", parts))


def test_what_the_metadata_does_not_say_is_refused(tmp_path: Path) -> None:
    silent = reason(written(tmp_path / "a", {"model.onnx": {}}, ["tokens.txt"]))
    assert "model.onnx does not say what it is (model_type)" in silent
    assert "k2-fsa/sherpa-onnx/releases" in silent
    voices = reason(written(tmp_path / "b", {"model.onnx": {"model_type": "vits"}}, ["tokens.txt"]))
    assert "of the type 'vits'" in voices
    assert "sense_voice_ctc" in voices


def test_an_export_of_funasr_is_refused_with_the_release_to_use(tmp_path: Path) -> None:
    others = ["am.mvn", "config.yaml", "tokens.json"]
    refused = reason(written(tmp_path, {"model_quant.onnx": {}}, others))
    assert "FunASR's own export" in refused
    assert "sherpa-onnx-sense-voice-" in refused


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("model.pt", "PyTorch"),
        ("model.safetensors", "safetensors"),
        ("ggml-base.bin", "whisper.cpp"),
        ("model.nemo", "NeMo"),
    ],
)
def test_models_in_other_formats_are_named(name: str, maker: str, tmp_path: Path) -> None:
    refused = reason(written(tmp_path, {}, [name, "README.md"]))
    assert name in refused
    assert maker in refused


def test_a_name_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.pt")).touch()
    assert reason(tmp_path).startswith("?.pt is a model for PyTorch")


def test_files_that_are_no_networks_are_named(tmp_path: Path) -> None:
    written(tmp_path, {"encoder.onnx": ENCODERS["canary"]}, ["tokens.txt"])
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "decoder.onnx").write_text(pointer)
    refused = reason(tmp_path)
    assert refused.startswith("decoder.onnx")
    assert "git lfs pull" in refused
    (tmp_path / "decoder.onnx").write_bytes(b"")
    assert "decoder.onnx" in reason(tmp_path)
    two = {"encoder_model.ort": ORT, "decoder_model_merged.ort": b"nothing"}
    for name, content in two.items():
        (tmp_path / "v2").mkdir(exist_ok=True)
        (tmp_path / "v2" / name).write_bytes(content)
    written(tmp_path / "v2", {}, ["tokens.txt"])
    assert "decoder_model_merged.ort is not" in reason(tmp_path / "v2")


def test_metadata_is_read_without_reading_the_network(tmp_path: Path) -> None:
    """The file is sparse: half a gigabyte of weights, and metadata on either side."""
    entry = b"\x0a\x03key\x12\x05value"
    file = tmp_path / "model.onnx"
    with file.open("wb") as writer:
        writer.write(b"\x08\x09\x72" + bytes([len(entry)]) + entry)
        writer.write(b"\x3a\x80\x80\x80\x80\x02")  # 512 MB of field 7
        writer.seek(1 << 29, os.SEEK_CUR)
        writer.write(b"\x72" + bytes([len(entry)]) + entry.replace(b"key", b"end"))
    assert read_metadata(file) == {"key": "value", "end": "value"}
    assert processor_s(lambda: read_metadata(file), enough_s=0.4) < 0.5


def test_every_truncation_is_refused_or_read(tmp_path: Path) -> None:
    whole = make_model("zipformer_ctc", tmp_path / "whole") / "model.onnx"
    content = whole.read_bytes()
    known = read_metadata(whole)
    assert known["model_type"] == "zipformer2_ctc"
    file = tmp_path / "part.onnx"
    refused = 0
    for size in range(0, len(content), max(1, len(content) // 300)):
        file.write_bytes(content[:size])
        try:
            assert read_metadata(file).items() <= known.items()
        except NotOnnx:
            refused += 1
    assert refused > 250


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a" + b"\xff" * 20,  # a length without an end
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # 2^64 - 1 bytes
        b"\x72\x7f" + b"\x0a\x7f" * 60,  # lengths beyond their field
        b"\x08\x01" * 50_000,  # a version, again and again
        b"\x3a\x01\x00" + b"\x72\x00" * 50_000,  # more entries than any model has
        b"\x73" * 100,  # a wire type that there is not
        b"\x00" * 100,
    ],
)
def test_hostile_files_are_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(NotOnnx):
        read_metadata(file)


def test_random_bytes_are_refused_quickly(tmp_path: Path) -> None:
    source = random.Random(1)
    files = []
    for number in range(200):
        file = tmp_path / f"{number}.onnx"
        file.write_bytes(source.randbytes(20_000))
        files.append(file)
    began = time.process_time()
    for file in files:
        with pytest.raises(NotOnnx):
            read_metadata(file)
    assert time.process_time() - began < 1
