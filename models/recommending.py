"""Recommendation of a model for a language, from memory and published error rates."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from models.catalog import ErrorRate


@dataclass(frozen=True, slots=True)
class Candidate:
    """Model that recognises the language. `rates`: published for it. `memory`: bytes that it and
    its workers need; `fits`: there is room for that. `obtainable`: its engine is installed or can
    be. `preferred`: the catalogue recommends it for the language."""

    name: str
    rates: tuple[ErrorRate, ...]
    memory: int
    fits: bool
    obtainable: bool = True
    preferred: bool = False


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Model to use, and the reason, in words."""

    name: str
    why: str


def recommend(candidates: Sequence[Candidate]) -> Recommendation | None:
    """Return the best of the models that fit and are obtainable; None if there is none.

    A model for which the same source publishes more errors on the same recordings than for another
    is left out. Of the rest, the catalogue's own recommendation comes first, then models with any
    published error rate, then the smaller one.
    """
    possible = [candidate for candidate in candidates if candidate.fits and candidate.obtainable]
    unbeaten = [one for one in possible if not any(_beats(other, one) for other in possible)]
    if not possible:
        return None
    best = min(unbeaten or possible, key=_order)
    return Recommendation(best.name, _why(best, possible))


def _order(candidate: Candidate) -> tuple[bool, bool, int, str]:
    return not candidate.preferred, not candidate.rates, candidate.memory, candidate.name


def _beats(one: Candidate, other: Candidate) -> bool:
    """Return whether `one` has fewer errors, on average over the sets that a source has both on."""
    pairs = _shared(one, other)
    return bool(pairs) and fmean(a.rate for a, _ in pairs) < fmean(b.rate for _, b in pairs)


def _shared(one: Candidate, other: Candidate) -> list[tuple[ErrorRate, ErrorRate]]:
    rates = {(rate.source, rate.on): rate for rate in other.rates}
    return [
        (rate, rates[rate.source, rate.on]) for rate in one.rates if (rate.source, rate.on) in rates
    ]


def _why(best: Candidate, possible: Sequence[Candidate]) -> str:
    beaten = [other for other in possible if _beats(best, other)]
    if beaten:
        second = min(beaten, key=lambda other: fmean(b.rate for _, b in _shared(best, other)))
        own, others = _shared(best, second)[0]
        return (
            f"{own.rate:g} % errors on {own.on}, against {others.rate:g} % of {second.name} "
            f"({own.source})"
        )
    if best.preferred:
        return "the catalogue's choice for this language"
    if best.rates:
        return f"{best.rates[0].rate:g} % errors on {best.rates[0].on} ({best.rates[0].source})"
    return "the smallest one: no error rates are published for this language"
