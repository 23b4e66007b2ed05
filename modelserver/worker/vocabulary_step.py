"""Vocabulary step of one language, and its work on a list of keywords.

Words are compared by pronunciation. Common words of the language stay, whatever they sound like,
and so do numbers.
"""

from collections.abc import Iterable
from itertools import groupby, islice

from modelserver.worker.text_steps import TextStep
from modelserver.worker.vocabulary_chinese import ChineseMatcher, load_readings
from modelserver.worker.vocabulary_common import common_words
from modelserver.worker.vocabulary_match import Found, WordMatcher

_MOST_KEYWORDS = 2000
"""Keywords that are looked for, a request's and the model's: the first ones."""
_CHINESE = ("zh", "cn", "cmn", "yue")
_OTHER_ALPHABET = (*_CHINESE, "ja", "ko", "ru", "uk", "bg", "sr", "mk", "el", "he", "ar", "fa")
"""Languages whose texts have English words as they are written in English."""


class Vocabulary:
    """The step for a language; it changes nothing until it has keywords."""

    def __init__(self, primary: str) -> None:
        self._primary = primary
        self._common = common_words(primary, *(["en"] if primary in _OTHER_ALPHABET else []))
        if primary in _CHINESE:
            load_readings()

    def __call__(self, text: str) -> str:
        """Return the text as it is."""
        return text

    def with_keywords(self, keywords: Iterable[str]) -> TextStep:
        """Return the step that writes these keywords."""
        texts = [" ".join(text.split()) for text in islice(keywords, _MOST_KEYWORDS)]
        matchers: list[WordMatcher | ChineseMatcher]
        matchers = [WordMatcher(self._primary, texts, self._common)]
        if self._primary in _CHINESE:
            matchers.append(ChineseMatcher(texts, self._common))

        def corrected(text: str) -> str:
            return _replaced(text, [one for matcher in matchers for one in matcher.find(text)])

        return corrected


def _replaced(text: str, found: Iterable[Found]) -> str:
    """Write the keywords that were found, the best first; two that cannot be told apart are not."""
    chosen = dict[tuple[int, int], str]()
    free = bytearray(b"\1" * len(text))
    for (_, start, end), alike in groupby(sorted(found, key=_order), key=_order):
        if all(free[start:end]):
            free[start:end] = bytes(end - start)
            keywords = {one.keyword for one in alike}
            if len(keywords) == 1:
                chosen[start, end] = keywords.pop()
    pieces, before = list[str](), 0
    for (start, end), keyword in sorted(chosen.items()):
        pieces += text[before:start], _cased(text[start:end], keyword)
        before = end
    return "".join([*pieces, text[before:]])


def _order(found: Found) -> tuple[tuple[float, ...], int, int]:
    return found.rank, found.start, found.end


def _cased(there: str, keyword: str) -> str:
    """Return the keyword; one without capitals keeps the capital that a sentence begins with."""
    if keyword == keyword.lower() and there[:1].isupper():
        return there if there.lower() == keyword else keyword[:1].upper() + keyword[1:]
    return keyword
