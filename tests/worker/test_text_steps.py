"""Text steps after recognition: final texts have gone through them once, in every API."""

import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import websockets
from running import RunningServer, start_server
from wavs import wav_file

import models
from modelserver.serving.selection import candidate
from modelserver.settings import Settings
from modelserver.settings.configuration import ConfigurationError, read_configuration
from modelserver.worker.numbers_written import numbers_written
from modelserver.worker.text_steps import TextSteps

PLUGIN = """
def bracketed(language):
    return (lambda text: f"<{text}>") if language == "ko" else None

def broken(language):
    raise RuntimeError("no dictionary")

def fails(language):
    def step(text):
        if text.startswith("<"):
            raise ValueError(text)
        return text
    return step

class Named:
    made = 0
    def __init__(self, language):
        pass
    def __call__(self, text):
        return text
    def with_keywords(self, keywords):
        Named.made += 1
        if "broken" in keywords:
            raise ValueError(keywords)
        return lambda text: f"{text} {list(keywords)}"
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package as pip would install it."""
    directory = tmp_path_factory.mktemp("plugin")
    (directory / "bracket.py").write_text(PLUGIN)
    information = directory / "bracket-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: bracket\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[modelserver.text_steps]\nbracket = bracket:bracketed\nbroken = bracket:broken\n"
        "fails = bracket:fails\nnamed = bracket:Named\n"
    )
    return directory


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> Iterator[RunningServer]:
    given = {
        "PYTHONPATH": str(plugin),
        "MODELSERVER_TEXT_STEPS": "bracket,fails,numbers",
        "MODELSERVER_PREPARE": "never",
        "MODELSERVER_DEBUG_LONG_FROM_S": "20",
        "MODELSERVER_DEBUG_LONG_PIECE_S": "6",
    }
    with start_server(tmp_path_factory.mktemp("steps"), **given) as running:
        running.wait_ready()
        yield running


def once(text: str) -> bool:
    """Return whether every utterance has its own brackets."""
    return text.startswith("<") and text.endswith(">") and "<<" not in text


def test_files_and_their_segments(server: RunningServer, clips: list[bytes]) -> None:
    answer = server.convert(wav_file(clips[0]), "?segments=true&words=true&alternatives=2").json
    assert once(answer["text"])
    assert all(once(segment["text"]) for segment in answer["segments"])
    assert all(once(a["text"]) for s in answer["segments"] for a in s["alternatives"])
    assert not any("<" in word["word"] for word in answer["words"])


def test_long_recordings_where_two_pieces_are_one_utterance(
    server: RunningServer, clips: list[bytes]
) -> None:
    """Speech without a pause is cut in the middle of it."""
    answer = server.convert(wav_file(clips[0] + clips[1] + clips[2]), "?segments=true").json
    assert answer["duration"] > 20
    assert len(answer["segments"]) > 1
    assert all(once(segment["text"]) for segment in answer["segments"])
    assert answer["text"] == " ".join(segment["text"] for segment in answer["segments"])


def test_openai_whole_and_in_deltas(server: RunningServer, clips: list[bytes]) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    file = ("a.wav", wav_file(clips[0]))
    whole = client.audio.transcriptions.create(model="whisper-1", file=file)
    assert once(whole.text)
    events = client.audio.transcriptions.create(model="whisper-1", file=file, stream=True)
    told = [json.loads(event.to_json()) for event in events]
    assert "".join(e["delta"] for e in told if "delta" in e) == told[-1]["text"] == whole.text


def test_live_streams_of_either_protocol(server: RunningServer, clips: list[bytes]) -> None:
    async def vosk() -> tuple[list[str], list[str]]:
        address = server.url.replace("http", "ws")
        finals, partials = [], []
        async with websockets.connect(address) as socket:
            await socket.send('{"config": {"sample_rate": 16000, "profile": "fast"}}')
            for at in range(0, len(clips[0]), 8000):
                await socket.send(clips[0][at : at + 8000])
                said = json.loads(await socket.recv())
                (partials if "partial" in said else finals).append(
                    said.get("partial", said.get("text"))
                )
            await socket.send('{"eof": 1}')
            last = str(await socket.recv())
            assert '"text" : "<' in last  # laid out as the engine does
            finals.append(json.loads(last)["text"])
        return finals, partials

    async def ours() -> list[dict[str, str]]:
        address = server.url.replace("http", "ws") + "/api/audio/stream?encoding=s16le&rate=16000"
        async with websockets.connect(address) as socket:
            await socket.send(clips[0])
            await socket.send('{"type": "close"}')
            return [json.loads(message) async for message in socket]

    finals, partials = asyncio.run(vosk())
    assert all(once(text) for text in finals if text)
    assert any(partials)
    assert not any("<" in text for text in partials)
    told = asyncio.run(ours())
    assert all(once(one["text"]) for one in told if one["type"] == "final")
    assert not any("<" in one["text"] for one in told if one["type"] == "partial")


def test_the_status_says_what_is_in_use(server: RunningServer) -> None:
    (model,) = server.health()["models"]
    assert model["profile"] == "balanced"
    assert model["text_steps"] == {"bracket": "in use", "fails": "in use", "numbers": "in use"}


def test_a_step_that_cannot_be_made_is_named(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(plugin))
    with pytest.raises(models.ModelError, match="'broken' cannot be used: no dictionary"):
        TextSteps(["broken"], "ko")
    assert TextSteps(["bracket"], "en").written("a b") == "a b"
    assert TextSteps(["bracket", "fails"], "ko").written("나 는") == "<나 는>"
    assert TextSteps(["bracket"], "ko").written("") == ""


def test_a_step_is_made_for_the_keywords_of_requests(
    plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists that come again are not prepared again, and steps without keywords stay as they are."""
    monkeypatch.syspath_prepend(str(plugin))
    import bracket

    bracket.Named.made = 0
    steps = TextSteps(["bracket", "named"], "ko")
    assert steps.written("나 는") == "<나 는>"
    assert steps.with_keywords(()) is steps
    assert TextSteps(["bracket"], "ko").with_keywords(("a",)).written("나") == "<나>"
    for _ in range(3):
        for keywords in (("a", "b"), ("c",)):
            assert steps.with_keywords(keywords).written("나") == f"<나> {list(keywords)}"
    assert bracket.Named.made == 2
    assert steps.with_keywords(("broken",)).written("나") == "<나>"
    for number in range(100):
        steps.with_keywords((str(number),))
    assert steps.with_keywords(("c",)).written("나") == "<나> ['c']"
    assert bracket.Named.made == 104


def test_a_step_that_cannot_be_made_is_tried_again_after_a_reload_only(
    tmp_path: Path, plugin: Path
) -> None:
    """The model, its form and the SIMD library are not blamed for it."""
    package = tmp_path / "plugin"
    shutil.copytree(plugin, package)
    environment = {"PYTHONPATH": str(package), "MODELSERVER_TEXT_STEPS": "broken"}
    with start_server(tmp_path, **environment, MODELSERVER_PREPARE="never") as server:
        for attempt in (1, 2, 3):
            told = server.wait_event("model.start_failed", attempt=attempt)
            assert "the text step 'broken' cannot be used: no dictionary; " in told["reason"]
            assert "retry_in_s" not in told
            message = server.ask("/readyz").json["error"]["message"]
            assert message.endswith(f"the model cannot be loaded: {told['reason']}")
            if attempt == 3:
                repaired = PLUGIN.replace('raise RuntimeError("no dictionary")', "return None")
                (package / "bracket.py").write_text(repaired)
            server.process.send_signal(signal.SIGHUP)
        server.wait_ready()
        assert len(server.events("model.start_failed")) == 3
        assert len(server.events("fork_server.started")) == 4
        assert not server.events("model.load_failed", "form.disabled", "prepared_model.rejected")
        (model,) = server.health()["models"]
        assert model["text_steps"] == {"broken": "does not support ko"}


def test_a_name_that_nobody_has_is_refused_at_the_start() -> None:
    environment = {"MODELSERVER_TEXT_STEPS": "numbers,nmbers"}
    with pytest.raises(ConfigurationError, match="numbers") as refused:
        read_configuration(None, environment, {})
    assert "MODELSERVER_TEXT_STEPS" in str(refused.value)


@pytest.mark.parametrize(
    ("language", "spoken", "written"),
    [
        ("zh", "二零二六年十一月二十七日下午三点十五分", "2026年11月27日下午3点15分"),
        ("zh", "我买了三十二个苹果一共一百二十五块", "我买了32个苹果一共125块"),
        ("zh", "十月三日五月一号", "10月3日5月1号"),
        ("zh", "电话一三八零零一三八零零零", "电话13800138000"),
        ("zh", "一亿三千万人两万三千人二十多人", "130000000人23000人20多人"),
        ("zh", "三点五和百分之三点五和零点五", "3.5和3.5%和0.5"),
        ("cn", "一起去万一第一次千万别去三心二意", "一起去万一第一次千万别去三心二意"),
        ("zh", "星期五十几个三四十个千千万万十分好", "星期五十几个三四十个千千万万十分好"),
        ("zh-TW", "百分之二十", "20%"),
        ("en-US", "i paid twenty five dollars in two thousand one", "i paid 25 dollars in 2001"),
        ("en", "one of them", "one of them"),
        ("de", "ich habe fünfundzwanzig äpfel", "ich habe 25 äpfel"),
        ("fr", "vingt-cinq pommes", "25 pommes"),
        ("ja", "二千二十六年十一月三日午後三時十五分", "2026年11月3日午後3時15分"),
        ("ja", "百二十人が一億三千万円を二十パーセント", "120人が130000000円を20%"),
        ("ja", "三点五と〇九〇一二三四五六七八", "3.5と09012345678"),
        ("ja", "两点五分に二十人", "两点五分に20人"),  # the first numeral is none in Japanese
        ("ja", "一緒に五十嵐さんと八百屋で一番十分", "一緒に五十嵐さんと八百屋で一番十分"),
        ("ko", "이천이십육 년 십일 월 이십칠 일 에", "2026년 11월 27일 에"),
        ("ko", "이천 이십 육년 삼월 오일", "2026년 3월 5일"),
        ("ko", "오후 세 시 삼십 오 분 에 만나", "오후 3시 35분 에 만나"),
        ("ko", "사과 삼십이 개 를 만 이천 오백 원 에", "사과 32개 를 12500원 에"),
        ("ko", "공일공 일이삼사 오육칠팔 로 전화", "01012345678 로 전화"),
        ("ko", "오십 퍼센트 와 삼 점 오 퍼센트", "50% 와 3.5%"),
        ("ko", "칠 층 에서 이십삼번 버스", "7층 에서 23번 버스"),
        ("ko", "일억 이천만 명 이 천구백팔십팔년에", "120000000명 이 1988년에"),
        ("ko", "만일 이 사람 이 사이사이 천사 를", "만일 이 사람 이 사이사이 천사 를"),
        ("ko", "백만이 넘는 만세 백일 잔치", "백만이 넘는 만세 백일 잔치"),
        ("ko", "이 일 이 구 명 의 삼삼오오 이 점 이", "이 일 이 구 명 의 삼삼오오 이 점 이"),
        ("ko", "영 점 오 와 공 이 에 오 칠 팔", "0.5 와 공 이 에 오 칠 팔"),
        ("ko", "열 시 십 분 전 열두시 오분", "10시 10분 전 12시 5분"),
        ("ko", "만 원 백 명 천 년", "10000원 100명 1000년"),
        ("ko", "오늘 일 하고 천천히 오만 하다 다섯 시", "오늘 일 하고 천천히 오만 하다 다섯 시"),
    ],
)
def test_numbers_are_written(language: str, spoken: str, written: str) -> None:
    step = numbers_written(language)
    assert step is not None
    assert step(spoken) == written


def test_of_other_languages_it_knows_nothing() -> None:
    assert numbers_written("pl") is None


def test_beside_the_engine(tmp_path: Path) -> None:
    """Load a step beside the engine, whose OpenFst is shared by a whole process."""
    program = """
import sys, models, pathlib
from modelserver.worker.model import load
place = models.find_model("auto", pathlib.Path(sys.argv[1]))
load("vosk", str(place.directory), place.name, sys.argv[2], {}, "none", "balanced", ["numbers"])
print("loaded")
"""
    for language in ("zh", "en", "ja", "ko"):
        command = [sys.executable, "-c", program, str(tmp_path), language]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.endswith("loaded\n"), done.stderr


@pytest.mark.parametrize(
    ("language", "letters"),
    [
        ("ko", "일이삼사오육칠팔구십백천만억조공영점년월원 시분한두 퍼센트에"),
        ("ja", "一二三十百千万億点時分年月日 円〇零两"),
        ("zh", "一二两三十百千万亿点分年月日号 块〇零百分之"),
    ],
)
def test_whatever_is_said_a_step_neither_fails_nor_takes_long(language: str, letters: str) -> None:
    step, chance = numbers_written(language), random.Random(1)
    assert step is not None
    began = time.process_time()
    for _ in range(5000):
        step("".join(chance.choice(letters) for _ in range(chance.randrange(24))))
    step(" ".join(letters) * 300)
    assert (time.process_time() - began) / 5000 < 0.005


def test_it_is_fast_enough_to_be_done_with_every_result() -> None:
    step = numbers_written("zh")
    assert step is not None
    began = time.process_time()
    for _ in range(20):
        step("我买了三十二个苹果一共一百二十五块六毛" * 3)
    assert (time.process_time() - began) / 20 < 0.1


HELD = """
import gc, sys
import modelserver.worker.text_steps
from modelserver.settings.plugins import load_step

def held():
    gc.collect()
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) * 1024

before = held()
step = load_step(sys.argv[1])(sys.argv[2])
step("one and two hundred")
print(held() - before)
"""


@pytest.mark.parametrize("step", ["numbers", "vocabulary"])
def test_the_memory_of_steps_is_predicted(
    step: str, small: models.ModelLocation, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(Settings(), prepared_dir=tmp_path)
    steps = msgspec.structs.replace(settings.text, steps=(step,))
    without = candidate(small, settings).prediction
    with_step = candidate(small, msgspec.structs.replace(settings, text=steps)).prediction
    predicted = with_step.model - without.model
    assert [part.name for part in with_step.parts][-1] == f"text step {step}"
    assert with_step.growth - without.growth == (5_000_000 if step == "vocabulary" else 0)
    most = 0
    for language in ("en", "zh", "ru", "ko"):
        command = [sys.executable, "-c", HELD, step, language]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        most = max(most, int(done.stdout))
    assert 0.5 * predicted < most < predicted
