"""The mechanical part of the rules of language, over all our files.

`python tests/support/language.py PATH...` lists what to change in files and folders.
"""

import pytest
from language import banned_in_python, broken_lines, docstrings, files, findings, plurals

pytestmark = pytest.mark.quick


def test_texts_keep_the_rules_of_language() -> None:
    found = {str(file): findings(file) for file in files()}
    assert len(found) > 700
    broken = [f"{file}:{line}: {words}" for file, there in found.items() for line, words in there]
    assert broken == []


def test_the_rules_find_what_they_are_about() -> None:
    docstring = '"""Modules of a kind."""\n\n\ndef f() -> int:\n    """%s"""\n'
    assert list(docstrings(docstring % "Return a number.")) == []
    for text in ("The number.", "Whether it is one.", "One of them all.", "Return it.", "`n`: a"):
        assert [line for line, _ in docstrings(docstring % text)] == [5], text
    assert list(banned_in_python("a = 1  # there is no such file\nheard = 'no'\n")) == []
    assert [line for line, _ in banned_in_python("a = 1\n# this\n# is no URL\nb = 'heard'\n")] == [
        3,
        4,
    ]
    assert list(plurals('f"{MOST} workers, {n} of them, {n:.1f} files, {counted(n)}"')) == []
    assert [words[:10] for _, words in plurals('f"{n} workers, {m} open jobs"')] == [
        "“{n} worke",
        "“{m} open ",
    ]
    assert list(broken_lines("- One sentence, e.g. `a. B`.\n\n| a. B | c |\n")) == []
    assert [line for line, _ in broken_lines("Two sentences. On a line.\n\nPart of\none.\n")] == [
        1,
        3,
    ]
