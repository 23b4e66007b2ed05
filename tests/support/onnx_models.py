"""Small ONNX models that recognise something: tones of a few frequencies are letters.

`tones("ab ba")` is audio, and every model that `make_model` writes recognises "ab ba" in it, with
the inputs, outputs and metadata that sherpa-onnx expects of its kind, and nothing in silence. A
letter starts every `LETTER_S` seconds. The networks look at one mel band for each letter.
"""

import array
import base64
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

LETTERS = "abcdefgh "
"""Letters that can be spoken. A space is a tone, too."""
RATE = 16000
TONE_S, GAP_S = 0.16, 0.14
LETTER_S = TONE_S + GAP_S
_AMPLITUDE = 9000
_CHINESE = str.maketrans(LETTERS, "一二三四五六七八九")
_FROM_CHINESE = {chinese: chr(letter) for letter, chinese in _CHINESE.items()}

_FLOAT, _INT64, _INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
_LOUD = 2 * math.log(32768)
"""Added to log energies where samples are not scaled to -1..1."""


def _kaldi_mel(hertz: float) -> float:
    return 1127 * math.log(1 + hertz / 700)


def _slaney_mel(hertz: float) -> float:
    if hertz < 1000:
        return 3 * hertz / 200
    return 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


FREQUENCIES = {
    letter: 700 * (math.exp((_kaldi_mel(20) + (k + 1) * _kaldi_mel(7600) / 81) / 1127) - 1)
    for letter, k in zip(LETTERS, range(22, 76, 6), strict=True)
}


def tones(text: str, rate: int = RATE, *, amplitude: int = _AMPLITUDE) -> bytes:
    """Return the text as tones, with a gap after each: 16-bit little-endian mono samples."""
    samples = array.array("h")
    for letter in text:
        step = 2 * math.pi * FREQUENCIES[letter] / rate
        samples.extend(round(amplitude * math.sin(step * i)) for i in range(round(TONE_S * rate)))
        samples.extend([0] * round(GAP_S * rate))
    return samples.tobytes()


def unclear(text: str, other: str, rate: int = RATE) -> bytes:
    """Two texts of one length at once, of which the first one is a little louder."""
    quieter = array.array("h", tones(other, rate, amplitude=_AMPLITUDE * 15 // 16))
    louder = array.array("h", tones(text, rate))
    return array.array("h", map(sum, zip(louder, quieter, strict=True))).tobytes()


def silence(seconds: float, rate: int = RATE) -> bytes:
    """Return `seconds` of silence, as `tones` does."""
    return bytes(2 * round(seconds * rate))


def expected(kind: str, text: str) -> str:
    """Return what a model of this kind recognises in `tones(text)`: Paraformer knows Chinese
    characters."""
    return text.translate(_CHINESE) if kind == "paraformer" else text


def floats(pcm: bytes) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Return the samples in the form that the library takes."""
    return np.frombuffer(pcm, "<i2").astype(np.float32) / 32768


def make_model(kind: str, directory: Path, *, padding_bytes: int = 0, suffix: str = "") -> Path:
    """Write a model of this kind (a key of `KINDS`) into the directory, made if need be.

    `padding_bytes`: bytes of weights that it carries beside, and reads once for each run.
    `suffix`: of its networks' names, such as ".int8". Returns the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    KINDS[kind](directory, padding_bytes, suffix)
    return directory


class Network:
    """An ONNX graph under construction; methods add a node and return the name of its output."""

    def __init__(self, padding_bytes: int = 0) -> None:
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._weights: list[Any] = []
        self._padding_bytes = padding_bytes

    def input(self, name: str, shape: list[int | str], kind: int = _FLOAT) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, shape: list[int | str], kind: int = _FLOAT) -> None:
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def slice(self, value: str, start: int, end: int, axis: int, step: int = 1) -> str:
        arguments = (self.constant([number], np.int64) for number in (start, end, axis, step))
        return self.node("Slice", value, *arguments)

    def integers(self, *values: int) -> str:
        return self.constant(list(values), np.int64)

    def padded(self, value: str, width: int) -> str:
        """Return the same values (..., width), after multiplying all of the padding by them."""
        if not self._padding_bytes:
            return value
        columns = self._padding_bytes // (8 * width)
        random = np.random.default_rng(1)
        there = self.constant(random.standard_normal((width, columns), np.float32) * 1e-3)
        back = self.constant(random.standard_normal((columns, width), np.float32) * 1e-3)
        mean = self.node("ReduceMean", value, self.integers(1), keepdims=1)
        through = self.node("MatMul", self.node("MatMul", mean, there), back)
        return self.node("Add", value, self.node("Mul", through, self.constant(0.0)))

    def write(self, path: Path, metadata: Mapping[str, Any]) -> None:
        graph = helper.make_graph(
            self._nodes, "tones", self._inputs, self._outputs, initializer=self._weights
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        for key, text in metadata.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, str(text)
        path.write_bytes(model.SerializeToString())


def write_network(path: Path, metadata: Mapping[str, Any]) -> None:
    """Write an ONNX file that computes nothing, with this metadata."""
    network = Network()
    network.output(network.input("x", ["N"]), "y", ["N"])
    path.parent.mkdir(parents=True, exist_ok=True)
    network.write(path, metadata)


def _letter_weights(
    vocabulary: list[str],
    threshold: float,
    *,
    mel: Callable[[float], float] = _kaldi_mel,
    low: float = 20,
    high: float = 7600,
    bands: int = 80,
) -> tuple[Any, Any]:
    """Weights (bands, vocabulary) and bias: a letter's band against the threshold of nothing,
    which is token 0."""
    weights = np.zeros((bands, len(vocabulary)), np.float32)
    bias = np.full(len(vocabulary), -1e4, np.float32)
    bias[0] = threshold
    for token, written in enumerate(vocabulary):
        if (letter := _spoken(written)) in FREQUENCIES:
            part = (mel(FREQUENCIES[letter]) - mel(low)) / (mel(high) - mel(low))
            weights[round(part * (bands + 1)) - 1, token] = 1
            bias[token] = 0
    return weights, bias


def _spoken(token: str) -> str:
    """Return the letter of a token."""
    return token.replace("▁", " ").lower().translate(_FROM_CHINESE)


_VOCABULARY = ["<blk>", "<sos/eos>", "<unk>", *LETTERS.replace(" ", "▁")]


def _write_tokens(file: Path, vocabulary: list[str]) -> None:
    lines = (f"{token} {number}\n" for number, token in enumerate(vocabulary))
    file.write_text("".join(lines), encoding="utf-8")


def _scores(network: Network, features: str, weights: tuple[Any, Any], step: int = 4) -> str:
    """(N, T, bands) to (N, ceil(T / step), vocabulary)."""
    padded = network.padded(features, weights[0].shape[0])
    fewer = network.slice(padded, 0, 1 << 40, 1, step) if step > 1 else padded
    return network.node(
        "Add",
        network.node("MatMul", fewer, network.constant(weights[0])),
        network.constant(weights[1]),
    )


def _frames(network: Network, lengths: str, step: int = 4) -> str:
    more = network.node("Add", lengths, network.integers(step - 1))
    return network.node("Div", more, network.integers(step))


def _ctc(
    directory: Path, padding: int, suffix: str, metadata: Mapping[str, Any], threshold: float
) -> None:
    network = Network(padding)
    x = network.input("x", ["N", "T", 80])
    lengths = network.input("x_lens", ["N"], _INT64)
    scores = _scores(network, x, _letter_weights(_VOCABULARY, threshold))
    log_probs = network.node("LogSoftmax", scores, axis=2)
    network.output(log_probs, "log_probs", ["N", "T2", len(_VOCABULARY)])
    network.output(_frames(network, lengths), "log_probs_len", ["N"], _INT64)
    network.write(directory / f"model{suffix}.onnx", metadata)
    _write_tokens(directory / "tokens.txt", _VOCABULARY)


def _zipformer_ctc(directory: Path, padding: int, suffix: str) -> None:
    metadata = {"model_type": "zipformer2_ctc", "version": 1, "comment": "tones"}
    _ctc(directory, padding, suffix, metadata, 0)


def _wenet_ctc(directory: Path, padding: int, suffix: str) -> None:
    metadata = {"model_type": "wenet_ctc", "subsampling_factor": 4, "vocab_size": len(_VOCABULARY)}
    _ctc(directory, padding, suffix, metadata, _LOUD)


def _nemo_ctc(directory: Path, padding: int, suffix: str) -> None:
    """Write a model whose blank is the last token, and whose features are those of librosa."""
    vocabulary = [*LETTERS.replace(" ", "▁"), "<blk>"]
    weights, bias = _letter_weights(
        ["<blk>", *vocabulary[:-1]], -4, mel=_slaney_mel, low=0, high=8000
    )
    weights, bias = np.roll(weights, -1, axis=1), np.roll(bias, -1)
    network = Network(padding)
    signal = network.input("audio_signal", ["N", 80, "T"])
    network.input("length", ["N"], _INT64)
    x = network.node("Transpose", signal, perm=[0, 2, 1])
    logprobs = network.node("LogSoftmax", _scores(network, x, (weights, bias)), axis=2)
    network.output(logprobs, "logprobs", ["N", "T2", len(vocabulary)])
    metadata = {
        "model_type": "EncDecCTCModelBPE",
        "vocab_size": len(vocabulary) - 1,
        "subsampling_factor": 4,
        "normalize_type": "NA",
    }
    network.write(directory / f"model{suffix}.onnx", metadata)
    _write_tokens(directory / "tokens.txt", vocabulary)


_SENSE_VOICE = [
    "<unk>", "<s>", "</s>", "<|zh|>", "<|en|>", "<|yue|>", "<|ja|>", "<|ko|>",
    "<|NEUTRAL|>", "<|Speech|>", "<|withitn|>", "<|woitn|>",
    *LETTERS.replace(" ", "▁"), *"ABCDEFGH",
]  # fmt: skip
_LANGUAGE_INPUTS = {0: "<|ko|>", 3: "<|zh|>", 4: "<|en|>", 7: "<|yue|>", 11: "<|ja|>", 12: "<|ko|>"}
"""Meaning of `language`. 0 is any: this model always detects Korean."""


def _sense_voice(directory: Path, padding: int, suffix: str) -> None:
    """Write a model that gives capitals with inverse text normalisation."""
    size = len(_SENSE_VOICE)
    network = Network(padding)
    x = network.input("x", ["N", "T", 560])
    network.input("x_length", ["N"], _INT32)
    language = network.input("language", ["N"], _INT32)
    text_norm = network.input("text_norm", ["N"], _INT32)
    middle = network.slice(x, 3 * 80, 4 * 80, 2)
    scores = _scores(network, middle, _letter_weights(_SENSE_VOICE, _LOUD, high=8000), step=1)

    def chosen(table: Any, index: str) -> str:
        row = network.node("Gather", network.constant(table), index, axis=0)
        return network.node("Unsqueeze", row, network.integers(1))

    tags = np.zeros((16, size), np.float32)
    for number, tag in _LANGUAGE_INPUTS.items():
        tags[number, _SENSE_VOICE.index(tag)] = 99
    normalised = np.zeros((16, size), np.float32)
    normalised[14, _SENSE_VOICE.index("<|withitn|>")] = 99
    normalised[15, _SENSE_VOICE.index("<|woitn|>")] = 99
    allowed = np.zeros((16, size), np.float32)
    for token, text in enumerate(_SENSE_VOICE):
        if len(text) == 1 and text.isalpha():
            allowed[14 if text.islower() else 15, token] = -1e4
    fixed = np.zeros((1, 2, size), np.float32)
    fixed[0, 0, _SENSE_VOICE.index("<|NEUTRAL|>")] = 99
    fixed[0, 1, _SENSE_VOICE.index("<|Speech|>")] = 99
    count = network.node("Shape", text_norm)
    shape = network.node("Concat", count, network.integers(2, size), axis=0)
    middle_tags = network.node("Expand", network.constant(fixed), shape)
    written = network.node("Add", scores, chosen(allowed, text_norm))
    logits = network.node(
        "Concat",
        chosen(tags, language),
        middle_tags,
        chosen(normalised, text_norm),
        written,
        axis=1,
    )
    network.output(logits, "logits", ["N", "T2", size])
    metadata = {
        "model_type": "sense_voice_ctc",
        "version": 1,
        "vocab_size": size,
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
        "neg_mean": ",".join(["0"] * 560),
        "inv_stddev": ",".join(["1"] * 560),
    }
    network.write(directory / f"model{suffix}.onnx", metadata)
    _write_tokens(directory / "tokens.txt", _SENSE_VOICE)


def _onsets(network: Network, scores: str, before: str) -> tuple[str, str]:
    """(N, T, 1): 1.0 where a letter starts; and (N, 1, 1): whether there is one at the end.
    `before` (N, 1, 1): whether there was one before the first frame."""
    heard = network.node("ArgMax", scores, axis=2, keepdims=1)
    active = network.node("Cast", network.node("Greater", heard, network.integers(0)), to=_FLOAT)
    shifted = network.slice(network.node("Concat", before, active, axis=1), 0, -1, 1)
    difference = network.node("Sub", active, shifted)
    return network.node("Relu", difference), network.slice(active, -1, 1 << 40, 1)


def _paraformer(directory: Path, padding: int, suffix: str) -> None:
    vocabulary = ["<blank>", "<s>", "</s>", *LETTERS.translate(_CHINESE), "<unk>"]
    network = Network(padding)
    x = network.input("speech", ["N", "T", 560])
    network.input("speech_lengths", ["N"], _INT32)
    middle = network.slice(x, 3 * 80, 4 * 80, 2)
    scores = _scores(network, middle, _letter_weights(vocabulary, _LOUD, high=8000), step=1)
    onsets, _ = _onsets(network, scores, network.constant(np.zeros((1, 1, 1))))
    where = network.slice(network.node("NonZero", onsets), 1, 2, 0)
    flat = network.node("Reshape", where, network.integers(-1))
    letters = network.node("Gather", scores, flat, axis=1)
    ending = np.full((1, 1, len(vocabulary)), -1e4, np.float32)
    ending[0, 0, vocabulary.index("</s>")] = 0
    logits = network.node("Concat", letters, network.constant(ending), axis=1)
    network.output(logits, "logits", ["N", "L", len(vocabulary)])
    count = network.node("Cast", network.node("Shape", flat), to=_INT32)
    network.output(count, "token_num", ["N"], _INT32)
    metadata = {
        "model_type": "paraformer",
        "vocab_size": len(vocabulary),
        "lfr_window_size": 7,
        "lfr_window_shift": 6,
        "neg_mean": ",".join(["0"] * 560),
        "inv_stddev": ",".join(["1"] * 560),
    }
    network.write(directory / f"model{suffix}.onnx", metadata)
    _write_tokens(directory / "tokens.txt", vocabulary)


def _decoder_and_joiner(directory: Path, suffix: str, size: int) -> None:
    """Stateless: the decoder counts for nothing."""
    network = Network()
    tokens = network.input("y", ["N", 2], _INT64)
    known = network.node("Max", tokens, network.integers(0))
    zeros = network.constant(np.zeros((size, size), np.float32))
    embedded = network.node("Gather", zeros, known, axis=0)
    out = network.node("ReduceSum", embedded, network.integers(1), keepdims=0)
    network.output(out, "decoder_out", ["N", size])
    network.write(
        directory / "decoder.onnx", {"vocab_size": size, "context_size": 2, "model_type": "decoder"}
    )
    network = Network()
    encoder_out = network.input("encoder_out", ["N", size])
    decoder_out = network.input("decoder_out", ["N", size])
    network.output(network.node("Add", encoder_out, decoder_out), "logit", ["N", size])
    network.write(directory / f"joiner{suffix}.onnx", {"joiner_dim": size})


def _at_onsets(network: Network, scores: str, before: str, size: int) -> tuple[str, str]:
    """Scores where a letter starts, nothing elsewhere: a transducer emits a letter once. With
    whether there is one at the end."""
    onsets, last = _onsets(network, scores, before)
    quiet = network.node("Sub", onsets, network.constant(1.0))
    letters = np.full(size, 1e4, np.float32)
    letters[0] = 0
    masked = network.node("Mul", quiet, network.constant(letters))
    return network.node("Add", scores, masked), last


def _transducer(directory: Path, padding: int, suffix: str) -> None:
    size = len(_VOCABULARY)
    network = Network(padding)
    x = network.input("x", ["N", "T", 80])
    lengths = network.input("x_lens", ["N"], _INT64)
    scores = _scores(network, x, _letter_weights(_VOCABULARY, 0))
    count = network.node("Shape", lengths)
    shape = network.node("Concat", count, network.integers(1, 1), axis=0)
    before = network.node("Expand", network.constant(np.zeros((1, 1, 1))), shape)
    out, _ = _at_onsets(network, scores, before, size)
    network.output(out, "encoder_out", ["N", "T2", size])
    network.output(_frames(network, lengths), "encoder_out_lens", ["N"], _INT64)
    network.write(directory / f"encoder{suffix}.onnx", {"model_type": "zipformer2", "version": 1})
    _decoder_and_joiner(directory, suffix, size)
    _write_tokens(directory / "tokens.txt", _VOCABULARY)


STREAM_CHUNK = 16
"""Frames of 10 ms that the streaming models decode at once."""
_STREAMING = {
    "encoder_dims": 4,
    "query_head_dims": 1,
    "value_head_dims": 1,
    "num_heads": 1,
    "num_encoder_layers": 1,
    "cnn_module_kernels": 3,
    "left_context_len": 1,
    "T": STREAM_CHUNK,
    "decode_chunk_len": STREAM_CHUNK,
}
_STATES: dict[str, list[int | str]] = {
    "cached_key_0": [1, "N", 1],
    "cached_nonlin_attn_0": [1, "N", 1, 3],
    "cached_val1_0": [1, "N", 1],
    "cached_val2_0": [1, "N", 1],
    "cached_conv1_0": ["N", 4, 1],
    "cached_conv2_0": ["N", 4, 1],
    "embed_states": ["N", 128, 3, 19],
    "processed_lens": ["N"],
}


def _streaming_network(
    padding: int, threshold: float
) -> tuple[Network, str, Callable[[str], None]]:
    """Return the network up to its scores, and a function that adds the states as outputs:
    `cached_key_0` tells whether the last frame had a letter, if a value for it is given."""
    network = Network(padding)
    x = network.input("x", ["N", STREAM_CHUNK, 80])
    for name, shape in _STATES.items():
        network.input(name, shape, _INT64 if name == "processed_lens" else _FLOAT)
    scores = _scores(network, x, _letter_weights(_VOCABULARY, threshold))

    def finish(active: str) -> None:
        for name, shape in _STATES.items():
            value = active if active and name == "cached_key_0" else name
            kind = _INT64 if name == "processed_lens" else _FLOAT
            network.output(value, f"new_{name}", shape, kind)

    return network, scores, finish


def _online_zipformer2_ctc(directory: Path, padding: int, suffix: str) -> None:
    network, scores, finish = _streaming_network(padding, 0)
    log_probs = network.node("LogSoftmax", scores, axis=2)
    network.output(log_probs, "log_probs", ["N", STREAM_CHUNK // 4, len(_VOCABULARY)])
    finish("")
    name = f"ctc-epoch-20-avg-1-chunk-{STREAM_CHUNK}-left-128{suffix}.onnx"
    network.write(directory / name, {"model_type": "zipformer2", **_STREAMING})
    _write_tokens(directory / "tokens.txt", _VOCABULARY)


def _online_transducer(directory: Path, padding: int, suffix: str) -> None:
    size = len(_VOCABULARY)
    network, scores, finish = _streaming_network(padding, 0)
    before = network.node("Transpose", "cached_key_0", perm=[1, 0, 2])
    out, last = _at_onsets(network, scores, before, size)
    network.output(out, "encoder_out", ["N", STREAM_CHUNK // 4, size])
    finish(network.node("Transpose", last, perm=[1, 0, 2]))
    network.write(directory / f"encoder{suffix}.onnx", {"model_type": "zipformer2", **_STREAMING})
    _decoder_and_joiner(directory, suffix, size)
    _write_tokens(directory / "tokens.txt", _VOCABULARY)


_WHISPER_SPECIAL = ["<eot>", "<sot>", "<en>", "<ko>", "<zh>", "<translate>", "<transcribe>",
                    "<sotlm>", "<sotprev>", "<nospeech>", "<notimestamps>"]  # fmt: skip
_WHISPER_STEPS = 448


def _whisper(directory: Path, padding: int, suffix: str) -> None:
    """Write a model that always detects Korean. The encoder's output is the text, which the decoder
    reads out."""
    letters = list(LETTERS)
    special = {name: len(letters) + i for i, name in enumerate(_WHISPER_SPECIAL)}
    size = len(letters) + len(_WHISPER_SPECIAL)
    weights, bias = _letter_weights(["<blk>", *letters], 1.1, mel=_slaney_mel, low=0, high=8000)
    network = Network(padding)
    mel = network.input("mel", ["N", 80, "T"])
    x = network.node("Transpose", mel, perm=[0, 2, 1])
    scores = _scores(network, x, (weights, bias), step=2)
    onsets, _ = _onsets(network, scores, network.constant(np.zeros((1, 1, 1))))
    where = network.slice(network.node("NonZero", onsets), 1, 2, 0)
    flat = network.node("Reshape", where, network.integers(-1))
    found = network.slice(network.node("Gather", scores, flat, axis=1), 1, 1 << 40, 2)
    rest = network.constant(np.full((1, 1, len(_WHISPER_SPECIAL)), -1e4, np.float32))
    count = network.node("Concat", network.integers(1), network.node("Shape", flat),
                         network.integers(len(_WHISPER_SPECIAL)), axis=0)  # fmt: skip
    wide = network.node("Concat", found, network.node("Expand", rest, count), axis=2)
    ending = np.full((1, 1, size), -1e4, np.float32)
    ending[0, 0, special["<eot>"]] = 0
    text = network.node("Concat", wide, network.constant(ending), axis=1)
    layers = network.node("Unsqueeze", text, network.integers(0))
    for name in ("n_layer_cross_k", "n_layer_cross_v"):
        network.output(layers, name, [1, "N", "L", size])
    languages = ("en", "ko", "zh")
    metadata = {
        "model_type": "whisper-tones",
        "version": 1,
        "n_mels": 80,
        "n_text_layer": 1,
        "n_text_ctx": _WHISPER_STEPS,
        "n_text_state": 1,
        "n_vocab": size,
        "sot": special["<sot>"],
        "eot": special["<eot>"],
        "blank_id": letters.index(" "),
        "translate": special["<translate>"],
        "transcribe": special["<transcribe>"],
        "is_multilingual": 1,
        "no_timestamps": special["<notimestamps>"],
        "no_speech": special["<nospeech>"],
        "sot_sequence": ",".join(str(special[t]) for t in ("<sot>", "<en>", "<transcribe>")),
        "all_language_tokens": ",".join(str(special[f"<{code}>"]) for code in languages),
        "all_language_codes": ",".join(languages),
    }
    network.write(directory / f"tones-encoder{suffix}.onnx", metadata)
    network = Network()
    tokens = network.input("tokens", ["N", "n_tokens"], _INT64)
    for side in "kv":
        network.input(f"in_n_layer_self_{side}_cache", [1, "N", _WHISPER_STEPS, 1])
    cross = network.input("n_layer_cross_k", [1, "N", "L", size])
    network.input("n_layer_cross_v", [1, "N", "L", size])
    offset = network.input("offset", [1], _INT64)
    heard = np.full((1, 1, size), -1e4, np.float32)
    heard[0, 0, special["<ko>"]] = 0
    shape = network.node("Shape", tokens)
    given = network.slice(shape, 1, 2, 0)
    # The prompt is four tokens long; asked for the language it is one.
    step = network.node("Sub", network.node("Add", offset, given), network.integers(3))
    lines = network.node("Squeeze", cross, network.integers(0))
    table = network.node("Concat", network.constant(heard), lines, axis=1)
    row = network.node("Gather", table, network.node("Max", step, network.integers(0)), axis=1)
    rows = network.node("Concat", shape, network.integers(size), axis=0)
    network.output(network.node("Expand", row, rows), "logits", ["N", "n_tokens", size])
    for side in "kv":
        name = f"n_layer_self_{side}_cache"
        network.output(f"in_{name}", f"out_{name}", [1, "N", _WHISPER_STEPS, 1])
    network.write(directory / f"tones-decoder{suffix}.onnx", {})
    lines_of = (base64.b64encode(letter.encode()).decode() for letter in letters)
    (directory / "tones-tokens.txt").write_text(
        "".join(f"{line} {number}\n" for number, line in enumerate(lines_of))
    )


KINDS: dict[str, Callable[[Path, int, str], None]] = {
    "zipformer_ctc": _zipformer_ctc,
    "wenet_ctc": _wenet_ctc,
    "nemo_ctc": _nemo_ctc,
    "sense_voice": _sense_voice,
    "paraformer": _paraformer,
    "transducer": _transducer,
    "whisper": _whisper,
    "online_zipformer2_ctc": _online_zipformer2_ctc,
    "online_transducer": _online_transducer,
}
"""Kinds that `make_model` can make; the names are those of `models.sherpa.layout`."""
