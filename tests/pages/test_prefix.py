"""The pages below a path of another site: behind an nginx that strips the prefix, in a browser."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from browser import ADMIN_TOKEN, Browsers, Visit, pages_server, visit
from front import DEPLOY, running_nginx
from playwright.sync_api import Browser, Response, expect
from running import RunningServer, free_port

KOREAN = re.compile("[가-힣]")
INGRESS = "/api/hassio_ingress/rAnDoM-t0ken_/"
"""Path below which Home Assistant shows an add-on."""


@dataclass
class Site:
    """A server, and nginx in front with the shipped example."""

    server: RunningServer
    admin_port: int
    origin: str
    prefix: str

    @property
    def url(self) -> str:
        """URL of the voice page."""
        return self.origin + self.prefix

    def visit(self, launched: Browser, path: str) -> tuple[Visit, list[str]]:
        """Open a page; the list fills with requests that fail."""
        failed: list[str] = []
        context = launched.new_context(locale="en-US")

        def answered(response: Response) -> None:
            if response.status >= 400:
                failed.append(f"{response.status} {response.url}")

        context.on("response", answered)
        return visit(context, self.origin + path), failed


@pytest.fixture(scope="module")
def admin_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str], admin_port: int
) -> Iterator[RunningServer]:
    with pages_server(tmp_path_factory.mktemp("server"), admin_port, small_settings) as running:
        yield running


@pytest.fixture(scope="module", params=["/speech/", INGRESS], ids=["speech", "ingress"])
def site(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    server: RunningServer,
    admin_port: int,
) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("prefix")
    directory.chmod(0o755)
    text = (DEPLOY / "nginx" / "prefix.conf").read_text()
    for shipped, ours in (
        ("127.0.0.1:8091", f"127.0.0.1:{server.port}"),
        ("127.0.0.1:8092", f"127.0.0.1:{admin_port}"),
        ("/speech/", request.param),
    ):
        assert shipped in text
        text = text.replace(shipped, ours)
    with running_nginx(directory, text) as port:
        yield Site(server, admin_port, f"http://localhost:{port}", request.param)


def test_the_voice_page_listens_asks_and_answers(
    site: Site, driver: Browsers, clips: list[bytes], wav_clips: list[bytes]
) -> None:
    with driver.launch(clips[2], "--use-fake-ui-for-media-stream") as launched:
        visited, failed = site.visit(launched, site.prefix)
        page = visited.page
        page.wait_for_selector("html[data-ready]")
        page.get_by_role("button", name="Speak").click()
        expect(page.locator(".turn.user .text")).to_have_text(KOREAN, timeout=20_000)
        expect(page.locator(".turn.assistant:not(.open) .text")).to_have_text("Hello, you asked.")
        page.get_by_role("button", name="Stop").click()
        file = {"name": "a.wav", "mimeType": "audio/wav", "buffer": wav_clips[2]}
        page.locator("#file").set_input_files(file)  # type: ignore[arg-type]
        expect(page.locator(".turn.assistant:not(.open)")).to_have_count(2, timeout=20_000)
        visited.must_be_well()
        page.goto(f"{site.url}voice/https")
        page.get_by_role("link", name="back").click()
        page.wait_for_selector("html[data-ready]")
        assert page.url == site.url
        assert not failed
        visited.must_be_well()


def test_the_page_of_the_api_calls_the_server_below_the_prefix(
    site: Site, launched: Browser
) -> None:
    visited, failed = site.visit(launched, f"{site.prefix}docs")
    page = visited.page
    block = page.locator("#operations-default-alive")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tbody .response-col_status").first
    expect(answer).to_have_text("200")
    expect(block.locator(".request-url pre")).to_have_text(f"{site.url}healthz")
    for name, path in (
        ("openapi.json", "openapi.json"),
        ("asyncapi.json", "asyncapi.json"),
        ("Voice page", ""),
    ):
        link = page.locator("nav").get_by_role("link", name=name)
        assert link.evaluate("link => link.href") == site.url + path
    page.get_by_role("link", name="Voice page").click()
    page.wait_for_selector("html[data-ready]")
    assert not failed
    visited.must_be_well()


def test_the_operators_page_works_in_every_tab(site: Site, launched: Browser) -> None:
    visited, failed = site.visit(launched, "/speech-admin/")
    page = visited.page
    page.locator("#token").fill(ADMIN_TOKEN)
    page.locator("#login button").click()
    expect(page.locator("#memory-chart svg")).to_be_visible(timeout=10_000)
    (cookie,) = page.context.cookies()
    assert cookie["path"] == "/speech-admin"  # type: ignore[typeddict-item]
    for name in ("workers", "queue", "deaths", "models", "settings", "log", "now"):
        page.locator(f"#tab-{name}").click()
        expect(page.locator(f"#{name} > *").first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Memory report").click()
    assert '"version"' in Path(download.value.path()).read_text()
    page.get_by_role("button", name="Reload").click()
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator("#said")).to_have_text("Accepted.")
    page.locator("#logout").click()
    expect(page.locator("#login")).to_be_visible()
    assert page.context.cookies() == []
    assert not failed
    visited.must_be_well()


def test_redirects_stay_below_the_prefix(site: Site, wav_clips: list[bytes]) -> None:
    taken = requests.post(
        f"{site.url}v1/jobs", wav_clips[2], headers={"Content-Type": "audio/wav"}, timeout=20
    )
    assert taken.status_code == 202, taken.text
    location = taken.headers["Location"]
    assert location.endswith(f"{site.prefix}v1/jobs/{taken.json()['id']}")


def test_the_operators_page_is_found_without_its_slash(site: Site, launched: Browser) -> None:
    url = f"http://localhost:{site.admin_port}/admin"
    page = launched.new_page()
    page.goto(url)
    expect(page.locator("#token")).to_be_visible()
    assert page.url == f"{url}/#now"
    page.goto(site.url.rstrip("/"))
    assert page.url == site.url


def test_a_page_may_be_shown_in_a_frame_of_its_own_site_only(site: Site) -> None:
    policy = site.server.ask("/").headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in policy


@pytest.mark.parametrize(
    ("host", "sockets"),
    [
        ("speech.example.lan:8443", " ws://speech.example.lan:* wss://speech.example.lan:*"),
        ("[::1]:8091", " ws://[::1]:* wss://[::1]:*"),
        ("localhost; script-src *", ""),
    ],
)
def test_the_policy_names_the_websockets_of_the_host_alone(
    site: Site, host: str, sockets: str
) -> None:
    policy = site.server.ask("/", Host=host).headers["Content-Security-Policy"]
    assert f"connect-src 'self'{sockets};" in policy
