"""Keywords in the words of a text: by their letters, and by their sounds."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from models.scripts import COMBINING, HAN, HANGUL, HIRAGANA, KATAKANA
from modelserver.worker.vocabulary_common import CommonWords
from modelserver.worker.vocabulary_sounds import Sounds, sounds_of

_KATAKANA = f"{KATAKANA}\u30fc-\u30ff"
_UNSPACED = f"{HIRAGANA}{HAN}"
_WORD = re.compile(
    rf"\d+|\b(?:[^\W\d_]\.){{2,}}|[{HANGUL}]+|[{_KATAKANA}]+|[{_UNSPACED}]"
    rf"|(?:(?![{HANGUL}{_KATAKANA}{_UNSPACED}])[^\W\d_]|[{COMBINING}])+"
)
"""A number, letters with dots (A.I.), a word of one script, or a character of a script without
spaces."""
_HANGUL_LETTER = re.compile(f"[{HANGUL}]")
_WITH_SOUND = re.compile(f"[a-z\u00df-\u024f\u0400-\u052f\u1e00-\u1eff{HANGUL}{_KATAKANA}]")
"""Scripts whose sounds are known: Latin, Cyrillic, Hangul, and katakana."""
_ALL_UNSPACED = re.compile(f"[{_UNSPACED}]+")
"""Keywords without case and spaces: nothing is to be done where their letters are."""
_BETWEEN = re.compile(r"[ \t\u3000'’\-‐・·]?")
"""Separators of the parts of a keyword that the recogniser has split."""
_INSIDE = re.compile(r"[ \t\u3000'’\-‐・·.&+/_]{0,2}")
"""Separators of the words of a keyword."""

_MOST_WORDS = 12
_MOST_LETTERS = 80
_PARTS = 3
"""Words more than a keyword has."""
_SHORTEST = 4
"""Sounds of a keyword that is found by its sounds."""
_MOST_STEPS = 30_000
"""Windows and comparisons for one text; what follows in the text stays as it was."""

_PARTICLES = (
    *("으로부터", "에서부터", "이라고", "에서는", "에게서", "이에요", "입니다", "이라는", "으로는"),
    *(
        "에서도",
        "까지는",
        "부터",
        "까지",
        "에서",
        "에게",
        "한테",
        "처럼",
        "보다",
        "으로",
        "이랑",
        "하고",
    ),
    *(
        "이나",
        "이라",
        "라고",
        "라는",
        "예요",
        "이고",
        "에는",
        "에도",
        "로는",
        "밖에",
        "마저",
        "조차",
    ),
    *(
        "씨가",
        "씨는",
        "님이",
        "님은",
        "은",
        "는",
        "이",
        "가",
        "을",
        "를",
        "의",
        "에",
        "로",
        "와",
        "과",
    ),
    *("도", "만", "랑", "나", "야", "아", "씨", "님"),
)
"""Korean endings that are written together with a name."""


@dataclass(frozen=True, slots=True)
class Found:
    """A keyword in a text, from `start` to `end`."""

    start: int
    end: int
    keyword: str
    rank: tuple[float, ...]
    """Order of keywords that overlap: the one with the smallest rank is right."""


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    """Letters, in lower case."""
    start: int
    end: int
    split: bool
    """True if it may be a part of the same word as the one before."""
    inside: bool
    """True if it may belong to the same keyword as the word before."""
    sounds: bool
    """True if it may be a part of a keyword that sounds the same."""


@dataclass(frozen=True, slots=True)
class _Keyword:
    text: str
    words: tuple[str, ...]
    letters: str
    sounds: Sounds
    allowed: float
    """Distance at which it is still recognised: the mean of the differences of sounds and of the
    differences of their classes."""


class WordMatcher:
    """Finds the keywords of one list."""

    def __init__(self, language: str, keywords: Iterable[str], common: CommonWords) -> None:
        """Match keywords. `language`: a primary subtag."""
        self._sounds = sounds_of(language)
        self._common = common
        self._particles = _PARTICLES if language == "ko" else ()
        self._exact: dict[str, _Keyword] = {}
        self._alike: dict[tuple[str, str, int], list[_Keyword]] = defaultdict(list)
        self._most_words = self._longest = self._longest_sounds = 0
        for text in keywords:
            self._add(text)

    def _add(self, text: str) -> None:
        spelled = _words(text[: 2 * _MOST_LETTERS])
        words = tuple(word.text for word in spelled)
        letters = "".join(words)
        if letters in self._exact or not _plain(text) or _ALL_UNSPACED.fullmatch(letters):
            return
        if len(words) > _MOST_WORDS or len(letters) > _MOST_LETTERS:
            return
        sounds = sum(map(self._sounds, words), Sounds())
        keyword = _Keyword(text, words, letters, sounds, _allowed(letters, sounds.fine))
        self._exact[letters] = keyword
        self._longest = max(self._longest, len(letters))
        self._most_words = max(self._most_words, len(words))
        if len(sounds.fine) < _SHORTEST or not all(word.sounds for word in spelled):
            return
        coarse, slack = sounds.coarse, int(keyword.allowed)
        self._longest_sounds = max(self._longest_sounds, len(coarse) + slack)
        for length in range(len(coarse) - slack, len(coarse) + slack + 1):
            self._alike[coarse[0], coarse[-1], length].append(keyword)

    def find(self, text: str) -> Iterator[Found]:
        """Yield the keywords of a text; they may overlap."""
        words = _words(text)
        endings = [tuple(self._endings(word.text)) for word in words]
        steps = 0
        for first in range(len(words)):
            letters, sounds, split = "", Sounds(), True
            for last in range(first, min(len(words), first + self._most_words + _PARTS)):
                word = words[last]
                if steps > _MOST_STEPS or (last > first and not word.inside):
                    break
                split &= (last == first or word.split) and word.sounds
                for ending in endings[last]:
                    steps += 1
                    exact = self._exact.get(letters + ending)
                    spoken = sounds + self._sounds(ending) if split and not exact else Sounds()
                    coarse = spoken.coarse
                    near = self._alike.get((coarse[:1], coarse[-1:], len(coarse)), ())
                    if not exact and not near:
                        continue
                    steps += len(near)
                    window = [*(w.text for w in words[first:last]), ending]
                    span = words[first].start, word.end - len(word.text) + len(ending)
                    if exact and self._meant(window, exact):
                        yield Found(*span, exact.text, (0, -len(exact.letters)))
                    elif (alike := self._nearest(window, spoken, near)) is not None:
                        yield Found(*span, alike[1].text, (1, -len(alike[1].letters), alike[0]))
                letters += word.text
                sounds = sounds + self._sounds(word.text) if split else sounds
                split &= len(sounds.coarse) <= self._longest_sounds
                if len(letters) > self._longest and not split:
                    break

    def _endings(self, word: str) -> Iterator[str]:
        yield word
        for particle in self._particles:
            if word.endswith(particle) and len(word) >= len(particle) + 2:
                yield word[: -len(particle)]

    def _meant(self, window: list[str], keyword: _Keyword) -> bool:
        """Return whether a window with the letters of a keyword is one: "IT" is not every it, but
        single letters have been spelled."""
        if len(window) == 1 or tuple(window) != keyword.words:
            spelled = len(window) > 1 and all(len(word) == 1 for word in window)
            return spelled or not all(word in self._common.function for word in window)
        return True

    def _known(self, word: str) -> bool:
        return any(form in self._common.common for form in self._endings(word))

    def _nearest(
        self, window: list[str], spoken: Sounds, keywords: Iterable[_Keyword]
    ) -> tuple[float, _Keyword] | None:
        """Return the keyword that sounds most like the window, and its distance."""
        found: list[tuple[float, _Keyword]] = []
        for keyword in keywords:
            most = int(2 * keyword.allowed)
            meant = keyword.sounds
            distance = Levenshtein.distance(spoken.fine, meant.fine, score_cutoff=most)
            if distance > most or not _same_end(spoken.fine, meant.fine):
                continue
            distance += Levenshtein.distance(spoken.coarse, meant.coarse)
            if distance / 2 <= self._allowed_in(window, spoken.fine, keyword):
                found.append((distance / 2, keyword))
        found.sort(key=lambda one: one[0])
        if len(found) > 1 and found[0][0] == found[1][0]:
            return None  # two keywords that cannot be told apart
        return found[0] if found else None

    def _allowed_in(self, window: list[str], fine: str, keyword: _Keyword) -> float:
        """Return the distance at which a window may still be the keyword; negative: at none."""
        known = list(map(self._known, window))
        if len(window) == len(keyword.words):
            for word, common, meant in zip(window, known, keyword.words, strict=True):
                if common and word != meant and self._sounds(word) != self._sounds(meant):
                    return -1
        if not keyword.allowed and len("".join(window)) != len(keyword.letters):
            return -1
        functional = not self._common.function.isdisjoint({*window}.difference(keyword.words))
        if all(known):
            return 0 if len(window) > 1 and len(fine) >= 6 and not functional else -1
        return keyword.allowed - functional


def _allowed(letters: str, fine: str) -> float:
    if len(letters) <= 3 and _HANGUL_LETTER.match(letters):
        return 0  # names of three syllables: one sound is another person
    return max(0, len(fine) - 3) / 5


def _plain(keyword: str) -> bool:
    """Return whether a keyword begins and ends with a letter or a digit: of others (C++, .NET)
    signs would be written that were not said."""
    return keyword[:1].isalnum() and keyword[-1:].isalnum()


def _same_end(one: str, other: str) -> bool:
    """Return whether the last sound is the same: other vowels there make another form or name."""
    return one[-1] == other[-1] or one[-1] not in "aeiou"


def _words(text: str) -> list[_Word]:
    words, before = list[_Word](), 0
    for match in _WORD.finditer(text):
        between = text[before : match.start()] if words else ""
        split, inside = (bool(rule.fullmatch(between)) for rule in (_BETWEEN, _INSIDE))
        before = match.end()
        letters = match[0].lower().replace(".", "")
        sounds = len(letters) <= _MOST_LETTERS and bool(_WITH_SOUND.match(letters))
        words.append(_Word(letters, match.start(), before, split, inside, sounds))
    return words
