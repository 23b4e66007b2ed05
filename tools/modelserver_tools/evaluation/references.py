"""Reference transcripts, read from a file in one of several common formats."""

import csv
import json
import re
from pathlib import Path

_NAMES = ("file", "audio", "audio_filepath", "path", "filename", "name", "id", "utt", "wav")
_TEXTS = ("text", "sentence", "transcript", "transcription", "reference", "ref")
_TRN = re.compile(r"^(.*)\(([^()\s]+)\)\s*$")


class ReferencesUnusable(Exception):
    """File without usable references; the text says why, with the line if there is one."""


def read_references(file: Path) -> dict[str, str]:
    """Read references by the stem of the audio file's name. Formats: CSV or TSV with a header, JSON
    lines, NIST's trn ("text (name)"), or Kaldi's ("name text")."""
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ReferencesUnusable(f"{file}: {reason}") from error
    lines = [line for line in content.splitlines() if line.strip()]
    read = {".csv": _csv, ".tsv": _csv, ".jsonl": _json, ".json": _json, ".trn": _trn}
    found: dict[str, str] = {}
    for number, (name, text) in enumerate(read.get(file.suffix.lower(), _kaldi)(file, lines), 1):
        key = Path(name).stem if Path(name).suffix else name
        if key in found:
            raise ReferencesUnusable(f"{file}: {name} is there twice (entry {number})")
        found[key] = text
    if not found:
        raise ReferencesUnusable(f"{file}: there is nothing in it")
    return found


def _csv(file: Path, lines: list[str]) -> list[tuple[str, str]]:
    rows = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
    named = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
    name = next((named[one] for one in _NAMES if one in named), None)
    text = next((named[one] for one in _TEXTS if one in named), None)
    if name is None or text is None:
        raise ReferencesUnusable(
            f"{file}: its first line has to name a column of {', '.join(_NAMES)} and one of "
            f"{', '.join(_TEXTS)}"
        )
    return [(row[name] or "", row[text] or "") for row in rows]


def _json(file: Path, lines: list[str]) -> list[tuple[str, str]]:
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            name = next(entry[one] for one in _NAMES if one in entry)
            text = next(entry[one] for one in _TEXTS if one in entry)
        except (ValueError, TypeError, StopIteration) as error:
            raise ReferencesUnusable(
                f"{file}: line {number} is not a JSON object with a name and a text"
            ) from error
        found.append((str(name), str(text)))
    return found


def _trn(file: Path, lines: list[str]) -> list[tuple[str, str]]:
    found = []
    for number, line in enumerate(lines, 1):
        if (match := _TRN.match(line)) is None:
            raise ReferencesUnusable(f"{file}: line {number} does not end with (name)")
        found.append((match[2], match[1].strip()))
    return found


def _kaldi(_: Path, lines: list[str]) -> list[tuple[str, str]]:
    parted = (line.strip().split(None, 1) for line in lines)
    return [(first, rest[0] if rest else "") for first, *rest in parted]
