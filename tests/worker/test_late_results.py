"""Engines that give results later than their audio, and no words with times."""

import itertools
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from dying_worker import answers_after_a_death, fed, finals, pieces
from late_model import RATE, gap, load, word
from places import SUPPORT
from pools import eventually
from wavs import wav_file

from modelserver.audio.formats import RawFormat
from modelserver.serving.recordings import Recording
from modelserver.speech.messages import (
    EOF,
    RESET,
    CaptionRequest,
    SpeechProgress,
    SpeechRequest,
    StreamRequest,
)
from modelserver.worker.text_steps import TextSteps
from supervisor import JobError, Pool, PoolSettings, SpoolStore, Target

SPEECH = b"".join(
    [gap(0.4), word(1), gap(), word(2), gap(0.7), word(3), gap(0.35), word(9), gap(0.9), word(4)]
)
SAID = ["w1 w2.", "w3.", "w9.", "w4."]
RAW = RawFormat("s16le", RATE)
CAPTIONS = msgspec.to_builtins(CaptionRequest(raw=RAW))
VOSK = msgspec.to_builtins(StreamRequest(RATE, words=False))


@pytest.mark.parametrize("seconds", [0.1, 0.25, 0.9, 3.0])
def test_captions_are_the_same_wherever_the_worker_dies(seconds: float) -> None:
    inputs = pieces(SPEECH, seconds, RATE)
    alone = finals(answers_after_a_death(load(), CAPTIONS, inputs, 0))
    assert [one["text"] for one in alone] == SAID
    assert [one["segment"] for one in alone] == [0, 1, 2, 3]
    assert [(one["start"], one["end"]) for one in alone][1:3] == [(1.6, 1.8), (2.15, 2.35)]
    for dies_after in range(len(inputs)):
        assert finals(answers_after_a_death(load(), CAPTIONS, inputs, dies_after)) == alone


@pytest.mark.parametrize("seconds", [0.1, 0.25, 0.9])
def test_the_vosk_protocol_answers_the_same_wherever_the_worker_dies(seconds: float) -> None:
    inputs = pieces(SPEECH, seconds, RATE)
    alone = answers_after_a_death(load(), VOSK, inputs, 0)
    assert len(alone) == len(inputs)
    assert " ".join(one[len('{\n  "text" : "') : -3] for one in alone if '"text"' in one) == (
        " ".join(SAID)
    )
    for dies_after in range(len(inputs)):
        assert answers_after_a_death(load(), VOSK, inputs, dies_after) == alone


def test_several_utterances_of_one_input_are_several_captions_and_then_a_partial_one() -> None:
    session = load().open(CAPTIONS, 0.0, None)
    said = fed(session, SPEECH + gap(0.2)).values
    assert [(one["kind"], one["text"]) for one in said] == [
        *(("final", text) for text in SAID[:3]),
        ("partial", "w4"),
    ]
    assert said[-1]["start"] == pytest.approx(2.35, abs=0.01)
    assert [one.get("language") for one in said] == [None, None, "en", None]


def test_several_utterances_of_one_input_are_one_answer_of_the_vosk_protocol() -> None:
    session = load().open(VOSK, 0.0, None)
    assert fed(session, SPEECH).values == ['{\n  "text" : "w1 w2. w3. w9."\n}']
    assert fed(session, RESET).values == ['{\n  "text" : "w4."\n}']
    assert fed(session, RESET).values == ['{"text": ""}']


# --- on real workers ------------------------------------------------------------------------------


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    target = Target("late_model", import_path=(str(SUPPORT),))
    async with Pool(target, PoolSettings(workers=2)) as running:
        await running.wait_ready()
        await eventually(lambda: [w.able for w in running._lifecycle.workers] == [True, True])
        yield running


async def test_a_stream_loses_nothing_when_its_worker_is_killed(pool: Pool) -> None:
    """Kill the worker after each final caption: the checkpoint holds the beginning of the next
    one."""
    said: list[Any] = []
    with pool.stream() as stream:
        stream.begin(CAPTIONS)
        for data in pieces(SPEECH, 0.1, RATE):
            await stream.send(data, 0.1)
            await eventually(lambda: stream._answered == stream._last)
            new = await stream.receive() if stream._answers else []
            said += new
            if finals(new) and data != EOF:
                assert stream.worker is not None
                os.kill(stream.worker.pid, signal.SIGKILL)
        stream.finish()
        assert await stream.receive() == []
        assert stream.replays == 3
    assert [one["text"] for one in finals(said)] == SAID
    assert said[-1]["segments"] == len(SAID)


async def transcribed(
    pool: Pool, body: bytes, asked: SpeechRequest
) -> tuple[dict[str, Any], list[SpeechProgress]]:
    told: list[SpeechProgress] = []
    async with SpoolStore().open() as spool:
        await spool.write(body)
        done = await pool.run(
            msgspec.to_builtins(asked),
            spool,
            on_progress=lambda value: told.append(msgspec.convert(value, SpeechProgress)),
        )
    return done.value, told


async def test_a_file_has_segments_without_words(pool: Pool) -> None:
    asked = SpeechRequest(words=True, alternatives=3, segments=True, partials=True)
    speech, told = await transcribed(pool, wav_file(SPEECH, rate=RATE), asked)
    assert speech["text"] == " ".join(SAID)
    assert [segment["text"] for segment in speech["segments"]] == SAID
    assert [one.segment.text for one in told if one.segment is not None] == SAID
    assert speech["segments"][2] == {"start": 2.15, "end": 2.35, "text": "w9.", "language": "en"}
    assert speech["words"] == []
    assert speech["language"] == "zh"
    assert speech["warnings"] == [
        "words: this model gives no words with times",
        "alternatives: this model gives none",
    ]


async def test_a_request_chooses_among_the_languages_of_a_model(pool: Pool) -> None:
    wav = wav_file(word(1) + gap(1), rate=RATE)
    speech, _ = await transcribed(pool, wav, SpeechRequest(language="en-GB"))
    assert (speech["language"], speech["warnings"]) == ("en", [])
    speech, _ = await transcribed(pool, wav, SpeechRequest(language="ko"))
    assert (speech["language"], speech["warnings"]) == (
        "zh",
        ["language 'ko': this model has zh, en"],
    )
    speech, _ = await transcribed(pool, wav_file(word(9), rate=RATE), SpeechRequest())
    assert speech["language"] == "en"


async def test_phrases_are_refused_where_a_model_cannot_be_limited_to_them(pool: Pool) -> None:
    with pytest.raises(JobError) as refused:
        await transcribed(pool, wav_file(SPEECH, rate=RATE), SpeechRequest(phrases=("a",)))
    assert refused.value.code == "grammar_unsupported"


async def test_pieces_of_a_long_recording_do_not_overlap_and_lose_nothing(pool: Pool) -> None:
    """Cut some within speech that has no pause."""
    spoken = b"".join(word(number, 0.5) + gap(0.1) for number in (1, 2, 3, 4, 5, 6, 7, 8)) * 3
    async with SpoolStore().open() as spool:
        await spool.write(wav_file(spoken, rate=RATE))
        recording = Recording(
            pool, SpoolStore(), 2, SpeechRequest(segments=True, words=True), piece_s=2.0
        )
        with pool.admit(units=len(spoken) / 2 / RATE) as admission:
            speech = await recording.transcribe(admission, spool)
    assert len(speech.segments) > 5
    said = speech.text.replace(".", "").split()
    # A word that is cut is in both pieces.
    assert [one for one, _ in itertools.groupby(said)] == [f"w{n}" for n in range(1, 9)] * 3
    assert [segment.start for segment in speech.segments] == sorted(
        segment.start for segment in speech.segments
    )
    assert speech.warnings == ["words: this model gives no words with times"]


def test_texts_that_are_written_keep_their_spaces_and_numbers() -> None:
    steps = TextSteps(["numbers"], "en")
    assert steps.written("twenty five") == "25"
    steps.leave_written()
    assert steps.written(" twenty five, 你 好 ") == "twenty five, 你 好"
    assert steps.report == {"numbers": "not needed: the model writes numbers itself"}
