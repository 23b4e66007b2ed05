"""Error rates of each profile on audio whose words are known: that of `--audio DIR --references
FILE`, or synthetic speech. A part of `bench.py`."""

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import utterances
from findings import Asked, Finding, LeftOutError, Table, say

from modelserver.evaluation.errors import difference_of
from modelserver.evaluation.run import Run

PROFILES = ("balanced", "fast", "accurate")
"""The default first: the others are compared with it."""


def accuracy(asked: Asked) -> Finding:
    """As `modelserver evaluate` finds them."""
    audio, references = asked.audio, asked.references
    finding, runs = Finding(), list[Run]()
    if references is None:
        if not (audio / utterances.REFERENCES).is_file():
            raise LeftOutError("what is said in the audio is not known: `--references FILE`")
        audio = utterances.varied(160 if asked.full else 40, 10.0)
        references = audio / utterances.REFERENCES
        finding.said.append(
            "Speech made by espeak-ng, half of it with noise. It shows whether the profiles "
            "differ; how well the model hears people it does not show."
        )
    rows = []
    for profile in PROFILES:
        runs.append(_evaluated(audio, references, profile))
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
    rates = tuple(f"{r.rate:.1%} ({r.low:.1%} - {r.high:.1%})" for r in (run.characters, run.words))
    if run is usual:
        return (*rates, "")
    found = difference_of(
        [file.characters for file in run.files], [file.characters for file in usual.files]
    )
    points = [f"{100 * one:+.1f}" for one in (found.difference, found.low, found.high)]
    return (*rates, f"{points[0]} points ({points[1]} to {points[2]}), p = {found.p:.3f}")
