"""Recognisers with a real Whisper model, where `MODELSERVER_TEST_ONNX` is its directory."""

import array
import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from places import ONNX_MODEL, SUPPORT

from models.clips import decode_clip, noise, own_clips
from models.contract import RecognitionOptions
from models.sherpa.layout import recognise
from models.sherpa.model import load_sherpa
from supervisor.processes.environment import choose_allocator, find_jemalloc, process_environment
from supervisor.settings import Allocator

DIRECTORY = ONNX_MODEL
pytestmark = pytest.mark.skipif(not DIRECTORY, reason="MODELSERVER_TEST_ONNX=DIR is not set")

RATE = 16000
PRIVATE_MB_MOST = 40
"""Private memory of a forked child, once it has decoded some clips. Measured: 55 to 90."""


@pytest.fixture(scope="module")
def model():
    made = load_sherpa(recognise(Path(DIRECTORY)), {})
    made.warm([noise(1.0, RATE)])
    return made


@pytest.fixture(scope="module")
def clips():
    return [decode_clip(path, RATE) for path in own_clips("en")]


def run(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def fed(model, pcm, size=8000, **options):
    made = model.recognizer(RecognitionOptions(**options))
    utterances = []
    for at in range(0, len(pcm), size):
        utterances += run(made.accept(pcm[at : at + size]))
    return utterances + run(made.finish())


def silence(seconds):
    return bytes(2 * round(seconds * RATE))


def test_speech_is_recognised_and_its_language_found(model, clips):
    (first,) = fed(model, clips[0])
    assert "weather is clear today" in first.text
    assert first.language == "en"
    (second,) = fed(model, clips[1])
    assert "turn right and walk" in second.text


def test_the_text_is_the_librarys_own(model, clips):
    made = model.recognizer(RecognitionOptions(language="en"))
    run(made.accept(clips[0]))
    pcm = made.pending()
    (utterance,) = run(made.finish())
    library = model._calls.recognizer
    stream = library.create_stream()
    samples = array.array("h", pcm.ljust(-(-len(pcm) // 1024) * 1024, b"\0") + silence(0.5))
    stream.accept_waveform(RATE, [sample / 32768 for sample in samples])
    library.decode_stream(stream)
    assert utterance.text == stream.result.text.strip()


def test_silence_noise_and_tones_are_no_text(model):
    generator = random.Random(1)
    walk, brown = 0.0, array.array("h")
    for _ in range(10 * RATE):
        walk = 0.99 * walk + generator.gauss(0, 400)
        brown.append(max(-32768, min(32767, round(walk))))
    for pcm in (silence(10), noise(10, RATE), noise(10, RATE, 15000), brown.tobytes()):
        assert fed(model, pcm) == []


def test_a_minute_without_a_pause_is_cut(model, clips):
    speech = b"".join(clips) * 5
    assert len(speech) / 2 / RATE >= 60
    utterances = fed(model, speech, language="en")
    assert all(u.end_s - u.start_s <= 29.5 for u in utterances)
    text = " ".join(u.text for u in utterances).lower()
    assert text.count("weather") >= 3
    assert text.count("library") >= 3
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(utterances))


@pytest.mark.timeout(400)
def test_ten_minutes_take_no_more_memory_than_one(model, clips):
    made = model.recognizer(RecognitionOptions(language="en"))
    minute = (clips[0] + silence(2) + clips[1] + silence(43)).ljust(60 * 2 * RATE, b"\0")
    grown, found = [], 0
    for _ in range(10):
        for at in range(0, len(minute), 8000):
            found += len(run(made.accept(minute[at : at + 8000])))
        grown.append(private_mb())
    assert found == 20
    assert grown[-1] <= grown[1] + 10
    assert len(made.pending()) <= RATE


def test_partial_results_come_before_the_end(model, clips):
    made = model.recognizer(RecognitionOptions(language="en", partials=True))
    texts = set()
    for at in range(0, len(clips[0]), 8000):
        run(made.accept(clips[0][at : at + 8000]))
        texts.add(made.partial().text)
    assert any(text.lower().startswith("good") for text in texts)


def test_streams_of_two_languages_share_the_model(model, clips):
    english, korean = (model.recognizer(RecognitionOptions(language=tag)) for tag in ("en", "ko"))
    before = private_mb()
    for made in (english, korean):
        run(made.accept(clips[0]))
    texts = [run(made.finish())[0].text for made in (english, korean)]
    assert "weather" in texts[0]
    assert texts[0] != texts[1]
    assert private_mb() <= before + 60


def private_mb():
    """Anonymous memory of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


_FORKED = """
import gc, os, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import test_sherpa_whisper as tests
model = tests.load_sherpa(tests.recognise(Path(tests.DIRECTORY)), {})
clips = [tests.decode_clip(clip, tests.RATE) for clip in tests.own_clips("en")]
def texts():
    return "|".join(u.text for clip in clips for u in tests.fed(model, clip, language="en"))
expected = texts()
gc.disable()
for _ in range(4):
    if os.fork() == 0:
        same = texts() == expected
        print(int(same), round(tests.private_mb()), flush=True)
        os._exit(0)
for _ in range(4):
    assert os.wait()[1] == 0
print(1, round(tests.private_mb()))
"""


def test_forked_children_share_the_model():
    """Fork in a process of its own, with the allocator of workers: a child's private memory
    includes memory that it reuses after its parent has freed it."""
    allocator = choose_allocator(Allocator.AUTO, find_jemalloc(), huge_pages=False)
    environment = process_environment(os.environ, allocator.variables, {"TEST_ONNX": DIRECTORY})
    done = subprocess.run(
        [sys.executable, "-c", _FORKED, str(Path(__file__).parent), str(SUPPORT)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [line.split() for line in done.stdout.splitlines()]
    assert [same for same, _ in answers] == ["1"] * 5
    *children, parent = (int(private) for _, private in answers)
    assert max(children) <= PRIVATE_MB_MOST
    assert parent > 3 * PRIVATE_MB_MOST
