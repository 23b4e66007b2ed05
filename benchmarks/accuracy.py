"""Error rates of each profile on audio whose words are known. A part of `bench.py`, with
`--audio DIR --references FILE`: what espeak-ng says the embedded model does not understand (98 % of
the characters were wrong, with each profile), so that nothing is to be learnt from it."""

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from findings import Asked, Finding, LeftOutError, Table, say

from modelserver.evaluation.errors import difference_of
from modelserver.evaluation.run import Run, difference_in_words, rate_in_words

PROFILES = ("balanced", "fast", "accurate")
"""The default first: the others are compared with it."""


def accuracy(asked: Asked) -> Finding:
    """As `modelserver evaluate` finds them."""
    if asked.references is None:
        raise LeftOutError("it needs people's speech: `--audio DIR --references FILE`")
    finding, runs, rows = Finding(), list[Run](), []
    for profile in PROFILES:
        runs.append(_evaluated(asked.audio, asked.references, profile))
        rows.append((profile, *_in_words(runs[-1], runs[0])))
        say(" | ".join(rows[-1]))
    finding.said.append(
        f"{len(runs[0].files)} files. In brackets: 95 %, by bootstrap over files; p by a "
        "randomisation of pairs. Punctuation and blanks between characters do not count."
    )
    head = ("profile", "characters wrong", "words wrong", "characters, against balanced")
    finding.tables.append(Table("", head, rows))
    finding.raw["runs"] = msgspec.to_builtins(runs)
    return finding


def _evaluated(audio: Path, references: Path, profile: str) -> Run:
    with tempfile.TemporaryDirectory() as directory:
        saved = Path(directory) / "run.json"
        command = [
            *(sys.executable, "-m", "modelserver", "evaluate", f"--audio={audio}"),
            *(f"--references={references}", f"--profile={profile}", f"--save={saved}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LeftOutError(done.stderr.strip())
        return msgspec.json.decode(saved.read_bytes(), type=Run)


def _in_words(run: Run, usual: Run) -> tuple[str, str, str]:
    against = ""
    if run is not usual:
        against = difference_in_words(
            difference_of(
                [file.characters for file in run.files], [file.characters for file in usual.files]
            )
        )
    return rate_in_words(run.characters), rate_in_words(run.words), against
