"""Pages of the server in a real browser, on a desktop and on a phone: nothing on the console,
nothing from other sites, nothing wider than the screen, and each control of `/docs` used once."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import ADMIN_TOKEN, Visit, pages_server, violations, visit
from playwright.sync_api import Browser, Locator, Page, expect
from running import RunningServer, free_port, until

DESK = {"width": 1280, "height": 900}
TELEPHONE = {"width": 360, "height": 740}
SIZES = pytest.mark.parametrize("size", [DESK, TELEPHONE], ids=["desk", "telephone"])
TONGUES = pytest.mark.parametrize("tongue", ["en-US", "zh-CN"])

REASONS = {
    "the model cannot be loaded: a/b is not a model: HCLG.fst of the original is damaged": (
        "无法加载模型：a/b 不是模型：原模型的 HCLG.fst 已损坏"
    ),
    "zh cannot be downloaded:\n- https://a/ has no model: the server answered 404 Gone": (
        "无法下载 zh：\n- https://a/ 上没有模型：服务器返回 404 Gone"
    ),
    "a has a wrong checksum: its md5 is 1, but the catalogue has 2; its first download was "
    "recorded there: if its publisher has replaced it, accept the new one with "
    "`modelserver models pull --repin`": (
        "a 的校验和不对：它的 md5 是 1，而目录表中是 2；首次下载时记录在那里："
        "如果发布者更换了文件，请用 `modelserver models pull --repin` 接受新文件"
    ),
    "a.onnx is there, and tokens.txt is missing; its tokens are in a file of another form; "
    "releases for sherpa-onnx have both: b": (
        "有 a.onnx，缺少 tokens.txt（它的 token 在另一种格式的文件里）；"
        "sherpa-onnx 发布的模型两者都有：b"
    ),
    "the job ended 2 workers and failed: worker process 1 crashed with SIGSEGV; worker process 2 "
    "was killed by SIGKILL while memory was short": (
        "此请求使 2 个工作进程结束，已失败：工作进程（进程 1）因 SIGSEGV 崩溃；"
        "工作进程（进程 2）内存不足时被 SIGKILL 杀死"
    ),
    "HCLG.fst of the original cannot be read: Permission denied": (
        "无法读取原模型的 HCLG.fst：没有权限"
    ),
    "https://a/{repository}: the catalogue has no repository of b": (
        "https://a/{repository}：目录表里没有 b 的仓库"
    ),
    "no 'punct-zh-en' is in /m; `modelserver models pull punct-zh-en` would fetch it": (
        "/m 里没有 'punct-zh-en'，可用 `modelserver models pull punct-zh-en` 下载"
    ),
}
"""Sentences of several parts, and their translations."""


@pytest.fixture(scope="module")
def admin_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str], admin_port: int
) -> Iterator[RunningServer]:
    with pages_server(tmp_path_factory.mktemp("pages"), admin_port, small_settings) as running:
        yield running


def opened(launched: Browser, url: str, size: dict[str, int], tongue: str = "en-US") -> Visit:
    context = launched.new_context(locale=tongue, viewport=size)  # type: ignore[arg-type]
    return visit(context, url)


def must_fit(page: Page) -> None:
    """Check that nothing is cut off at the side: wider content scrolls in a box of its own."""
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]


def must_be_chinese(place: Locator) -> None:
    """No sentence in English is left; names, values and commands stay as they are."""
    text = place.evaluate(
        """node => { const copy = node.cloneNode(true);
        copy.querySelectorAll("code, [hidden]").forEach((one) => one.remove());
        return copy.innerText; }"""
    )
    assert re.findall(r"[a-z]+ [a-z]+ [a-z]+[^\n]*", re.sub("`[^`]*`", "", text)) == []


def picture(page: Page, name: str) -> None:
    """Save a picture in the directory $PICTURES, if it is set."""
    if directory := os.environ.get("PICTURES"):
        page.screenshot(path=Path(directory) / f"{name}.png")


def test_there_is_a_font_for_what_is_recognised() -> None:
    for letter in "语말あ":
        found = subprocess.run(
            ["fc-list", f":charset={ord(letter):x}"], capture_output=True, text=True, check=True
        )
        assert found.stdout, f"no font has {letter}: scripts/system-packages test"


def operation(page: Page, name: str) -> Locator:
    """Return an operation of the API's page, opened."""
    block = page.locator(f"#operations-default-{name}")
    if "is-open" not in (block.get_attribute("class") or ""):
        block.locator(".opblock-summary-control").click()
    return block


@SIZES
def test_the_page_of_the_api_shows_and_tries_every_operation(
    server: RunningServer,
    launched: Browser,
    size: dict[str, int],
    wav_clips: list[bytes],
    node_packages: Path,
) -> None:
    visited = opened(launched, f"{server.url}/docs", size)
    page = visited.page
    expect(page.locator(".opblock").first).to_be_visible()
    documented = server.ask("/openapi.json").json
    count = sum(len(one) for part in ("paths", "webhooks") for one in documented[part].values())
    expect(page.locator(".opblock")).to_have_count(count)
    must_fit(page)
    picture(page, f"docs-{size['width']}")

    block = operation(page, "alive")
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tbody .response-col_status").first
    expect(answer).to_have_text("200")

    block = operation(page, "convert")
    block.locator("select[aria-label='Request content type']").select_option("multipart/form-data")
    file = {"name": "spoken.wav", "mimeType": "audio/wav", "buffer": wav_clips[0]}
    block.locator("input[type=file]").set_input_files(file)  # type: ignore[arg-type]
    block.get_by_role("button", name="Execute").click()
    text = server.convert(wav_clips[0]).json["text"]
    expect(block.locator(".live-responses-table")).to_contain_text(text, timeout=20_000)
    must_fit(page)
    picture(page, f"docs-tried-{size['width']}")

    page.get_by_role("button", name="Authorize").click()
    dialog = page.locator(".modal-ux")
    dialog.get_by_role("textbox").fill("a-key")
    dialog.get_by_role("button", name="Apply credentials").click()
    dialog.get_by_role("button", name="Close").click()
    with page.expect_request("**/v1/models") as asked:
        operation(page, "listModels").get_by_role("button", name="Execute").click()
    assert asked.value.headers["authorization"] == "Bearer a-key"
    visited.must_be_well()


def test_the_viewer_is_sent_to_clients_without_gzip_too(server: RunningServer) -> None:
    plain = server.ask("/docs/swagger-ui.js", Accept_Encoding="identity")
    assert plain.status == 200
    assert "Content-Encoding" not in plain.headers
    assert b"SwaggerUIBundle" in plain.body


@SIZES
@TONGUES
def test_the_voice_page_fits_and_answers(
    server: RunningServer,
    launched: Browser,
    size: dict[str, int],
    tongue: str,
    wav_clips: list[bytes],
    node_packages: Path,
) -> None:
    visited = opened(launched, server.url.replace("127.0.0.1", "localhost"), size, tongue)
    page = visited.page
    page.wait_for_selector("html[data-ready]")
    must_fit(page)
    picture(page, f"voice-{tongue}-{size['width']}")
    assert violations(page, node_packages) == []
    page.locator("#open-settings").click()
    picture(page, f"voice-settings-{tongue}-{size['width']}")
    page.locator("#review").check()
    page.locator("#review").uncheck()
    page.locator("#aloud").check()
    page.locator("#aloud").uncheck()
    page.locator("#settings button").click()
    file = {"name": "spoken.wav", "mimeType": "audio/wav", "buffer": wav_clips[2]}
    page.locator("#file").set_input_files(file)  # type: ignore[arg-type]
    expect(page.locator(".turn.assistant:not(.open)")).to_have_count(1, timeout=20_000)
    page.locator("#text").fill("今天天气怎么样？ 오늘 날씨 어때요?")
    page.locator("#send").click()
    expect(page.locator(".turn.assistant:not(.open)")).to_have_count(2, timeout=20_000)
    page.locator("#copy").click()
    with page.expect_download():
        page.locator("#download").click()
    must_fit(page)
    picture(page, f"voice-asked-{tongue}-{size['width']}")
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("#clear").click()
    expect(page.locator(".turn")).to_have_count(0)
    page.locator("#tongue").select_option("en" if tongue == "zh-CN" else "zh")
    must_fit(page)
    visited.must_be_well()


def test_reasons_from_deep_in_models_are_chinese(server: RunningServer, launched: Browser) -> None:
    """Check sentences that are put together."""
    page = opened(launched, server.url, DESK, "zh-CN").page
    for english, chinese in REASONS.items():
        assert chinese == page.evaluate(
            "async (text) => (await import('/voice/translate.js')).inChinese(text)", english
        )


@SIZES
def test_the_page_about_certificates_fits(
    server: RunningServer, launched: Browser, size: dict[str, int], node_packages: Path
) -> None:
    visited = opened(launched, f"{server.url}/voice/https", size)
    must_fit(visited.page)
    picture(visited.page, f"https-{size['width']}")
    assert violations(visited.page, node_packages) == []
    visited.page.get_by_role("link", name="back").click()
    visited.page.wait_for_selector("html[data-ready]")
    visited.must_be_well()


@SIZES
@TONGUES
def test_the_operators_page_fits_in_every_tab(
    server: RunningServer, launched: Browser, size: dict[str, int], tongue: str, admin_port: int
) -> None:
    visited = opened(launched, f"http://127.0.0.1:{admin_port}/admin/", size, tongue)
    page = visited.page
    expect(page.locator("#token")).to_be_visible()
    must_fit(page)
    picture(page, f"admin-login-{tongue}-{size['width']}")
    page.locator("#token").fill(ADMIN_TOKEN)
    page.locator("#login button").click()
    expect(page.locator("#memory-chart svg")).to_be_visible(timeout=10_000)
    for name in ("now", "workers", "queue", "deaths", "models", "settings", "log"):
        page.locator(f"#tab-{name}").click()
        expect(page.locator(f"#{name}")).to_be_visible()
        until(lambda name=name: page.locator(f"#{name} > *").count() > 0)  # type: ignore[misc]
        must_fit(page)
        picture(page, f"admin-{name}-{tongue}-{size['width']}")
        if tongue == "zh-CN" and name != "log":
            must_be_chinese(page.locator("#main"))
    page.locator("#filter").fill("server")
    expect(page.locator("#events li").first).to_contain_text("server")
    if tongue == "zh-CN":
        expect(page.locator("#events")).to_contain_text("信息 server.started 服务已开始监听")
    page.locator("#tongue").select_option("en" if tongue == "zh-CN" else "zh")
    must_fit(page)
    page.locator("#logout").click()
    expect(page.locator("#login")).to_be_visible()
    visited.must_be_well()
