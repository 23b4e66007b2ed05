"""Words with times, from tokens of every kind."""

import math

import pytest

from models.sherpa.words import words_of

pytestmark = pytest.mark.quick


def words(text, tokens, **options):
    """Return the words' texts, starts and ends; a token starts every tenth of a second from 2.0
    on."""
    times = [number / 10 for number in range(len(tokens))]
    found = words_of(text, tokens, times, start_s=2.0, end_s=9.0, **options)
    return [(word.text, word.start_s, word.end_s) for word in found]


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("hello you", ["▁he", "llo", "▁you"], ["hello", "you"]),
        ("hello you", [" he", "llo", " ", "you"], ["hello", "you"]),
        ("hello you", ["h", "e", "llo", "▁", "you"], ["hello", "you"]),
        ("你好 hello", ["你", "好", "▁hel", "lo"], ["你", "好", "hello"]),
        ("你好", ["你", "好"], ["你", "好"]),
        ("hello 你", ["hel@@", "lo", "你"], ["hello", "你"]),
        ("hello you", ["hel", "##lo", "you"], ["hello", "you"]),
        ("Don't stop, now.", ["▁Don", "'", "t", "▁stop", ",", "▁now", "."],
         ["Don't", "stop,", "now."]),
        ("ひる です", ["▁ひ", "る", "▁です"], ["ひ", "る", "で", "す"]),
        ("가나 다", ["▁가", "나", "▁다"], ["가나", "다"]),
        ("ab", ["<|zh|>", "<|NEUTRAL|>", "▁a", "b"], ["ab"]),
    ],
)  # fmt: skip
def test_tokens_become_words(text, tokens, expected):
    assert [text for text, _, _ in words(text, tokens)] == expected


def test_bytes_become_a_character_that_starts_with_the_first_of_them():
    tokens = ["▁a", *(f"<0x{byte:02X}>" for byte in "你".encode()), "b"]
    assert words("a你b", tokens) == [("a", 2.0, 2.1), ("你", 2.1, 2.4), ("b", 2.4, 9.0)]


def test_bytes_that_have_letters_for_names_are_read_as_bytes():
    # As icefall names the bytes E4 BD A0 E5 A5 BD.
    tokens = ["▁Ƌţ", "Ņ", "ƌŋţ"]
    assert [text for text, _, _ in words("你好", tokens)] == ["你", "好"]


def test_a_word_ends_where_the_next_one_starts_and_the_last_with_the_segment():
    assert words("a b", ["▁a", "▁b"]) == [("a", 2.0, 2.1), ("b", 2.1, 9.0)]


def test_no_word_ends_before_it_starts_nor_after_the_segment():
    found = words_of("a b", ["▁a", "▁b"], [0.5, 4.0], start_s=0.0, end_s=1.0)
    assert [(word.start_s, word.end_s) for word in found] == [(0.5, 1.0), (1.0, 1.0)]


def test_the_confidence_is_the_mean_of_a_words_tokens():
    found = words_of(
        "ab c",
        ["▁a", "b", "▁c"],
        [0.0, 0.1, 0.2],
        start_s=0.0,
        end_s=1.0,
        log_probabilities=[math.log(0.9), math.log(0.4), math.log(0.5)],
    )
    assert [word.confidence for word in found] == [0.6, 0.5]
    without = words_of("ab", ["▁ab"], [0.0], start_s=0.0, end_s=1.0)
    assert [word.confidence for word in without] == [None]


def test_without_a_time_for_each_token_there_are_no_words():
    assert words_of("a b", ["▁a", "▁b"], [0.0], start_s=0.0, end_s=1.0) == ()
    assert words_of("a b", [], [], start_s=0.0, end_s=1.0) == ()
