"""The Vosk protocol on a worker: it answers every message as Vosk's own library does, to the
byte."""

import json
from dataclasses import dataclass

import pytest

import models
from models.vosk.loading import vosk
from models.vosk.model import VoskModel
from modelserver.speech.messages import EOF, RESET, StreamRequest
from modelserver.speech.vosk_answers import final_answer
from modelserver.worker.profiles import ProfiledModel
from modelserver.worker.vosk_stream import VoskStream

PHRASES = ("어제", "친구 시장", "[unk]")


@pytest.fixture(scope="module")
def model(embedded: models.ModelLocation) -> VoskModel:
    return VoskModel(embedded.directory)


@dataclass(frozen=True)
class Case:
    words: bool = True
    alternatives: int = 0
    partial_words: bool = False
    phrases: tuple[str, ...] = ()
    rate: int = 16_000
    piece_s: float = 0.2


CASES = {
    "words": Case(),
    "no words": Case(words=False),
    "alternatives": Case(alternatives=3),
    "alternatives without words": Case(words=False, alternatives=2, piece_s=0.7),
    "partial words": Case(partial_words=True),
    "a grammar": Case(phrases=PHRASES, partial_words=True),
    "another rate": Case(rate=8000, partial_words=True, piece_s=0.33),
}


def theirs(model: VoskModel, case: Case, messages: list[bytes | str]) -> list[str]:
    given = (model._model, float(case.rate))
    if case.phrases:
        own = [model._own(phrase) for phrase in case.phrases]
        given = (*given, json.dumps(own, ensure_ascii=False))
    recognizer = vosk.KaldiRecognizer(*given)
    recognizer.SetWords(case.words)
    recognizer.SetMaxAlternatives(case.alternatives)
    recognizer.SetPartialWords(case.partial_words)
    said = []
    for message in messages:
        if isinstance(message, str):
            said.append(recognizer.FinalResult())
        elif recognizer.AcceptWaveform(message):
            said.append(recognizer.Result())
        else:
            said.append(recognizer.PartialResult())
    return said


def ours(model: VoskModel, case: Case, messages: list[bytes | str]) -> list[str]:
    asked = StreamRequest(
        case.rate,
        case.words,
        case.partial_words,
        alternatives=case.alternatives,
        phrases=case.phrases,
    )
    served = ProfiledModel(model, models.DEFAULT_PROFILE)
    stream = VoskStream(served, asked, 0.0, None)
    said = [
        answer
        for message in messages
        for answer in models.run_steps(stream.feed(message, quiet=False)).values
    ]
    stream.close()
    return said


@pytest.mark.parametrize("name", CASES)
def test_every_answer_is_that_of_the_library(
    model: VoskModel, clips: list[bytes], name: str
) -> None:
    case = CASES[name]
    messages: list[bytes | str] = [RESET, b"", RESET, b"\0"]
    # Speech, an endpoint after it, a reset right after that, and one in the middle of speech.
    for clip, pause_s, end in (
        (clips[0], 2.0, RESET),
        (clips[2], 0.0, RESET),
        (clips[1], 1.0, EOF),
    ):
        pcm = clip[: 3 * 32_000] + bytes(int(pause_s * 32_000))
        if case.rate == 8000:
            pcm = b"".join(pcm[at : at + 2] for at in range(0, len(pcm), 4))
        size = 2 * int(case.piece_s * case.rate)
        messages += [pcm[at : at + size] for at in range(0, len(pcm), size)]
        messages.append(end)
    said = ours(model, case, messages)
    assert said == theirs(model, case, messages)
    assert sum('"text" : "' in one for one in said) >= 3


def test_letters_that_json_escapes_are_escaped() -> None:
    quoted = models.Utterance('say "a\\b"', (models.Word('"a\\b"', 0.5, 1.25, 1.0),))
    answer = final_answer([quoted], alternatives=False)
    assert json.loads(answer) == {
        "result": [{"conf": 1.0, "end": 1.25, "start": 0.5, "word": '"a\\b"'}],
        "text": 'say "a\\b"',
    }


def test_what_a_model_has_not_is_left_out() -> None:
    said = [models.Utterance("a", (models.Word("a", 0.0, 1.0, None),)), models.Utterance("b c")]
    assert json.loads(final_answer(said, alternatives=False)) == {
        "result": [{"end": 1.0, "start": 0.0, "word": "a"}],
        "text": "a b c",
    }
    assert json.loads(final_answer([models.Utterance("b")], alternatives=True)) == {
        "alternatives": [{"text": "b"}]
    }
