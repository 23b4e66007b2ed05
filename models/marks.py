"""Punctuation marks and case, copied from a punctuation model's answer to the original text.

A model may lose words, split numbers or change spaces. Only its marks and its case are used: the
letters of a text, and their order, stay as they were.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.scripts import FULL_WIDTH_SIGNS, UNSPACED

TOKENS_MOST = 2000
"""Words and characters of one text that get marks; the rest stays as it is."""

_TOKEN = re.compile(
    f"(\\s*)([{UNSPACED}]|[{FULL_WIDTH_SIGNS}]|[^\\s{UNSPACED}{FULL_WIDTH_SIGNS}]+)"
)
_CHARACTER = re.compile(f"[{UNSPACED}]")
_FULL_WIDTH = str.maketrans(",.?!", "，。？！")
_ASCII = str.maketrans("，。？！、", ",.?!,")
_MARKS = frozenset("，。？！、,.?!")
_ENDS = frozenset("。？！.?!")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a model's input. `tokens`: words, and characters of scripts without spaces;
    `letters`: of them all."""

    tokens: int
    letters: int


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    spaced: bool
    """True if there is a space before it."""
    spoken: str
    """Letters, digits and apostrophes of it, which the model is given."""


@dataclass(frozen=True, slots=True)
class _Written:
    """Token in a model's answer: its letters, and the mark behind it."""

    letters: str
    mark: str


def with_marks(text: str, ask: Callable[[str], str], limits: Limits, *, cases: bool) -> str:
    """Return the text with the marks that a model puts into it, and with its case if `cases`.

    `ask` returns a model's answer to some words, and is called once for each part of a long text.
    Marks are full-width if the text has Chinese characters. A word that has capitals keeps its own
    case, unless all words of the text are in capitals, as some models write them.
    """
    tokens = [
        _Token(match[2], bool(match[1]), "".join(filter(_is_spoken, match[2])))
        for match in _TOKEN.finditer(text.strip())
    ]
    caseless = cases and len(tokens) > 1 and text.isupper()
    asked = [token for token in tokens[:TOKENS_MOST] if token.spoken]
    spoken = [token.spoken.lower() if cases else token.spoken for token in asked]
    written = dict(zip(map(id, asked), _answers(spoken, ask, limits), strict=False))
    signs = _FULL_WIDTH if _CHARACTER.search(text) else _ASCII
    made, glued = "", True
    for token, after in zip(tokens, [*tokens[1:], None], strict=False):
        made += " " if token.spaced and not glued else ""
        glued = False
        if (answer := written.get(id(token))) is None:
            made += token.text
            continue
        recased = cases and (caseless or token.text == token.text.lower())
        recased = recased and len(answer.letters) == len(token.spoken)  # lower() may add some
        made += _recased(token.text, answer.letters) if recased else token.text
        followed = after is not None and not after.spoken and not after.spaced
        if answer.mark and _is_spoken(token.text[-1]) and not followed:
            made += answer.mark.translate(signs)
            glued = signs is _FULL_WIDTH
    return made


def _is_spoken(character: str) -> bool:
    return character.isalnum() or character in "'’"


def _recased(text: str, letters: str) -> str:
    written = iter(letters)
    return "".join(next(written) if _is_spoken(character) else character for character in text)


def _answers(spoken: Sequence[str], ask: Callable[[str], str], limits: Limits) -> list[_Written]:
    """Return the answers for the first tokens: for all of them, unless some of the model's answers
    are invalid.

    A part ends where the last sentence in it ends, so that the next one begins with a sentence.
    """
    done: list[_Written] = []
    while len(done) < len(spoken):
        part = _part(spoken, len(done), limits)
        found = _found(part, ask(_joined(part)))
        whole = len(done) + len(part) == len(spoken)
        if len(found) == len(part) and not whole:
            end = _last_end(found)
            found = found[:end] if end else [*found[:-1], _Written(found[-1].letters, "")]
        if not found:
            break
        done += found
    return done


def _last_end(found: Sequence[_Written]) -> int:
    """Return how many words of a part come before the end of its last sentence, or else clause; 0
    if it has none. The mark behind the last word does not count: it is caused by the cut."""
    marked = [(n, one.mark) for n, one in enumerate(found[:-1], 1) if one.mark]
    ends = [n for n, mark in marked if mark in _ENDS]
    return max(ends or [n for n, _ in marked] or [0])


def _part(spoken: Sequence[str], start: int, limits: Limits) -> list[str]:
    part: list[str] = []
    letters = 0
    for word in spoken[start : start + limits.tokens]:
        letters += len(word)
        if part and letters > limits.letters:
            break
        part.append(word)
    return part


def _joined(part: Sequence[str]) -> str:
    """Return the tokens as one text, with spaces around words."""
    return re.sub(f"(?<=[{UNSPACED}]) (?=[{UNSPACED}])", "", " ".join(part))


def _found(part: Sequence[str], answer: str) -> list[_Written]:
    """Return the tokens of `part` as the answer has them: all, or the first ones if it has lost
    some; none if it has other words."""
    found: list[_Written] = []
    at = 0
    for word in part:
        letters = ""
        for letter in word:
            while at < len(answer) and answer[at].lower() != letter.lower():
                if answer[at] not in _MARKS and not answer[at].isspace():
                    return []
                at += 1
            if at == len(answer):
                return found
            letters += answer[at]
            at += 1
        mark = ""
        while at < len(answer) and (answer[at] in _MARKS or answer[at].isspace()):
            mark = mark or answer[at].strip()
            at += 1
        found.append(_Written(letters, mark))
    return found
