"""A view of a model: a directory of links to the original, with some files of its own.

This is how a model is served with other settings, or with other parts, than it was published
with: the original is never written to.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from models.contract import ModelError
from models.vosk.layout import features_file

_DEEPEST = 8
"""Directories below a model's own; a link to a directory above would lead on without end."""

_SERVED = {"--dither": b"0", "--allow-upsample": b"true", "--allow-downsample": b"true"}
"""What the features of a served model are set to (Kaldi: feature-window and online-feature
options). Dither is noise that Kaldi adds to every sample, other noise in each run: without it, the
same audio gives the same text. Streams may have another rate than the model, in either
direction."""

_DEFAULT_RATE = 16_000
_RATES = range(4_000, 96_001)
"""Samples a second: Kaldi's default, and what a model may have."""


def make_view(
    original: Path, view: Path, replaced: Mapping[str, bytes | Path], without: frozenset[str]
) -> None:
    """Fill the directory `view` with links to what `original` holds.

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
    """Every file of the model in a directory, in order, also behind links to directories."""
    for directory, folders, names in os.walk(model, followlinks=True):
        here = Path(directory)
        if len(here.relative_to(model).parts) > _DEEPEST:
            raise ModelError(
                "model_invalid",
                f"{here} is nested deeper than a model is: a link to a directory above it?",
            )
        folders.sort()
        yield from (here / name for name in sorted(names) if (here / name).is_file())


def served_features(model: Path) -> dict[str, bytes]:
    """The replacement for the model's feature settings: no dither, and streams of any rate.

    Empty where the model has no such file. Raises `OSError`.
    """
    inside = features_file(model)
    try:
        lines = (model / inside).read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    own = tuple(name.encode() for name in _SERVED)
    kept = [line for line in lines if not line.strip().startswith(own)]
    served = [name.encode() + b"=" + value for name, value in _SERVED.items()]
    return {inside: b"\n".join([*kept, *served, b""])}


def sample_rate_of(model: Path) -> int:
    """Samples a second that the model in a directory is trained on; Kaldi's default is 16,000."""
    try:
        lines = (model / features_file(model)).read_text(encoding="latin-1").splitlines()
    except OSError:
        return _DEFAULT_RATE
    rate = _DEFAULT_RATE
    for line in lines:
        name, _, value = line.split("#")[0].strip().partition("=")
        if name.strip() == "--sample-frequency":
            try:
                rate = int(float(value))
            except (ValueError, OverflowError):
                continue  # the engine refuses it
    return rate if rate in _RATES else _DEFAULT_RATE
