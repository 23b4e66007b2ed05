"""The version is defined in modelserver/__init__.py; files that cannot read it there repeat it."""

import re
import tomllib

import pytest
from places import ROOT

from modelserver import __version__

pytestmark = pytest.mark.quick

REPEATED = {
    "tools/pyproject.toml": r'^version = "(.+)"$',
    "deploy/kubernetes/kustomization.yaml": r"newTag: (.+)",
}


@pytest.mark.parametrize(("file", "pattern"), REPEATED.items())
def test_files_repeat_the_version(file: str, pattern: str) -> None:
    found = re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE)
    assert found == [__version__] * len(found) != [], file


def test_the_packages_have_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "modelserver/__init__.py"
    tools = tomllib.loads((ROOT / "tools/pyproject.toml").read_text())
    assert f"modelserver=={__version__}" in tools["project"]["dependencies"]


def test_the_debian_package_has_the_version() -> None:
    script = (ROOT / "scripts/deb").read_text()
    command = re.search(r"sed -n 's/(.+?)/\\1/p' (\S+?)\)", script)
    assert command
    pattern = command[1].replace(r"\(", "(").replace(r"\)", ")")
    assert re.findall(pattern, (ROOT / command[2]).read_text(), re.MULTILINE) == [__version__]


def test_the_changelog_has_the_version() -> None:
    """A version has a heading of its own, below what is not released yet."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert headings[1].startswith(f"[{__version__}] - ")
