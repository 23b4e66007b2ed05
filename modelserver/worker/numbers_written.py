"""The text step "numbers": numbers as people write them, by libraries for each language.

For Chinese and Japanese what is a number is found here, since single numerals are parts of words
(一起, 三心二意); its value is the library's. (Grammars on OpenFst, as WeTextProcessing has them,
cannot be loaded beside the engine: both bring an OpenFst, and share what it registers.)
"""

import re
from collections.abc import Callable

from modelserver.extras import how_to_install
from modelserver.worker.numbers_chinese import chinese
from modelserver.worker.numbers_english import english
from modelserver.worker.numbers_korean import korean
from modelserver.worker.text_steps import TextStep

_BY_RULES = ("de", "fr", "es", "pt", "it", "nl")
"""The package text2num."""

_DIGIT = "零〇一二两三四五六七八九"
_UNITS = "十百千万亿億"
_ONE_BY_ONE = str.maketrans(_DIGIT, "001223456789")


def _numerals(starting: str) -> re.Pattern[str]:
    """`starting`: the units that a number may begin with."""
    return re.compile(
        f"(?P<percent>百分之)?(?P<number>"
        # With a unit inside: 三十二, 一百二十五, 十五, 两万三千.
        f"(?:[{_DIGIT}]+[{_UNITS}]|[{starting}](?=[{_DIGIT}]))[{_DIGIT}{_UNITS}]*(?:点[{_DIGIT}]+)?"
        # Digit by digit: years, telephone numbers.
        f"|[{_DIGIT}]{{3,}}(?:点[{_DIGIT}]+)?"
        # A decimal, or after 百分之 anything.
        f"|[{_DIGIT}]点[{_DIGIT}]+(?![{_DIGIT}十百千点分钟])"
        f"|(?<=百分之)[{_DIGIT}{_UNITS}]+)"
        # 三四十 is about as many; 十几 and 二十多 are left to readers as they are.
        f"(?![几])"
    )


_CHINESE, _JAPANESE = _numerals("十"), _numerals("十百千")
_NAMES = re.compile("(五十嵐|八百屋|八百長|十二単|一万田|三十路|三千院|四十肩|五十肩|九十九里)")
"""Japanese words and names with a numeral inside that is not written as a number."""
_CLOCK = re.compile(f"([{_DIGIT}]|十[{_DIGIT}]?|二十[{_DIGIT}]?)[点時](?=([{_DIGIT}十]+)分)")
_DATE = re.compile(f"(?<![{_DIGIT}{_UNITS}第])([{_DIGIT}]|十)(?=月[{_DIGIT}十])")
_DAY = re.compile(f"(?<=月)([{_DIGIT}]|十)(?=[日号])")


def numbers_written(language: str) -> TextStep | None:
    """For a language, as a BCP 47 tag. Raises `ImportError` where the extra is not installed."""
    primary = language.replace("_", "-").split("-")[0].lower()
    try:
        if primary in ("zh", "cn", "cmn"):
            return chinese
        if primary == "en":
            return english()
        if primary == "ja":
            return _japanese()
        if primary == "ko":
            return korean()
        if primary in _BY_RULES:
            from text_to_num import alpha2digit

            return lambda text: str(alpha2digit(text, primary))
    except ImportError as error:
        raise ImportError(f"it needs the extra: {how_to_install('numbers')}") from error
    return None


def _japanese() -> TextStep:
    from kanjize import kanji2number

    def value(numerals: str) -> float:
        whole, _, decimals = numerals.partition("点")
        found = int(kanji2number(whole))
        return float(f"{found}.{decimals.translate(_ONE_BY_ONE)}") if decimals else found

    step = _by_numerals(_JAPANESE, value)

    def careful(text: str) -> str:
        parts = _NAMES.split(text)  # every second one is a name
        text = "".join(part if n % 2 else step(part) for n, part in enumerate(parts))
        return re.sub(r"(?<=\d) ?パーセント", "%", text)

    return careful


def _by_numerals(numerals: re.Pattern[str], value_of: Callable[[str], float]) -> TextStep:
    """A step that writes what `value_of` says of numerals; it raises `ValueError` or
    `LookupError` for what is none."""

    def value(said: str) -> str | None:
        if re.fullmatch(f"[{_DIGIT}]{{3,}}", said):  # zeros in front included
            return said.translate(_ONE_BY_ONE)
        try:
            found = value_of(said)
        except (ValueError, LookupError):  # what looks like one and is none, such as 三四十
            return None
        return f"{found:g}" if isinstance(found, float) and abs(found) < 1e6 else str(found)

    def written(match: re.Match[str]) -> str:
        found = value(match["number"])
        return match[0] if found is None else found + ("%" if match["percent"] else "")

    def single(match: re.Match[str]) -> str:
        found = value(match[1])
        return match[0] if found is None else match[0].replace(match[1], found, 1)

    def step(text: str) -> str:
        for what in (_CLOCK, _DATE, _DAY):
            text = what.sub(single, text)
        return numerals.sub(written, text)

    return step
