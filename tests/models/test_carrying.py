"""Export of a prepared model to another machine, where the imported file is not trusted."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from harmed import flip, leftovers

import models
from models.prepared.manifest import read_manifest
from models.vosk.prepared import (
    PreparedModel,
    compiled_graph,
    export_prepared,
    find_prepared,
    import_prepared,
    prepared_models,
    verify,
)


def test_it_can_be_carried_to_another_machine(
    tmp_path: Path, store: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    file = tmp_path / "small.tar"
    export_prepared(prepared_small, file)
    assert list(tmp_path.glob("*.partial")) == []
    made = import_prepared(file, small, store)
    assert verify(made) == []
    assert find_prepared(small, store).prepared == made
    assert (made.directory / "am" / "final.mdl").is_file()
    for name, stamp in made.manifest.sources.items():  # so that no look reads them again
        assert stamp.mtime_ns == (small.directory / name).stat().st_mtime_ns
    assert leftovers(store) == []


def test_a_damaged_model_is_not_exported(tmp_path: Path, copied: PreparedModel) -> None:
    flip(compiled_graph(copied.directory), 5000)
    with pytest.raises(models.ModelError, match="damaged"):
        export_prepared(copied, tmp_path / "small.tar")
    assert not (tmp_path / "small.tar").exists()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, prepared_small: PreparedModel) -> bytes:
    file = tmp_path_factory.mktemp("archive") / "small.tar"
    export_prepared(prepared_small, file)
    return file.read_bytes()


def rewritten(archive: bytes, **changes: bytes | None) -> bytes:
    """Return the archive with members replaced, or left out; `manifest` is a text replacement
    a=>b."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as source,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source:
            reader = source.extractfile(member)
            assert reader is not None
            content: bytes | None = reader.read()
            assert content is not None
            if member.name == "prepared.json" and "manifest" in changes:
                change = changes["manifest"]
                assert change is not None
                content = content.replace(*change.split(b"=>"))
            key = Path(member.name).stem
            if key in changes:
                content = changes[key]
            if content is not None:
                member.size = len(content)
                target.addfile(member, io.BytesIO(content))
    return out.getvalue()


def with_a_bit_flipped(archive: bytes, at: int) -> bytes:
    """Return the archive with one bit of the byte `at` flipped."""
    return archive[:at] + bytes([archive[at] ^ 1]) + archive[at + 1 :]


STAMP = {"size": 1, "mtime_ns": 0, "sha256": "0" * 64}


def manifest_of(archive: bytes, **fields: object) -> bytes:
    """Return the archive with other fields in its manifest."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as source:
        reader = source.extractfile("prepared.json")
        assert reader is not None
        manifest = json.loads(reader.read()) | fields
    return rewritten(archive, prepared=json.dumps(manifest).encode())


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda a: b"", "cannot be imported"),
        (lambda a: b"hello" * 1000, "cannot be imported"),
        (lambda a: a[: len(a) // 2], "cannot be imported"),
        (lambda a: with_a_bit_flipped(a, len(a) // 2), "checksum"),
        (lambda a: rewritten(a, words=None), r"words.txt is missing"),
        (lambda a: rewritten(a, words=b"few"), "another size"),
        (lambda a: rewritten(a, prepared=b"{}"), "manifest cannot be read"),
        (lambda a: rewritten(a, prepared=None), "does not begin with a manifest"),
        (lambda a: rewritten(a, manifest=b'"graph/words.txt"=>"../../words.txt"'), "names files"),
        (lambda a: rewritten(a, manifest=b'"graph/words.txt"=>"/etc/words.txt"'), "names files"),
        (
            lambda a: rewritten(a, manifest=b'"name": "small"=>"name": "../small"'),
            "names files|not a valid name",
        ),
        # Made from nothing it would fit every model; these it would replace are not made here.
        (lambda a: manifest_of(a, sources={}), "names files|key"),
        (lambda a: manifest_of(a, sources={"/etc/passwd": STAMP}), "names files|key"),
        (lambda a: manifest_of(a, made={"am/final.mdl": STAMP}), "names files"),
        (lambda a: manifest_of(a, made={"prepared.json": STAMP}), "names files"),
        (lambda a: manifest_of(a, name="other"), "made from other"),
        (lambda a: manifest_of(a, name="x\n\x1b[31m"), "not a valid name"),
        (lambda a: rewritten(a, manifest=b'"format": 1=>"format": 9'), "its format is 9"),
        (lambda a: rewritten(a, manifest=b'"sha256": "862822=>"sha256": "000000'), "its key"),
    ],
)
def test_a_file_that_is_not_right_is_refused(
    tmp_path: Path,
    store: Path,
    small: models.ModelLocation,
    archive: bytes,
    harm: object,
    says: str,
) -> None:
    file = tmp_path / "small.tar"
    file.write_bytes(harm(archive))  # type: ignore[operator]
    with pytest.raises(models.ModelError, match=says):
        import_prepared(file, small, store)
    assert list(prepared_models(store)) == []
    assert leftovers(store) == []


def test_two_imports_at_once_do_not_harm_each_other(
    tmp_path: Path, store: Path, small: models.ModelLocation, archive: bytes
) -> None:
    file = tmp_path / "small.tar"
    file.write_bytes(archive)
    command = [sys.executable, "-m", "modelserver", "models", "import", str(file)]
    command += [str(small.directory), "--language", "ko", "--prepared-dir", str(store)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [(process.communicate(timeout=60)[1], process.returncode) for process in running]
    assert 0 in [status for _, status in said]
    assert all(status == 0 or "being prepared" in text for text, status in said), said
    (made,) = prepared_models(store)
    assert verify(made) == []
    assert leftovers(store) == []


def test_names_in_a_model_s_own_manifest_lead_nowhere(
    small: models.ModelLocation, copied: PreparedModel
) -> None:
    """Check an archive into which its maker may have put one."""
    file = copied.directory / "prepared.json"
    manifest = json.loads(file.read_text())
    elsewhere = ("../evil/payload", "/etc/hostname", "graph/../../x", "graph//x", "a\nb", "")
    for name in (*elsewhere, "prepared.json", "am/final.mdl"):
        file.write_text(json.dumps(manifest | {"made": {name: STAMP}}))
        if name != "am/final.mdl":
            assert read_manifest(copied.directory) is None
        # One that leads nowhere else, but is not made when a Vosk model is prepared.
        assert find_prepared(small, copied.directory.parent).prepared is None
