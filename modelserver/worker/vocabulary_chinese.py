"""Chinese keywords in a text, by pinyin.

Readings of single characters are those of pypinyin. Its dictionary of phrases takes 44 MB of memory
and is not read: a character of a keyword has its three most frequent readings, one of a text its
most frequent one.
"""

import importlib.util
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import msgspec

from modelserver.worker.vocabulary_common import CommonWords
from modelserver.worker.vocabulary_match import Found

_HAN = re.compile("[\u4e00-\u9fff]+")
_FIRST, _LAST = 0x4E00, 0x9FFF
_MOST_READINGS = 3
_LONGEST = 16
"""Characters of a keyword."""
_MOST_STEPS = 30_000
_COMPARISON = 4
"""Places and comparisons (which take four times as long) for one text; what follows in the text
stays as it was."""
_LONGEST_WORD = 4
"""Characters of a common word."""
_NUMERALS = frozenset("零〇幺一二两三四五六七八九十百千万亿")

_TONES = {"\u0304": "1", "\u0301": "2", "\u030c": "3", "\u0300": "4"}
_INITIAL = re.compile("(?:[zcs]h|[bpmfdtnlgkhjqxrzcsyw])?")
_ALIKE_INITIALS = {"zh": "z", "ch": "c", "sh": "s", "n": "l", "f": "h"}
_ALIKE_FINALS = (("ang", "an"), ("eng", "en"), ("ing", "in"))

_TONE, _FUZZY, _OTHER = 0.25, 0.5, 1.5
"""Distance of two syllables that differ in their tone, in sounds that are often confused (as zh and
z, or ing and in), or in others."""
_ALLOWED = {2: 0.0, 3: 0.5, 4: 1.0}
_ALLOWED_LONGER = 2.0
"""Distance at which words of three or more syllables still count as the same word, if no more than
half of the syllables differ."""


class _Syllable(NamedTuple):
    initial: str
    final: str
    tone: str

    @property
    def alike(self) -> str:
        """Text that syllables which are often confused have in common."""
        final = self.final
        for one, other in _ALIKE_FINALS:
            final = final.removesuffix(one) + other if final.endswith(one) else final
        return _ALIKE_INITIALS.get(self.initial, self.initial) + final


_Readings = tuple[_Syllable, ...]


class ChineseMatcher:
    """Finds the keywords of one list, as far as they are in Chinese characters."""

    def __init__(self, keywords: Iterable[str], common: CommonWords) -> None:
        """Raises `ImportError` if pypinyin is not installed."""
        self._common = common
        self._pairs: dict[tuple[str, str], dict[tuple[str, int], None]] = defaultdict(dict)
        """Keywords by their first two syllables, and by the last two: with their place in it."""
        for keyword in keywords:
            if _HAN.fullmatch(keyword) and 2 <= len(keyword) <= _LONGEST:
                for at in {0, len(keyword) - 2} if len(keyword) > 3 else {0}:
                    for pair in _pairs(keyword, at, _MOST_READINGS):
                        self._pairs[pair][keyword, at] = None

    def find(self, text: str) -> Iterator[Found]:
        """Yield the keywords of a text; they may overlap."""
        if not self._pairs:
            return
        steps = 0
        for run in _HAN.finditer(text):
            common, inside = _common_spans(run[0], self._common.common)
            for at in range(len(run[0]) - 1):
                near = dict.fromkeys(
                    (keyword, at - offset)
                    for pair in _pairs(run[0], at, 1)
                    for keyword, offset in self._pairs.get(pair, ())
                )
                steps += 1 + _COMPARISON * len(near)
                if steps > _MOST_STEPS:
                    return
                for keyword, start in near:
                    end = start + len(keyword)
                    if start < 0 or end > len(run[0]):
                        continue
                    window = run[0][start:end]
                    place = start + run.start(), end + run.start()
                    if window == keyword:
                        yield Found(*place, keyword, (0, -len(keyword)))
                    elif start not in inside and end not in inside:
                        distance = _distance(window, keyword)
                        if distance <= self._allowed(
                            window, keyword, self._is_common(window, common[start:end])
                        ):
                            yield Found(*place, keyword, (1, -len(keyword), distance))

    def _is_common(self, window: str, common: list[bool]) -> bool:
        """Return whether a window is common words, at least one of several characters."""
        words = self._common.function
        return any(common) and all(
            char in words or inside for char, inside in zip(window, common, strict=True)
        )

    def _allowed(self, window: str, keyword: str, common: bool) -> float:
        """Return the distance at which a window may still be the keyword; negative: at none."""
        length = len(keyword)
        others = [
            c for pair in zip(window, keyword, strict=True) if pair[0] != pair[1] for c in pair
        ]
        if length < 4 and (
            common
            or not _NUMERALS.isdisjoint(others)
            or all(char in self._common.function for char in window)
        ):
            return -1
        if common:
            return _TONE
        return _ALLOWED.get(length, _ALLOWED_LONGER)


def _common_spans(text: str, common: frozenset[str]) -> tuple[list[bool], set[int]]:
    """Return which characters belong to common words of several characters, and the places that
    are inside of such a word. The longest word is taken first, from left to right."""
    covered, inside = [False] * len(text), set[int]()
    at = 0
    while at < len(text):
        for length in range(min(_LONGEST_WORD, len(text) - at), 1, -1):
            if text[at : at + length] in common:
                covered[at : at + length] = [True] * length
                inside.update(range(at + 1, at + length))
                break
        else:
            length = 1
        at += length
    return covered, inside


def _pairs(text: str, at: int, most: int) -> Iterator[tuple[str, str]]:
    """Yield the syllables of two characters, in at most `most` readings of each."""
    readings = (_readings(character)[:most] for character in text[at : at + 2])
    for pair in product(*readings):
        yield pair[0].alike, pair[1].alike


def _distance(window: str, keyword: str) -> float:
    distances = list(map(_character_distance, window, keyword))
    few = sum(map(bool, distances)) <= (len(keyword) + 1) // 2
    return sum(distances) if few else math.inf


@lru_cache(maxsize=8192)
def _character_distance(one: str, meant: str) -> float:
    if one == meant:
        return 0
    pairs = product(_readings(one)[:1], _readings(meant))
    return min((_syllable_distance(*pair) for pair in pairs), default=_OTHER)


def _syllable_distance(one: _Syllable, other: _Syllable) -> float:
    if one.alike != other.alike:
        return _OTHER
    fuzzy = (one.initial != other.initial) + (one.final != other.final)
    return fuzzy * _FUZZY + (one.tone != other.tone) * _TONE


def _readings(character: str) -> _Readings:
    return load_readings().get(character, ())


@cache
def load_readings() -> dict[str, _Readings]:
    """Return the readings of Chinese characters, the most frequent first."""
    package = importlib.util.find_spec("pypinyin")
    if package is None or package.origin is None:
        raise ImportError("pypinyin is not installed")
    # Importing the package would read its phrases as well.
    data = (Path(package.origin).parent / "pinyin_dict.json").read_bytes()
    syllable = cache(_syllable)
    return {
        chr(int(code)): tuple(map(syllable, readings.split(",")[:_MOST_READINGS]))
        for code, readings in msgspec.json.decode(data, type=dict[str, str]).items()
        if _FIRST <= int(code) <= _LAST
    }


def _syllable(pinyin: str) -> _Syllable:
    """Take a syllable apart, such as "zhāng"."""
    letters = unicodedata.normalize("NFD", pinyin)
    tone = next((_TONES[c] for c in letters if c in _TONES), "")
    plain = "".join(c for c in letters if c not in _TONES)
    plain = unicodedata.normalize("NFC", plain)
    match = _INITIAL.match(plain)
    initial = match[0] if match else ""
    return _Syllable(initial, plain[len(initial) :], tone)
