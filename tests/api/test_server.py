"""The server with the embedded model, as its clients see it."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import wavs
from by_hand import FORM, form
from running import RunningServer, until
from wavs import wav_file


def test_speech_in_text_out(server: RunningServer, wav_clips: list[bytes]) -> None:
    answer = server.convert(wav_clips[2])
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert set(answer.json) == {"text", "duration", "language", "model", "request_id"}
    assert "어제" in answer.json["text"]
    assert answer.json["duration"] == pytest.approx(7.461, abs=0.01)
    assert answer.json["language"] == "ko"
    assert answer.json["model"] == "vosk-model-small-ko-0.22"
    assert answer.json["request_id"] == answer.headers["X-Request-ID"]
    assert "어제".encode() in answer.body
    assert b"\\u" not in answer.body


def test_words_have_times_and_confidences(server: RunningServer, wav_clips: list[bytes]) -> None:
    answer = server.convert(wav_clips[2], "?words=true").json
    assert [w["word"] for w in answer["words"]] == answer["text"].split()
    assert set(answer["words"][0]) == {"word", "start", "end", "confidence"}


def test_plain_text_is_given_to_those_who_prefer_it(
    server: RunningServer, wav_clips: list[bytes]
) -> None:
    answer = server.convert(wav_clips[2], Accept="text/plain, application/json;q=0.5")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.body.decode() == server.convert(wav_clips[2]).json["text"]


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/*;q=0.1, */*", "image/png"])
def test_json_is_given_to_everybody_else(
    server: RunningServer, wav_clips: list[bytes], accept: str
) -> None:
    answer = server.convert(wav_file(b""), Accept=accept)
    assert answer.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    "content_type",
    [
        "audio/wav",
        "audio/x-wav",
        "audio/vnd.wave; codec=1",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ],
)
def test_any_audio_type_is_taken(server: RunningServer, content_type: str) -> None:
    assert server.convert(wav_file(b""), Content_Type=content_type).status == 200


def test_no_type_at_all_is_taken(server: RunningServer) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    connection.request("POST", "/api/audio/convert", wav_file(b""))
    assert connection.getresponse().status == 200
    connection.close()


def test_a_form_with_one_file_is_taken(server: RunningServer, wav_clips: list[bytes]) -> None:
    expected = server.convert(wav_clips[2]).json["text"]
    for parts in (
        [("file", "a.wav", wav_clips[2])],
        [("note", None, b"hello"), ("upload", "a.wav", wav_clips[2]), ("x", None, b"")],
        [("audio", None, wav_clips[2])],
    ):
        answer = server.convert(form(*parts), Content_Type=FORM)
        assert answer.json["text"] == expected


def test_a_chunked_upload_is_taken(server: RunningServer, wav_clips: list[bytes]) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    wav = wav_clips[2]
    pieces = iter([wav[:10], wav[10:50], wav[50:]])
    connection.request(
        "POST",
        "/api/audio/convert",
        pieces,
        encode_chunked=True,
        headers={"Transfer-Encoding": "chunked"},
    )
    assert "어제" in json.loads(connection.getresponse().read())["text"]
    connection.close()


@pytest.mark.parametrize(
    "pcm", [b"", bytes(16_000), bytes(2)], ids=["no samples", "silence", "one sample"]
)
def test_nothing_said_is_an_empty_text(server: RunningServer, pcm: bytes) -> None:
    answer = server.convert(wav_file(pcm), "?words=true")
    assert answer.status == 200
    assert (answer.json["text"], answer.json["words"]) == ("", [])


def test_a_file_cut_short_is_recognised_with_a_warning(
    server: RunningServer, wav_clips: list[bytes]
) -> None:
    answer = server.convert(wav_clips[2][:-40_000])
    assert "어제" in answer.json["text"]
    assert answer.json["warnings"] == ["the file is cut short: what is there was recognised"]


def test_speech_at_another_rate_and_in_stereo_is_heard(
    server: RunningServer, clips: list[bytes]
) -> None:
    samples = wavs.samples_of(clips[2])
    stereo = b"".join(wavs.encode(s / 40_000, 3, 32) * 2 for s in samples for _ in range(3))
    answer = server.convert(wavs.wav_file(stereo, 3, 32, 2, 48_000))
    same = server.convert(wav_file(clips[2])).json["text"].split()
    heard = answer.json["text"].split()  # repeated samples are not quite the same sound
    assert len(set(same) & set(heard)) > 0.6 * len(set(same))
    assert answer.json["duration"] == pytest.approx(len(samples) / 16_000, abs=0.001)


def test_the_request_id_of_a_gateway_is_kept(server: RunningServer) -> None:
    answer = server.convert(wav_file(b""), X_Request_ID="abc-123")
    assert answer.json["request_id"] == answer.headers["X-Request-ID"] == "abc-123"


def test_a_request_id_that_could_do_harm_is_replaced(server: RunningServer) -> None:
    answer = server.convert(wav_file(b""), X_Request_ID="a b<script>")
    assert len(answer.json["request_id"]) == 32


def test_health_readiness_and_test_answer(server: RunningServer) -> None:
    assert server.ask("/healthz").json == {"status": "ok"}
    assert server.ask("/readyz").json == {
        "status": "ready",
        "model": "vosk-model-small-ko-0.22",
        "language": "ko",
        "workers": 2,
        "models": ["default (vosk-model-small-ko-0.22, ko)"],
    }
    assert server.ask("/test").json["server"] == "modelserver"


def test_the_same_audio_gives_the_same_text_whatever_came_before(
    server: RunningServer, clips: list[bytes], wav_clips: list[bytes]
) -> None:
    before = server.workers()
    for worker in before:
        worker.kill()
    until(lambda: len(set(server.workers()) - set(before)) == len(before))
    server.wait_whole()
    cold = [server.convert(wav).json["text"] for wav in wav_clips]
    alone = [server.convert(wav).json["text"] for wav in reversed(wav_clips)]
    with ThreadPoolExecutor(6) as threads:
        crowd = list(threads.map(server.convert, wav_clips * 4))
    assert alone[::-1] == cold
    assert [a.json["text"] for a in crowd] == cold * 4
    assert all(cold)


def test_the_allocator_in_use_is_reported(server: RunningServer) -> None:
    (loaded, *_) = server.events("model.loaded")
    assert loaded["allocator_in_use"] == "jemalloc"
    maps = Path(f"/proc/{server.fork_server().pid}/maps").read_text()
    assert "libjemalloc" in maps
    assert "libvosk" in maps
    assert "libvosk" not in Path(f"/proc/{server.pid}/maps").read_text()


def test_the_supervisor_carries_no_decoder_and_no_engine(server: RunningServer) -> None:
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    for library in ("libav", "libvosk", "numpy", "openblas"):
        assert library not in maps
