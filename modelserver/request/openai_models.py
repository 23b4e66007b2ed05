"""Models as clients of OpenAI's API name them."""

import re

from modelserver.serving.registry import ModelRegistry, UnknownModel
from modelserver.serving.served import ServedModel
from modelserver.settings.labels import DEFAULT_LABEL

_ANY_MODEL = re.compile(
    r"\b(auto|any|default|asr|stt|speech|best|latest\w*|tiny|base|small|medium|large|turbo|nano"
    r"|universal\w*|scribe|nova|enhanced|chirp|ink)\b"
    r"|whisper|gpt-(4o|audio|live|realtime|transcribe)|parakeet|canary|sensevoice|paraformer"
    r"|fun-?(asr|audio)|fireredasr|moonshine|voxtral|qwen\d?[\w.-]*(asr|audio|omni)|wav2vec|hubert"
    r"|seamless|zipformer|conformer|telespeech|dolphin|kimi-audio|citrinet|granite-speech"
    r"|phi-4-multimodal",
    re.IGNORECASE,
)
"""Pattern of names of models that clients send without meaning one: servers of this API use their
default in their place."""
_LONGEST_NAME = 200
"""A name that is longer is not searched, which could take long."""


def openai_name(served: ServedModel) -> str:
    """Return the name of a model for clients: its label, if the settings have given it one."""
    if served.label != DEFAULT_LABEL:
        return served.label
    return str(served.report().get("model") or served.label)


def openai_model(
    models: ModelRegistry, name: str | None, language: str | None
) -> tuple[ServedModel, list[str]]:
    """Return the model, and warnings about the choice. Raises `Refusal`."""
    try:
        return models.find(name, language), []
    except UnknownModel:
        if name is None or not _means_any(name):
            raise
    served = models.find(None, language)
    return served, [f"there is no model {name!r} here: {openai_name(served)} was used"]


def _means_any(name: str) -> bool:
    # With "vosk" in it, a model of Vosk's is meant and no other.
    if len(name) > _LONGEST_NAME or "vosk" in name.lower():
        return False
    return _ANY_MODEL.search(name.replace("_", "-")) is not None
