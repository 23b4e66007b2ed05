"""`modelserver models list LANGUAGE` and `models pull LANGUAGE`: which model for this machine."""

import bz2
import contextlib
import io
import json
import os
import pty
import subprocess
import sys
import tarfile
import termios
from pathlib import Path

import pytest
from misbehaving import Manners, web_server
from onnx_models import make_model
from punctuation_models import make_chinese

from modelserver.cli.tables import table_lines

SENSE_VOICE = "sherpa-onnx-sense-voice-zh-en-ja-ko-yue-int8-2024-07-17"
WHISPER = "sherpa-onnx-whisper-base"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models"


def command(*arguments: str, home: Path, memory: str = "4GiB") -> subprocess.CompletedProcess[str]:
    """Run the command as on a machine with so much memory."""
    return subprocess.run(
        [sys.executable, "-m", "modelserver", "models", *arguments, "--models-dir", str(home)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MODELSERVER_MEMORY_LIMIT": memory, "MODELSERVER_WORKERS_COUNT": "2"},
    )


def model(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as writer:
        for inside in ("am/final.mdl", "graph/HCLG.fst", "conf/mfcc.conf"):
            info = tarfile.TarInfo(f"{name}/{inside}")
            info.size = 3
            writer.addfile(info, io.BytesIO(b"abc"))
    return bz2.compress(file.getvalue())


@pytest.mark.parametrize("language", ["zh", "zh-CN", "Chinese"])
def test_the_recommended_model_is_first_and_says_why(home: Path, language: str) -> None:
    listed = command("list", language, home=home)
    assert listed.returncode == 0, listed.stderr
    head, first, *_ = listed.stdout.splitlines()
    assert "WITH 2 WORKERS" in head
    assert first.startswith(f"+ {SENSE_VOICE} ")
    assert "8.17 % [1]" in first
    assert "pauses" in first
    assert "FunASR" in first
    assert "[1] 184 recordings in Mandarin: https://github.com/modelscope/FunASR/" in listed.stdout
    assert f"+ is recommended for {language}: 5.73 % errors on WenetSpeech net" in listed.stdout
    assert f"modelserver models pull {SENSE_VOICE}" in listed.stdout
    assert "vosk-model-small-cn-0.22" in listed.stdout
    assert "vosk-model-small-ko-0.22  " not in listed.stdout


@pytest.mark.parametrize("columns", [80, 100])
def test_the_list_fits_into_a_terminal(home: Path, columns: int) -> None:
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, columns))
    command = [sys.executable, "-m", "modelserver", "models", "list", "zh"]
    with subprocess.Popen([*command, "--models-dir", str(home)], stdout=terminal) as running:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError), open(main, "rb", buffering=0) as reader:  # EIO: its end
            while block := reader.read(65536):
                shown += block
    assert running.returncode == 0
    table, _, _ = shown.decode().replace("\r", "").partition("\n\n")
    lines = table.splitlines()
    assert lines[0] == "  MODEL"
    assert lines[1].split()[:3] == ["LANGUAGE", "ERRORS", "MEMORY"]
    assert f"+ {SENSE_VOICE}" in lines
    details = [line for line in lines if line.startswith("    ")]
    assert max(map(len, details)) <= columns
    assert any("8.17 % [1]" in line for line in details)
    assert any("~347 MB" in line for line in details)


def test_a_table_is_as_wide_as_it_is_where_it_fits() -> None:
    rows = [("NAME", "WHY", "MORE"), ("a-long-name", "one two three", "x")]
    whole = ["NAME         WHY            MORE", "a-long-name  one two three  x"]
    assert list(table_lines(rows, None, {"MORE"})) == whole
    assert list(table_lines(rows, 32, {"MORE"})) == whole
    narrow = ["NAME", "    WHY", "a-long-name", "    one two", "    three"]
    assert list(table_lines(rows, 11, {"MORE"})) == narrow


def test_a_table_has_no_control_characters_of_a_name() -> None:
    rows = [("NAME", "WHY"), ("new\nline\x1b[31m\u202e", "x")]
    assert list(table_lines(rows, None))[1:] == ["new\ufffdline\ufffd[31m\ufffd  x"]


def test_no_terminal_is_too_narrow_for_a_number_and_its_unit() -> None:
    rows = [("NAME", "NEEDS"), ("a", "about 1,234 MB")]
    assert list(table_lines(rows, 5))[3:] == ["    about", "    1,234 MB"]


def test_the_served_model_is_listed_with_the_least_and_the_whole_growth_of_workers(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSERVER_PREPARED_DIR", str(home))
    listed = command("list", "ko", home=home).stdout
    (line,) = (line for line in listed.splitlines() if line.startswith("* would be served"))
    assert line.endswith("and 34 MB to 209 MB for each of 2 workers.")


def test_a_small_machine_gets_a_small_model(home: Path) -> None:
    small = json.loads(command("list", "zh", "--json", home=home, memory="360MiB").stdout)
    assert small["recommended"]["name"] == "vosk-model-small-cn-0.22"
    tiny = command("list", "zh", home=home, memory="70MiB")
    assert tiny.returncode == 0
    assert "No model for zh fits here" in tiny.stderr
    refused = command("pull", "zh", home=home, memory="70MiB")
    assert refused.returncode == 1
    assert "no model for zh fits on this machine" in refused.stderr


def test_json_has_the_same_for_programs(home: Path) -> None:
    document = json.loads(command("list", "ko", "--json", home=home).stdout)
    assert (document["language"], document["workers"]) == ("ko", 2)
    assert document["recommended"]["name"] == WHISPER
    assert "22.3 % errors" in document["recommended"]["why"]
    first = document["models"][0]
    assert (first["name"], first["recommended"], first["installed"]) == (WHISPER, True, False)
    assert first["needs"] > 400_000_000
    assert first["error_rates"] == [
        {
            "language": "ko",
            "rate": 22.3,
            "on": "160 utterances in Korean",
            "source": "docs/models.md",
        }
    ]
    vosk = next(row for row in document["models"] if row["name"] == "vosk-model-small-ko-0.22")
    assert (vosk["engine"], vosk["missing"], vosk["streaming"]) == ("vosk", None, True)


def test_a_language_pulls_the_recommended_model(home: Path) -> None:
    with web_server(Manners({f"{WHISPER}.tar.bz2": model(WHISPER)})) as url:
        done = command("pull", "ko", "--models-urls", url, home=home)
        assert done.returncode == 0, done.stderr
        assert f"{WHISPER} is recommended for ko: 22.3 % errors" in done.stderr
        assert f"installed {WHISPER}: {home / WHISPER}" in done.stdout
        listed = command("list", "ko", home=home)
        assert listed.stdout.splitlines()[1].startswith(f"* {WHISPER} ")
        assert "* is also recommended for ko: 22.3 % errors" in listed.stdout
        assert "To get it" not in listed.stdout
        again = command("pull", "Korean", "--models-urls", url, home=home)
    assert again.returncode == 0
    assert f"{WHISPER} is installed already" in again.stderr


def test_a_language_pulls_a_model_that_the_mirror_has(home: Path, tmp_path: Path) -> None:
    repository = "csukuangfj/sherpa-onnx-sense-voice-zh-en-ja-ko-yue-2024-07-17"
    made = make_model("sense_voice", tmp_path / "made", suffix=".int8")
    files = {file.name: file.read_bytes() for file in made.iterdir()}
    manners = Manners({f"{repository}/resolve/main/{name}": data for name, data in files.items()})
    with web_server(manners) as url:
        mirror = ("--models-urls", f"{url}/{{repository}}/resolve/main/{{file}}")
        done = command("pull", "zh", *mirror, home=home)
        assert done.returncode == 0, done.stderr
        assert f"{SENSE_VOICE} is recommended for zh" in done.stderr
        installed = {file.name: file.read_bytes() for file in (home / SENSE_VOICE).iterdir()}
        assert installed == {name: files[name] for name in ("model.int8.onnx", "tokens.txt")}
        # The Vosk model, which this machine would get otherwise, has no repository.
        failed = command("pull", "zh", *mirror, home=home.parent / "none", memory="360MiB")
        assert "sherpa-onnx-paraformer-zh-small-2024-03-09 is recommended" in failed.stderr
        tiny = command("pull", "zh", *mirror, home=home.parent / "none", memory="70MiB")
        assert "fits on this machine and can be downloaded from models_urls" in tiny.stderr


def test_a_language_that_no_model_has_is_taken_for_a_name(home: Path) -> None:
    failed = command("pull", "tlh", "--models-urls", "http://none.invalid", home=home)
    assert failed.returncode == 1
    assert "tlh is not in the catalogue" in failed.stderr


def test_punctuation_models_are_listed_apart_and_never_recommended(home: Path) -> None:
    make_chinese(home / "marks")
    listed = command("list", "en", home=home)
    assert listed.returncode == 0, listed.stderr
    table, punctuation = listed.stdout.split("\nPunctuation models, for the text step punctuation")
    assert "punct-" not in table.replace("zh-en-punct-int8", "")
    assert "  marks  zh, en  " in punctuation
    assert "  punct-en  en  ~" in punctuation
    assert "  punct-zh-en  zh, en  ~" in punctuation
    assert "punct-en" not in command("list", "zh", home=home).stdout.split("Punctuation")[1]
    assert "Punctuation" not in command("list", "ko", home=home).stdout
    document = json.loads(command("list", "--json", "--installed", home=home).stdout)
    assert [one["name"] for one in document["punctuation_models"]] == ["marks"]
    assert "marks" not in [one["name"] for one in document["models"]]


def test_a_punctuation_model_is_pulled_by_its_short_name_and_not_served(home: Path) -> None:
    name = "sherpa-onnx-punct-ct-transformer-zh-en-vocab272727-2024-04-12-int8"
    network = make_chinese(home.parent / name) / "model.int8.onnx"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as writer:
        writer.add(network, f"{name}/{network.name}")
    manners = Manners({f"{name}.tar.bz2": bz2.compress(file.getvalue())})
    with web_server(manners) as url:
        for said in (f"installed {name}: ", "is installed already"):
            pulled = command("pull", "punct-zh-en", "--models-urls", url, home=home)
            assert pulled.returncode == 0, pulled.stderr
            assert said in pulled.stdout + pulled.stderr
    assert (home / name / network.name).read_bytes() == network.read_bytes()
    for wanted in ("punct-zh-en", name):
        inspected = command("inspect", wanted, home=home)
        assert inspected.returncode == 1
        assert "recognises no speech: name it in text.punctuation_model" in inspected.stderr
    assert command("remove", name, home=home).returncode == 0
