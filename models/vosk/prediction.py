"""Prediction of a Vosk model's memory from its files' names, sizes and first bytes.

Every factor was measured with the embedded model and variants of it (docs/decisions.md,
tests/models/test_prediction.py), with jemalloc, as workers have it. The acoustic model and its
i-vector extractor could only be measured together; the recurrent language model's factor follows
from Vosk's code and was not measured.
"""

import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from models.prediction import Part, Prediction
from models.vosk.graph_file import Symbols, graph_problem, symbols_in_graph, symbols_in_text
from models.vosk.layout import HCL, LM, STATIC, WORDS, graph_directory, rescoring_folders

_MB = 1_000_000

_ENGINE = 20 * _MB
"""Bytes for Python, this package, FFmpeg's decoders and libvosk."""
_ACOUSTIC, _IVECTOR = 1.9, 2.4
"""Factors for the network and its collapsed copy, as the engine or the SIMD library holds them, and
for the extractor's matrices and the values derived from them (Kaldi:
`IvectorExtractor::ComputeDerivedVars`)."""
_SYMBOL = 77
"""Bytes per word."""
_HCL, _LM = 1.29, 2.6
"""Factors for the two halves of a lazily composed graph: copied, with the tables for look-ahead."""
_COMPOSED_SHARED, _COMPOSED_MOST = 20, 150 * _MB
"""Factor of the language model, and most bytes, of the graph that warming composes for all
workers."""
_COMPOSED_GROWTH, _COMPOSED_GROWTH_MOST = 6, 235 * _MB
"""Factor and most bytes of the graph that each worker composes after that in minutes of speech."""
_GROWTH = 15 * _MB
_WIDER, _WIDER_LAZY = (1.0, 21 * _MB), (3.7, 0)
"""Factor and bytes by which a wider search enlarges the growth; a lazily composed graph grows with
it."""
_STATIC = 1.5
_MAPPED_ANONYMOUS = 0.03
TOUCHED_SHARE = 0.47
"""Share of a mapped graph that ordinary speech touches: 160 short utterances touched 473 MB of the
embedded model's 998 MB."""
_RESCORE_LM, _RESCORE_CARPA = 1.6, 1.0
_RNNLM = 2.0

_READ_BYTES_S, _LM_BYTES_S, _START_S = 450e6, 27e6, 0.2
_STATIC_BYTES_S = 270e6

_WORDS = "words"


def predict(
    directory: Path, made: Mapping[str, Path] | None = None, *, rescoring: bool = True
) -> Prediction:
    """Predict the memory of the model in `directory`, with the files in `made` in place of its own.

    Reads sizes and first bytes only. Raises `OSError`.
    """
    graphs = graph_directory(directory)
    own = {name.rsplit("/", 1)[-1]: file for name, file in (made or {}).items()}
    static = own.get(STATIC, graphs / STATIC)
    lazy = STATIC not in own and (graphs / HCL).is_file()
    parts = [Part("engine", 0, _ENGINE), *_acoustic(directory)]
    growth, wider, load_s = _GROWTH, _WIDER, _START_S
    if lazy:
        symbols = symbols_in_graph(graphs / LM)
        hcl, lm = _size(graphs / HCL), max(0, _size(graphs / LM) - symbols.disk)
        composed = min(_COMPOSED_MOST, _COMPOSED_SHARED * lm)
        graph = Part("graph, composed lazily", hcl + lm, int(_HCL * hcl + _LM * lm) + composed)
        growth += min(_COMPOSED_GROWTH_MOST, _COMPOSED_GROWTH * lm)
        wider = _WIDER_LAZY
        load_s += hcl / _READ_BYTES_S + lm / _LM_BYTES_S
        kind = "lazy"
    else:
        symbols = symbols_in_text(own.get(WORDS, graphs / WORDS))
        size = _size(static)
        if graph_problem(static) is None:
            private, touched = int(_MAPPED_ANONYMOUS * size), int(TOUCHED_SHARE * size)
            graph = Part("graph, mapped", size, private, size, touched)
            load_s += 0.3
            kind = "mapped"
        else:
            graph = Part("graph, static", size, int(_STATIC * size))
            load_s += size / _STATIC_BYTES_S
            kind = "static"
    parts += [_words(symbols), graph]
    if rescoring:
        parts += _rescoring(directory, symbols)
    parts = [part for part in parts if part.disk or part.private]
    load_s += sum(part.disk for part in parts if part.name != graph.name) / _READ_BYTES_S
    return Prediction(kind, tuple(parts), growth, round(load_s, 1), wider)


def if_prepared(prediction: Prediction, graph_bytes: int) -> Prediction:
    """Predict the same model with a compiled graph of about `graph_bytes` bytes."""
    parts = tuple(part for part in prediction.parts if not part.name.startswith("graph"))
    others = tuple(
        replace(part, private=part.private // 2) if part.name == _WORDS else part for part in parts
    )
    graph = Part(
        "graph, mapped",
        graph_bytes,
        int(_MAPPED_ANONYMOUS * graph_bytes),
        graph_bytes,
        int(TOUCHED_SHARE * graph_bytes),
    )
    return replace(
        prediction,
        graph="mapped",
        parts=(*others, graph),
        growth=_GROWTH,
        wider=_WIDER,
        rests_on="the sizes of its files, and a guess at the size of the graph",
    )


def _acoustic(directory: Path) -> list[Part]:
    network = _size(directory / "am" / "final.mdl") or _size(directory / "final.mdl")
    ivector = directory / "ivector"
    extractor = _size(ivector / "final.ie")
    beside = sum(_size(ivector / name) for name in ("final.dubm", "final.mat"))
    return [
        Part("acoustic model", network, int(_ACOUSTIC * network)),
        Part("i-vector extractor", extractor + beside, int(_IVECTOR * extractor) + beside),
    ]


def _words(symbols: Symbols) -> Part:
    return Part(_WORDS, symbols.disk, symbols.count * _SYMBOL)


def _rescoring(directory: Path, symbols: Symbols) -> list[Part]:
    parts = []
    folders = rescoring_folders(directory)
    if "rescore" in folders:
        lm, carpa = (_size(directory / "rescore" / name) for name in ("G.fst", "G.carpa"))
        private = int(_RESCORE_LM * lm + _RESCORE_CARPA * carpa)
        parts.append(Part("rescoring with n-grams", lm + carpa, private))
    if "rnnlm" in folders:
        home = directory / "rnnlm"
        disk = sum(_size(file) for file in home.iterdir() if file.is_file())
        embedding = symbols.count * 4 * _columns(home / "feat_embedding.final.mat")
        private = int(_RNNLM * _size(home / "final.raw")) + embedding
        parts.append(Part("rescoring with a network", disk, private))
    return parts


def _columns(matrix: Path) -> int:
    """Return the columns of a Kaldi matrix: "\\0BFM ", then rows and columns, each with its length
    before it."""
    try:
        with matrix.open("rb") as reader:
            head = reader.read(15)
    except OSError:
        return 0
    return int(struct.unpack_from("<i", head, 11)[0]) if len(head) == 15 else 0


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
