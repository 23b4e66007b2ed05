"""Language of a model by its name, as a BCP 47 tag."""

import re

# The publisher writes country codes, and "cn" for Chinese; these are the codes that are not
# language codes by themselves.
_BCP47 = {
    "cn": "zh",
    "jp": "ja",
    "kr": "ko",
    "ua": "uk",
    "vn": "vi",
    "kz": "kk",
    "cz": "cs",
    "se": "sv",
    "gr": "el",
    "ge": "ka",
    "kg": "ky",
    "en-us": "en-US",
    "en-in": "en-IN",
    "ar-tn": "ar-TN",
    "tl-ph": "tl-PH",
    "fa-ir": "fa",
    "es-mx": "es-MX",
}

_NAME = re.compile(r"^vosk-model(?:-small)?-([a-z]{2,3}(?:-[a-z]{2}(?![a-z]))?)(?=-|$)")


def language_of(name: str) -> str:
    """Return the tag for a model named by its publisher (`vosk-model-small-cn-0.22`: "zh"), or
    "und", BCP 47's tag for undetermined."""
    match = _NAME.match(name)
    if match is None:
        return "und"
    code = match.group(1)
    return _BCP47.get(code, code)


def same_language(one: str, other: str) -> bool:
    """Return whether two BCP 47 tags are of one language, whatever their regions."""
    return one.partition("-")[0].lower() == other.partition("-")[0].lower()
