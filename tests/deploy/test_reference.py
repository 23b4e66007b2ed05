"""The generated reference pages: settings and log events, as the source has them."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest
from places import ROOT

from modelserver.settings.fields import fields

pytestmark = pytest.mark.quick

_NAME = re.compile(r"`([a-z_]+\.[a-z_]+)(?: [^`]*)?`")
_TERM = re.compile(r"^- \*\*(.+?)\*\*: ", re.MULTILINE)


def reference(*arguments: str) -> str:
    """Return what `scripts/reference` ends with; nothing if all is well."""
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


def test_documents_name_events_that_exist() -> None:
    meanings = tomllib.loads((ROOT / "docs/log-events.toml").read_text())
    known = {f"{noun}.{verb}" for noun, of in meanings.items() for verb in of}
    known |= {field.name for field in fields()}
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
