"""Choice of a model's engine: the only module that knows which engines there are.

Importing it loads no engine.
"""

import functools
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from models.contract import ModelError
from models.engine import Engine
from models.punctuation import PunctuationEngine, PunctuationModel, Punctuator

_MODULES = ("models.vosk.engine", "models.sherpa.engine")
"""Modules that have an engine as `ENGINE`. The first that accepts a directory gets it."""


@functools.cache
def installed_engines() -> tuple[Engine, ...]:
    """Return all engines of this installation, in the order in which they are tried."""
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
    """Return what an engine misses in a directory, in words: the engine whose files are there, or
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
    except OSError:  # its `problem` reports that
        return False


def content_problem(directory: Path) -> str | None:
    """Return why the directory holds neither a speech model nor a punctuation model, in words."""
    problem = model_problem(directory)
    return problem and punctuation_problem(directory) and problem


def punctuation_problem(directory: Path) -> str | None:
    """Return why the directory is not a punctuation model, in words; None if it is."""
    problems = [
        problem
        for engine in installed_engines()
        if (models := engine.punctuation) is not None
        and (problem := models.problem(directory)) is not None
    ]
    offered = [engine for engine in installed_engines() if engine.punctuation is not None]
    if len(problems) < len(offered):
        return None
    if problems and model_problem(directory) is None:
        return "it is a speech model: name it in the setting model"
    return "; ".join(problems) or "no engine for such models is installed"


def punctuation_model(directory: Path) -> PunctuationModel:
    """Return the facts about a punctuation model. Raises `ModelError`."""
    return _punctuation_engine(directory)[1].model(directory)


def load_punctuator(directory: Path) -> Punctuator:
    """Load a punctuation model, in the process that serves it. Raises `ModelError`."""
    engine, models = _punctuation_engine(directory)
    if (missing := engine.missing()) is not None:
        raise ModelError("engine_missing", f"{directory.name} cannot be loaded: {missing}")
    return models.load(directory)


def _punctuation_engine(directory: Path) -> tuple[Engine, PunctuationEngine]:
    for engine in installed_engines():
        if (models := engine.punctuation) is not None and models.problem(directory) is None:
            return engine, models
    problem = punctuation_problem(directory)
    raise ModelError("model_invalid", f"{directory} is not a punctuation model: {problem}")


def _engines() -> Iterator[Engine]:
    for module in _MODULES:
        package = module.rpartition(".")[0]
        if importlib.util.find_spec(package) and importlib.util.find_spec(module):
            engine: Engine = importlib.import_module(module).ENGINE
            yield engine
