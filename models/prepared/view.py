"""View of a model: a directory of links to the original, with some files of its own.

A view serves a model with other settings, or with other parts, than it was published with: the
original is never written to.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from models.contract import ModelError

_DEEPEST = 8
"""Depth of directories below a model's own; a link to a directory above would lead on without
end."""


def make_view(
    original: Path, view: Path, replaced: Mapping[str, bytes | Path], without: frozenset[str]
) -> None:
    """Fill the directory `view` with links to the files of `original`.

    `replaced` maps a path inside the model to its content here, or to the file to link to, and may
    add paths; `without` leaves files out. Links to directories are followed. Raises `OSError`, and
    `ModelError` where directories are nested without end.
    """
    for source in files_in(original):
        inside = str(source.relative_to(original))
        if inside not in replaced and inside not in without:
            target = view / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.resolve())
    for inside, content in replaced.items():
        target = view / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            target.symlink_to(content.resolve())
        else:
            target.write_bytes(content)


def files_in(model: Path) -> Iterator[Path]:
    """Yield every file of the model in a directory, in order, also behind links to directories."""
    for directory, folders, names in os.walk(model, followlinks=True):
        here = Path(directory)
        if len(here.relative_to(model).parts) > _DEEPEST:
            raise ModelError(
                "model_invalid",
                f"{here} is nested deeper than a model is: a link to a directory above it?",
            )
        folders.sort()
        yield from (here / name for name in sorted(names) if (here / name).is_file())
