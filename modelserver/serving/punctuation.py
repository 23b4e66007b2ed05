"""The punctuation model of a speech model, by the settings: known before either is loaded."""

import dataclasses

import models
from modelserver.settings import Settings
from modelserver.settings.plugins import PUNCTUATION
from modelserver.speech.messages import PunctuationToUse


@dataclasses.dataclass(frozen=True, slots=True)
class Punctuation:
    """Punctuation of one speech model's texts. `model`: None where there is nothing to load;
    `problem`: why the model that the settings name cannot be used, in words."""

    model: models.PunctuationModel | None = None
    problem: str = ""

    @property
    def to_use(self) -> PunctuationToUse:
        """Punctuation as it is sent to the fork server."""
        directory = "" if self.model is None else str(self.model.directory)
        return PunctuationToUse(directory, self.problem)


NO_PUNCTUATION = Punctuation()


def punctuation_for(
    settings: Settings, location: models.ModelLocation, abilities: models.Abilities
) -> Punctuation:
    """Return what the settings ask for, for texts of the model in `location`. Reads names and
    first bytes of files."""
    if PUNCTUATION not in settings.text.steps or abilities.written:
        return NO_PUNCTUATION
    wanted = settings.text.punctuation_model
    try:
        model = models.find_punctuation(wanted, settings.models_dir, location.language)
    except models.ModelError as error:
        return Punctuation(problem=f"text.punctuation_model: {error.message}")
    return Punctuation(model)


def with_punctuation(form: models.Form, punctuation: Punctuation) -> models.Form:
    """Return the form with the memory of its punctuation model."""
    if punctuation.model is None:
        return form
    return dataclasses.replace(form, prediction=punctuation.model.beside(form.prediction))
