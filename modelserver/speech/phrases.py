"""Phrases and keywords of a request: phrases alone are recognised, which engines call a grammar;
keywords are preferred. Both are short texts, in lists that are bounded."""

from collections.abc import Collection, Iterable
from typing import Any

from modelserver.refusal import Refusal

MOST_TEXTS = 1000
LONGEST_TEXT = 200
"""Length in letters."""
MOST_BYTES = 64 * 1024
"""Size of all texts of a list, in UTF-8."""
_MOST_GIVEN = 10 * MOST_TEXTS
"""Most texts in a list, including empty and repeated ones."""

UNKNOWN = "[unk]"
"""Stands for whatever else was said."""

_JOINERS = dict.fromkeys(map(ord, "\u200c\u200d"))
"""Letters that are not seen, and are a part of words in Persian, in scripts of India, and in
emoji."""

_MOST_SAID = 20


class BadText(ValueError):
    """A text cannot be a phrase or keyword, or there are too many; the message says why."""


def phrases_refused(why: str, parameter: str = "phrases") -> Refusal:
    """Return the refusal of phrases that cannot be recognised, which came as `parameter`."""
    return Refusal("bad_parameter", f"{parameter}: {why}")


def named(words: list[str]) -> str:
    """Return the first words of a list, for a warning."""
    more = f" and {len(words) - _MOST_SAID} more" if len(words) > _MOST_SAID else ""
    return f"{', '.join(words[:_MOST_SAID])}{more}"


def not_known(words: list[str]) -> list[str]:
    """Return a warning about words that the model does not know, if there are any."""
    if not words:
        return []
    return [f"words of the phrases that the model does not know: {named(words)}"]


def phrase_list(given: Collection[Any], parameter: str = "phrases") -> tuple[str, ...]:
    """Return the phrases, each once, without spaces that mean nothing. Raises `Refusal`, which
    names the `parameter` that they came as."""
    phrases = _listed(given, parameter)
    if set(phrases) == {UNKNOWN}:
        raise phrases_refused(f"{UNKNOWN} alone recognises nothing", parameter)
    return phrases


def keyword_list(given: Collection[Any], parameter: str = "keywords") -> tuple[str, ...]:
    """Return the keywords, as `phrase_list` does."""
    return _listed(given, parameter)


def usable_keywords(given: Iterable[Any]) -> tuple[str, ...]:
    """Return those keywords of a list that can be used, from its beginning, as far as there is
    room: for lists whose client reads no refusal."""
    found: dict[str, None] = {}
    size = 0
    for _, text in zip(range(_MOST_GIVEN), given, strict=False):
        try:
            keyword = one_text(text)
        except BadText:
            continue
        size += len(keyword.encode())
        if size > MOST_BYTES or len(found) == MOST_TEXTS:
            break
        if keyword:
            found[keyword] = None
    return tuple(found)


def one_text(given: object) -> str:
    """Return a phrase or keyword, without spaces that mean nothing; it may be empty. Raises
    `BadText`, whose message does not repeat the text: it is logged."""
    if not isinstance(given, str):
        raise BadText(f"text is expected, not a value of type {type(given).__name__}")
    text = " ".join(given.split())
    if len(text) > LONGEST_TEXT:
        raise BadText(f"a text has {len(text)} letters, {LONGEST_TEXT} are allowed")
    if not text.translate(_JOINERS).isprintable():
        raise BadText("a text has characters that cannot be printed")
    return text


def _listed(given: Collection[Any], parameter: str) -> tuple[str, ...]:
    try:
        if len(given) > _MOST_GIVEN:
            raise BadText(f"a list of {len(given)}; {MOST_TEXTS} are allowed")
        texts: dict[str, None] = {}
        for number, text in enumerate(given, 1):
            try:
                texts[one_text(text)] = None
            except BadText as error:
                raise BadText(f"number {number} of the list: {error}") from None
        texts.pop("", None)
        must_be_few(texts)
    except BadText as error:
        raise phrases_refused(str(error), parameter) from None
    return tuple(texts)


def must_be_few(texts: Collection[str]) -> None:
    """Raise `BadText` for more texts than are allowed."""
    if len(texts) > MOST_TEXTS:
        raise BadText(f"a list of {len(texts)}; {MOST_TEXTS} are allowed")
    if (size := sum(len(text.encode()) for text in texts)) > MOST_BYTES:
        raise BadText(f"{size} bytes of text; {MOST_BYTES} are allowed")
