"""Leftovers: files that no model needs are listed and removed; files in use, or being made, are
not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.locks import Held, hold
from models.prepared.manifest import FileStamp, Manifest, directory_name, key_of, write_manifest
from models.prepared.store import LOCK_PREFIX, PARTIAL_PREFIX
from models.vosk.prepared import MAKER, find_leftovers, prepared_models, remove_leftover

STAMP = FileStamp(4, 1, "0" * 64)


def make(store: Path, original: Path, name: str = "m", maker: str = MAKER.version) -> Path:
    """Return a prepared model of the model in `original`, as far as its manifest goes."""
    graph = original / "graph"
    graph.mkdir(parents=True, exist_ok=True)
    (graph / "Gr.fst").write_bytes(b"some")
    sources = {"graph/Gr.fst": FileStamp.of(graph / "Gr.fst")}
    key = key_of(sources, maker)
    directory = store / directory_name(name, key)
    directory.mkdir(parents=True)
    (directory / "large").write_bytes(bytes(5000))
    made = {"graph/HCLG.fst": STAMP}
    manifest = Manifest(name, "ko", key, str(original), sources, made, 1.0, 1, "", maker)
    write_manifest(directory, manifest)
    return directory


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    make(tmp_path / "store", tmp_path / "m")
    assert find_leftovers(tmp_path / "store") == []
    assert find_leftovers(tmp_path / "none") == []


def test_a_model_that_was_replaced_or_removed_has_leftovers(tmp_path: Path) -> None:
    store = tmp_path / "store"
    replaced, removed = make(store, tmp_path / "a", "a"), make(store, tmp_path / "b", "b")
    (tmp_path / "a" / "graph" / "Gr.fst").write_bytes(b"else")
    shutil.rmtree(tmp_path / "b")
    one, other = find_leftovers(store)
    assert (one.path, one.certain) == (replaced, True)
    assert "Gr.fst of the original has changed" in one.why
    assert (other.path, other.certain) == (removed, False)  # a disk that is not mounted, perhaps
    assert "not there any more" in other.why
    assert one.bytes > 5000
    assert remove_leftover(one)
    assert not replaced.exists()


def test_what_another_version_made_is_listed(tmp_path: Path) -> None:
    directory = make(tmp_path / "store", tmp_path / "m", maker="compile-graph 0")
    (found,) = find_leftovers(tmp_path / "store")
    assert found.path == directory
    assert "made by 'compile-graph 0'" in found.why
    assert [p.directory for p in prepared_models(tmp_path / "store")] == [directory]
    (directory / "prepared.json").write_text('{"name": "m", "format": 7}')
    (found,) = find_leftovers(tmp_path / "store")
    assert found.path == directory


@pytest.mark.parametrize("name", ["{key}", "{key}-import", "{key}-replaced", "removed-m-{key}"])
def test_what_killed_processes_have_left_goes_unless_it_is_still_being_made(
    tmp_path: Path, name: str
) -> None:
    key = "0123456789abcdef"
    left = tmp_path / (PARTIAL_PREFIX + name.format(key=key))
    (left / "graph").mkdir(parents=True)
    (left / "graph" / "HCLG.fst.arcs").write_bytes(bytes(1000))
    (found,) = find_leftovers(tmp_path)
    assert (found.certain, found.bytes) == (True, 1000)
    with hold(tmp_path / f"{LOCK_PREFIX}{key}"):
        assert not remove_leftover(found)
        assert left.exists()
    assert remove_leftover(found)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_held_by_one_and_goes_with_it(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with hold(file), pytest.raises(Held, match=str(os.getpid())), hold(file):
        pytest.fail("both hold it")
    assert not file.exists()


def test_the_command_lists_and_removes(tmp_path: Path) -> None:
    store, home = tmp_path / "store", tmp_path / "models"
    directory = make(store, tmp_path / "m")
    shutil.rmtree(tmp_path / "m")
    (store / "tools").mkdir()
    (store / "tools" / "compile-graph-old").write_bytes(bytes(100))
    (home / ".m-removed").mkdir(parents=True)
    (home / ".fetch").mkdir()
    (home / ".fetch" / "x.zip.partial").write_bytes(bytes(100))
    command = [sys.executable, "-P", "-m", "modelserver", "models", "clean"]
    command += ["--prepared-dir", str(store), "--models-dir", str(home)]

    def run(*flags: str) -> str:
        return subprocess.run([*command, *flags], capture_output=True, text=True, check=True).stdout

    listed = run("--dry-run")
    for name in (directory.name, "compile-graph-old", ".m-removed", "x.zip.partial"):
        assert name in listed
    assert directory.exists()
    assert "freed" in run()
    assert not directory.exists()
    assert not (home / ".fetch" / "x.zip.partial").exists()
    assert list((store / "tools").iterdir()) == []
    assert run() == "nothing to remove\n"


def test_what_a_killed_build_has_left_goes_once_it_is_old(tmp_path: Path) -> None:
    left, running = tmp_path / "tools" / ".build-old", tmp_path / "tools" / ".build-new"
    for directory in (left, running):
        directory.mkdir(parents=True)
        (directory / "made").write_bytes(bytes(1000))
    os.utime(left, (0, 0))
    (found,) = find_leftovers(tmp_path)
    assert (found.path, found.certain, found.bytes) == (left, True, 1000)
    assert remove_leftover(found)
    assert running.exists()
