"""Small punctuation models with the inputs, outputs and metadata of the published ones.

Each has a table from a token to a mark, and to a case: what it writes is known beforehand. The
library loads and runs them as it does the published models.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from onnx_models import Network

_INT32 = TensorProto.INT32
_CHINESE = "一二三四五六七八九十今天气很好吗你是不说话"
PUNCTUATIONS = ("<unk>", "_", "，", "。", "？", "、")
MARKS = {"二": "，", "三": "。", "吗": "？", "四": "、", "ba": "，", "cc": "？"}
"""Marks after these tokens. The library writes the last one itself."""
ENGLISH_MARKS = {"ba": ",", "cc": "?", "dd": "."}
CASES = {"ab": 2, "hh": 1, "i": 2}
"""Case by word. 1: all capitals, 2: the first letter."""


def make_chinese(
    directory: Path,
    marks: Mapping[str, str] = MARKS,
    *,
    vocabulary: int = 0,
    embedding: int = 0,
    suffix: str = ".int8",
) -> Path:
    """Write a model as `sherpa-onnx-punct-ct-transformer-...` is: Chinese and English.

    `vocabulary`: number of its tokens, most of which mean nothing. `embedding`: bytes of weights
    for each of them, which most of the published models is.
    """
    tokens = ["<blank>", "<s>", "</s>", *dict.fromkeys([*_CHINESE, *marks])]
    tokens += [f"t{number}" for number in range(vocabulary - len(tokens) - 1)] + ["<unk>"]
    table = np.zeros((len(tokens), len(PUNCTUATIONS)), np.float32)
    table[:, 1] = 1
    for token, mark in marks.items():
        table[tokens.index(token), PUNCTUATIONS.index(mark)] = 2
    network = Network()
    text = network.input("inputs", [1, "T"], _INT32)
    network.input("text_lengths", [1], _INT32)
    scores = network.node("Gather", network.constant(table), text)
    if embedding:
        weights = np.random.default_rng(1).integers(0, 255, (len(tokens), embedding), np.uint8)
        rows = network.node("Gather", network.constant(weights, np.uint8), text)
        nothing = network.node(
            "Mul", network.node("Cast", rows, to=TensorProto.FLOAT), network.constant(0.0)
        )
        mean = network.node("ReduceMean", nothing, network.integers(2), keepdims=1)
        scores = network.node("Add", scores, mean)
    network.output(scores, "logits", [1, "T", len(PUNCTUATIONS)])
    directory.mkdir(parents=True, exist_ok=True)
    metadata = {
        "model_type": "ct_transformer",
        "tokens": "|".join(tokens),
        "vocab_size": len(tokens),
        "punctuations": "|".join(PUNCTUATIONS),
        "unk_symbol": "<unk>",
    }
    network.write(directory / f"model{suffix}.onnx", metadata)
    return directory


def make_english(
    directory: Path,
    marks: Mapping[str, str] = ENGLISH_MARKS,
    cases: Mapping[str, int] = CASES,
    scores: Any = np.float32,
) -> Path:
    """Write a model as `sherpa-onnx-online-punct-en-...` is: English, with case. `scores`: their
    type."""
    letters = [f"▁{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    words = [f"▁{word}" for word in dict.fromkeys([*marks, *cases]) if len(word) > 1]
    pieces = ["<pad>", "<s>", "</s>", "<unk>", *words, *letters, *(x[1:] for x in letters)]
    punctuation = np.zeros((len(pieces), 4), scores)
    case = np.zeros((len(pieces), 4), scores)
    punctuation[:, 0] = case[:, 0] = 1
    for word, mark in marks.items():
        punctuation[pieces.index(f"▁{word}"), " ,.?".index(mark)] = 2
    for word, number in cases.items():
        case[pieces.index(f"▁{word}"), number] = 2
    network = Network()
    token_ids = network.input("token_ids", ["N", "T"], _INT32)
    valid_ids = network.input("valid_ids", ["N", "T"], _INT32)
    network.input("label_lens", ["N"], _INT32)
    special = network.node("Greater", token_ids, network.constant(2, np.int32))
    valid = network.node("Equal", valid_ids, network.constant(1, np.int32))
    spoken = network.node("Reshape", network.node("And", special, valid), network.integers(-1))
    flat = network.node("Reshape", token_ids, network.integers(-1))
    first = network.node("Compress", flat, spoken, axis=0)
    for name, table in (("active_case_logits", case), ("active_punct_logits", punctuation)):
        chosen = network.node("Gather", network.constant(table, scores), first)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(scores))
        network.output(chosen, name, ["W", table.shape[1]], kind)
    directory.mkdir(parents=True, exist_ok=True)
    metadata = {
        "NO_PUNCT": 0,
        "COMMA": 1,
        "PERIOD": 2,
        "QUESTION": 3,
        "LOWER": 0,
        "UPPER": 1,
        "CAP": 2,
        "MIX_CASE": 3,
    }
    network.write(directory / "model.int8.onnx", metadata)
    lines = (f"{piece}\t{-number}\n" for number, piece in enumerate(pieces))
    (directory / "bpe.vocab").write_text("".join(lines), encoding="utf-8")
    return directory
