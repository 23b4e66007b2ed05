"""The operator's page, in a real browser; and the JSON documents behind it."""

import contextlib
import itertools
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from browser import Browsers, Visit, violations, visit
from cgroup import MB, MemoryCgroup, memory_cgroup
from playwright.sync_api import Browser, Page, expect
from running import RunningServer, free_port, start_server, until
from stopwatch import Stopwatch

import models
from models.vosk.prepared import PreparedModel
from modelserver.web import ADMIN_PAGES

TOKEN = "an-admin-token"


class Admin:
    """The admin side of a server, over TCP."""

    def __init__(self, server: RunningServer, port: int) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{port}"
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {TOKEN}"

    def get(self, path: str) -> Any:
        answer = self.session.get(self.url + path, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, **document: Any) -> requests.Response:
        return self.session.post(self.url + path, json=document or None, timeout=10)


def admin_settings(port: int) -> dict[str, str]:
    return {"MODELSERVER_ADMIN_LISTEN": f"127.0.0.1:{port}", "admin_token": TOKEN}


@pytest.fixture(scope="module")
def admin(
    tmp_path_factory: pytest.TempPathFactory, prepared_embedded: PreparedModel
) -> Iterator[Admin]:
    assert prepared_embedded
    port = free_port()
    with start_server(tmp_path_factory.mktemp("admin"), **admin_settings(port)) as running:
        running.wait_whole()
        found = Admin(running, port)
        yield found
        found.session.close()


def logged_in(launched: Browser, url: str, locale: str = "en-US") -> Visit:
    visited = visit(launched.new_context(locale=locale), f"{url}/admin/")
    page = visited.page
    page.locator("#token").fill(TOKEN)
    page.locator("#token").press("Enter")
    expect(page.locator("#memory-chart svg")).to_be_visible(timeout=10_000)
    return visited


# --- underneath -----------------------------------------------------------------------------------


def test_the_token_gets_a_cookie_that_other_pages_cannot_use(admin: Admin) -> None:
    with requests.Session() as session:
        assert session.get(f"{admin.url}/admin/session", timeout=5).json() == {
            "in": False,
            "token_needed": True,
        }
        wrong = session.post(f"{admin.url}/admin/login", json={"token": "guess"}, timeout=5)
        assert wrong.status_code == 401
        assert not session.cookies
        right = session.post(f"{admin.url}/admin/login", json={"token": TOKEN}, timeout=5)
        assert right.status_code == 200
        cookie = right.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert session.get(f"{admin.url}/admin/health", timeout=5).status_code == 200
        for headers in (
            {"Origin": "http://evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            refused = session.post(f"{admin.url}/admin/drain", headers=headers, timeout=5)
            assert refused.status_code == 401
        assert admin.get("/admin/health")["status"] != "draining"
        ours = {"Origin": admin.url, "Sec-Fetch-Site": "same-origin"}
        level = session.post(
            f"{admin.url}/admin/log/level", json={"level": "info"}, headers=ours, timeout=5
        )
        assert level.status_code == 200
        assert session.post(f"{admin.url}/admin/logout", headers=ours, timeout=5).ok
        assert session.get(f"{admin.url}/admin/health", timeout=5).status_code == 401


def test_history_is_kept_and_bounded(admin: Admin) -> None:
    document = admin.get("/admin/history")
    fields = document["fields"]
    until(lambda: len(admin.get("/admin/history")["short"]) > 8)

    def samples() -> list[dict[str, float]]:
        short = admin.get("/admin/history")["short"]
        return [dict(zip(fields, row, strict=True)) for row in short]

    def complete() -> bool:
        """Return whether the parts make up the whole: a model that was just loaded shrinks."""
        last = samples()[-1]
        parts = last["model"] + last["growth"] + last["supervisor"] + last["spools"]
        whole = parts == pytest.approx(last["used"], rel=0.15)
        return whole and last["limit"] > last["used"] > last["model"] > 100 * MB

    gaps = [b["time"] - a["time"] for a, b in itertools.pairwise(samples())]
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(0.25, abs=0.1)
    until(complete, 5)
    assert samples()[-1]["supervisor"] > 20 * MB
    assert admin.get("/admin/history")["long"]


def test_events_come_each_second(admin: Admin) -> None:
    request = urllib.request.Request(
        f"{admin.url}/admin/events", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    seen: dict[str, Any] = {}
    with urllib.request.urlopen(request, timeout=10) as response:
        watch, nows = Stopwatch(), 0
        while nows < 3:
            line = response.readline().decode().strip()
            if line.startswith("event: "):
                kind = line[7:]
                seen[kind] = json.loads(response.readline().decode()[6:])
                nows += kind == "now"
        assert watch.seconds < 4
    assert seen["now"]["health"]["status"] in ("ok", "degraded")
    assert 2 <= len(seen["now"]["samples"]) <= 8
    assert seen["now"]["health"]["last_deaths"] == []
    assert isinstance(seen["deaths"], list)


def test_the_log_can_be_read_and_its_level_changed(admin: Admin) -> None:
    before = admin.get("/admin/log")
    assert before["level"] == "info"
    assert {"server.started", "model.loaded"} <= {e["event"] for e in before["events"]}
    last = before["events"][-1]["number"]
    assert admin.post("/admin/log/level", level="debug").status_code == 200
    admin.server.ask("/healthz")
    after = admin.get(f"/admin/log?after={last}")
    assert after["level"] == "debug"
    assert all(event["number"] > last for event in after["events"])
    assert "debug" in {event["level"] for event in after["events"]}
    assert admin.post("/admin/log/level", level="info").status_code == 200
    seen = admin.get("/admin/log")["events"][-1]["number"]
    admin.server.ask("/healthz")
    assert not admin.get(f"/admin/log?after={seen}")["events"]
    assert admin.post("/admin/log/level", level="loud").status_code == 400


def test_settings_say_where_they_are_from(admin: Admin) -> None:
    rows = {row["name"]: row for row in admin.get("/admin/settings")}
    assert rows["debug.warmup"]["origin"] == "MODELSERVER_DEBUG_WARMUP"
    assert rows["host"]["origin"] == "default"
    assert TOKEN not in json.dumps(rows)


def test_a_report_says_what_each_process_holds(admin: Admin) -> None:
    answer = admin.session.get(f"{admin.url}/admin/report", timeout=10)
    assert "attachment" in answer.headers["Content-Disposition"]
    report = answer.json()
    assert len(report["processes"]) == 4
    assert all(one["rollup"]["Pss"] > MB for one in report["processes"])
    assert report["health"]["memory"]["used_bytes"] > 100 * MB


def test_models_are_listed_and_what_cannot_be_is_refused(admin: Admin) -> None:
    document = admin.get("/admin/models")
    chosen = [row for row in document["models"] if row["chosen"]]
    assert [row["name"] for row in chosen] == ["vosk-model-small-ko-0.22"]
    assert "vosk-model-cn-0.22" in {row["name"] for row in document["models"]}
    assert "room for" in document["room"]
    for path, document, status in (
        ("/admin/models/pull", {"name": "no-such-model"}, 404),
        ("/admin/models/change", {"name": "no-such-model"}, 404),
        ("/admin/models/other/load", {"x": 1}, 404),
        ("/admin/models/default/unload", {"x": 1}, 422),
    ):
        assert admin.post(path, **document).status_code == status
    assert admin.post("/admin/models/default/prepare").status_code == 202


def test_a_model_is_fetched_and_served_from_the_page(
    tmp_path: Path, embedded: models.ModelLocation, launched: Browser, driver: Browsers
) -> None:
    """Use a mirror that answers with nothing useful: the page reports that."""
    port = free_port()
    given = admin_settings(port) | {
        "MODELSERVER_MODELS_URLS": f"http://127.0.0.1:{free_port()}",
        "MODELSERVER_MODELS_DIR": str(tmp_path / "models"),
        "MODELSERVER_MODEL": str(embedded.directory),
    }
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        page = logged_in(launched, f"http://127.0.0.1:{port}").page
        page.get_by_role("tab", name="Models").click()
        row = page.get_by_role("row").filter(has_text="vosk-model-small-cn-0.22")
        row.get_by_role("button", name="Download").click()
        page.get_by_role("button", name="Confirm").click()
        expect(page.locator("#models")).to_contain_text("was not downloaded", timeout=30_000)
        running.wait_event("admin.pull_requested")


# --- the page -------------------------------------------------------------------------------------


def test_it_says_how_the_server_is(
    admin: Admin, launched: Browser, node_packages: Path, wav_clips: list[bytes]
) -> None:
    visited = visit(launched.new_context(locale="en-US"), f"{admin.url}/admin/")
    page = visited.page
    expect(page.locator("#login")).to_be_visible()
    assert violations(page, node_packages) == []
    visited.must_be_well()
    visited = logged_in(launched, admin.url)
    page = visited.page
    admin.server.convert(wav_clips[0])
    expect(page.locator("#verdict")).to_contain_text("The server works")
    answers = page.locator("#answers li")
    expect(answers).to_have_count(4)
    expect(answers.nth(0)).to_contain_text("2 of 2 workers are ready")
    expect(answers.nth(2)).to_contain_text("half of them within", timeout=5000)
    expect(page.locator("#memory-chart figcaption")).to_contain_text("model")
    assert violations(page, node_packages) == []
    for name, there in (
        ("Workers", "idle"),
        ("Queue and jobs", "Uploads held"),
        ("Deaths", ""),
        ("Models", "vosk-model-small-ko-0.22"),
        ("Settings", "MODELSERVER_DEBUG_WARMUP"),
        ("Log", "model.loaded"),
    ):
        page.get_by_role("tab", name=name).click()
        expect(page.locator("[role=tabpanel]:visible")).to_contain_text(there)
        assert violations(page, node_packages) == [], name
    page.locator("#filter").fill("request.done")
    expect(page.locator("#events li").first).to_contain_text("request.done")
    assert "model.loaded" not in page.locator("#events").inner_text()
    page.locator("#tongue").select_option("zh")
    expect(page.get_by_role("tab", name="日志")).to_be_visible()
    expect(page.locator("#verdict")).to_contain_text("服务正常")
    page.get_by_role("tab", name="日志").press("ArrowRight")
    expect(page.locator("#answers li").first).to_contain_text("服务正常吗")
    page.locator("#logout").click()
    expect(page.locator("#login")).to_be_visible()
    visited.must_be_well()


def test_a_worker_that_is_killed_is_named_within_two_seconds(
    admin: Admin, launched: Browser, wav_clips: list[bytes]
) -> None:
    page = logged_in(launched, admin.url).page
    working = threading.Thread(target=admin.server.convert, args=(wav_clips[1],))
    working.start()
    victim = until(
        lambda: next(
            (w for w in admin.get("/admin/health")["workers"] if w["state"] == "busy"), None
        )
    )
    os.kill(victim["pid"], signal.SIGKILL)
    killed = Stopwatch()
    expect(page.locator("#verdict")).to_contain_text(
        f"worker process {victim['pid']} was killed by SIGKILL"
    )
    assert killed.seconds < 2
    working.join()
    expect(page.locator("#memory-chart line.death").first).to_be_attached()
    page.get_by_role("tab", name="Deaths").click()
    row = page.locator("#deaths tbody tr").first
    expect(row).to_contain_text("killed")
    expect(row).to_contain_text("was retried on another worker")
    row.locator("summary").click()
    expect(row.locator("pre")).to_contain_text("RSS")
    admin.server.wait_whole()


def workers(admin: Admin) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = admin.get("/admin/health")["workers"]
    return found


def confirmed(page: Page) -> None:
    page.get_by_role("button", name="Confirm").click()


def test_what_it_does_is_confirmed_and_logged(admin: Admin, launched: Browser) -> None:
    page = logged_in(launched, admin.url).page
    page.get_by_role("button", name="Drain").click()
    page.get_by_role("button", name="Cancel").click()
    assert admin.get("/admin/health")["status"] != "draining"
    page.get_by_role("button", name="Drain").click()
    confirmed(page)
    expect(page.locator("#verdict")).to_contain_text("accepts no new requests")
    admin.server.wait_event("admin.drain_requested")
    page.get_by_role("button", name="Resume").click()
    confirmed(page)
    expect(page.locator("#verdict")).to_contain_text("The server works")
    before = {w["pid"] for w in workers(admin)}
    page.get_by_role("tab", name="Workers").click()
    page.get_by_role("button", name="Recycle").first.click()
    confirmed(page)
    until(lambda: {w["pid"] for w in workers(admin)} != before)
    admin.server.wait_event("admin.recycle_requested")
    page.get_by_role("tab", name="Log").click()
    page.locator("#level").select_option("debug")
    confirmed(page)
    until(lambda: admin.get("/admin/log")["level"] == "debug")
    admin.post("/admin/log/level", level="info")
    page.get_by_role("tab", name="Now").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Memory report").click()
    assert json.loads(Path(download.value.path()).read_text())["processes"]
    admin.server.wait_whole()


def squeeze(cgroup: MemoryCgroup, used: int) -> None:
    """Set the lowest limit that the kernel accepts: some of its own memory is charged, too."""
    for spare in range(4, 44, 8):
        with contextlib.suppress(AssertionError):
            cgroup.limit(used + spare * MB)
            return
    raise AssertionError(f"no limit near {used} can be set")


def test_a_squeeze_is_seen_as_it_happens(
    tmp_path: Path, prepared_embedded: PreparedModel, launched: Browser
) -> None:
    assert prepared_embedded
    port = free_port()
    with (
        memory_cgroup(700 * MB) as cgroup,
        start_server(tmp_path, before_exec=cgroup.enter, **admin_settings(port)) as running,
    ):
        running.wait_whole()
        page = logged_in(launched, f"http://127.0.0.1:{port}").page
        expect(page.locator("#answers li").nth(3)).to_contain_text("No")
        used = Admin(running, port).get("/admin/health")["memory"]["used_bytes"]
        squeeze(cgroup, used)
        expect(page.locator("#answers li").nth(3)).to_contain_text("Yes", timeout=5000)
        expect(page.locator("#verdict")).to_contain_text("memory is short")
        expect(page.locator("#memory-chart rect[class^=level]").first).to_be_attached()
        cgroup.limit(700 * MB)
        expect(page.locator("#answers li").nth(3)).to_contain_text("No", timeout=10_000)


def test_a_server_that_goes_is_missed_and_found_again(
    tmp_path: Path, launched: Browser, small: models.ModelLocation
) -> None:
    port = free_port()
    given = admin_settings(port) | {"MODELSERVER_MODEL": str(small.directory)}
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with start_server(one, **given) as running:
        running.wait_ready()
        page = logged_in(launched, f"http://127.0.0.1:{port}").page
    expect(page.locator("#lost")).to_contain_text("does not answer", timeout=10_000)
    with start_server(other, **given) as again:
        again.wait_ready()
        # Sessions do not outlive the server: the token is asked for again.
        expect(page.locator("#login")).to_be_visible(timeout=10_000)
        page.locator("#token").fill(TOKEN)
        page.locator("#token").press("Enter")
        expect(page.locator("#verdict")).to_contain_text("The server works", timeout=10_000)
        expect(page.locator("#lost")).to_be_hidden()


def test_it_is_light_and_costs_little(admin: Admin, launched: Browser) -> None:
    answers = [admin.session.get(admin.url + path, timeout=5) for path in ADMIN_PAGES]
    assert sum(len(answer.content) for answer in answers) < 150_000
    assert all("default-src 'none'" in a.headers["Content-Security-Policy"] for a in answers)
    page = logged_in(launched, admin.url).page
    page.reload()
    expect(page.locator("#memory-chart svg")).to_be_visible()
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < 200
    supervisor = psutil.Process(admin.server.pid)
    before, began = sum(supervisor.cpu_times()[:2]), time.monotonic()
    time.sleep(6)
    share = (sum(supervisor.cpu_times()[:2]) - before) / (time.monotonic() - began)
    assert share < 0.03  # with all that the supervisor does anyway; see docs/decisions.md
