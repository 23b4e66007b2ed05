"""Files that are read again when they have changed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelserver.access.keyring import Keyring, KeysUnreadable, hash_of
from modelserver.rereading import read_if_changed
from modelserver.serving.keywords import KeywordsUnreadable, read_keywords

pytestmark = pytest.mark.quick


def write(file: Path, text: str) -> None:
    """Write in place, and leave the file's stamp as it was if the length is the same."""
    before = file.stat() if file.exists() else None
    file.write_text(text)
    if before is not None:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_file_is_read_when_its_stamp_changes_only(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    found = read_if_changed(file, None, Path.read_text)
    assert found is not None
    assert found[1] == "one"
    stamp = found[0]
    assert read_if_changed(file, stamp, Path.read_text) is None
    file.write_text("three")
    again = read_if_changed(file, stamp, Path.read_text)
    assert again is not None
    assert again[1] == "three"


@pytest.mark.parametrize(
    ("read", "error"),
    [(read_keywords, KeywordsUnreadable), (lambda file: Keyring(file).read(), KeysUnreadable)],
)
def test_a_file_that_is_not_there_is_a_sentence(
    read: Callable[[Path], Any], error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error, match="cannot be read: No such file"):
        read_if_changed(tmp_path / "missing", None, read)


def test_a_keyring_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    """Make the file readable again without changing its stamp, as its mode may do."""
    file = tmp_path / "keys"
    good = f"alice sha256:{hash_of('a-key')}\n"
    write(file, good)
    ring = Keyring(file)
    ring.read()
    write(file, good.replace("sha256", "sha000") + "\n")
    ring._looked_at = float("-inf")
    assert ring.name_of("a-key") == "alice"
    assert ring.problem is not None
    write(file, good + "\n")
    ring._looked_at = float("-inf")
    assert ring.name_of("a-key") == "alice"
    assert ring.problem is None
