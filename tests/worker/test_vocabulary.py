"""The text step "vocabulary": keywords by their sound, and nothing else that sounds like them."""

import json
import random
import subprocess
import sys
from collections.abc import Generator
from difflib import SequenceMatcher
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from late_model import LateModel, LateRecognizer, gap, load, word
from stopwatch import processor_s

import models
from modelserver.worker.numbers_written import numbers_written
from modelserver.worker.text_steps import TextStep, TextSteps, WritingModel
from modelserver.worker.vocabulary import vocabulary
from modelserver.worker.vocabulary_common import common_words
from modelserver.worker.vocabulary_sounds import sounds_of

T = TypeVar("T")
LISTS = Path(__file__).parent / "vocabulary"
LANGUAGES = sorted(path.stem for path in LISTS.glob("*.tsv"))
ENOUGH = {"en": 150, "zh": 150}
WRONG = 0.16
"""Share of a list, the hardest that could be thought of, that may be wrong."""


@cache
def lines(language: str) -> list[tuple[tuple[str, ...], str, str, str]]:
    """Return the keywords, the recognised text, the step's text, and the right text."""
    read = []
    for line in (LISTS / f"{language}.tsv").read_text().splitlines():
        if line and not line.startswith("#"):
            keywords, spoken, *written = line.split("\t")
            right, *today = (spoken if text == "=" else text for text in written)
            read.append((tuple(keywords.split(", ")), spoken, (today or [right])[0], right))
    return read


@cache
def step(language: str, *keywords: str) -> TextStep:
    return made(language).with_keywords(keywords)


made = cache(vocabulary)


def every_keyword(language: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(keyword for line in lines(language) for keyword in line[0]))


@pytest.mark.quick
@pytest.mark.parametrize("language", LANGUAGES)
def test_keywords_are_written_as_the_list_says(language: str) -> None:
    said = {spoken: step(language, *words)(spoken) for words, spoken, *_ in lines(language)}
    assert said == {spoken: today for _, spoken, today, _ in lines(language)}


@pytest.mark.quick
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_list_is_long_and_most_of_it_is_right(language: str) -> None:
    listed = lines(language)
    assert len({(words, spoken) for words, spoken, *_ in listed}) == len(listed)
    assert len(listed) >= ENOUGH.get(language, 60)
    stays = [line for line in listed if line[1] == line[3]]
    assert len(listed) / 3 < len(stays) < len(listed) * 2 / 3
    assert sum(today != right for *_, today, right in listed) < WRONG * len(listed)


@pytest.mark.quick
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_written_stays(language: str) -> None:
    for words, _, today, _ in lines(language):
        assert step(language, *words)(today) == today


@pytest.mark.parametrize("language", LANGUAGES)
@given(data=st.data())
def test_any_text_is_accepted(language: str, data: st.DataObject) -> None:
    pieces = st.sampled_from([spoken for _, spoken, *_ in lines(language)]) | st.text()
    text = "".join(data.draw(st.lists(pieces, max_size=4)))
    assert isinstance(step(language, *every_keyword(language))(text), str)


@given(keywords=st.lists(st.text()), text=st.text())
def test_any_keywords_are_accepted(keywords: list[str], text: str) -> None:
    for language in LANGUAGES:
        assert isinstance(made(language).with_keywords(keywords)(text), str)


@pytest.mark.quick
@pytest.mark.parametrize("language", LANGUAGES)
def test_without_keywords_nothing_is_changed_or_prepared(language: str) -> None:
    assert all(made(language)(spoken) is spoken for _, spoken, *_ in lines(language))
    steps = TextSteps(["vocabulary"], language)
    assert steps.report == {"vocabulary": "in use"}
    assert steps.with_keywords(()) is steps


@pytest.mark.quick
@pytest.mark.parametrize(
    ("keywords", "spoken", "written"),
    [
        (("kubernetes",), "Cubernetes is up", "Kubernetes is up"),
        (("kubernetes",), "we run cubernetes", "we run kubernetes"),
        (("kubernetes",), "Kubernetes is up", "Kubernetes is up"),
        (("Kubernetes",), "(cubernetes), «cubernetes»? cubernetes…", None),
        (("Kubernetes",), "cooper, netties and cooper. Netties", "="),
        (("Kubernetes",), "cooper\nnetties", "="),
        (("Kubernetes",), "cooper-netties", "Kubernetes"),
        (("New Relic", "New Relic One"), "new relick one, new relick", "New Relic One, New Relic"),
        (("Sonos", "Sonus"), "play it on sonos and sonus", "play it on Sonos and Sonus"),
        (("Johansson", "Johanson"), "call yohansson or johannson", "="),  # which of them?
        (("Prometheus",), "unprometheus prometheusly", "="),
        (("Grafana",), "1grafana2 grafana3", "1Grafana2 Grafana3"),
        (("Studio 54", "3M"), "studio 54 by 3m, studio 55", "Studio 54 by 3M, studio 55"),
        (("C++", ".NET", "!!!", ""), "see net and c", "="),
        (("K8s",), "k8s and k9s", "K8s and k9s"),
    ],
)  # fmt: skip
def test_windows_and_boundaries(
    keywords: tuple[str, ...], spoken: str, written: str | None
) -> None:
    if written is None:
        written = spoken.replace("cubernetes", "Kubernetes")
    assert step("en", *keywords)(spoken) == (spoken if written == "=" else written)


@pytest.mark.parametrize("language", ["de", "en", "ko", "ru", "zh"])
def test_common_words_are_not_replaced(language: str) -> None:
    """Offer a thousand words that sound much like them."""
    chance = random.Random(1)
    known = sorted(word for word in common_words(language).common if word.isalpha())
    text = ("" if language == "zh" else " ").join(chance.sample(known, 2000))
    alike = [changed(word, chance) for word in chance.sample(known, 1000) if len(word) > 2]
    written = made(language).with_keywords(alike)(text).lower()
    same = SequenceMatcher(None, text, written, autojunk=False).ratio()
    assert same > 0.998


def changed(word: str, chance: random.Random) -> str:
    """Return another word that sounds much like it."""
    at = chance.randrange(len(word))
    return word[:at] + chance.choice(word) + word[at + 1 :]


@pytest.mark.quick
def test_numbers_before_or_after() -> None:
    spoken = "twenty five pods of cooper netties and gpt 4"
    written = "25 pods of Kubernetes and GPT-4"
    numbers, words = numbers_written("en"), step("en", "Kubernetes", "GPT-4")
    assert numbers is not None
    assert numbers(words(spoken)) == words(numbers(spoken)) == written
    numbers, words = numbers_written("zh"), step("zh", "文心一言", "张三", "李思")
    assert numbers is not None
    spoken, written = "问文新一言和张三，二十五次，里四百零一次", "问文心一言和张三，25次，里401次"
    assert numbers(words(spoken)) == words(numbers(spoken)) == written


@pytest.mark.quick
def test_a_written_model_has_the_step_too() -> None:
    steps = TextSteps(["vocabulary", "numbers"], "en")
    steps.leave_written()
    assert steps.report["vocabulary"] == "in use"
    said = steps.with_keywords(("Kubernetes",)).written("Is Cooper Netties up? Two of 25.")
    assert said == "Is Kubernetes up? Two of 25."


@pytest.mark.quick
def test_finals_of_a_request_with_keywords_have_them() -> None:
    """Partial results stay as they were recognised, and so do requests without keywords."""
    model = WritingModel(LateModel(), TextSteps(["vocabulary"], "zh"))
    for keywords, final in (((), "w3 w1."), (("W3",), "W3 w1.")):
        recognizer = model.recognizer(models.RecognitionOptions(keywords=keywords))
        finish(recognizer.accept(word(3) + gap() + word(1)))
        assert recognizer.partial().text == "w3 w1"
        assert [utterance.text for utterance in finish(recognizer.finish())] == [final]
    assert model.report()["text_steps"] == {"vocabulary": "in use"}


@pytest.mark.quick
def test_each_alternative_is_written_in_a_step_of_its_own() -> None:
    """A worker looks after its other streams between two steps."""
    read = [models.Alternative(f"w3 w{number}", 1.0) for number in range(100)]

    class Recognizer(LateRecognizer):
        def finish(self) -> Generator[None, None, list[models.Utterance]]:
            yield from ()
            return [models.Utterance(read[0].text, alternatives=(*read, *read))]

    class Model(LateModel):
        def recognizer(self, *_: object, **__: object) -> LateRecognizer:
            return Recognizer("zh")

    model = WritingModel(Model(), TextSteps(["vocabulary"], "zh"))
    steps = model.recognizer(models.RecognitionOptions(keywords=("W3",))).finish()
    for _ in range(99):
        next(steps)
    (utterance,) = finish(steps)
    assert utterance.text == "W3 w0"
    assert [one.text for one in utterance.alternatives[98:101]] == ["W3 w98", "W3 w99", "W3 w0"]


@pytest.mark.quick
def test_texts_of_recordings_that_are_joined_have_them() -> None:
    """Joined of words, which are as they were recognised."""
    stream = load(("vocabulary",)).open({"texts": True, "keywords": ["W3"]}, 0.0, None)
    assert finish(stream.feed(["w3 w1.", "w33"], quiet=False)).values == [["W3 w1.", "w33"]]


def finish(steps: Generator[None, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


@pytest.mark.quick
def test_other_languages() -> None:
    assert vocabulary("sw").with_keywords(["Kubernetes"])("cubernetes") == "Kubernetes"
    hindi = vocabulary("hi").with_keywords(["नमस", "दिल्ली", "WhatsApp"])
    assert hindi("नमस्ते दिल्ला whatsap") == "नमस्ते दिल्ला WhatsApp"  # its sounds are not known
    assert vocabulary("vi").with_keywords(["Lan"])("La\u0300n") == "La\u0300n"
    assert vocabulary("zh-Hant-TW").with_keywords(["張偉"])("章偉來了") == "張偉來了"


def texts(language: str) -> tuple[list[str], str]:
    """Return a thousand keywords, and an utterance of 200 words, or of 300 characters."""
    chance = random.Random(1)
    spoken = [spoken for _, spoken, *_ in lines(language)]
    text = " ".join(spoken) if language not in ("zh", "ja") else "".join(spoken)
    names = every_keyword(language)
    more = [changed(chance.choice(names), chance) for _ in range(1000 - len(names))]
    return [*names, *more], text[:300] if language in ("zh", "ja") else " ".join(text.split()[:200])


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_thousand_keywords_take_a_few_milliseconds(language: str) -> None:
    keywords, text = texts(language)
    step = made(language).with_keywords(keywords)
    assert processor_s(partial(step, text), rounds=5, enough_s=0.01) < 0.02


@pytest.mark.parametrize(
    ("language", "keyword", "piece"),
    [
        ("en", "kaneto" * 9, "k a n e t o "),
        ("en", "k" + "aeiou" * 11 + "n", "k" + "aeioo" * 11 + "n "),
        ("en", "kubernetes", "kubernetis "),
        ("en", "ka" * 500, "ka"),
        ("en", "a b c d e f g h i j k l", "a b c d e f g h i j k m "),
        ("ko", "가나다라마바사아자차" * 5, "가나다라마바사아자카" * 5 + "에게 "),
        ("ko", "민수", "민수에게는"),
        ("zh", "中" * 15, "中"),
        ("zh", "中国人", "中过人"),
        ("ja", "カ" * 50, "カ"),
    ],
)
def test_the_work_for_a_text_is_bounded(language: str, keyword: str, piece: str) -> None:
    """A text of 100 kB and a thousand keywords that are all alike."""
    keywords = [keyword, *(keyword[:-1] + chr(ord(keyword[-1]) + at % 26) for at in range(999))]
    keywords = [
        f"{one} {chr(97 + at % 26)}" if at > 500 else one for at, one in enumerate(keywords)
    ]

    def listed() -> TextStep:
        sounds_of.cache_clear()  # each round begins as the first request does
        return made(language).with_keywords(keywords)

    assert processor_s(listed, enough_s=1.0) < 1
    step = listed()
    short = processor_s(partial(step, piece * (25_000 // len(piece))))
    most_s = min(2, 0.2 + 6 * short)
    long = partial(step, piece * (100_000 // len(piece)))
    assert processor_s(long, enough_s=most_s * 0.99) < most_s


def test_a_step_that_is_made_opens_no_file_and_starts_no_thread() -> None:
    """Steps are made in the fork server, and for keywords in workers, which may open nothing."""
    program = """
import json, os, sys
from modelserver.worker.vocabulary import vocabulary
given = json.loads(sys.argv[1])
steps = {language: vocabulary(language) for language in given}
seen = []
sys.addaudithook(lambda event, _: seen.append(event))
for language, step in steps.items():
    for keywords, text in given[language]:
        step.with_keywords(keywords)(text)
refused = {"open", "import", "os.fork", "_thread.start_new_thread", "ctypes.dlopen"}
print(len(os.listdir("/proc/self/task")), *refused.intersection(seen))
"""
    given = {language: [line[:2] for line in lines(language)] for language in LANGUAGES}
    command = [sys.executable, "-c", program, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["1"], done.stderr


def test_packages_that_are_read_are_not_imported() -> None:
    """Check that these are not loaded: they take 44 MB of memory each."""
    program = """
import sys
from modelserver.worker.vocabulary import vocabulary
vocabulary("zh").with_keywords(["张伟"])("章伟")
print(*{"pypinyin", "wordfreq", "numpy"}.intersection(sys.modules), "none")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["none"], done.stderr


@pytest.mark.quick
def test_without_the_extra_the_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(models.ModelError, match=r"'vocabulary' cannot be used.*\[vocabulary\]"):
        TextSteps(["vocabulary"], "en")
