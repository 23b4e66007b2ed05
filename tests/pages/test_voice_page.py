"""The voice page, in a real browser whose microphone plays a spoken file."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browsers, Visit, close_pages, violations, visit
from language_model import LanguageModel, language_model
from playwright.sync_api import Browser, expect
from running import RunningServer, free_port, start_server, until

from modelserver.access.keyring import add_key
from modelserver.web import PAGES

ALLOWED = "--use-fake-ui-for-media-stream"
PAUSE = bytes(32_000 * 3)
KOREAN = re.compile("[가-힣]")


@pytest.fixture(scope="module")
def talker() -> Iterator[LanguageModel]:
    with language_model() as model:
        yield model


@pytest.fixture(autouse=True)
def _well(talker: LanguageModel, listening: Browser) -> Iterator[None]:
    talker.way, talker.pause_s = "stream", 0.1
    talker.asked.clear()
    yield
    close_pages(listening)


@pytest.fixture(scope="module")
def settings(small_settings: dict[str, str], talker: LanguageModel) -> dict[str, str]:
    return {
        **small_settings,
        "MODELSERVER_LANGUAGE": "ko",
        "MODELSERVER_ASSISTANT_URL": talker.url,
        "MODELSERVER_ASSISTANT_TIMEOUT_S": "2",
        "MODELSERVER_ASSISTANT_PER_MINUTE": "0",
        "MODELSERVER_STREAMS_SHARE": "1",
    }


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]
) -> Iterator[RunningServer]:
    with start_server(tmp_path_factory.mktemp("voice"), **settings) as running:
        running.wait_whole()
        yield running


@pytest.fixture(scope="module")
def listening(driver: Browsers, clips: list[bytes]) -> Iterator[Browser]:
    """Two utterances, three seconds apart."""
    heard = clips[0][: 32_000 * 4] + PAUSE + clips[2]
    with driver.launch(heard, ALLOWED) as launched:
        yield launched


def opened(
    launched: Browser, server: RunningServer, locale: str = "en-US", path: str = "/"
) -> Visit:
    url = server.url.replace("127.0.0.1", "localhost") + path
    found = visit(launched.new_context(locale=locale), url)
    found.page.wait_for_selector("html[data-ready]")
    return found


WATCH_ANSWERS = """() => {
  window.answers = new Set();
  window.states = new Set();
  new MutationObserver(() => {
    const open = document.querySelector('.turn.assistant.open .text');
    if (open) window.answers.add(open.textContent);
    window.states.add(document.querySelector('#state').textContent);
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
"""Script that records the text of an answer while it came, and every state that was shown, however
briefly."""


def test_one_speaks_sees_it_and_gets_an_answer(
    server: RunningServer, listening: Browser, talker: LanguageModel, node_packages: Path
) -> None:
    visited = opened(listening, server)
    page = visited.page
    assert violations(page, node_packages) == []
    page.evaluate(WATCH_ANSWERS)
    page.get_by_role("button", name="Speak").click()
    expect(page.locator("#partial")).to_have_text(KOREAN, timeout=10_000)
    assert "Listening. Speak now." in page.evaluate("[...window.states]")
    mine = page.locator(".turn.user .text")
    expect(mine).to_have_count(1, timeout=15_000)
    said = mine.inner_text()
    assert KOREAN.search(said)
    answer = page.locator(".turn.assistant:not(.open) .text").first
    expect(answer).to_have_text("Hello, you asked.")
    assert len(page.evaluate("[...window.answers]")) > 2  # it came word by word
    assert talker.asked[0]["messages"][-1]["content"] == said
    # The next utterance is the next question, with the conversation before it.
    expect(mine).to_have_count(2, timeout=20_000)
    expect(page.locator(".turn.assistant:not(.open)")).to_have_count(2)
    told = [(one["role"], one["content"]) for one in talker.asked[1]["messages"][1:]]
    assert told[:2] == [("user", said), ("assistant", "Hello, you asked.")]
    page.get_by_role("button", name="Stop").click()
    assert violations(page, node_packages) == []
    visited.must_be_well()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.locator(".turn.user .text").first.inner_text() == said
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".turn")).to_have_count(0)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(page.locator(".turn")).to_have_count(0)


def test_answers_are_read_aloud_until_one_speaks(
    server: RunningServer, listening: Browser, talker: LanguageModel
) -> None:
    context = listening.new_context(locale="en-US")
    context.add_init_script(
        """
        window.spoken = [];
        Object.defineProperty(window, "speechSynthesis", { value: {
          speaking: false,
          speak(one) {
            if (!one.volume) return;  // the page primes Safari
            this.speaking = true; spoken.push(one.text.trim());
          },
          cancel() { if (this.speaking) spoken.push("(silence)"); this.speaking = false; },
        }});
        """
    )
    talker.words = ["One. ", "Two ", "goes on. ", "Three."]
    try:
        visited = visit(context, server.url.replace("127.0.0.1", "localhost"))
        page = visited.page
        page.wait_for_selector("html[data-ready]")
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Read answers aloud").check()
        page.get_by_role("button", name="Done").click()
        page.get_by_role("button", name="Speak").click()
        # (The page's policy lets nothing wait inside it.)
        until(lambda: "(silence)" in page.evaluate("spoken"), 40)
        assert page.evaluate("spoken.slice(0, 4)") == [
            "One.",
            "Two goes on.",
            "Three.",
            "(silence)",
        ]
        # It fell silent when the next words began, and not when they were understood.
        assert page.locator(".turn.user").count() == 1
        visited.must_be_well()
    finally:
        talker.words = ["Hello", ", ", "you ", "asked."]


def test_text_may_be_corrected_before_it_is_sent(
    server: RunningServer, listening: Browser, talker: LanguageModel
) -> None:
    page = opened(listening, server, "zh-CN").page
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    page.get_by_role("button", name="设置").click()
    page.get_by_label("发送前让我修改文字").check()
    page.get_by_role("button", name="完成").click()
    page.get_by_role("button", name="说话").click()
    expect(page.locator("#text")).to_have_value(KOREAN, timeout=20_000)
    page.get_by_role("button", name="停止").click()
    assert not talker.asked
    page.locator("#text").fill("今天天气怎么样")
    page.locator("#text").press("Enter")
    expect(page.locator(".turn.user .text")).to_have_text("今天天气怎么样")
    expect(page.locator(".turn.assistant .who")).to_have_text("回答")
    page.locator("#tongue").select_option("en")
    expect(page.locator(".turn.assistant .who")).to_have_text("Answer")
    expect(page).to_have_title("Ask by voice")


def test_the_server_goes_and_comes_back(
    tmp_path: Path,
    driver: Browsers,
    settings: dict[str, str],
    clips: list[bytes],
    talker: LanguageModel,
) -> None:
    port = str(free_port())
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    heard = clips[0] + clips[2]
    with driver.launch(heard, ALLOWED) as launched:
        with start_server(one, "--port", port, **settings) as running:
            running.wait_whole()
            page = opened(launched, running).page
            page.get_by_role("button", name="Speak").click()
            expect(page.locator("#partial")).to_have_text(KOREAN, timeout=20_000)
            os.kill(running.pid, signal.SIGKILL)
            running.process.wait()
        expect(page.locator("#notice")).to_contain_text("The connection is lost")
        with start_server(other, "--port", port, **settings) as again:
            again.wait_whole()
            mine = page.locator(".turn.user .text")
            expect(mine.first).to_have_text(KOREAN, timeout=40_000)
            expect(page.locator("#notice")).to_be_hidden()
            expect(page.locator(".turn.assistant:not(.open)").first).to_be_visible()
    assert talker.asked


def test_a_server_that_is_busy_is_waited_for(server: RunningServer, listening: Browser) -> None:
    page = opened(listening, server).page
    assert server.ask_admin("POST", "/admin/drain")[0] == 202
    try:
        page.get_by_role("button", name="Speak").click()
        expect(page.locator("#notice")).to_have_text(
            re.compile("busy. Next try in [0-9]+ s"), timeout=20_000
        )
    finally:
        assert server.ask_admin("POST", "/admin/resume")[0] == 200
    expect(page.locator(".turn.user .text").first).to_have_text(KOREAN, timeout=40_000)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("refuses", "The language model does not answer"),
        ("silent", "The language model is too slow"),
        ("busy", "The language model is busy"),
        ("breaks_off", "The language model does not answer"),
    ],
)
def test_what_goes_wrong_is_told_and_can_be_asked_again(
    server: RunningServer, listening: Browser, talker: LanguageModel, way: str, words: str
) -> None:
    talker.way = way
    page = opened(listening, server).page
    page.locator("#text").fill("a question")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.problem .text")).to_contain_text(words)
    expect(page.locator(".turn.user .text")).to_have_text("a question")
    assert page.locator(".turn.assistant").count() == (way == "breaks_off")
    talker.way = "too_long"
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".turn.assistant .text").last).to_have_text("Hello, you asked.")
    expect(page.locator(".turn.assistant .note")).to_contain_text("cut")
    expect(page.locator(".turn.problem")).to_have_count(0)


def test_a_file_is_a_question_too(
    server: RunningServer, listening: Browser, wav_clips: list[bytes]
) -> None:
    page = opened(listening, server).page
    file = {"name": "a.wav", "mimeType": "audio/wav", "buffer": wav_clips[2]}
    page.locator("#file").set_input_files(file)  # type: ignore[arg-type]
    text = server.convert(wav_clips[2]).json["text"]
    expect(page.locator(".turn.user .text")).to_have_text(text, timeout=20_000)
    expect(page.locator(".turn.assistant:not(.open) .text")).to_have_text("Hello, you asked.")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    written = Path(download.value.path()).read_text()
    assert written == f"You: {text}\n\nAnswer: Hello, you asked."
    bad = {"name": "b.wav", "mimeType": "audio/wav", "buffer": b"<html>no"}
    page.locator("#file").set_input_files(bad)  # type: ignore[arg-type]
    expect(page.locator(".turn.problem .text")).to_contain_text("This is not an audio file")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"<html>no", "这不是音频文件：这是 HTML 或 XML 网页"),
        (b"PK\3\4" + bytes(100), "这不是音频文件：这是ZIP 压缩包，请发送其中的音频文件"),
        (b"", "没有收到文件，或文件是空的：表单里没有文件"),
    ],
)
def test_errors_are_in_the_language_of_the_page(
    server: RunningServer, launched: Browser, sent: bytes, said: str
) -> None:
    page = visit(launched.new_context(locale="zh-CN"), server.url).page
    file = {"name": "b.wav", "mimeType": "audio/wav", "buffer": sent}
    page.locator("#file").set_input_files(file)  # type: ignore[arg-type]
    expect(page.locator(".turn.problem .text")).to_contain_text(said)


def test_a_page_without_a_microphone_says_why(server: RunningServer, driver: Browsers) -> None:
    rule = "--host-resolver-rules=MAP speech.test 127.0.0.1"
    with driver.launch(b"", rule, "--use-fake-ui-for-media-stream=deny") as launched:
        refused = opened(launched, server).page
        refused.get_by_role("button", name="Speak").click()
        expect(refused.locator("#notice")).to_contain_text("does not allow the microphone")
        expect(refused.get_by_role("button", name="Speak")).to_have_attribute(
            "aria-pressed", "false"
        )
        page = launched.new_page(locale="en-US")
        page.goto(server.url.replace("127.0.0.1", "speech.test"))
        page.wait_for_selector("html[data-ready]")
        page.get_by_role("button", name="Speak").click()
        expect(page.locator("#notice")).to_contain_text("over https")
        page.get_by_role("link", name="microphone over the network").click()
        expect(page.get_by_text("make certificate").first).to_be_visible()


WATCH_MICROPHONE = """
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (...asked) => {
    const stream = await open(...asked);
    window.track = stream.getAudioTracks()[0];
    return stream;
  };
  window.AudioContext = class extends AudioContext {
    constructor() { super(); window.context = this; }
  };
"""


@pytest.mark.parametrize(
    "goes",
    [
        "track.stop()",  # silence comes, and no event
        "track.dispatchEvent(new Event('ended'))",
        "context.suspend()",  # nothing comes any more
        "track.dispatchEvent(new Event('mute'))",  # the system has taken it, as for a call
        # Safari's word for the same.
        """Object.defineProperty(context, 'state', {value: 'interrupted'});
        context.dispatchEvent(new Event('statechange'))""",
        "dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))",
    ],
)
def test_a_microphone_that_goes_away_ends_what_was_said(
    server: RunningServer, listening: Browser, talker: LanguageModel, goes: str
) -> None:
    context = listening.new_context(locale="en-US")
    context.add_init_script(WATCH_MICROPHONE)
    visited = visit(context, server.url.replace("127.0.0.1", "localhost"))
    page = visited.page
    page.wait_for_selector("html[data-ready]")
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.get_by_role("button", name="Speak").click()
    expect(page.locator("#partial")).to_have_text(KOREAN, timeout=20_000)
    page.evaluate(goes)
    expect(page.locator(".turn.user .text")).to_have_text(KOREAN, timeout=20_000)
    expect(page.locator("#notice")).to_contain_text("The microphone was disconnected")
    expect(page.get_by_role("button", name="Speak")).to_have_attribute("aria-pressed", "false")
    assert len(sockets) == 1  # it was not sent again
    until(lambda: server.health()["streams"]["open"] == 0)
    # And it can be opened again.
    page.get_by_role("button", name="Speak").click()
    expect(page.locator("#notice")).to_be_hidden()
    page.get_by_role("button", name="Stop").click()
    visited.must_be_well()


@pytest.mark.parametrize(("turns", "length"), [(3000, 10), (60, 60_000)], ids=["many", "long"])
def test_a_long_dialogue_can_go_on(
    server: RunningServer, listening: Browser, talker: LanguageModel, turns: int, length: int
) -> None:
    context = listening.new_context(locale="en-US")
    context.add_init_script(
        "const turn = (n) => ({role: n % 2 ? 'assistant' : 'user', text: `${n} `"
        f" + '字'.repeat({length})}});"
        f"localStorage.setItem('modelserver.dialogue', JSON.stringify([...Array({turns}).keys()]"
        ".map(turn)));"
    )
    page = visit(context, server.url.replace("127.0.0.1", "localhost")).page
    page.wait_for_selector("html[data-ready]")
    page.locator("#text").fill("and now?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant .text").last).to_have_text("Hello, you asked.")
    expect(page.locator(".turn.problem")).to_have_count(0)
    told = talker.asked[0]["messages"]
    assert told[-1]["content"] == "and now?"
    assert told[-2]["content"].startswith(f"{turns - 1} ")


def test_the_page_says_which_language_is_understood(
    server: RunningServer, listening: Browser
) -> None:
    page = opened(listening, server).page
    expect(page.locator("#empty")).to_contain_text("understands spoken Korean")
    page.locator("#tongue").select_option("zh")
    expect(page.locator("#empty")).to_contain_text("能听懂韩语")


def test_silence_is_told(server: RunningServer, driver: Browsers) -> None:
    with driver.launch(b"", ALLOWED) as launched:
        page = opened(launched, server).page
        page.get_by_role("button", name="Speak").click()
        expect(page.locator("#state")).to_contain_text("There is no sound", timeout=20_000)


def test_it_takes_dictation_where_nobody_answers_and_asks_for_a_key(
    tmp_path: Path, settings: dict[str, str], listening: Browser
) -> None:
    keys = tmp_path / "keys"
    key = add_key(keys, "alice")
    given = settings | {"MODELSERVER_ASSISTANT_URL": "", "MODELSERVER_AUTH_KEYS_FILE": str(keys)}
    with start_server(tmp_path, **given) as running:
        running.wait_whole()
        page = opened(listening, running).page
        expect(page).to_have_title("Dictation")
        expect(page.locator("#empty")).to_contain_text("assistant.url")
        page.get_by_role("button", name="Speak").click()
        page.locator("#key").fill("wrong")
        page.get_by_role("button", name="Done").click()
        page.get_by_role("button", name="Speak").click()
        expect(page.locator(".turn.problem .text")).to_contain_text(
            "The key is not valid", timeout=20_000
        )
        page.locator("#key").fill(key)
        page.get_by_role("button", name="Done").click()
        page.get_by_role("button", name="Speak").click()
        expect(page.locator(".turn.user .text").first).to_have_text(KOREAN, timeout=20_000)
        assert page.locator(".turn.assistant").count() == 0


def test_it_is_light_and_quick_and_lets_nothing_else_in(
    server: RunningServer, listening: Browser
) -> None:
    paths = [path for path in ("/", *PAGES) if not path.startswith("/docs")]
    loaded = opened(listening, server).page.evaluate(
        "performance.getEntriesByType('resource').map((entry) => new URL(entry.name).pathname)"
    )
    assert "/voice/voice.js" in loaded
    assert not any("chinese" in path for path in loaded)
    pieces = [path for path in paths if path == "/" or path in loaded]
    sent = [server.ask(path, Accept_Encoding="gzip") for path in pieces]
    assert sum(len(answer.body) for answer in sent) < 150_000
    answers = [server.ask(path) for path in paths]
    assert all(answer.status == 200 for answer in answers)
    for answer in answers:
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        body = answer.body.replace(b"http://localhost", b"").replace(b"http://www.w3.org", b"")
        assert b"http://" not in body.replace(b"http://${", b"")  # of links in answers
    paints = []
    for _ in range(5):
        page = opened(listening, server).page
        page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
        entries = page.evaluate(
            "performance.getEntriesByType('paint').map(e => [e.name, e.startTime])"
        )
        paints.append(dict(entries)["first-contentful-paint"])
        page.close()
    assert min(paints) < 200
    started = time.monotonic()
    assert server.ask("/").status == 200
    assert time.monotonic() - started < 1
