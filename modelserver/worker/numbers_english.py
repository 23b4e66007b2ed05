"""Numbers in English as people write them; text2num computes the value of a numeral.

Consecutive number words are written as a whole or stay as a whole. One to nine stay in words, as
in print, unless they belong to a number that is written in figures.
"""

import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modelserver.worker.numbers_english_links import english_link
from modelserver.worker.numbers_joined import Number, joined, replaced
from modelserver.worker.text_steps import TextStep


def _words(text: str) -> list[str]:
    return text.split()


_ONES = _words("zero one two three four five six seven eight nine")
_DIGITS = {word: str(n) for n, word in enumerate(_ONES)} | {"oh": "0", "nought": "0"}
_TEENS = _words("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
_TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
_LARGE = ("million", "billion", "trillion")
_SCALES = ("hundred", "thousand", *_LARGE)
_REPEATED = {"double": 2, "triple": 3, "treble": 3}
_CARDINALS = {*_DIGITS, *_TEENS, *_TENS, *_SCALES}
_ORDINALS = dict(
    zip(
        _words(
            "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
            " thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
            " twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth"
        ),
        [*_ONES[1:], *_TEENS, *_TENS],
        strict=True,
    )
)
_YEARS = ("seventeen", "eighteen", "nineteen")
_ENDINGS = {1: "st", 2: "nd", 3: "rd"}
_CENTURIES = {word: n for n, word in enumerate(_TEENS, 10) if n > 10} | {"twenty": 20}
_LONGEST = 24
"""Words of a whole number; longer ones are none."""
_MONTHS = _words(
    "january february march april may june july august september october november december"
)
_ONE = f"(?:{'|'.join(_ONES[1:])})"
_BELOW_HUNDRED = f"(?:(?:{'|'.join(_TENS)}) (?:{_ONE} )?|(?:{'|'.join(_TEENS)}) |{_ONE} )"
_BELOW_THOUSAND = f"(?:(?:{_ONE} hundred (?:and )?)?{_BELOW_HUNDRED}|{_ONE} hundred )"
_WHOLE = re.compile(
    "".join(f"(?:{_BELOW_THOUSAND}{scale} )?" for scale in (*reversed(_LARGE), "thousand"))
    + f"(?:(?:and )?{_BELOW_THOUSAND})?"
    + f"|{_BELOW_HUNDRED}hundred (?:(?:and )?{_BELOW_HUNDRED})?|zero "
)
"""A well-formed whole number, with a space after each word. text2num accepts more."""

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_SAYINGS = re.compile(
    r"\b(?:forty winks|eleventh hour|ten to one|nineteen to the dozen|a thousand and one|"
    r"ten commandments|twelve apostles|sixty[ -]four thousand dollar question|hang ten|"
    r"catch[ -]twenty[ -]two|a hundred and ten percent|twelfth night|top ten)\b"
)
_AFTER_NONE = re.compile(
    r"[ -](?:and (?:a|one|two|three) (?:half|quarters?|thirds?)|half|halves|quarters?|odd|ish|"
    r"somethings?|score|dozen|thirds|fourths|fifths|sixths|sevenths|eighths|ninths|tenths|"
    r"twentieths|hundredths?|thousandths?|millionths?|hundreds|thousands|millions|billions|"
    r"twenties|thirties|forties|fifties|sixties|seventies|eighties|nineties|past|"
    r"minutes? (?:past|to|before|after))\b"
)
"""Words that make the number before them a part of something that stays in words."""
_BEFORE_NONE = re.compile(
    r"\b(?:(?:half|quarter|minutes|five|ten|twenty) past|quarter (?:to|till|of|after)|score and|"
    r"(?:half|quarters?|thirds?) (?:by|to|or)) $"
)
_HUNDRED = re.compile(r"(?<!half )(?<![^\W_])a $")
_PERCENT = re.compile(r" per ?cent\b(?! ?age)")
_HALF_DAY = re.compile(r" (?:([ap]\.? ?m\b)(?! i\b)|in the (?:morning|afternoon|evening)|at night)")
_BEFORE_HOUR = _words("at by until till from to around about before after")
_BEFORE_YEAR = (
    _words("in since by until till before after during from of year late early")
    + _words("spring summer autumn fall winter")
    + _MONTHS
)
_FROM_YEAR = re.compile(r"\bfrom (?:seven|eigh|nine)teen [a-z]+ to $")
_BEFORE_CODE = _words(
    "room flight highway route number code section page area extension apartment suite gate unit"
    " bus line channel error model form interstate studio"
)
_BEFORE_MAY = _words("on of by until since before after from in this next last")


def english() -> TextStep:
    """Make the step. Raises `ImportError` where the library is not installed."""
    from text_to_num import text2num

    return _English(lambda numeral: int(text2num(numeral, "en"))).written


@dataclass(frozen=True)
class _Word:
    start: int
    end: int
    said: str


@dataclass
class _English:
    value_of: Callable[[str], int]
    """Computes a cardinal number in words. Raises `ValueError` if it is none."""

    def written(self, text: str) -> str:
        """Return the text with its numbers as people write them."""
        lower = text.translate(_LOWER)  # as long as the text
        numbers = list[Number]()
        sayings = _SAYINGS.finditer(lower)
        saying = next(sayings, None)
        for words in _runs(lower):
            while saying is not None and saying.end() <= words[0].start:
                saying = next(sayings, None)
            number = Number(words[0].start, words[-1].end)
            if saying is None or saying.start() >= number.end:
                self._read(lower, number, [word.said for word in words])
            numbers.append(number)
        chosen = joined(numbers, lambda one, other: english_link(lower, one, other))
        for number in chosen:
            if text[number.start : number.end].isupper():
                number.written = (number.written or "").upper()
        return replaced(text, chosen)

    def _read(self, text: str, number: Number, said: list[str]) -> None:
        """Set the figures of a run of number words."""
        before, after = (
            text[max(0, number.start - 32) : number.start],
            text[number.end : number.end + 32],
        )
        if any(c.isdigit() for c in before[-2:] + after[:2]):
            return
        if said[0] in _SCALES:
            if len(said) == 1 or not _HUNDRED.search(before):
                return  # several hundred, half a million
            number.start -= 2
            said = ["one", *said]
        self._parse(number, said, before, after)
        if number.written is not None and (_AFTER_NONE.match(after) or _BEFORE_NONE.search(before)):
            number.leave()
        elif number.written is not None:
            _with_sign(number, before, after)

    def _parse(self, number: Number, said: list[str], before: str, after: str) -> None:
        previous = _last_word(before)
        half_day = _HALF_DAY.match(after)
        if half_day and (time := self._time(said, exact=half_day[1] is not None)) is not None:
            number.write(time, certain=said != ["one"] or previous in _BEFORE_HOUR)
        elif said[-1] in _ORDINALS:
            self._ordinal(number, said, before, after)
        elif "point" in said:
            self._decimal(number, said)
        elif len(said) > 1 and (digits := _digit_by_digit(said)) is not None:
            if len(digits) < 3 or _is_counting(digits):
                return
            clock = len(said) == 3 and said[0] in _ONES and said[1] == "oh"
            if not clock or previous in _BEFORE_CODE:  # three oh five is 305, or five past three
                number.write(digits, certain=True)
        elif (value := self._value(said)) is not None:
            count = self._value(said[:-1]) if said[-1] in _LARGE else None
            short = count is not None and count < 1000
            number.write(f"{count} {said[-1]}" if short else str(value), certain=value > 9)
        elif (year := self._year(said, previous, before)) is not None:
            number.write(year, certain=True)

    def _ordinal(self, number: Number, said: list[str], before: str, after: str) -> None:
        value = self._value([*said[:-1], _ORDINALS[said[-1]]])
        previous = _last_word(before)
        of_month = re.match(rf" of (?:{'|'.join(_MONTHS)})\b", after) is not None
        in_month = previous in _MONTHS
        if previous in ("may", "march") and value is not None and value < 10:
            in_month = _last_word(before[: before.rindex(previous)]) in _BEFORE_MAY
        if value is None or (len(said) > 1 and said[-1] == "second" and not (of_month or in_month)):
            return  # a twenty second delay
        if (of_month or in_month) and value > 31:
            return
        if previous in ("a", "an", "one", "every", "each"):
            return  # a tenth
        if after.startswith(" of ") and not (of_month or previous == "the"):
            return
        ending = "th" if value % 100 in (11, 12, 13) else _ENDINGS.get(value % 10, "th")
        number.write(f"{value}{ending}", certain=value > 9 or of_month or in_month)

    def _decimal(self, number: Number, said: list[str]) -> None:
        parts = " ".join(said).split(" point ")
        scale = parts[-1].split()[-1]
        if scale in _SCALES[1:]:
            parts[-1] = parts[-1][: -len(scale) - 1]
        decimals = [self._decimals(part.split()) for part in parts[1:]]
        first = parts[0].split()
        whole = _digit_by_digit(first)
        if whole is None and (value := self._value(first)) is not None:
            whole = str(value)
        if whole is not None and all(part is not None for part in decimals):
            written = ".".join([whole, *(part or "" for part in decimals)])
            if scale not in _SCALES:
                number.write(written, certain=True)
            elif len(decimals) == 1:
                number.write(f"{written} {scale}", certain=True)

    def _decimals(self, said: list[str]) -> str | None:
        """Return the decimals behind a point: digits, or a number such as eleven."""
        value = self._value(said)
        return str(value) if value is not None and 10 <= value <= 99 else _digit_by_digit(said)

    def _time(self, said: list[str], *, exact: bool) -> str | None:
        """Return a time of the day. `exact`: a.m. or p.m. follows, so an hour is enough."""
        hour = self._value(said[:1])
        if hour is None or not 1 <= hour <= 12:
            return None
        if len(said) == 1:
            return str(hour) if exact else None
        if len(said) == 3 and said[1] == "oh" and said[2] in _ONES[1:]:
            return f"{hour}:0{_DIGITS[said[2]]}"
        minutes = self._value(said[1:])
        return f"{hour}:{minutes}" if minutes is not None and 10 <= minutes <= 59 else None

    def _year(self, said: list[str], previous: str, before: str) -> str | None:
        """Return a year in two halves, such as nineteen eighty four."""
        if said[0] not in _CENTURIES or len(said) < 2:
            return None
        if len(said) == 3 and said[1] == "oh" and said[2] in _ONES[1:]:
            half, certain = f"0{_DIGITS[said[2]]}", said[0] == "nineteen"
        elif (value := self._value(said[1:])) is not None and 10 <= value <= 99:
            # Others are also two numbers, such as a price or eighteen, nineteen, twenty.
            half, certain = str(value), said[0] in _YEARS and value > 20 and previous != "at"
        else:
            return None
        asked = previous in _BEFORE_YEAR or previous in _ORDINALS or _FROM_YEAR.search(before)
        return f"{_CENTURIES[said[0]]}{half}" if certain or asked else None

    def _value(self, said: list[str]) -> int | None:
        """Return the value of a cardinal number, or None."""
        if not said or len(said) > _LONGEST or not _WHOLE.fullmatch(" ".join([*said, ""])):
            return None
        try:
            return self.value_of(" ".join(said))
        except ValueError:  # some with trillions
            return None


def _runs(text: str) -> Iterator[list[_Word]]:
    """Yield the number words that follow one another."""
    run = list[_Word]()
    for match in _WORD.finditer(text):
        said = "point" if match[0] == "dot" else match[0]
        word = _Word(match.start(), match.end(), said)
        gap = text[run[-1].end : word.start] if run else ""
        if run and (gap not in (" ", "-") or not _continues(run, word.said)):
            yield from _trimmed(run)
            run = []
        if run or word.said in _CARDINALS or word.said in _ORDINALS or word.said in _REPEATED:
            run.append(word)
    yield from _trimmed(run)


def _continues(run: list[_Word], said: str) -> bool:
    last = run[-1].said
    if last in _ORDINALS:
        return False
    if said == "and":
        return last in _SCALES
    if last == "and":
        return said in _CARDINALS or said in _ORDINALS
    if last == "point":
        return said in _CARDINALS or said in _REPEATED
    if last in _REPEATED:
        return said in _DIGITS
    return said in _CARDINALS or said in _ORDINALS or said in _REPEATED or said == "point"


def _trimmed(run: list[_Word]) -> Iterator[list[_Word]]:
    """Yield the run without words at its ends that belong to its surroundings."""
    start, end = 0, len(run)
    while end > start and run[end - 1].said in ("and", "point", *_REPEATED):
        end -= 1
    while end - start > 1 and run[start].said == "oh" and run[start + 1].said not in _DIGITS:
        start += 1
    if end > start and [word.said for word in run[start:end]] != ["oh"]:
        yield run[start:end]


def _digit_by_digit(said: list[str]) -> str | None:
    """Return the digits of a number that is spelled, such as oh double five."""
    digits, times = "", 1
    for word in said:
        if word in _REPEATED and times == 1:
            times = _REPEATED[word]
        elif word in _DIGITS:
            digits, times = digits + _DIGITS[word] * times, 1
        else:
            return None
    return digits if digits and times == 1 else None


def _is_counting(digits: str) -> bool:
    """Return whether these digits count up or down."""
    return len(digits) < 6 and (digits in "123456789" or digits in "987654321")


def _last_word(text: str) -> str:
    found = re.search(r"([^\W\d_]+) $", text)
    return found[1] if found else ""


def _with_sign(number: Number, before: str, after: str) -> None:
    """Make a number a percentage or negative, if it is one."""
    if (percent := _PERCENT.match(after)) is not None:
        number.end += percent.end()
        number.write(f"{number.written}%", certain=True)
    if (minus := re.search(r"(?:^|[^\w]|(\w+) )((?:minus|negative) )$", before)) is None:
        return
    subtracted = (
        minus[1] == "or"
        or minus[1] in _CARDINALS
        or minus[1] in _ORDINALS
        or (minus[1] or "").isdigit()
    )
    if not subtracted and (number.certain or minus[2] == "minus "):
        number.start -= len(minus[2])
        number.write(f"-{number.written}", certain=True)
