"""Normalisation of texts for a comparison, so that only errors of recognition count.

The rules, in their order: Unicode's compatibility form (NFKC), lower case, the engine's own tokens
removed, punctuation and symbols replaced by spaces (an apostrophe within a word stays), blanks
reduced to one space. Words are separated by blanks; in a script without them (Chinese, Japanese)
each character is a word. Characters are compared without any blanks: a Korean or German compound
that is written with a space has no wrong character, though it has a wrong word.
"""

import re
import unicodedata

from modelserver.speech.transcript import is_engine_token, spaced_out

RULES = (
    "NFKC, lower case, engine tokens dropped, punctuation and symbols as blanks; words: by blanks, "
    "each character where a script has none; characters: without blanks"
)

_WITHIN_WORDS = re.compile(r"(?<=\w)['’](?=\w)")
_APOSTROPHE = "\ue000"
"""Character of the private use area, which the rules preserve."""


def normalised(text: str) -> str:
    """Return the words with one space between any two."""
    words = (word for word in text.split() if not is_engine_token(word))
    plain = unicodedata.normalize("NFKC", " ".join(words)).lower()
    plain = _WITHIN_WORDS.sub(_APOSTROPHE, plain)
    cleaned = "".join(
        " " if unicodedata.category(letter)[0] in "PSZC" and letter != _APOSTROPHE else letter
        for letter in plain
    )
    return " ".join(cleaned.replace(_APOSTROPHE, "'").split())


def words_of(text: str) -> list[str]:
    """Return the words of a normalised text."""
    return spaced_out(text).split()


def characters_of(text: str) -> list[str]:
    """Return the characters of a normalised text."""
    return list(text.replace(" ", ""))
