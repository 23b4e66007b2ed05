"""Keywords out of a prompt, as OpenAI's APIs have it: a list of words, or prose with names in it.

A prompt is a list if commas, semicolons, line ends or the like divide it into short parts, none of
which is a sentence; each part is a keyword. A label before it ("Glossary: ...") is left out. Of
prose only what is clearly a term is taken: what stands in quotation marks, words with capitals or
digits inside (ModelServer, GPT-4), abbreviations (NASA), and capitalised words within a sentence,
several in a row as one (Zaphod Beeblebrox). Scripts without capitals have quotation marks only.
"""

import re
from collections.abc import Iterator

from models.scripts import HAN, KANA, THAI_AND_LAO
from modelserver.speech.phrases import usable_keywords

_MOST_LETTERS = 4000
"""Letters of a prompt that are read."""
_BETWEEN = re.compile(r"[,;\n，、；،؛•|]")
_LABEL = re.compile(r"\s*(?:\w+ ){0,2}\w+[:：]\s")
_BULLET = re.compile(r"^\s*(?:[-*•–]|\d{1,3}[.)])\s+")
_SENTENCE = re.compile(r"[.!?…]\s|[。！？]|[.!?]$")
_LISTED_LETTERS, _LISTED_WORDS = 40, 4
"""Most letters and words of a part of a list."""
_CONNECTED_LETTERS = 12
"""Length of a part in scripts without spaces, where a sentence may be one part."""
_CONNECTED = re.compile(f"[{HAN}{KANA}{THAI_AND_LAO}]")
_QUOTED = re.compile(
    '["“”„«`]([^"“”„«»`\n]{1,60})["“”»`]|「([^」\n]{1,60})」|『([^』\n]{1,60})』|《([^》\n]{1,60})》'
)
_WORD = re.compile(r"[^\W_](?:[\w&+#]|[-.'’/](?=\w))*")
_JOINS = (" ", "-")


def keywords_of(prompt: str) -> tuple[str, ...]:
    """Return the keywords of a prompt; none where nothing in it is clearly one."""
    text = prompt[:_MOST_LETTERS].strip()
    listed = _list(text)
    return usable_keywords(_terms(text) if listed is None else listed)


def _list(text: str) -> list[str] | None:
    """Return the parts of a list; None if it is prose."""
    if (label := _LABEL.match(text)) is not None:
        text = text[label.end() :]
    text = text.strip().removesuffix(".").removesuffix("。")
    parts = [_BULLET.sub("", part).strip(" \t\r\"'“”«»「」`") for part in _BETWEEN.split(text)]
    parts = [part for part in parts if part]
    if len(parts) == 1 and len(parts[0].split()) > 1 and label is None:
        return None
    return parts if all(map(_is_listed, parts)) else None


def _is_listed(part: str) -> bool:
    longest = _CONNECTED_LETTERS if _CONNECTED.search(part) else _LISTED_LETTERS
    return (
        len(part) <= longest
        and len(part.split()) <= _LISTED_WORDS
        and _SENTENCE.search(part) is None
    )


def _terms(text: str) -> Iterator[str]:
    for found in _QUOTED.finditer(text):
        yield next(filter(None, found.groups())).strip()
    together, end = "", -1
    starts = True
    for found in _WORD.finditer(text):
        between = text[max(end, 0) : found.start()]
        starts = end < 0 or re.search(r"[.!?:。！？：\n]", between) is not None
        word = found[0]
        wanted = _is_marked(word) or (_is_capitalised(word) and not starts)
        if together and not (wanted and between in _JOINS):
            yield together
            together = ""
        if wanted:
            together = f"{together}{between}{word}" if together else word
        end = found.end()
    if together:
        yield together


def _is_capitalised(word: str) -> bool:
    return len(word) > 1 and word[0].isupper() and word[1] not in "'’"


def _is_marked(word: str) -> bool:
    """Return whether capitals or digits inside a word tell a term, wherever it stands."""
    letters = [letter for letter in word if letter.isalpha()]
    if len(letters) < 2:
        return False
    inner = any(letter.isupper() for letter in word[1:] if letter.isalpha())
    return inner or any(letter.isdigit() for letter in word)
