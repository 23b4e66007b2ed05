"""The command line, as a person uses it: real processes, real files, real speech."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import wavs
from encoded import encoded
from onnx_models import make_model, tones

import models
from models.vosk.prepared import PreparedModel
from modelserver import __version__


def modelserver(
    *arguments: str, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("MODELSERVER_")}
    return subprocess.run(
        [sys.executable, "-m", "modelserver", *arguments],
        input=stdin,
        capture_output=True,
        env={
            **variables,
            "MODELSERVER_DEBUG_WARMUP": "none",
            "MODELSERVER_CONFIG": os.devnull,  # not the settings of the machine's service
            **environment,
        },
        check=False,
        timeout=100,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, wav_clips: list[bytes]) -> list[str]:
    directory = tmp_path_factory.mktemp("wavs")
    for number, wav in enumerate(wav_clips):
        (directory / f"clip{number}.wav").write_bytes(wav)
    return [str(directory / f"clip{number}.wav") for number in range(len(wav_clips))]


Transcribe = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def transcribe(small_settings: dict[str, str]) -> Transcribe:
    """The command of that name, with the small model."""
    return functools.partial(modelserver, "transcribe", **small_settings)


def test_a_misspelt_command_names_a_similar_one() -> None:
    done = modelserver("srve")
    assert done.returncode == 2
    assert b"No such command 'srve'. Did you mean 'serve'?" in done.stderr


def test_files_become_text_in_the_order_given(transcribe: Transcribe, files: list[str]) -> None:
    done = transcribe(*files)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 3
    assert "어제" in lines[2]
    backward = transcribe("--workers", "1", *files[::-1])
    assert backward.stdout.decode().splitlines() == lines[::-1]


def test_json_has_words_and_names_its_file(transcribe: Transcribe, files: list[str]) -> None:
    done = transcribe("--format", "json", files[2])
    document = json.loads(done.stdout)
    assert document["file"] == files[2]
    assert document["speech"]["text"].split() == [w["word"] for w in document["speech"]["words"]]


def test_subtitles_are_written_beside_each_other(
    transcribe: Transcribe, files: list[str], tmp_path: Path
) -> None:
    for form, begins in (("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n\n00:00:0")):
        done = transcribe("-f", form, "-o", str(tmp_path / "out"), *files)
        assert done.returncode == 0, done.stderr
        for number in range(3):
            text = (tmp_path / "out" / f"clip{number}.{form}").read_text(encoding="utf-8")
            assert text.startswith(begins)
            assert " --> " in text


def test_standard_input_is_a_file_too(transcribe: Transcribe, files: list[str]) -> None:
    done = transcribe("-", stdin=Path(files[2]).read_bytes())
    assert "어제" in done.stdout.decode()


def test_a_bad_file_is_told_and_the_others_are_transcribed(
    transcribe: Transcribe, files: list[str], tmp_path: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello, this is no audio")
    done = transcribe(str(text), str(tmp_path / "none.wav"), files[2])
    assert done.returncode == 1
    assert "어제" in done.stdout.decode()
    errors = done.stderr.decode()
    assert f"{text}: this is text, not audio" in errors
    assert "none.wav: No such file or directory" in errors
    assert "Traceback" not in errors


def test_without_a_model_transcribe_says_so_and_ends(tmp_path: Path, files: list[str]) -> None:
    done = modelserver("transcribe", "--model", str(tmp_path), files[0])
    assert done.returncode == 1
    assert "is not a model: " in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_a_model_without_times_of_words_gives_subtitles_of_its_segments(tmp_path: Path) -> None:
    model = make_model("whisper", tmp_path / "tones")
    recording = tmp_path / "tones.wav"
    recording.write_bytes(wavs.wav_file(tones("ab ba")))
    loudness = {"MODELSERVER_ENGINES_ONNX_VOICE_ACTIVITY": "loudness"}
    command = ("transcribe", "--model", str(model), str(recording))
    plain = modelserver(*command, **loudness)
    assert (plain.stdout.decode(), plain.stderr.decode()) == ("ab ba\n", "")
    cue = modelserver(*command, "--format", "srt", **loudness).stdout.decode().splitlines()
    assert cue[0] == "1"
    assert cue[1].startswith("00:00:0")
    assert cue[2] == "ab ba"


LISTED = r"\* (\S+) Korean 46\.7 % 165 MB yes, leaves [\d.]+ [GM]B prepared Apache-2.0"


def test_the_installed_models_are_listed_with_the_one_that_is_served(
    prepared_embedded: PreparedModel,
) -> None:
    done = modelserver("models", "list")
    head, line, *known = done.stdout.decode().splitlines()
    assert head.split()[:4] == ["MODEL", "LANGUAGE", "ERRORS", "MEMORY"]
    found = re.fullmatch(LISTED, " ".join(line.split()))
    assert found is not None
    assert found[1] == prepared_embedded.manifest.name
    names = [row.split()[1] for row in known if row.startswith("  ")]
    assert names[:2] == ["Arabic", "Arabic"]
    assert known[-1].startswith("* would be served: 165 MB and 15 MB for each of ")
    alone = modelserver("models", "list", "--installed").stdout.decode().splitlines()
    assert alone[1].split()[:5] == line.split()[:5]
    assert len(alone) == 5


@pytest.mark.parametrize("language", ["zh", "zh-TW", "Chinese"])
def test_the_list_can_be_of_one_language(language: str) -> None:
    rows = modelserver("models", "list", "--for", language).stdout.decode().splitlines()
    assert {row.split()[1] for row in rows if row.startswith("  vosk")} == {"Chinese"}


def test_the_list_says_what_could_be_fetched_and_would_fit() -> None:
    def fits(limit: str, name: str) -> str:
        limits = {"MODELSERVER_MEMORY_LIMIT": limit, "MODELSERVER_DEBUG_MEMORY_RESERVE": "1MB"}
        done = modelserver("models", "list", "--workers", "2", **limits)
        line = next(row for row in done.stdout.decode().splitlines() if name in row)
        return " ".join(line.split()[4:7])

    # About 263 MB, and 34 MB for each worker.
    assert fits("1GB", "vosk-model-small-cn-0.22") == "~263 MB yes,"
    assert fits("320MB", "vosk-model-small-cn-0.22") == "~263 MB with"
    assert fits("280MB", "vosk-model-small-cn-0.22") == "~263 MB no,"


def test_a_prepared_model_is_made_verified_carried_and_removed(
    tmp_path: Path, small: models.ModelLocation, prepared_small: PreparedModel
) -> None:
    store = ("--prepared-dir", str(tmp_path / "store"))
    theirs = ("--prepared-dir", str(prepared_small.directory.parent))
    archive = tmp_path / "small.tar"
    assert modelserver("models", "export", "small", str(archive), *theirs).returncode == 0
    source = (str(archive), str(small.directory), "--language", "ko")
    done = modelserver("models", "import", *source, *store)
    assert done.returncode == 0, done.stderr
    again = modelserver("models", "prepare", str(small.directory), "--language", "ko", *store)
    assert again.returncode == 0
    assert "is prepared already" in again.stderr.decode()
    verified = modelserver("models", "verify", *store)
    assert verified.stdout.decode().strip().endswith(": whole")
    (directory,) = (p for p in (tmp_path / "store").iterdir() if p.is_dir())
    with (directory / "graph" / "HCLG.fst").open("r+b") as graph:
        graph.truncate(1000)
    damaged = modelserver("models", "verify", *store)
    assert damaged.returncode == 1
    assert "damaged" in damaged.stdout.decode()
    refused = modelserver("models", "remove", "small", *store, "--models-dir", str(tmp_path / "m"))
    assert refused.returncode == 1
    assert "modelserver models clean small" in refused.stderr.decode()
    assert modelserver("models", "clean", "small", "--dry-run", *store).returncode == 0
    assert directory.exists()
    assert modelserver("models", "clean", "small", *store).returncode == 0
    assert not directory.exists()
    nothing = modelserver("models", "verify", *store)
    assert nothing.returncode == 1
    assert "nothing is prepared" in nothing.stderr.decode()


@pytest.mark.parametrize("group", [(), ("models",), ("keys",)])
def test_no_help_of_a_command_is_cut_off(group: tuple[str, ...]) -> None:
    shown = modelserver(*group, "--help").stdout.decode().partition("Commands:")[2]
    assert len(shown.splitlines()) > 3
    assert "..." not in shown


def test_what_cannot_be_prepared_is_refused_in_a_sentence(
    tmp_path: Path, small: models.ModelLocation
) -> None:
    store = ("--prepared-dir", str(tmp_path / "store"))
    missing = modelserver("models", "prepare", "no-such-model", *store)
    assert missing.returncode == 1
    assert "there is no model 'no-such-model'" in missing.stderr.decode()
    size = modelserver("models", "prepare", str(small.directory), "--max-size", "apple", *store)
    assert size.returncode == 2
    assert "--max-size = 'apple'" in size.stderr.decode()
    for done in (missing, size):
        assert "Traceback" not in done.stderr.decode()


def test_the_version_is_told() -> None:
    assert modelserver("--version").stdout.decode() == f"modelserver, version {__version__}\n"


# --- files in, files out --------------------------------------------------------------------------


def test_files_of_one_name_keep_their_transcripts_apart(
    transcribe: Transcribe, files: list[str], tmp_path: Path
) -> None:
    for number, directory in enumerate(("d1", "d2")):
        (tmp_path / directory).mkdir()
        shutil.copy(files[number + 1], tmp_path / directory / "x.wav")
    sources = [str(tmp_path / directory / "x.wav") for directory in ("d1", "d2")]
    done = transcribe("-o", str(tmp_path / "out"), *sources)
    assert done.returncode == 0, done.stderr
    written = {file.read_text() for file in (tmp_path / "out").iterdir()}
    assert len(written) == 2


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles_of_several_files_are_no_one_file(
    transcribe: Transcribe, files: list[str], form: str
) -> None:
    done = transcribe("-f", form, *files)
    assert (done.returncode, b"--output-dir" in done.stderr, done.stdout) == (2, True, b"")


def test_a_pipe_is_a_file_too(transcribe: Transcribe, files: list[str], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cp", files[2], str(pipe)]):
        done = transcribe(str(pipe))
    assert "어제" in done.stdout.decode(), done.stderr


def test_a_transcript_that_cannot_be_written_costs_no_other(
    transcribe: Transcribe, files: list[str], tmp_path: Path
) -> None:
    (tmp_path / "clip1.txt").mkdir()
    done = transcribe("-o", str(tmp_path), *files)
    assert done.returncode == 1
    assert b"clip1.txt cannot be written: Is a directory" in done.stderr
    assert (tmp_path / "clip2.txt").read_text()
    with Path("/dev/full").open("w") as output:
        full = subprocess.run(
            [sys.executable, "-m", "modelserver", "transcribe", files[2]],
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert full.returncode == 1
    assert b"Traceback" not in full.stderr


def test_a_health_check_costs_little() -> None:
    """Check that it uses little but the standard library, since it runs inside the server's memory
    limit."""
    code = (
        "import sys; sys.argv = ['modelserver', 'ready', '--port=1']\n"
        "from modelserver.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: status = end.code\n"
        "others = {m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(status, sorted(m for m in others if not m.startswith(('_', 'sitecustomize'))),"
        " open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert "no server answers at http://127.0.0.1:1/readyz: Connection refused" in done.stderr
    status, rest = done.stdout.split(" ", 1)
    modules, _, kilobytes = rest.rpartition(" ")
    assert status == "1"
    assert modules == "['modelserver']"
    assert int(kilobytes) < 25_000


def test_a_health_check_knows_where_the_server_is(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('host = "::"\nport = 3\n')
    for arguments, environment, address in (
        (["--config", str(file)], {}, "http://[::1]:3"),
        ([f"--config={file}", "--port", "4"], {}, "http://[::1]:4"),
        ([], {"MODELSERVER_CONFIG": str(file), "MODELSERVER_HOST": "0.0.0.0"}, "127.0.0.1:3"),
        (["--host=127.0.0.2"], {"MODELSERVER_PORT": "5"}, "127.0.0.2:5"),
        # On an address that no server listens on: others may run on this machine.
        (["--host=127.0.0.3"], {"MODELSERVER_PORT": "tcp://10.0.0.1:8091"}, "127.0.0.3:8091"),
    ):
        done = modelserver("ready", *arguments, **environment)
        assert done.returncode == 1
        assert address in done.stderr.decode()
    assert b"Usage:" in modelserver("ready", "--help").stdout
    assert b"No such option" in modelserver("ready", "--prot=1").stderr


def test_directories_and_patterns_and_every_kind_of_file_are_taken(
    transcribe: Transcribe, clips: list[bytes], files: list[str], tmp_path: Path
) -> None:
    below = tmp_path / "calls" / "monday"
    below.mkdir(parents=True)
    shutil.copy(files[2], below / "a.WAV")
    (below / "b.mp3").write_bytes(encoded(clips[2], "mp3"))
    (below / "notes.txt").write_text("no audio")
    (tmp_path / "calls" / "c.flac").write_bytes(encoded(clips[2], "flac"))
    (tmp_path / "calls" / "broken.ogg").write_bytes(b"OggS" + bytes(100))
    out = tmp_path / "out"
    done = transcribe("-o", str(out), str(tmp_path / "calls"), str(tmp_path / "calls" / "*.flac"))
    assert done.returncode == 1
    errors = done.stderr.decode()
    assert "broken.ogg: the Ogg file cannot be read" in errors
    assert "3 of 4 files transcribed" in errors
    assert sorted(file.name for file in out.glob("*.txt")) == ["a.txt", "b.txt", "c.txt"]
    assert all("어제" in file.read_text() for file in out.glob("*.txt"))
    nothing = transcribe(str(below.parent.parent / "out"))
    assert (nothing.returncode, b"no audio file was found" in nothing.stderr) == (1, True)


def test_samples_and_channels_are_heard_as_asked(
    transcribe: Transcribe, clips: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "samples.raw").write_bytes(clips[2])
    raw = transcribe("--encoding=s16le", "--rate=16000", str(tmp_path / "samples.raw"))
    assert "어제" in raw.stdout.decode(), raw.stderr
    both = b"".join(clips[2][at : at + 2] * 2 for at in range(0, len(clips[2]), 2))
    (tmp_path / "both.wav").write_bytes(wavs.wav_file(both, channels=2))
    split = transcribe("--channels=split", "--format=json", str(tmp_path / "both.wav"))
    segments = json.loads(split.stdout)["speech"]["segments"]
    assert {segment["channel"] for segment in segments} == {0, 1}
    for wrong in (["--channels=left"], ["--encoding=mp5", "--rate=1"], ["--encoding=s16le"]):
        assert transcribe(*wrong, str(tmp_path / "both.wav")).returncode == 2
