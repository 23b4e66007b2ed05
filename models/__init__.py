"""Models: the catalogue, finding one, predicting its memory, and the engine that turns PCM into
text.

The names below, and those of `models.fetching`, `models.processor`, and `prepared`, `blas` and
`simd` in `models.vosk`, are all that other packages may use. The engine itself is loaded by
`load_model`, so that nothing heavy is imported where no model is loaded.
"""

from models.catalog import CatalogEntry, catalog, catalog_entry
from models.contract import (
    DEFAULT_PROFILE,
    PROFILES,
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
from models.engines import (
    composes_its_graph,
    if_prepared,
    load_model,
    mapping_problem,
    predict,
    rescoring_folders,
    widths,
)
from models.language import language_of
from models.location import find_model, installed_models
from models.prediction import Part, Prediction, measured

__all__ = [
    "DEFAULT_PROFILE",
    "PROFILES",
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
    "composes_its_graph",
    "find_model",
    "if_prepared",
    "installed_models",
    "language_of",
    "load_model",
    "mapping_problem",
    "measured",
    "noise",
    "predict",
    "rescoring_folders",
    "warm_up_clips",
    "widths",
]


def warm_up_clips(language: str, sample_rate: int) -> list[bytes]:
    """Half a minute of synthetic speech, as `Model.warm` takes it."""
    from models.clips import clips_for, decode_clip

    return [decode_clip(clip, sample_rate) for clip in clips_for(language)]


def noise(seconds: float, sample_rate: int) -> bytes:
    """Plain noise, as `Model.warm` takes it; for engines without speech to warm up on."""
    from models import clips

    return clips.noise(seconds, sample_rate)
