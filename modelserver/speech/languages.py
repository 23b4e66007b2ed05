"""Languages as programs and people name them: BCP 47 tags, POSIX locales, three-letter codes
(ISO 639-2 and 639-3) and English names."""

import re
from collections.abc import Iterable

from models import Abilities
from supervisor import counted

ENGLISH_NAMES = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "de": "german", "el": "greek", "en": "english",
    "eo": "esperanto", "es": "spanish", "fa": "persian", "fr": "french", "gu": "gujarati",
    "hi": "hindi", "it": "italian", "ja": "japanese", "kk": "kazakh", "ko": "korean",
    "nl": "dutch", "pl": "polish", "pt": "portuguese", "ru": "russian", "sv": "swedish",
    "te": "telugu", "tl": "tagalog", "tr": "turkish", "uk": "ukrainian", "uz": "uzbek",
    "vi": "vietnamese", "yue": "cantonese", "zh": "chinese",
}  # fmt: skip
"""Names by two-letter code; "yue" has none."""

_CODES = {name: code for code, name in ENGLISH_NAMES.items()} | {
    # Three letters, both of ISO 639-2's where it has two.
    "ara": "ar", "cat": "ca", "ces": "cs", "cze": "cs", "deu": "de", "ger": "de", "ell": "el",
    "gre": "el", "eng": "en", "epo": "eo", "spa": "es", "fas": "fa", "per": "fa", "pes": "fa",
    "fra": "fr", "fre": "fr", "guj": "gu", "hin": "hi", "ita": "it", "jpn": "ja", "kaz": "kk",
    "kor": "ko", "nld": "nl", "dut": "nl", "pol": "pl", "por": "pt", "rus": "ru", "swe": "sv",
    "tel": "te", "tgl": "tl", "fil": "tl", "tur": "tr", "ukr": "uk", "uzb": "uz", "uzn": "uz",
    "vie": "vi", "zho": "zh", "chi": "zh", "cmn": "zh",
    # What people write.
    "cn": "zh", "mandarin": "zh", "jp": "ja", "kr": "ko", "ua": "uk", "cz": "cs", "gr": "el",
    "vn": "vi", "farsi": "fa", "castilian": "es", "flemish": "nl", "filipino": "tl",
}  # fmt: skip
_UNKNOWN = "und"
"""Tag of a language that is not known (BCP 47)."""
_MANY = 12
"""Languages of a model that are counted, and not listed."""
_TAG = re.compile(r"[A-Za-z]{2,10}([-_][A-Za-z0-9]{1,8})*")
_LOCALE_END = re.compile(r"[.@].*", re.DOTALL)


def all_languages(own: str, abilities: Abilities | None) -> list[str]:
    """Return the tags of a model's languages, its own one first; "und" if none is known."""
    several = abilities.languages if abilities is not None else ()
    return list(dict.fromkeys((() if several and own == _UNKNOWN else (own,)) + several))


def languages_text(languages: list[str]) -> str:
    """Return the languages of a model for a person: their tags, or how many there are."""
    return " ".join(languages) if len(languages) < _MANY else counted(len(languages), "language")


def language_tag(text: str) -> str | None:
    """Return the BCP 47 tag, in lower case, of a language that is written in any of these ways:
    "zh_CN.UTF-8" and "cmn-CN" become "zh-cn". None where it is none of them."""
    wanted = _LOCALE_END.sub("", text.strip().lower())
    if not _TAG.fullmatch(wanted):
        return None
    primary, dash, rest = wanted.replace("_", "-").partition("-")
    return _CODES.get(primary, primary) + dash + rest


def primary_language(text: str) -> str:
    """Return the first part of the tag: "zh" of "zh_CN"."""
    return (language_tag(text) or text.lower()).partition("-")[0]


def closest_language(wanted: str, languages: Iterable[str]) -> str | None:
    """Return the one of the tags that means the language, or else that differs in its region
    only."""
    tags = list(languages)
    same = [tag for tag in tags if language_tag(tag) == language_tag(wanted)]
    alike = [tag for tag in tags if primary_language(tag) == primary_language(wanted)]
    return next(iter(same + alike), None) if wanted else None
