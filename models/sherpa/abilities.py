"""What a model for sherpa-onnx can do, by its layout; known before it is loaded."""

from models.contract import Abilities
from models.sherpa.layout import Layout

_WITHOUT_TIMES = frozenset((
    "whisper", "canary", "cohere", "fire_red_asr", "moonshine", "moonshine_v2", "qwen3_asr",
    "funasr_nano", "paraformer", "online_paraformer",
))  # fmt: skip
"""Kinds that give no time for each token, or only some models of which do."""
_CHOOSES_LANGUAGE = frozenset(("whisper", "canary", "cohere"))
"""Kinds whose language can be set for each utterance: `models.sherpa.decoding`. The others that
know several languages are told one when they are loaded, or none."""


def abilities_of(layout: Layout) -> Abilities:
    """Return what its recognisers can do."""
    chooses = layout.kind.name in _CHOOSES_LANGUAGE
    return Abilities(
        streaming=layout.streaming,
        words=layout.kind.name not in _WITHOUT_TIMES,
        confidences=layout.kind.transducer,
        alternatives=False,
        phrases="no",
        languages=layout.languages if chooses else (),
        detects_language=layout.detects_language,
        written=layout.written,
        longest_s=layout.longest_s,
    )
