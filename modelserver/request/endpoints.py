"""Options for the end of an utterance: their ranges, and how they are read."""

import math
import re

from modelserver.refusal import Refusal

SHORTEST_ENDPOINT_MS, LONGEST_ENDPOINT_MS = 100, 10_000
"""Silence that may end an utterance."""
SHORTEST_UTTERANCE_S, LONGEST_UTTERANCE_S = 1, 60
"""Length at which an utterance may be ended."""

_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def read_endpoint_ms(value: object, name: str = "endpoint_ms") -> int:
    """Read milliseconds of silence, from a number or its text; 0: the engine's own rules. Raises
    `Refusal`."""
    return round(_read(name, value, SHORTEST_ENDPOINT_MS, LONGEST_ENDPOINT_MS, "milliseconds"))


def read_max_utterance_s(value: object, name: str = "max_utterance_s") -> float:
    """Read the length of an utterance in seconds, from a number or its text; 0: the engine's own
    rules. Raises `Refusal`."""
    return float(_read(name, value, SHORTEST_UTTERANCE_S, LONGEST_UTTERANCE_S, "seconds"))


def _read(name: str, value: object, least: int, most: int, unit: str) -> float:
    number: float = math.nan
    if isinstance(value, str):
        text = value.strip()
        if _DECIMAL.fullmatch(text):
            number = float(text)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = value
    if number == 0 or least <= number <= most:
        return number
    given = f"={value[:40]!r}" if isinstance(value, str) else ""
    raise Refusal(
        "bad_parameter",
        f"{name}{given} is not allowed: expected {least} to {most} {unit}, or 0 for the rules of "
        "the model",
    )
