"""The tables of the API pages: what is missing or left over is reported."""

import runpy
from pathlib import Path

import pytest
from places import ROOT

from modelserver.http.errors import STATUS
from modelserver.request.parameters import NAMES, STREAM_NAMES

pytestmark = pytest.mark.quick


def reference(root: Path) -> str:
    """Return what `scripts/reference` ends with; nothing if all is well."""
    try:
        runpy.run_path(str(ROOT / "scripts/reference"))["main"](["--root", str(root)])
    except SystemExit as ended:
        return str(ended.code)
    return ""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with an API page and the meanings of its errors."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/log-events.toml").write_text("")
    (tmp_path / "docs/api.toml").write_text(
        "".join(f'[errors.{code}]\ncause = "C"\nremedy = "R|"\n' for code in STATUS)
    )
    block(tmp_path, "all-errors")
    return tmp_path


def block(root: Path, table: str, more: str = "") -> Path:
    page = root / "docs/page.md"
    page.write_text(f"{more}Before.\n<!-- generated: {table} -->\nold\n<!-- end -->\nAfter.\n")
    return page


def test_only_the_blocks_of_a_page_are_written(tree: Path) -> None:
    assert reference(tree) == ""
    text = (tree / "docs/page.md").read_text()
    assert text.startswith("Before.\n<!-- generated: all-errors -->\n\n### 400 Bad Request\n")
    assert text.endswith("\n<!-- end -->\nAfter.\n")
    assert "| `not_audio` | C | R\\| |\n" in text
    assert "old" not in text


@pytest.mark.parametrize(("operation", "names"), [("convert", NAMES), ("stream", STREAM_NAMES)])
def test_every_parameter_has_a_row(tree: Path, operation: str, names: tuple[str, ...]) -> None:
    (tree / "docs/api.toml").write_text("")
    page = block(tree, f"parameters {operation}")
    assert reference(tree) == ""
    rows = [line.split("`")[1] for line in page.read_text().splitlines() if line[:3] == "| `"]
    assert rows == list(names)


def test_a_row_without_a_meaning_is_reported(tree: Path) -> None:
    meanings = (tree / "docs/api.toml").read_text()
    (tree / "docs/api.toml").write_text(meanings.replace("[errors.not_audio]", "[errors.other]"))
    assert reference(tree) == "errors.not_audio.cause has no meaning in docs/api.toml"


def test_a_meaning_without_a_row_is_reported(tree: Path) -> None:
    with (tree / "docs/api.toml").open("a") as meanings:
        meanings.write('[errors.odd]\ncause = "C"\nremedy = "R"\n')
    said = reference(tree)
    assert said == "docs/api.toml: no page has a row for errors.odd.cause, errors.odd.remedy"


def test_an_endpoint_without_a_section_is_reported(tree: Path) -> None:
    block(tree, "endpoints", more="## `GET /test`\n\n")
    assert reference(tree) == "no page has the heading `POST /api/audio/convert`"


def test_an_unknown_kind_of_table_is_reported(tree: Path) -> None:
    block(tree, "nonsense")
    assert reference(tree) == "there are no tables of the kind 'nonsense'"
