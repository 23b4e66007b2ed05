"""A view of a model: a directory of links to the original, with some files of its own.

This is how a model is served with other settings, or with other parts, than it was published
with: the original is never written to.
"""

from collections.abc import Mapping
from pathlib import Path


def make_view(
    original: Path, view: Path, replaced: Mapping[str, bytes | Path], without: frozenset[str]
) -> None:
    """Fill the directory `view` with links to what `original` holds.

    `replaced` maps a path inside the model to its content here, or to the file to link to, and may
    add paths; `without` leaves files out. Raises `OSError`.
    """
    for source in sorted(original.rglob("*")):
        inside = str(source.relative_to(original))
        if source.is_file() and inside not in replaced and inside not in without:
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


def without_dither(model: Path) -> dict[str, bytes]:
    """The replacement that turns dither off: with it, the same audio gives the same text.

    Dither is noise that Kaldi adds to every sample, anew in each run (`--dither`, feature-window
    options).
    """
    inside = "conf/mfcc.conf" if (model / "conf" / "mfcc.conf").is_file() else "mfcc.conf"
    try:
        lines = (model / inside).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    kept = [line for line in lines if not line.strip().startswith("--dither")]
    return {inside: "\n".join([*kept, "--dither=0", ""]).encode()}
