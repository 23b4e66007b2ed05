"""The text step `punctuation`: marks, and maybe capitals, by a punctuation model."""

from collections.abc import Callable
from pathlib import Path

import models
from modelserver.speech.messages import PunctuationToUse


def punctuation_step(punctuation: PunctuationToUse) -> Callable[[str], Callable[[str], str] | None]:
    """Return the maker of the step (`modelserver.worker.text_steps.Maker`): it loads the model,
    whose inference is done once for each text."""

    def make(language: str) -> Callable[[str], str] | None:
        if punctuation.problem:
            raise models.ModelError("model_invalid", punctuation.problem)
        if not punctuation.directory:
            return None
        return models.load_punctuator(Path(punctuation.directory)).write

    return make
