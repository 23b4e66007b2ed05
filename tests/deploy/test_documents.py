"""Test of the commands in README.md and docs/: each one with output is run, and has to print
that."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import click
import pytest
from places import ONNX_MODEL, ROOT
from running import RunningServer, start_server

from models.vosk.prepared import PreparedModel
from modelserver.access.keyring import hash_of
from modelserver.cli import main as program
from modelserver.live import vosk as vosk_protocol
from modelserver.live import wyoming, wyoming_events
from modelserver.settings.configuration import read_configuration

KEY = "ms-a-key-of-this-test"
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
DOCUMENTS = (*READMES, *sorted((ROOT / "docs").rglob("*.md")))
TRANSLATED = (READMES, (ROOT / "docs/quickstart.md", ROOT / "docs/zh-CN/quickstart.md"))
_BLOCK = re.compile(r"^```console(?: (whisper|keys|serving))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FILE = re.compile(
    r"`((?:benchmarks|deploy|models|modelserver|scripts|supervisor|tests|tools)/[\w./-]+)`"
)
_SCRIPT = re.compile(r"^\| `(\w+\.py)", re.MULTILINE)
_CELL = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)
_CODE_BLOCK = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)


def examples() -> Iterator[tuple[str, str, str]]:
    """Yield the fixture of the server that the block names (by default the embedded model's, for
    READMEs Whisper's), the command and its printed output."""
    for document in DOCUMENTS:
        usual = "whisper" if document in READMES else "serving"
        for marked, block in _BLOCK.findall(document.read_text()):
            server = marked or usual
            for example in block.split("\n$ ") if block.startswith("$ ") else ():
                command, _, output = example.removeprefix("$ ").partition("\n")
                yield pytest.param(server, command, output, id=f"{document.name}: {command}")


EXAMPLES = list(examples())
PROGRAMS = [
    pytest.param(program, id=f"{document.name} {number}")
    for document in DOCUMENTS
    for number, program in enumerate(_PROGRAM.findall(document.read_text()))
    if "127.0.0.1:8091" in program
]
"""Programs that can be copied from the documents."""


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


@pytest.fixture(scope="module")
def keys(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str]
) -> Iterator[RunningServer]:
    """A server that accepts the API key `KEY`."""
    home = tmp_path_factory.mktemp("keys")
    file = home / "keys"
    file.write_text(f"alice sha256:{hash_of(KEY)}\n")
    small_settings = small_settings | {"MODELSERVER_AUTH_KEYS_FILE": str(file)}
    with start_server(home, **small_settings) as server:
        server.wait_ready()
        yield server


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 40
    assert len(PROGRAMS) >= 6


@pytest.mark.parametrize(("server", "command", "said"), EXAMPLES)
def test_what_is_said_is_what_is_printed(
    request: pytest.FixtureRequest, server: str, command: str, said: str
) -> None:
    running: RunningServer = request.getfixturevalue(server)
    environment = {
        k: v
        for k, v in os.environ.items()
        if k == "MODELSERVER_CONFIG" or not k.startswith("MODELSERVER_")
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["MODELSERVER_WORKERS_COUNT"] = "2"
    environment["KEY"] = KEY
    environment["MODELSERVER_ADMIN_LISTEN"] = f"unix:{running.admin}"
    environment["MODELSERVER_PORT"] = str(running.port)
    command = command.replace("/run/modelserver/admin.sock", str(running.admin))
    done = subprocess.run(
        command.replace("127.0.0.1:8091", f"127.0.0.1:{running.port}"),
        shell=True,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    printed, wanted = done.stdout.rstrip("\n"), said.rstrip("\n")
    assert re.fullmatch(pattern(wanted), printed, re.DOTALL), (
        f"{shlex.quote(command)} printed\n{printed}\n{done.stderr}"
    )


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the documents' programs open."""
    directory = tmp_path_factory.mktemp("recordings")
    clip = ROOT / "models/clips/ko-3.opus"
    shutil.copy(clip, directory / "recording.mp3")
    with av.open(str(clip)) as container, (directory / "speech.raw").open("wb") as raw:
        resampler = av.AudioResampler("s16", "mono", 24_000)
        for frame in (*container.decode(audio=0), None):
            for piece in resampler.resample(frame):
                raw.write(bytes(piece.planes[0])[: 2 * piece.samples])
    return directory


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_prints_the_transcript(
    serving: RunningServer, recordings: Path, program: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program.replace("127.0.0.1:8091", f"127.0.0.1:{serving.port}")],
        cwd=recordings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "더라고요" in done.stdout


def pattern(said: str) -> str:
    """`...` stands for anything; so do an id, a size and a path of this machine."""
    text = re.escape(said)
    text = text.replace(re.escape("..."), ".*")
    text = re.sub(r'"request_id":"[0-9a-f]{32}"', '"request_id":"[0-9a-f]{32}"', text)
    text = re.sub(r"/opt/modelserver\S*", r"\\S+", text)
    return re.sub(r"[0-9]+(\\\.[0-9]+)?\\ (MB|GB)", r"[0-9.]+\\ (MB|GB)", text)


@pytest.mark.parametrize(("english", "chinese"), TRANSLATED)
def test_a_translation_has_the_same_commands(english: Path, chinese: Path) -> None:
    """Compare all but comments, and settings of mirrors in its own country."""

    def commands(document: Path) -> list[str]:
        found: list[str] = re.findall(
            r"^```[\w ]*\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL
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


def test_the_tables_of_other_protocols_have_the_options_and_limits_of_the_source() -> None:
    vosk, home = ((ROOT / "docs" / name).read_text() for name in ("vosk.md", "wyoming.md"))
    members = _CELL.findall(vosk.partition("### Members of `config`")[2].partition("###")[0])
    assert set(members) == set(vosk_protocol._Config.__struct_fields__)
    assert f"| `sample_rate` | {vosk_protocol._LEAST_RATE} to {vosk_protocol._MOST_RATE} |" in vosk
    assert f"| payload of an event | {size(wyoming_events._MOST_PAYLOAD_BYTES)} |" in home
    assert f"| data of an event | {size(wyoming_events._MOST_DATA_BYTES)} |" in home
    assert f"| connections | {wyoming._MOST_CONNECTIONS} |" in home


def size(count: int) -> str:
    """Return a size as the documents write it."""
    return f"{count // 2**20} MiB" if count >= 2**20 else f"{count // 2**10} KiB"


def test_every_link_leads_somewhere() -> None:
    anchors = {document.resolve(): set(anchors_of(document)) for document in DOCUMENTS}
    for document in DOCUMENTS:
        for text, link in re.findall(r"\[([^]]*)\]\(([^)\s]+)\)", document.read_text()):
            target, _, anchor = link.partition("#")
            if re.fullmatch(r"[\w./-]+\.md", text):
                assert Path(text).name == Path(target).name, f"{document.name}: [{text}]({link})"
            if target.startswith(("http:", "https:")):
                continue
            page = (document.parent / target if target else document).resolve()
            assert page.exists(), f"{document.name}: {link}"
            assert not anchor or anchor in anchors[page], f"{document.name}: {link}"


def test_every_file_that_a_document_names_is_there() -> None:
    named = {ROOT / name for page in DOCUMENTS for name in _FILE.findall(page.read_text())}
    scripts = _SCRIPT.findall((ROOT / "benchmarks/README.md").read_text())
    named |= {ROOT / "benchmarks" / script for script in scripts}
    assert len(named) >= 20
    assert [path for path in named if not path.exists()] == []


def anchors_of(document: Path) -> Iterator[str]:
    """Yield the anchors of a document: as GitHub makes them of its headings, and its own."""
    text = _CODE_BLOCK.sub("", document.read_text())
    seen: dict[str, int] = {}
    for heading in _HEADING.findall(text):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "]", heading).lower())
        anchor = words.strip().replace(" ", "-")
        seen[anchor] = seen.get(anchor, -1) + 1
        yield f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor
    yield from re.findall(r'<a id="([^"]+)">', text)


def commands_named(document: Path) -> Iterator[list[str]]:
    """Return the arguments of every `modelserver` command in code of a document."""
    text = document.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```(?:sh|console)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`((?:sudo )?modelserver [^`\n]+)`", text)
    for line in lines:
        found = re.match(
            r"(?:\$ )?(?:sudo )?(?:-u \S+ )?(?:\S*/)?modelserver ([a-zA-Z-][^#|>]*)", line
        )
        if found is not None:
            yield found[1].split()


def test_every_command_of_the_documents_exists() -> None:
    wrong, seen = [], 0
    for document in DOCUMENTS:
        for arguments in commands_named(document):
            seen += 1
            if problem := problem_of(arguments):
                wrong.append(f"{document.name}: modelserver {' '.join(arguments)}: {problem}")
    assert wrong == []
    assert seen > 100


def problem_of(arguments: list[str]) -> str:
    """Return the options that the command line would reject; empty if all is well."""
    command: click.Command = program
    context = click.Context(program)
    while isinstance(command, click.Group):
        name = arguments[0] if arguments else ""
        if not name or name.startswith("-") or name == "COMMAND":
            return ""
        if (inner := command.get_command(context, name)) is None:
            return f"no command {name!r}"
        command, arguments = inner, arguments[1:]
    known = {name for parameter in command.get_params(context) for name in parameter.opts}
    for argument in arguments:
        option = argument.partition("=")[0].rstrip(".,")
        if option.startswith("-") and option != "-" and option not in known:
            return f"no option {option}"
    return ""


def test_a_command_that_does_not_exist_is_found() -> None:
    assert problem_of(["models", "pull", "zh"]) == problem_of(["COMMAND", "--help"]) == ""
    assert problem_of(["models", "fetch"]) == "no command 'fetch'"
    assert problem_of(["status", "--yaml"]) == "no option --yaml"


def test_the_runbook_quotes_what_the_program_prints() -> None:
    sources = [*(ROOT / "modelserver").rglob("*.py"), *(ROOT / "supervisor").rglob("*.py")]
    program_text = "\n".join(source.read_text() for source in sources)
    rows = re.findall(r"^\| (.*) \|$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    quoted = [part for row in rows for part in re.findall(r'"(?:\.\.\. )?([^"]+)"', row)]
    assert len(quoted) > 5
    assert [part for part in quoted if part not in program_text] == []


def test_every_toml_block_is_a_settings_file(tmp_path: Path) -> None:
    seen = 0
    for document in DOCUMENTS:
        text = document.read_text()
        for block in re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            if "[project." not in block:
                seen += 1
                (tmp_path / "settings.toml").write_text(block)
                read_configuration(tmp_path / "settings.toml", {}, {})
    assert seen >= 5


def test_every_error_code_and_setting_of_the_documents_is_one() -> None:
    from modelserver.http.errors import STATUS
    from modelserver.settings.fields import fields

    errors = (ROOT / "docs/errors.md").read_text()
    for code in STATUS:
        assert f"| `{code}` |" in errors, code
    names = {field.name for field in fields()}
    for document in DOCUMENTS:
        for name in re.findall(r"`(limits\.\w+|memory\.\w+|workers\.\w+)`", document.read_text()):
            assert name in names, f"{document.name}: {name}"
