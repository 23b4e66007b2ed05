"""Words with times, from the tokens of a result and the time at which each of them starts.

| a model's tokens | meaning |
| --- | --- |
| `▁hello`, ` hello` | pieces; a blank in front begins a word (SentencePiece, BPE) |
| `hello`, `##lo`, `hel@@` | words; `##` continues the one before, `@@` is continued by the one
after |
| `你` | a character, which is a word |
| `<0xE4>` | a byte of a character |
| `ƌŋ` | bytes of characters, each as a printable character (byte-level BPE) |
| `<\\|zh\\|>` | a tag, which is not spoken |
"""

import codecs
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, pairwise

from models.contract import Word
from models.scripts import HAN, HIRAGANA, KATAKANA

_TAG = re.compile(r"<\|[^|]*\|>|<(?:unk|blk|blank|s|/s|sos/eos|eps|sil)>", re.IGNORECASE)
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
ALONE = re.compile(f"[{HAN}\u3005-\u3007{HIRAGANA}{KATAKANA}]")
"""Characters that are words: Han, Hiragana and Katakana."""


def _byte_names() -> dict[str, int]:
    """Return bytes by their names in byte-level BPE: printable ASCII is itself, the others are
    letters from U+0100 on, without those that Unicode normalisation would decompose."""
    letters = (chr(n) for n in count(0x100))
    kept = (c for c in letters if not unicodedata.decomposition(c).startswith("<"))
    others = [byte for byte in range(256) if not 0x20 <= byte < 0x7F]
    names = {chr(byte): byte for byte in range(0x20, 0x7F)}
    return names | dict(zip(islice(kept, len(others)), others, strict=True)) | {"▁": 0x20}


BYTE_NAMES = _byte_names()
"""Bytes by the names that byte-level BPE has for them."""


@dataclass(slots=True)
class _Spoken:
    """Word under construction; `probabilities` are logarithms, one for each of its tokens."""

    text: str
    start_s: float
    probabilities: list[float]


def words_of(
    text: str,
    tokens: Sequence[str],
    times: Sequence[float],
    *,
    start_s: float,
    end_s: float,
    log_probabilities: Sequence[float] = (),
) -> tuple[Word, ...]:
    """Return the words of a result.

    `text`: the whole result, as the engine joins it. `times`: seconds from `start_s` at which each
    token starts. `end_s`: latest end of the last word; both count from the start of the request's
    audio. Empty if there are not as many times as tokens.
    """
    if not tokens or len(tokens) != len(times):
        return ()
    scores = log_probabilities if len(log_probabilities) == len(tokens) else ()
    pieces = _pieces(text, tokens)
    words = _spoken(pieces, times, scores)
    starts = [min(start_s + word.start_s, end_s) for word in words] + [end_s]
    return tuple(
        Word(word.text, round(start, 3), round(max(start, end), 3), _confidence(word))
        for word, (start, end) in zip(words, pairwise(starts), strict=True)
    )


def _confidence(word: _Spoken) -> float | None:
    if not word.probabilities:
        return None
    mean = sum(word.probabilities) / len(word.probabilities)
    return round(math.exp(min(0.0, mean)), 4)


def _pieces(text: str, tokens: Sequence[str]) -> list[bytes]:
    """Return the UTF-8 bytes of each token, with the blanks between words."""
    plain = [_TAG.sub("", token) for token in tokens]
    pieces = [_plain_bytes(token) for token in _with_blanks(plain)]
    if _letters(pieces) != "".join(text.split()):
        try:
            named = [bytes(BYTE_NAMES[character] for character in token) for token in plain]
        except KeyError:
            return pieces
        if _letters(named) == "".join(text.split()):
            return named
    return pieces


def _letters(pieces: list[bytes]) -> str:
    return "".join(b"".join(pieces).decode("utf-8", "replace").split())


def _with_blanks(tokens: list[str]) -> list[str]:
    """Return the tokens with a blank in front of each that begins a word."""
    if any(token[:1] in ("▁", " ") for token in tokens):
        return [token.replace("▁", " ") for token in tokens]
    if not any(len(token) > 1 and token[0].isalpha() for token in tokens):
        return tokens
    blank, spaced = " ", []
    for token in tokens:
        goes_on = token.startswith("##") or _BYTE.fullmatch(token)
        spaced.append(("" if goes_on else blank) + token.removeprefix("##").removesuffix("@@"))
        blank = "" if token.endswith("@@") else " "
    return spaced


def _plain_bytes(token: str) -> bytes:
    match = _BYTE.fullmatch(token.strip())
    return bytes([int(match[1], 16)]) if match else token.encode()


def _characters(pieces: list[bytes]) -> Iterator[tuple[str, int]]:
    """Yield the characters, each with the number of the token in which it begins."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    begun = 0
    for number, piece in enumerate(pieces):
        for byte in piece:
            if not decoder.getstate()[0]:
                begun = number
            for character in decoder.decode(bytes([byte])):
                yield character, begun
    for character in decoder.decode(b"", final=True):
        yield character, begun


def _spoken(pieces: list[bytes], times: Sequence[float], scores: Sequence[float]) -> list[_Spoken]:
    words: list[_Spoken] = []
    last, between = -1, True
    for character, number in _characters(pieces):
        if character.isspace():
            between = True
            continue
        alone = bool(ALONE.match(character))
        new = between or alone
        if new:
            words.append(_Spoken("", times[number], []))
        words[-1].text += character
        if scores and (new or number != last):
            words[-1].probabilities.append(scores[number])
        last, between = number, alone
    return words
