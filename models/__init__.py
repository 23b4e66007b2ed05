"""Models: the catalogue, finding one, predicting its memory, and the engine that turns PCM into
text.

Other packages use the names below, and the modules `fetching`, `leftovers`, `processor` and
`scripts`. An engine's package is used through its `Engine` only. The engine itself is loaded by
`Engine.load`: nothing heavy is imported where no model is loaded.
"""

from models.catalog import (
    CatalogEntry,
    ErrorRate,
    catalog,
    catalog_entry,
    language_tag,
    punctuation_catalog,
)
from models.contract import (
    DEFAULT_PROFILE,
    PROFILES,
    Abilities,
    Alternative,
    Model,
    ModelError,
    ModelLocation,
    Partial,
    RecognitionOptions,
    Recognizer,
    Utterance,
    Word,
)
from models.engine import (
    Engine,
    EngineSettings,
    Finding,
    Form,
    Improvement,
    PreparationNeeds,
    Prepared,
    PreparedStore,
    Preparing,
    Progress,
    Requirement,
)
from models.engines import (
    content_problem,
    engine_named,
    engine_of,
    installed_engines,
    load_punctuator,
    punctuation_problem,
)
from models.language import language_of, same_language
from models.location import find_model, find_punctuation, installed_models, installed_punctuation
from models.prediction import Part, Prediction, measured
from models.punctuation import PunctuationModel, Punctuator
from models.recommending import Candidate, Recommendation, recommend
from models.steps import run_steps

__all__ = [
    "DEFAULT_PROFILE",
    "PROFILES",
    "Abilities",
    "Alternative",
    "Candidate",
    "CatalogEntry",
    "Engine",
    "EngineSettings",
    "ErrorRate",
    "Finding",
    "Form",
    "Improvement",
    "Model",
    "ModelError",
    "ModelLocation",
    "Part",
    "Partial",
    "Prediction",
    "PreparationNeeds",
    "Prepared",
    "PreparedStore",
    "Preparing",
    "Progress",
    "PunctuationModel",
    "Punctuator",
    "RecognitionOptions",
    "Recognizer",
    "Recommendation",
    "Requirement",
    "Utterance",
    "Word",
    "catalog",
    "catalog_entry",
    "content_problem",
    "engine_named",
    "engine_of",
    "find_model",
    "find_punctuation",
    "installed_engines",
    "installed_models",
    "installed_punctuation",
    "language_of",
    "language_tag",
    "load_punctuator",
    "measured",
    "noise",
    "punctuation_catalog",
    "punctuation_problem",
    "recommend",
    "run_steps",
    "same_language",
    "warm_up_clips",
]


def warm_up_clips(language: str, sample_rate: int, *, shortest: bool = False) -> list[bytes]:
    """Return half a minute of synthetic speech in a language, in clips as `Model.warm` takes them;
    or its shortest clip alone."""
    from models.clips import clips_for, decode_clip

    clips = clips_for(language)
    if shortest:
        clips = [min(clips, key=lambda clip: clip.stat().st_size)]
    return [decode_clip(clip, sample_rate) for clip in clips]


def noise(seconds: float, sample_rate: int) -> bytes:
    """Return plain noise, as `Model.warm` takes it; for languages without bundled speech."""
    from models import clips

    return clips.noise(seconds, sample_rate)
