"""Russian numerals in all their cases, found in a row of words, with their figures."""

from collections.abc import Iterator, Sequence

_CARDINALS = """
ноль ноля нолю нулем нуля нулю
один одна одно одного одной одному одним одну одном
два две двух двум двумя|три трех трем тремя|четыре четырех четырем четырьмя
пять пяти пятью|шесть шести шестью|семь семи семью|восемь восьми восемью|девять девяти девятью
десять десяти десятью|одиннадцать одиннадцати одиннадцатью|двенадцать двенадцати двенадцатью
тринадцать тринадцати тринадцатью|четырнадцать четырнадцати четырнадцатью
пятнадцать пятнадцати пятнадцатью|шестнадцать шестнадцати шестнадцатью
семнадцать семнадцати семнадцатью|восемнадцать восемнадцати восемнадцатью
девятнадцать девятнадцати девятнадцатью
"""
_TENS = """
двадцать двадцати двадцатью|тридцать тридцати тридцатью|сорок сорока
пятьдесят пятидесяти пятьюдесятью|шестьдесят шестидесяти шестьюдесятью
семьдесят семидесяти семьюдесятью|восемьдесят восьмидесяти восемьюдесятью|девяносто девяноста
"""
_HUNDREDS = """
сто ста|двести двухсот двумстам двумястами двухстах|триста трехсот тремстам тремястами трехстах
четыреста четырехсот четыремстам четырьмястами четырехстах
пятьсот пятисот пятистам пятьюстами пятистах|шестьсот шестисот шестистам шестьюстами шестистах
семьсот семисот семистам семьюстами семистах
восемьсот восьмисот восьмистам восемьюстами восьмистах
девятьсот девятисот девятистам девятьюстами девятистах
"""
_SCALES = {
    "тысяч": (10**3, " а и е у ей ам ами ах"),
    "миллион": (10**6, " а ов у ом ам ами ах е"),
    "миллиард": (10**9, " а ов у ом ам ами ах е"),
}
_ORDINALS = (
    "перв втор трет четверт пят шест седьм восьм девят десят одиннадцат двенадцат тринадцат "
    "четырнадцат пятнадцат шестнадцат семнадцат восемнадцат девятнадцат"
)
_ORDINAL_TENS = "двадцат тридцат сороков пятидесят шестидесят семидесят восьмидесят девяност"
_ORDINAL_ENDINGS = "ый ой ая ое ого ому ым ом ую ые ых ыми"
_THIRD_ENDINGS = "ий ья ье ьего ьему ьим ьем ью ьи ьих ьими ьей"
_PARTS = {"десят": 1, "сот": 2, "тысячн": 3}


def _values(table: str, first: int, step: int) -> dict[str, int]:
    numerals = table.strip().replace("\n", "|").split("|")
    return {form: first + n * step for n, forms in enumerate(numerals) for form in forms.split()}


def _ordinals() -> dict[str, int]:
    stems = dict(zip(_ORDINALS.split(), range(1, 20), strict=True))
    stems |= dict(zip(_ORDINAL_TENS.split(), range(20, 100, 10), strict=True))
    stems |= {"сот": 100, "тысячн": 1000, "двухтысячн": 2000}
    return {
        stem + ending: value
        for stem, value in stems.items()
        for ending in (_THIRD_ENDINGS if stem == "трет" else _ORDINAL_ENDINGS).split()
    }


_CARDINAL = _values(_CARDINALS, 0, 1) | _values(_TENS, 20, 10) | _values(_HUNDREDS, 100, 100)
_SCALE = {
    (stem + ending).strip(): value
    for stem, (value, endings) in _SCALES.items()
    for ending in ["", *endings.split()]
}
_ORDINAL = _ordinals()
_DECIMALS = {
    stem + ending: places for stem, places in _PARTS.items() for ending in ("ая", "ых", "ой")
}


def find_russian(words: Sequence[str], apart: Sequence[bool]) -> Iterator[tuple[int, int, str]]:
    """Yield the numbers of some words: the first word, the word after the last, and figures.

    `apart` says of each word whether it cannot continue a number. Figures of an ordinal have its
    ending: 21-го. Figures are empty if a number is a part of something else, such as a fraction.
    """
    at = 0
    while at < len(words):
        end, value, ordinal = _number(words, apart, at)
        if end == at:
            at += 1
            continue
        figures = f"{value}-{_ending(words[end - 1])}" if ordinal else str(value)
        if not ordinal:
            end, figures = _with_decimals(words, apart, end, figures)
        yield at, end, figures
        at = end


def _number(words: Sequence[str], apart: Sequence[bool], at: int) -> tuple[int, int, bool]:
    """Return the end of the number from there on, its value, and whether it is an ordinal."""
    total = group = 0
    room, scale = 1000, 10**12
    end = at
    while end < len(words) and (end == at or not apart[end]):
        word = words[end]
        if (value := _CARDINAL.get(word)) is not None:
            if value >= room or (10 <= value < 20 and room < 100) or (not value and end > at):
                break
            group += value
            room = 100 if value >= 100 else 10 if value >= 20 else 0
        elif (value := _SCALE.get(word)) is not None:
            if value >= scale or (end > at and words[end - 1] in ("ноль", "нуля")):
                break
            total, group, scale, room = total + (group or 1) * value, 0, value, 1000
        elif (value := _ORDINAL.get(word)) is not None:
            if value >= room and not (value >= 1000 and end == at):
                break
            if 10 <= value < 20 and room < 100:
                break
            return end + 1, total + group + value, True
        else:
            break
        end += 1
    return end, total + group, False


def _with_decimals(
    words: Sequence[str], apart: Sequence[bool], at: int, whole: str
) -> tuple[int, str]:
    """Return the end and the figures of a number with the decimals from there on, if any."""
    if at >= len(words) or apart[at]:
        return at, whole
    start = at + 1
    if words[at] == "запятая":
        zeros = 0
        while start < len(words) and words[start] == "ноль" and not apart[start]:
            start, zeros = start + 1, zeros + 1
        end, value, ordinal = _number(words, apart, start)
        if end == start or apart[start] or ordinal or value > 999:
            return at, whole
        return end, f"{whole},{'0' * zeros}{value}"
    if words[at] in ("целых", "целая"):
        start += words[start : start + 1] == ["и"]
        end = start
        while end < len(words) and end < start + 4 and words[end] not in _DECIMALS:
            end += 1
        places = _DECIMALS.get(words[end]) if end < len(words) else None
        if places is not None and end > start and not any(apart[at : end + 1]):
            last, value, ordinal = _number(words[start:end], apart[start:end], 0)
            if start + last == end and not ordinal and value < 10**places:
                return end + 1, f"{whole},{value:0{places}}"
    return at, whole


def _ending(word: str) -> str:
    """Return what is written behind the figures of an ordinal: 5-й, 5-го."""
    return word[-1] if word[-2] in "аеоуыиюяь" else word[-2:]
