"""File names of a model: the part of a model that a file is, and its variant."""

import re
from itertools import islice
from pathlib import Path

_FILES_MOST = 2000

INT8, PLAIN, OTHER = 0, 1, 2
"""Variants of a network, best first: 8-bit weights, as trained, others."""
_MARK = re.compile(r"[-_.](int8|uint8|quant|quantized|dynq|fp16|fp32|float16|q4|q4f16)(?=[-_.]|$)")
_INT8_MARKS = frozenset(("int8", "uint8", "quant", "quantized", "dynq"))


def names_in(directory: Path) -> list[str]:
    """Return the names in a directory, sorted; none if there is no such directory."""
    if not directory.is_dir():
        return []
    return sorted(entry.name for entry in islice(directory.iterdir(), _FILES_MOST))


def is_network(name: str) -> bool:
    """Return whether the name is that of a network for ONNX Runtime."""
    return name.endswith((".onnx", ".ort"))


def variant(name: str) -> int:
    """Return the variant of a network, by its file name."""
    marks = set(_MARK.findall(name.lower()))
    if marks & _INT8_MARKS:
        return INT8
    return OTHER if marks - {"fp32"} else PLAIN


_ROLES: tuple[tuple[str, str], ...] = (
    ("preprocessor", r"preprocess(or)?"),
    ("uncached_decoder", r"uncached[-_]decoder?"),
    ("cached_decoder", r"cached[-_]decoder?"),
    ("conv_frontend", r"conv[-_]frontend"),
    ("encoder_adaptor", r"encoder[-_]adaptor"),
    ("embedding", r"embedding"),
    ("llm", r"llm"),
    ("decoder_model_merged", r"decoder_model_merged"),
    ("encoder_model", r"encoder_model"),
    ("joiner", r"joiner"),
    ("decoder", r"decoder?"),
    ("encoder", r"encoder?"),
)
"""Parts of a model, by words in file names; the first that fits counts."""
_PATTERNS = [(role, re.compile(rf"(?<![a-z]){word}(?![a-z])")) for role, word in _ROLES]
_OTHERS = re.compile(r"vad|punct|speaker|language[-_]id|tts|vocos|denois")
"""Networks for other purposes that may lie beside a model."""


def role_of(name: str) -> tuple[str, str]:
    """Return the part that a network is ("model" if its name does not tell, "" for other purposes),
    and the rest of its name without the mark of its variant, which the parts of one model share."""
    lower = name.lower()
    if _OTHERS.search(lower):
        return "", ""
    stem = _MARK.sub("", lower.rsplit(".", 1)[0])
    for role, pattern in _PATTERNS:
        if pattern.search(stem):
            return role, pattern.sub("", stem, count=1)
    return "model", ""


def best(names: list[str], *, plain: bool = False) -> str:
    """Return the file to load of several that are the same part of a model: the one with 8-bit
    weights, or as trained (`plain`); then one that is called model; then the first."""
    order = (PLAIN, INT8, OTHER) if plain else (INT8, PLAIN, OTHER)
    return min(names, key=lambda name: (order.index(variant(name)), "model" not in name, name))


def natural(text: str) -> list[tuple[str, int]]:
    """Return a sort key by which 16 comes after 9."""
    return [(word, int(digits or 0)) for word, digits in re.findall(r"(\D*)(\d{0,9})", text)]


def weights_beside(network: Path) -> list[Path]:
    """Return the files beside a network that hold its weights, by their names."""
    names = {network.name, network.stem}
    ends = (".data", "_data", ".weights")
    files = (network.with_name(name + end) for name in sorted(names) for end in ends)
    return [file for file in files if file.is_file()]


def disk_bytes(file: Path) -> int:
    """Return the size of a network with its weights beside it, or of a directory."""
    if file.is_dir():
        return sum(inner.stat().st_size for inner in file.iterdir() if inner.is_file())
    return sum(part.stat().st_size for part in (file, *weights_beside(file)))
