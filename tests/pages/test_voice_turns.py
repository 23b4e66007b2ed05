"""Ends of a turn on the voice page: without silence, with the microphone, with the page."""

import math
import re
import struct
from collections.abc import Iterator

import pytest
from browser import Browsers, Visit, visit
from language_model import LanguageModel, language_model
from playwright.sync_api import Browser, expect
from running import RunningServer, start_server, until

ALLOWED = "--use-fake-ui-for-media-stream"
KOREAN = re.compile("[가-힣]")

AS_IT_IS = """
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async () => {
    const off = {echoCancellation: false, noiseSuppression: false, autoGainControl: false};
    const stream = await open({audio: off});
    window.track = stream.getAudioTracks()[0];
    return stream;
  };
"""
"""Setting by which the browser removes nothing from the microphone's audio."""


@pytest.fixture(scope="module")
def talker() -> Iterator[LanguageModel]:
    with language_model() as model:
        yield model


@pytest.fixture(autouse=True)
def _nothing_asked(talker: LanguageModel) -> None:
    talker.asked.clear()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str], talker: LanguageModel
) -> Iterator[RunningServer]:
    given = small_settings | {
        "MODELSERVER_ASSISTANT_URL": talker.url,
        "MODELSERVER_ASSISTANT_PER_MINUTE": "0",
    }
    with start_server(tmp_path_factory.mktemp("turns"), **given) as running:
        running.wait_whole()
        yield running


def with_noise(pcm: bytes, seconds: float) -> bytes:
    """Return the samples, with music from beginning to end, `seconds` long in total."""
    samples = struct.unpack(f"<{len(pcm) // 2}h", pcm)
    noise = [
        2500 * math.sin(2 * math.pi * (110 + 40 * (at // 8000 % 3)) * at / 16_000)
        for at in range(16_000)
    ]
    count = int(seconds * 16_000)
    mixed = (
        max(-32768, min(32767, int((samples[at] if at < len(samples) else 0) + noise[at % 16_000])))
        for at in range(count)
    )
    return struct.pack(f"<{count}h", *mixed)


def opened(launched: Browser, server: RunningServer) -> Visit:
    context = launched.new_context(locale="en-US")
    context.add_init_script(AS_IT_IS)
    visited = visit(context, server.url.replace("127.0.0.1", "localhost"))
    visited.page.wait_for_selector("html[data-ready]")
    return visited


def test_a_turn_ends_though_it_never_becomes_quiet(
    server: RunningServer, driver: Browsers, clips: list[bytes], talker: LanguageModel
) -> None:
    with driver.launch(with_noise(clips[2], 60), ALLOWED) as launched:
        page = opened(launched, server).page
        page.get_by_role("button", name="Speak").click()
        expect(page.locator("#partial")).to_have_text(KOREAN, timeout=20_000)
        # The noise counts as the room's after half a minute.
        expect(page.locator(".turn.user .text")).to_have_text(KOREAN, timeout=15_000)
        expect(page.locator(".turn.assistant:not(.open) .text")).to_have_text("Hello, you asked.")
        # What continues is taken for noise, and the microphone is still open.
        until(lambda: server.health()["streams"]["open"] == 0)
        expect(page.get_by_role("button", name="Stop")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#state")).to_contain_text(re.compile("Listening|There is no sound"))
        assert len(talker.asked) == 1


def test_a_turn_ends_when_words_keep_coming(
    server: RunningServer, driver: Browsers, clips: list[bytes], talker: LanguageModel
) -> None:
    spoken = b"".join(clip[8_000:-16_000] for clip in clips * 2)
    with driver.launch(with_noise(spoken, 60), ALLOWED) as launched:
        page = opened(launched, server).page
        page.get_by_role("button", name="Speak").click()
        expect(page.locator("#partial")).to_have_text(KOREAN, timeout=20_000)
        expect(page.locator(".turn.user .text").first).to_have_text(KOREAN, timeout=45_000)
        until(lambda: talker.asked)
        streams = [
            one for one in server.events("request.done") if one["path"] == "/api/audio/stream"
        ]
        assert 29 < streams[-1]["audio_s"] < 32


def test_a_page_that_is_left_keeps_what_was_recognised(
    server: RunningServer, driver: Browsers, clips: list[bytes]
) -> None:
    with driver.launch(clips[0], ALLOWED) as launched:
        page = opened(launched, server).page
        page.get_by_role("button", name="Speak").click()
        expect(page.locator("#partial")).to_have_text(KOREAN, timeout=20_000)
        page.goto(f"{server.url.replace('127.0.0.1', 'localhost')}/voice/https")
        until(lambda: server.health()["streams"]["open"] == 0)
        page.go_back()
        page.wait_for_selector("html[data-ready]")
        expect(page.locator(".turn.user .text")).to_have_text(KOREAN)
        expect(page.locator(".turn.user .note")).to_contain_text("The page was closed here")
        page.locator("#tongue").select_option("zh")
        expect(page.locator(".turn.user .note")).to_have_text("说到这里时页面被关闭。")


def test_a_microphone_that_is_muted_for_a_moment_goes_on(
    server: RunningServer, driver: Browsers, clips: list[bytes]
) -> None:
    with driver.launch(clips[2], ALLOWED) as launched:
        page = opened(launched, server).page
        page.get_by_role("button", name="Speak").click()
        expect(page.locator("#partial")).to_have_text(KOREAN, timeout=20_000)
        page.evaluate("for (const one of ['mute', 'unmute']) track.dispatchEvent(new Event(one))")
        expect(page.locator(".turn.user .text")).to_have_text(KOREAN, timeout=20_000)
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.get_by_role("button", name="Stop")).to_have_attribute("aria-pressed", "true")


def test_a_lost_microphone_is_told_in_chinese_too(
    server: RunningServer, driver: Browsers, clips: list[bytes]
) -> None:
    with driver.launch(clips[2], ALLOWED) as launched:
        page = opened(launched, server).page
        page.locator("#tongue").select_option("zh")
        page.get_by_role("button", name="说话").click()
        expect(page.locator("#partial")).to_have_text(KOREAN, timeout=20_000)
        page.evaluate("track.dispatchEvent(new Event('mute'))")
        expect(page.locator("#notice")).to_contain_text("麦克风已断开：可能被拔出，或因来电")
        expect(page.locator(".turn.user .text")).to_have_text(KOREAN, timeout=20_000)
