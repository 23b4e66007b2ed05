"""Tables of text, which fit into a terminal."""

import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest

_GAP = "  "
_INDENT = "    "
_BEFORE_UNIT = re.compile(r"(?<=[\d%]) ")
"""Space behind a number, where a line is not broken."""
_NO_BREAK = "\u00a0"


def terminal_width() -> int | None:
    """Return the columns of the terminal on standard output; None if that is not one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table_lines(
    rows: Sequence[Sequence[str]], width: int | None, less: Collection[str] = ()
) -> Iterator[str]:
    """Yield the lines of a table, whose first row is its head and first column has names.

    If the table is wider than `width`, each name has a line of its own, the columns named in `less`
    are left out, and the cells of the widest columns are wrapped. None: as wide as it is. Control
    characters, which a terminal would obey, are replaced.
    """
    rows = [[_printable(cell) for cell in row] for row in rows]
    columns = [*zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    if width is None or _total(widths) <= width:
        yield from (_line(row, widths) for row in rows)
        return
    names, *others = (column for column in columns if column[0] not in less)
    others = [tuple(_BEFORE_UNIT.sub(_NO_BREAK, cell) for cell in column) for column in others]
    widths = _narrowed(others, width - len(_INDENT))
    for name, *cells in zip(names, *others, strict=True):
        yield name
        wrapped = [textwrap.wrap(cell, w) for cell, w in zip(cells, widths, strict=True)]
        for line in zip_longest(*wrapped, fillvalue=""):
            yield _INDENT + _line(line, widths).replace(_NO_BREAK, " ")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(f"{c:<{w}}" for c, w in zip(cells, widths, strict=True)).rstrip()


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _narrowed(columns: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return widths with which the columns take `width`, or as little as their longest words."""
    widths = [max(map(len, column)) for column in columns]
    least = [max(len(word) for cell in c for word in cell.split(" ")) for c in columns]
    while _total(widths) > width and widths != least:
        widest = max((w, n) for n, w in enumerate(widths) if w > least[n])[1]
        widths[widest] -= 1
    return widths
