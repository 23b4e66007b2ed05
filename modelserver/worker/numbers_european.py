"""Numbers in six European languages as people write them; text2num finds and computes them.

What it finds is written only if it is certain: one to nine, and words such as mil or hundert by
themselves, stay as they were spoken unless they belong to a number that is written in figures.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from modelserver.worker.numbers_joined import Link, Number, joined, replaced
from modelserver.worker.text_steps import TextStep

_WORD = r"[^\W_]+(?:[-'’][^\W_]+)*"


@dataclass(frozen=True)
class _Language:
    """Patterns of words around numbers."""

    alone: str
    """100 and 1000, which are not written in figures by themselves."""
    percent: str
    percent_sign: str
    joins: str
    """Between two numbers of which both are written, or neither."""
    hour: str
    """Between an hour and its minutes."""
    blocks: str
    """Between two numbers of which neither is written: alternatives, times before an hour."""
    after_none: str
    """After a number that is a part of something in words."""
    sayings: str
    before_none: str = "(?!)"
    months: str = "(?!)"
    """After an ordinal that is a day."""


_LANGUAGES = {
    "de": _Language(
        alone="hundert|tausend",
        percent="prozent",
        percent_sign=" %",
        joins="bis|mal|plus|minus",
        hour="uhr",
        blocks="oder|vor|nach",
        before_none="halb|dreiviertel|viertel(?: vor| nach)?",
        after_none="einhalb|komma|drittel|viertel",
        sayings="tausendundeine nacht|zwölf apostel",
        months="januar|februar|märz|april|mai|juni|juli|august|september|oktober|november|dezember",
    ),
    "fr": _Language(
        alone="cents?|mille",
        percent="pour cent",
        percent_sign=" %",
        joins="à|fois|plus",
        hour="heures?",
        blocks="ou|heures? moins|moins",
        after_none="(?:heures? )?(?:et demie?|et quart|moins)|virgule|demie?s?|tiers|quarts?",
        sayings="mille et une nuits|quatre[ -]cents coups|trente[ -]six chandelles",
        months="janvier|février|mars|avril|mai|juin|juillet|août|septembre|octobre|novembre|décembre",
    ),
    "es": _Language(
        alone="cien|ciento|mil",
        percent="por ciento",
        percent_sign=" %",
        joins="a|por|más",
        hour="horas y",
        blocks="o|u|menos",
        after_none="y medi[ao]|y cuarto|menos cuarto|coma|tercios?|cuartos?|quintos?",
        sayings="mil y una noches",
    ),
    "pt": _Language(
        alone="cem|cento|mil",
        percent="por cento",
        percent_sign="%",
        joins="a|vezes|mais",
        hour="horas e",
        blocks="ou|menos",
        after_none="(?:horas )?e mei[ao]|e um quarto|vírgula|terços?|quartos?",
        sayings="mil e uma noites",
    ),
    "it": _Language(
        alone="cento|mille",
        percent="per cento",
        percent_sign="%",
        joins="a|per|più",
        hour="ore e",
        blocks="o|meno",
        after_none="e mezz[ao]|e un quarto|meno un quarto|virgola|terz[oi]|quart[oi]",
        sayings="mille e una notte",
    ),
    "nl": _Language(
        alone="honderd|duizend",
        percent="procent",
        percent_sign="%",
        joins="tot|keer|plus",
        hour="uur",
        blocks="of|voor|over",
        before_none="half|kwart over|kwart voor",
        after_none="en een half|komma|derde|kwart",
        sayings="duizend[ -]en[ -]één nacht",
    ),
}
_SCALE = re.compile("mill?i(?:on|ard)|milj(?:oen|ard)|milh")
LANGUAGES = frozenset(_LANGUAGES)


@dataclass(frozen=True)
class _Token:
    """A word as text2num takes it (its protocol `Token`)."""

    start: int
    end: int
    word: str
    is_apart: bool
    """True if there is more than a space before it."""

    def text(self) -> str:
        """Return the word."""
        return self.word

    def nt_separated(self, previous: object) -> bool:
        """Return whether the word cannot continue the number before it."""
        return self.is_apart

    def not_a_number_part(self) -> bool:
        """Return whether the word is none of a number."""
        return False


def european(language: str) -> TextStep:
    """Return the step for one of `LANGUAGES`.

    Raises `ImportError` where the library is not installed.
    """
    from text_to_num import find_numbers, text2num

    rules = _LANGUAGES[language]

    def value_of(numeral: str) -> str:
        try:
            return str(text2num(numeral, language)).lstrip("0")
        except ValueError:
            return ""

    def found(text: str) -> Iterator[tuple[int, int, str]]:
        """Find the numbers of a text and their figures."""
        tokens = list(_tokens(text, rules))
        for number in find_numbers(tokens, language, threshold=0.0):
            start, end = tokens[number.start].start, tokens[number.end - 1].end
            figures: str = number.text
            if figures.isdigit() and figures.lstrip("0") != value_of(text[start:end]):
                figures = ""  # in a row of numbers it may take one into the next
            yield start, end, figures

    def step(text: str) -> str:
        lower = text.lower()
        plain = lower if len(lower) == len(text) else text
        numbers = _rows(plain, _numbers(plain, found(plain), rules))
        return replaced(text, joined(numbers, lambda one, other: _link(plain, one, other, rules)))

    return step


def _tokens(text: str, rules: _Language) -> Iterator[_Token]:
    end = 0
    for match in re.finditer(rf"\b{rules.percent}\b|{_WORD}", text):
        is_apart = text[end : match.start()] != " "
        word = "%" if match[0] == rules.percent else match[0]  # cent is also a number
        yield _Token(match.start(), match.end(), word, is_apart)
        end = match.end()


def _numbers(
    text: str, found: Iterable[tuple[int, int, str]], rules: _Language
) -> Iterator[Number]:
    """Yield what text2num has found; figures only where nothing around speaks against them."""
    sayings = re.finditer(rf"\b(?:{rules.sayings})\b", text)
    saying = next(sayings, None)
    for start, stop, figures in found:
        number = Number(start, stop)
        said, before = text[start:stop], text[max(0, start - 24) : start]
        after = text[stop : stop + 32]
        while saying is not None and saying.end() <= start:
            saying = next(sayings, None)
        is_part = (
            (saying is not None and saying.start() < stop)
            or any(c.isdigit() for c in before[-2:] + after[:2])
            or re.search(rf"\b(?:{rules.before_none}) $", before)
            or re.match(rf" (?:{rules.after_none})\b", after)
        )
        if _is_plausible(said, figures, rules) and not is_part:
            small = re.fullmatch(r"\d(?!\d)[^\d,]*", figures) is not None
            alone = re.fullmatch(rules.alone, said) is not None
            day = not figures.isdigit() and re.match(rf" (?:{rules.months})\b", after)
            number.write(figures, certain=bool(day) or not (small or alone))
            if (percent := re.match(rf" {rules.percent}\b", after)) is not None:
                number.end += percent.end()
                number.write(f"{figures}{rules.percent_sign}", certain=True)
        yield number


def _is_plausible(said: str, figures: str, rules: _Language) -> bool:
    """Return whether a number takes in no word of its surroundings."""
    if _SCALE.match(said):
        return False  # eine million
    _, comma, decimals = figures.partition(",")
    spelled = len(decimals) <= 2 * len(said.split(" ")) - 4
    return bool(figures) and (not comma or (spelled and not re.search(rules.alone + "$", said)))


def _rows(text: str, numbers: Iterable[Number]) -> list[Number]:
    """Return the numbers with digits in a row put together, as in telephone numbers."""
    rows = list[list[Number]]()
    for number in numbers:
        last = rows[-1][-1] if rows else number
        whole = (last.written or "0").isdigit() and (number.written or "0").isdigit()
        if whole and text[last.end : number.start] == " ":
            rows[-1].append(number)
        else:
            rows.append([number])
    return [number for row in rows for number in _row(row)]


def _row(row: list[Number]) -> list[Number]:
    figures = [number.written or "" for number in row]
    if len(row) == 1:
        return row
    if not all(figures):
        for number in row:
            number.leave()
        return row
    spelled = all(len(one) == 1 or one.startswith("0") for one in figures)
    digits = "".join(figures)
    if spelled and len(digits) > 2 and digits not in "123456789":
        return [Number(row[0].start, row[-1].end, digits, certain=True)]
    pairs = len(row) > 2 and all(len(one) == 2 for one in figures) and digits[0] == "0"
    for number in row:
        number.certain = pairs
        if not pairs:
            number.leave()
    return row


def _link(text: str, left: Number, right: Number, rules: _Language) -> Link:
    if right.start - left.end > 24:
        return Link.NOTHING
    between = text[left.end : right.start]
    if re.fullmatch(rf" (?:{rules.hour}) ", between):
        return Link.CERTAIN if (right.written or "").isdigit() else Link.NOTHING
    if re.fullmatch(rf" (?:{rules.blocks}) ", between):
        return Link.NOTHING if (left.written or "").endswith("%") else Link.UNCLEAR
    return Link.TOGETHER if re.fullmatch(rf" (?:{rules.joins}) ", between) else Link.NOTHING
