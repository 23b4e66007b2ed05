"""Comparison of a prepared model with its original before it is used: the graph by its structure,
the texts by decoding bundled speech with both.

The graph must be the original's to the bit. The texts need not be: the states of a composed graph
are numbered in another order than those of a static one, so the engine may decide otherwise between
readings that are equally likely.

Run as `python -P -m models.vosk.prepared.selfcheck` with a JSON document on standard input, in a
process that is started like a fork server, for the original and for the prepared model.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from models.contract import ModelError
from models.prepared.asking import answer_of

TIES = 0.1
"""Share of words that may differ in a prepared model (measured: docs/preparing.md)."""
_LEAST_TIES = 3
"""Words that may always differ; the bundled clips of a language have some fifty."""
_SPEECH_S = 10.0
"""Seconds of noise that a model decodes whose language has no clips."""


@dataclass(frozen=True, slots=True)
class Starting:
    """Start of the process in which a server loads a model: its environment, and its variant of the
    SIMD library."""

    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    simd: str | None = None


class _Asked(msgspec.Struct):
    directory: str
    language: str
    made: dict[str, str]
    simd: str | None


class _Decoded(msgspec.Struct):
    """Texts of the clips by one model. `graph` tells how it was loaded; `not_mapped` why its
    compiled graph is not in use."""

    texts: list[str]
    graph: str
    not_mapped: str | None = None


def must_answer_alike(
    directory: Path, language: str, made: Mapping[str, Path], starting: Starting | None = None
) -> None:
    """Compare the texts of the model as it is with those of the same model with `made` in it.

    Raises `ModelError`: `answers_differ` if more words differ than ties explain or a text is
    missing, `cannot_map` if the engine does not map the graph, `selfcheck_failed` and `killed`.
    """
    starting = starting or Starting()
    plain = answer_of(
        __name__, _Asked(str(directory), language, {}, None), _Decoded, starting.environment
    )
    files = {name: str(file) for name, file in made.items()}
    asked = _Asked(str(directory), language, files, starting.simd)
    try:
        ours = answer_of(__name__, asked, _Decoded, starting.environment)
    except ModelError as error:
        # A server continues without a SIMD library that crashes; the graph is not at fault.
        if starting.simd is None or error.code == "killed":
            raise
        asked = msgspec.structs.replace(asked, simd=None)
        ours = answer_of(__name__, asked, _Decoded, starting.environment)
    if ours.not_mapped is not None:
        raise ModelError("cannot_map", f"the prepared model cannot be used: {ours.not_mapped}")
    if (difference := text_difference(plain.texts, ours.texts)) is not None:
        raise ModelError(
            "answers_differ", f"the prepared model does not answer like its original: {difference}"
        )


def text_difference(plain: list[str], ours: list[str]) -> str | None:
    """Return how the texts `ours` differ from the expected `plain`, in words; None if ties explain
    it."""
    differ = total = 0
    first = ""
    for expected, text in zip(plain, ours, strict=True):
        if expected and not text:
            return f"{expected[:200]!r} became an empty text"
        errors = word_errors(expected.split(), text.split())
        if errors and not first:
            first = f"{expected[:200]!r} became {text[:200]!r}"
        differ, total = differ + errors, total + len(expected.split())
    if differ <= max(_LEAST_TIES, TIES * total):
        return None
    return f"{differ} of {total} words differ, more than ties explain: {first}"


def word_errors(expected: list[str], found: list[str]) -> int:
    """Return how many words must be changed, added or removed to turn one into the other
    (Levenshtein)."""
    row = list(range(len(found) + 1))
    for n, word in enumerate(expected, 1):
        corner, row[0] = row[0], n
        for m, other in enumerate(found, 1):
            best = min(row[m] + 1, row[m - 1] + 1, corner + (word != other))
            corner, row[m] = row[m], best
    return row[-1]


def _decode(asked: _Asked) -> _Decoded:
    from models.clips import decode_clip, noise, own_clips
    from models.vosk.model import VoskModel

    made = {name: Path(file) for name, file in asked.made.items()}
    model = VoskModel(Path(asked.directory), made, simd=asked.simd)
    clips = [decode_clip(clip, model.sample_rate) for clip in own_clips(asked.language)]
    # A model may recognise anything in noise, so its text is not compared.
    unclaimed = [] if clips else [noise(_SPEECH_S, model.sample_rate)]
    texts = [model.text(clip) for clip in clips]
    for pcm in unclaimed:
        model.text(pcm)
    details = model.report()["details"]
    return _Decoded(texts, details["graph"], details.get("not_mapped"))


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=_Asked)
    sys.stdout.buffer.write(msgspec.json.encode(_decode(asked)))
