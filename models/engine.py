"""Engine interface: what is known of a model before it is loaded, and how it is loaded.

Each engine is one object that implements `Engine` (`models.vosk.engine`, `models.sherpa.engine`);
`models.engines` finds the engine of a directory. Importing an engine's module loads no engine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from models.contract import Abilities, Model, ModelLocation
from models.prediction import Prediction


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The settings that decide how a model is loaded. `store`: directory of prepared models;
    `values`: the engine's own settings, by name (`[engines.NAME]`)."""

    store: Path
    profile: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Requirement:
    """Something that a form needs and that a helper process can make, such as a library that is
    compiled once. `command`: arguments of `python -m`; `found` says whether it is there."""

    name: str
    command: tuple[str, ...]
    found: Callable[[], bool]
    consequence: str
    """What it means to go without it, in words."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way to load a model: prepared, as published, without its rescoring."""

    name: str
    """Stable, for logs and metrics, such as `prepared` or `published`."""
    location: ModelLocation
    prediction: Prediction
    abilities: Abilities
    load: Mapping[str, Any] = field(default_factory=dict)
    """Options for `Engine.load`; plain values. Means nothing outside of the engine."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the process that loads it."""
    huge_pages: bool = False
    problems: tuple[str, ...] = ()
    """Why better forms are not offered, in words."""
    consequence: str = ""
    """What is lost against the best form, in words; empty: nothing."""
    requirement: Requirement | None = None

    @property
    def key(self) -> tuple[Path, str]:
        """What crashes and measurements of this form are remembered by."""
        return self.location.directory, self.name


@dataclass(frozen=True, slots=True)
class Improvement:
    """What preparing a model would change. `needs`: bytes of memory and of disk that it takes, for
    as long as it runs; `form`: what there will be after it."""

    needs_memory: int
    needs_disk: int
    form: Form


class Engine(Protocol):
    """Everything about one engine's models that can be asked without loading one."""

    name: str
    """Stable, such as `vosk`; the key below `[engines]`."""

    def problem(self, directory: Path) -> str | None:
        """Return why the directory holds no model of this engine, in words; None if it does.
        Reads names and first bytes of files."""
        ...

    def missing(self) -> str | None:
        """Return what has to be installed before this engine can load anything, with the command;
        None if nothing has."""
        ...

    def forms(self, location: ModelLocation, settings: EngineSettings) -> list[Form]:
        """Return the ways to load the model, best first; reads names, sizes and first bytes.
        Raises `ModelError`."""
        ...

    def load(self, location: ModelLocation, options: Mapping[str, Any]) -> Model:
        """Load it, in the process that serves it. Raises `ModelError`."""
        ...

    def improvement(self, location: ModelLocation, settings: EngineSettings) -> Improvement | None:
        """Return what preparing it would change; None where it is prepared, or would not pay."""
        ...

    def sound(self, form: Form, *, thorough: bool) -> str | None:
        """Return what is damaged of the form's files since they were made; None if nothing is.
        Asked after a crash. `thorough`: read them all."""
        ...
