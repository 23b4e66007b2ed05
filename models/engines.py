"""Chooses the engine of a model: the only module above the engines that knows them.

Importing it loads no engine.
"""

from collections.abc import Mapping
from pathlib import Path

from models.contract import Model
from models.vosk.layout import layout_problem
from models.vosk.prediction import predict

__all__ = ["layout_problem", "load_model", "predict"]


def load_model(
    directory: Path,
    made: Mapping[str, Path] | None = None,
    *,
    prefetch: bool = False,
    left_out: tuple[str, ...] = (),
    simd: str | None = None,
) -> Model:
    """Load the model in `directory`, with the files in `made` in place of its own.

    `made`: what a prepared model has made new (`PreparedModel.made`). `prefetch`: read its graph
    through once, so that the first requests need not wait for the disk. `left_out`: folders of
    the model that are not loaded (`models.vosk.layout.rescoring_folders`).
    `simd`: the variant of the SIMD library (`models.vosk.simd`) that the process was started with.
    Raises `ModelError`.
    """
    from models.vosk.model import VoskModel

    return VoskModel(directory, made, prefetch=prefetch, left_out=left_out, simd=simd)
