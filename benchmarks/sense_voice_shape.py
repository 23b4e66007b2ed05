"""A model of SenseVoice-Small's size and operators, with random weights: as fast as the published
one with 8 bits, and as large; its texts mean nothing.

    python benchmarks/sense_voice_shape.py DIRECTORY

writes `model.int8.onnx` (236 MB) and `tokens.txt`. The encoder is SAN-M (FunASR's
`SenseVoiceEncoderSmall`): 50 and 20 blocks of 512 values, each with 4 heads of attention, a
convolution over 11 frames beside it (FSMN) and a feed-forward layer of 2,048; then CTC over 25,055
tokens. Matrices are quantised as `quantize_dynamic` of ONNX Runtime does it: one scale for a matrix
of unsigned bytes, inputs quantised while running. Tokens are whole characters.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model

_BLOCKS, _LAST_BLOCKS = 50, 20
_INPUT, _WIDTH, _HEADS, _INNER, _TOKENS, _KERNEL = 560, 512, 4, 2048, 25_055, 11
_QUERIES = 4
"""Frames in front of the audio: language, event, emotion, written form."""
_BLANK = 4.5
"""Added to the blank's score, so that about one frame in four has a token."""
_GAIN = 0.2
"""Size of what a block adds: with more, all frames become alike."""
_UNIFORM = 73.9
"""Standard deviation of unsigned bytes that are all as likely."""
_TAGS = ("zh", "en", "yue", "ja", "ko", "NEUTRAL", "Speech", "withitn", "woitn")
_METADATA = {
    "model_type": "sense_voice_ctc",
    "version": 1,
    "vocab_size": _TOKENS,
    "lfr_window_size": 7,
    "lfr_window_shift": 6,
    "normalize_samples": 0,
    "with_itn": 14,
    "without_itn": 15,
    "lang_auto": 0,
    "lang_zh": 3,
    "lang_en": 4,
    "lang_yue": 7,
    "lang_ja": 11,
    "lang_ko": 12,
    "neg_mean": ",".join(["-10"] * _INPUT),
    "inv_stddev": ",".join(["0.25"] * _INPUT),
    "comment": "random weights",
}


def make(directory: Path) -> None:
    """Write the model into the directory, which is made if need be. The same bytes each time."""
    directory.mkdir(parents=True, exist_ok=True)
    characters = (chr(0x4E00 + number) for number in range(20_902))
    tokens = ["<blk>", "<s>", "</s>", *(f"<|{tag}|>" for tag in _TAGS), *characters]
    tokens += [chr(0xAC00 + number) for number in range(_TOKENS - len(tokens))]
    (directory / "tokens.txt").write_text(
        "".join(f"{token} {number}\n" for number, token in enumerate(tokens)), encoding="utf-8"
    )
    _Encoder().write(directory / "model.int8.onnx")


class _Encoder:
    """The graph under construction; methods return the name of a value."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(1)
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def write(self, file: Path) -> None:
        inputs = [("x", TensorProto.FLOAT, ["N", "T", _INPUT])]
        inputs += [(n, TensorProto.INT32, ["N"]) for n in ("x_length", "language", "text_norm")]
        mask, past_end = self._masks()
        x = self._positions(self._with_queries())
        for number in range(_BLOCKS):
            x = self._block(x, _WIDTH if number else _INPUT, mask, past_end)
        x = self._norm(x, _WIDTH)
        for _ in range(_LAST_BLOCKS):
            x = self._block(x, _WIDTH, mask, past_end)
        bias = np.zeros(_TOKENS, np.float32)
        bias[0] = _BLANK
        scores = self._linear(self._norm(x, _WIDTH), _WIDTH, _TOKENS, bias=bias)
        self._nodes.append(helper.make_node("Identity", [scores], ["logits"]))
        graph = helper.make_graph(
            self._nodes,
            "sense_voice_shape",
            [helper.make_tensor_value_info(*one) for one in inputs],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "L", _TOKENS])],
            initializer=self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        helper.set_model_props(model, {key: str(value) for key, value in _METADATA.items()})
        save_model(model, file)

    def _node(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{operator}{len(self._nodes)}.{number}" for number in range(outputs)]
        self._nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def _constant(self, value: Any, kind: Any = np.float32) -> str:
        name = f"weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def _integers(self, *values: int) -> str:
        return self._constant(values, np.int64)

    def _normal(self, *shape: int, deviation: float) -> str:
        values = self._random.standard_normal(shape, np.float32)
        return self._constant(values * np.float32(deviation))

    def _masks(self) -> tuple[str, str]:
        """(N, T, 1): 1 for a frame of the audio; (N, 1, 1, T): a score of minus infinity past its
        end."""
        length = self._node("Gather", self._node("Shape", "x"), self._constant(1, np.int64))
        all_ = self._node("Add", length, self._constant(_QUERIES, np.int64))
        ends = self._node("Cast", "x_length", to=TensorProto.INT64)
        ends = self._node("Add", ends, self._integers(_QUERIES))
        zero, one = self._constant(0, np.int64), self._constant(1, np.int64)
        frames = self._node("Range", zero, all_, one)
        inside = self._node("Less", frames, self._node("Unsqueeze", ends, self._integers(1)))
        mask = self._node("Cast", inside, to=TensorProto.FLOAT)
        past = self._node("Mul", self._node("Sub", mask, self._constant(1)), self._constant(1e9))
        return (
            self._node("Unsqueeze", mask, self._integers(2)),
            self._node("Unsqueeze", past, self._integers(1, 2)),
        )

    def _with_queries(self) -> str:
        table = self._normal(16, _INPUT, deviation=1)
        count = self._node("Shape", "language")
        fixed = self._node(
            "Expand",
            self._normal(1, 2, _INPUT, deviation=1),
            self._node("Concat", count, self._integers(2, _INPUT), axis=0),
        )
        first, last = (
            self._node("Unsqueeze", self._node("Gather", table, name), self._integers(1))
            for name in ("language", "text_norm")
        )
        return str(self._node("Concat", first, fixed, last, "x", axis=1))

    def _positions(self, x: str) -> str:
        """Add sines of the position, computed while running."""
        scaled = self._node("Mul", x, self._constant(_WIDTH**0.5))
        length = self._node("Gather", self._node("Shape", scaled), self._constant(1, np.int64))
        one = self._constant(1, np.int64)
        after = self._node("Add", length, one)
        numbers = self._node("Cast", self._node("Range", one, after, one), to=TensorProto.FLOAT)
        half = _INPUT // 2
        scales = np.exp(np.arange(half) * -(np.log(10_000.0) / (half - 1)))
        angles = self._node(
            "Mul", self._node("Unsqueeze", numbers, self._integers(0, 2)), self._constant(scales)
        )
        waves = self._node("Concat", self._node("Sin", angles), self._node("Cos", angles), axis=2)
        return str(self._node("Add", scaled, waves))

    def _norm(self, x: str, width: int) -> str:
        one, zero = self._constant(np.ones(width)), self._constant(np.zeros(width))
        return str(self._node("LayerNormalization", x, one, zero, axis=-1, epsilon=1e-5))

    def _linear(
        self, x: str, inputs: int, outputs: int, *, gain: float = 1.0, bias: Any = None
    ) -> str:
        quantised = self._node("DynamicQuantizeLinear", x, outputs=3)
        weights = self._random.integers(0, 256, (inputs, outputs), np.uint8)
        scale = self._constant(gain / (_UNIFORM * inputs**0.5))
        product = self._node(
            "MatMulInteger",
            *(quantised[0], self._constant(weights, np.uint8)),
            *(quantised[2], self._constant(128, np.uint8)),
        )
        product = self._node("Cast", product, to=TensorProto.FLOAT)
        product = self._node("Mul", product, self._node("Mul", quantised[1], scale))
        bias = np.zeros(outputs) if bias is None else bias
        return str(self._node("Add", self._constant(bias), product))

    def _block(self, x: str, width: int, mask: str, past_end: str) -> str:
        normal = self._norm(x, width)
        joined = self._linear(normal, width, 3 * _WIDTH)
        sizes = self._integers(*[_WIDTH] * 3)
        query, key, value = self._node("Split", joined, sizes, outputs=3, axis=-1)
        memory = self._memory(value, mask)
        attended = self._node("Add", self._attention(query, key, value, past_end), memory)
        x = attended if width != _WIDTH else self._node("Add", x, attended)
        inner = self._node("Relu", self._linear(self._norm(x, _WIDTH), _WIDTH, _INNER))
        return str(self._node("Add", x, self._linear(inner, _INNER, _WIDTH, gain=_GAIN)))

    def _memory(self, value: str, mask: str) -> str:
        masked = self._node("Mul", value, mask)
        frames_last = self._node("Transpose", masked, perm=[0, 2, 1])
        convolved = self._node(
            "Conv",
            frames_last,
            self._normal(_WIDTH, 1, _KERNEL, deviation=0.1),
            group=_WIDTH,
            kernel_shape=[_KERNEL],
            pads=[_KERNEL // 2] * 2,
        )
        back = self._node("Transpose", convolved, perm=[0, 2, 1])
        return str(self._node("Mul", self._node("Add", back, masked), mask))

    def _attention(self, query: str, key: str, value: str, past_end: str) -> str:
        shape = self._integers(0, 0, _HEADS, _WIDTH // _HEADS)

        def heads(of: str, *order: int) -> str:
            split = self._node("Reshape", of, shape)
            return str(self._node("Transpose", split, perm=order))

        scaled = self._node(
            "Mul", heads(query, 0, 2, 1, 3), self._constant((_WIDTH / _HEADS) ** -0.5)
        )
        scores = self._node("MatMul", scaled, heads(key, 0, 2, 3, 1))
        shares = self._node("Softmax", self._node("Add", scores, past_end), axis=-1)
        mixed = self._node("MatMul", shares, heads(value, 0, 2, 1, 3))
        mixed = self._node("Transpose", mixed, perm=[0, 2, 1, 3])
        joined = self._node("Reshape", mixed, self._integers(0, 0, _WIDTH))
        return self._linear(joined, _WIDTH, _WIDTH, gain=_GAIN)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
