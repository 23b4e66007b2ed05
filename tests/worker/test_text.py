"""The text that a reader expects, and subtitles."""

import pytest

from modelserver.speech.messages import SpeechWord
from modelserver.speech.subtitles import cues, srt, vtt
from modelserver.speech.transcript import ENGINE_TOKENS, reader_text

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("engine", "reader"),
    [
        (["今天 天气 很 好"], "今天天气很好"),
        (["今天", "很 好"], "今天很好"),
        (["我 在 用 iphone 打 电话"], "我在用 iphone 打电话"),
        (["一共 3 个 苹果"], "一共 3 个苹果"),
        (["東京 タワー に 行き ます"], "東京タワーに行きます"),
        (["기차 도 없었다"], "기차 도 없었다"),
        (["한국 語 수업"], "한국 語 수업"),
        (["the cat sat"], "the cat sat"),
        (["the cat", "sat down"], "the cat sat down"),
        (["[unk] 今天 <UNK> 好"], "今天好"),
        (["hello [unk]", "[noise]"], "hello"),
        (["", "  ", "a"], "a"),
        ([""], ""),
        ([], ""),
        (["[2] 보이드"], "[2] 보이드"),
        (["[FIL] 今天 [SPK] 天气 <NSN> 好"], "今天天气好"),
        (["葛\U000e0100 飾 区"], "葛\U000e0100飾区"),  # with a variation selector
        (["𛀀 の 𛀁"], "𛀀の𛀁"),  # hentaigana
    ],
)
def test_text_is_what_a_reader_expects(engine: list[str], reader: str) -> None:
    assert reader_text(engine) == reader


@pytest.mark.parametrize("token", sorted(ENGINE_TOKENS))
def test_every_engine_token_is_dropped(token: str) -> None:
    assert reader_text([f"a {token} b {token.upper()}"]) == "a b"


def word(text: str, start: float, end: float) -> SpeechWord:
    return SpeechWord(text, start, end, 1.0)


def test_a_pause_begins_a_new_cue() -> None:
    words = [word("one", 0, 0.5), word("two", 0.6, 1), word("three", 2, 2.5)]
    assert [c.text for c in cues(words)] == ["one two", "three"]


def test_a_full_line_begins_a_new_cue() -> None:
    words = [word("ab" * 5, i * 0.3, i * 0.3 + 0.3) for i in range(6)]
    assert [len(c.text) for c in cues(words)] == [32, 32]


def test_srt_has_numbers_and_commas() -> None:
    text = srt([word("one", 3599.5, 3600.25), word("two", 3602, 3603)])
    assert text == (
        "1\n00:59:59,500 --> 01:00:00,250\none\n\n2\n01:00:02,000 --> 01:00:03,000\ntwo\n"
    )


def test_vtt_has_points_and_escapes() -> None:
    assert vtt([word("<a&b>", 0, 1)]) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n&lt;a&amp;b&gt;\n"
    )


def test_speakers_on_channels_of_their_own_have_cues_of_their_own() -> None:
    left = [
        SpeechWord(text, start, start + 0.3, 1.0, 0) for text, start in (("how", 0), ("you", 1))
    ]
    right = [
        SpeechWord(text, start, start + 0.3, 1.0, 1) for text, start in (("i", 0.5), ("am", 1))
    ]
    words = sorted((*left, *right), key=lambda word: word.start)
    assert [(cue.channel, cue.text) for cue in cues(words)] == [(0, "how you"), (1, "i am")]
    assert srt(words).splitlines()[2::4] == ["[1] how you", "[2] i am"]
    assert vtt(words).splitlines()[3::3] == ["<v 1>how you", "<v 2>i am"]


def test_silence_has_no_cues() -> None:
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n"
