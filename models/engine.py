"""Engine interface: facts about a model before it is loaded, and loading it.

Each engine is one object that implements `Engine` (`models.vosk.engine`, `models.sherpa.engine`);
`models.engines` finds the engine of a directory. Importing an engine's module loads no engine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from models.contract import Abilities, Model, ModelLocation
from models.leftovers import Leftover
from models.prediction import Prediction
from models.punctuation import PunctuationEngine


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings that decide how a model is loaded. `store`: directory of prepared models; `values`:
    the engine's own settings, by name (`[engines.NAME]`); `available`: bytes of memory that are
    available now."""

    store: Path
    profile: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    available: int = 0


@dataclass(frozen=True, slots=True)
class Requirement:
    """Requirement of a form that a helper process can make, such as a library that is compiled
    once."""

    name: str
    command: tuple[str, ...]
    """Arguments of `python -m` that make it."""
    find: Callable[[], Mapping[str, str] | None]
    """Return the variables of a process that uses it; None if it has to be made. May start
    processes."""
    consequence: str
    """Consequence of going without it, in words."""
    problem: Callable[[], str | None] = lambda: None
    """Return why it can neither be used nor made here, in words; None if it can."""
    needs_memory: int = 0
    """Bytes that making it may take."""
    setting: str = ""
    """Setting that requires it, with its value; empty: there are forms without it."""


@dataclass(frozen=True, slots=True)
class Form:
    """Way to load a model: prepared, as published, without its rescoring."""

    name: str
    """Stable, for logs and metrics, such as `prepared` or `published`."""
    location: ModelLocation
    prediction: Prediction
    abilities: Abilities
    load: Mapping[str, Any] = field(default_factory=dict)
    """Options for `Engine.load`; plain values that only the engine understands."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the process that loads it."""
    huge_pages: bool = False
    prepared: Path | None = None
    """Directory of the files that preparing has made for it; None: it is loaded as it was
    published."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Facts about it that only the engine understands, for documents."""
    notes: tuple[str, ...] = ()
    """Lines about it, for people."""
    problems: tuple[str, ...] = ()
    """Reasons why better forms are not offered, in words."""
    consequence: str = ""
    """Loss compared with the best form, in words; empty: none."""
    requirement: Requirement | None = None

    @property
    def key(self) -> tuple[Path, str]:
        """Key by which crashes and measurements of this form are remembered."""
        return self.location.directory, self.name


@dataclass(frozen=True, slots=True)
class Improvement:
    """Change that preparing a model would bring (`PreparedStore.needs`: the cost)."""

    forms: tuple[Form, ...]
    """Forms that there will be after it, best first."""
    consequence: str
    """Consequence of going without it, in words."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Line of `modelserver doctor`; `attention`: the operator should act on it."""

    text: str
    attention: bool = False


class Prepared(Protocol):
    """A prepared model in a store."""

    @property
    def name(self) -> str:
        """Name of the model that it was made from."""
        ...

    @property
    def directory(self) -> Path:
        """Directory of the files that were made."""
        ...

    @property
    def bytes_on_disk(self) -> int:
        """Size of the files that were made."""
        ...

    @property
    def seconds(self) -> float:
        """Duration of making it."""
        ...

    @property
    def peak_bytes(self) -> int:
        """Memory that making it took at most."""
        ...

    @property
    def summary(self) -> str:
        """Description of the files that were made, in words."""
        ...


class PreparationNeeds(Protocol):
    """Estimate of the cost of preparing a model."""

    @property
    def memory(self) -> int:
        """Bytes of memory that are needed."""
        ...

    @property
    def disk(self) -> int:
        """Bytes of disk that are needed."""
        ...

    @property
    def steps(self) -> int:
        """Number of steps that `Preparing.on_progress` counts."""
        ...

    def in_words(self) -> str:
        """Describe the needs for people."""
        ...


Progress = Callable[[str, int], None]
"""Receiver of each phase, in words, and of how many steps are done."""


@dataclass(frozen=True, slots=True)
class Preparing:
    """Parameters of preparing a model."""

    settings: EngineSettings
    environment: Mapping[str, str]
    """Variables of a process that loads a model, without those of a form."""
    output: Path | None = None
    """Directory to write instead of one in the store."""
    most_bytes: int = 0
    """Bytes that the result may have; 0: no limit."""
    background: bool = False
    """True if it runs unattended: it is bounded by its estimate, and does not repeat a failure."""
    on_progress: Progress = lambda *_: None


class PreparedStore(Protocol):
    """Store of the models that one engine has prepared, in directories below a store."""

    def needs(self, location: ModelLocation) -> PreparationNeeds:
        """Return the cost of preparing the model. Raises `ModelError`."""
        ...

    def must_be_possible(self, location: ModelLocation, settings: EngineSettings) -> None:
        """Raise `ModelError` if the model cannot be prepared here, or not now (`cannot_afford`)."""
        ...

    def prepare(self, location: ModelLocation, how: Preparing) -> Prepared:
        """Prepare the model. Raises `ModelError`."""
        ...

    def all(self, store: Path) -> Sequence[Prepared]:
        """Return the prepared models of a store, usable or not."""
        ...

    def verify(self, directory: Path) -> list[str]:
        """Read all of a prepared model; return what is wrong with it, in words."""
        ...

    def remove(self, directory: Path) -> None:
        """Delete a prepared model; a process that serves it is not affected. Raises `OSError`."""
        ...

    def write_archive(self, directory: Path, file: Path) -> None:
        """Write a prepared model to a file, for another machine. Raises `ModelError`."""
        ...

    def read_archive(
        self, file: Path, location: ModelLocation, settings: EngineSettings
    ) -> Prepared:
        """Install a prepared model of `location` from a file. Raises `ModelError`."""
        ...

    def leftovers(self, store: Path) -> list[Leftover]:
        """Return files that are not needed any more. Raises `OSError`."""
        ...


class Engine(Protocol):
    """Interface of an engine: questions about its models that need no loading, and loading."""

    name: str
    """Stable name, such as `vosk`; the key below `[engines]`."""
    store: PreparedStore | None
    """Store of models that it has prepared; None: it prepares none."""
    punctuation: PunctuationEngine | None
    """Punctuation models of this engine; None: it has none."""

    def problem(self, directory: Path) -> str | None:
        """Return why the directory is not a model of this engine, in words; None if it is. Reads
        names and first bytes of files."""
        ...

    def claims(self, directory: Path) -> bool:
        """Return whether files are there that only models of this engine have, complete or not:
        then its `problem` is the one to report."""
        ...

    def missing(self) -> str | None:
        """Return what has to be installed before this engine can load anything, with the command;
        None if nothing is missing."""
        ...

    def forms(self, location: ModelLocation, settings: EngineSettings) -> list[Form]:
        """Return the ways to load the model, best first; reads names, sizes and first bytes. Raises
        `ModelError`."""
        ...

    def load(self, location: ModelLocation, options: Mapping[str, Any]) -> Model:
        """Load it, in the process that serves it. Raises `ModelError`."""
        ...

    def improvement(self, location: ModelLocation, settings: EngineSettings) -> Improvement | None:
        """Return the change that preparing it would bring; None if it is prepared, or if preparing
        is not worth it."""
        ...

    def sound(self, form: Form, *, thorough: bool) -> str | None:
        """Return which of the form's files was damaged since they were made, in words; None if none
        was. Called after a crash, for forms that have been prepared. `thorough`: read all files."""
        ...

    def findings(self, settings: EngineSettings) -> list[Finding]:
        """Return what this machine lets the engine do, for `modelserver doctor`."""
        ...
