"""OpenAI's API, with its own clients, unchanged."""

import base64
import gc
import io
import json
import math
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from encoded import encoded
from places import SUPPORT
from running import RunningServer, start_server

from models.vosk.prepared import PreparedModel
from modelserver.api.openai import _Deltas, _verbose, _Wanted
from modelserver.speech.messages import Speech, SpeechProgress, SpeechSegment, SpeechWord
from modelserver.speech.transcript import reader_text

HERE = SUPPORT / "node"
NAME = "vosk-model-small-ko-0.22"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, prepared_embedded: PreparedModel
) -> Iterator[RunningServer]:
    assert prepared_embedded
    with start_server(tmp_path_factory.mktemp("openai")) as running:
        running.wait_whole()
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def spoken(clips: list[bytes]) -> bytes:
    """Audio with two utterances."""
    return clips[1] + bytes(64_000) + clips[0]


def file_of(pcm: bytes, kind: str = "wav") -> io.BytesIO:
    file = io.BytesIO(encoded(pcm, kind))
    file.name = f"speech.{kind}"
    return file


def test_a_transcript_is_ours(
    server: RunningServer, client: openai.OpenAI, clips: list[bytes]
) -> None:
    for kind in ("wav", "mp3", "webm"):
        file = file_of(clips[0], kind)
        answer = client.audio.transcriptions.create(file=file, model=NAME)
        assert answer.text == server.convert(file.getvalue()).json["text"] != ""
        assert "warnings" not in (answer.model_extra or {})
        assert answer.usage is not None


def test_names_that_mean_any_model_get_the_default(
    client: openai.OpenAI, clips: list[bytes]
) -> None:
    for name in (
        *("whisper-1", "gpt-4o-transcribe", "Systran/faster-whisper-small", "default"),
        *("large-v3", "turbo", "base", "distil-large-v3", "auto", "nova-2", "paraformer-zh"),
        *("FunAudioLLM/SenseVoiceSmall", "iic/SenseVoiceSmall", "scribe_v1", "Qwen3-ASR-0.6B"),
    ):
        answer = client.audio.transcriptions.create(
            file=file_of(clips[0]), model=name, language="ko", prompt="names" * (name == "default")
        )
        warnings: list[str] = (answer.model_extra or {})["warnings"]
        assert NAME in warnings[0] if name != "default" else "keywords" in warnings[0]


def test_a_verbose_answer_has_segments_and_words(
    server: RunningServer, client: openai.OpenAI, spoken: bytes
) -> None:
    file = file_of(spoken)
    ours = server.convert(file.getvalue(), "?words=true&segments=true").json
    answer = client.audio.transcriptions.create(
        file=file,
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert (answer.language, float(answer.duration)) == ("korean", ours["duration"])
    assert answer.segments
    assert answer.words
    assert [(s.start, s.end, s.text) for s in answer.segments] == [
        (s["start"], s["end"], s["text"]) for s in ours["segments"]
    ]
    assert len(answer.segments) > 1
    assert all(segment.avg_logprob <= 0 for segment in answer.segments)
    assert [(w.word, w.start, w.end) for w in answer.words] == [
        (w["word"], w["start"], w["end"]) for w in ours["words"]
    ]
    only = client.audio.transcriptions.create(
        file=file_of(spoken), model="whisper-1", response_format="verbose_json"
    )
    assert only.segments
    assert only.words is None


@pytest.mark.parametrize(
    ("fields", "words", "segments"),
    [
        ([("timestamp_granularities", "word")], True, False),
        ([("timestamp_granularities", "word"), ("timestamp_granularities", "segment")], True, True),
        ([("timestamp_granularities", "word"), ("timestamp_granularities", "word")], True, False),
        (
            [("timestamp_granularities[]", "segment"), ("timestamp_granularities", "word")],
            True,
            True,
        ),
        (
            [("timestamp_granularities[0]", "word"), ("timestamp_granularities[1]", "segment")],
            True,
            True,
        ),
        ([("timestamp_granularities", '["word"]')], True, False),
        ([("timestamp_granularities[]", '["word", "segment"]')], True, True),
        ([("timestamp_granularities", "word,segment")], True, True),
        ([("timestamp_granularities", "[]")], False, True),
        ([], False, True),
    ],
)
def test_what_is_timed_may_be_asked_for_in_every_spelling(
    server: RunningServer,
    clips: list[bytes],
    fields: list[tuple[str, str]],
    words: bool,
    segments: bool,
) -> None:
    answer = requests.post(
        f"{server.url}/v1/audio/transcriptions",
        files={"file": ("a.wav", encoded(clips[0][:64_000], "wav"))},
        data=[("model", "whisper-1"), ("response_format", "verbose_json"), *fields],
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    assert ("words" in answer.json(), "segments" in answer.json()) == (words, segments)


def test_what_is_timed_may_be_a_list_of_json(server: RunningServer, clips: list[bytes]) -> None:
    body = {
        "file": base64.b64encode(encoded(clips[0][:64_000], "wav")).decode(),
        "model": "whisper-1",
        "response_format": "verbose_json",
        "timestamp_granularities": ["word"],
    }
    answer = requests.post(f"{server.url}/v1/audio/transcriptions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["words"]


def long_speech(segments: int, words: int) -> Speech:
    """Make segments of so many words of a third of a second."""
    every = 0.36
    said = [SpeechWord("단어", n * every, n * every + 0.3, 0.9) for n in range(segments * words)]
    made = [
        SpeechSegment(said[at].start, said[at + words - 1].end, "단어 " * (words - 1) + "단어", [])
        for at in range(0, len(said), words)
    ]
    text = " ".join(segment.text for segment in made)
    return Speech(text, len(said) * every, "m", "ko", said, [], made)


def test_the_transcript_of_hours_takes_time_in_proportion() -> None:
    def took(segments: int) -> float:
        speech = long_speech(segments, 4)
        best = math.inf
        for _ in range(5):
            gc.collect()  # left by other tests, and not a part of what is measured
            gc.disable()
            began = time.process_time()
            _verbose(speech, _Wanted(form="verbose_json"), None)
            story = _Deltas()
            for segment in speech.segments:
                list(story.events(SpeechProgress(0.0, segment=segment)))
            best = min(best, time.process_time() - began)
            gc.enable()
        return best

    assert took(8000) < 8 * took(2000)


def test_deltas_come_to_the_text_in_every_script() -> None:
    story = _Deltas()
    said = ["你 好", "世 界", "hello", "world 你", "[unk]", "好 ok", "안녕", "하세요"]
    deltas = ""
    for text in (reader_text([text]) for text in said):  # as segments have them
        for event in story.events(SpeechProgress(0.0, segment=SpeechSegment(0.0, 1.0, text, []))):
            deltas += getattr(event.document, "delta", "")
    assert deltas == reader_text(said)


def test_subtitles_and_text_are_text(client: openai.OpenAI, spoken: bytes) -> None:
    made: dict[str, Any] = {
        form: client.audio.transcriptions.create(
            file=file_of(spoken),
            model="whisper-1",
            response_format=form,  # type: ignore[call-overload]
        )
        for form in ("text", "srt", "vtt")
    }
    assert all(isinstance(text, str) for text in made.values())
    assert made["vtt"].startswith("WEBVTT\n\n00:00:")
    cues = re.findall(r"\d+\n([\d:,]+) --> ([\d:,]+)\n(.+)\n", made["srt"])
    assert " ".join(text for _, _, text in cues) == made["text"].strip()
    starts = [start for start, _ in [(cue[0], cue[1]) for cue in cues]]
    assert starts == sorted(starts)


def test_a_transcript_comes_bit_by_bit(
    server: RunningServer, client: openai.OpenAI, spoken: bytes
) -> None:
    file = file_of(spoken)
    stream = client.audio.transcriptions.create(
        file=file, model="gpt-4o-mini-transcribe", stream=True, chunking_strategy="auto"
    )
    events = list(stream)
    assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
    assert len(events) > 2
    done = events[-1]
    assert done.type == "transcript.text.done"
    assert "".join(getattr(event, "delta", "") for event in events) == done.text
    assert done.text == server.convert(file.getvalue()).json["text"]


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert [model.id for model in listed] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "modelserver"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


BAD: dict[str, tuple[dict[str, Any], type[openai.APIStatusError], str]] = {
    "another model": ({"model": "nobody"}, openai.NotFoundError, "nobody"),
    "another language": ({"language": "xx"}, openai.NotFoundError, "xx"),
    "who speaks": (
        {"response_format": "diarized_json"},
        openai.BadRequestError,
        "speakers are not distinguished",
    ),
    "no format": ({"response_format": "xml"}, openai.BadRequestError, "xml"),
    "too hot": ({"temperature": 3}, openai.BadRequestError, "from 0 to 1"),
    "probabilities": ({"include": ["logprobs"]}, openai.BadRequestError, "not available"),
    "no grain": (
        {"response_format": "verbose_json", "timestamp_granularities": ["letter"]},
        openai.BadRequestError,
        "letter",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_is_an_error_that_clients_know(
    client: openai.OpenAI, clips: list[bytes], what: str
) -> None:
    more, kind, reason = BAD[what]
    with pytest.raises(kind, match=reason) as refused:
        client.audio.transcriptions.create(
            **{"file": file_of(clips[0][:32_000]), "model": "whisper-1", **more}
        )
    assert refused.value.type == "invalid_request_error"
    assert refused.value.code
    assert refused.value.response.headers["X-Request-ID"]


def test_a_name_of_a_model_costs_no_time(client: openai.OpenAI, clips: list[bytes]) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.with_options(timeout=20).audio.transcriptions.create(
            file=file_of(clips[0][:32_000]), model="qwen" * 16_000
        )
    assert refused.value.code == "model_not_found"


def test_no_audio_no_file_and_no_translation(client: openai.OpenAI, server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.transcriptions.create(file=("a.wav", b"hello " * 99), model="whisper-1")
    assert refused.value.code == "not_audio"
    with pytest.raises(openai.BadRequestError):
        client.audio.transcriptions.create(file=("a.wav", b""), model="whisper-1")
    with (
        pytest.warns(DeprecationWarning, match="deprecated"),
        pytest.raises(openai.NotFoundError, match="translation is not supported"),
    ):
        client.audio.translations.create(file=file_of(bytes(32_000)), model="whisper-1")
    answer = server.ask("/v1/audio/speech")
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert server.ask("/api/nothing").json["error"].keys() == {"code", "message", "request_id"}


def test_fields_that_nobody_needs_do_no_harm(client: openai.OpenAI, clips: list[bytes]) -> None:
    answer = client.audio.transcriptions.create(
        file=file_of(clips[0][:64_000]),
        model="whisper-1",
        temperature=0.5,
        extra_body={"vad_filter": "true", "hotwords": "a"},
    )
    assert answer.text


def test_its_node_client_works_unchanged(
    server: RunningServer, node_packages: Path, clips: list[bytes], tmp_path: Path
) -> None:
    file = tmp_path / "speech.mp3"
    file.write_bytes(encoded(clips[0], "mp3"))
    done = subprocess.run(
        ["node", str(node_packages / "transcribe.mjs"), server.url, str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    text = server.convert(file.read_bytes()).json["text"]
    assert said["json"]["text"] == said["verbose"]["text"] == text
    assert said["verbose"]["words"]
    assert said["verbose"]["segments"]
    assert said["srt"].startswith("1\n00:00:00")
    assert [event["type"] for event in said["events"]][-1] == "transcript.text.done"
    assert said["events"][-1]["text"] == text
    assert (said["models"], said["model"]) == ([NAME], NAME)
    assert said["error"] == {"name": "NotFoundError", "status": 404, "code": "model_not_found"}


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
def test_our_own_path_has_them_too(server: RunningServer, clips: list[bytes], form: str) -> None:
    wav = encoded(clips[0], "wav")
    answer = server.convert(wav, f"?format={form}")
    assert answer.status == 200
    text = answer.body.decode()
    if form == "text":
        assert text == server.convert(wav).json["text"]
    assert ("-->" in text) == (form != "text")
    assert server.convert(wav, "?format=xml").status == 400
