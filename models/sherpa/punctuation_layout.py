"""Punctuation models of sherpa-onnx: recognised by their metadata, and how much memory they take.
Importing this does not load the library.

| kind | files | known by |
| --- | --- | --- |
| ct_transformer: marks, Chinese and English | model | `punctuations` and `unk_symbol` |
| cnn_bilstm: marks and case, English | model, bpe.vocab | `COMMA` and `MIX_CASE` |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.marks import Limits
from models.prediction import Part
from models.punctuation import PunctuationModel
from models.sherpa.files import INT8, best, disk_bytes, is_network, names_in, variant
from models.sherpa.metadata import NotOnnx, read_metadata
from models.sherpa.refusals import NotRecognised

_MB = 1_000_000
_GROWTH = 14 * _MB
_START_S, _LOADED_BYTES_S = 0.3, 150e6
"""Start and speed of two loads: the first one, in a child, finds out whether the files can be
loaded."""


@dataclass(frozen=True, slots=True)
class PunctuationKind:
    """Family of punctuation models. `weights`: bytes of memory for each byte of the file, with
    8-bit and with other weights; `more`: other memory, such as the library's table of words."""

    name: str
    keys: frozenset[str]
    """Metadata that only these models have."""
    languages: tuple[str, ...]
    cases: bool
    limits: Limits
    weights: tuple[float, float]
    more: int


_CT_TRANSFORMER = PunctuationKind(
    "ct_transformer",
    frozenset(("punctuations", "unk_symbol")),
    ("zh", "en"),
    cases=False,
    # The library reads twenty tokens at a time, and again from the end of the last sentence: if
    # there is none, time grows with the square of the input.
    limits=Limits(100, 1000),
    weights=(1.1, 1.05),
    more=35 * _MB,
)
_CNN_BILSTM = PunctuationKind(
    "cnn_bilstm",
    frozenset(("COMMA", "PERIOD", "QUESTION", "MIX_CASE")),
    ("en",),
    cases=True,
    # One batch has 198 word pieces; with several, the network changes their order.
    limits=Limits(80, 480),
    weights=(2.0, 1.7),
    more=10 * _MB,
)
_KINDS = (_CT_TRANSFORMER, _CNN_BILSTM)


@dataclass(frozen=True, slots=True)
class PunctuationLayout:
    """Directory with a punctuation model, recognised."""

    kind: PunctuationKind
    network: Path
    words: Path | None = None
    """File of its word pieces."""

    @property
    def networks(self) -> tuple[Path, ...]:
        """Networks that are loaded."""
        return (self.network,)


def punctuation_kind(metadata: Mapping[str, str]) -> PunctuationKind | None:
    """Return the kind of a punctuation model, by its metadata; None for other networks."""
    return next((kind for kind in _KINDS if kind.keys <= metadata.keys()), None)


def recognise_punctuation(directory: Path) -> PunctuationLayout:
    """Recognise a punctuation model. Raises `NotRecognised`, and `OSError`."""
    if not directory.is_dir():
        raise NotRecognised("there is no such directory")
    names = names_in(directory)
    found: dict[str, PunctuationKind] = {}
    reason = "no network (.onnx) is in it"
    for name in (name for name in names if is_network(name)):
        try:
            kind = punctuation_kind(read_metadata(directory / name))
        except NotOnnx as error:
            reason = f"{name}: {error}"
            continue
        if kind is not None:
            found[name] = kind
        else:
            reason = f"{name} is another kind of network"
    if not found:
        raise NotRecognised(reason)
    name = best(list(found))
    words = directory / "bpe.vocab"
    if found[name] is _CT_TRANSFORMER:
        return PunctuationLayout(_CT_TRANSFORMER, directory / name)
    if not words.is_file():
        raise NotRecognised(f"{name} is there, and bpe.vocab is missing")
    return PunctuationLayout(_CNN_BILSTM, directory / name, words)


def predict_punctuation(layout: PunctuationLayout) -> PunctuationModel:
    """Predict the memory of a punctuation model. Reads sizes. Raises `OSError`."""
    kind, size = layout.kind, disk_bytes(layout.network)
    weights = kind.weights[0 if variant(layout.network.name) == INT8 else 1]
    return PunctuationModel(
        layout.network.parent,
        kind.languages,
        kind.cases,
        Part("punctuation", size, int(size * weights) + kind.more),
        _GROWTH,
        loading=size,
        load_s=round(_START_S + size / _LOADED_BYTES_S, 1),
    )
