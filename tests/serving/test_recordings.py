"""Long recordings: cut in pauses, recognised by all workers at once, joined again; and other
requests do not wait behind them."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import threading
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from encoded import encoded
from hypothesis import given, settings
from hypothesis import strategies as st
from running import RunningServer, start_server, until
from stopwatch import Stopwatch, within
from waves import wav
from wavs import wav_file

from models.vosk.prepared import PreparedModel
from modelserver.serving.recordings import Recording, piece_length
from modelserver.speech.joining import Joiner, RecognisedPiece
from modelserver.speech.messages import SpeechRequest, SpeechSegment, SpeechWord
from modelserver.speech.segments import segment_of_words
from modelserver.worker.pieces import AudioPiece, Cutter
from supervisor import SpoolFull

RATE = 16_000


def sound(seconds: float, loud: int = 8000, seed: int = 1) -> bytes:
    noise = random.Random(seed)
    return array("h", [noise.randint(-loud, loud) for _ in range(int(seconds * RATE))]).tobytes()


def cut(pcm: bytes, piece_s: float, step: int = 8000) -> list[AudioPiece]:
    cutter = Cutter(RATE, piece_s)
    pieces = [p for at in range(0, len(pcm), step) for p in cutter.feed(pcm[at : at + step])]
    return [*pieces, *cutter.finish()]


def test_it_is_cut_where_nobody_speaks() -> None:
    pcm = sound(7) + sound(0.6, 20) + sound(8) + sound(0.6, 20) + sound(4)
    pieces = cut(pcm, 10)
    assert [piece.paused for piece in pieces] == [True] * len(pieces)
    assert [piece.end for piece in pieces] == pytest.approx([7.3, 15.9, 20.2], abs=0.25)
    assert b"".join(piece.pcm for piece in pieces) == pcm


def test_where_nobody_pauses_pieces_overlap() -> None:
    pcm = sound(35)
    pieces = cut(pcm, 10)
    assert not any(piece.paused for piece in pieces[:-1])
    for one, other in itertools.pairwise(pieces):
        assert one.end == other.begin
        assert other.start < one.end - 1
        assert one.start + len(one.pcm) / 2 / RATE > one.end + 0.5
    assert pieces[-1].end == 35


@settings(deadline=None)  # processors are shared
@given(
    parts=st.lists(st.tuples(st.floats(0.05, 9), st.booleans()), max_size=12),
    piece_s=st.floats(2, 12),
    step=st.integers(2, 90_000),
)
def test_nothing_is_lost_however_it_comes(
    parts: list[tuple[float, bool]], piece_s: float, step: int
) -> None:
    tone = array("h", [((n * 7919) % 4001 - 2000) for n in range(RATE * 9)]).tobytes()
    pcm = b"".join(
        tone[: int(s * RATE) * 2] if loud else bytes(int(s * RATE) * 2) for s, loud in parts
    )
    pieces = cut(pcm, piece_s, step // 2 * 2)
    assert [piece.number for piece in pieces] == list(range(len(pieces)))
    at = 0.0
    for piece in pieces:
        assert piece.begin == at
        assert piece.end > piece.begin
        at = piece.end
        first = round(piece.start * RATE) * 2
        assert pcm[first : first + len(piece.pcm)] == piece.pcm
        assert piece.start <= piece.begin + 0.03
        assert piece.start + len(piece.pcm) / 2 / RATE >= piece.end - 1e-6
        # The rest may be as long as a piece that was not worth cutting.
        assert len(piece.pcm) / 2 / RATE <= 2 * piece_s + 0.1
    assert at == pytest.approx(len(pcm) / 2 / RATE)


def word(text: str, start: float) -> SpeechWord:
    return SpeechWord(text, start, start + 0.4, 0.9)


def heard(
    begin: float, end: float, *segments: list[SpeechWord], paused: bool = False
) -> RecognisedPiece:
    return RecognisedPiece(begin, end, paused, [segment_of_words(words) for words in segments])


def joined(
    *pieces: RecognisedPiece, pause_s: float = 0.0, longest_s: float = 0.0
) -> list[SpeechSegment]:
    joiner = Joiner(pause_s, longest_s)
    done = [segment for piece in pieces for segment in joiner.add(piece)]
    return [*done, *joiner.finish()]


def test_pieces_that_end_in_a_pause_stay_as_they_are() -> None:
    one = heard(0, 10, [word("a", 1)], [word("b", 5)], paused=True)
    other = heard(10, 20, [word("a", 11)], paused=True)
    assert joined(one, other) == [*one.segments, *other.segments]


@pytest.mark.parametrize(
    ("pause_s", "longest_s", "texts"),
    [(1.1, 0, ["a b", "c", "d"]), (1.3, 0, ["a b c", "d"]), (6, 0, ["a b c d"]),
     (6, 8, ["a b c", "d"]), (6, 2.5, ["a b", "c", "d"])],
)  # fmt: skip
def test_a_pause_between_pieces_ends_a_segment_if_it_is_long_enough(
    pause_s: float, longest_s: float, texts: list[str]
) -> None:
    words = word("a", 8), word("b", 9), word("c", 10.6), word("d", 16)
    first = heard(0, 10, [words[0], words[1]], paused=True)
    other = heard(10, 15, [words[2]], paused=True)
    last = heard(15, 20, [words[3]], paused=True)
    found = joined(first, other, last, pause_s=pause_s, longest_s=longest_s)
    assert [segment.text for segment in found] == texts
    wordless = [
        RecognisedPiece(one.begin, one.end, one.paused, [
            SpeechSegment(s.start - 0.3, s.end + 0.3, s.text) for s in one.segments
        ])
        for one in (first, other, last)
    ]  # fmt: skip
    wider_s = longest_s and longest_s + 0.6
    found = joined(*wordless, pause_s=pause_s, longest_s=wider_s)
    assert [segment.text for segment in found] == texts


def test_a_segment_over_a_seam_is_no_longer_than_the_longest() -> None:
    one = heard(0, 10, [word("a", 8), word("b", 9)])
    other = heard(10, 20, [word("b", 9.05), word("c", 9.6), word("d", 10.6)])
    assert [segment.text for segment in joined(one, other, longest_s=4)] == ["a b c d"]
    assert [segment.text for segment in joined(one, other, longest_s=2)] == ["a b", "c d"]


def test_a_word_that_both_have_heard_is_said_once() -> None:
    one = heard(0, 10, [word("a", 8), word("b", 9), word("c", 9.9), word("cut", 11.2)])
    other = heard(10, 20, [word("half", 8.6), word("b", 9.05), word("c", 9.95), word("d", 10.6)])
    (segment,) = joined(one, other)
    assert segment.text == "a b c d"
    assert (segment.start, segment.end) == (8, 11)


def test_what_neither_agrees_on_changes_at_the_seam() -> None:
    one = heard(0, 10, [word("a", 8), word("x", 9.7)])
    other = heard(10, 20, [word("y", 9.75), word("d", 10.6)])
    assert "".join(s.text for s in joined(one, other)).replace(" ", "") in ("axd", "ayd")
    silent = heard(10, 20)
    assert [s.text for s in joined(one, silent)] == ["a x"]
    assert [s.text for s in joined(heard(0, 10), other)] == ["d"]


def test_pieces_are_as_long_as_keeps_all_workers_busy() -> None:
    assert piece_length(60, 2, 45) == 15
    assert piece_length(300, 2, 45) == 25
    assert piece_length(3600, 2, 45) == 45


def test_samples_that_wait_for_the_disk_are_bounded() -> None:
    nothing: Any = None
    recording = Recording(nothing, nothing, 1, SpeechRequest(), piece_s=45)
    piece = {"start": 0.0, "begin": 0.0, "end": 1.0, "paused": True, "rate": RATE}
    for number in range(46):
        recording._arrives(piece | {"number": number, "pcm": bytes(1_440_000)})
    with pytest.raises(SpoolFull, match=r"spool\.directory"):
        recording._arrives(piece | {"number": 46, "pcm": bytes(1_440_000)})
    assert recording._arrived.qsize() == 46


# --- with the server ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, prepared_embedded: PreparedModel
) -> Iterator[RunningServer]:
    assert prepared_embedded
    given = {"MODELSERVER_DEBUG_LONG_FROM_S": "30", "MODELSERVER_DEBUG_LONG_PIECE_S": "15"}
    with start_server(tmp_path_factory.mktemp("long"), **given) as running:
        running.wait_whole()
        yield running


@pytest.fixture(scope="module")
def recording(clips: list[bytes]) -> bytes:
    """A minute and a half, with pauses."""
    pauses = [sound(0.9, 15, seed) for seed in range(10)]
    return b"".join(clips[n % len(clips)] + pauses[n] for n in range(10))


def text_of(server: RunningServer, pcm: bytes) -> str:
    return str(server.convert(wav(pcm)).json["text"])


def test_its_text_is_that_of_its_pieces(server: RunningServer, recording: bytes) -> None:
    length = piece_length(len(recording) / 2 / RATE, 2, 15)
    pieces = cut(recording, length)
    assert len(pieces) > 3
    assert all(piece.paused for piece in pieces)
    apart = [text_of(server, piece.pcm) for piece in pieces]
    answer = server.convert(wav(recording), "?words=true&segments=true").json
    assert answer["text"] == " ".join(text for text in apart if text)
    assert answer["duration"] == pytest.approx(len(recording) / 2 / RATE, abs=0.01)
    words = answer["words"]
    assert " ".join(w["word"] for w in words) == answer["text"]
    assert [w["start"] for w in words] == sorted(w["start"] for w in words)
    for piece, text in zip(pieces, apart, strict=True):
        inside = [w["word"] for w in words if piece.begin <= w["start"] < piece.end]
        assert " ".join(inside) == text
    spoken = [(s["start"], s["end"]) for s in answer["segments"]]
    assert all(one[1] <= other[0] + 0.01 for one, other in itertools.pairwise(spoken))


@pytest.mark.parametrize("kind", ["mp3", "m4a", "webm"])
def test_any_container_will_do(server: RunningServer, recording: bytes, kind: str) -> None:
    answer = server.convert(encoded(recording[: 40 * RATE * 2], kind), "?format=srt")
    assert answer.status == 200
    assert answer.body.count(b"-->") > 3


def test_a_dead_worker_costs_nothing_but_time(server: RunningServer, recording: bytes) -> None:
    undisturbed = server.convert(wav(recording), "?words=true").json
    said: list[object] = []
    asking = threading.Thread(
        target=lambda: said.append(server.convert(wav(recording), "?words=true").json)
    )
    asking.start()
    kills = 0
    while asking.is_alive():
        time.sleep(0.5)
        for worker in server.workers()[: 1 + kills % 2]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        kills += 1
        if kills == 4:
            break
    asking.join()
    (answer,) = said
    assert isinstance(answer, dict)
    assert {**answer, "request_id": ""} == {**undisturbed, "request_id": ""}
    server.wait_whole()


def test_nobody_waits_behind_it(
    server: RunningServer, recording: bytes, clips: list[bytes]
) -> None:
    short = wav(clips[0][: 2 * RATE * 2])
    watch = Stopwatch()
    server.convert(short)
    alone_s = watch.seconds
    long = threading.Thread(target=server.convert, args=(wav(recording * 3),))
    long.start()
    time.sleep(0.5)  # its samples are being made
    waits = []
    for _ in range(5):
        watch = Stopwatch()
        assert server.convert(short).status == 200
        waits.append(watch.seconds)
        assert long.is_alive()
    long.join()
    assert sorted(waits)[2] < 1.0 + 2 * alone_s


def test_progress_and_segments_come_while_it_is_heard(
    server: RunningServer, recording: bytes
) -> None:
    answer = server.convert(wav(recording), Accept="text/event-stream")
    events = [event.split("\n") for event in answer.body.decode().strip().split("\n\n")]
    told = [(kind[7:], json.loads(data[6:])) for kind, data in events]
    finals = [document["text"] for kind, document in told if kind == "final"]
    assert told[-1][0] == "done"
    assert " ".join(finals) == told[-1][1]["text"]
    done = [document["done"] for kind, document in told if kind == "progress"]
    assert done == sorted(done)


async def test_a_client_that_goes_leaves_nothing(server: RunningServer, recording: bytes) -> None:
    body = wav(recording * 3)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    await asyncio.sleep(1)
    writer.transport.abort()
    assert reader
    async with within(10):
        while server.health()["queue"]["admitted"] or server.health()["streams"]["replay_bytes"]:
            await asyncio.sleep(0.1)
    assert server.health()["spools"]["open"] == 0


def test_what_is_no_audio_is_refused_as_ever(server: RunningServer, recording: bytes) -> None:
    damaged = encoded(recording[: 60 * RATE * 2], "m4a")
    answer = server.convert(damaged[: len(damaged) // 3])
    assert answer.status in (200, 400, 415)
    assert server.convert(wav(recording), "?channels=split&segments=true").status == 200


def test_channels_that_are_apart_are_recognised_in_pieces_too(
    server: RunningServer, recording: bytes, clips: list[bytes]
) -> None:
    other = b"".join(clips[::-1] * 10)[: len(recording)].ljust(len(recording), b"\0")
    both = bytearray(2 * len(recording))
    for at, pcm in ((0, recording), (2, other)):
        both[at::4], both[at + 1 :: 4] = pcm[::2], pcm[1::2]
    query = "?words=true&segments=true"
    answer = server.convert(wav_file(bytes(both), channels=2), query + "&channels=split").json
    for channel, pcm in enumerate((recording, other)):
        alone = server.convert(wav(pcm), query).json
        heard = [word for word in answer["words"] if word["channel"] == channel]
        assert [word | {"channel": 0} for word in heard] == [
            word | {"channel": 0} for word in alone["words"]
        ]
        segments = [one for one in answer["segments"] if one["channel"] == channel]
        assert [one["text"] for one in segments] == [one["text"] for one in alone["segments"]]
    starts = [segment["start"] for segment in answer["segments"]]
    assert starts == sorted(starts)
    assert answer["duration"] == pytest.approx(len(recording) / 2 / RATE, abs=0.01)


def test_nobody_waits_behind_channels_that_are_apart(
    server: RunningServer, recording: bytes, clips: list[bytes]
) -> None:
    jobs = [
        server.ask("/v1/jobs?channels=split", wav_file(recording * 8, channels=2)).json["id"]
        for _ in range(2)
    ]
    until(lambda: server.ask(f"/v1/jobs/{jobs[0]}").json["state"] == "running", 30)
    for _ in range(3):
        assert server.convert(wav(clips[0][: 2 * RATE * 2])).status == 200
    states = [server.ask(f"/v1/jobs/{job}").json["state"] for job in jobs]
    assert "done" not in states
    for job in jobs:
        requests.delete(f"{server.url}/v1/jobs/{job}", timeout=10)


def test_more_long_recordings_than_can_be_done_are_refused_and_not_all_late(
    tmp_path: Path, prepared_embedded: PreparedModel, recording: bytes
) -> None:
    assert prepared_embedded
    given = {
        "MODELSERVER_DEBUG_LONG_FROM_S": "30",
        "MODELSERVER_DEBUG_LONG_PIECE_S": "15",
        "MODELSERVER_WORKERS_COUNT": "1",
        "MODELSERVER_LIMITS_REQUEST_S": "15",
    }
    body = wav(recording)
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        alone = [timed(running, body) for _ in range(2)]
        assert [status for status, *_ in alone] == [200, 200]
        # So long that some of twelve are done, and not all.
        body = wav(recording * max(1, round(3.0 / alone[1][1])))
        with ThreadPoolExecutor(12) as clients:
            answers = list(clients.map(lambda _: timed(running, body), range(12)))
        done = [took for status, took, _ in answers if status == 200]
        refused = [error for status, _, error in answers if status == 503]
        assert len(done) + len(refused) == 12, answers
        assert len(done) >= 2
        assert len(refused) >= 2
        assert {error["code"] for error in refused} == {"queue_full"}
        assert running.convert(body).status == 200


def timed(server: RunningServer, body: bytes) -> tuple[int, float, dict[str, str]]:
    """Status, seconds and error of one recording."""
    began = time.monotonic()
    answer = server.convert(body)
    return answer.status, time.monotonic() - began, answer.json.get("error", {})
