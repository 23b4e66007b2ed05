"""A real browser, with a microphone that plays a file."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from language_model import language_model
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright
from running import RunningServer, start_server
from wavs import wav_file

FLAGS = (
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)


class Browsers:
    """Starts browsers; only one driver can exist at a time."""

    def __init__(self, playwright: Playwright, directory: Path) -> None:
        self._playwright, self._directory = playwright, directory
        self._launched = 0

    @contextlib.contextmanager
    def launch(self, heard: bytes = b"", *flags: str) -> Iterator[Browser]:
        """Launch a browser. Its microphone plays these samples (16 kHz) once, when it is opened,
        and then silence."""
        found = shutil.which("chromium-headless-shell") or shutil.which("chromium")
        assert found, "chromium-headless-shell is not installed (scripts/system-packages test)"
        self._launched += 1
        file = self._directory / f"microphone-{self._launched}.wav"
        file.write_bytes(wav_file(heard + bytes(32_000 * 30)))
        launched = self._playwright.chromium.launch(
            executable_path=found,
            args=[*FLAGS, f"--use-file-for-fake-audio-capture={file}%noloop", *flags],
        )
        try:
            yield launched
        finally:
            launched.close()


ADMIN_TOKEN = "an-admin-token"


@contextlib.contextmanager
def pages_server(
    directory: Path, admin_port: int, settings: dict[str, str]
) -> Iterator[RunningServer]:
    """Start a server with a language model, whose admin pages listen on `admin_port`."""
    with language_model() as talker:
        given = settings | {
            "MODELSERVER_ASSISTANT_URL": talker.url,
            "MODELSERVER_ADMIN_LISTEN": f"127.0.0.1:{admin_port}",
            "admin_token": ADMIN_TOKEN,
        }
        with start_server(directory, **given) as running:
            running.wait_whole()
            yield running


@contextlib.contextmanager
def browsers(directory: Path) -> Iterator[Browsers]:
    """Give browsers. `directory`: for the files that their microphones play."""
    with sync_playwright() as playwright:
        yield Browsers(playwright, directory)


class Visit:
    """Page, and its faults: messages on the console, and requests to other sites."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self._host = urlsplit(url).netloc
        page.on("console", lambda m: m.type in ("error", "warning") and self._complains(m.text))
        page.on("pageerror", lambda error: self._complains(str(error)))
        page.on("request", lambda request: self._asks(request.url))
        page.on("websocket", lambda socket: self._asks(socket.url))
        page.goto(url)

    def _complains(self, text: str) -> None:
        self.complaints.append(text)

    def _asks(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and parts.netloc != self._host:
            self.elsewhere.append(url)

    def must_be_well(self) -> None:
        """Check that nothing was on the console, and that nothing was requested from other
        sites."""
        assert not self.complaints
        assert not self.elsewhere


def visit(context: Browser | BrowserContext, url: str, **given: Any) -> Visit:
    """Open it in a page of its own."""
    return Visit(context.new_page(**given), url)


def close_pages(browser: Browser) -> None:
    """Close the pages of a test, which would keep listening, requesting and drawing."""
    for context in browser.contexts:
        context.close()


def violations(page: Page, node_packages: Path) -> list[str]:
    """Return serious violations that axe-core finds."""
    page.evaluate((node_packages / "node_modules/axe-core/axe.min.js").read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {json.dumps([node['target'] for node in one['nodes']])}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
