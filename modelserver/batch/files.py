"""Finds the files of a command, guesses their lengths, and names their transcripts."""

import glob
from collections.abc import Callable, Iterable
from pathlib import Path

from modelserver.audio.errors import AudioError
from modelserver.audio.probe import Gate
from modelserver.audio.riff import HEADER_LIMIT_BYTES
from modelserver.batch.remote import expanded, is_url, names_several

STDIN = "-"

_SUFFIXES = (
    "wav wave w64 rf64 flac mp3 mp2 aac m4a m4b mp4 mov 3gp 3g2 ogg oga opus webm mkv mka amr awb "
    "aif aiff aifc caf wma wmv asf avi flv ts mpg mpeg au snd ac3 wv tta ape spx"
)
_AUDIO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""Suffixes by which files in a directory are chosen; a file that is named is used whatever its
suffix."""


class SameNames(Exception):
    """Two transcripts would have the same name."""


def found(arguments: Iterable[str]) -> list[str]:
    """List the files of these arguments: of a directory, and below it, those with the name of an
    audio file; of a pattern, those that match; and other arguments as they are.

    Raises `OSError` or `EngineUnusable` for URLs that cannot be listed.
    """
    files: list[str] = []
    for argument in arguments:
        if is_url(argument):
            files += _at(argument) if names_several(argument) else [argument]
            continue
        path = Path(argument)
        if argument != STDIN and path.is_dir():
            inside = (file for file in sorted(path.rglob("*")) if file.is_file())
            files += [str(file) for file in inside if file.suffix.lower() in _AUDIO_SUFFIXES]
        elif not path.exists() and any(letter in argument for letter in "*?["):
            found = glob.glob(argument, recursive=True)  # noqa: PTH207 - an absolute one too
            files += sorted(found) or [argument]
        else:
            files.append(argument)
    return list(dict.fromkeys(files))


def _at(url: str) -> list[str]:
    every = not url.endswith("/")
    return [one for one in expanded(url) if every or Path(one).suffix.lower() in _AUDIO_SUFFIXES]


def targets(files: Iterable[str], directory: Path | None, suffix: str) -> dict[str, Path]:
    """Name each transcript; empty for standard output. If two had the same name, all keep their
    files' suffixes, or else their directories. Raises `SameNames`."""
    if directory is None:
        return {}
    ways: tuple[Callable[[Path], str], ...] = (
        lambda path: path.stem,
        lambda path: path.name,
        lambda path: "_".join(part for part in path.parts if part not in ("/", "..")),
    )
    paths = {file: Path("stdin" if file == STDIN else file) for file in files}
    for way in ways:
        names = {file: f"{way(path)}{suffix}" for file, path in paths.items()}
        if len(set(names.values())) == len(names):
            return {file: directory / name for file, name in names.items()}
    raise SameNames("two of the files would have their transcripts under the same name")


def seconds_of(file: str) -> float:
    """Estimate a file's length from its first bytes and its size; 0 if it cannot be read (the
    engine reports why)."""
    # What is read from a pipe is gone.
    if file == STDIN or is_url(file) or not Path(file).is_file():
        return 0.0
    try:
        size = Path(file).stat().st_size
        with Path(file).open("rb") as opened:
            gate = Gate(float("inf"), length=size)
            gate.feed(opened.read(HEADER_LIMIT_BYTES))
        return gate.estimate(size)
    except (OSError, AudioError):
        return 0.0
