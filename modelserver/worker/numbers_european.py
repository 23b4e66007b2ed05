"""Numbers in seven European languages as people write them; text2num finds them in six.

What it finds is written only if it is certain: one to nine, and words such as mil or hundert by
themselves, stay as they were spoken unless they belong to a number that is written in figures.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from modelserver.worker.numbers_european_rules import RULES, Rules
from modelserver.worker.numbers_joined import Link, Number, joined, replaced
from modelserver.worker.numbers_russian import find_russian
from modelserver.worker.text_steps import TextStep

LANGUAGES = frozenset(RULES)
_WORD = r"[^\W_]+(?:-[^\W_]+)*"
_SCALE = "(?:mil(?:l?i(?:on|ard)|l[oó]n|j(?:oen|ard)|h)|bil(?:h|i)|миллион|миллиард)"
_SCALED = re.compile(rf"(\d+,\d+?)0{{6}}(?:0{{3}})?(?= (?P<scale>{_SCALE}[^ ]*)$)")
_WHOLE = re.compile(r"\d+(?:,\d+)?(?: ?%)?")
_SPELLED_DECIMAL = re.compile(r"\d+,\d+(?: (?:\d|0\d+))+(?: ?%)?")
_PLURAL_ORDINAL = re.compile(r"\d+(?:èmes|ᵃˢ|ᵒˢ|-х)")


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


_Find = Callable[[list[_Token]], Iterable[tuple[int, int, str]]]
"""Finds numbers in words: the first one, the one after the last, and figures, empty if unclear."""


def european(language: str) -> TextStep:
    """Return the step for one of `LANGUAGES`.

    Raises `ImportError` where the library is not installed.
    """
    rules = RULES[language]
    find = _find_russian if language == "ru" else _finder(language)

    def step(text: str) -> str:
        lower = text.lower()
        plain = lower.replace("ё", "е") if len(lower) == len(text) else text
        numbers = _rows(plain, _numbers(plain, find, rules), rules)
        return replaced(text, joined(numbers, lambda one, other: _link(plain, one, other, rules)))

    return step


def _finder(language: str) -> _Find:
    from text_to_num import find_numbers, text2num

    def value_of(words: str) -> str:
        try:
            return str(text2num(words, language)).lstrip("0")
        except ValueError:
            return ""

    def find(tokens: list[_Token]) -> Iterator[tuple[int, int, str]]:
        for number in find_numbers(tokens, language, threshold=0.0):
            figures: str = number.text
            words = " ".join(token.word for token in tokens[number.start : number.end])
            if figures.isdigit() and figures.lstrip("0") != value_of(words):
                figures = ""  # in a row of numbers it may take one into the next
            yield number.start, number.end, figures

    return find


def _find_russian(tokens: list[_Token]) -> Iterator[tuple[int, int, str]]:
    return find_russian([token.word for token in tokens], [token.is_apart for token in tokens])


def _tokens(text: str, rules: Rules) -> Iterator[_Token]:
    end = 0
    aliases = [(re.compile(alias), word) for alias, word in rules.aliases.items()]
    for match in re.finditer(rf"\b(?P<percent>{rules.percent})\b|{_WORD}", text):
        is_apart = text[end : match.start()] != " "
        word = "%" if match["percent"] else match[0]  # cent is also a number
        for alias, instead in aliases:
            if (found := alias.match(text, match.start())) and found.end() == match.end():
                word = found.expand(instead)
        yield _Token(match.start(), match.end(), word, is_apart)
        end = match.end()


def _numbers(text: str, find: _Find, rules: Rules) -> Iterator[Number]:
    """Yield the numbers of a text; figures only where nothing around speaks against them."""
    tokens = list(_tokens(text, rules))
    sayings = re.finditer(rf"\b(?:{rules.sayings})\b", text)
    saying = next(sayings, None)
    last: Number | None = None
    for first, behind, figures in find(tokens):
        start, stop = tokens[first].start, tokens[behind - 1].end
        if scaled := _SCALED.match(f"{figures} {tokens[behind - 1].word}"):
            figures, stop = scaled[1], tokens[behind - 2].end  # 3,5 million
        number = Number(start, stop)
        while saying is not None and saying.end() <= start:
            saying = next(sayings, None)
        is_saying = saying is not None and saying.start() < stop
        if figures and not figures.isdigit() and "," not in figures:  # an ordinal
            if last is not None and text[last.end : start] == " ":
                last.leave()  # a fraction
                figures = ""
            elif _PLURAL_ORDINAL.fullmatch(figures):
                figures = figures if figures.endswith("-х") else ""
        if not is_saying:
            _write(number, text, figures, rules)
        yield number
        last = number


def _write(number: Number, text: str, figures: str, rules: Rules) -> None:
    """Set the figures of a number, if what is around it allows."""
    said = text[number.start : number.end]
    before, after = (
        text[max(0, number.start - 24) : number.start],
        text[number.end : number.end + 32],
    )
    if any(c.isdigit() for c in before[-2:] + after[:2]) or not _is_plausible(said, figures, rules):
        return
    if re.search(rf"\b(?:{rules.before_none}) $", before):
        return
    if re.match(rf" (?:{rules.after_none})\b", after):
        return
    is_one = re.fullmatch(rules.one, said) is not None
    small = re.fullmatch(r"\d(?!\d)[^\d,]*", figures) is not None
    alone = re.fullmatch(rules.alone, said) is not None
    day = re.match(rf" (?:{rules.months})\b", after) and not is_one
    if day or re.match(" год(?:а|у|ом|е)?\\b", after):
        figures = figures.split("-")[0] if day or len(figures) > 5 else figures
    is_day = bool(day) and re.match("[0-3]?[0-9](?![0-9])", figures) is not None
    number.write(figures, certain=is_day or not (small or alone))
    if (percent := re.match(rf" (?:{rules.percent})\b", after)) is not None:
        number.end += percent.end()
        number.write(f"{figures}{rules.percent_sign}", certain=True)


def _is_plausible(said: str, figures: str, rules: Rules) -> bool:
    """Return whether a number does not include words of its surroundings."""
    if re.match(_SCALE, said) or re.fullmatch(rf"(?:{rules.one}|mil) {_SCALE}\w*", said):
        return False  # eine million
    _, comma, decimals = figures.partition(",")
    spelled = len(decimals) <= 2 * len(said.split(" ")) - 4
    whole = re.search(f"(?:{rules.alone})$", said) is None
    return bool(figures) and (not comma or (spelled and whole))


def _rows(text: str, numbers: Iterable[Number], rules: Rules) -> list[Number]:
    """Return the numbers with digits in a row put together, as in telephone numbers."""
    rows = list[list[Number]]()
    for number in numbers:
        last = rows[-1][-1] if rows else number
        whole = all(_WHOLE.fullmatch(one.written or "0") for one in (last, number))
        scale = re.match(_SCALE, text[number.start : number.start + 24])
        article = (  # un 12,5 %
            re.fullmatch(rules.one, text[last.start : last.end]) is not None
            and not (number.written or "0").isdigit()
        )
        if whole and not scale and not article and text[last.end : number.start] == " ":
            rows[-1].append(number)
        else:
            rows.append([number])
    return [number for row in rows for number in _row(row, rules)]


def _row(row: list[Number], rules: Rules) -> list[Number]:
    if len(row) == 1:
        return row
    figures = [number.written or "" for number in row]
    digits = "".join(figures)
    if all(figures) and _SPELLED_DECIMAL.fullmatch(" ".join(figures)):
        return [Number(row[0].start, row[-1].end, digits, certain=True)]
    whole = [one for one in figures if one[:1] != "0"]
    counting = digits in "123456789" or (len(digits) < 7 and digits in "9876543210")
    spelled = all(len(one) == 1 for one in whole) and len(digits) > 2 and not counting
    phone = re.fullmatch(rules.phone, digits) and all(len(one) < 4 for one in whole)
    if rules.pairs and phone and all(len(one) % 2 == 0 for one in figures):
        digits = re.sub("(..)(?=.)", r"\1 ", digits)
    elif rules.pairs or not phone:
        phone = None
    if all(figures) and (spelled or phone):
        return [Number(row[0].start, row[-1].end, digits, certain=True)]
    for number in row:
        number.leave()
    return row


def _link(text: str, left: Number, right: Number, rules: Rules) -> Link:
    if right.start - left.end > 24:
        return Link.NOTHING
    before, between = text[max(0, left.start - 24) : left.start], text[left.end : right.start]
    one, other = left.written or "", right.written or ""
    if re.fullmatch(rf" (?:{rules.months})(?: del?)? ", between):
        return Link.CERTAIN if re.fullmatch(r"[12]\d{3}", other) else Link.NOTHING
    left_is_one, is_one = (
        re.fullmatch(rules.one, text[number.start : number.end]) is not None
        for number in (left, right)
    )
    opens, conjunction = rules.between
    if re.search(rf"\b(?:{opens}) $", before) and re.fullmatch(rf" (?:{conjunction}) ", between):
        return Link.TOGETHER
    opens, conjunction = rules.clock
    at_hour = re.search(rf"\b(?:{opens}) $", before) is not None and not left_is_one
    if (at_hour and between == f" {conjunction} ") or re.fullmatch(
        rf" (?:{rules.larger}) ", between
    ):
        if is_one or not other.isdigit() or len(other) > 2:
            return Link.NOTHING
        return Link.CERTAIN if len(other) == 2 else Link.TOGETHER
    if between == f" {conjunction} " and len(one) == 1:
        return Link.UNCLEAR  # cinque e cinquanta
    if re.fullmatch(rf" (?:{rules.blocks}) ", between):
        return Link.NOTHING if one.endswith("%") else Link.UNCLEAR
    if re.fullmatch(rf" (?:(?:{rules.larger}) )?(?:{rules.joins}) ", between):
        in_part = other.endswith("000") and len(other) > 3 and len(one) < 4 and other != "1000"
        if left_is_one or is_one or in_part:
            return Link.UNCLEAR
        return Link.NOTHING if one[-1:] in "ªº" else Link.TOGETHER
    return Link.NOTHING
