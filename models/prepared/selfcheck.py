"""Same answers, always: decodes bundled clips and prints everything the engine says of them.

Run as `python -m models.prepared.selfcheck DIRECTORY LANGUAGE [NAME=FILE ...]` in a process of its
own for the plain and for the prepared model; the two outputs must be the same to the byte.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from models.contract import ModelError
from models.prepared.compiler import ended_by_signal

_ODD_CHUNK_BYTES = 3334
_EVEN_CHUNK_BYTES = 8000


def must_answer_alike(directory: Path, language: str, made: Mapping[str, Path]) -> None:
    """Compare the model as it is with the same and `made` in it. Raises `ModelError`."""
    plain = _answers(directory, language, {})
    prepared = _answers(directory, language, made)
    if plain != prepared:
        pairs = zip(plain.splitlines(), prepared.splitlines(), strict=False)
        first = next((f"{a[:200]!r} became {b[:200]!r}" for a, b in pairs if a != b), "")
        raise ModelError(
            "answers_differ", f"the prepared model does not answer like its original: {first}"
        )


def _answers(directory: Path, language: str, made: Mapping[str, Path]) -> str:
    files = [f"{name}={file}" for name, file in made.items()]
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(directory), language, *files],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode < 0:
        raise ended_by_signal("the self-check", -done.returncode)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ModelError("selfcheck_failed", f"the self-check could not run: {last}")
    return done.stdout


def everything_said(directory: Path, language: str, made: Mapping[str, Path]) -> Iterator[str]:
    """Every final and partial result of every clip, as the engine's own JSON."""
    from models.clips import clips_for, decode_clip
    from models.vosk_model import SAMPLE_RATE, VoskModel

    model = VoskModel(directory, made)
    for number, clip in enumerate(clips_for(language)):
        pcm = decode_clip(clip, SAMPLE_RATE)
        yield from model.raw_results(pcm, _ODD_CHUNK_BYTES, alternatives=0, partials=True)
        if number == 0:
            yield from model.raw_results(pcm, _EVEN_CHUNK_BYTES, alternatives=3, partials=False)


def main(arguments: list[str]) -> None:
    """Print it."""
    directory, language, *files = arguments
    made = dict(file.split("=", 1) for file in files)
    paths = {name: Path(file) for name, file in made.items()}
    for result in everything_said(Path(directory), language, paths):
        print(result.replace("\n", " "))  # noqa: T201 - this is what the process is for


if __name__ == "__main__":
    main(sys.argv[1:])
