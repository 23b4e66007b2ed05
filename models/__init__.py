"""What is served: the catalogue, finding a model, predicting its memory, and the engine that turns
PCM into text.

The names below, and those of `models.fetching`, `models.processor`, and `prepared`, `blas` and
`simd` in `models.vosk`, are all that other packages may use. The engine itself is loaded by
`load_model`, so that nothing heavy is imported where no model is loaded.
"""

from collections.abc import Mapping
from pathlib import Path

from models.catalog import CatalogEntry, catalog, catalog_entry
from models.contract import (
    Alternative,
    LiveRecognizer,
    Model,
    ModelError,
    Partial,
    RecognitionOptions,
    Recognizer,
    Utterance,
    Word,
)
from models.language import language_of
from models.location import ModelLocation, composes_its_graph, find_model, installed_models
from models.prediction import Part, Prediction, if_prepared, measured, predict, rescoring_folders
from models.vosk.beam import DEFAULT_PROFILE, PROFILES, widths
from models.vosk.mapping import mapping_problem

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


def load_model(
    directory: Path,
    made: Mapping[str, Path] | None = None,
    *,
    prefetch: bool = False,
    left_out: tuple[str, ...] = (),
    kernels: str | None = None,
) -> Model:
    """Load the Vosk model in `directory`, with the files in `made` in place of its own.

    `made`: what a prepared model has made new (`PreparedModel.made`). `prefetch`: read its graph
    through once, so that the first requests need not wait for the disk. `left_out`: folders of
    the model that are not loaded (`rescoring_folders`). `kernels`: the variant of our kernels that
    the process was started for (`models.vosk.simd`). Raises `ModelError`.
    """
    from models.vosk.model import VoskModel

    return VoskModel(directory, made, prefetch=prefetch, left_out=left_out, kernels=kernels)


def warm_up_clips(language: str, sample_rate: int) -> list[bytes]:
    """Half a minute of synthetic speech, as `Model.warm` takes it."""
    from models.clips import clips_for, decode_clip

    return [decode_clip(clip, sample_rate) for clip in clips_for(language)]


def noise(seconds: float, sample_rate: int) -> bytes:
    """Plain noise, as `Model.warm` takes it; for engines without speech to warm up on."""
    from models import clips

    return clips.noise(seconds, sample_rate)
