"""Keywords that transducers prefer: as hotwords of sherpa-onnx, cut into tokens here."""

import struct
from pathlib import Path

import pytest
from onnx_models import make_model, silence, unclear

from models.contract import ModelError, ModelLocation, RecognitionOptions
from models.engine import EngineSettings
from models.sherpa.engine import ENGINE
from models.sherpa.hotwords import MOST_TOKENS, Hotwords
from models.sherpa.layout import recognise
from models.sherpa.model import load_sherpa
from models.sherpa.prepared import prepare
from models.sherpa.search import search_of
from models.sherpa.selfcheck import _anonymous
from models.sherpa.words import BYTE_NAMES
from models.steps import run_steps

SPEECH = unclear(" cb", " ca") + silence(1)
HOSTILE = (
    "/", "a/b", ":1.5", "ab :x", "#0.5", "@ab", "qx3", "qx", "(.*)+", "[a-", "\\", "%s", "<blk>",
    "<unk>", "▁", "\x00", "\ud800", "\u202e", "a\nb", "", " ", "😀",
)  # fmt: skip


def loaded(kind, directory, search):
    options = {"voice_activity": "loudness", "search": search}
    return load_sherpa(recognise(make_model(kind, directory)), options)


def heard(model, *keywords, pcm=SPEECH):
    recognizer = model.recognizer(RecognitionOptions(keywords=keywords))
    said = run_steps(recognizer.accept(pcm)) + run_steps(recognizer.finish())
    return " ".join(utterance.text for utterance in said)


@pytest.mark.parametrize("kind", ["transducer", "online_transducer"])
@pytest.mark.parametrize("search", ["both", "beam"])
def test_a_keyword_decides_what_is_unclear(kind, search, tmp_path):
    model = loaded(kind, tmp_path, search)
    assert model.abilities.keywords
    assert heard(model) == "cb"
    assert heard(model, "ca") == "ca"
    assert heard(model, "gh", "ca", "xyz") == "ca"
    assert heard(model, "cd", "gh") == "cb"
    assert heard(model) == "cb"  # another request's keywords are gone
    model.warm([SPEECH])


def test_greedy_search_prefers_nothing(tmp_path):
    model = loaded("transducer", tmp_path, "greedy")
    assert not model.abilities.keywords
    assert heard(model, "ca") == "cb"
    assert model.ignored_keywords(("ca",)) == ["ca"]


@pytest.mark.parametrize("kind", ["transducer", "online_transducer"])
def test_keywords_of_any_characters_do_no_harm(kind, tmp_path):
    model = loaded(kind, tmp_path, "both")
    assert heard(model, *HOSTILE) == "cb"
    assert heard(model, *HOSTILE, "ca") == "ca"
    assert set(HOSTILE) - set(model.ignored_keywords(HOSTILE)) == {
        "a/b", "@ab", "[a-", "a\nb",
    }  # fmt: skip
    many = tuple("abcdefgh" + f"{'abcdefgh'[n % 8]}" * (n // 8 + 1) for n in range(1000))
    assert heard(model, "ca", *many) == "ca"
    assert 0 < len(model.ignored_keywords(("ca", *many))) < len(many)


def hotwords(directory: Path, *tokens: str) -> Hotwords:
    file = directory / "tokens.txt"
    file.write_text("".join(f"{token} {n}\n" for n, token in enumerate(tokens)))
    return Hotwords(file)


def cut(made: Hotwords, keyword: str, *tokens: str) -> list[str]:
    return [tokens[number] for number in made.numbers(keyword)]


CHINESE = ("<blk>", "<unk>", "你", "好", "张", "▁HE", "LLO", "▁", "H", "E", "L", "O", "▁O")


def test_chinese_is_cut_into_characters_and_english_into_pieces(tmp_path):
    made = hotwords(tmp_path, *CHINESE)
    assert cut(made, "你好", *CHINESE) == ["你", "好"]
    assert cut(made, "hello你好o", *CHINESE) == ["▁HE", "LLO", "你", "好", "▁O"]
    assert cut(made, "张 hello", *CHINESE) == ["张", "▁HE", "LLO"]
    assert made.ignored(("你好", "您好", "hallo", "Hello")) == ["您好", "hallo"]
    assert cut(made, "Hello-«O»!", *CHINESE) == ["▁HE", "LLO", "▁O"]


def test_a_vocabulary_decides_how_a_word_is_cut(tmp_path):
    tokens = ("<blk>", "▁a", "b", "▁ab", "bc", "c")
    assert cut(hotwords(tmp_path, *tokens), "abc", *tokens) == ["▁a", "bc"]
    (tmp_path / "bpe.vocab").write_text("<blk>\t0\n▁a\t-5\nb\t-4\n▁ab\t-2\nbc\t-4\nc\t-1\n")
    assert cut(hotwords(tmp_path, *tokens), "ABC", *tokens) == ["▁ab", "c"]


def sentencepiece(scores: dict[str, float]) -> bytes:
    """Return a model of SentencePiece (sentencepiece_model.proto) with these pieces."""
    content = b""
    for text, score in scores.items():
        piece = b"\x0a" + bytes([len(text.encode())]) + text.encode()
        piece += b"\x15" + struct.pack("<f", score) + b"\x18\x01"
        content += b"\x0a" + bytes([len(piece)]) + piece
    return content + b"\x12\x02\x18\x01"  # trainer_spec, model_type: unigram


def test_a_sentencepiece_model_does_so_too(tmp_path):
    tokens = ("<blk>", "▁a", "b", "▁ab", "bc", "c")
    scores = {"<blk>": 0.0, "▁a": -5.0, "b": -4.0, "▁ab": -2.0, "bc": -4.0, "c": -1.0}
    (tmp_path / "bpe.model").write_bytes(sentencepiece(scores))
    assert cut(hotwords(tmp_path, *tokens), "abc", *tokens) == ["▁ab", "c"]
    for damaged in (sentencepiece(scores)[:-9], b"\xff" * 100, b"", b"version https://git-lfs"):
        (tmp_path / "bpe.model").write_bytes(damaged)
        assert cut(hotwords(tmp_path, *tokens), "abc", *tokens) != []


def test_byte_level_tokens_are_bytes_of_words(tmp_path):
    names = {byte: name for name, byte in BYTE_NAMES.items() if name != "▁"}
    first, *rest = (names[byte] for byte in "你".encode())
    tokens = ("<blk>", f"▁{first}", "".join(rest), "▁", "a")
    made = hotwords(tmp_path, *tokens)
    assert cut(made, "你", *tokens) == [f"▁{first}", "".join(rest)]
    assert cut(made, "a你a", *tokens) == ["▁", "a", f"▁{first}", "".join(rest), "▁", "a"]
    assert made.ignored(("好",)) == ["好"]


def test_the_second_names_of_tokens_are_not_names_already(tmp_path):
    made = hotwords(tmp_path, "<blk>", "qx", "qxqx0", "▁", "a")
    assert made.text(("a",)) == "qxqxqx3 qxqxqx4"
    assert made.table().count(b"\n") == 5 + 4


def test_a_file_of_tokens_that_is_none_is_refused(tmp_path):
    with pytest.raises(ModelError, match="line 1"):
        hotwords(tmp_path, "a b c")


def test_hotwords_are_bounded(tmp_path):
    made = hotwords(tmp_path, "<blk>", "▁", "a")
    words = tuple("a" * n for n in range(1, 201)) + tuple("a" * 199 + " a" * n for n in range(200))
    text = made.text(words)
    assert len(text.split("/")) < len(words)
    assert len(text.replace("/", " ").split()) <= MOST_TOKENS


def test_a_large_model_is_loaded_twice_if_its_weights_are_mapped(tmp_path):
    layout = recognise(make_model("transducer", tmp_path, padding_bytes=60_000_000))
    assert search_of(layout, "auto", prepared=True) == "both"
    assert search_of(layout, "on", prepared=True) == "beam"
    assert search_of(layout, "off", prepared=True) == "greedy"


def test_the_second_load_of_a_prepared_model_shares_its_weights(tmp_path):
    weights = 60_000_000
    directory = make_model("transducer", tmp_path / "tones", padding_bytes=weights)
    location = ModelLocation("tones", directory, "en")
    prepare(location, tmp_path / "store", available_memory=10**11)
    values = {"voice_activity": "loudness", "hotwords": "auto"}
    form, published = ENGINE.forms(location, EngineSettings(tmp_path / "store", values=values))
    assert (form.name, form.load["search"]) == ("prepared", "both")
    assert published.load["search"] == "greedy"
    before = _anonymous()
    model = ENGINE.load(location, form.load)
    assert heard(model) == "cb"
    assert heard(model, "ca") == "ca"
    assert _anonymous() - before < weights / 2
    assert form.prediction.model < published.prediction.model - weights / 2


@pytest.mark.parametrize(
    ("kind", "padding", "hotwords", "expected"),
    [
        ("transducer", 0, "auto", "both"),
        ("transducer", 60_000_000, "auto", "greedy"),
        ("transducer", 60_000_000, "on", "beam"),
        ("online_transducer", 0, "off", "greedy"),
        ("zipformer_ctc", 0, "on", "greedy"),
        ("whisper", 0, "on", "greedy"),
    ],
)
def test_the_setting_and_the_size_choose_the_search(kind, padding, hotwords, expected, tmp_path):
    location = ModelLocation("tones", make_model(kind, tmp_path, padding_bytes=padding), "en")
    (form,) = ENGINE.forms(location, EngineSettings(tmp_path, values={"hotwords": hotwords}))
    assert form.load["search"] == form.details["search"] == expected
    assert form.abilities.keywords == (expected != "greedy")
