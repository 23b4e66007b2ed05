"""Ends of utterances with a Vosk model: pauses of a request's length, and a longest utterance."""

import itertools
import random
from array import array
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from models.steps import run_steps
from models.vosk.endpoints import EndpointRecognizer
from models.vosk.model import VoskModel
from models.vosk.prepared import PreparedModel
from models.vosk.silence import FRAME_S, Silence

RATE = 16_000
Asked = models.RecognitionOptions


def silence(seconds: float) -> bytes:
    return bytes(2 * round(seconds * RATE))


def noise(pcm: bytes, amplitude: float) -> bytes:
    """Return the same audio in a room with noise."""
    hiss = random.Random(1)
    samples = array("h", pcm)
    return array("h", (round(s / 2 + hiss.gauss(0, amplitude)) for s in samples)).tobytes()


def fed(
    recognizer: models.Recognizer, pcm: bytes, sizes: tuple[int, ...] = (8000,)
) -> list[tuple[float, models.Utterance]]:
    """Utterances, each with the second of audio that had come when it was final."""
    said: list[tuple[float, models.Utterance]] = []
    at = 0
    for size in itertools.cycle(sizes):
        if at >= len(pcm):
            break
        piece = pcm[at : at + size]
        at += len(piece)
        said += [(at / 2 / RATE, one) for one in run_steps(recognizer.accept(piece))]
    said += [(len(pcm) / 2 / RATE, one) for one in run_steps(recognizer.finish())]
    recognizer.close()
    return [(at_s, one) for at_s, one in said if one.text]


def words(said: list[tuple[float, models.Utterance]]) -> list[models.Word]:
    return [word for _, one in said for word in one.words]


# --- with a real model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(embedded: models.ModelLocation, prepared_embedded: PreparedModel) -> VoskModel:
    return VoskModel(embedded.directory, prepared_embedded.made)


@pytest.fixture(scope="module")
def spoken(clips: list[bytes]) -> bytes:
    """Two sentences, 1.2 s apart: more than the engine waits for."""
    return silence(0.5) + clips[0] + silence(1.2) + clips[2] + silence(3)


def recognised(
    model: VoskModel, pcm: bytes, sizes: tuple[int, ...] = (8000,), **asked: float
) -> list[tuple[float, models.Utterance]]:
    return fed(model.recognizer(Asked(words=True, **asked)), pcm, sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("endpoint_ms", [200, 800])
def test_an_utterance_ends_after_the_pause_that_was_asked_for(
    model: VoskModel, clips: list[bytes], spoken: bytes, endpoint_ms: int
) -> None:
    said = recognised(model, spoken, (640,), endpoint_ms=endpoint_ms)
    first_s = 0.5 + len(clips[0]) / 2 / RATE
    for end_s in (first_s, len(spoken) / 2 / RATE - 3):
        before = max((at for at, one in said if at <= end_s + 1.1), default=0)
        # Speech fades: the clip's last 0.7 s may be quiet already.
        assert end_s - 0.7 <= before - endpoint_ms / 1000 <= end_s + 0.1


def test_a_longer_pause_than_the_engines_holds_an_utterance_together(
    model: VoskModel, spoken: bytes
) -> None:
    own = recognised(model, spoken)
    assert len(own) >= 2
    (whole,) = recognised(model, spoken, endpoint_ms=2500, max_utterance_s=30)
    heard = whole[1].words
    assert len(heard) >= 0.8 * len(words(own))
    assert heard[0].start_s < 3.0
    assert heard[-1].end_s > 17.0


def test_times_are_those_of_the_audio(model: VoskModel, clips: list[bytes], spoken: bytes) -> None:
    first_s = 0.5 + len(clips[0]) / 2 / RATE
    for asked in ({"endpoint_ms": 200}, {"max_utterance_s": 1.5}):
        found = words(recognised(model, spoken, **asked))
        starts = [word.start_s for word in found]
        assert starts == sorted(starts)
        for word in found:
            middle = (word.start_s + word.end_s) / 2
            assert 0.4 <= middle <= first_s + 0.1 or middle >= first_s + 1.1
            assert middle <= len(spoken) / 2 / RATE - 2.9


def test_nobody_speaks_longer_than_the_longest_utterance(model: VoskModel, spoken: bytes) -> None:
    said = recognised(model, spoken, max_utterance_s=2)
    assert len(said) >= 6
    for _, one in said:
        assert one.words[-1].end_s - one.words[0].start_s <= 2.0
    for (_, one), (_, other) in itertools.pairwise(said):
        assert other.words[0].start_s >= one.words[-1].end_s - 0.06
    assert len(words(said)) >= 0.7 * len(words(recognised(model, spoken)))


ASKED = {"endpoint_ms": 300, "max_utterance_s": 3.0}


def test_results_do_not_depend_on_the_sizes_of_chunks(model: VoskModel, spoken: bytes) -> None:
    whole = [one for _, one in recognised(model, spoken, (len(spoken),), **ASKED)]
    for sizes in ((8000,), (333, 40_000, 2)):
        assert [one for _, one in recognised(model, spoken, sizes, **ASKED)] == whole


def test_another_recogniser_goes_on_after_each_utterance(model: VoskModel, spoken: bytes) -> None:
    options = Asked(words=True, **ASKED)  # type: ignore[arg-type]
    whole = [one.text for _, one in fed(model.recognizer(options), spoken)]
    recognizer, moved = model.recognizer(options), []
    for at in range(0, len(spoken), 8000):
        said = run_steps(recognizer.accept(spoken[at : at + 8000]))
        moved += said
        if said:
            rest = recognizer.pending()
            assert spoken[: at + 8000].endswith(rest)
            recognizer.close()
            recognizer = model.recognizer(options)
            moved += run_steps(recognizer.accept(rest))
    moved += run_steps(recognizer.finish())
    assert [one.text for one in moved if one.text] == whole


def test_a_pause_is_found_in_noise(model: VoskModel, spoken: bytes) -> None:
    said = recognised(model, noise(spoken, 300), endpoint_ms=600)
    assert any(9.5 <= at <= 11.5 for at, _ in said)
    assert said[-1][0] <= len(spoken) / 2 / RATE - 1.0


def test_words_and_readings_are_given_as_asked(model: VoskModel, spoken: bytes) -> None:
    said = fed(model.recognizer(Asked(max_utterance_s=2.0, alternatives=3)), spoken)
    assert all(one.words == () for _, one in said)
    assert any(len(one.alternatives) > 1 for _, one in said)
    for _, one in said:
        texts = [reading.text for reading in one.alternatives]
        assert len(set(texts)) == len(texts) <= 3
        assert texts[0] == one.text
        assert all(reading.words == () for reading in one.alternatives)


def test_a_recogniser_can_be_used_again_after_the_end(model: VoskModel, clips: list[bytes]) -> None:
    made = model.recognizer(Asked(words=True, endpoint_ms=9000))
    texts = []
    for number in range(2):
        run_steps(made.accept(clips[2]))
        (one,) = run_steps(made.finish())
        texts.append(one.text)
        assert one.words[0].start_s >= number * len(clips[2]) / 2 / RATE
    assert texts[0] == texts[1] != ""


# --- with an engine that knows each word ----------------------------------------------------------


class Burst:
    """An engine for which a word is a stretch of equal samples, named after them, of 25 ms at the
    least. It finds an end after half a second of zeros."""

    def __init__(self) -> None:
        self._before, self._samples = 0, array("h")

    def give(self, pcm: bytes) -> Iterator[None]:
        yield
        self._samples.frombytes(pcm)
        return not any(self._samples[-RATE // 2 :])  # type: ignore[return-value]

    def accept(self, pcm: bytes) -> Iterator[None]:
        raise NotImplementedError

    def _words(self) -> Iterator[models.Word]:
        at = self._before
        for value, same in itertools.groupby(self._samples):
            length = len(list(same))
            if value and length >= 0.025 * RATE:
                yield models.Word(str(value), at / RATE, (at + length) / RATE, 1.0)
            at += length

    def partial(self) -> models.Partial:
        return models.Partial(" ".join(word.text for word in self._words()))

    def finish(self) -> Iterator[None]:
        yield
        found = tuple(self._words())
        self._before += len(self._samples)
        self._samples = array("h")
        text = " ".join(word.text for word in found)
        return [models.Utterance(text, found)]  # type: ignore[return-value]

    def pending(self) -> bytes:
        return b""

    def close(self) -> None:
        pass


SPOKEN = st.lists(
    st.tuples(st.floats(0.1, 0.45), st.sampled_from([0.0, 0.0, 0.1, 0.3, 0.7, 2.5])),
    min_size=1,
    max_size=20,
)


def said_of(spoken: list[tuple[float, float]]) -> tuple[bytes, list[models.Word]]:
    """Audio of words, each so long and with so much silence behind it."""
    samples, found = array("h"), []
    for number, (length_s, pause_s) in enumerate(spoken):
        start = len(samples)
        samples.extend([2000 + number] * round(length_s * RATE))
        found.append(models.Word(str(2000 + number), start / RATE, len(samples) / RATE, 1.0))
        samples.extend([0] * round(pause_s * RATE))
    return samples.tobytes(), found


@pytest.mark.quick
@settings(max_examples=60, deadline=None)
@given(
    spoken=SPOKEN,
    endpoint_ms=st.sampled_from([0, 100, 300, 800, 3000]),
    longest_s=st.sampled_from([0.0, 1.0, 1.7, 3.0]),
    sizes=st.lists(st.integers(1, 50_000), min_size=1, max_size=4),
)
def test_no_word_is_lost_and_none_is_doubled(
    spoken: list[tuple[float, float]], endpoint_ms: int, longest_s: float, sizes: list[int]
) -> None:
    pcm, expected = said_of(spoken)
    options = Asked(words=True, endpoint_ms=endpoint_ms, max_utterance_s=longest_s)
    said = fed(EndpointRecognizer(Burst(), RATE, options), pcm, (*sizes, 8000))  # type: ignore[arg-type]
    found = words(said)
    assert [word.text for word in found] == [word.text for word in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.start_s == pytest.approx(other.start_s, abs=0.11)
        assert one.end_s == pytest.approx(other.end_s, abs=0.11)
    for _, utterance in said:
        length_s = utterance.words[-1].end_s - utterance.words[0].start_s
        assert length_s <= (longest_s or 20.0) + 0.11
        if endpoint_ms:
            gaps = [b.start_s - a.end_s for a, b in itertools.pairwise(utterance.words)]
            assert max(gaps, default=0.0) <= max(endpoint_ms / 1000, 0.5) + 0.25


@pytest.mark.quick
@pytest.mark.parametrize("hiss", [0.0, 20.0, 200.0, 500.0])
def test_silence_is_counted_in_any_room(hiss: float) -> None:
    loud = array("h", (4000 * (-1) ** n for n in range(RATE))).tobytes()
    pcm = silence(0.5) + loud + silence(0.7)
    pcm = noise(pcm, hiss) if hiss else pcm
    counter = Silence()
    frame = 2 * round(RATE * FRAME_S)
    for at in range(0, len(pcm), frame):
        counter.push(pcm[at : at + frame])
    assert counter.has_speech
    assert counter.quiet * FRAME_S == pytest.approx(0.7, abs=0.03)


@pytest.mark.quick
def test_a_click_is_no_speech() -> None:
    counter = Silence()
    for frame in [bytes(640)] * 50 + [b"\0\x20" * 320] * 2 + [bytes(640)] * 50:
        counter.push(frame)
    assert not counter.has_speech
    assert counter.quiet == 50
