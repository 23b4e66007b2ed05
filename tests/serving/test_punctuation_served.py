"""The text step `punctuation`: final texts of both engines have marks, in every API."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from onnx_models import make_model, silence, tones, write_network
from punctuation_models import make_chinese, make_english
from running import RunningServer, start_server
from wavs import wav_file

from modelserver.speech.messages import PunctuationToUse
from modelserver.worker.punctuation_step import punctuation_step
from modelserver.worker.text_steps import TextSteps

SPEECH = silence(0.5) + tones("ab ba cc") + silence(2) + tones("hh dd") + silence(2)
WRITTEN = ["Ab ba, cc?", "HH dd."]
LOUDNESS = {"MODELSERVER_ENGINES_ONNX_VOICE_ACTIVITY": "loudness"}
LONG = {"MODELSERVER_DEBUG_LONG_FROM_S": "20", "MODELSERVER_DEBUG_LONG_PIECE_S": "6"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A streaming model, with English punctuation and case."""
    directory = tmp_path_factory.mktemp("english")
    model = make_model("online_transducer", directory / "tones-en")
    make_english(directory / "models" / "marks")
    given = {
        "MODELSERVER_TEXT_STEPS": "punctuation",
        "MODELSERVER_MODELS_DIR": str(directory / "models"),
        "MODELSERVER_LANGUAGE": "en",
        "MODELSERVER_WORKERS_COUNT": "2",
    }
    with start_server(directory, f"--model={model}", **given, **LOUDNESS, **LONG) as running:
        running.wait_whole()
        yield running


def bare(text: str) -> bool:
    return re.fullmatch("[a-h ]*", text) is not None


def test_files(server: RunningServer) -> None:
    answer = server.convert(wav_file(SPEECH), "?segments=true&words=true").json
    assert answer["text"] == " ".join(WRITTEN)
    assert [segment["text"] for segment in answer["segments"]] == WRITTEN
    assert [word["word"] for word in answer["words"]] == ["ab", "ba", "cc", "hh", "dd"]
    assert all(word["start"] < word["end"] for word in answer["words"])
    assert [segment["start"] for segment in answer["segments"]] == [
        answer["words"][0]["start"],
        answer["words"][3]["start"],
    ]


def test_long_recordings(server: RunningServer) -> None:
    answer = server.convert(wav_file(SPEECH * 3), "?segments=true").json
    assert answer["duration"] > 20
    assert [segment["text"] for segment in answer["segments"]] == WRITTEN * 3


def test_openai(server: RunningServer) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    file = ("a.wav", wav_file(SPEECH))
    whole = client.audio.transcriptions.create(model="whisper-1", file=file)
    assert whole.text == " ".join(WRITTEN)
    told = client.audio.transcriptions.create(model="whisper-1", file=file, stream=True)
    assert [e.text for e in told if e.type == "transcript.text.done"] == [" ".join(WRITTEN)]


async def vosk(url: str, pcm: bytes) -> tuple[list[str], list[str]]:
    """Return the final and the partial results of a client of the Vosk protocol."""
    finals, partials = [], []
    async with websockets.connect(url.replace("http", "ws")) as socket:
        await socket.send('{"config": {"sample_rate": 16000}}')
        for at in range(0, len(pcm), 3200):
            await socket.send(pcm[at : at + 3200])
            said = json.loads(await socket.recv())
            (partials if "partial" in said else finals).append(
                said.get("partial", said.get("text"))
            )
        await socket.send('{"eof": 1}')
        finals.append(json.loads(await socket.recv())["text"])
    return [text for text in finals if text], [text for text in partials if text]


async def own(url: str, pcm: bytes, more: str = "") -> list[dict[str, Any]]:
    """Return the messages to a client of the server's own protocol."""
    asked = f"encoding=s16le&rate=16000&words=true{more}"
    address = f"{url.replace('http', 'ws')}/api/audio/stream?{asked}"
    async with websockets.connect(address) as socket:
        for at in range(0, len(pcm), 3200):
            await socket.send(pcm[at : at + 3200])
        await socket.send('{"type": "close"}')
        return [json.loads(message) async for message in socket]


def test_streams(server: RunningServer) -> None:
    """Partial results stay bare."""
    finals, partials = asyncio.run(vosk(server.url, SPEECH))
    assert finals == WRITTEN
    assert partials
    assert all(map(bare, partials))
    told = asyncio.run(own(server.url, SPEECH))
    finals = [one["text"] for one in told if one["type"] == "final"]
    partials = [one["text"] for one in told if one["type"] == "partial"]
    assert finals == WRITTEN
    assert partials
    assert all(map(bare, partials))
    (first, *_) = (one for one in told if one["type"] == "final")
    assert [word["word"] for word in first["words"]] == ["ab", "ba", "cc"]
    assert first["start"] < first["words"][1]["start"] < first["end"]


def test_it_is_loaded_once_on_one_thread_and_reported(server: RunningServer) -> None:
    assert server.fork_server().num_threads() == 1
    assert [worker.num_threads() for worker in server.workers()] == [1, 1]
    (model,) = server.health()["models"]
    assert model["text_steps"] == {"punctuation": "in use"}


def test_its_memory_is_predicted(server: RunningServer, tmp_path: Path) -> None:
    (chosen,) = server.events("model.chosen")
    home = server.admin.parent
    marks = make_chinese(tmp_path / "models" / "marks", vocabulary=50_000, embedding=400)

    def inspected(**more: str) -> dict[str, Any]:
        variables = {"MODELSERVER_LANGUAGE": "en", "MODELSERVER_CONFIG": "/dev/null", **more}
        program = [sys.executable, "-m", "modelserver", "models", "inspect", "--json"]
        done = subprocess.run(
            [*program, str(home / "tones-en")],
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    alone = inspected()
    steps = {"MODELSERVER_TEXT_STEPS": "punctuation"}
    both = inspected(**steps, MODELSERVER_MODELS_DIR=str(home / "models"))
    assert chosen["predicted_bytes"] == both["model_bytes"] > alone["model_bytes"]
    assert both["parts"][-1]["name"] == "punctuation"
    assert both["punctuation_model"] == "marks"
    larger = inspected(**steps, MODELSERVER_TEXT_PUNCTUATION_MODEL=str(marks))
    assert larger["model_bytes"] - alone["model_bytes"] > 20_000_000 + 35_000_000
    assert larger["growth_bytes"] > alone["growth_bytes"]


def test_a_vosk_model_has_marks_too(tmp_path: Path, clips: list[bytes]) -> None:
    """Use both libraries in one process."""
    marks = make_chinese(tmp_path / "models" / "marks")
    given = {"MODELSERVER_TEXT_STEPS": "punctuation", "MODELSERVER_LANGUAGE": "zh"}
    given |= {"MODELSERVER_TEXT_PUNCTUATION_MODEL": str(marks)}
    given |= {"MODELSERVER_WORKERS_COUNT": "1"}
    with start_server(tmp_path, **given) as server:
        server.wait_ready()
        answer = server.convert(wav_file(clips[0]), "?alternatives=2&segments=true&words=true").json
        assert server.fork_server().num_threads() == 1
    words = [word["word"] for word in answer["words"]]
    assert len(words) > 2
    assert answer["text"] == f"{' '.join(words)}."
    (segment,) = answer["segments"]
    assert [one["text"][-1] for one in segment["alternatives"]] == ["."] * 2
    assert segment["alternatives"][0]["text"] == segment["text"]


@pytest.mark.parametrize(
    ("kind", "language", "state"),
    [
        ("whisper", "en", "not needed: the model writes punctuation itself"),
        ("zipformer_ctc", "ko", "does not support ko"),
    ],
)
def test_texts_that_need_none_or_of_other_languages_stay_as_they_are(
    kind: str, language: str, state: str, tmp_path: Path
) -> None:
    model = make_model(kind, tmp_path / "tones")
    make_chinese(tmp_path / "models" / "marks")
    given = {"MODELSERVER_TEXT_STEPS": "punctuation", "MODELSERVER_LANGUAGE": language}
    given |= {"MODELSERVER_MODELS_DIR": str(tmp_path / "models")}
    with start_server(tmp_path, f"--model={model}", **given, **LOUDNESS) as server:
        server.wait_ready()
        assert server.convert(wav_file(SPEECH)).json["text"] == "ab ba cc hh dd"
        (served,) = server.health()["models"]
        assert served["text_steps"] == {"punctuation": state}


def test_a_model_that_is_missing_or_damaged_is_a_sentence_until_a_reload(tmp_path: Path) -> None:
    model = make_model("paraformer", tmp_path / "tones")
    home = tmp_path / "models"
    given = {"MODELSERVER_TEXT_STEPS": "punctuation", "MODELSERVER_LANGUAGE": "zh"}
    given |= {"MODELSERVER_MODELS_DIR": str(home)}
    with start_server(tmp_path, f"--model={model}", **given, **LOUDNESS) as server:
        told = server.wait_event("model.start_failed", attempt=1)
        assert "no punctuation model for zh is in" in told["reason"]
        assert "`modelserver models pull punct-zh-en` would fetch one" in told["reason"]
        assert "retry_in_s" not in told
        metadata = {"punctuations": "_|，|。|？|、", "unk_symbol": "u", "tokens": "u"}
        write_network(home / "marks" / "model.onnx", {**metadata, "vocab_size": 2})
        server.process.send_signal(signal.SIGHUP)
        told = server.wait_event("model.start_failed", attempt=2)
        assert "the text step 'punctuation' cannot be used: " in told["reason"]
        assert "model.onnx (ct_transformer) cannot be loaded: " in told["reason"]
        (home / "marks" / "model.onnx").unlink()
        make_chinese(home / "marks")
        server.process.send_signal(signal.SIGHUP)
        server.wait_ready()
        speech = silence(0.5) + tones("abc") + silence(2)
        assert server.convert(wav_file(speech)).json["text"] == "一二，三。"
        assert not server.events("model.load_failed", "form.disabled")


def test_each_of_several_models_has_its_own(tmp_path: Path) -> None:
    kinds = {"zh": "paraformer", "en": "zipformer_ctc"}
    for name, kind in kinds.items():
        make_model(kind, tmp_path / name)
    make_chinese(tmp_path / "models" / "chinese", {"三": "？"})
    make_english(tmp_path / "models" / "english")
    file = tmp_path / "settings.toml"
    file.write_text(
        f"""
models_dir = "{tmp_path}/models"
text.steps = ["punctuation"]
engines.onnx.voice_activity = "loudness"
workers.count = 1
[models.zh]
model = "{tmp_path}/zh"
language = "zh"
text.punctuation_model = "chinese"
[models.en]
model = "{tmp_path}/en"
language = "en"
text.punctuation_model = "english"
second_pass = "zh"
"""
    )
    speech = wav_file(silence(0.5) + tones("ab ba c") + silence(2))
    with start_server(tmp_path, f"--config={file}") as server:
        server.wait_whole()
        assert server.convert(speech, "?model=en").json["text"] == "Ab ba, c"
        assert server.convert(speech, "?model=zh").json["text"] == "一二九二一九三？"
        live = silence(0.5) + tones("ab ba c") + silence(2)
        told = asyncio.run(own(server.url, live, "&model=en&second_pass=true"))
    texts = {one["type"]: one["text"] for one in told if one.get("text")}
    assert (texts["final"], texts["revised"]) == ("Ab ba, c", "一二九二一九三？")


def steps_of(names: str, directory: Path) -> TextSteps:
    step = punctuation_step(PunctuationToUse(str(make_english(directory / "marks"))))
    return TextSteps(names.split(","), "en", {"punctuation": step})


@pytest.mark.parametrize(
    ("steps", "spoken", "written"),
    [
        ("punctuation,numbers", "i have twenty five cc", "I have 25 cc?"),
        ("numbers,punctuation", "i have twenty five cc", "I have 25 cc?"),
        ("punctuation,numbers", "ba twenty five", "ba, 25"),
        ("numbers,punctuation", "ba twenty five", "ba, 25"),
        ("punctuation,numbers", "dd three point five percent", "dd. 3.5%"),
        ("numbers,punctuation", "dd three point five percent", "dd. 3.5%"),
    ],
)
def test_numbers_may_come_before_or_after(
    steps: str, spoken: str, written: str, tmp_path: Path
) -> None:
    assert steps_of(steps, tmp_path).written(spoken) == written


def test_requests_that_are_limited_to_phrases_get_them_without_marks(tmp_path: Path) -> None:
    steps = steps_of("punctuation,numbers", tmp_path)
    assert steps.for_request((), phrases=True).written("ab ba twenty five") == "ab ba 25"
    assert steps.for_request((), phrases=False).written("ab ba twenty five") == "Ab ba, 25"
    assert steps.report == {"punctuation": "in use", "numbers": "in use"}


def test_keywords_keep_their_own_case(tmp_path: Path) -> None:
    steps = steps_of("vocabulary,punctuation", tmp_path).for_request(("LeBa",), phrases=False)
    assert steps.written("i know le ba ba") == "I know LeBa ba,"
