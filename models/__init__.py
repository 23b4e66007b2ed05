"""Models: the catalogue, finding one, predicting its memory, and the engine that turns PCM into
text.

Other packages use the names below, and the modules `fetching` and `processor`. Until an engine says
for itself how its models are chosen and loaded, `modelserver` also uses modules of `models.vosk`.
The engine itself is loaded by `load_model`: nothing heavy is imported where no model is loaded.
"""

from models.catalog import CatalogEntry, catalog, catalog_entry
from models.contract import (
    DEFAULT_PROFILE,
    PROFILES,
    Abilities,
    Alternative,
    LiveRecognizer,
    Model,
    ModelError,
    ModelLocation,
    Partial,
    RecognitionOptions,
    Recognizer,
    Utterance,
    Word,
)
from models.engines import load_model, predict
from models.language import language_of
from models.location import find_model, installed_models
from models.prediction import Part, Prediction, measured

__all__ = [
    "DEFAULT_PROFILE",
    "PROFILES",
    "Abilities",
    "Alternative",
    "CatalogEntry",
    "LiveRecognizer",
    "Model",
    "ModelError",
    "ModelLocation",
    "Part",
    "Partial",
    "Prediction",
    "RecognitionOptions",
    "Recognizer",
    "Utterance",
    "Word",
    "catalog",
    "catalog_entry",
    "find_model",
    "installed_models",
    "language_of",
    "load_model",
    "measured",
    "noise",
    "predict",
    "warm_up_clips",
]


def warm_up_clips(language: str, sample_rate: int) -> list[bytes]:
    """Half a minute of synthetic speech, as `Model.warm` takes it."""
    from models.clips import clips_for, decode_clip

    return [decode_clip(clip, sample_rate) for clip in clips_for(language)]


def noise(seconds: float, sample_rate: int) -> bytes:
    """Plain noise, as `Model.warm` takes it; for engines without speech to warm up on."""
    from models import clips

    return clips.noise(seconds, sample_rate)
