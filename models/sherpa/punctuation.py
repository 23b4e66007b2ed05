"""Punctuation models of sherpa-onnx, as an engine offers them. Importing this does not load the
library."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from models.contract import ModelError
from models.punctuation import PunctuationModel, Punctuator
from models.sherpa.punctuation_layout import (
    PunctuationLayout,
    predict_punctuation,
    recognise_punctuation,
)
from models.sherpa.refusals import NotRecognised, problem_in


class SherpaPunctuation:
    """Punctuation models of sherpa-onnx. Implements `models.punctuation.PunctuationEngine`."""

    def problem(self, directory: Path) -> str | None:
        """See `models.punctuation.PunctuationEngine`."""
        return problem_in(directory, recognise_punctuation)

    def model(self, directory: Path) -> PunctuationModel:
        """See `models.punctuation.PunctuationEngine`."""
        with _readable():
            return predict_punctuation(_layout(directory))

    def load(self, directory: Path) -> Punctuator:
        """See `models.punctuation.PunctuationEngine`."""
        from models.sherpa.punctuator import SherpaPunctuator

        return SherpaPunctuator(_layout(directory))


def _layout(directory: Path) -> PunctuationLayout:
    with _readable():
        try:
            return recognise_punctuation(directory)
        except NotRecognised as refused:
            raise ModelError(
                "model_invalid", f"{directory} is not a punctuation model: {refused}"
            ) from None


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError("model_unreadable", f"{error.filename}: {error.strerror}") from error
