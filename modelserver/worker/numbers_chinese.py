"""Numbers in Chinese as people write them; cn2an computes the value of a numeral.

A run of numeral characters is written as a whole or stays as a whole. Most single numerals are
parts of words (一起, 三心二意), so one is written only beside a number that is certain and with
which it belongs together: a date, a time, an amount, a range.
"""

import re
from collections.abc import Callable

from modelserver.worker.numbers_joined import Link, Number, joined, replaced
from modelserver.worker.text_steps import TextStep

_DIGITS = "零一二三四五六七八九"
_FIGURES = str.maketrans(_DIGITS, "0123456789")
_NUMERALS = f"{_DIGITS}十百千万亿"
_PLAIN = str.maketrans(
    "〇○幺萬億兩點號塊週禮個鐘時負數幾歲層樓從達級頁約於",
    "零零一万亿两点号块周礼个钟时负数几岁层楼从达级页约于",
)
"""Other forms of the same characters, one for one."""

_RUN = re.compile(f"(?:[{_NUMERALS}点]|两(?=[百千万亿点]))+|(?<![{_NUMERALS}两])两")
_LONGEST = 24
"""Characters of a numeral with units; longer ones are none."""
_D = "[一二三四五六七八九]"
_T = "[一二两三四五六七八九]"
_TENS = f"(?:{_T}千)?(?:零?{_T}百)?(?:零?{_D}?十)?"
_MAN = f"(?:{_TENS}(?:零?{_T})?万)?"
_WHOLE = re.compile(f"(?:{_MAN}零?{_TENS}(?:零?{_T})?亿)?零?{_MAN}零?{_TENS}(?:零?{_D})?")
_SCALES = re.compile(f"([{_DIGITS}]+)(万亿|百万|千万|万|亿)")

_WORDS = re.compile(
    "三三两两|一点一滴|一五一十|百分百|二百五|三十六计|三十六策|七十二变|七十二行|三百六十行|"
    "一百单八将|十万八千里|五十步笑百步|百步|三十年河东|三十年河西|一千零一夜|二十四孝|二十八宿|"
    "十万个为什么|十三陵|十三经|十三太保|十三行|十八罗汉|十八般武艺|十八层地狱|十八变|十二生肖|"
    "三十而立|四十不惑|五十知天命|六十耳顺|七十古来稀|二十一添作五|九一八|一二八事变|一二九运动|八一三|"
    "二二八|十一黄金周|十一长假|十一假期|十一期间|十九大|二十大|十八大|十七大|万分之一|一百二十个心|"
    "一千个哈姆雷特|五百罗汉|百八十|千八百|八九不离十|三七二十一|五十铃|三百千|"
    "八百里|三千烦恼丝|二十年河|十一国庆|双十[一二]|三点式|三点水|两点水|四点水|两点论|两点之间|两点一线|三点一线"
)
"""Words, names and sayings with a numeral that stays as it is."""
_ASCENDING = "一二三四五六七八九"

_UNIT = (
    "年代|年|个月|月|日|号|点钟|点|个小时|小时|分钟|分|秒|刻钟|天|周|块钱|块|元|毛|角|美元|"
    "米|厘米|公分|毫米|公里|千米|里|公斤|斤|克|千克|吨|升|毫升|度|倍|岁|个|人|名|位|次|页|层|楼|路|"
    "平方米|平米|平方公里|瓦|伏|兆|寸|英寸|尺|码|万|亿|成|折|级|票|分贝"
)
_AFTER_DECIMAL = re.compile(f"{_UNIT}|[，。、！？；,.!?;\\s的左右到至]|$")
_DAYPART = "(?:的)?(?:上午|下午|早上|早晨|晚上|夜里|凌晨|中午|傍晚|清晨|晚)?"
_NEXT = {
    "年": "月|个月",
    "月": "日|号",
    "日": "点|时",
    "号": "点|时",
    "点": "分",
    "时": "分",
    "小时": "分",
    "个小时": "分",
    "分": "秒",
    "分钟": "秒|$",
    "块": "毛|角",
    "元": "毛|角|分",
    "毛": "分",
    "角": "分",
    "公里": "米",
    "千米": "米",
    "米": "厘米|公分",
    "斤": "两",
    "公斤": "斤|克",
    "度": "分",
    "天": "个?小时",
    "个月": "天|日",
    "周": "天|日",
    "岁": "个?月",
}
"""A unit, and what follows the number after it if both are one quantity."""
_UNIT_BETWEEN = re.compile(
    f"({'|'.join(sorted(_NEXT, key=len, reverse=True))}){_DAYPART}(?:零|又)?"
)
_MONEY_END = re.compile("[的了吧吗呢啊，。！？,.!? ]|一[斤个公张]|钱|$")
_OPERATOR = re.compile("加上?|减去?|乘以?|除以|等于|比")
_RANGE = re.compile(f"(?P<unit>{_UNIT})?(?:到|至)(?:第)?")
_WEEK = re.compile("(?:星期|礼拜|(?<![一二两三四几每整半个])周)$")
_MINUS = re.compile("(?:^|[^\\w]|[是为到至在约达度于成得出，])负$")


def chinese() -> TextStep:
    """Raises `ImportError` where the library is not installed."""
    from cn2an import cn2an

    return _Chinese(lambda numeral: int(cn2an(numeral, "smart"))).written


class _Chinese:
    def __init__(self, value: Callable[[str], int]) -> None:
        self._value = value

    def written(self, text: str) -> str:
        """The text with its numbers as people write them."""
        plain = text.translate(_PLAIN)
        words = _WORDS.finditer(plain)
        word = next(words, None)
        numbers = list[Number]()
        for run in _RUN.finditer(plain):
            while word is not None and word.end() <= run.start():
                word = next(words, None)
            number = self._read(plain, run.start(), run.end())
            if number is None:
                continue
            if word is not None and word.start() <= number.start and number.end <= word.end():
                number.written = None
            numbers.append(number)
        chosen = joined(numbers, lambda one, other: _link(plain, one, other))
        for number in chosen:
            said = text[number.start : number.end]
            number.written = _in_characters_of(said, number.written or "")
        return replaced(text, chosen)

    def _read(self, text: str, start: int, end: int) -> Number | None:
        """What a run of numeral characters is, by itself and by its surroundings."""
        while start < end and text[start] == "点":
            start += 1
        hours = 0
        while end > start and text[end - 1] == "点":
            end -= 1
            hours += 1
        if start == end:
            return None
        if (
            text[start] == "零"
            and end - start == 2
            and text[start - 1 : start] in tuple("岁月天块元时")
        ):
            start += 1  # 二十岁零三个月
        before, after = text[max(0, start - 4) : start], text[end : end + 4]
        number = Number(start, end)
        if text[start] in _ASCENDING[:6] and end - start > 1 and _WEEK.search(before):
            return self._read(text, start + 1, end)  # 星期五 十二点
        if text.startswith("分之", end):
            return number
        percent = before.endswith("百分之") and before[:-3] not in tuple(_NUMERALS)
        if before.endswith("分之") and not percent:
            return number
        outside = text[start - 1 : start] + text[end : end + 1]
        if any(c.isdigit() or c in "几.%" for c in outside) or (
            before.endswith(("数", "好几")) and text[start] in "十百千万亿"
        ):
            return number
        if re.match("点(?:钟)?半|刻", after) or (
            before.endswith(("月", "初")) and not self._day(before, after)
        ):
            return number
        if hours and "点" in text[start:end]:
            return number  # 八点九点
        if percent and text[start:end] == "百":
            number.written = "100"
        else:
            self._parse(text, number, before, after)
        if number.written is not None and percent:
            number.start -= 3
            number.written, number.certain = number.written + "%", True
        elif number.written is not None and number.certain and _MINUS.search(before):
            number.start -= 1
            number.written = f"-{number.written}"
        return number

    @staticmethod
    def _day(before: str, after: str) -> bool:
        """Whether a number behind 月 is a day, or counts something by the month."""
        return before.endswith("个月") or (before.endswith("月") and after[:1] in ("日", "号"))

    def _parse(self, text: str, number: Number, before: str, after: str) -> None:
        said = text[number.start : number.end]
        first, *others = said.split("点")
        if not others:
            self._plain(number, said, before, after)
        elif len(others) == 1 and (whole := self._whole(first)) is not None:
            self._point(number, first, whole, others[0], before, after)
        elif before.endswith(("版本", "版本号", "版本是", "版")) and all(
            len(part) == 1 and part in _DIGITS for part in said.split("点")
        ):
            number.written, number.certain = ".".join(said.split("点")).translate(_FIGURES), True

    def _plain(self, number: Number, said: str, before: str, after: str) -> None:
        if all(c in _DIGITS for c in said):
            number.written = said.translate(_FIGURES) if said != "两" else "2"
            if len(said) == 1:
                return
            if len(said) == 2:
                year = after.startswith("年") and not after.startswith("年级")
                number.certain = (
                    year and (said[0] == "零" or said not in _ASCENDING) and said != "三五"
                )
                if not number.certain:
                    number.written = None
                return
            counting = len(said) < 6 and said in _ASCENDING
            doubled = (
                len(said) == 4
                and said[0] == said[1] != said[2] == said[3]
                and not after.startswith("年")
            )
            number.certain = not (counting or doubled)
            if not number.certain:
                number.written = None
            return
        value = 2 if said == "两" else self._whole(said)
        if value is None:
            return
        number.written = str(value)
        number.certain = len(said) > 1
        if said == "十一" and not before.endswith("第") and not re.match(_UNIT, after):
            number.leave()

    def _point(
        self, number: Number, first: str, whole: int, rest: str, before: str, after: str
    ) -> None:
        """What has 点 inside: a decimal or a time of day."""
        vague = first == "一" and before[-1:] in tuple("有早晚快慢大小多少差好便这那")
        digits = all(c in _DIGITS for c in rest)
        minutes = self._whole(rest)
        if vague:
            return
        if digits:
            clock = whole <= 24 and (
                (len(rest) == 2 and rest[0] == "零" and after.startswith("分"))
                or (
                    len(rest) == 2
                    and rest[0] == "零"
                    and re.search("[上下中]午|早上|晚上|凌晨|清晨|夜里|傍晚", before)
                )
            )
            if clock:
                number.written = f"{whole}点{rest.translate(_FIGURES)}"
            elif (
                len(rest) == 1
                and whole <= 24
                and after.startswith("分")
                and not after.startswith(("分之", "分贝"))
            ):
                return  # 三点五分 is 3.5 points, or five past three
            elif first == "一" and not _AFTER_DECIMAL.match(after):
                return
            else:
                number.written = f"{whole}.{rest.translate(_FIGURES)}"
            number.certain = True
        elif (scaled := _SCALES.fullmatch(rest)) is not None:
            number.written = f"{whole}.{scaled[1].translate(_FIGURES)}{scaled[2]}"
            number.certain = True
        elif minutes is not None and whole <= 24 and (rest != "十" or after.startswith("分")):
            number.written, number.certain = f"{whole}点{minutes}", True

    def _whole(self, said: str) -> int | None:
        """The value of a whole number in words; None for what is none, such as 三四十."""
        if len(said) > _LONGEST or not said or said[0] in "百千万亿":
            return None
        if said == "两":
            return 2
        if len(said) == 1 and said in _DIGITS:
            return _DIGITS.index(said)
        if (
            said[0] == "零"
            or said[-1] == "零"
            or not _WHOLE.fullmatch(said)
            or re.search(f"亿{_D}$", said)
        ):
            return None
        try:
            return self._value(said)
        except ValueError:
            return None


def _in_characters_of(said: str, written: str) -> str:
    """What is left of a numeral's own characters, in the form that the text has."""
    for plain, other in zip("点万亿", "點萬億", strict=True):
        if other in said:
            written = written.replace(plain, other)
    return written


def _link(text: str, left: Number, right: Number) -> Link:
    if right.start - left.end > 8:
        return Link.NOTHING
    between, after = text[left.end : right.start], text[right.end : right.end + 4]
    if (unit := _UNIT_BETWEEN.fullmatch(between)) is not None:
        said = unit[1]
        if said == "月":
            right_is_day = after[:1] in ("日", "号")
            return (
                Link.CERTAIN
                if right_is_day
                else Link.TOGETHER
                if right.written is None
                else Link.NOTHING
            )
        if re.match(_NEXT[said], after):
            return Link.NOTHING if said in ("日", "号") and right.written is None else Link.TOGETHER
        if said in ("块", "毛") and right.end - right.start == 1 and _MONEY_END.match(after):
            return Link.TOGETHER
        if said == "米" and text[left.start : left.end] == "一" and right.end - right.start < 3:
            pair = text[right.start : right.end]
            if (
                all(c in _DIGITS for c in pair)
                and pair[0] in "四五六七八九"
                and not re.match(f"几|{_UNIT}", after)
            ):
                right.written = pair.translate(_FIGURES)
                return Link.CERTAIN
        return Link.NOTHING
    if _OPERATOR.fullmatch(between):
        return Link.TOGETHER
    if (found := _RANGE.fullmatch(between)) is not None:
        said = text[left.start : left.end]
        if said == "一" and text[left.start - 1 : left.start] not in ("从", "第", "由"):
            left.written = None  # 一到 also means "as soon as"
        if (left.written or "").endswith("%") and found["unit"] is None:
            if re.match(_UNIT, after):
                return Link.NOTHING
            if right.written is not None:
                right.write(f"{right.written}%", certain=True)
        return Link.TOGETHER
    if re.fullmatch("(?:到|至)百分之", between):
        return Link.TOGETHER
    return Link.NOTHING
