"""Files that are never seen incomplete, on disks that are never filled to the last byte."""

import errno
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from subprocess import PIPE
from unittest.mock import Mock

import pytest

import models
import models.durable
from models.durable import place_tree
from models.fetching import pull_file
from models.vosk.prepared import Needs, must_be_affordable

LOOKS = """
import sys
from pathlib import Path
file = Path(sys.argv[1])
print("began", flush=True)
missing = 0
while not Path(sys.argv[2]).exists():
    for _ in range(100):
        missing += not file.exists()
print(missing)
"""


@pytest.mark.parametrize("able", [True, False], ids=["", "on a file system that cannot exchange"])
def test_one_that_is_replaced_is_there_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    if not able:
        refused = OSError(errno.EINVAL, "")
        monkeypatch.setattr(models.durable, "_exchange", Mock(side_effect=refused))
    target, over = tmp_path / "target", tmp_path / "over"
    target.mkdir()
    (target / "manifest").write_text("0")
    command = [sys.executable, "-c", LOOKS, target / "manifest", over]
    with subprocess.Popen(command, stdout=PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "began\n"
        for number in range(1, 200):
            made = tmp_path / "made"
            made.mkdir()
            (made / "manifest").write_text(str(number))
            place_tree(made, target)
            assert (target / "manifest").read_text() == str(number)
            shutil.rmtree(made, ignore_errors=True)
        over.touch()
        missing = int(reader.stdout.readline())
    assert missing == 0 or not able
    assert {path.name for path in tmp_path.iterdir()} == {"target", "over"}


def _archive(file: Path, size: int) -> Path:
    with zipfile.ZipFile(file, "w") as writer:
        writer.writestr("mine/am/final.mdl", b"")
        writer.writestr("mine/graph/HCLG.fst", os.urandom(size))
    return file


def test_a_part_of_the_disk_is_left_to_other_programs(small_disk: Path, tmp_path: Path) -> None:
    usage = shutil.disk_usage(small_disk)
    reserve = usage.total // 20
    for size in (usage.free - reserve // 2, usage.free - 1):
        with pytest.raises(models.ModelError, match=r"bytes unpacked, \d+ are free") as caught:
            pull_file(_archive(tmp_path / "large.zip", size), small_disk, lambda *_: None)
        assert caught.value.code == "no_space"
        with pytest.raises(models.ModelError, match="of disk is free") as caught:
            must_be_affordable(Needs(1.0, 0, size, 0, 0), 10**12, small_disk)
        assert caught.value.code == "cannot_afford"
    assert list(small_disk.iterdir()) == []
    room = usage.free - reserve - 65_536  # less directories, and what is written beside it
    must_be_affordable(Needs(1.0, 0, room, 0, 0), 10**12, small_disk)
    assert pull_file(_archive(tmp_path / "fits.zip", room), small_disk, lambda *_: None).is_dir()
