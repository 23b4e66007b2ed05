"""The end of a language model's answer."""

from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class Ending:
    """The last thing of an answer. `finish`: whether it was cut, by its length or by a filter."""

    finish: Finish
    model: str
