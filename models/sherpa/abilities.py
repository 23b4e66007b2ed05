"""Abilities and languages of a model for sherpa-onnx, by its layout: known before loading."""

from models.contract import Abilities
from models.sherpa.layout import Layout

_WITHOUT_TIMES = frozenset((
    "whisper", "canary", "cohere", "fire_red_asr", "moonshine", "moonshine_v2", "qwen3_asr",
    "funasr_nano", "paraformer", "online_paraformer",
))  # fmt: skip
"""Kinds that give no time for each token, or of which only some models do."""
_CHOOSES_LANGUAGE = frozenset(("whisper", "canary", "cohere"))
"""Kinds whose language can be set for each utterance: `models.sherpa.decoding`."""


def abilities_of(layout: Layout, *, keywords: bool = False) -> Abilities:
    """Return the abilities of its recognisers. `keywords`: it is loaded with the search that
    prefers them."""
    return Abilities(
        streaming=layout.streaming,
        words=layout.kind.name not in _WITHOUT_TIMES,
        confidences=layout.kind.transducer,
        alternatives=False,
        phrases="no",
        keywords=keywords,
        languages=layout.languages,
        detects_language=layout.detects_language,
        written=layout.written,
        longest_s=layout.longest_s,
    )


def chooses_language(layout: Layout) -> bool:
    """Return whether a request can tell the model which language is spoken; other models detect
    it."""
    return layout.kind.name in _CHOOSES_LANGUAGE


def known_language(layout: Layout, language: str) -> str | None:
    """Return the model's own tag for a language, "zh" for "zh-CN"; None if it does not know it."""
    tags = {tag.lower(): tag for tag in layout.languages}
    wanted = language.lower()
    return tags.get(wanted) or tags.get(wanted.partition("-")[0])


def language_to_tell(layout: Layout, language: str, default: str) -> str:
    """Return the language that a model is given: that of the request (`language`), else of the
    model's location (`default`); empty if it is given none. Both may be empty."""
    if not chooses_language(layout) or not layout.languages:
        return ""
    for wanted in (language, default, "" if layout.detects_language else "en"):
        if wanted and (known := known_language(layout, wanted)):
            return known
    return "" if layout.detects_language else layout.languages[0]
