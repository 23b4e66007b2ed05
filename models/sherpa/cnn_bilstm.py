"""English punctuation and case by a CNN-BiLSTM (https://arxiv.org/abs/2407.13142), as sherpa-onnx
releases it, run by ONNX Runtime.

sherpa-onnx's own class for these models starts threads, which forked workers would not have, and
confuses the words of texts that it has to cut.
"""

from pathlib import Path

from models.contract import ModelError
from models.sherpa.runtime import Integers, Runtime

_PIECES = 200
"""Length of the network's input. A text starts with 1 (`<s>`) and ends with 2 (`</s>`)."""
_START, _END = 1, 2
_INPUTS = ("token_ids", "valid_ids", "label_lens")
_OUTPUTS = ("active_case_logits", "active_punct_logits")
_MARKS = ("", ",", ".", "?")
_UPPER, _CAPITALISED = 1, 2
_VOCABULARY_BYTES_MOST = 16_000_000


class WordPieces:
    """Word pieces with scores, as SentencePiece writes them: `PIECE SCORE`, in the order of their
    numbers."""

    def __init__(self, file: Path) -> None:
        """Read the file of pieces. Raises `ModelError`."""
        self._pieces: dict[str, tuple[int, float]] = {}
        with file.open("rb") as reader:
            lines = reader.read(_VOCABULARY_BYTES_MOST).decode("utf-8", "replace").splitlines()
        for number, line in enumerate(lines):
            try:
                piece, score = line.split()
                self._pieces[piece] = number, float(score)
            except ValueError:
                raise ModelError(
                    "model_invalid",
                    f"{file}, line {number + 1}: {line[:60]!r} is not a piece and its score",
                ) from None
        self._unknown = self._pieces.get("<unk>", (0, 0.0))[0]
        self._longest = max(map(len, self._pieces), default=1)

    def numbers(self, word: str) -> list[int]:
        """Return the numbers of the pieces of a word that have the highest sum of scores."""
        text = f"▁{word}"
        best = [(0.0, len(text) + 1, self._unknown)] * (len(text) + 1)
        for start in reversed(range(len(text))):
            found = (
                (piece[1] + best[end][0], end, piece[0])
                for end in range(start + 1, min(len(text), start + self._longest) + 1)
                if (piece := self._pieces.get(text[start:end])) is not None
            )
            best[start] = max(found, default=(0.0, start + 1, self._unknown))
        numbers: list[int] = []
        at = 0
        while at < len(text):
            _, at, number = best[at]
            if number != self._unknown or not numbers or numbers[-1] != number:
                numbers.append(number)
        return numbers


class CnnBilstm:
    """A loaded network with its word pieces."""

    def __init__(self, network: Path, words: Path) -> None:
        """Load it. Raises `ModelError`."""
        self._pieces = WordPieces(words)
        self._runtime = Runtime()
        self._session = self._runtime.session(network, self._runtime.options())

    def __call__(self, text: str) -> str:
        """Return the words with marks and case; of a long text, as many as the network accepts."""
        numbers, valid, words = [_START], [1], []
        for word in text.split():
            pieces = self._pieces.numbers(word)
            if len(numbers) + len(pieces) >= _PIECES:
                break
            words.append(word)
            numbers += pieces
            valid += [1, *[0] * (len(pieces) - 1)]
        numbers.append(_END)
        valid.append(1)
        rest = [0] * (_PIECES - len(numbers))
        shape = 1, _PIECES
        values = (
            Integers(numbers + rest, shape),
            Integers(valid + rest, shape),
            Integers([len(words) + 2], (1,)),
        )
        inputs = dict(zip(_INPUTS, values, strict=True))
        cases, marks = self._runtime.run(self._session, inputs, _OUTPUTS)
        if len(cases) != len(words) or len(marks) != len(words):
            raise ModelError("engine_failed", "the network did not return one answer for each word")
        return " ".join(map(_written, words, cases, marks))


def _written(word: str, cases: list[float], marks: list[float]) -> str:
    case, mark = (row.index(max(row)) for row in (cases, marks))
    if case == _UPPER:
        word = word.upper()
    elif case == _CAPITALISED:
        word = word[:1].upper() + word[1:]
    return word + (_MARKS[mark] if mark < len(_MARKS) else "")
