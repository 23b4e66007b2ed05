"""Punctuation models: facts about one before it is loaded, and the interface of a loaded one.

Such a model puts punctuation marks, and maybe capitals, into texts of speech models that give none.
Each engine that has some offers them as `models.engine.Engine.punctuation`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from models.language import same_language
from models.prediction import Part, Prediction


@dataclass(frozen=True, slots=True)
class PunctuationModel:
    """Punctuation model in a directory. Sizes in bytes, `load_s` in seconds."""

    directory: Path
    languages: tuple[str, ...]
    """BCP 47 tags of its languages."""
    cases: bool
    """True if it writes capitals, too."""
    part: Part
    """Memory that it takes once for all workers."""
    growth: int
    """Memory by which each worker that uses it grows."""
    loading: int
    """Memory held beside it during the load, and released after that."""
    load_s: float

    @property
    def name(self) -> str:
        """Name of its directory."""
        return self.directory.name

    def knows(self, language: str) -> bool:
        """Return whether it was made for the language with this BCP 47 tag."""
        return any(same_language(tag, language) for tag in self.languages)

    def beside(self, prediction: Prediction) -> Prediction:
        """Return the prediction for a speech model with this one beside it. It is loaded first."""
        return replace(
            prediction,
            parts=(*prediction.parts, self.part),
            growth=prediction.growth + self.growth,
            load_s=round(prediction.load_s + self.load_s, 1),
            loading=max(prediction.loading, self.loading - prediction.model),
        )


class Punctuator(Protocol):
    """A loaded punctuation model, able to be shared by fork, as `models.contract.Model` is."""

    def write(self, text: str) -> str:
        """Return the text with marks, and with capitals where the model has them. Its letters and
        their order stay as they are. Time grows with the length of the text."""
        ...


class PunctuationEngine(Protocol):
    """The punctuation models of one engine."""

    def problem(self, directory: Path) -> str | None:
        """Return why the directory is not a punctuation model, in words; None if it is. Reads names
        and first bytes of files."""
        ...

    def model(self, directory: Path) -> PunctuationModel:
        """Return the facts about the model. Raises `ModelError`."""
        ...

    def load(self, directory: Path) -> Punctuator:
        """Load it, in the process that serves it, on one thread. Raises `ModelError`."""
        ...
