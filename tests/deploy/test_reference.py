"""The generated reference pages: settings, log events and the last report of the benchmarks."""

import json
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from report import CHINESE, ENGLISH, markdown, proof

from modelserver.settings.fields import fields

pytestmark = pytest.mark.quick

_NAME = re.compile(r"`([a-z_]+\.[a-z_]+)(?: [^`]*)?`")
_ASKED = re.compile(
    r'\b(?:events|event|wait_event|_named)\((?:events, )?((?:"[a-z_]+\.[a-z_]+"(?:,\s*)?)+)'
)
_TERM = re.compile(r"^- \*\*(.+?)\*\*: ", re.MULTILINE)


def reference(*arguments: str) -> str:
    """Return the message with which `scripts/reference` exits; nothing if all is well."""
    try:
        runpy.run_path(str(ROOT / "scripts/reference"))["main"](list(arguments))
    except SystemExit as ended:
        return str(ended.code)
    return ""


def test_the_reference_pages_are_generated_from_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert reference("--check") == ""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one event and its meaning."""
    (tmp_path / "modelserver").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "modelserver" / "server.py").write_text('log.info("server.started", url=url)\n')
    (tmp_path / "docs" / "log-events.toml").write_text('[server]\nstarted = "It listens."\n')
    return tmp_path


def test_each_event_has_its_levels_fields_and_meaning(tree: Path) -> None:
    with (tree / "modelserver" / "server.py").open("a") as file:
        file.write('(log.info if known else log.error)("server.started", reason=why, **more)\n')
    assert reference("--root", str(tree)) == ""
    page = (tree / "docs" / "log-events.md").read_text()
    assert "| `server.started` | info or error | `url`, `reason`, `...` | It listens. |\n" in page


def test_a_page_that_differs_is_named_with_the_command_that_writes_it(tree: Path) -> None:
    assert reference("--root", str(tree)) == ""
    assert reference("--root", str(tree), "--check") == ""
    with (tree / "docs" / "log-events.md").open("a") as page:
        page.write("by hand\n")
    said = reference("--root", str(tree), "--check")
    assert said.startswith("docs/log-events.md: not up to date")
    assert "scripts/reference" in said


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ('log.info("server.moved")', "server.moved (modelserver/more.py:1) has no meaning"),
        ('log.info("it has moved")', "modelserver/more.py:1: the event is not a constant"),
        ("log.info(name)", "modelserver/more.py:1: the event is not a constant"),
        ('log.info("worker.ready")', "modelserver/more.py:1: worker.ready does not end in a past"),
        (
            'log.info("a.done" if a else "a.worth_it")',
            "more.py:1: a.worth_it does not end in a past",
        ),
    ],
)
def test_an_event_that_the_page_could_not_list_is_reported(
    tree: Path, call: str, problem: str
) -> None:
    (tree / "modelserver" / "more.py").write_text(f"{call}\n")
    said = reference("--root", str(tree))
    assert problem in said


def test_a_meaning_without_an_event_is_reported(tree: Path) -> None:
    with (tree / "docs" / "log-events.toml").open("a") as file:
        file.write('stopped = "It ended."\n')
    said = reference("--root", str(tree))
    assert "server.stopped in docs/log-events.toml is logged nowhere" in said


BENCHMARKS: dict[str, Any] = {
    "facts": {"processors": "2"},
    "benchmarks": {
        "throughput": {
            "failed": None,
            "audio_s_per_s": {
                "modelserver": [90.0, 92.0, 80.0],
                "thread pool": [5.0],
                "prefork": [6.0],
            },
        },
        "memory": {
            "failed": None,
            "workers": [1, 4],
            "anonymous_mb": {
                "modelserver": [200.0, 266.4],
                "prefork": [600.0, 2335.0],
                "thread pool": [824.0, 824.0],
            },
        },
        "deaths": {
            "failed": None,
            "deaths": {
                "modelserver": {"lost": {}, "back_s": [0.05, 0.06]},
                "thread pool": {"lost": {"ClientError": 3, "still waiting": 1}, "back_s": [None]},
                "prefork": {"lost": {"ClientError": 5}, "back_s": [2.0]},
            },
        },
        "whisper": {
            "failed": None,
            "audio_s_per_s": {
                "modelserver": [45.0],
                "faster-whisper, threads": [20.0],
                "sherpa-onnx's C++ server": [20.0],
                "sherpa-onnx's Python server": [38.0],
            },
        },
    },
}


def test_the_table_of_a_readme_has_the_figures_of_the_report() -> None:
    assert proof(BENCHMARKS, {"Vosk small": 46.7, "Whisper base": 22.3}, ENGLISH).splitlines() == [
        (
            "| model | server | seconds of audio per second | memory, 4 workers"
            " | requests lost when workers are killed |"
        ),
        "| --- | --- | --- | --- | --- |",
        "| Vosk small | **modelserver** | **90.0** | **266 MB** | **0** |",
        "|  | threads, vosk-server's method | 5.0 | 824 MB | 4, then gone |",
        "|  | a model in each process (prefork) | 6.0 | 2,335 MB | 5 |",
        "| Whisper base | **modelserver** | **45.0** |  |  |",
        "|  | sherpa-onnx's Python server | 38.0 |  |  |",
        "|  | sherpa-onnx's C++ server | 20.0 |  |  |",
        "|  | faster-whisper, threads | 20.0 |  |  |",
        "",
        "Wrong characters in spoken Korean: Vosk small 46.7 %, Whisper base 22.3 %.",
    ]


def test_a_readme_leaves_out_what_was_not_measured() -> None:
    partly = {"whisper": {"failed": "no model"}, "memory": BENCHMARKS["benchmarks"]["memory"]}
    assert proof({"facts": {}, "benchmarks": partly}, {}, CHINESE).splitlines() == [
        "| 模型 | 服务器 | 每秒识别的音频秒数 | 4 个工作进程的内存 | 杀死工作进程时丢失的请求 |",
        "| --- | --- | --- | --- | --- |",
        "| Vosk small | **modelserver** |  | **266 MB** |  |",
        "|  | 多线程（vosk-server 的方式） |  | 824 MB |  |",
        "|  | 每进程一份模型（prefork） |  | 2,335 MB |  |",
    ]


def test_the_report_has_figures_and_no_targets() -> None:
    results = json.loads((ROOT / "docs/benchmarks/results.json").read_text())
    text = markdown(results)
    assert {"throughput", "memory", "deaths"} <= results["benchmarks"].keys()
    assert "not met" not in text
    assert "target" not in text


def test_pages_of_the_report_follow_its_figures(tree: Path) -> None:
    figures = json.loads((ROOT / "docs/benchmarks/results.json").read_text())
    (tree / "docs/benchmarks").mkdir()
    for name in ("README.md", "README.zh-CN.md"):
        (tree / name).write_text("A\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nZ\n")
    figures["benchmarks"]["memory"]["anonymous_mb"]["prefork"][-1] = 4321.0
    (tree / "docs/benchmarks/results.json").write_text(json.dumps(figures))
    assert reference("--root", str(tree)) == ""
    for name in ("README.md", "README.zh-CN.md"):
        written = (tree / name).read_text()
        assert written.startswith("A\n<!-- benchmarks -->\n| ")
        assert written.endswith("\n<!-- /benchmarks -->\nZ\n")
        assert "| 4,321 MB |" in written
        assert "old" not in written
    (tree / "README.md").write_text("no table here\n")
    assert "README.md has no line `<!-- benchmarks -->`" in reference("--root", str(tree))


def known_events() -> set[str]:
    meanings = tomllib.loads((ROOT / "docs/log-events.toml").read_text())
    return {f"{noun}.{verb}" for noun, of in meanings.items() for verb in of}


def test_tests_look_for_events_that_exist() -> None:
    """Check that no test proves the absence of an event that has another name by now."""
    asked = {
        (file.name, name)
        for file in (ROOT / "tests").rglob("*.py")
        for names in _ASKED.findall(file.read_text())
        for name in re.findall(r"[a-z_.]+", names)
    }
    assert len(asked) > 100
    assert sorted((file, name) for file, name in asked if name not in known_events()) == []


def test_documents_name_events_that_exist() -> None:
    meanings = tomllib.loads((ROOT / "docs/log-events.toml").read_text())
    known = known_events() | {field.name for field in fields()}
    documents = {ROOT / "README.md", *(ROOT / "docs").glob("*.md")} - {ROOT / "docs/decisions.md"}
    named = {
        (document.name, name)
        for document in documents
        for name in _NAME.findall(document.read_text())
        if name.partition(".")[0] in meanings and not name.endswith((".py", ".onnx"))
    }
    assert ("runbook.md", "worker.exited") in named
    assert sorted((page, name) for page, name in named if name not in known) == []


def test_the_glossary_is_in_alphabetical_order() -> None:
    terms = [term.lower() for term in _TERM.findall((ROOT / "docs/glossary.md").read_text())]
    assert len(terms) > 30
    assert terms == sorted(set(terms))
