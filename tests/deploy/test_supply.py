"""Supply of the image: its packages are pinned, and are those that the project asks for."""

import tomllib

import pytest
from packaging.requirements import Requirement
from places import ROOT

pytestmark = pytest.mark.quick


def pinned(name: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        requirement, *hashes = line.split("--hash=sha256:")
        if hashes:
            name_, _, version = requirement.strip().partition("==")
            found[name_] = version, len(hashes)
    return found


@pytest.mark.parametrize(
    ("name", "extras"), [("image.txt", ("onnx",)), ("image-ko.txt", ("onnx", "ko"))]
)
def test_all_that_is_asked_for_is_pinned_to_the_hash(name: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"]]
    for extra in extras:
        asked += project["optional-dependencies"][extra]
    versions = pinned(name)
    assert len(versions) > len(asked)
    for text in asked:
        requirement = Requirement(text)
        version, hashes = versions[requirement.name]
        assert requirement.specifier.contains(version), text
        assert hashes
    text = (ROOT / "requirements" / name).read_text()
    assert "index-url" not in text
    assert "://" not in text
