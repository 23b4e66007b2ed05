"""A model around a model: what it does not change is as it was."""

from typing import Any

import models


class WrappedModel:
    """Wrapper of a model that behaves like it (`models.Model`)."""

    def __init__(self, model: models.Model) -> None:
        self._model = model
        self.sample_rate, self.chunk_bytes = model.sample_rate, model.chunk_bytes
        self.abilities = model.abilities

    def warm(self, pcm: list[bytes]) -> None:
        """See `models.Model`."""
        self._model.warm(pcm)

    def recognizer(
        self, options: models.RecognitionOptions, rate: float | None = None
    ) -> models.Recognizer:
        """See `models.Model`."""
        return self._model.recognizer(options, rate)

    def unknown_words(self, phrases: tuple[str, ...]) -> list[str]:
        """See `models.Model`."""
        return self._model.unknown_words(phrases)

    def ignored_keywords(self, keywords: tuple[str, ...]) -> list[str]:
        """See `models.Model`."""
        return self._model.ignored_keywords(keywords)

    def report(self) -> dict[str, Any]:
        """See `models.Model`."""
        return self._model.report()
