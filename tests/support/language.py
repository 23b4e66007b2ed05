"""The mechanical part of the project's rules of language.

`python tests/support/language.py PATH...` prints the findings in these files and folders.
"""

import ast
import bisect
import io
import itertools
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from places import ROOT

Finding = tuple[int, str]
"""Line, and the words at fault."""

SOURCES = (
    *("supervisor", "models", "modelserver", "tools", "benchmarks", "tests"),
    *("docs", "deploy", "scripts", "systemd", ".ci"),
    *("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"),
    *("Makefile", "pyproject.toml", "Dockerfile"),
)
_ENDINGS = frozenset((".py", ".md", ".cc", ".h", ".js", ".html", ".toml", ".cfg", ".conf"))
_NOT_OURS = ("modelserver/web/markdown-it/", "modelserver/web/swagger-ui/")
_GENERATED = ("benchmarks/report/", "models/vosk/native/", "docs/benchmarks/")
_QUOTING = ("tests/support/language.py",)

_NOT_A_BEGINNING = re.compile(
    "(?:it|its|those|these|this|that|they|them|their|he|she|we|what|who|whose|whom|which|how|why"
    "|where|when|while|whether|until|one|ones|of|as|if|in|on|at|by|for|from|to|with|without|under"
    "|there|here|and|but|or|nor|not|so|all|both|each|either|neither|every|everything|everyone"
    "|some|something|nothing|none|whatever|whichever|however|wherever|another|other|called|handed"
    r"|\d\S*|`[^`]*`:)(?=\W|$)",
    re.IGNORECASE,
)
_NOT_A_VERB = re.compile(r"(?:the|an?|its|bytes|seconds|samples|true|false)\b", re.IGNORECASE)
_NOUNS = ("property", "fixture", "contextmanager", "overload")

BANNED = re.compile(
    r"\b(?:nobody(?!:)|somebody|anybody|whoever|everybody|anew|afresh|all the same|as ever"
    r"|as good as"
    r"|from naught|naught|for want of|wherefrom|thereof|of late|hitherto|upon|lest|altogether"
    r"|for ever|in vain|to and fro|whose turn|let go|lets go|makes? way|be over"
    r"|give up(?! to)|gives up(?! to)|given up|gave up|go on|goes on|went on"
    r"|hear|hears|heard(?! BLOB| FROM pieces)"
    r"|(?:tell|tells|told) of|(?:die|dies|died) of|(?:was|were|be|been|is) born|its birth|be had"
    r"|shall|ought"
    r"|(?<!here )(?:is|are|was|were) (?:no(?! longer| more| less)(?= [a-z])|nothing))\b",
    re.IGNORECASE,
)

_PLURAL = re.compile(
    r" (?:[a-z]+ )?(?:workers|requests|streams|jobs|files|connections|questions|machines"
    r"|recordings|processes|languages|attempts)\b"
)
_COUNTED = ("models", "modelserver", "supervisor", "tools")

_FENCE = re.compile(r"\s*(?:```|~~~)")
_NOT_PROSE = re.compile(r"\s*(?:\||#|<|\[!\[|!\[|\[[^\]]+\]:|---|$)")
_NEW_ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+|\s*>")
_SENTENCE_END = re.compile(r"[.!?:;。！？：；][\"'”’`*_)\]）」]*$")
_TWO_SENTENCES = re.compile(
    r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)(?<!\b[A-Z])[.!?][\"'”’)`*_]* +[\"'“‘(`*_\[]*[A-Z]"
    r"|[。！？](?=[^\s”’」）)`*_])"
)


def files(root: Path = ROOT) -> Iterator[Path]:
    """Yield our source files and documents, relative to the checkout."""
    for source in SOURCES:
        path = root / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            name = str(file.relative_to(root))
            ours = not name.startswith((*_NOT_OURS, *_GENERATED)) and name not in _QUOTING
            if ours and file.is_file() and (file.suffix in _ENDINGS or _is_script(file, path)):
                yield file.relative_to(root)


def _is_script(file: Path, source: Path) -> bool:
    """Return whether `file` has no ending: a program, or a file named in `SOURCES`."""
    return not file.suffix and (file == source or source.name in ("scripts", ".ci"))


def findings(file: Path) -> list[Finding]:
    """Return what breaks a rule in `file`, a path relative to the checkout."""
    text = (ROOT / file).read_text()
    python = file.suffix == ".py" or text.startswith("#!/usr/bin/env python3")
    if python:
        # Strings of tests are data, such as requests that have to be refused.
        found = [*docstrings(text), *banned_in_python(text, strings=file.parts[0] != "tests")]
        if file.parts[0] in _COUNTED:
            found += plurals(text)
    else:
        found = [*banned(text)]
    if file.suffix == ".md" and file.name != "CHANGELOG.md":
        found += broken_lines(text)
    return sorted(found)


def plurals(source: str) -> Iterator[Finding]:
    """Yield values that are followed by a plural in an f-string, which is wrong for 1: texts use
    `supervisor.counted`. Constants, which are not 1, may be."""
    for node in ast.walk(ast.parse(source)):
        for value, text in itertools.pairwise(
            node.values if isinstance(node, ast.JoinedStr) else ()
        ):
            if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                name = ast.unparse(value.value)
                found = _PLURAL.match(str(text.value))
                if found and not name.strip("_").isupper() and value.format_spec is None:
                    yield value.lineno, f"“{{{name}}}{found[0]}”: use `counted`"


def banned(text: str, first: int = 1) -> Iterator[Finding]:
    """Yield the banned words of `text`, whose first line is number `first`; a line break between
    two words of one finding does not hide it."""
    lines = (line.strip(" \t#/*") for line in text.split("\n"))
    starts, length = [], 0
    kept = []
    for line in lines:
        starts.append(length)
        kept.append(line)
        length += len(line) + 1
    for match in BANNED.finditer(" ".join(kept)):
        yield first + bisect.bisect_right(starts, match.start()) - 1, f"“{match[0]}”"


def banned_in_python(source: str, *, strings: bool = True) -> Iterator[Finding]:
    """Yield the banned words in the comments and docstrings of a Python file, and in its other
    `strings`."""
    for node in ast.walk(ast.parse(source)) if not strings else ():
        for line, text in _documented(node):
            yield from banned(text, line)
    kinds = (tokenize.COMMENT, tokenize.STRING) if strings else (tokenize.COMMENT,)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in kinds:
            yield from banned(token.string, token.start[0])


def docstrings(source: str) -> Iterator[Finding]:
    """Yield docstrings that do not begin with a verb or a noun, or have fewer than three words."""
    for node in ast.walk(ast.parse(source)):
        for line, text in _documented(node):
            first = text.split(".")[0].split("\n")[0][:60]
            if _NOT_A_BEGINNING.match(text) or (_needs_verb(node) and _NOT_A_VERB.match(text)):
                yield line, f"begins with neither a verb nor a noun: {first}"
            elif len(text.split()) < 3 and not text.startswith(("See `", "Implements `")):
                yield line, f"says too little: {first}"


def _documented(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the lines and texts of docstrings: of a definition, and of attributes inside it."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
        return
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for statement in node.body[:1] if is_function else node.body:
        match statement:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield statement.lineno, text.strip()


def _needs_verb(node: ast.AST) -> bool:
    """Return whether a docstring here describes an action: not for a property, fixture or test."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
    return not node.name.startswith("test_") and not any(noun in decorators for noun in _NOUNS)


def broken_lines(markdown: str) -> Iterator[Finding]:
    """Yield the lines of prose with more than one sentence, or with a part of one."""
    lines = markdown.split("\n")
    fenced = False
    for number, line in enumerate(lines, 1):
        if _FENCE.match(line):
            fenced = not fenced
            continue
        if fenced or _NOT_PROSE.match(line):
            continue
        prose = re.sub(r"`[^`]*`", "`code`", _NEW_ITEM.sub("", line))
        if _TWO_SENTENCES.search(prose):
            yield number, f"more than one sentence on the line: {line.strip()[:60]}"
        following = lines[number] if number < len(lines) else ""
        ends = _NOT_PROSE.match(following) or _NEW_ITEM.match(following) or _FENCE.match(following)
        if not ends and not _SENTENCE_END.search(line.rstrip()):
            yield number, f"a sentence goes over more than one line: {line.strip()[-60:]}"


def main(paths: list[str]) -> int:
    """Print the findings in `paths`; return how many there are."""
    count = 0
    for file in files():
        if not paths or any(Path(path) in (file, *file.parents) for path in paths):
            for line, words in findings(file):
                print(f"{file}:{line}: {words}")
                count += 1
    return count


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
