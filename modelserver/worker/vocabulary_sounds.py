"""Sounds of words in alphabets, by rules of spelling: Latin, Cyrillic, Hangul and kana.

All scripts are mapped to the same letters, so that a Latin keyword is found in a text that has it
in the script of the language (Kubernetes, кубернетес, 쿠버네티스, クバネティス).
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

_Rules = tuple[tuple[str, str], ...]

_ENGLISH: _Rules = (
    (r"^(?:pf|ph)|ph", "f"),
    (r"^ps", "s"),
    (r"^(?:kn|gn|ngh?)", "n"),
    (r"^wr", "r"),
    (r"^x|^cz|z", "z"),
    (r"tch|ch|cz", "C"),
    (r"sch|sh|(?<=.)(?:ti|ci|si)(?=on|ou|al)", "S"),
    (r"th", "t"),
    (r"wh", "w"),
    (r"dge|dg|j", "J"),
    (r"(?<=[aeiou])gh(?=t|$)", ""),
    (r"gh", "g"),
    (r"(?<=[aeiou])h(?![aeiou])", ""),
    (r"g(?=[eiy])", "J"),
    (r"qu", "kw"),
    (r"sc(?=[eiy])|c(?=[eiy])|ss", "s"),
    (r"ck|cc|c|q|kh", "k"),
    (r"x", "ks"),
    (r"(?<=[^aeiouy].)e$|(?<=[aeiou].)e$", ""),
    (r"ee|ea|ie|y", "i"),
    (r"oo|ou|ue|ew", "u"),
    (r"ai|ay|ei|ey", "e"),
    (r"au|oa|[ao]w(?![aeiou])", "o"),
)
_GERMAN: _Rules = (
    (r"tsch", "C"),
    (r"sch|^s(?=[pt])", "S"),
    (r"ph|v", "f"),
    (r"th|dt", "t"),
    (r"tz|z", "ts"),
    (r"w", "v"),
    (r"qu", "kv"),
    (r"x|chs", "ks"),
    (r"ch|ck|c|q", "k"),
    (r"(?<=[aeiou])h", ""),
    (r"ie|y|j", "i"),
    (r"ei|ai|ey|ay", "ai"),
    (r"eu|oi", "oi"),
)
_FRENCH: _Rules = (
    (r"eaux?|aux?", "o"),
    (r"oi", "wa"),
    (r"ou", "u"),
    (r"ch|sh", "S"),
    (r"ph", "f"),
    (r"gn", "n"),
    (r"gu(?=[ei])", "g"),
    (r"g(?=[eiy])|j", "J"),
    (r"c(?=[eiy])|ss", "s"),
    (r"cqu?|ck|qu|c|q", "k"),
    (r"x(?=.)", "ks"),
    (r"h", ""),
    (r"(?:(?<=..)es?|(?<=..)[sxtdpz]+)$", ""),
    (r"ai|ei", "e"),
    (r"(?:e|a)[nm](?=[^aeiou])", "an"),
    (r"(?:ai|ei|i)[nm](?=[^aeiou])", "in"),
    (r"y", "i"),
)
_SPANISH: _Rules = (
    (r"ch", "C"),
    (r"ll", "i"),
    (r"ph", "f"),
    (r"qu", "k"),
    (r"gu(?=[ei])", "g"),
    (r"g(?=[ei])|j", "J"),
    (r"h", ""),
    (r"v|w(?=[^aeiou])", "b"),
    (r"z|c(?=[ei])", "s"),
    (r"ck|c|q", "k"),
    (r"x", "ks"),
    (r"y", "i"),
)
_OTHER: _Rules = (
    (r"ph", "f"),
    (r"th", "t"),
    (r"sh|sch|sz", "S"),
    (r"ch|cz|tsch", "C"),
    (r"qu", "kw"),
    (r"c(?=[eiy])", "s"),
    (r"ck|c|q", "k"),
    (r"x", "ks"),
    (r"w", "v"),
    (r"y|j", "i"),
)
# Japanese and Korean write English words as they are spoken in Britain.
_EASTERN: _Rules = (*_ENGLISH, (r"(?<=[aeiou])r(?![aeiou])", ""))
_BY_LANGUAGE = {"de": _GERMAN, "fr": _FRENCH, "es": _SPANISH}
_BY_LANGUAGE |= dict.fromkeys(("en", "zh", "cn", "cmn", "yue", "ru", "uk"), _ENGLISH)
_BY_LANGUAGE |= dict.fromkeys(("ko", "ja"), _EASTERN)

_LETTERS = {
    old: new
    for letters, sounds in (
        ("абвгдезийклмнопрстуфхыэіґє", "a b v g d e z i i k l m n o p r s t u f h i e i g e"),
        ("жцчшщюяёїъь", "J ts C S S iu ia io i  "),
        ("ßæœøłđðþıäñ", "ss e e o l d d t i e n"),
    )
    for old, new in zip(letters, sounds.split(" "), strict=True)
}
"""Cyrillic letters, and the Latin ones that are not a letter with an accent."""

# Of the syllables of Hangul, in the order of Unicode. ㅡ is what Korean adds between consonants.
_INITIALS = "g k n d t r m b p s s . J J C k t p h".replace(".", "").split(" ")
_MEDIALS = "a e ia ie y e iy ie o wa we we io u wy we wi iu . i i".replace(".", "").split(" ")
_FINALS = ". g g gs n nJ nh d r rg rm rb rs rt rp rh m b bs s s n J C k t p h".replace(
    ".", ""
).split(" ")

_KANA = {"si": "Si", "ti": "Ci", "tu": "tsu", "hu": "fu", "zi": "Ji", "di": "Ji", "du": "zu"}
_ADDED_VOWEL = re.compile(r"(?:(?<=[^aeiou])u|(?<=[td])o)$")
"""Vowels that Japanese adds to a consonant at the end of a word."""
_FIRST_W = re.compile(r"^u(?=[ieo])")

_COARSE = str.maketrans("aeiouybdgvwzCS", "aaaaaaptkffsJs")
_COARSE_EAST = _COARSE | str.maketrans("lvfCJ", "rppss")
"""Japanese and Korean have one sound for l and r, and write v and f with b and p."""
_RUNS = re.compile(r"(.)\1+")


class Sounds(NamedTuple):
    """Sounds of a word or of several, a letter for each. Capitals are sounds that are spelled with
    several letters."""

    fine: str = ""
    coarse: str = ""
    """Classes of sounds: one for all vowels, one for voiced and voiceless consonants of a kind."""

    def __add__(self, other: "Sounds") -> "Sounds":  # type: ignore[override]
        """Return the sounds of two words in one."""
        same = self.coarse[-1:] == other.coarse[:1]
        return Sounds(self.fine + other.fine, self.coarse + other.coarse[same:])


@cache
def sounds_of(primary: str) -> Callable[[str], Sounds]:
    """Return the function that maps a word of a language (a primary subtag) to its sounds."""
    rules = [(re.compile(old), new) for old, new in _BY_LANGUAGE.get(primary, _OTHER)]
    table = _COARSE_EAST if primary in ("ja", "ko") else _COARSE

    @lru_cache(maxsize=4096)
    def sounds(word: str) -> Sounds:
        fine = _spoken(word.lower(), rules)
        return Sounds(fine, _RUNS.sub(r"\1", fine.translate(table)))

    return sounds


def _spoken(word: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    if "\u3041" <= word[:1] <= "\u30fc":
        return _RUNS.sub(r"\1", _kana(word))
    spelled = "".join(map(_letters, unicodedata.normalize("NFC", word)))
    if not unicodedata.name(word[:1] or " ", "").startswith("LATIN"):
        return spelled
    for old, new in rules:
        spelled = old.sub(new, spelled)
    return _RUNS.sub(r"\1", spelled)


def _letters(character: str) -> str:
    if "a" <= character <= "z":
        return character
    if "가" <= character <= "힣":
        syllable, final = divmod(ord(character) - ord("가"), len(_FINALS))
        initial, medial = divmod(syllable, len(_MEDIALS))
        return _INITIALS[initial] + _MEDIALS[medial] + _FINALS[final]
    mapped = _LETTERS.get(character)
    if mapped is not None:
        return mapped
    return "".join(c for c in unicodedata.normalize("NFKD", character) if c.isalpha())


def _kana(word: str) -> str:
    syllables = [""]
    for character in unicodedata.normalize("NFKC", word):
        *kind, letter = unicodedata.name(character, "").split(" ")
        syllable = letter.lower()
        if kind[-1:] == ["LETTER"]:
            syllables.append(_KANA.get(syllable, syllable))
        elif kind[-1:] == ["SMALL"] and syllable in ("ya", "yu", "yo"):
            syllables.append(syllable[1:])
        elif kind[-1:] == ["SMALL"] and syllable != "tu":
            # ファ is fu with another vowel, ウィ a consonant of its own.
            syllables[-1] = "w" if syllables[-1] == "u" else syllables[-1][:-1]
            syllables.append(syllable)
    return _FIRST_W.sub("w", _ADDED_VOWEL.sub("", "".join(syllables)))
