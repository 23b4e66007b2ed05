"""Numbers in Korean as people write them. What is a number is found here, its value is hangulpy's.

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
    "은|는|이|가|을|를|에|에서|에는|의|도|와|과|로|으로|만|까지|부터|쯤|정도|이나|이다|입니다"
)

_AFTER_ANY = "퍼센트|개월|층|킬로미터|킬로그램|센티미터|밀리미터|달러|학년"
"""Counters after which even a single numeral is a number."""
_AFTER_UNITS = (
    "년|월|일|시간|분|초|원|명|개|번째|번|호|도|살|세|미터|그램|리터|인분|회|차|위|배|점|쪽|페이지|장|대|권|"
    "유로|엔|위안|주년|주일|주|박|칸|평|곳|건|석|만원"
)
"""Counters after which a numeral with a unit inside (십, 백, ...) is one; longer ones first."""
_COUNTER = re.compile(
    f"(?P<number>{_NUMERAL}*?)(?P<counter>{_AFTER_ANY}|{_AFTER_UNITS})(?P<rest>(?:{_PARTICLES})?)"
)
_ALSO_WORDS = frozenset("이일사오")
"""Syllables that mean much else, such as "this" and "work": of these alone no number is made."""
_NO_NUMBERS = frozenset({"삼삼오오", "사이사이", "십일조", "백만이"})
"""In small groups; in between; a tithe; a million, with a particle."""
_AFTER_LONE_UNIT = frozenset({"원", "명", "년", "개", "시간", "퍼센트", "달러", "미터", "킬로미터"})
"""Counters after which 백, 천 or 만 by itself is a number: 만일 is "if", 만세 "hurray"."""
_MOST_TOKENS = 40
"""More than any number has, and few enough to try each."""
_HOURS = ("한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉", "열", "열한", "열두")
_CLOCK = re.compile(
    rf"(?<!\S)({'|'.join(_HOURS)}) ?시 ?((?:[{_DIGITS}]? ?십 ?)?[{_DIGITS}]|[{_DIGITS}]? ?십) ?분"
)
_DAY = f"(?:[이삼]? ?십 ?)?[{_DIGITS}]|[이삼]? ?십"
_MONTH = re.compile(rf"(?<!\S)((?:십 ?)?[{_DIGITS}]|십) ?월 ?({_DAY}) ?일(?![가-힣])")


def korean() -> TextStep:
    """Raises `ImportError` where the library is not installed."""
    return _Korean().written


class _Korean:
    def __init__(self) -> None:
        from hangulpy import hangul_to_number

        self._whole = hangul_to_number

    def written(self, text: str) -> str:
        """The text with its numbers as people write them."""
        text = _MONTH.sub(self._month, _CLOCK.sub(self._clock, text))
        tokens, written = text.split(" "), list[str]()
        at = 0
        while at < len(tokens):
            taken, said = self._longest(tokens, at)
            written.append(said)
            at += taken
        return " ".join(written)

    def _longest(self, tokens: list[str], at: int) -> tuple[int, str]:
        """How many tokens from there on make a number, and how that is written; or one, as it
        is."""
        end = at
        # 이 by itself is "this", or a particle of the word before: where it is two, it begins a
        # word.
        most = min(len(tokens), at + _MOST_TOKENS)
        while end < most and _is_numeral(tokens[end]) and tokens[at] != "이":
            end += 1
        for last in range(end, at - 1, -1):
            numerals = "".join(tokens[at:last])
            after = _COUNTER.fullmatch(tokens[last]) if last < len(tokens) else None
            if after is not None and numerals + after["number"]:
                said = self._counted(numerals + after["number"], after["counter"])
                if said is not None:
                    return last - at + 1, said + after["rest"]
            if last > at and tokens[last - 1] != "이":
                said = self._alone(numerals)
                if said is not None:
                    return last - at, said
        return 1, tokens[at]

    def _counted(self, numerals: str, counter: str) -> str | None:
        """Of a numeral before a counter, with it."""
        said = self._value(numerals)
        has_unit = bool(set(numerals) & set(_UNITS + "점"))
        lone_unit = numerals in _UNITS and counter not in _AFTER_LONE_UNIT
        if said is None or lone_unit or not (has_unit or counter in _AFTER_ANY.split("|")):
            return None
        return said + ("%" if counter == "퍼센트" else counter)

    def _alone(self, numerals: str) -> str | None:
        """Of a numeral without a counter."""
        if not set(numerals) & set(_UNITS):
            telling = sum(one not in _ALSO_WORDS and one != "점" for one in numerals)
            if "점" in numerals:
                return self._value(numerals) if telling else None
            certain = set(numerals) & set(_ZEROS) if len(numerals) == 3 else len(numerals) > 3
            enough = certain and 2 * telling >= len(numerals)
            return numerals.translate(_ONE_BY_ONE) if enough else None
        if numerals[-1] == "조" or re.search("[백천만억]이$", numerals):
            return None  # 이 is also a particle, 조 also a tune, a tax or a group
        certain = len(numerals) > 2 or (len(numerals) == 2 and "십" in numerals)
        return self._value(numerals) if certain else None

    def _month(self, match: re.Match[str]) -> str:
        return f"{self._value(_glued(match[1]))}월 {self._value(_glued(match[2]))}일"

    def _clock(self, match: re.Match[str]) -> str:
        return f"{_HOURS.index(match[1]) + 1}시 {self._value(_glued(match[2]))}분"

    def _value(self, numerals: str) -> str | None:
        """Of a numeral as a whole, or None."""
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


def _glued(numerals: str) -> str:
    return numerals.replace(" ", "")
