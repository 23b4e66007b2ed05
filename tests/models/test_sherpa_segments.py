"""Cutting audio into stretches of speech; recognisers with a decoder that decodes nothing."""

import itertools
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contract import ModelError, RecognitionOptions
from models.sherpa.decoding import Decoded
from models.sherpa.recognizer import SegmentRecognizer
from models.sherpa.segmenter import Segmenter
from models.sherpa.vad import Loudness

pytestmark = pytest.mark.quick

RATE = 16000
FRAME = 512
LOUD, QUIET = 5000, 0


def audio(*parts):
    """Make 16-bit samples: (amplitude, seconds) one after the other, each sample different."""
    samples, counter = array("h"), itertools.count()
    for amplitude, seconds in parts:
        for _ in range(round(seconds * RATE)):
            number = next(counter)
            samples.append((amplitude + number % 97) * (1 if number % 2 else -1))
    return samples.tobytes()


class Reader:
    """Decodes a stretch to its length, and keeps it."""

    partial_every_s = 0.5

    def __init__(self, clock=None, takes_s=0.0):
        self.segments, self.partials = [], []
        self._clock, self._takes_s = clock, takes_s

    def listen(self, start, audio):
        return iter(())

    def partial(self, start, audio):
        self.partials.append((start, len(audio) // 2))
        if self._clock is not None:
            self._clock.now += self._takes_s
        return Decoded(f"{len(audio) // 2} so far")

    def finish(self, segment):
        yield
        self.segments.append(segment)
        return Decoded(f"{len(segment.pcm) // 2} samples")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def recognizer(reader, *, longest_s=25.0, cuts_back=True, partials=False, clock=None, pause_s=None):
    detector = Loudness(RATE)
    return SegmentRecognizer(
        reader,
        detector,
        Segmenter(
            detector.probability, RATE, FRAME, longest_s, cuts_back=cuts_back, pause_s=pause_s
        ),
        rate=RATE,
        frame_samples=FRAME,
        options=RecognitionOptions(partials=partials),
        clock=clock or Clock(),
    )


def run(steps):
    """Run a generator to its end; what it returns, and how many steps it took."""
    for number in itertools.count(1):
        try:
            next(steps)
        except StopIteration as end:
            return end.value, number
    raise AssertionError


def fed(made, pcm, sizes=(8000,)):
    utterances, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= len(pcm):
            break
        utterances += run(made.accept(pcm[at : at + size]))[0]
        at += size
    return utterances + run(made.finish())[0]


def test_a_stretch_has_a_little_audio_on_both_sides_and_the_times_of_the_recording():
    reader = Reader()
    (utterance,) = fed(recognizer(reader), audio((QUIET, 2), (LOUD, 1), (QUIET, 2)))
    assert 1.65 <= utterance.start_s <= 1.75
    assert 3.25 <= utterance.end_s <= 3.4
    assert utterance.text == f"{len(reader.segments[0].pcm) // 2} samples"


def test_pauses_separate_stretches_and_short_ones_do_not():
    reader = Reader()
    pcm = audio((LOUD, 1), (QUIET, 0.4), (LOUD, 1), (QUIET, 0.8), (LOUD, 1), (QUIET, 1))
    assert len(fed(recognizer(reader), pcm)) == 2


def test_silence_and_clicks_are_not_decoded():
    reader = Reader()
    assert fed(recognizer(reader), audio((QUIET, 5), (LOUD, 0.02), (QUIET, 5))) == []
    assert reader.segments == []


def test_the_end_of_the_audio_ends_a_stretch():
    reader = Reader()
    pcm = audio((QUIET, 1), (LOUD, 1.01))
    (utterance,) = fed(recognizer(reader), pcm)
    assert utterance.end_s >= 2.01
    assert reader.segments[0].pcm.rstrip(b"\0")[-100:] == pcm[-100:]


def test_times_go_on_after_the_end():
    made = recognizer(Reader())
    first = fed(made, audio((LOUD, 1.01)))
    second = fed(made, audio((LOUD, 1.01)))
    assert first[0].start_s == 0
    assert second[0].start_s == 1.01


@pytest.mark.parametrize("longest_s", [5.0, 12.5])
def test_somebody_who_does_not_pause_is_cut_at_the_quietest_spot(longest_s):
    reader = Reader()
    cadence = [(LOUD, longest_s * 0.7), (800, 0.2), (LOUD, longest_s * 0.3)] * 3
    fed(recognizer(reader, longest_s=longest_s), audio(*cadence))
    assert all(len(segment.pcm) / 2 / RATE <= longest_s for segment in reader.segments)
    first = reader.segments[0]
    assert longest_s * 0.7 <= len(first.pcm) / 2 / RATE <= longest_s * 0.7 + 0.2


def test_cuts_lose_no_audio_and_repeat_none():
    reader = Reader()
    pcm = audio((LOUD, 31.0))
    fed(recognizer(reader, longest_s=6.0), pcm)
    assert len(reader.segments) > 5
    assert b"".join(segment.pcm for segment in reader.segments)[: len(pcm)] == pcm
    position = 0
    for segment in reader.segments:
        assert segment.start == position
        position += len(segment.pcm) // 2


def test_a_streaming_decoder_is_cut_where_the_audio_is():
    reader = Reader()
    fed(recognizer(reader, longest_s=6.0, cuts_back=False), audio((LOUD, 13.0)))
    lengths = [len(segment.pcm) // 2 // FRAME for segment in reader.segments]
    assert lengths[:2] == [int(6.0 * RATE / FRAME)] * 2


PARTS = st.lists(
    st.tuples(st.sampled_from([LOUD, QUIET]), st.floats(0.01, 2.0)), min_size=1, max_size=5
)


@settings(max_examples=40, deadline=None)
@given(parts=PARTS, sizes=st.lists(st.integers(1, 60000), min_size=1, max_size=5))
def test_results_do_not_depend_on_the_sizes_of_chunks(parts, sizes):
    pcm = audio(*parts)
    sizes = [*sizes, 8000]  # not only tiny ones
    one, other = Reader(), Reader()
    assert fed(recognizer(one, longest_s=2.0), pcm, sizes) == fed(
        recognizer(other, longest_s=2.0), pcm, [len(pcm)]
    )
    assert one.segments == other.segments


@settings(max_examples=40, deadline=None)
@given(
    parts=PARTS,
    sizes=st.lists(st.integers(1, 60000), min_size=1, max_size=5),
    pause_s=st.sampled_from([0.1, 0.3, 1.0, 10.0]),
)
def test_no_speech_is_lost_whatever_pause_ends_a_stretch(parts, sizes, pause_s):
    pcm = audio(*parts)
    one, other = Reader(), Reader()
    fed(recognizer(one, longest_s=2.0, pause_s=pause_s), pcm, [*sizes, 8000])
    fed(recognizer(other, longest_s=2.0, pause_s=pause_s), pcm, [len(pcm)])
    assert one.segments == other.segments
    ends = [(segment.start, segment.start + len(segment.pcm) // 2) for segment in one.segments]
    assert all(after[0] >= before[1] for before, after in itertools.pairwise(ends))
    position = 0
    for amplitude, seconds in parts:
        begin, position = position, position + round(seconds * RATE)
        if amplitude == LOUD and seconds > 0.3:
            assert (
                sum(max(0, min(position, end) - max(begin, start)) for start, end in ends)
                == position - begin
            )


@pytest.mark.parametrize(("pause_s", "count"), [(0.2, 3), (0.6, 2), (1.0, 1), (9.0, 1)])
def test_a_pause_of_the_length_that_was_asked_for_ends_a_stretch(pause_s, count):
    reader = Reader()
    pcm = audio((LOUD, 1), (QUIET, 0.4), (LOUD, 1), (QUIET, 0.8), (LOUD, 1), (QUIET, 0.5))
    assert len(fed(recognizer(reader, pause_s=pause_s), pcm)) == count


def test_a_long_stretch_has_the_same_pause():
    reader = Reader()
    pcm = audio((LOUD, 16), (QUIET, 0.4), (LOUD, 1), (QUIET, 2))
    assert len(fed(recognizer(reader, pause_s=0.8), pcm)) == 1
    assert len(fed(recognizer(reader), pcm)) == 2


def test_silence_within_a_long_pause_is_no_stretch():
    reader = Reader()
    fed(recognizer(reader, longest_s=5.0, pause_s=9.0), audio((LOUD, 4.8), (QUIET, 20)))
    (segment,) = reader.segments
    assert len(segment.pcm) / 2 / RATE <= 5.0


@settings(max_examples=40, deadline=None)
@given(parts=PARTS, cut=st.floats(0.0, 1.0))
def test_another_recogniser_goes_on_from_pending(parts, cut):
    pcm = audio(*parts)
    at = round(cut * len(pcm)) // 2 * 2
    whole = Reader()
    fed(recognizer(whole), pcm)
    first, second = Reader(), Reader()
    before = recognizer(first)
    run(before.accept(pcm[:at]))
    pending = before.pending()
    assert pcm[:at].endswith(pending)
    fed(recognizer(second), pending + pcm[at:])
    moved = [segment.pcm for segment in first.segments + second.segments]
    assert moved == [segment.pcm for segment in whole.segments]


def test_memory_is_bounded_by_the_longest_stretch():
    made = recognizer(Reader(), longest_s=5.0)
    most = 0
    for amplitude in [LOUD] * 40 + [QUIET] * 40:
        run(made.accept(audio((amplitude, 1.0))))
        most = max(most, len(made.pending()))
    assert most <= 2 * RATE * 5.1
    assert len(made.pending()) <= 2 * RATE * 0.5


def test_a_long_chunk_is_taken_in_steps():
    _, steps = run(recognizer(Reader()).accept(audio((QUIET, 20))))
    assert steps >= 20


def test_partial_results_are_decoded_every_half_second_at_most():
    reader = Reader()
    made = recognizer(reader, partials=True)
    for _ in range(40):
        run(made.accept(audio((LOUD, 0.1))))
    assert 6 <= len(reader.partials) <= 8
    assert made.partial().text == f"{reader.partials[-1][1]} so far"


def test_partial_results_take_a_fifth_of_the_time_at_most():
    clock = Clock()
    reader = Reader(clock, takes_s=1.0)
    made = recognizer(reader, partials=True, clock=clock)
    for _ in range(200):
        clock.now += 0.1
        run(made.accept(audio((LOUD, 0.1))))
    assert 3 <= len(reader.partials) <= 5


def test_without_partials_nothing_is_decoded_before_the_end():
    reader = Reader()
    made = recognizer(reader)
    run(made.accept(audio((LOUD, 5))))
    assert reader.partials == []
    assert made.partial().text == ""


def test_a_partial_result_ends_with_its_stretch():
    made = recognizer(Reader(), partials=True)
    run(made.accept(audio((LOUD, 2))))
    assert made.partial().text
    run(made.accept(audio((QUIET, 2))))
    assert made.partial().text == ""


def test_a_failed_decode_reaches_the_caller():
    class Failing(Reader):
        def finish(self, segment):
            yield
            raise ModelError("engine_failed", "out of memory")

    with pytest.raises(ModelError, match="out of memory"):
        fed(recognizer(Failing()), audio((LOUD, 2), (QUIET, 2)))


def test_a_closed_recogniser_keeps_no_audio():
    made = recognizer(Reader())
    run(made.accept(audio((LOUD, 2))))
    made.close()
    made.close()
    assert made.pending() == b""
