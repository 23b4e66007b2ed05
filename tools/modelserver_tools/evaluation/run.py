"""An evaluation: its settings, its rates, and each file."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from modelserver import __version__
from modelserver_tools.evaluation.errors import (
    Counted,
    Difference,
    FileErrors,
    Rate,
    compare_texts,
    difference_of,
    rate_of,
)
from modelserver_tools.evaluation.normalising import RULES
from supervisor import counted


class RunUnusable(Exception):
    """File that is not a usable run; the text says why."""


class Run(msgspec.Struct):
    """Content of a file written by `--save`. `by`: the settings that affect the result, or the
    server's address."""

    modelserver: str
    by: dict[str, str]
    rules: str
    characters: Rate
    words: Rate
    files: list[FileErrors]
    failed: list[str]


def run_of(by: dict[str, str], texts: dict[str, tuple[str, str]], failed: list[str]) -> Run:
    """Evaluate `texts`: by name, the reference and the recognised text."""
    files = [compare_texts(name, *pair) for name, pair in texts.items()]
    return Run(
        __version__,
        by,
        RULES,
        rate_of([file.characters for file in files]),
        rate_of([file.words for file in files]),
        files,
        failed,
    )


def read_run(file: Path) -> Run:
    """Read a file written by `--save`. Raises `RunUnusable`."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Run)
    except OSError as error:
        raise RunUnusable(f"{file}: {error.strerror}") from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise RunUnusable(f"{file} is not what --save writes: {error}") from error


def in_words(run: Run, worst: int) -> Iterator[str]:
    """Yield the lines of a run for a terminal."""
    yield ", ".join(f"{name} {value}" for name, value in run.by.items() if value)
    yield f"compared: {run.rules}"
    without = f", and {len(run.failed)} that could not be transcribed" if run.failed else ""
    yield f"files: {len(run.files)}{without}"
    yield f"characters wrong: {rate_in_words(run.characters)}"
    yield f"words wrong:      {rate_in_words(run.words)}"
    yield from (f"  {reason}" for reason in run.failed)
    ordered = sorted(run.files, key=lambda f: _share(f.characters), reverse=True)
    for file in [one for one in ordered if one.characters.errors][:worst]:
        yield f"{_share(file.characters):7.1%} {file.file}"
        yield f"        reference:  {file.reference}"
        yield f"        recognised: {file.hypothesis}"


def compared(run: Run, other: Run, name: str) -> Iterator[str]:
    """Yield the comparison of the files in both runs. Raises `RunUnusable` if there are none, or if
    their references differ."""
    theirs = {file.file: file for file in other.files}
    pairs = [(file, theirs[file.file]) for file in run.files if file.file in theirs]
    if not pairs:
        raise RunUnusable(f"{name} has none of these files")
    if different := [a.file for a, b in pairs if a.reference != b.reference]:
        raise RunUnusable(f"{name} had another reference for {different[0]}")
    by = ", ".join(f"{k} {v}" for k, v in other.by.items() if v)
    yield f"against {name} ({by}), {counted(len(pairs), 'file')} in both:"
    kinds: tuple[tuple[str, list[tuple[Counted, Counted]]], ...] = (
        ("characters", [(a.characters, b.characters) for a, b in pairs]),
        ("words", [(a.words, b.words) for a, b in pairs]),
    )
    for kind, counts in kinds:
        found = difference_of([a for a, _ in counts], [b for _, b in counts])
        yield f"  {kind}: {difference_in_words(found)}"


def _share(counted: Counted) -> float:
    return counted.errors / max(1, counted.length)


def rate_in_words(rate: Rate) -> str:
    """Format a rate with its interval and its counts."""
    within = f"{rate.low:.1%} - {rate.high:.1%}"
    return f"{rate.rate:.1%} ({within}), {rate.errors} of {rate.length}"


def difference_in_words(found: Difference) -> str:
    """Format a difference with its interval and its significance."""
    points = [f"{100 * one:+.1f}" for one in (found.difference, found.low, found.high)]
    sure = "a difference" if found.p < 0.05 else "no difference that these files could show"
    return f"{points[0]} points ({points[1]} to {points[2]}), p = {found.p:.3f}: {sure}"
