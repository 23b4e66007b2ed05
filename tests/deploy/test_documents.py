"""Every command with its output in README.md and docs/ is run, and says what is printed there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ONNX_MODEL, ROOT
from running import RunningServer, start_server

from models.vosk.prepared import PreparedModel

READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
DOCUMENTS = (*READMES, *sorted((ROOT / "docs").rglob("*.md")))
TRANSLATED = (READMES, (ROOT / "docs/quickstart.md", ROOT / "docs/zh-CN/quickstart.md"))
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples() -> Iterator[tuple[str, str, str]]:
    """Document, command, and what it is said to print."""
    for document in DOCUMENTS:
        for block in _BLOCK.findall(document.read_text()):
            for example in block.split("$ ")[1:] if block.startswith("$ ") else ():
                command, _, output = example.partition("\n")
                yield document.name, command, output


EXAMPLES = list(examples())


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of the model that the READMEs have downloaded."""
    if not ONNX_MODEL:
        pytest.skip("there is no real ONNX model here")
    home = tmp_path_factory.mktemp("readme")
    (home / "models").mkdir()
    (home / "models" / "sherpa-onnx-whisper-base").symlink_to(ONNX_MODEL)
    flags = ("--model=sherpa-onnx-whisper-base", f"--models-dir={home / 'models'}")
    with start_server(home, *flags, MODELSERVER_WORKERS_COUNT="1") as server:
        server.wait_whole(1)
        yield server


@pytest.fixture(scope="module")
def serving(
    tmp_path_factory: pytest.TempPathFactory, prepared_embedded: PreparedModel
) -> Iterator[RunningServer]:
    with start_server(
        tmp_path_factory.mktemp("documents"), MODELSERVER_WORKERS_COUNT="2"
    ) as server:
        server.wait_whole()
        yield server


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 10


@pytest.mark.parametrize(("document", "command", "said"), EXAMPLES)
def test_what_is_said_is_what_is_printed(
    request: pytest.FixtureRequest, document: str, command: str, said: str
) -> None:
    readme = any(document == path.name for path in READMES)
    server: RunningServer = request.getfixturevalue("whisper" if readme else "serving")
    environment = {
        k: v
        for k, v in os.environ.items()
        if k == "MODELSERVER_CONFIG" or not k.startswith("MODELSERVER_")
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["MODELSERVER_WORKERS_COUNT"] = "2"
    done = subprocess.run(
        command.replace("127.0.0.1:8091", f"127.0.0.1:{server.port}"),
        shell=True,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    printed, wanted = done.stdout.rstrip("\n"), said.rstrip("\n")
    assert re.fullmatch(pattern(wanted), printed, re.DOTALL), (
        f"{document}: {shlex.quote(command)} printed\n{printed}\n{done.stderr}"
    )


def pattern(said: str) -> str:
    """`...` stands for anything; so do an id, a size and a path of this machine."""
    text = re.escape(said)
    text = text.replace(re.escape("..."), ".*")
    text = re.sub(r'"request_id":"[0-9a-f]{32}"', '"request_id":"[0-9a-f]{32}"', text)
    text = re.sub(r"/opt/modelserver\S*", r"\\S+", text)
    return re.sub(r"[0-9]+(\\\.[0-9]+)?\\ (MB|GB)", r"[0-9.]+\\ (MB|GB)", text)


@pytest.mark.parametrize(("english", "chinese"), TRANSLATED)
def test_a_translation_has_the_same_commands(english: Path, chinese: Path) -> None:
    """But for comments, and for what sets a mirror of its own country."""

    def commands(document: Path) -> list[str]:
        found: list[str] = re.findall(
            r"^```\w*\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL
        )
        lines = [line for block in found for line in block.splitlines()]
        kept = [line.split("  # ")[0].rstrip() for line in lines if "PIP_INDEX_URL" not in line]
        return [line for line in kept if line]

    assert commands(english) == commands(chinese)
    assert len(commands(english)) >= 5


@pytest.mark.parametrize("readme", READMES)
def test_a_readme_is_one_screen(readme: Path) -> None:
    screen = re.split("^## (?:Read on|接下来)$", readme.read_text(), flags=re.MULTILINE)[0]
    words = [word for word in screen.split() if word.strip("|-")]  # a table's lines are none
    assert len(words) <= 400


def test_every_link_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_error_code_and_setting_of_the_documents_is_one() -> None:
    from modelserver.http.errors import STATUS
    from modelserver.settings.fields import fields

    api = (ROOT / "docs/api.md").read_text()
    for code in STATUS:
        if code not in ("unauthorized", "bad_settings", "not_upgraded"):  # the admin side's
            assert f"`{code}`" in api, code
    names = {field.name for field in fields()}
    for document in DOCUMENTS:
        for name in re.findall(r"`(limits\.\w+|memory\.\w+|workers\.\w+)`", document.read_text()):
            assert name in names, f"{document.name}: {name}"
