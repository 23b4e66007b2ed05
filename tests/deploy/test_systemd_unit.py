"""The unit file, as systemd itself reads it."""

import re
import subprocess
import sys
from pathlib import Path

from places import ROOT

UNIT = ROOT / "systemd" / "modelserver.service"


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/modelserver/bin/modelserver", sys.executable))
    run = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_its_exposure_is_low() -> None:
    run = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", UNIT],
        capture_output=True,
        text=True,
        check=True,
    )
    level = re.search(r"exposure level for modelserver.service: ([\d.]+)", run.stdout)
    assert level is not None
    assert float(level.group(1)) < 2.0


def test_its_times_leave_the_server_room_to_drain() -> None:
    from modelserver.settings import Settings

    stop = re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert stop is not None
    assert int(stop.group(1)) >= Settings().drain_s + 10
