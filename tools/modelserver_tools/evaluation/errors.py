"""Error rates with confidence intervals, and the difference between those of two runs.

The interval is a bootstrap's over utterances, the test an approximate randomisation of pairs
(Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation";
Noreen 1989). Both are seeded: the same files give the same figures.
"""

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

import jiwer
import msgspec

from modelserver_tools.evaluation.normalising import characters_of, normalised, words_of

_RESAMPLES = 2000
_SEED = 160
_SIDE = 0.025
"""Share left out at either end of the interval: 95 % are within."""
_LINK = "\x1f"
_Pair = TypeVar("_Pair")


class Counted(msgspec.Struct):
    """Numbers of edits (substitutions, deletions, insertions) of the reference's `length`
    pieces."""

    substituted: int
    deleted: int
    inserted: int
    length: int

    @property
    def errors(self) -> int:
        """Sum of all edits."""
        return self.substituted + self.deleted + self.inserted


class FileErrors(msgspec.Struct):
    """Errors of one file, with the texts as they were compared."""

    file: str
    reference: str
    hypothesis: str
    words: Counted
    characters: Counted


class Rate(msgspec.Struct):
    """Errors over pieces; from `low` to `high` in 95 of 100 resamples."""

    rate: float
    low: float
    high: float
    errors: int
    length: int


class Difference(msgspec.Struct):
    """Difference of this run's rate and the other's. `p`: probability that chance alone gives a
    difference as large."""

    difference: float
    low: float
    high: float
    p: float


def compare_texts(file: str, reference: str, hypothesis: str) -> FileErrors:
    """Compare two texts, after normalising both."""
    wanted, recognised = normalised(reference), normalised(hypothesis)
    return FileErrors(
        file,
        wanted,
        recognised,
        _counted(words_of(wanted), words_of(recognised)),
        _counted(characters_of(wanted), characters_of(recognised)),
    )


def _counted(wanted: list[str], recognised: list[str]) -> Counted:
    if not wanted or not recognised:  # the library does not accept empty texts
        return Counted(0, len(wanted), len(recognised), len(wanted))
    # Pieces may contain anything but the delimiter.
    pieces = jiwer.Compose([jiwer.ReduceToListOfListOfWords(word_delimiter=_LINK)])
    found = jiwer.process_words(
        _LINK.join(wanted),
        _LINK.join(recognised),
        reference_transform=pieces,
        hypothesis_transform=pieces,
    )
    return Counted(found.substitutions, found.deletions, found.insertions, len(wanted))


def rate_of(counts: Sequence[Counted]) -> Rate:
    """Return the rate over all files together."""
    errors, length = sum(c.errors for c in counts), sum(c.length for c in counts)
    pairs = [(c.errors, c.length) for c in counts]
    rates = sorted(
        sum(e for e, _ in sample) / max(1, sum(n for _, n in sample))
        for sample in _resampled(pairs)
    )
    return Rate(errors / max(1, length), *_within(rates), errors, length)


def difference_of(ours: Sequence[Counted], theirs: Sequence[Counted]) -> Difference:
    """Return the difference on the same utterances in the same order."""
    pairs = [(a.errors, b.errors, a.length) for a, b in zip(ours, theirs, strict=True)]
    length = max(1, sum(n for _, _, n in pairs))
    observed = sum(a - b for a, b, _ in pairs) / length
    resampled = sorted(
        sum(a - b for a, b, _ in sample) / max(1, sum(n for _, _, n in sample))
        for sample in _resampled(pairs)
    )
    chance = _chance()
    as_large = sum(
        abs(sum((a - b) * chance.choice((-1, 1)) for a, b, _ in pairs)) / length
        >= abs(observed) - 1e-12
        for _ in range(_RESAMPLES)
    )
    return Difference(observed, *_within(resampled), (as_large + 1) / (_RESAMPLES + 1))


def _chance() -> random.Random:
    return random.Random(_SEED)  # noqa: S311 - no secret


def _resampled(pairs: list[_Pair]) -> Iterator[list[_Pair]]:
    chance = _chance()
    return (chance.choices(pairs, k=len(pairs)) for _ in range(_RESAMPLES))


def _within(ordered: list[float]) -> tuple[float, float]:
    last = len(ordered) - 1
    return ordered[round(last * _SIDE)], ordered[round(last * (1 - _SIDE))]
