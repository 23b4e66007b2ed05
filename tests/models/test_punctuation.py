"""Punctuation models: recognised, loaded by the real library, used for marks and case only."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx_models import make_model, write_network
from places import ROOT
from punctuation_models import CASES, ENGLISH_MARKS, PUNCTUATIONS, make_chinese, make_english

import models
from models.engines import model_problem, punctuation_model, punctuation_problem
from models.marks import Limits, with_marks

LIMITS = Limits(100, 1000)


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chinese(tmp_path_factory.mktemp("models") / "punct-zh-en")


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_english(tmp_path_factory.mktemp("models") / "punct-en")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("一二三四五", "一二，三。四、五。"),
        ("今天天气很好吗你是", "今天天气很好吗？你是。"),
        ("ab ba cc dd", "ab ba, cc? dd."),
        ("今天ba我cc吗hh ok", "今天ba，我cc？吗？hh ok。"),
        ("今天 ba 我 hh", "今天 ba，我 hh。"),
        ("一 3.5 二 7:30 五", "一 3.5 二，7:30 五。"),
        ("一二。三，五", "一二。三，五。"),
        ("AB ba", "AB ba."),
        ("二", "二。"),
        ("", ""),
        ("...", "..."),
    ],
)
def test_chinese_and_mixed_texts(chinese: Path, text: str, written: str) -> None:
    assert models.load_punctuator(chinese).write(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("ab ba cc dd", "Ab ba, cc? dd."),
        ("i don't hh ba 3.5 dd", "I don't HH ba, 3.5 dd."),
        ("iPhone hh ab OPEN ab", "iPhone HH Ab OPEN Ab"),
        ("HH AB BA CC", "HH Ab ba, cc?"),
        ("NASA", "NASA"),
        ("", ""),
    ],
)
def test_english_texts(english: Path, text: str, written: str) -> None:
    assert models.load_punctuator(english).write(text) == written


def test_letters_that_lower_case_makes_two_of_stay() -> None:
    text = "İYİ İSTANBUL"
    assert with_marks(text, str, LIMITS, cases=True) == text


def test_english_is_as_the_library_itself_writes_it(english: Path) -> None:
    """Run the library's own class in another process: it starts threads."""
    chance = random.Random(1)
    words = [*ENGLISH_MARKS, *CASES, "abba", "xyz", "ccdd", "don't", "o'ab", "café", "9"]
    texts = [" ".join(chance.choices(words, k=chance.randrange(1, 60))) for _ in range(30)]
    program = """
import json, sys, sherpa_onnx
model, words, texts = json.loads(sys.stdin.read())
config = sherpa_onnx.OnlinePunctuationModelConfig(cnn_bilstm=model, bpe_vocab=words)
library = sherpa_onnx.OnlinePunctuation(sherpa_onnx.OnlinePunctuationConfig(model_config=config))
print(json.dumps([library.add_punctuation_with_case(text) for text in texts]))
"""
    files = str(english / "model.int8.onnx"), str(english / "bpe.vocab")
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([*files, texts]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    punctuator = models.load_punctuator(english)
    assert [punctuator.write(text) for text in texts] == json.loads(done.stdout)


@pytest.mark.parametrize("make", [make_chinese, make_english])
def test_whatever_is_said_its_letters_stay(make: Callable[[Path], Path], tmp_path: Path) -> None:
    punctuator = models.load_punctuator(make(tmp_path / "model"))
    chance = random.Random(1)
    parts = [
        *"一二三四吗 ，。.?'-’%￥",
        " ",
        "ab",
        "ba ",
        " cc",
        "3.5",
        "Ömer",
        "ſ",
        "İ",
        "한국",
        "é",
    ]
    for _ in range(500):
        text = "".join(chance.choices(parts, k=chance.randrange(300)))
        assert _letters(punctuator.write(text)) == _letters(text)


def _letters(text: str) -> str:
    marks = {*PUNCTUATIONS, *",.?!！"}
    return "".join(c.lower() for c in text if c not in marks and not c.isspace())


SHARED = """
import os, sys
from pathlib import Path
import models

both = [models.load_punctuator(Path(directory)) for directory in sys.argv[1:]]
texts = [one.write("ab ba 一 cc") for one in both]
assert len(os.listdir("/proc/self/task")) == 1
child = os.fork()
if child == 0:
    same = [one.write("ab ba 一 cc") for one in both] == texts
    os._exit(0 if same else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_forked_processes_share_a_loaded_model(chinese: Path, english: Path) -> None:
    """Load and fork in another process: other tests leave threads in this one."""
    subprocess.run([sys.executable, "-c", SHARED, chinese, english], check=True, cwd=ROOT)


def test_answers_of_a_model_are_used_for_marks_only() -> None:
    def write(text: str, answer: Callable[[str], str]) -> str:
        return with_marks(text, answer, LIMITS, cases=False)

    assert write("a b c", lambda _: "a，b ，c。") == "a, b, c."
    assert write("a b c", lambda _: "x y z。") == "a b c"
    assert write("a b c", lambda _: "") == "a b c"
    assert write("3.5 b", lambda text: text.replace("3", "3。")) == "3.5 b"
    # The library leaves out what follows the last sentence that it finds.
    answers = {"a b c d e": "a，b。", "c d e": "c？", "d e": "d e。"}
    assert write("a b c d e", answers.__getitem__) == "a, b. c? d e."


def test_long_texts_are_asked_for_in_parts_of_whole_sentences() -> None:
    asked: list[str] = []

    def ask(text: str) -> str:
        asked.append(text)
        return text.replace("三", "三。").replace("二", "二，") + "。"

    text = "一" * 30 + "三" + "五" * 40 + "二" + "四" * 90 + "五" * 150
    written = with_marks(text, ask, LIMITS, cases=False)
    assert written == text.replace("三", "三。").replace("二", "二，") + "。"
    assert [len(part) for part in asked] == [100, 100, 100, 100, 40]
    assert asked[1].startswith("五" * 40)
    assert asked[2].startswith("四")


def test_the_end_of_a_very_long_text_stays_bare() -> None:
    calls = 0

    def ask(text: str) -> str:
        nonlocal calls
        calls += 1
        return f"{text}。"

    text = "一" * 5000
    assert with_marks(text, ask, LIMITS, cases=False) == f"{text[:2000]}。{text[2000:]}"
    assert calls == 20


def test_a_wrong_file_is_a_sentence(chinese: Path, english: Path, tmp_path: Path) -> None:
    """The library ends the process that loads these."""
    metadata = {"punctuations": "_|，|。|？|、", "unk_symbol": "<unk>", "tokens": "a|<unk>"}
    write_network(tmp_path / "size" / "model.onnx", {**metadata, "vocab_size": 3})
    with pytest.raises(models.ModelError, match=r"size: model.onnx \(ct_transformer\) cannot be"):
        models.load_punctuator(tmp_path / "size")
    shapes = tmp_path / "shapes"
    metadata = {"COMMA": "1", "PERIOD": "2", "QUESTION": "3", "MIX_CASE": "3"}
    write_network(shapes / "model.onnx", metadata)
    (shapes / "bpe.vocab").write_bytes((english / "bpe.vocab").read_bytes())
    with pytest.raises(models.ModelError, match=r"ONNX Runtime: .*token_ids"):
        models.load_punctuator(shapes)
    (shapes / "bpe.vocab").write_text("<unk>\t0\nand so on\n")
    with pytest.raises(models.ModelError, match=r"line 2: 'and so on' is not a piece"):
        models.load_punctuator(shapes)


@pytest.mark.parametrize("scores", [np.int8, np.float64])
def test_a_network_with_other_scores_than_floats_is_refused(tmp_path: Path, scores: type) -> None:
    """Use smaller scores, which would be read beyond their end."""
    make_english(tmp_path / "model", scores=scores)
    with pytest.raises(models.ModelError, match="output is not of 32-bit floats"):
        models.load_punctuator(tmp_path / "model")


def test_a_name_that_is_not_utf_8_can_be_told(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"m\xff.onnx")).write_bytes(b"no network")
    problem = punctuation_problem(tmp_path)
    assert problem is not None
    assert problem.encode().startswith(b"m?.onnx: ")


def test_punctuation_models_are_no_speech_models(
    chinese: Path, english: Path, tmp_path: Path
) -> None:
    for directory in (chinese, english):
        assert punctuation_problem(directory) is None
        assert "recognises no speech: name it in text.punctuation_model" in str(
            model_problem(directory)
        )
        with pytest.raises(models.ModelError, match="recognises no speech"):
            models.find_model(str(directory), tmp_path)
    speech = make_model("zipformer_ctc", tmp_path / "speech")
    assert punctuation_problem(speech) == "it is a speech model: name it in the setting model"
    with pytest.raises(models.ModelError, match="it is a speech model"):
        models.load_punctuator(speech)
    (english / "bpe.vocab").rename(english / "bpe")
    try:
        assert punctuation_problem(english) == "model.int8.onnx is there, and bpe.vocab is missing"
    finally:
        (english / "bpe").rename(english / "bpe.vocab")


def test_a_model_is_found_by_path_name_alias_and_language(tmp_path: Path) -> None:
    home = tmp_path / "models"

    def auto(language: str) -> str | None:
        found = models.find_punctuation("auto", home, language)
        return found and found.name

    with pytest.raises(models.ModelError, match="models pull punct-zh-en` would fetch one"):
        auto("zh-TW")
    with pytest.raises(models.ModelError, match="models pull punct-en` would fetch one"):
        auto("en")
    assert auto("ko") is None
    full = "sherpa-onnx-punct-ct-transformer-zh-en-vocab272727-2024-04-12-int8"
    both = make_chinese(home / full)
    assert auto("en-US") == auto("zh") == full
    assert auto("ko") is None
    make_english(home / "english")
    assert auto("en") == "english"
    for wanted in (full, "punct-zh-en", str(both)):
        found = models.find_punctuation(wanted, home, "zh-CN")
        assert found is not None
        assert found.directory == both
        assert models.find_punctuation(wanted, home, "ko") is None
    with pytest.raises(models.ModelError, match=r"'punct-en' is in .* would fetch it"):
        models.find_punctuation("punct-en", home, "en")
    with pytest.raises(models.ModelError, match=r"no 'punkt' is in [^:]*$"):
        models.find_punctuation("punkt", home, "en")
    with pytest.raises(models.ModelError, match="punct-en is a punctuation model"):
        models.find_model("punct-en", home)


@pytest.mark.parametrize("suffix", [".int8", ""])
def test_its_memory_is_predicted(suffix: str, tmp_path: Path) -> None:
    """A model with the number of tokens of the published one, and with as many weights."""
    directory = make_chinese(tmp_path / "model", vocabulary=272_727, embedding=250, suffix=suffix)
    program = """
import sys, pathlib, models, sherpa_onnx
def held():
    rollup = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(x.split()[1]) for x in rollup if x.startswith("Private_Dirty"))
before = held()
kept = models.load_punctuator(pathlib.Path(sys.argv[1]))
print(1024 * (held() - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    predicted = punctuation_model(directory).part.private
    assert 0.85 < int(done.stdout) / predicted < 1.15


def test_the_prediction_of_a_speech_model_has_it(chinese: Path) -> None:
    speech = models.Prediction("static", (models.Part("engine", 0, 100),), 10, 1.0, loading=5)
    model = punctuation_model(chinese)
    both = model.beside(speech)
    assert both.model == 100 + model.part.private
    assert both.growth == 10 + model.growth
    assert both.parts[-1].name == "punctuation"
    assert both.loading == max(5, model.loading - 100)


def test_an_installed_model_that_is_damaged_is_not_reported_as_missing(tmp_path: Path) -> None:
    full = "sherpa-onnx-punct-ct-transformer-zh-en-vocab272727-2024-04-12-int8"
    directory = make_chinese(tmp_path / full)
    for network in directory.glob("*.onnx"):
        network.write_bytes(network.read_bytes()[:10])
    with pytest.raises(models.ModelError, match=f"{full} cannot be used: ") as refused:
        models.find_punctuation("auto", tmp_path, "zh")
    assert refused.value.code == "model_damaged"
