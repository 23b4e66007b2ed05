"""Error rates: what counts as one, how sure they are, and whether two runs differ."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import RunningServer

import models
from modelserver_tools.evaluation.errors import Counted, compare_texts, difference_of, rate_of
from modelserver_tools.evaluation.normalising import characters_of, normalised, words_of
from modelserver_tools.evaluation.references import ReferencesUnusable, read_references


@pytest.mark.parametrize(
    ("text", "words", "characters"),
    [
        ("Hello, World!", "hello world", "helloworld"),
        ("it's  O’Neill's 'quoted'", "it's o'neill's quoted", "it'so'neill'squoted"),
        ("Straße — groß", "straße groß", "straßegroß"),
        ("안녕하세요. 오늘은 <unk> 맑음", "안녕하세요 오늘은 맑음", "안녕하세요오늘은맑음"),
        ("안녕", "안녕", "안녕"),  # letters apart, as some file systems write them
        ("今天天气，很好。", "今 天 天 气 很 好", "今天天气很好"),
        ("我用 GPU 训练", "我 用 gpu 训 练", "我用gpu训练"),
        ("我用GPU训练", "我 用 gpu 训 练", "我用gpu训练"),
        ("カメラを買った｡ １２３", "カ メ ラ を 買 っ た 123", "カメラを買った123"),
        ("Größe 3,5 %", "größe 3 5", "größe35"),
        ("سلام، دنيا", "سلام دنيا", "سلامدنيا"),
        ("   ", "", ""),
        ("हिन्दी में", "हिन्दी में", "हिन्दीमें"),
    ],
)
def test_what_is_no_error_of_recognition_is_none(text: str, words: str, characters: str) -> None:
    plain = normalised(text)
    assert " ".join(words_of(plain)) == words
    assert "".join(characters_of(plain)) == characters
    assert normalised(plain) == plain


@pytest.mark.parametrize(
    ("reference", "hypothesis", "words", "characters"),
    [
        ("a b c", "a b c", (0, 0, 0, 3), (0, 0, 0, 3)),
        ("a b c", "a x c", (1, 0, 0, 3), (1, 0, 0, 3)),
        ("a b c", "a c", (0, 1, 0, 3), (0, 1, 0, 3)),
        ("a c", "a b c", (0, 0, 1, 2), (0, 0, 1, 2)),
        ("a b", "", (0, 2, 0, 2), (0, 2, 0, 2)),
        ("", "a b", (0, 0, 2, 0), (0, 0, 2, 0)),
        ("", "", (0, 0, 0, 0), (0, 0, 0, 0)),
        ("전기도 없었다", "전기 도 없었다", (1, 0, 1, 2), (0, 0, 0, 6)),
        ("今天很好", "今天好", (0, 1, 0, 4), (0, 1, 0, 4)),
    ],
)
def test_edits_are_counted(
    reference: str, hypothesis: str, words: tuple[int, ...], characters: tuple[int, ...]
) -> None:
    found = compare_texts("x", reference, hypothesis)
    assert found.words == Counted(*words)
    assert found.characters == Counted(*characters)


def counts(*errors: int, length: int = 10) -> list[Counted]:
    return [Counted(one, 0, 0, length) for one in errors]


def test_a_rate_is_of_all_pieces_and_its_interval_narrows_with_more_files() -> None:
    few = rate_of(counts(0, 5, 1, 3))
    assert (few.rate, few.errors, few.length) == (9 / 40, 9, 40)
    assert few.low < few.rate < few.high
    many = rate_of(counts(0, 5, 1, 3) * 50)
    assert many.rate == few.rate
    assert many.high - many.low < (few.high - few.low) / 4
    assert rate_of(counts(0, 5, 1, 3)) == few  # seeded
    assert rate_of([]).rate == 0
    # A long file counts for more than a short one.
    assert rate_of([Counted(1, 0, 0, 1), Counted(0, 0, 0, 99)]).rate == 0.01


def test_two_runs_differ_where_chance_does_not_explain_it() -> None:
    ours, theirs = counts(*[1, 2, 1, 0] * 15), counts(*[3, 3, 2, 1] * 15)
    found = difference_of(ours, theirs)
    assert found.difference == pytest.approx(-1.25 / 10)
    assert found.low < found.difference < found.high < 0
    assert found.p < 0.01
    assert difference_of(theirs, ours).difference == pytest.approx(1.25 / 10)
    same = difference_of(ours, ours)
    assert (same.difference, same.p) == (0, 1)
    noise = difference_of(counts(*[1, 3] * 10), counts(*[3, 1] * 10))
    assert noise.p > 0.5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.csv", "file,text\na.wav,one two\nclips/b.mp3,three"),
        ("r.csv", '﻿Sentence,Path\n"one two",a.wav\nthree,b.mp3'),
        ("r.tsv", "client_id\tpath\tsentence\n1\ta.mp3\tone two\n2\tb.mp3\tthree"),
        (
            "r.jsonl",
            '{"audio_filepath": "x/a.wav", "text": "one two"}\n{"id": "b", "text": "three"}',
        ),
        ("r.trn", "one two (a)\nthree (b)"),
        ("text", "a one two\nb three\n"),
        ("text", "a.wav\tone two\n\nb.wav\tthree\n"),
    ],
)
def test_references_are_read_as_people_have_them(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_references(tmp_path / name) == {"a": "one two", "b": "three"}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("r.csv", "a,b\n1,2", "has to name a column"),
        ("r.csv", "", "has to name a column"),
        ("r.jsonl", "{}", "line 1 is not a JSON object"),
        ("r.jsonl", "[1]", "line 1 is not a JSON object"),
        ("r.trn", "one two", "line 1 does not end with"),
        ("text", "a x\na.wav y", "is there twice"),
        ("text", "\n", "there is nothing in it"),
    ],
)
def test_what_cannot_be_read_is_said(name: str, content: str, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ReferencesUnusable, match=why):
        read_references(tmp_path / name)
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReferencesUnusable, match="not UTF-8"):
        read_references(tmp_path / name)


def evaluate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modelserver", "evaluate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_a_server_is_evaluated_and_compared_with_another_run(
    server: RunningServer, wav_clips: list[bytes], tmp_path: Path
) -> None:
    audio, references, saved = tmp_path / "audio", tmp_path / "r.jsonl", tmp_path / "run.json"
    audio.mkdir()
    said = {}
    for number, clip in enumerate(wav_clips[:3]):
        (audio / f"{number}.wav").write_bytes(clip)
        said[str(number)] = server.convert(clip).json["text"]
    (audio / "broken.wav").write_bytes(b"no audio")
    (audio / "unknown.wav").write_bytes(wav_clips[0])
    wrong = {**said, "0": said["0"][1:] + "x", "broken": "x", "absent": "y"}
    lines = [json.dumps({"id": name, "text": text}) for name, text in wrong.items()]
    references.write_text("\n".join(lines))
    at = ["--server", server.url, "--audio", str(audio), "--references", str(references)]
    done = evaluate(*at, "--save", str(saved), "--by-file")
    assert done.returncode == 1  # one could not be transcribed
    assert "1 references have no audio: absent" in done.stderr
    assert "1 files have no reference: unknown" in done.stderr
    assert "files: 3, and 1 that could not be transcribed" in done.stdout
    run = json.loads(saved.read_text())
    assert run["characters"]["errors"] == 2
    assert len(run["files"]) == 3
    assert [Path(line.split(":")[0]).name for line in run["failed"]] == ["broken.wav"]
    (audio / "broken.wav").unlink()
    again = evaluate(*at, "--against", str(saved))
    assert again.returncode == 0, again.stderr
    assert "3 files in both" in again.stdout
    assert "+0.0 points" in again.stdout
    lines[0] = json.dumps({"id": "0", "text": "something else"})
    references.write_text("\n".join(lines))
    other = evaluate(*at, "--against", str(saved))
    assert other.returncode == 1
    assert "had another reference for 0" in other.stderr


def test_by_workers_of_its_own_it_names_the_model(
    small: models.ModelLocation, wav_clips: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "a.wav").write_bytes(wav_clips[0])
    (tmp_path / "text").write_text("a word")
    model = str(small.directory)
    done = evaluate(
        "--audio", str(tmp_path), "--references", str(tmp_path / "text"), "--model", model
    )
    assert done.returncode == 0, done.stderr
    assert f"model {Path(model).name}" in done.stdout
