"""Checks for Safari and iOS without them: the pages in a browser that lacks what Safari 15.4 lacks,
the syntax of their scripts, and recordings of the kind that Safari makes."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browsers, visit
from language_model import language_model
from playwright.sync_api import Page, expect
from running import RunningServer, start_server, until

import modelserver.web
from modelserver.web import ADMIN_PAGES, PAGES

ALLOWED = "--use-fake-ui-for-media-stream"
KOREAN = re.compile("[가-힣]")
WEB = Path(modelserver.web.__file__).parent
SCRIPTS = sorted(
    name
    for name in (PAGES | ADMIN_PAGES).values()
    if re.search(r"\.js(\.gz)?$", name) and not name.startswith("swagger-ui/")
)

SAFARI_15_4 = """
  delete window.MediaRecorder;
  delete HTMLFormElement.prototype.requestSubmit;
  delete AbortSignal.timeout;
  delete AbortSignal.any;
  delete Promise.withResolvers;
  delete Promise.try;
  delete Array.fromAsync;
  delete Object.groupBy;
  delete Map.groupBy;
  delete URL.canParse;
  delete URL.parse;
  delete Response.json;
  delete navigator.userActivation;
  delete window.scheduler;
  delete window.requestIdleCallback;
  delete window.Navigation;
  for (const name of ["toSorted", "toReversed", "toSpliced", "with"]) delete Array.prototype[name];
  for (const name of ["union", "intersection", "difference"]) delete Set.prototype[name];
  for (const name of ["isWellFormed", "toWellFormed"]) delete String.prototype[name];
  delete ReadableStream.prototype[Symbol.asyncIterator];
  delete ReadableStream.from;
"""
"""Give a browser as old as that: newer features are removed from it."""


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str]
) -> Iterator[RunningServer]:
    with language_model() as talker:
        given = {**small_settings, "MODELSERVER_ASSISTANT_URL": talker.url}
        with start_server(tmp_path_factory.mktemp("safari"), **given) as running:
            running.wait_whole()
            yield running


@pytest.fixture(scope="module")
def url(server: RunningServer) -> str:
    return server.url.replace("127.0.0.1", "localhost")


def test_speech_is_asked_and_answered_without_what_safari_lacks(
    driver: Browsers, url: str, clips: list[bytes]
) -> None:
    with driver.launch(clips[2], ALLOWED) as launched:
        context = launched.new_context(locale="en-US")
        context.add_init_script(SAFARI_15_4)
        visited = visit(context, url)
        page = visited.page
        page.wait_for_selector("html[data-ready]")
        page.get_by_role("button", name="Speak").click()
        expect(page.locator(".turn.user .text")).to_have_text(KOREAN, timeout=20_000)
        answers = page.locator(".turn.assistant:not(.open) .text")
        expect(answers).to_have_text(["Hello, you asked."])
        page.get_by_role("button", name="Stop").click()
        page.locator("#text").fill("in writing")
        page.locator("#text").press("Enter")
        expect(answers).to_have_count(2)
        visited.must_be_well()


@pytest.mark.parametrize(
    ("locale", "speak", "words"),
    [("en-US", "Speak", "This browser is too old"), ("zh-CN", "说话", "浏览器版本太旧")],
)
def test_a_browser_without_audio_worklets_is_told_so(
    driver: Browsers, url: str, locale: str, speak: str, words: str
) -> None:
    with driver.launch(b"", ALLOWED) as launched:
        context = launched.new_context(locale=locale)
        context.add_init_script("delete window.AudioWorkletNode; delete window.AudioWorklet;")
        page = visit(context, url).page
        page.wait_for_selector("html[data-ready]")
        page.get_by_role("button", name=speak).click()
        expect(page.locator("#notice")).to_contain_text(words)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_have_no_syntax_that_safari_15_4_lacks(node_packages: Path, name: str) -> None:
    file = WEB / name
    source = subprocess.run(
        ["gunzip", "--stdout", file] if name.endswith(".gz") else ["cat", file],
        capture_output=True,
        check=True,
    ).stdout
    # Newer syntax is rewritten: then the two differ.
    made = [
        subprocess.run(
            ["node_modules/.bin/esbuild", "--loader=js", "--charset=utf8", f"--target={target}"],
            cwd=node_packages,
            input=source,
            capture_output=True,
            check=True,
        ).stdout.decode()
        for target in ("esnext", "safari15.4")
    ]
    assert made[0] == made[1]


def test_styles_have_no_colours_that_safari_15_4_lacks() -> None:
    for file in WEB.glob("*.css"):
        assert not re.search(r"light-dark\(|color-mix\(|oklch\(|@layer|&", file.read_text()), file


RECORD = """async (type) => {
  const socket = new WebSocket(`${location.origin.replace("http", "ws")}/api/audio/stream`);
  window.messages = [];
  socket.onmessage = ({data}) => messages.push(JSON.parse(data));
  await new Promise((resolve) => { socket.onopen = resolve; });
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  const recorder = new MediaRecorder(stream, {mimeType: type});
  recorder.ondataavailable = ({data}) => socket.send(data);
  recorder.onstop = () => socket.send(JSON.stringify({type: "close"}));
  recorder.start(250);
  window.recorder = recorder;
}"""


def messages(page: Page, kind: str) -> list[dict[str, str]]:
    found = json.loads(page.evaluate("JSON.stringify(messages)"))
    assert not [one for one in found if one["type"] == "error"], found
    return [one for one in found if one["type"] == kind]


def test_a_recorder_that_makes_mp4_is_understood(
    driver: Browsers, url: str, clips: list[bytes]
) -> None:
    """Debian's Chromium has no AAC: of that see `tests/live/test_stream_clients.py`."""
    with driver.launch(clips[2], ALLOWED) as launched:
        page = visit(launched.new_context(), url).page
        page.evaluate(RECORD, "audio/mp4;codecs=opus")
        until(lambda: KOREAN.search("".join(one["text"] for one in messages(page, "partial"))), 20)
        page.evaluate("recorder.stop()")
        until(lambda: messages(page, "end"), 20)
        assert KOREAN.search("".join(one["text"] for one in messages(page, "final")))
