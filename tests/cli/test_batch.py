"""Many files at once: by a running server, and resuming from the journal after any process was
killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from elsewhere import Asked, Elsewhere, Reply, elsewhere
from running import RunningServer, free_port, start_server, until
from wavs import wav_file

import models
from modelserver.access.keyring import add_key
from modelserver.batch.journal import Journal, JournalUnusable
from modelserver.batch.outcome import write_whole


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "modelserver", "transcribe", *arguments]


def transcribe(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments), input=stdin, capture_output=True, check=False, timeout=100
    )


# --- the journal ----------------------------------------------------------------------------------


def test_a_journal_knows_what_is_done_and_what_was_sent(tmp_path: Path) -> None:
    audio, kept = tmp_path / "a.wav", tmp_path / "journal"
    audio.write_bytes(b"x")
    with Journal(kept, "so") as journal:
        note = journal.note(str(audio))
        note.sent("job 1")
    with Journal(kept, "so") as journal:
        again = journal.note(str(audio))
        assert (again.key, again.job) == (note.key, "job 1")
        assert not journal.is_done(str(audio))
        again.done()
    with Journal(kept, "otherwise") as journal:
        assert not journal.is_done(str(audio))
        assert journal.note(str(audio)).key != note.key
    with kept.open("ab") as file:
        file.write(b'{"file":"cut o')  # the power went here
    with Journal(kept, "so") as journal:
        assert not journal.is_done(str(audio))  # it was asked for otherwise since
        journal.note(str(audio)).done()
    with Journal(kept, "so") as journal:
        assert journal.is_done(str(audio))
        audio.write_bytes(b"changed")
        assert not journal.is_done(str(audio))


def test_what_is_no_journal_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("a letter\nof mine\n")
    with pytest.raises(JournalUnusable, match="not a journal"):
        Journal(tmp_path / "precious", "so")
    assert (tmp_path / "precious").read_text() == "a letter\nof mine\n"
    with pytest.raises(JournalUnusable):
        Journal(tmp_path / "none" / "journal", "so")


# --- with a server --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str]
) -> Iterator[RunningServer]:
    with start_server(tmp_path_factory.mktemp("batch"), **small_settings) as running:
        running.wait_whole()
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, wav_clips: list[bytes]) -> list[Path]:
    directory = tmp_path_factory.mktemp("files")
    made = [directory / f"{number:02}.wav" for number in range(24)]
    for number, file in enumerate(made):
        file.write_bytes(wav_clips[number % len(wav_clips)])
    return made


@pytest.fixture(scope="module")
def expected(server: RunningServer, files: list[Path]) -> list[str]:
    texts = [server.convert(file.read_bytes()).json["text"] for file in files[:3]]
    return [texts[number % 3] for number in range(len(files))]


def test_a_server_does_it_and_keeps_nothing(
    server: RunningServer, files: list[Path], expected: list[str], tmp_path: Path
) -> None:
    done = transcribe("--server", server.url, *map(str, files))
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines() == expected
    out = tmp_path / "out"
    assert transcribe("--server", server.url, "-o", str(out), str(files[0].parent)).returncode == 0
    assert sorted(file.name for file in out.iterdir()) == [f"{f.stem}.txt" for f in files]
    assert server.ask("/v1/jobs").json["jobs"] == []
    as_json = transcribe("--server", server.url, "-f", "json", str(files[0]))
    document = json.loads(as_json.stdout)
    assert document["speech"]["text"] == expected[0]
    assert document["speech"]["words"]
    assert document["speech"]["duration_s"] > 1
    subtitles = transcribe("--server", server.url, "-f", "srt", str(files[0]))
    direct = server.ask("/api/audio/convert?format=srt", files[0].read_bytes())
    assert subtitles.stdout == direct.body


def test_standard_input_and_samples_go_there_too(
    server: RunningServer, files: list[Path], expected: list[str]
) -> None:
    wav = files[1].read_bytes()
    assert transcribe("--server", server.url, "-", stdin=wav).stdout.decode().strip() == expected[1]
    raw = transcribe(
        "--server", server.url, "--encoding", "s16le", "--rate", "16000", "-", stdin=wav[44:]
    )
    assert raw.stdout.decode().strip() == expected[1]


def test_what_goes_wrong_is_said_for_each_file(
    server: RunningServer, files: list[Path], expected: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio at all")
    done = transcribe("--server", server.url, str(bad), str(files[0]), str(tmp_path / "none.wav"))
    assert done.returncode == 1
    assert done.stdout.decode().splitlines() == expected[:1]
    said = done.stderr.decode()
    assert f"{bad}: " in said
    assert "none.wav: No such file" in said
    assert "1 of 3 files" in said
    nobody = transcribe("--server", f"http://127.0.0.1:{free_port()}", str(files[0]))
    assert nobody.returncode == 1
    assert nobody.stderr.startswith(b"Error: http://127.0.0.1")
    other = transcribe("--server", server.url + "/nowhere", str(files[0]))
    assert b"accepts jobs" in other.stderr
    model = transcribe("--server", server.url, "--model", "another", str(files[0]))
    assert model.returncode == 1
    assert b"no model called 'another'" in model.stderr


def test_a_key_is_sent(
    tmp_path: Path, small_settings: dict[str, str], files: list[Path], expected: list[str]
) -> None:
    key = add_key(tmp_path / "keys", "alice")
    given = small_settings | {"MODELSERVER_AUTH_KEYS_FILE": str(tmp_path / "keys")}
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        without = transcribe("--server", running.url, str(files[0]))
        assert without.returncode == 1
        assert b"a key is required" in without.stderr
        done = transcribe("--server", running.url, "--key", key, str(files[0]))
    assert done.stdout.decode().strip() == expected[0]


def noted(out: Path) -> list[Path]:
    """Return the files that are done according to the journal."""
    lines = map(json.loads, (out / ".modelserver-journal").read_text().splitlines())
    return [out / f"{Path(line['file']).stem}.txt" for line in lines if line.get("done")]


def test_it_goes_on_where_it_was_killed(
    tmp_path: Path, small_settings: dict[str, str], files: list[Path], expected: list[str]
) -> None:
    """The command, and the server; each file is a job once, or again where it was forgotten."""
    out, jobs = tmp_path / "out", {"MODELSERVER_JOBS_DIRECTORY": str(tmp_path / "jobs")}
    port = str(free_port())
    arguments = ("--server", f"http://127.0.0.1:{port}", "-o", str(out), *map(str, files))
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with start_server(one, "--port", port, **small_settings, **jobs) as running:
        running.wait_ready()
        with subprocess.Popen(command(*arguments), stderr=subprocess.PIPE) as process:
            until(lambda: len(list(out.glob("*.txt"))) >= 3)
            process.kill()
        written = {file.name: file.stat().st_mtime_ns for file in noted(out)}
        assert 2 <= len(written) < len(files)  # the last may have been written, and not noted
        with subprocess.Popen(command(*arguments), stderr=subprocess.PIPE) as process:
            until(lambda: len(list(out.glob("*.txt"))) >= len(written) + 3)
            os.kill(running.pid, signal.SIGKILL)
            running.process.wait()
            time.sleep(0.5)
            with start_server(other, "--port", port, **small_settings, **jobs) as again:
                assert process.wait(60) == 0
                assert process.stderr is not None
                said = process.stderr.read().decode()
                assert again.ask("/v1/jobs?state=failed").json["jobs"] == []
    assert f"{len(files)} of {len(files)} files transcribed, " in said
    assert [(out / f"{file.stem}.txt").read_text().strip() for file in files] == expected
    for name, when in written.items():
        assert (out / name).stat().st_mtime_ns == when, "written twice"
    assert {file.name for file in out.iterdir()} == {f"{file.stem}.txt" for file in files}


def test_a_transcript_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    link, target, pipe = tmp_path / "link", tmp_path / "kept" / "a.txt", tmp_path / "pipe"
    target.parent.mkdir()
    target.write_text("before\n")
    target.chmod(0o640)
    link.symlink_to(target)
    found: list[str] = []
    with target.open() as held:
        write_whole(link, "一二三\n")
        found.append(held.read())
    assert found == ["before\n"]  # a reader meanwhile has the old file to its end
    assert link.is_symlink()
    assert target.read_text() == "一二三\n"
    assert target.stat().st_mode & 0o777 == 0o640
    os.mkfifo(pipe)
    with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        write_whole(pipe, "said\n")
        assert reader.read() == b"said\n"
    with pytest.raises(IsADirectoryError):
        write_whole(target.parent, "said\n")
    write_whole(target.with_name("长" * 84), "said\n")  # as long as a name may be
    assert len(list(target.parent.iterdir())) == 2


def test_its_own_pool_goes_on_too(
    tmp_path: Path, small: models.ModelLocation, files: list[Path], expected: list[str]
) -> None:
    bad = tmp_path / "in" / "z-bad.wav"
    bad.parent.mkdir()
    for file in files[:3]:
        shutil.copy(file, bad.parent)
    bad.write_text("no audio")
    out = tmp_path / "out"
    arguments = ("--model", str(small.directory), "-o", str(out), str(bad.parent))
    first = transcribe(*arguments)
    assert first.returncode == 1
    assert b"3 of 4 files transcribed" in first.stderr
    shutil.copy(files[3], bad)
    (out / "00.txt").write_text("not touched\n")
    second = transcribe(*arguments)
    assert second.returncode == 0, second.stderr
    assert b"4 of 4 files transcribed, 3 of them before" in second.stderr
    assert (out / "00.txt").read_text() == "not touched\n"
    assert (out / "z-bad.txt").read_text().strip() == expected[3]
    assert not (out / ".modelserver-journal").exists()
    third = transcribe(*arguments)
    assert third.returncode == 0
    assert (out / "00.txt").read_text().strip() == expected[0]


# --- at addresses ---------------------------------------------------------------------------------


@pytest.fixture
def shelf(clips: list[bytes]) -> Iterator[Elsewhere]:
    """A web server that has a recording, and a page that leads to it."""
    content = {
        "/a.wav": wav_file(clips[0][:96_000]),
        "/dir/": b'<html><a href="/a.wav">a</a> <a href="/none.txt">n</a></html>',
    }

    def reply(asked: Asked) -> Reply:
        body = content.get(asked.path)
        return Reply(404) if body is None else Reply(200, body)

    with elsewhere() as there:
        there.reply = reply
        yield there


def test_a_file_at_an_address_is_fetched(
    shelf: Elsewhere, small: models.ModelLocation, tmp_path: Path, clips: list[bytes]
) -> None:
    own = tmp_path / "own.wav"
    own.write_bytes(wav_file(clips[0][:96_000]))
    given = ["--model", str(small.directory), "--workers", "1"]
    done = transcribe(*given, f"{shelf.url}/a.wav", str(own), f"file://{tmp_path}/*.wav")
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.decode().splitlines()
    assert first
    assert others == [first, first]
    out = tmp_path / "out"
    done = transcribe(*given, "-o", str(out), f"{shelf.url}/a.wav", f"{shelf.url}/none.wav")
    assert done.returncode == 1
    assert f"{shelf.url}/none.wav: " in done.stderr.decode()
    assert (out / "a.txt").read_text() == f"{first}\n"
    done = transcribe(*given, "-o", str(out), f"{shelf.url}/a.wav", f"{shelf.url}/none.wav")
    assert "1 of 2 files transcribed, 1 of them before" in done.stderr.decode()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nosuch://bucket/a.wav", "nosuch"),
        ("s3://bucket/*.wav", "s3fs"),
        ("http://127.0.0.1:1/*.wav", "127.0.0.1:1"),
    ],
)
def test_an_address_that_leads_nowhere_is_told(
    small: models.ModelLocation, address: str, said: str
) -> None:
    done = transcribe("--model", str(small.directory), "--workers", "1", address)
    assert done.returncode == 1
    assert said in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
