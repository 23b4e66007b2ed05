"""A prepared ONNX model answers as its original in a fraction of the memory, or is not used."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from onnx_models import make_model, tones

from models.contract import ModelError, ModelLocation
from models.prepared import (
    PreparedModel,
    export_prepared,
    find_leftovers,
    find_prepared,
    import_prepared,
    verify,
)
from models.sherpa import prepared as onnx_prepared
from models.sherpa.layout import recognise
from models.sherpa.prepared import MAKER, prepare
from models.sherpa.runtime import Runtime

MB = 1_000_000
PLENTY = 100_000 * MB
WEIGHTS_BYTES = 60 * MB

_LOAD = """
import sys
from pathlib import Path
from models.contract import RecognitionOptions
from models.sherpa.layout import recognise
from models.sherpa.model import load_sherpa
from models.sherpa.selfcheck import _anonymous, _text
before = _anonymous()
options = {"prepared": sys.argv[2] == "prepared", "voice_activity": "loudness"}
model = load_sherpa(recognise(Path(sys.argv[1])), options)
text = _text(model, sys.stdin.buffer.read())
print(_anonymous() - before, text, sep="|")
"""


def served(directory: Path, form: str, text: str) -> tuple[int, str]:
    """Return the bytes of unreclaimable memory, and the text recognised in the tones."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LOAD, str(directory), form],
        input=tones(text),
        capture_output=True,
        check=True,
    )
    size, said = done.stdout.decode().strip().split("|")
    return int(size), said


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> ModelLocation:
    directory = tmp_path_factory.mktemp("onnx") / "tones"
    return ModelLocation(
        "tones", make_model("zipformer_ctc", directory, padding_bytes=WEIGHTS_BYTES), "en"
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def made(location: ModelLocation, store: Path) -> PreparedModel:
    return prepare(location, store, available_memory=PLENTY)


@pytest.fixture
def copied(made: PreparedModel, tmp_path: Path) -> PreparedModel:
    """A copy that may be damaged."""
    subprocess.run(["cp", "-a", made.directory, tmp_path / "store-copy"], check=True)
    target = tmp_path / "store" / made.directory.name
    target.parent.mkdir()
    (tmp_path / "store-copy").rename(target)
    return PreparedModel(target, made.manifest)


def test_the_same_text_in_a_fraction_of_the_memory(
    location: ModelLocation, made: PreparedModel
) -> None:
    text = "abc de fgh"
    before, said = served(location.directory, "published", text)
    after, same = served(made.directory, "prepared", text)
    assert (said, same) == (text, text)
    assert before > WEIGHTS_BYTES
    assert after < before - 0.8 * WEIGHTS_BYTES
    assert made.bytes_on_disk > 0.9 * WEIGHTS_BYTES
    assert verify(made, MAKER) == []


def test_it_is_found_and_not_made_twice(
    location: ModelLocation, store: Path, made: PreparedModel
) -> None:
    assert find_prepared(location, store, MAKER).prepared == made
    assert prepare(location, store, available_memory=PLENTY) == made


@pytest.mark.parametrize("ending", [".onnx", ".onnx.data"])
def test_a_damaged_copy_is_detected(
    location: ModelLocation, copied: PreparedModel, ending: str
) -> None:
    (name,) = (name for name in copied.manifest.made if name.endswith(ending))
    file = copied.directory / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    assert any(name in problem for problem in verify(copied, MAKER))
    lookup = find_prepared(location, copied.directory.parent, MAKER)
    assert lookup.prepared is None
    assert name in lookup.problems[0]
    file.write_bytes(content[:-5])
    assert find_prepared(location, copied.directory.parent, MAKER).prepared is None


def test_a_copy_of_another_machine_is_not_used(
    location: ModelLocation, copied: PreparedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_prepared, "_processor_digest", lambda: "0123456789ab")
    lookup = find_prepared(location, copied.directory.parent, MAKER)
    assert lookup.prepared is None
    assert "processor 0123456789ab" in lookup.problems[0]
    (leftover,) = find_leftovers(copied.directory.parent, MAKER)
    assert leftover.path == copied.directory


def test_a_model_that_was_replaced_is_prepared_anew(
    location: ModelLocation, copied: PreparedModel, tmp_path: Path
) -> None:
    other = make_model("zipformer_ctc", tmp_path / "tones", padding_bytes=WEIGHTS_BYTES // 2)
    replaced = ModelLocation("tones", other, "en")
    assert find_prepared(replaced, copied.directory.parent, MAKER).prepared is None


def test_it_is_carried_to_another_store(
    location: ModelLocation, made: PreparedModel, tmp_path: Path
) -> None:
    export_prepared(made, tmp_path / "file", MAKER)
    taken = import_prepared(
        tmp_path / "file", location, tmp_path / "store", MAKER, available_memory=PLENTY
    )
    assert served(taken.directory, "prepared", "dab")[1] == "dab"


def test_what_another_processor_has_made_is_not_imported(
    location: ModelLocation, made: PreparedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_prepared(made, tmp_path / "file", MAKER)
    monkeypatch.setattr(onnx_prepared, "_processor_digest", lambda: "0123456789ab")
    with pytest.raises(ModelError, match="0123456789ab") as caught:
        import_prepared(tmp_path / "file", location, tmp_path / "store", MAKER)
    assert caught.value.code == "bad_archive"
    assert not any(file.is_dir() for file in (tmp_path / "store").iterdir())


def test_a_model_that_gains_nothing_is_served_as_it_was_published(tmp_path: Path) -> None:
    small = ModelLocation("small", make_model("zipformer_ctc", tmp_path / "small"), "en")
    with pytest.raises(ModelError) as caught:
        prepare(small, tmp_path / "store", available_memory=PLENTY)
    assert caught.value.code == "does_not_pay"
    assert find_prepared(small, tmp_path / "store", MAKER).prepared is None
    with pytest.raises(ModelError) as again:
        prepare(small, tmp_path / "store", available_memory=PLENTY, again=False)
    assert again.value.code == "failed_before"


def test_recordings_of_other_formats_are_passed_over(tmp_path: Path) -> None:
    """Beside a model, for the comparison: floats, which `wave` refuses, and nothing."""
    directory = make_model("zipformer_ctc", tmp_path / "m", padding_bytes=WEIGHTS_BYTES)
    (directory / "test_wavs").mkdir()
    floats = b"RIFF\x28\0\0\0WAVEfmt \x10\0\0\0\3\0\1\0\x80\x3e\0\0\0\xfa\0\0\4\0\x20\0data\4\0\0\0"
    (directory / "test_wavs" / "floats.wav").write_bytes(floats + bytes(4))
    (directory / "test_wavs" / "nothing.wav").write_bytes(b"")
    location = ModelLocation("tones", directory, "en")
    assert prepare(location, tmp_path / "store", available_memory=PLENTY).name == "tones"


def test_a_result_that_is_larger_than_wanted_is_not_kept(
    location: ModelLocation, tmp_path: Path
) -> None:
    """`models prepare --max-size`."""
    with pytest.raises(ModelError) as caught:
        prepare(location, tmp_path, available_memory=PLENTY, most_bytes=1_000_000)
    assert caught.value.code == "result_too_large"
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_it_is_compared_as_it_will_be_loaded(location: ModelLocation, tmp_path: Path) -> None:
    """Use the variables of a process that loads a model, which no other process reads."""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.exit('not so')")
    store = tmp_path / "store"
    with pytest.raises(ModelError) as caught:
        prepare(location, store, available_memory=PLENTY, environment=environment)
    assert caught.value.code == "selfcheck_failed"


def test_a_network_that_is_none_says_which_and_why(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(os.urandom(100))
    with pytest.raises(ModelError, match=r"model\.onnx"):
        Runtime().write_optimised(file, tmp_path / "out.onnx", {})


@pytest.mark.parametrize("kind", ["sense_voice", "transducer", "online_zipformer2_ctc", "whisper"])
def test_models_of_every_shape_are_prepared(kind: str, tmp_path: Path) -> None:
    directory = make_model(kind, tmp_path / kind, padding_bytes=WEIGHTS_BYTES)
    done = prepare(
        ModelLocation(kind, directory, "en"), tmp_path / "store", available_memory=PLENTY
    )
    layout = recognise(done.directory)
    assert layout.kind == recognise(directory).kind
    assert (
        served(done.directory, "prepared", "ab c")[1] == served(directory, "published", "ab c")[1]
    )
    manifest = json.loads((done.directory / "prepared.json").read_text())
    counts = manifest["counts"]
    assert counts["bytes after"] < 0.9 * counts["bytes of memory before"]


_LOAD_BEST = """
import sys
from pathlib import Path
from models.contract import ModelLocation
from models.engine import EngineSettings
from models.sherpa.engine import ENGINE
from models.sherpa.selfcheck import _text
location = ModelLocation("tones", Path(sys.argv[1]), "en")
settings = EngineSettings(Path(sys.argv[2]), values={"voice_activity": "loudness"})
form = ENGINE.forms(location, settings)[0]
print(form.name, _text(ENGINE.load(location, form.load), sys.stdin.buffer.read()), sep="|")
"""


def served_at_best(directory: Path, store: Path, text: str) -> str:
    """Name of the engine's first form of a model, and what that makes of the text's tones."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LOAD_BEST, str(directory), str(store)],
        input=tones(text),
        capture_output=True,
        check=True,
    )
    return done.stdout.decode().strip()


def test_it_is_served_after_the_directory_that_it_was_prepared_from_is_gone(tmp_path: Path) -> None:
    first, second = tmp_path / "downloads" / "tones", tmp_path / "models" / "tones"
    make_model("zipformer_ctc", first, padding_bytes=WEIGHTS_BYTES)
    subprocess.run(["cp", "-a", first.parent, second.parent], check=True)
    prepare(ModelLocation("tones", first, "en"), tmp_path / "store", available_memory=PLENTY)
    shutil.rmtree(first)
    assert served_at_best(second, tmp_path / "store", "abc de") == "prepared|abc de"


def test_a_copy_with_other_tokens_is_served_with_its_own(
    location: ModelLocation, store: Path, made: PreparedModel, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", location.directory, copy], check=True)
    tokens = copy / "tokens.txt"
    tokens.write_text(re.sub("^a ", "z ", tokens.read_text(), flags=re.MULTILINE))
    assert served_at_best(copy, store, "abc de") == "prepared|zbc de"
