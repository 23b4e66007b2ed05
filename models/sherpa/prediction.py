"""Prediction of the memory of a model for sherpa-onnx, from the kind and the sizes of its files.

Weights are copied into memory, most of them in the order in which the processor multiplies
(pre-packed). Factors were measured with Whisper base (8-bit, 132 MB), with networks of 200 MB of
8-bit and of 32-bit weights, and with layers of the shapes of each kind; with jemalloc, and without
ONNX Runtime's arena, as models are loaded (docs/decisions.md, tests/models/test_sherpa_loading.py).
"""

from dataclasses import replace
from pathlib import Path

from models.prediction import Part, Prediction
from models.sherpa.files import INT8, PLAIN, disk_bytes, variant
from models.sherpa.kinds import Kind
from models.sherpa.layout import Layout

_MB = 1_000_000

_ENGINE = 35 * _MB
"""Bytes for Python, this package, FFmpeg's decoders, sherpa-onnx and ONNX Runtime."""
_WEIGHTS = {PLAIN: 1.05, INT8: 1.2}
_HALF = 2.2
"""Factor for half precision, which is converted: this processor multiplies single precision."""
_ORT = 1.3
_TOKENS = 12
"""Factor for the file of tokens: two tables of short strings."""

_GROWTH = 60 * _MB
"""Growth of a worker while it decodes the longest piece: a Conformer's layers of 40 ms frames."""
_GROWTHS = {
    "sense_voice": 30 * _MB,  # frames of 60 ms
    "paraformer": 30 * _MB,
    "nemo_ctc": 40 * _MB,  # frames of 80 ms
    "nemo_transducer": 40 * _MB,
    "omnilingual_ctc": 160 * _MB,  # frames of 20 ms
    "canary": 100 * _MB,
    "fire_red_asr": 150 * _MB,
    "cohere": 250 * _MB,
    "qwen3_asr": 350 * _MB,  # keys and values of 28 layers
    "funasr_nano": 350 * _MB,
}
_STREAMING_GROWTH = 30 * _MB
_WHISPER_FRAMES, _WHISPER_STEPS = 1500, 448
_LEAST_GROWTH = 20 * _MB
"""Growth by Python, audio and features; smaller networks add nothing to it."""
_WARM = 0.2
"""Share of a worker's growth that warming up leaves in the fork server."""

_GRAPH = 0.03
"""Share of a prepared network that is not mapped: its nodes and small weights."""

_LOADING, _LOADING_PREPARED = 0.5, 0.2
"""Shares of memory during the load: of the largest network, while it is copied from its file and
laid out; of all networks of a prepared model, whose weights are mapped."""

_START_S, _LOADED_BYTES_S, _MAPPED_BYTES_S = 0.5, 150e6, 1e9
"""Start and speed of two loads: the first one, in a child, finds out whether the files can be
loaded."""


def predict(layout: Layout, copies: int = 1) -> Prediction:
    """Predict the memory of a model as it was published. `copies`: number of loads
    (`models.sherpa.search`). Reads sizes. Raises `OSError`."""
    parts = [Part("engine", 0, _ENGINE)]
    largest = 0
    for file in dict.fromkeys(layout.networks):
        size = disk_bytes(file)
        largest = max(largest, size)
        parts.append(Part(file.name, size, copies * int(_factor(file) * size)))
    words = [layout.files[name] for name in ("tokens", "tokenizer") if name in layout.files]
    size = sum(disk_bytes(file) for file in words)
    parts.append(Part("tokens", size, copies * _TOKENS * size))
    growth = _growth(layout)
    parts.append(Part("decoding", 0, int(_WARM * growth)))
    loaded = sum(part.disk for part in parts)
    load_s = round(_START_S + loaded / _LOADED_BYTES_S, 1)
    loading = int(_LOADING * largest)
    return Prediction("static", tuple(parts), growth, load_s, loading=loading)


def if_prepared(prediction: Prediction, mapped_bytes: int, copies: int = 1) -> Prediction:
    """Predict the memory of the same model with its weights mapped: `mapped_bytes` of them, which
    all `copies` share."""
    networks = sum(part.disk for part in prediction.parts if part.name.endswith(".onnx")) or 1

    def mapped(part: Part) -> Part:
        if not part.name.endswith(".onnx"):
            return part
        size = mapped_bytes * part.disk // networks
        return replace(part, private=copies * int(_GRAPH * part.disk), mapped=size, touched=size)

    parts = tuple(map(mapped, prediction.parts))
    load_s = round(_START_S + networks / _MAPPED_BYTES_S, 1)
    loading = int(_LOADING_PREPARED * networks)
    return replace(prediction, graph="mapped", parts=parts, load_s=load_s, loading=loading)


def _factor(file: Path) -> float:
    if file.suffix == ".ort":
        return _ORT
    return _WEIGHTS.get(variant(file.name), _HALF)


def _growth(layout: Layout) -> int:
    kind: Kind = layout.kind
    if kind.streaming:
        return _STREAMING_GROWTH
    if kind.name == "whisper":
        layers, width = (_number(layout, f"n_text_{what}", 2000) for what in ("layer", "state"))
        keys = 8 * layers * width  # and values, in single precision
        own = _WHISPER_FRAMES * (keys + 40 * width) + _WHISPER_STEPS * keys
        return max(_LEAST_GROWTH, own)
    return _GROWTHS.get(kind.name, _GROWTH)


def _number(layout: Layout, key: str, most: int) -> int:
    text = layout.metadata.get(key, "")
    return min(int(text), most) if text.isdecimal() and len(text) < 10 else 0
