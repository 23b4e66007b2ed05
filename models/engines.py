"""Chooses the engine of a model: the only module that knows which engines there are.

Importing it loads no engine.
"""

import functools
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from models.contract import ModelError
from models.engine import Engine

_MODULES = ("models.vosk.engine", "models.sherpa.engine")
"""Each has its engine as `ENGINE`. The first that takes a directory has it."""


@functools.cache
def installed_engines() -> tuple[Engine, ...]:
    """Return all engines of this installation, first the one that is asked first."""
    return tuple(_engines())


def engine_named(name: str) -> Engine:
    """Return the engine of that name. Raises `ModelError`."""
    for engine in installed_engines():
        if engine.name == name:
            return engine
    names = ", ".join(engine.name for engine in installed_engines())
    raise ModelError("engine_unknown", f"there is no engine {name!r}; there are: {names}")


def engine_of(directory: Path) -> Engine:
    """Return the engine of the model in a directory. Raises `ModelError`, with what each engine
    misses."""
    for engine in installed_engines():
        if engine.problem(directory) is None:
            return engine
    raise ModelError("model_invalid", f"{directory} is not a model: {model_problem(directory)}")


def model_problem(directory: Path) -> str | None:
    """Return what an engine misses in a directory, in words: the one whose files are there, or
    else each. None if it holds a model."""
    found = [(engine, engine.problem(directory)) for engine in installed_engines()]
    if any(problem is None for _, problem in found):
        return None
    claimed = [(engine, problem) for engine, problem in found if _claims(engine, directory)]
    problems: dict[str, list[str]] = {}
    for engine, problem in claimed or found:
        problems.setdefault(str(problem), []).append(engine.name)
    if len(problems) == 1:
        return next(iter(problems))
    return "; ".join(f"{problem} ({', '.join(names)})" for problem, names in problems.items())


def _claims(engine: Engine, directory: Path) -> bool:
    try:
        return engine.claims(directory)
    except OSError:  # its problem says so
        return False


def _engines() -> Iterator[Engine]:
    for module in _MODULES:
        package = module.rpartition(".")[0]
        if importlib.util.find_spec(package) and importlib.util.find_spec(module):
            engine: Engine = importlib.import_module(module).ENGINE
            yield engine
