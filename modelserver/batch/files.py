"""The files that are meant, how long they are likely to be, and where their transcripts go."""

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
"""By which files in a directory are chosen; a file that is named is taken whatever its name."""


class SameNames(Exception):
    """Two transcripts would have the same name."""


def found(arguments: Iterable[str]) -> list[str]:
    """The files that are meant: those of a directory, below it too, that may be audio by their
    names; those that fit a pattern; and all others as they are. Raises `OSError` or
    `EngineUnusable` for addresses that cannot be looked into."""
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
    """Where each transcript goes; nothing for standard output. Where two would have the same name,
    all keep their files' own suffixes, or else their directories. Raises `SameNames`."""
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
    """How long it is likely to be: what the first bytes say, or what its size lets guess; 0 where
    it cannot be read (the engine says why)."""
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
