"""Chinese texts of the pages: complete, and in step with the server's English sentences."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

import models
from modelserver.settings.fields import fields, named_fields

pytestmark = pytest.mark.quick

WEB = ROOT / "modelserver/web"
SHOWN = (
    *("modelserver/access/gate.py", "modelserver/access/quota.py"),
    *("modelserver/admin/access.py", "modelserver/admin/actions.py"),
    *("modelserver/api/ask.py", "modelserver/assistant"),
    *("modelserver/audio/errors.py", "modelserver/audio/probe.py"),
    *("modelserver/http/errors.py", "modelserver/http/client_connection.py"),
    *("modelserver/http/middleware.py", "modelserver/jobs/disk_space.py"),
    *("modelserver/jobs/service.py", "modelserver/live/session.py"),
    *("modelserver/request/body.py", "modelserver/request/forms.py"),
    *("modelserver/request/receiving.py", "modelserver/serving"),
    *("modelserver/worker/live_audio.py", "modelserver/worker/reader.py"),
    *("modelserver/settings/configuration.py", "supervisor/deaths", "supervisor/dispatch"),
    *("supervisor/errors.py", "supervisor/guard", "supervisor/pool.py"),
    *("supervisor/process_control.py", "supervisor/processes", "supervisor/spool.py", "models"),
)
"""Modules whose sentences reach the voice page or the admin page."""
NOT_SHOWN = (
    *('Bearer realm="modelserver admin"', "text audio", "Memory cgroup", "glibc (huge pages)"),
    *("a new job", "streams and queue", "what a crash says", "it does not wait"),
    *("spools to disk", "end of fork server {}", "what fork server {} has left"),
    *("it is shutting down", "its slot is taken", "a guard has memory settings of its own"),
    "oo many headers",
    "; audio is sent as the body itself or in a form",
    "it is needed where jobs.webhook_hosts is set",
    "{} may not be read by this user: not used",
    *(
        "modelserver models pull {}",
        "profiles, of one model in memory: {}",
        "{} (beam {}, {} states)",
    ),
    *(
        "engines.vosk.simd = on",
        "left by a build that was killed",
        "Caught exception",
        "Return an empty result",
        "one two 一 二",
    ),
    *("compile-graph 1", "onnx-prepare 1, runtime {}, processor {}"),
    *("bytes of memory before", "bytes after", "ms to load before", "ms after"),
    *("sherpa-onnx is installed", "SIMD library: {}", "SIMD library: off, by the settings"),
    "SIMD library: none for this processor",
    "SIMD library: {}, but there is no compiler ({})",
    *("list[ReusableRecognizer] | None", "rate is {}: expected {} to {}"),
    '{"alternatives" : [{"text": "", "confidence" : 1.0}] }',
)
"""Texts of these modules that are written to the log or a terminal, or are not sentences."""
COMPOSED = (
    *("worker process {} {}", "worker process {} {}: {}"),
    *("fork server process {} {}", "fork server process {} {}: {}"),
    "fork server process {} {} while loading the model",
    *("Permission denied", "No such file or directory", "No space left on device"),
    "Connection refused",
    "the form has no file; it has nothing",
)
"""Sentences that several templates make up, or that the system writes."""
NOT_SHOWN_MODULES = (
    *("serving/sizing.py", "processes/environment.py", "models/extras.py"),
    *("models/prediction.py", "models/recommending.py", "vosk/prediction.py"),
    *("models/leftovers.py", "prepared/leftovers.py", "vosk/leftovers.py"),
    *("fetching/waiting.py", "prepared/carry.py"),
)
"""Modules whose sentences only the command line prints."""


def templates(source: str) -> Iterator[str]:
    """Yield the texts of a module that read like sentences, with {} for values."""
    tree = ast.parse(source)
    skipped = set()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=value):
                skipped.add(value)
            case ast.JoinedStr(values=values):
                for value in values:
                    skipped.add(value)
                    if isinstance(value, ast.FormattedValue) and value.format_spec is not None:
                        skipped |= set(ast.walk(value.format_spec))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log"))):
                skipped |= set(ast.walk(node))
            case ast.Call(func=ast.Name(id="counted"), args=[_, *nouns]):
                skipped |= {*nouns}
                yield from _counts(node)
    for node in ast.walk(tree):
        text = "" if node in skipped else _template(node)
        words = re.findall(r"[A-Za-z]{2,}", text)
        if (
            len(words) >= 2
            and " " in text.strip()
            and "(?:" not in text
            and not text.startswith("\nimport ")
        ):
            yield text


def _counts(node: ast.AST) -> set[str]:
    """Return what a call of `supervisor.counted` can return."""
    match node:
        case ast.Call(
            func=ast.Name(id="counted"), args=[_, ast.Constant(value=str(noun)), *several]
        ):
            plural = _template(several[0]) if several else f"{noun}s"
            return {f"1 {noun}", f"{{}} {plural}"}
    return set()


def _template(node: ast.AST) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_template(value) or "{}" for value in values)
    return ""


def catalogue(name: str) -> dict[str, str]:
    """Return one of the objects of Chinese texts."""
    text = "".join(file.read_text() for file in sorted(WEB.glob("chinese*.js")))
    found = re.search(rf"export const {name} = (\{{.*?\n\}});", text, re.DOTALL)
    assert found
    texts: dict[str, str] = json.loads(found[1])
    return texts


def sentences() -> dict[str, str]:
    return catalogue("CHINESE") | catalogue("MODELS")


def python_files(*places: str) -> Iterator[Path]:
    for place in places:
        path = ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if not str(file).endswith(NOT_SHOWN_MODULES):
                yield file


def test_every_sentence_that_a_page_shows_has_a_translation() -> None:
    known = sentences()
    missing = [
        f"{file.relative_to(ROOT)}: {text!r}"
        for file in python_files(*SHOWN)
        for text in templates(file.read_text())
        if text not in known and text not in NOT_SHOWN
    ]
    assert missing == [], (
        "translate it in web/chinese.js or chinese-models.js, or name it in NOT_SHOWN"
    )


def test_every_translation_is_of_a_sentence_of_the_source() -> None:
    trees = (
        ast.parse(file.read_text()) for file in python_files("modelserver", "supervisor", "models")
    )
    nodes = [node for tree in trees for node in ast.walk(tree)]
    there = {_template(node) for node in nodes}.union(*map(_counts, nodes))
    assert [text for text in sentences() if text not in there | {*COMPOSED}] == []


def test_every_translation_has_the_values_of_its_sentence() -> None:
    for english, chinese in sentences().items():
        used = {int(number) for number in re.findall(r"\{(\d)\}", chinese)}
        assert used == set(range(1, english.count("{}") + 1)), english


def test_every_setting_is_explained_in_chinese() -> None:
    known = catalogue("SETTINGS")
    wanted = {field.name for field in fields()}
    wanted |= {
        field.name.removeprefix("models.NAME.")
        for field in named_fields("NAME")
        if not field.about.startswith("as the setting")
    }
    assert sorted(wanted - known.keys()) == []
    assert sorted(known.keys() - wanted) == []


def test_every_log_event_is_explained_in_chinese() -> None:
    meanings = tomllib.loads((ROOT / "docs/log-events.toml").read_text())
    wanted = {f"{noun}.{verb}" for noun, of in meanings.items() for verb in of}
    assert wanted == catalogue("EVENTS").keys()


def test_every_language_of_the_catalogue_has_a_chinese_name() -> None:
    assert {entry.language for entry in models.catalog()} == catalogue("LANGUAGES").keys()
