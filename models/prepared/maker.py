"""Maker: one engine's part of preparing a model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.contract import ModelError, ModelLocation
from models.durable import free_for_us
from models.prepared.manifest import FileStamp, Manifest


@dataclass(frozen=True, slots=True)
class Needs:
    """An estimate of what preparing takes. Sizes in bytes."""

    seconds: float
    memory: int
    disk: int
    steps: int
    """Of what progress is counted in."""
    mapped: int
    """Of what is made, and mapped when it is served."""

    def in_words(self) -> str:
        """Return it for a person."""
        return (
            f"about {max(1, round(self.seconds / 60))} min of one processor, "
            f"{self.memory / 1e9:.1f} GB of memory and {self.disk / 1e9:.1f} GB of disk"
        )


@dataclass(frozen=True, slots=True)
class Made:
    """Result of making. `counts`: figures of the engine's for people; `peak_bytes`: of the
    processes that made it."""

    counts: dict[str, int]
    peak_bytes: int


Progress = Callable[[str, int], None]
"""Receives each phase (such as "check" and "place") and how many of `Needs.steps` are done."""


class Maker(Protocol):
    """Makes what one engine needs of a model, and checks it."""

    @property
    def version(self) -> str:
        """Version of everything that decides what is made; another makes other models."""
        ...

    def stamp_sources(self, model: Path) -> dict[str, FileStamp]:
        """Return the files of the model that decide what is made; names inside the model. Raises
        `OSError`, `ModelError`."""
        ...

    def estimate_needs(self, model: Path) -> Needs:
        """Return what preparing will need. Raises `ModelError`."""
        ...

    def knows(self, manifest: Manifest) -> bool:
        """Return whether the manifest names only files that are made here."""
        ...

    def damage(self, directory: Path) -> str | None:
        """Return what is damaged of a prepared model, as far as its first bytes tell, in words."""
        ...

    def link(self, original: Path, prepared: Path, made: frozenset[str]) -> None:
        """Fill the directory `prepared`, which holds what was `made`, with links to the rest."""
        ...

    def check_import(
        self, location: ModelLocation, prepared: Path, store: Path, available_memory: int
    ) -> None:
        """Check what another machine has made, as far as `available_memory` (bytes) and what is
        installed allow. Raises `ModelError`."""
        ...


def family_of(version: str) -> str:
    """Return the part of a maker's version that all its versions have in common."""
    return version.partition(" ")[0]


def must_be_affordable(needs: Needs, available_memory: int, directory: Path) -> None:
    """Raises `ModelError` (`cannot_afford`) where memory or disk are short."""
    free = free_for_us(directory)
    short = []
    if needs.memory > available_memory:
        short.append(f"{available_memory / 1e9:.1f} GB of memory is available")
    if needs.disk > free:
        short.append(f"{free / 1e9:.1f} GB of disk is free in {directory}")
    if short:
        raise ModelError(
            "cannot_afford", f"preparing needs {needs.in_words()}; {' and '.join(short)}"
        )
