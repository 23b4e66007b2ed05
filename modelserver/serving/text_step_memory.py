"""Memory of text steps, which the process that loads the model holds beside it: known before."""

import dataclasses
from collections.abc import Iterable

import models

_MB = 1_000_000
_PARTS = {"numbers": 4 * _MB, "vocabulary": 26 * _MB}
"""Bytes of each step, of the language that needs most: Russian, for the vocabulary. Steps of other
packages are not known."""
_LISTS = {"vocabulary": 5 * _MB}
"""Bytes of the lists of keywords that each worker keeps."""


def with_text_steps(form: models.Form, steps: Iterable[str]) -> models.Form:
    """Return the form with the memory of the text steps of these names."""
    named = [name for name in steps if name in _PARTS]
    if not named:
        return form
    parts = tuple(models.Part(f"text step {name}", 0, _PARTS[name]) for name in named)
    prediction = dataclasses.replace(
        form.prediction,
        parts=(*form.prediction.parts, *parts),
        growth=form.prediction.growth + sum(_LISTS.get(name, 0) for name in named),
    )
    return dataclasses.replace(form, prediction=prediction)
