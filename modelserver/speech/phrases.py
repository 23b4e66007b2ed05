"""Phrases that alone are to be recognised: what an engine calls a grammar."""

from collections.abc import Iterable
from typing import Any

from modelserver.refusal import Refusal

_MOST_PHRASES = 1000
_MOST_LETTERS = 200

UNKNOWN = "[unk]"
"""Stands for whatever else was said."""


_MOST_SAID = 20


def phrases_refused(why: str, parameter: str = "phrases") -> Refusal:
    """Return the refusal of phrases that cannot be recognised, which came as `parameter`."""
    return Refusal("bad_parameter", f"{parameter}: {why}")


def not_known(words: list[str]) -> list[str]:
    """The warning, if there are any that the model does not know."""
    if not words:
        return []
    return [f"words of the phrases that the model does not know: {', '.join(words[:_MOST_SAID])}"]


def phrase_list(given: Iterable[Any], parameter: str = "phrases") -> tuple[str, ...]:
    """Return the phrases, each once, without spaces that mean nothing. Raises `Refusal`, which
    names the `parameter` that they came as."""
    phrases: dict[str, None] = {}
    for phrase in given:
        if not isinstance(phrase, str):
            raise phrases_refused(f"a phrase is text, not {str(phrase)[:40]!r}", parameter)
        text = " ".join(phrase.split())
        if len(text) > _MOST_LETTERS:
            raise phrases_refused(
                f"{text[:20]!r}... has {len(text)} letters, {_MOST_LETTERS} are allowed", parameter
            )
        if not text.isprintable():
            raise phrases_refused(f"{text[:40]!r} has letters that are none", parameter)
        if text:
            phrases[text] = None
    if len(phrases) > _MOST_PHRASES:
        raise phrases_refused(f"{len(phrases)} phrases; {_MOST_PHRASES} are allowed", parameter)
    if set(phrases) == {UNKNOWN}:
        raise phrases_refused(f"{UNKNOWN} alone recognises nothing", parameter)
    return tuple(phrases)
