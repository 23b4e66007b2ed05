"""Common words of a language, which no keyword may replace for sounding alike.

Read from the files of the package wordfreq without importing it, which takes 44 MB of memory; the
words take 1 to 6 MB. The package's short list of a language has the words that occur at least once
in a million words.
"""

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import msgspec

_FUNCTION = 5.3
"""Frequency on the Zipf scale (logarithm of occurrences in a billion words): some 500 words."""
_ALIASES = {"cn": "zh", "cmn": "zh", "yue": "zh", "no": "nb"}


@dataclass(frozen=True)
class CommonWords:
    """Words in lower case."""

    common: frozenset[str] = frozenset()
    function: frozenset[str] = frozenset()
    """Words that are part of most sentences."""


def common_words(primary: str, *others: str) -> CommonWords:
    """Return the common words of languages (primary subtags). Those of a language without a list
    are none. Raises `ImportError` if the package is not installed."""
    package = importlib.util.find_spec("wordfreq")
    if package is None or package.origin is None:
        raise ImportError("wordfreq is not installed")
    common, function = set[str](), set[str]()
    for language in (primary, *others):
        name = f"small_{_ALIASES.get(language, language)}.msgpack.gz"
        path = Path(package.origin).parent / "data" / name
        if not path.exists():
            continue
        # A header, and lists of words by falling frequency, a hundredth of the scale for each.
        _, *levels = msgspec.msgpack.decode(gzip.decompress(path.read_bytes()))
        for below, words in enumerate(levels):
            common.update(words)
            if 9 - below / 100 >= _FUNCTION:
                function.update(words)
    return CommonWords(frozenset(common), frozenset(function))
