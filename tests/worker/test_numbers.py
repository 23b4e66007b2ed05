"""The text step "numbers": right, or as it was spoken."""

import json
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stopwatch import processor_s

from modelserver.worker.numbers_written import numbers_written
from modelserver.worker.text_steps import TextStep

LISTS = Path(__file__).parent / "numbers"
LANGUAGES = sorted(path.stem for path in LISTS.glob("*.tsv"))


@cache
def phrases(language: str) -> list[tuple[str, str]]:
    """Return the phrases of a list: spoken and written."""
    lines = (LISTS / f"{language}.tsv").read_text().splitlines()
    pairs = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(spoken, spoken if written == "=" else written) for spoken, written in pairs]


@cache
def step(language: str) -> TextStep:
    made = numbers_written(language)
    assert made is not None
    return made


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_are_written_as_the_list_says(language: str) -> None:
    wrong = {spoken: step(language)(spoken) for spoken, _ in phrases(language)}
    right = dict(phrases(language))
    assert {spoken: said for spoken, said in wrong.items() if said != right[spoken]} == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_list_has_no_phrase_twice(language: str) -> None:
    spoken = [spoken for spoken, _ in phrases(language)]
    assert len(spoken) == len(set(spoken))
    assert len(spoken) >= 300


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_written_stays(language: str) -> None:
    for _, written in phrases(language):
        assert step(language)(written) == written


@pytest.mark.parametrize("language", LANGUAGES)
def test_phrases_in_one_text_do_not_disturb_each_other(language: str) -> None:
    spoken, written = zip(*phrases(language), strict=True)
    assert step(language)("\n".join(spoken)).split("\n") == list(written)


@pytest.mark.parametrize("language", LANGUAGES)
@given(text=st.text())
def test_any_text_is_accepted(language: str, text: str) -> None:
    written = step(language)(text)
    assert step(language)(written) == written


@pytest.mark.parametrize("language", LANGUAGES)
@given(data=st.data())
def test_written_twice_is_as_written_once(language: str, data: st.DataObject) -> None:
    """Pieces of the list in any order."""
    pieces = sorted({piece for spoken, _ in phrases(language) for piece in words(spoken)})
    glue = "" if language in ("zh", "ja") else " "
    text = glue.join(data.draw(st.lists(st.sampled_from(pieces), max_size=12)))
    once = step(language)(text)
    assert step(language)(once) == once


def words(spoken: str) -> list[str]:
    return spoken.split(" ") if " " in spoken else list(spoken)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_without_numbers_is_unchanged(language: str) -> None:
    for text in ("", " ", "abc def", "Привет, мир", "مرحبا", "🙂", "a\tb\n c  d", "\ud800"):
        assert step(language)(text) == text


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_long_text_takes_linear_time(language: str) -> None:
    spoken = [spoken for spoken, _ in phrases(language)]
    texts = [" ".join(spoken) + " ", spoken[0], spoken[-1], "1"]

    def seconds(text: str, characters: int, enough_s: float = 0.0) -> float:
        whole = (text * (characters // len(text) + 1))[:characters]
        return processor_s(partial(step(language), whole), rounds=2, enough_s=enough_s)

    for text in texts:
        most_s = min(10, 0.5 + 8 * seconds(text, 25_000))
        assert seconds(text, 100_000, most_s * 0.99) < most_s, text


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_hostile_text_takes_less_than_a_second(language: str) -> None:
    """Join numerals and the words between them, in any order and repeatedly."""
    random = Random(language)
    pieces = sorted({piece for spoken, _ in phrases(language) for piece in words(spoken)})
    glue = "" if language in ("zh", "ja") else " "
    texts = [glue.join(random.choices(pieces, k=100_000))[:100_000]]
    texts += [(numeral * 100_000)[:100_000] for numeral in numerals(language)]
    for text in texts:
        assert processor_s(partial(step(language), text), enough_s=1.0) < 1, text[:40]


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_numerals_in_any_order_lose_no_other_letters(language: str) -> None:
    random = Random(language)
    for _ in range(10_000):
        text = "".join(random.choices("一二三四五六七八九十百千万億零〇点年月日時分円人あア", k=12))
        written = step(language)(text)
        for letter in "年月日時分円人あア":
            assert written.count(letter) == text.count(letter), text


def test_a_step_that_is_made_opens_no_file_and_starts_no_thread() -> None:
    """Steps are made in the fork server and called in workers that may open nothing."""
    program = """
import json, os, sys
from modelserver.worker.numbers_written import numbers_written
spoken = json.load(sys.stdin)
steps = {language: numbers_written(language) for language in spoken}
for step in steps.values():
    step("one 一 1")
seen = []
sys.addaudithook(lambda event, _: seen.append(event))
for language, step in steps.items():
    for text in spoken[language]:
        step(text)
refused = {"open", "import", "os.fork", "_thread.start_new_thread", "ctypes.dlopen"}
print(len(os.listdir("/proc/self/task")), *refused.intersection(seen))
"""
    spoken = {language: [one for one, _ in phrases(language)] for language in LANGUAGES}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(spoken),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["1"], done.stderr


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_number_of_any_length_is_accepted(language: str) -> None:
    digit, between = {
        "zh": ("一二", "到"), "ja": ("一二", "から"), "ko": ("삼칠", " 대 "),
        "en": ("one two ", "to "), "de": ("null eins ", "bis "), "nl": ("nul een ", "tot "),
        "fr": ("zéro un ", "à "), "es": ("cero uno ", "a "),
        "it": ("zero uno ", "a "), "pt": ("zero um ", "a "), "ru": ("ноль один ", "до "),
    }[language]  # fmt: skip
    text = (digit * 5000 + between) * 2
    written = step(language)(text)
    assert step(language)(written) == written


def numerals(language: str) -> list[str]:
    """Return texts of numerals alone."""
    return {
        "zh": ["一", "十", "两", "点", "一点", "一百", "百分之", "三到", "三月", "负", "三年"],
        "ja": ["一", "十", "百", "三点", "三時", "三月"],
        "de": ["ein ", "zwanzig ", "ein und ", "null komma ", "zwei uhr "],
        "fr": ["un ", "vingt ", "vingt et ", "zéro ", "deux heures "],
        "es": ["uno ", "mil ", "veinte y ", "cero coma ", "dos horas "],
        "it": ["un ", "mille ", "due e ", "centotto", "due ore "],
        "pt": ["um ", "mil ", "meia ", "zero vírgula ", "duas horas "],
        "nl": ["een ", "duizend ", "een en ", "nul komma ", "twee uur "],
        "ru": ["один ", "тысяча ", "ноль ", "три целых ", "сорока ", "два часа "],
        "ko": ["일", "십 ", "일 ", "점 ", "만 ", "분의 일 ", "몇 십 ", "공일", "일 월 "],
        "en": [
            "one ",
            "twenty ",
            "and ",
            "oh ",
            "point one ",
            "five to ",
            "minus ",
            "double ",
            "one-",
        ],
    }.get(language, [])
