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
    """Estimate of the cost of preparing. Sizes in bytes."""

    seconds: float
    memory: int
    disk: int
    steps: int
    """Steps in which progress is counted."""
    mapped: int
    """Bytes of the files that are made, and mapped when they are served."""

    def in_words(self) -> str:
        """Describe the needs for people."""
        return (
            f"about {max(1, round(self.seconds / 60))} min of one processor, "
            f"{self.memory / 1e9:.1f} GB of memory and {self.disk / 1e9:.1f} GB of disk"
        )


@dataclass(frozen=True, slots=True)
class Made:
    """Result of making. `counts`: the engine's figures, for people; `peak_bytes`: memory of the
    processes that made it."""

    counts: dict[str, int]
    peak_bytes: int


Progress = Callable[[str, int], None]
"""Receiver of each phase (such as "check" and "place"), and of how many of `Needs.steps` are
done."""


class Maker(Protocol):
    """Makes the files that one engine needs of a model, and checks them."""

    @property
    def version(self) -> str:
        """Version of everything that decides the result; another version makes other files."""
        ...

    def stamp_sources(self, model: Path) -> dict[str, FileStamp]:
        """Return the files of the model that decide the result; names inside the model. Raises
        `OSError`, `ModelError`."""
        ...

    def estimate_needs(self, model: Path) -> Needs:
        """Return the cost of preparing. Raises `ModelError`."""
        ...

    def knows(self, manifest: Manifest) -> bool:
        """Return whether the manifest names only files that this maker makes."""
        ...

    def damage(self, directory: Path) -> str | None:
        """Return how a prepared model is damaged, as far as its first bytes tell, in words."""
        ...

    def link(self, original: Path, prepared: Path, made: frozenset[str]) -> None:
        """Fill the directory `prepared`, which holds the files that were `made`, with links to the
        rest."""
        ...

    def check_import(
        self, location: ModelLocation, prepared: Path, store: Path, available_memory: int
    ) -> None:
        """Check the files that another machine has made, as far as `available_memory` (bytes) and
        the installed programs allow. Raises `ModelError`."""
        ...


def family_of(version: str) -> str:
    """Return the part of a maker's version that all its versions have in common."""
    return version.partition(" ")[0]


def must_be_affordable(needs: Needs, available_memory: int, directory: Path) -> None:
    """Raise `ModelError` (`cannot_afford`) if memory or disk are short."""
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
