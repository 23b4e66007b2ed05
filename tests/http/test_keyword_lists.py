"""Keywords as they are read: bounded lists, prompts, and files."""

import os
from pathlib import Path

import pytest
from stopwatch import processor_s

from modelserver.refusal import Refusal
from modelserver.request.parameters import STREAM_NAMES, read_parameters
from modelserver.serving.keywords import KeywordsFile, KeywordsUnreadable, read_keywords
from modelserver.speech.messages import SpeechRequest, recognition_of
from modelserver.speech.phrases import MOST_BYTES, MOST_TEXTS, keyword_list, usable_keywords
from modelserver.speech.prompt import keywords_of

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([("keywords", "a b\n c  d \n\na b")], ("a b", "c d")),
        ([("keywords", "a"), ("keywords", "b"), ("keywords", "a")], ("a", "b")),
        ([("keywords", '["a, b", "c"]')], ("a, b", "c")),
        ([("keywords", "[unk]")], ("[unk]",)),
        ([("keywords", " ")], ()),
        ([], ()),
    ],
)
def test_notations(given: list[tuple[str, str]], expected: tuple[str, ...]) -> None:
    asked, warnings = read_parameters(given, {}, "", STREAM_NAMES)
    assert asked.keywords == recognition_of(asked)["keywords"] == expected
    assert not warnings


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["a" * 201], "201 letters, 200 are allowed"),
        (["a\0b"], "characters that cannot be printed"),
        (["\ud800"], "characters that cannot be printed"),
        (["\u202e"], "characters that cannot be printed"),
        ([["a"]], "text is expected"),
        ([None], "text is expected"),
        ([str(n) for n in range(1001)], "a list of 1001; 1000 are allowed"),
        (["a"] * 10_001, "a list of 10001"),
        ([f"{n:04}" + "中" * 50 for n in range(500)], "77000 bytes of text; 65536 are"),
    ],
)
def test_what_is_no_list_of_keywords(given: list[object], reason: str) -> None:
    with pytest.raises(Refusal, match=reason) as refused:
        keyword_list(given)
    assert (refused.value.code, refused.value.message[:10]) == ("bad_parameter", "keywords: ")


def test_joiners_are_a_part_of_words() -> None:
    words = ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0915\u094d\u200d\u0937")
    assert keyword_list(words) == words


def test_the_refusal_says_which_text_and_does_not_repeat_it() -> None:
    for text in ("secret" * 40, "secret\0", ["secret"]):
        with pytest.raises(Refusal, match="number 2 of the list") as refused:
            keyword_list(["a", text])
        assert "secret" not in refused.value.message


def test_nesting_of_any_depth_is_refused() -> None:
    def refused(depth: int) -> bool:
        nested = "[" * depth + "]" * depth
        try:
            read_parameters([("keywords", nested)], {}, "", STREAM_NAMES)
        except Refusal:
            return True
        return False

    assert all(map(refused, range(500, 1100)))


def test_of_a_list_that_nobody_can_correct_what_is_usable_is_taken() -> None:
    assert usable_keywords(["a\0", 1, "b", "x" * 201, "b", " ", "c"]) == ("b", "c")
    assert len(usable_keywords(str(n) for n in range(10**9))) == MOST_TEXTS
    long = usable_keywords(f"{n:04}" + "中" * 50 for n in range(1000))
    assert 0.9 * MOST_BYTES < sum(len(one.encode()) for one in long) <= MOST_BYTES


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ZyntriQix, Digique Plus, VortiQore V8.", ("ZyntriQix", "Digique Plus", "VortiQore V8")),
        ("Glossary: Aimee, Shawn, BBQ", ("Aimee", "Shawn", "BBQ")),
        ("- Aimee\n- Shawn\n2. Bob", ("Aimee", "Shawn", "Bob")),
        ("模型服务、张伟; 李娜", ("模型服务", "张伟", "李娜")),
        ("kubernetes", ("kubernetes",)),
        (
            "This is about OpenAI and Zaphod Beeblebrox. The New York office has GPT-4.",
            ("OpenAI", "Zaphod Beeblebrox", "New York", "GPT-4"),
        ),
        ("It's Monday, and I'm with the N.A.S.A. people.", ("Monday", "N.A.S.A")),
        ("会议讨论了「模型服务」的问题。", ("模型服务",)),
        ("Umm, let me think like, hmm... Okay, here's what I'm, like, thinking.", ()),
        ("The following is a lecture.", ()),
        ("hello there", ()),
        (",,; \n \0", ()),
        ("\ud800, a", ("a",)),
    ],
)
def test_keywords_of_a_prompt(prompt: str, expected: tuple[str, ...]) -> None:
    assert keywords_of(prompt) == expected


@pytest.mark.parametrize("part", ["a", "A ", "A-", '"', "a, ", "Ab.Cd", "x: ", " ", "中", "("])
def test_no_prompt_takes_long(part: str) -> None:
    prompt = part * (1_000_000 // len(part))
    assert processor_s(lambda: keywords_of(prompt), enough_s=0.04) < 0.05


def test_a_file_has_a_keyword_a_line(tmp_path: Path) -> None:
    file = tmp_path / "words"
    file.write_bytes(b"\xef\xbb\xbfZaphod  Beeblebrox # a name\r\n\n# nothing\nTrillian\nTrillian")
    assert read_keywords(file) == ("Zaphod Beeblebrox", "Trillian")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a\n\xff\n", "line 2: not UTF-8"),
        (b"a\n\nb\0c\n", "line 3: .* characters that cannot be printed"),
        (b"x" * 201, "line 1: .* has 201 letters"),
        (b"".join(b"%d\n" % n for n in range(1001)), "a list of 1001; 1000 are allowed"),
        (b"#" * 1_100_000, "larger than 1048576 bytes"),
    ],
)
def test_a_bad_file_is_refused_with_the_line(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "words"
    file.write_bytes(content)
    with pytest.raises(KeywordsUnreadable, match=f"words.*{reason}"):
        read_keywords(file)


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "device"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "words"
    if kind == "directory":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    with pytest.raises(KeywordsUnreadable, match="words"):
        read_keywords(file)


def test_a_models_keywords_follow_on_those_of_the_request() -> None:
    own = KeywordsFile("words", ("a", "b", "c"))
    merged = own.added_to(SpeechRequest(keywords=("x", "b")))
    assert (merged.keywords, merged.model_keywords) == (("x", "b", "a", "c"), 2)
    alone = own.added_to(SpeechRequest())
    assert alone.keywords == own.words
    asked = SpeechRequest(keywords=("x",))
    assert KeywordsFile("").added_to(asked) is asked
