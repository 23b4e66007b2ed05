"""Text steps of other packages, found by entry points and loaded where they are used."""

from collections.abc import Iterable
from typing import Any

TEXT_STEPS = "modelserver.text_steps"
"""The group of text steps (`modelserver.worker.text_steps`)."""


PUNCTUATION = "punctuation"
"""The text step that needs a model of its own (`modelserver.worker.punctuation_step`)."""


def known_steps() -> list[str]:
    """Return the names of all steps: installed ones, and the server's own."""
    return sorted({PUNCTUATION, *(step.name for step in _installed())})


def load_step(name: str) -> Any:
    """Return the installed step `name`. Raises whatever loading it raises."""
    return next(step for step in _installed() if step.name == name).load()


def _installed() -> Iterable[Any]:
    # Most have no step, and what reads packages' metadata is a megabyte of every fork server.
    from importlib.metadata import entry_points

    return entry_points(group=TEXT_STEPS)


def unknown_step(names: Iterable[str]) -> str | None:
    """Return a sentence about the first of these that is not installed; None if all are."""
    known = known_steps()
    for name in names:
        if name not in known:
            return f"there is no text step {name!r}; there are: {', '.join(known)}"
    return None
