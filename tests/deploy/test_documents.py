"""Every command with its output in README.md and docs/ is run, and says what is printed there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT
from running import RunningServer, start_server

from models.vosk.prepared import PreparedModel

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
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
    serving: RunningServer, document: str, command: str, said: str
) -> None:
    environment = {
        k: v
        for k, v in os.environ.items()
        if k == "MODELSERVER_CONFIG" or not k.startswith("MODELSERVER_")
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["MODELSERVER_WORKERS_COUNT"] = "2"
    done = subprocess.run(
        command.replace("127.0.0.1:8091", f"127.0.0.1:{serving.port}"),
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
