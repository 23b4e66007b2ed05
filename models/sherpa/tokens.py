"""Tokens of a model: the file of them, and the scores by which text is cut into them."""

import contextlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path

from models.contract import ModelError
from models.sherpa.files import names_in
from models.sherpa.metadata import NotOnnx, fields_of

_BYTES_MOST = 32_000_000
_SCORES_BYTES_MOST = 8_000_000
_PIECES, _TEXT, _SCORE = 1, 1, 2
"""Fields of a SentencePiece model (sentencepiece_model.proto), and of each of its pieces."""
_MOST_PIECES = 100_000


def read_tokens(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the tokens of a file and their numbers. Each of its lines is a token and its number; a
    line with only a number is the space. Raises `ModelError`."""
    with file.open("rb") as reader:
        content = reader.read(_BYTES_MOST + 1)
    if len(content) > _BYTES_MOST:
        raise ModelError("model_invalid", f"{file} is larger than any file of tokens")
    for count, line in enumerate(content.split(b"\n"), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) > 2 or not parts[-1].isdigit() or len(parts[-1]) > 8:
            shown = line[:60].decode("utf-8", "replace").strip()
            raise ModelError(
                "model_invalid", f"{file}, line {count}: {shown!r} is not a token and its number"
            )
        text = parts[0].decode("utf-8", "replace") if len(parts) == 2 else " "
        yield text, int(parts[-1])


def read_scores(directory: Path) -> dict[str, float]:
    """Return the scores of pieces by the first file that has them: a vocabulary (`bpe.vocab`: a
    piece and its score on each line), or a SentencePiece model (`bpe.model`). An empty dictionary
    if there is no readable one."""
    for ending, read in ((".vocab", _of_vocabulary), (".model", _of_model)):
        for name in names_in(directory):
            if name.endswith(ending) and (directory / name).is_file():
                with (
                    contextlib.suppress(OSError, ValueError, NotOnnx),
                    (directory / name).open("rb") as file,
                ):
                    if scores := dict(read(file.read(_SCORES_BYTES_MOST))):
                        return scores
    return {}


def _of_vocabulary(content: bytes) -> Iterator[tuple[str, float]]:
    for line in content.decode().split("\n"):
        if parts := line.split():
            yield parts[0], float(parts[1] if len(parts) == 2 else "none")


def _of_model(content: bytes) -> Iterator[tuple[str, float]]:
    reader = io.BytesIO(content)
    for number, _, length in fields_of(reader, len(content), _MOST_PIECES):
        if number == _PIECES:
            yield _piece(reader, reader.tell() + length)


def _piece(reader: io.BytesIO, end: int) -> tuple[str, float]:
    text, score = "", 0.0
    for number, _, length in fields_of(reader, end):
        if number == _TEXT:
            text = reader.read(length).decode()
        elif number == _SCORE and length == 4:
            (score,) = struct.unpack("<f", reader.read(4))
    return text, score
