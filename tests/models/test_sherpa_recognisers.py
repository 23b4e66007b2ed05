"""Recognisers over sherpa-onnx, with small models that recognise tones."""

import array
import ctypes
import itertools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from onnx_models import KINDS, LETTER_S, expected, floats, make_model, silence, tones

from models.clips import decode_clip, noise, own_clips
from models.contract import Abilities, ModelError, RecognitionOptions
from models.sherpa.abilities import abilities_of, language_to_tell
from models.sherpa.decoding import Calls
from models.sherpa.kinds import KINDS as ALL_KINDS
from models.sherpa.layout import Layout, recognise
from models.sherpa.messages import LibraryMessages
from models.sherpa.model import load_sherpa
from models.sherpa.vad import Silero
from supervisor.child import sandbox

LOUDNESS = {"voice_activity": "loudness"}
STREAMING = [kind for kind in KINDS if kind.startswith("online")]


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind, tmp_path_factory):
    return loaded(kind, tmp_path_factory.mktemp(kind))


def loaded(kind, directory, **options):
    return load_sherpa(recognise(make_model(kind, directory)), LOUDNESS | options)


def run(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def fed(made, pcm, size=8000):
    utterances = []
    for at in range(0, len(pcm), size):
        utterances += run(made.accept(pcm[at : at + size]))
    return utterances + run(made.finish())


def of(kind, text):
    """Return the text that the small model gives."""
    return text.upper() if kind == "sense_voice" else expected(kind, text)


SPOKEN = silence(1.0) + tones("abc ab") + silence(1.5) + tones("dead gh") + silence(0.2)


def test_every_kind_recognises_each_stretch_with_its_times(kind, model):
    utterances = fed(model.recognizer(RecognitionOptions()), SPOKEN)
    assert [utterance.text for utterance in utterances] == [of(kind, "abc ab"), of(kind, "dead gh")]
    first, second = utterances
    assert 0.6 <= first.start_s <= 1.0
    assert 1.0 + 6 * LETTER_S <= first.end_s + 0.15 <= 1.6 + 6 * LETTER_S
    assert second.start_s > first.end_s
    assert second.end_s <= len(SPOKEN) / 32000 + 0.04
    assert all(utterance.words == () for utterance in utterances)


def test_results_do_not_depend_on_the_sizes_of_chunks(model):
    whole = fed(model.recognizer(RecognitionOptions(words=True)), SPOKEN, len(SPOKEN))
    assert fed(model.recognizer(RecognitionOptions(words=True)), SPOKEN, 1234) == whole
    assert fed(model.recognizer(RecognitionOptions(words=True)), SPOKEN, 333) == whole


def test_streams_beside_each_other_do_not_touch_each_other(kind, model):
    one, other = (model.recognizer(RecognitionOptions()) for _ in range(2))
    texts = {one: [], other: []}
    audio = {one: tones("abab"), other: tones("gfed")}
    for at in range(0, len(audio[one]), 3000):
        for made in (one, other):
            texts[made] += run(made.accept(audio[made][at : at + 3000]))
    for made, text in ((one, "abab"), (other, "gfed")):
        assert [u.text for u in texts[made] + run(made.finish())] == [of(kind, text)]


def test_words_are_where_they_were_said(kind, model):
    utterances = fed(model.recognizer(RecognitionOptions(words=True)), SPOKEN)
    if not model.abilities.words:
        assert all(utterance.words == () for utterance in utterances)
        return
    words = [word for utterance in utterances for word in utterance.words]
    assert [word.text for word in words] == of(kind, "abc ab dead gh").split()
    begun = [1.0, 1.0 + 4 * LETTER_S]
    second = 1.0 + 6 * LETTER_S + 1.5
    begun += [second, second + 5 * LETTER_S]
    for word, at in zip(words, begun, strict=True):
        assert abs(word.start_s - at) < LETTER_S + 0.05
        assert word.end_s > word.start_s
        assert (word.confidence is not None) == model.abilities.confidences
        assert word.confidence is None or 0 < word.confidence <= 1


def test_the_end_of_the_audio_is_an_end_and_a_beginning(kind, model):
    made = model.recognizer(RecognitionOptions())
    (first,) = fed(made, tones("abc"))
    (second,) = fed(made, tones("def"))
    assert [first.text, second.text] == [of(kind, "abc"), of(kind, "def")]
    assert second.start_s == pytest.approx(3 * LETTER_S, abs=0.01)


def test_partial_results_grow_and_end_with_their_stretch(kind, model):
    made = model.recognizer(RecognitionOptions(partials=True, partial_words=True))
    seen = []
    spoken = tones("abcdefgh")
    for at in range(0, len(spoken), 3200):
        run(made.accept(spoken[at : at + 3200]))
        seen.append(made.partial())
    assert seen[0].text == ""
    assert seen[-1].text
    assert of(kind, "abcdefgh").startswith(seen[-1].text)
    assert bool(seen[-1].words) == model.abilities.words
    run(made.accept(silence(2.0)))
    assert made.partial().text == ""


def test_another_recogniser_goes_on_from_pending(kind, model):
    at = round(len(SPOKEN) * 0.35) // 2 * 2
    whole = [u.text for u in fed(model.recognizer(RecognitionOptions()), SPOKEN)]
    first = model.recognizer(RecognitionOptions())
    before = run(first.accept(SPOKEN[:at]))
    after = fed(model.recognizer(RecognitionOptions()), first.pending() + SPOKEN[at:])
    assert [u.text for u in before + after] == whole
    run(first.accept(SPOKEN[at:] + silence(2.0)))
    assert len(first.pending()) <= 32000 * 0.4


def test_a_pause_of_the_length_that_was_asked_for_ends_an_utterance(kind, model):
    short = silence(0.5) + tones("abc") + silence(0.35) + tones("def") + silence(1.5)
    texts = [of(kind, "abc"), of(kind, "def")]
    assert [u.text for u in fed(model.recognizer(RecognitionOptions()), short)] != texts
    made = model.recognizer(RecognitionOptions(endpoint_ms=300))
    assert [u.text for u in fed(made, short)] == texts
    made = model.recognizer(RecognitionOptions(endpoint_ms=2500))
    (whole,) = fed(made, SPOKEN)
    assert [one for one in whole.text if one in of(kind, "abcdefgh")] == [*of(kind, "abcabdeadgh")]


def test_a_longer_utterance_is_cut_between_letters(kind, model):
    spoken = "abcdefghgfedcbabcd"
    made = model.recognizer(RecognitionOptions(max_utterance_s=2.0))
    utterances = fed(made, silence(0.5) + tones(spoken) + silence(1.0))
    assert len(utterances) >= 3
    assert "".join(u.text for u in utterances) == of(kind, spoken)
    assert all(u.end_s - u.start_s <= 2.0 for u in utterances)
    for one, other in itertools.pairwise(utterances):
        assert other.start_s >= one.end_s


@pytest.mark.parametrize("rate", [8000, 11025.0, 44100, 48000])
def test_other_rates_are_resampled(kind, model, rate, capfd):
    made = model.recognizer(RecognitionOptions(), rate)
    pcm = silence(0.5, int(rate)) + tones("abcab", int(rate)) + silence(1.5, int(rate))
    text = [utterance.text for utterance in fed(made, pcm, 999)]
    assert text == [of(kind, "abcab")]
    assert len(made.pending()) == 0
    assert capfd.readouterr().out == ""


def test_a_stream_of_another_rate_can_be_moved(kind, model):
    pcm = b"".join((silence(0.5, 48000), tones("abcab", 48000), silence(1.5, 48000)))
    at = len(pcm) // 3 // 2 * 2
    first = model.recognizer(RecognitionOptions(), 48000)
    before = run(first.accept(pcm[:at]))
    second = model.recognizer(RecognitionOptions(), 48000)
    texts = [u.text for u in before + fed(second, first.pending() + pcm[at:])]
    assert texts == [of(kind, "abcab")]


def test_a_rate_that_no_audio_has_is_refused(model):
    with pytest.raises(ModelError, match="rate is 0"):
        model.recognizer(RecognitionOptions(), 0)


def test_warming_and_decoding_start_no_thread(model):
    before = len(os.listdir("/proc/self/task"))
    model.warm([tones("abc"), silence(1.0)])
    fed(model.recognizer(RecognitionOptions()), SPOKEN)
    assert len(os.listdir("/proc/self/task")) == before


def test_warming_decodes_what_is_no_speech(kind, tmp_path, monkeypatch):
    model = load_sherpa(recognise(make_model(kind, tmp_path)), {})
    assert fed(model.recognizer(RecognitionOptions()), tones("abc")) == []
    texts = []
    read = model._calls.result

    def noted(*arguments, **options):
        decoded = read(*arguments, **options)
        texts.append(decoded.text)
        return decoded

    monkeypatch.setattr(model._calls, "result", noted)
    model.warm([tones("abc")])
    assert texts == [of(kind, "abc")]


def test_forks_decode_in_the_sandbox_of_a_worker(kind, model):
    model.warm([tones("abc")])
    audio = {None: SPOKEN, 8000: tones("abcab", 8000)}
    sandbox.try_sandbox()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(30)  # a forbidden call waits for the supervisor
            sandbox.enter()
            for rate, pcm in audio.items():
                made = model.recognizer(RecognitionOptions(partials=True), rate)
                os.write(writer, "|".join(u.text for u in fed(made, pcm)).encode() + b"\n")
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        lines = answer.read().splitlines()
    assert os.waitpid(pid, 0)[1] == 0
    assert lines == [of(kind, "abc ab") + "|" + of(kind, "dead gh"), of(kind, "abcab")]


def test_a_grammar_is_refused(model):
    with pytest.raises(ModelError) as refused:
        model.recognizer(RecognitionOptions(grammar=("ab",)))
    assert refused.value.code == "grammar_unsupported"
    assert model.unknown_words(("ab",)) == []


def test_an_unknown_language_is_refused(model):
    with pytest.raises(ModelError, match="'xx'") as refused:
        model.recognizer(RecognitionOptions(language="xx"))
    assert refused.value.code == "language_unsupported"


def test_the_report_says_how_it_was_loaded(kind, model):
    report = model.report()
    assert (report["engine"], report["details"]["kind"]) == ("onnx", kind)


def test_the_language_is_told_where_the_model_found_it(tmp_path):
    for kind in ("whisper", "sense_voice"):
        model = loaded(kind, tmp_path / kind)
        (utterance,) = fed(model.recognizer(RecognitionOptions()), tones("abc"))
        assert utterance.language == "ko"


def test_a_model_that_cannot_be_told_goes_by_what_it_finds(tmp_path):
    model = loaded("sense_voice", tmp_path, language="zh")
    assert {"zh", "ko"} <= set(model.abilities.languages)
    (utterance,) = fed(model.recognizer(RecognitionOptions(language="zh")), tones("abc"))
    assert utterance.language == "ko"


def test_a_request_chooses_among_whispers_languages(tmp_path):
    model = loaded("whisper", tmp_path, language="ko-KR")
    assert model.report()["details"]["language"] == "ko"
    for language in ("", "en", "zh-CN"):
        made = model.recognizer(RecognitionOptions(language=language))
        (utterance,) = fed(made, tones("abc"))
        assert utterance.language == ""  # it was told
    # Streams of several languages, in turn.
    chosen = [model.recognizer(RecognitionOptions(language=tag)) for tag in ("en", "ko", "en")]
    for made in chosen:
        run(made.accept(tones("ab")))
    assert ["".join(u.text for u in run(made.finish())) for made in chosen] == ["ab"] * 3


@pytest.mark.quick
def test_abilities_are_those_of_the_kind():
    transducer = abilities_of(Layout(ALL_KINDS["transducer"], {}))
    assert (transducer.words, transducer.confidences, transducer.streaming) == (True, True, False)
    assert transducer.longest_s == ALL_KINDS["transducer"].longest_s
    online = abilities_of(Layout(ALL_KINDS["online_zipformer2_ctc"], {}))
    assert (online.streaming, online.words, online.longest_s) == (True, True, None)
    whisper = Layout(ALL_KINDS["whisper"], {}, languages=("en", "ko"), detects_language=True)
    assert abilities_of(whisper).languages == ("en", "ko")
    assert not abilities_of(whisper).words
    sense_voice = Layout(ALL_KINDS["sense_voice"], {}, languages=("zh",), detects_language=True)
    assert abilities_of(sense_voice).languages == ("zh",)
    assert abilities_of(sense_voice).detects_language
    assert isinstance(abilities_of(sense_voice), Abilities)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("kind", "language", "default", "told"),
    [
        ("whisper", "", "", ""),
        ("whisper", "", "ko-KR", "ko"),
        ("whisper", "en-GB", "ko", "en"),
        ("whisper", "", "xx", ""),
        ("canary", "", "", "en"),
        ("canary", "", "de", "de"),
        ("canary", "fr-CA", "de", "fr"),
        ("canary", "", "xx", "en"),
        ("sense_voice", "ko", "zh", ""),
        ("transducer", "", "en", ""),
    ],
)
def test_a_model_is_told_the_language_that_it_has_to_be_told(kind, language, default, told):
    languages = ALL_KINDS[kind].languages or (("ko", "en") if kind == "whisper" else ())
    detects = kind in ("whisper", "sense_voice")
    layout = Layout(ALL_KINDS[kind], {}, languages=languages, detects_language=detects)
    assert language_to_tell(layout, language, default) == told


@pytest.mark.quick
def test_each_decode_is_in_the_language_of_its_request():
    """Canary, whose languages the library takes in its configuration."""
    told = []

    class Library:
        config = SimpleNamespace(model_config=SimpleNamespace(canary=SimpleNamespace()))

        def __init__(self):
            self.recognizer = self

        def set_config(self, config):
            told.append((config.model_config.canary.src_lang, config.model_config.canary.tgt_lang))

        def create_stream(self):
            return SimpleNamespace(
                accept_waveform=lambda rate, samples: None, result=SimpleNamespace(text="hello")
            )

        def decode_stream(self, stream):
            pass

    calls = Calls(Layout(ALL_KINDS["canary"], {}), Library())
    for language in ("de", "de", "fr", "en"):
        assert calls.decode(bytes(3200), language, 0.0, words=False).text == "hello"
    assert told == [("de", "de"), ("fr", "fr"), ("en", "en")]


def test_the_text_is_the_librarys_own(kind, model):
    """The same as the library gives for the same audio when it is called directly."""
    made = model.recognizer(RecognitionOptions())
    run(made.accept(tones("abc ab")))
    pcm = made.pending()
    library = model._calls.recognizer
    stream = library.create_stream()
    stream.accept_waveform(16000, floats(pcm))
    if kind in STREAMING:
        stream.accept_waveform(16000, floats(silence(1.0)))
        stream.input_finished()
        while library.is_ready(stream):
            library.decode_stream(stream)
        text = library.get_result(stream)
    else:
        library.decode_stream(stream)
        text = stream.result.text
    assert text.strip()
    assert [u.text for u in run(made.finish())] == [text.strip()]


WITH_LITTLE_MEMORY = """
import os, sys, resource
from pathlib import Path
from types import SimpleNamespace
from models.contract import ModelError
from models.sherpa.layout import recognise
from models.sherpa.model import load_sherpa
from onnx_models import tones
model = load_sherpa(recognise(Path(sys.argv[1])), {"voice_activity": "loudness"})
model.warm([tones("abc")])
pcm = tones("abc def " * int(sys.argv[2]))
calls, library = model._calls, model._calls.recognizer
stream = library.create_stream()
stream.accept_waveform(16000, [sample / 32768 for sample in memoryview(pcm).cast("h")])
for power in range(12):
    if os.fork() == 0:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        size += 65536 << power
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        try:
            calls.call(library.decode_stream, stream)
            answer = "recognised" if stream.result.text else "silence"
        except ModelError as error:
            answer = error.code
        os.write(1, f"{answer}\\n".encode())
        os._exit(0)
    os.wait()
"""


@pytest.mark.parametrize(
    ("kind", "words"), [("paraformer", 80), ("sense_voice", 80), ("whisper", 10), ("nemo_ctc", 80)]
)
def test_a_decode_without_memory_is_an_error_and_never_silence(kind, words, tmp_path):
    support = Path(__file__).parent.parent / "support"
    done = subprocess.run(
        [sys.executable, "-c", WITH_LITTLE_MEMORY, make_model(kind, tmp_path), str(words)],
        env=os.environ | {"PYTHONPATH": f"{support}:{support.parent.parent}"},
        capture_output=True,
        text=True,
        check=True,
    )
    answers = done.stdout.split()
    assert len(answers) == 12
    assert set(answers) == {"engine_failed", "recognised"}


def test_messages_of_the_library_are_caught_and_nothing_else(capfd):
    libc = ctypes.CDLL(None)
    stderr = ctypes.c_void_p.in_dll(libc, "stderr")

    def log(text):
        libc.fputs(text, stderr)

    messages = LibraryMessages()
    log(b"before\n")
    for number in (100, 1):
        with messages.caught() as texts:
            log(b"during\n" * number)
        assert texts == ["during\n" * number]
    with messages.caught() as texts:
        pass
    assert texts == [""]
    log(b"after\n")
    libc.fflush(stderr)
    assert capfd.readouterr().err == "before\nafter\n"


def probabilities(pcm, rate):
    network = Silero(rate)
    detector, step = network.detector(), 2 * network.frame_samples
    return [detector.probability(pcm[at : at + step]) for at in range(0, len(pcm) - step, step)]


@pytest.mark.parametrize("rate", [8000, 16000])
def test_silence_tones_and_noise_are_no_speech(rate):
    generator = random.Random(1)
    walk, brown = 0.0, array.array("h")
    for _ in range(5 * rate):
        walk = 0.99 * walk + generator.gauss(0, 400)
        brown.append(round(walk))
    for pcm in (
        silence(5.0, rate),
        tones("abc def" * 3, rate),
        noise(5.0, rate),
        noise(5.0, rate, 15000),
        brown.tobytes(),
    ):
        assert max(probabilities(pcm, rate)) < 0.5


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("level", [0, 1500])
def test_speech_is_speech_in_noise_as_well(rate, level):
    speech = array.array("h", decode_clip(own_clips("en")[0], rate))
    disturbance = array.array("h", noise(len(speech) / rate, rate, max(1, level)))
    mixed = (max(-32768, min(32767, a + b)) for a, b in zip(speech, disturbance, strict=True))
    found = probabilities(array.array("h", mixed).tobytes(), rate)
    assert sum(one >= 0.5 for one in found) > 0.6 * len(found)


def test_streams_do_not_share_what_a_detector_remembers():
    pcm = decode_clip(own_clips("en")[0], 16000)[:64000]
    network = Silero(16000)
    alone, beside, other = network.detector(), network.detector(), network.detector()
    frames = [pcm[at : at + 1024] for at in range(0, len(pcm) - 1024, 1024)]
    expected = [alone.probability(frame) for frame in frames]
    found = []
    for frame in frames:
        other.probability(bytes(1024))
        found.append(beside.probability(frame))
    assert found == expected
    alone.reset()
    assert [alone.probability(frame) for frame in frames] == expected
