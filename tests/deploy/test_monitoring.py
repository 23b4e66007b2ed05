"""Monitoring files: the metrics' table, the alerts, the dashboard and the compose file, read by a
real Prometheus."""

import contextlib
import json
import re
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT
from prometheus_client.parser import text_string_to_metric_families
from running import RunningServer, ask, free_port, start_server, until
from wavs import wav_file

from models.vosk.prepared import PreparedModel
from modelserver.settings.configuration import read_configuration

PROMETHEUS = ROOT / "deploy" / "prometheus"
TOKEN = "a-token-for-the-tests"
_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) \| (.*) \|$", re.MULTILINE)
_SUFFIXES = ("_bucket", "_sum", "_count")


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory, prepared_embedded: PreparedModel, clips: list[bytes]
) -> Iterator[tuple[RunningServer, str]]:
    """A server that has had work, and its metrics."""
    port = free_port()
    with start_server(
        tmp_path_factory.mktemp("watched"),
        MODELSERVER_ADMIN_LISTEN=f"127.0.0.1:{port}",
        admin_token=TOKEN,
    ) as server:
        server.wait_ready()
        assert server.convert(wav_file(clips[0])).status == 200
        yield server, f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, watched: tuple[RunningServer, str]
) -> Iterator[str]:
    """Prometheus as our configuration has it, but for the target and the token's file."""
    directory = tmp_path_factory.mktemp("prometheus")
    (directory / "token").write_text(TOKEN)
    configuration = (PROMETHEUS / "prometheus.yml").read_text()
    for mine, ours in (
        ("modelserver:8092", watched[1]),
        ("/run/secrets/modelserver-admin-token", str(directory / "token")),
        ("15s", "1s"),
        ("alerts.yml", str(PROMETHEUS / "alerts.yml")),
    ):
        assert mine in configuration
        configuration = configuration.replace(mine, ours)
    (directory / "prometheus.yml").write_text(configuration)
    listen = f"127.0.0.1:{free_port()}"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={listen}",
            ],
            stderr=log,
        )
    url = f"http://{listen}"
    try:
        until(lambda: _answers(f"{url}/-/ready"), 30, "Prometheus is ready")
        until(lambda: _found(url, 'up{job="modelserver"} == 1'), 30, "the server is scraped")
        until(lambda: len(_found(url, "modelserver_uptime_seconds[1m]")[0]["values"]) > 2, 30)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return ask(url).status == 200
    return False


def _found(url: str, query: str) -> list[dict[str, Any]]:
    """Return what Prometheus finds. Fails if it rejects the query."""
    query = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
    document = ask(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}").json
    assert document["status"] == "success", document
    found: list[dict[str, Any]] = document["data"]["result"]
    return found


def _metrics(watched: tuple[RunningServer, str]) -> dict[str, tuple[str, set[str], str]]:
    """Type, labels and help by name."""
    answer = ask(f"http://{watched[1]}/metrics", Authorization=f"Bearer {TOKEN}")
    found = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = (family.type, labels, family.documentation)
    return found


def test_the_table_of_metrics_is_true(watched: tuple[RunningServer, str]) -> None:
    table = {
        name: (kind, set(labels.split(", ")) - {""}, about)
        for name, kind, labels, about in _ROW.findall((ROOT / "docs" / "metrics.md").read_text())
    }
    metrics = {n: m for n, m in _metrics(watched).items() if not n.startswith("process_")}
    pressure = {n for n in table if n.startswith("modelserver_memory_pressure_")}
    assert set(metrics) - pressure == set(table) - pressure
    if Path("/proc/pressure/memory").exists():
        assert pressure <= set(metrics)
    for name, (kind, labels, about) in metrics.items():
        assert (kind, about) == (table[name][0], table[name][2]), name
        # Of one that has not counted yet the labels are not seen.
        assert labels in (table[name][1], set()), name


def test_the_alerts_are_what_promtool_expects() -> None:
    for command in (
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
    ):
        done = subprocess.run(
            ["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    seen = {
        case["alertname"]
        for test in tests
        for case in test.get("alert_rule_test", ())
        if case["exp_alerts"]
    }
    assert {rule["alert"] for rule in rules} == seen


def test_the_runbook_has_every_alert_with_its_severity() -> None:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    rows = re.findall(r"^\| `(Modelserver\w+)` \| (\w+) \|", runbook, re.MULTILINE)
    assert rows == [(rule["alert"], rule["labels"]["severity"]) for rule in rules]


def _queries() -> dict[str, list[str]]:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    return {
        "dashboard": [
            *(t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())),
            *(a["expr"] for a in dashboard["annotations"]["list"]),
        ],
        "alerts": [rule["expr"] for rule in rules],
        "metrics.md": [
            line
            for block in re.findall(
                r"^```\n(.*?)^```", (ROOT / "docs/metrics.md").read_text(), re.DOTALL | re.MULTILINE
            )
            for line in block.splitlines()
            if line and not line.startswith("#")
        ],
    }


@pytest.mark.parametrize("where", ["dashboard", "alerts", "metrics.md"])
def test_every_metric_that_is_asked_for_exists(
    watched: tuple[RunningServer, str], prometheus: str, where: str
) -> None:
    metrics = set(_metrics(watched))
    queries = _queries()[where]
    assert len(queries) >= 4
    for query in queries:
        _found(prometheus, query)  # it is one
        for name in re.findall(r"\b(?:modelserver|process)_\w+", query):
            whole = name
            for suffix in _SUFFIXES:
                if name.removesuffix(suffix) in metrics:
                    whole = name.removesuffix(suffix)
            assert whole in metrics, query


def test_prometheus_reads_what_happened(prometheus: str) -> None:
    ok = _found(prometheus, 'modelserver_requests_total{route="/api/audio/convert",status="200"}')
    assert [one["value"][1] for one in ok] == ["1"]
    assert _found(prometheus, "modelserver_ready == 1")
    assert _found(prometheus, "modelserver_real_time_factor_count == 1")
    assert _found(prometheus, "modelserver_decode_duration_seconds_sum > 0")


def test_panels_do_not_lie_over_each_other() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_the_compose_files_name_what_there_is() -> None:
    alone, watched = (
        yaml.safe_load((ROOT / name).read_text())
        for name in ("compose.yaml", "compose.monitoring.yaml")
    )
    together = [*alone["services"].items(), *watched["services"].items()]
    names, volumes = {name for name, _ in together}, {*alone["volumes"], *watched["volumes"]}
    stages = re.findall(r"(?m)^FROM .* AS (.+)$", (ROOT / "Dockerfile").read_text())
    for _, service in together:
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source[0] == "." else source in volumes
        assert set(service.get("secrets", ())) <= set(watched["secrets"])
        assert set(service.get("depends_on", ())) <= names
    assert list(alone["services"]) == ["modelserver"]
    server = alone["services"]["modelserver"]
    assert (ROOT / server["build"]["context"] / "Dockerfile").is_file()
    assert server["build"]["target"] == "${MODELSERVER_TARGET:-ko}"
    assert {"ko", "server"} <= set(stages)
    assert not server.get("secrets")  # nothing has to be made before it starts
    environment = watched["services"]["modelserver"]["environment"]
    settings = read_configuration(None, environment, {}).settings
    assert settings.admin.listen == "0.0.0.0:8092"
    assert server["stop_grace_period"] == "40s"
    assert settings.drain_s < 40
