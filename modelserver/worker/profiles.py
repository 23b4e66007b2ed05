"""Profiles: how much work goes into the same audio.

"fast" searches less widely, "balanced" as the model was published, "accurate" more widely, and in
audio that is conditioned.
"""

from dataclasses import replace

import models
from modelserver.speech.phrases import not_known
from modelserver.worker.conditioning import ConditionedRecognizer
from modelserver.worker.wrapped import WrappedModel


class ProfiledModel(WrappedModel):
    """A model that is asked with a profile, or with none for its own."""

    def __init__(self, model: models.Model, profile: str) -> None:
        """`profile`: for those that name none."""
        super().__init__(model)
        self._profile = profile

    def recognizer(self, options: models.RecognitionOptions) -> models.Recognizer:
        """See `models.Model`."""
        options = self._with_profile(options)
        recognizer = self._model.recognizer(options)
        if options.profile != "accurate":
            return recognizer
        return ConditionedRecognizer(recognizer, self.sample_rate, self.chunk_bytes)

    def live(self, sample_rate: float, options: models.RecognitionOptions) -> models.LiveRecognizer:
        """See `models.Model`. The engine's own answers are to the audio as it came."""
        return self._model.live(sample_rate, self._with_profile(options))

    def _with_profile(self, options: models.RecognitionOptions) -> models.RecognitionOptions:
        return replace(options, profile=options.profile or self._profile)


def not_as_asked(model: models.Model, phrases: tuple[str, ...], profile: str) -> list[str]:
    """The warnings of what a model cannot do of what it is asked, and of what is done without."""
    return [*not_known(model.unknown_words(phrases)), *not_available(model, profile)]


def not_available(model: models.Model, profile: str) -> list[str]:
    """What is to be said of a profile that makes no difference to how widely is searched."""
    if profile in ("", models.DEFAULT_PROFILE) or model.has_profiles:
        return []
    return [f"profile {profile!r}: how widely this model searches cannot be changed"]
