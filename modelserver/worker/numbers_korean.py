"""Numbers in Korean as people write them; hangulpy computes the value of a numeral.

The syllables of numerals are words and parts of words, too (만일, 천사, 이 사람, 사이사이), so
one is taken for a number only by what it is with: a unit inside, a counter after it, or other
digits. Models write spaces where they like; a number's are left out.
"""

import re

from modelserver.worker.text_steps import TextStep

_DIGITS = "일이삼사오육칠팔구"
_ZEROS = "공영"
_UNITS = "십백천만억조"
_NUMERAL = f"[{_DIGITS}{_ZEROS}{_UNITS}점]"
_ONE_BY_ONE = str.maketrans(_ZEROS + _DIGITS, "00123456789")
_BELOW_MAN = f"(?:[{_DIGITS}]?천)?(?:[{_DIGITS}]?백)?(?:[{_DIGITS}]?십)?[{_DIGITS}]?"
_WHOLE = re.compile("".join(f"(?:{_BELOW_MAN}{unit})?" for unit in "조억만") + _BELOW_MAN)
_ONLY_NUMERALS = re.compile(f"{_NUMERAL}+")
_PARTICLES = (
    "(?:은|는|이|가|을|를|에|에서|에게|의|도|와|과|로|으로|만|까지|부터|쯤|정도|이나|나|씩|간|짜리|"
    "대로|마다|이십니다|이세요|이다|이고|이며|인|이라|라서|이면|입니다|입니까|이에요|예요|이었어요|였어요|이었습니다|"
    "였습니다|이죠|이요|요|밖에|인데|이었는데|였는데|이었다|였다|이니까|니까|인데도|이라고|라고|이지만|지만|보다|"
    "이었지만|였지만|이나마|뿐|처럼|이더라|여서|이어서)*"
)

_AFTER_ANY = "퍼센트|개월|층|킬로미터|킬로그램|센티미터|밀리미터|밀리리터|킬로|센티|밀리|달러|학년"
"""Counters after which even a single numeral is a number."""
_AFTER_UNITS = (
    "년대|년|월|일|시간|분|초|원|명|개|번째|번|호실|호|도|살|세|미터|그램|리터|인분|회|차|위|배|점|쪽|페이지|장|대|권|"
    "유로|엔|위안|주년|세기|주일|주|박|칸|평|곳|건|석|동|번지|송이|병|잔"
)
"""Counters after which a numeral with a unit inside (십, 백, ...) is one; longer ones first."""
_COUNTER = re.compile(
    f"(?P<number>{_NUMERAL}*?)(?P<counter>{_AFTER_ANY}|{_AFTER_UNITS})(?P<rest>{_PARTICLES})"
)
_ALSO_WORDS = frozenset("이일사오")
"""Syllables that mean much else, such as "this" and "work": of these alone no number is made."""
_NO_NUMBERS = ("삼삼오오", "사이사이", "십일조", "백만이", "백일장", "만원")
"""Small groups; in between; a tithe; a million, with a particle; a writing contest; full."""
_AFTER_LONE_UNIT = frozenset(
    {"원", "명", "년", "개", "시간", "퍼센트", "달러", "미터", "킬로미터", "주년"}
)
"""Counters after which 백, 천 or 만 by itself is a number: 만일 is "if", 만세 "hurray"."""
_NOT_AFTER_TEN = frozenset({"일", "월", "점", "위", "장", "도", "번째"})
"""Counters after which 십 by itself is none."""
_SOME = frozenset({"몇", "수", "여러"})
"""Words that make an approximate number of the unit behind them."""
_ENDING = re.compile(
    f"(?P<number>{_NUMERAL}+)(?!(?<=이)(?:에요|다|고|며|면|라))(?P<rest>{_PARTICLES})"
)
"""A numeral with a particle: 이십오를, 팔구공입니다."""
_MOST_TOKENS = 24
"""Bound of the tokens of a number, few enough to try each."""
_HOURS = ("한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉", "열", "열한", "열두")
_MINUTES = f"(?:[{_DIGITS}]? ?십 ?)?[{_DIGITS}]|[{_DIGITS}]? ?십"
_CLOCK = re.compile(rf"(?<!\S)({'|'.join(reversed(_HOURS))}) ?(시|시간) ?({_MINUTES}) ?분(?!의)")
_PERIOD = ("동안", "전", "후", "뒤", "이내", "만에")
"""Words before which a numeral that ends in 일 counts days."""
_N = f"[{_DIGITS}{_UNITS}]"
_SMALLER = re.compile(
    rf"(?<!\S)([{_DIGITS}]) ?(분|미터|년)"
    rf"(?= ?(?:{_N} ?)*십 ?(?:{_N} ?)?초| ?(?:{_N} ?)+(?:센티|개월))"
)
"""A single numeral with a unit, before a smaller unit: 일 분 삼십 초."""
_SCORE = re.compile(rf"(?<!\S)({_N}+) 대 ({_N}+?)(?={_PARTICLES}(?![가-힣]))(?! ?대(?!\S))")
_PHONE = re.compile(
    rf"(?<!\S)공[{_ZEROS}{_DIGITS}]{{1,2}}(?: ?[{_ZEROS}{_DIGITS}]){{3,4}}[의에]"
    rf"(?: ?[{_ZEROS}{_DIGITS}]){{4}}(?![{_ZEROS}{_DIGITS}])"
)
"""A telephone number whose last dash is spoken."""
_DAY = f"(?:[이삼]? ?십 ?)?[{_DIGITS}]|[이삼]? ?십"
_MONTH = re.compile(
    rf"(?<!\S)((?:십 ?)?[{_DIGITS}]|십|유|시) ?월 ?({_DAY}) ?일(?={_PARTICLES}(?![가-힣]))"
)
_IRREGULAR = {"유": "육", "시": "십"}
"""June and October."""
_ORDINAL = re.compile(
    rf"(?<!\S)제(?!일)( ?[{_DIGITS}{_UNITS}]+) ?([장조항호회차과절권편부])"
    rf"(?={_PARTICLES}(?![가-힣]))"
)


def korean() -> TextStep:
    """Make the step. Raises `ImportError` where the library is not installed."""
    return _Korean().written


class _Korean:
    def __init__(self) -> None:
        from hangulpy import hangul_to_number

        self._whole = hangul_to_number

    def written(self, text: str) -> str:
        """Return the text with its numbers as people write them."""
        text = _MONTH.sub(self._month, _CLOCK.sub(self._clock, text))
        text = _ORDINAL.sub(self._ordinal, _PHONE.sub(_phone, text))
        text = _SCORE.sub(self._score, _SMALLER.sub(_smaller, text))
        return "\n".join(self._line(line) for line in text.split("\n"))

    def _line(self, text: str) -> str:
        tokens, written = text.split(" "), list[str]()
        at = 0
        while at < len(tokens):
            taken, said = self._longest(tokens, at)
            written.append(said)
            at += taken
        return " ".join(written)

    def _longest(self, tokens: list[str], at: int) -> tuple[int, str]:
        """Return how many tokens from there on make a number, and its figures; or one, as it is."""
        if at and tokens[at - 1] in _SOME and tokens[at][:1] in tuple(_UNITS):
            return 1, tokens[at]
        end = at
        # 이 by itself is "this", or a particle of the word before: where it is two, it begins a
        # word.
        point_follows = tokens[at + 1 : at + 2] == ["점"]
        while end < len(tokens) and _is_numeral(tokens[end]):
            if tokens[at] == "이" and not point_follows:
                break
            end += 1
        if end - at > _MOST_TOKENS:
            return end - at, " ".join(tokens[at:end])
        for last in range(end, at - 1, -1):
            numerals = "".join(tokens[at:last])
            if last < len(tokens):
                if numerals and tokens[last] == "분의" and _begins_with_numeral(tokens, last + 1):
                    return self._fraction(tokens, at, last)
                said = self._with_ending(tokens, last, numerals)
                if said is None and numerals[-1:] == "일" and tokens[last].startswith(_PERIOD):
                    said = self._counted(numerals[:-1], "일")  # 이십일 동안
                    said = None if said is None else f"{said} {tokens[last]}"
                if said is not None:
                    return last - at + 1, said
            # Nor is 일 by itself surely one: 사십 일 are forty days.
            if last > at and tokens[at] != "이" and tokens[last - 1] not in ("이", "일"):
                said = self._alone(numerals)
                if said is not None:
                    return last - at, said
        return 1, tokens[at]

    def _with_ending(self, tokens: list[str], last: int, numerals: str) -> str | None:
        """Write numerals before a token that is a counter, or ends in one or in a particle."""
        if not numerals and tokens[last].startswith(_NO_NUMBERS):
            return None
        counted = _COUNTER.fullmatch(tokens[last])
        if counted is not None and numerals + counted["number"]:
            said = None
            if not self._is_other(tokens, last, numerals, counted):
                said = self._counted(numerals + counted["number"], counted["counter"])
            if said is not None:
                return said + counted["rest"]
        ending = _ENDING.fullmatch(tokens[last])
        if ending is not None:
            said = self._alone(numerals + ending["number"], has_particle=True)
            return None if said is None else said + ending["rest"]
        return None

    @staticmethod
    def _is_other(tokens: list[str], last: int, numerals: str, counted: re.Match[str]) -> bool:
        """Return whether a counter means something else there."""
        counter = counted["counter"]
        score = counter == "대" and tokens[last + 2 : last + 3] != ["대"]  # 십 대 이십 대
        between = score or counter + counted["rest"] == "분의"
        if between and _begins_with_numeral(tokens, last + 1):
            return True  # a score, a fraction
        ten = numerals + counted["number"] == "십"
        return ten and (counter in _NOT_AFTER_TEN or tokens[last].startswith("십분"))

    @staticmethod
    def _fraction(tokens: list[str], at: int, last: int) -> tuple[int, str]:
        """Return a fraction from there on, as it was spoken."""
        end = last + 1
        while _begins_with_numeral(tokens, end) and end < at + _MOST_TOKENS:
            end += 1
        return end - at, " ".join(tokens[at:end])

    def _counted(self, numerals: str, counter: str) -> str | None:
        """Write a numeral before a counter, with it."""
        said = self._value(numerals)
        has_unit = bool(set(numerals) & set(_UNITS + "점"))
        lone_unit = numerals in _UNITS and numerals != "십" and counter not in _AFTER_LONE_UNIT
        if said is None or lone_unit or not (has_unit or counter in _AFTER_ANY.split("|")):
            return None
        return said + ("%" if counter == "퍼센트" else counter)

    def _alone(self, numerals: str, *, has_particle: bool = False) -> str | None:
        """Write a numeral without a counter."""
        if not set(numerals) & set(_UNITS):
            telling = sum(one not in _ALSO_WORDS and one != "점" for one in numerals)
            if "점" in numerals:
                return self._value(numerals) if telling else None
            if len(numerals) > 7 and numerals[0] in _ZEROS:
                return numerals.translate(_ONE_BY_ONE)  # a telephone number
            if has_particle and len(numerals) < 7:
                return None
            certain = set(numerals) & set(_ZEROS) if len(numerals) == 3 else len(numerals) > 3
            enough = certain and 2 * telling >= len(numerals)
            return numerals.translate(_ONE_BY_ONE) if enough else None
        if numerals[-1] == "조" or re.search("[십백천만억]이$", numerals):
            return None  # 이 is also a particle, 조 also a tune, a tax or a group
        certain = len(numerals) > 2 or (len(numerals) == 2 and "십" in numerals)
        return self._value(numerals) if certain else None

    def _month(self, match: re.Match[str]) -> str:
        month = _IRREGULAR.get(match[1], match[1])
        return f"{self._value(_glued(month))}월 {self._value(_glued(match[2]))}일"

    def _clock(self, match: re.Match[str]) -> str:
        return f"{_HOURS.index(match[1]) + 1}{match[2]} {self._value(_glued(match[3]))}분"

    def _score(self, match: re.Match[str]) -> str:
        left, right = self._value(match[1]), self._value(match[2])
        has_unit = set(match[1] + match[2]) & set(_UNITS)
        return f"{left} 대 {right}" if left and right and has_unit else match[0]

    def _ordinal(self, match: re.Match[str]) -> str:
        said = self._value(_glued(match[1]))
        return match[0] if said is None else f"제{said}{match[2]}"

    def _value(self, numerals: str) -> str | None:
        """Return the figures of a whole numeral, or None."""
        whole, point, decimals = numerals.partition("점")
        if not whole or (point and not re.fullmatch(f"[{_DIGITS}{_ZEROS}]+", decimals)):
            return None
        if whole in _ZEROS:
            said = "0"
        elif _WHOLE.fullmatch(whole):
            said = str(self._whole(whole))
        else:
            return None
        return f"{said}.{decimals.translate(_ONE_BY_ONE)}" if point else said


def _is_numeral(token: str) -> bool:
    return _ONLY_NUMERALS.fullmatch(token) is not None and token not in _NO_NUMBERS


def _smaller(match: re.Match[str]) -> str:
    return match[1].translate(_ONE_BY_ONE) + match[2]


def _phone(match: re.Match[str]) -> str:
    return re.sub("[ 의에]", "", match[0]).translate(_ONE_BY_ONE)


def _begins_with_numeral(tokens: list[str], at: int) -> bool:
    if at >= len(tokens):
        return False
    return tokens[at][:1].isdigit() or _ENDING.fullmatch(tokens[at]) is not None


def _glued(numerals: str) -> str:
    return numerals.replace(" ", "")
