"""Keywords as hotwords of sherpa-onnx, which a transducer prefers in a search with a beam
(`modified_beam_search`).

The library would cut hotwords into tokens itself, and takes some characters in them for commands.
Here they are cut before, and the library is given tokens only: its table of tokens has a second
name for each of them, of letters and digits, which have no other meaning to it.

Text is cut as the library does it: into the tokens whose scores have the largest sum. Han and kana
are characters by themselves; words of other scripts begin with `▁`. A model without scores has its
tokens in the order of their frequency, and a token's position is its score.
"""

import itertools
import math
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from models.sherpa.tokens import read_scores, read_tokens
from models.sherpa.words import ALONE, BYTE_NAMES

MOST_TOKENS = 10_000
"""Tokens of all hotwords of a stream: making the library's graph of them takes some 10 ms."""
_MOST_REMEMBERED = 2
_WORD = "▁"
_NAME = "qx"
_SPECIAL = re.compile(r"<[^<>]+>")
_UNITS = re.compile(rf"({ALONE.pattern})|\s+")
_TOKEN_LETTERS_MOST = 64


class Hotwords:
    """Tokens of a model, and hotwords made of them."""

    def __init__(self, tokens: Path) -> None:
        """Read the file of tokens, and scores beside it. Raises `ModelError` and `OSError`."""
        table = list(read_tokens(tokens))
        self._content = tokens.read_bytes()
        self._numbers = {text: number for text, number in table if not _SPECIAL.fullmatch(text)}
        scores = read_scores(tokens.parent)
        self._scores = {
            text: scores[text] if text in scores else self._unscored(scores, number)
            for text, number in self._numbers.items()
        }
        self._longest = min(max(map(len, self._numbers), default=0), _TOKEN_LETTERS_MOST)
        self._letters = letters = frozenset("".join(self._numbers)) - {_WORD}
        self._bytes = letters <= BYTE_NAMES.keys() and any(letter > "\x7f" for letter in letters)
        self._upper = not any(letter.islower() for letter in letters)
        self._lower = not any(letter.isupper() for letter in letters)
        self._name = _NAME
        while any(text.startswith(self._name) for text in self._numbers):
            self._name += _NAME
        sample = (text for text in self._numbers if text.isalpha() and self.numbers(text))
        self.sample = tuple(itertools.islice(sample, 1))
        """Keyword that the model has tokens for, if there is one."""
        self._remembered: dict[tuple[str, ...], tuple[str, list[str]]] = {}

    @staticmethod
    def _unscored(scores: Mapping[str, float], number: int) -> float:
        """Return the score of a token that has none: below all others, if some have scores."""
        return (min(scores.values()) if scores else 0.0) - 1.0 - number

    def table(self) -> bytes:
        """Return the file of tokens with the second names: results of the library have the first
        ones."""
        second = (f"{self._name}{number} {number}\n" for number in self._numbers.values())
        return self._content.rstrip() + b"\n" + "".join(second).encode()

    def text(self, keywords: tuple[str, ...]) -> str:
        """Return the hotwords for a stream; empty if there are none."""
        return self._made(keywords)[0]

    def ignored(self, keywords: tuple[str, ...]) -> list[str]:
        """Return the keywords that are not among the hotwords: the model has no tokens for their
        letters, or they are too many."""
        return self._made(keywords)[1]

    def _made(self, keywords: tuple[str, ...]) -> tuple[str, list[str]]:
        if (made := self._remembered.get(keywords)) is None:
            while len(self._remembered) >= _MOST_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            made = self._remembered[keywords] = self._make(keywords)
        return made

    def _make(self, keywords: tuple[str, ...]) -> tuple[str, list[str]]:
        texts, ignored, count = [], [], 0
        for keyword in keywords:
            numbers = self.numbers(keyword)
            if numbers and count + len(numbers) <= MOST_TOKENS:
                count += len(numbers)
                texts.append(" ".join(f"{self._name}{number}" for number in numbers))
            else:
                ignored.append(keyword)
        return "/".join(texts), ignored

    def numbers(self, keyword: str) -> list[int]:
        """Return the tokens of a keyword; none if a letter of it is in no token."""
        if self._upper:
            keyword = keyword.upper()
        elif self._lower:
            keyword = keyword.lower()
        found: list[int] = []
        spoken = "".join(letter if self._is_spoken(letter) else " " for letter in keyword)
        for unit in filter(None, _UNITS.split(spoken)):
            cut = self._cut(unit)
            if not cut:
                return []
            found += cut
        return found

    def _is_spoken(self, letter: str) -> bool:
        """Return whether it is a letter, or a sign that is in the model's tokens."""
        return letter in self._letters or unicodedata.category(letter)[0] in "LMN"

    def _cut(self, unit: str) -> list[int]:
        """Return the tokens of a word or character."""
        if not self._bytes:
            if ALONE.fullmatch(unit) and unit in self._numbers:
                return [self._numbers[unit]]
            return self._best(_WORD + unit) or self._best(unit)
        named = "".join(_NAMES[byte] for byte in unit.encode("utf-8", "surrogatepass"))
        return self._best(_WORD + named)

    def _best(self, text: str) -> list[int]:
        """Return the tokens with the largest sum of scores into which `text` can be cut."""
        sums = [0.0] + [-math.inf] * len(text)
        lengths = [0] * (len(text) + 1)
        for end in range(1, len(text) + 1):
            for length in range(1, min(end, self._longest) + 1):
                score = self._scores.get(text[end - length : end])
                if score is not None and sums[end - length] + score > sums[end]:
                    sums[end], lengths[end] = sums[end - length] + score, length
        found: list[int] = []
        end = len(text)
        while end and lengths[end]:
            found.append(self._numbers[text[end - lengths[end] : end]])
            end -= lengths[end]
        return [] if end else found[::-1]


_NAMES = {byte: name for name, byte in BYTE_NAMES.items() if name != _WORD}
