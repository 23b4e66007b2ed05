"""Profiles: how much work goes into the same audio.

"fast" searches less widely, "balanced" as the model was published, "accurate" more widely, and in
audio that is conditioned.
"""

from dataclasses import replace

import models
from modelserver.worker.abilities import within
from modelserver.worker.conditioning import ConditionedRecognizer
from modelserver.worker.wrapped import WrappedModel


class ProfiledModel(WrappedModel):
    """A model that is asked with a profile, or with none for its own, and for nothing that it
    cannot do."""

    def __init__(self, model: models.Model, profile: str) -> None:
        """Apply `profile` to requests that name none."""
        super().__init__(model)
        self._profile = profile

    def recognizer(
        self, options: models.RecognitionOptions, rate: float | None = None
    ) -> models.Recognizer:
        """See `models.Model`. Audio of a `rate` is recognised as it comes."""
        options = replace(options, profile=options.profile or self._profile)
        options = within(options, self.abilities)
        recognizer = self._model.recognizer(options, rate)
        if options.profile != "accurate" or rate is not None:
            return recognizer
        return ConditionedRecognizer(recognizer, self.sample_rate, self.chunk_bytes)
