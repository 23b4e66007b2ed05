"""The shape of the source, beside the import contracts in pyproject.toml."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

pytestmark = pytest.mark.quick

PACKAGES = ("models", "supervisor", "modelserver", "tools")


def sources() -> Iterator[tuple[Path, ast.Module]]:
    """Yield every Python file that is installed, parsed."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            yield file.relative_to(ROOT), ast.parse(file.read_text())


def test_no_class_is_longer_than_250_lines() -> None:
    classes = {
        f"{file}: {node.name}": node.end_lineno - node.lineno + 1
        for file, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.end_lineno is not None
    }
    assert len(classes) > 300
    assert {name: lines for name, lines in classes.items() if lines > 250} == {}


def test_each_module_says_what_it_holds() -> None:
    assert [str(file) for file, tree in sources() if not ast.get_docstring(tree)] == []
