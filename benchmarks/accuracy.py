"""Error rates of each profile on audio whose words are known. A part of `bench.py`, with
`--audio DIR --references FILE`."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from findings import Asked, Finding, LeftOutError, Table, say

PROFILES = ("fast", "balanced", "accurate")


def accuracy(asked: Asked) -> Finding:
    """As `modelserver evaluate` finds them."""
    if asked.references is None:
        raise LeftOutError("it needs `--audio DIR --references FILE`")
    rows, compared = [], []
    with tempfile.TemporaryDirectory() as directory:
        for profile in PROFILES:
            saved = Path(directory) / f"{profile}.json"
            command = [
                *(sys.executable, "-m", "modelserver", "evaluate", f"--audio={asked.audio}"),
                *(f"--references={asked.references}", f"--profile={profile}", f"--save={saved}"),
            ]
            if profile != "balanced" and (Path(directory) / "balanced.json").exists():
                command.append(f"--against={directory}/balanced.json")
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise LeftOutError(done.stderr.strip())
            rows.append((profile, done.stdout.strip().replace("\n", "; ")))
            compared.append(json.loads(saved.read_text()))
            say(" ".join(rows[-1]))
    finding = Finding(raw={"runs": compared})
    finding.tables.append(Table("", ("profile", "what `modelserver evaluate` says"), rows))
    return finding
