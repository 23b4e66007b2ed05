"""Numbers in Chinese as people write them.

A run of numeral characters is written as a whole or stays as a whole. Most single numerals are
parts of words (一起, 三心二意), so one is written only beside a number that is certain and with
which it belongs together: a date, a time, an amount, a range.
"""

import re

from modelserver.worker.numbers_characters import (
    ASCENDING,
    DIGITS,
    FIGURES,
    UNITS,
    are_digits,
    is_counting,
    value_of,
)
from modelserver.worker.numbers_joined import Link, Number, joined, replaced

_NUMERAL = f"{DIGITS}{UNITS}"
_PLAIN = str.maketrans(
    "〇○幺萬億兩點號塊週禮個鐘時負數幾歲層樓從達級頁約於",
    "零零一万亿两点号块周礼个钟时负数几岁层楼从达级页约于",
)
"""Translation of other forms of the same characters, one for one."""
_RUN = re.compile(f"(?:[{_NUMERAL}点]|两(?=[百千万亿点]))+|(?<![{_NUMERAL}两])两")
_LONGEST = 24
"""Characters of a numeral with units; longer ones are none."""
_D = "[一二三四五六七八九]"
_T = "[一二两三四五六七八九]"
_TENS = f"(?:{_T}千)?(?:零?{_T}百)?(?:零?{_D}?十)?"
_MAN = f"(?:{_TENS}(?:零?{_T})?万)?"
_WHOLE = re.compile(f"(?:{_MAN}零?{_TENS}(?:零?{_T})?亿)?零?{_MAN}零?{_TENS}(?:零?{_D})?")
_SCALES = re.compile(f"([{DIGITS}]+)(万亿|百万|千万|万|亿)")

_WORDS = re.compile(
    "说一千道一万|二百五|三十六[计策]|七十二[变行]|三百六十行|一百单八将|十万八千里|五十步笑|三十年河[东西]|"
    "一千零一夜|二十四孝|二十八宿|十万个为什么|十三[陵经]|十三太保|十八罗汉|十八般武艺|十八层地狱|"
    "十八变|十二生肖|三十而立|四十不惑|五十知天命|六十耳顺|七十古来稀|二十一添作五|九一八|"
    "一二八事变|一二九运动|二二八事件|八一三事变|十[七八九]大|二十大|一千个哈姆雷特|五百罗汉|"
    "五十铃|山本五十六|[五六七八]零[六七八九零]零|三六九等|二十四节气|十万火急|不怕一万|一万个不|双十[一二]|[两三]点一线"
)
"""Words, names and sayings with a numeral that stays as it is."""
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
_QUANTITY_END = re.compile("[的了吧吗呢啊左以，。！？,.!?\\s]|一[斤个公张]|钱|$")
_OPERATOR = re.compile("加上?|减去?|乘以?|除以|等于|比")
_RANGE = re.compile(f"(?P<unit>{_UNIT})?(?:到|至)(?:第)?")
_PERCENT = re.compile(f"[^{_NUMERAL}\\d点]?百分之")
_HALF = re.compile("点(?:钟?半|百分之)|刻")
_VERSION = re.compile("版本?(?:号)?是?$")
_BIT = tuple("有早晚快慢大小多少差好便这那")
"""Characters after which 一点 is "a bit"."""
_PART_OF_DAY = re.compile("[上下中]午|早上|晚上|凌晨|清晨|夜里|傍晚")
_WEEK = re.compile("(?:星期|礼拜|(?<![一二两三四几每整半个])周)$")
_MINUS = re.compile("(?:^|[^\\w]|[是为到至在约达度于成得出，])负$")


def chinese(text: str) -> str:
    """Return the text with its numbers as people write them."""
    plain = text.translate(_PLAIN)
    numbers = list[Number]()
    words = _WORDS.finditer(plain)
    word = next(words, None)
    for run in _RUN.finditer(plain):
        while word is not None and word.end() <= run.start():
            word = next(words, None)
        number = _read(plain, run.start(), run.end())
        if number is None:
            continue
        if word is not None and word.start() <= number.start and number.end <= word.end():
            number.leave()
        numbers.append(number)
    chosen = joined(numbers, lambda one, other: _link(plain, one, other))
    for number in chosen:
        said = text[number.start : number.end]
        number.written = _in_characters_of(said, number.written or "")
    return replaced(text, chosen)


def _read(text: str, start: int, end: int) -> Number | None:
    """Read a run of numeral characters; None if it has no numeral."""
    if text.startswith("百分之", end - 1):
        end -= 1
        if start < end and text[end - 1] != "点":
            return Number(start, end)  # 三百分之二十 has two meanings
    while start < end and text[start] == "点":
        start += 1
    run_end = end
    while end > start and text[end - 1] == "点":
        end -= 1
    if start == end:
        return None
    before, after = text[max(0, start - 4) : start], text[end : end + 4]
    if end - start > 1 and text[start] in ASCENDING[:6] and _WEEK.search(before):
        return _read(text, start + 1, run_end)  # 星期五 十二点
    if (
        end - start == 2
        and text[start] == "零"
        and before.endswith(("岁", "月", "天", "块", "元", "小时"))
    ):
        return _read(text, start + 1, run_end)  # 二十岁零三个月
    number = Number(start, end)
    said = text[start:end]
    if _is_part(said, before, after) or (end < run_end and "点" in said):  # 八点九点
        return number
    percent = before.endswith("百分之")
    if percent and said == "百":
        number.write("100", certain=True)
    else:
        _parse(number, said, before, after)
    if number.written is not None and percent:
        number.start -= 3
        number.write(f"{number.written}%", certain=True)
    elif number.certain and _MINUS.search(before):
        number.start -= 1
        number.write(f"-{number.written}", certain=True)
    return number


def _is_part(said: str, before: str, after: str) -> bool:
    """Return whether a numeral is a part of something that stays in words."""
    if (before[-1:] + after[:1]).isdigit() or before[-1:].isdigit() or after[:1].isdigit():
        return True
    if before[-1:] in ("几", ".", "%") or after[:1] in ("几", ".", "%"):
        return True
    if before.endswith("数") and said[0] in UNITS:
        return True  # 数十万
    fraction = before.endswith("分之") and not _PERCENT.fullmatch(before)
    if fraction or after.startswith("分之") or _HALF.match(after):
        return True
    day = before.endswith("个月") or after[:1] in ("日", "号")
    return before.endswith(("初", "大年", "腊月")) or (before.endswith("月") and not day)


def _parse(number: Number, said: str, before: str, after: str) -> None:
    first, *others = said.split("点")
    if not others:
        _without_point(number, said, before, after)
    elif len(others) == 1 and (whole := _whole(first)) is not None:
        if first != "一" or not before.endswith(_BIT):
            _with_point(number, str(whole), others[0], before, after)
    elif _VERSION.search(before) and all(len(part) == 1 and part in DIGITS for part in others):
        number.write(said.replace("点", ".").translate(FIGURES), certain=first in DIGITS)


def _without_point(number: Number, said: str, before: str, after: str) -> None:
    if said == "两":
        number.write("2", certain=False)
    elif len(said) == 1 and said in DIGITS:
        number.write(said.translate(FIGURES), certain=False)
    elif len(said) == 2 and said[0] == "零" and before.endswith("时") and after[:1] == "分":
        number.write(said.translate(FIGURES), certain=True)
    elif len(said) == 2 and are_digits(said):
        approximate = said in ASCENDING or said == "三五"
        if after.startswith("年") and not after.startswith("年级") and not approximate:
            number.write(said.translate(FIGURES), certain=True)
    elif are_digits(said):
        if len(said) != 4 and after.startswith(("季度", "赛季", "学年")):
            return  # 二零零九 一季度
        if not is_counting(said) or (len(said) == 4 and after.startswith("年")):
            number.write(said.translate(FIGURES), certain=True)
    elif (value := _whole(said)) is not None:
        holiday = said == "十一" and not before.endswith("第") and not re.match(_UNIT, after)
        if not holiday:
            number.write(str(value), certain=len(said) > 1)


def _with_point(number: Number, whole: str, rest: str, before: str, after: str) -> None:
    """Read a numeral with 点 inside: a decimal or a time of the day."""
    in_day = int(whole) <= 24
    minutes_follow = after.startswith("分") and not after.startswith("分贝")
    if are_digits(rest):
        minutes = rest.translate(FIGURES)
        of_day = _PART_OF_DAY.search(before) is not None
        is_minutes = in_day and len(rest) < 3 and int(minutes) < 60
        may_be_time = is_minutes and (minutes_follow or of_day)
        if may_be_time and len(rest) == 2 and (rest[0] == "零" or (of_day and minutes_follow)):
            number.write(f"{whole}点{minutes}", certain=True)
        elif may_be_time and minutes_follow:
            return  # 三点五分 is 3.5 points, or five past three
        elif whole != "1" or _AFTER_DECIMAL.match(after):
            number.write(f"{whole}.{rest.translate(FIGURES)}", certain=True)
    elif (scaled := _SCALES.fullmatch(rest)) is not None:
        number.write(f"{whole}.{scaled[1].translate(FIGURES)}{scaled[2]}", certain=True)
    elif in_day and (rest != "十" or minutes_follow):
        spoken = _whole(rest)
        if spoken is not None:
            number.write(f"{whole}点{spoken}", certain=True)


def _whole(said: str) -> int | None:
    """Compute the value of a whole number; None if it is none, such as 三四十."""
    if said == "零" or said == "两":
        return value_of(said)
    if len(said) > _LONGEST or not said or said[0] in "零百千万亿" or said[-1] == "零":
        return None
    if not _WHOLE.fullmatch(said):
        return None
    if len(said) > 2 and said[-1] in ASCENDING and said[-2] in "百千万亿":
        # 一万二 is 12000, short for 一万二千.
        return value_of(said[:-1]) + value_of(f"一{said[-2]}") // 10 * value_of(said[-1])
    return value_of(said)


def _in_characters_of(said: str, written: str) -> str:
    """Return figures with 点, 万 and 亿 in the form that the text has."""
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
        if said == "月" and after[:1] in ("日", "号"):
            return Link.CERTAIN
        if said == "月":
            return Link.TOGETHER if right.written is None else Link.NOTHING
        if re.match(f"(?:{_NEXT[said]})(?!之)", after):
            return Link.NOTHING if said in ("日", "号") and right.written is None else Link.TOGETHER
        if (
            said in ("块", "毛", "度")
            and right.end - right.start == 1
            and _QUANTITY_END.match(after)
        ):
            return Link.TOGETHER
        if said == "米" and text[left.start : left.end] == "一" and right.end - right.start < 3:
            pair = text[right.start : right.end]
            if (
                all(c in DIGITS for c in pair)
                and pair[0] in "四五六七八九"
                and not re.match(f"几|{_UNIT}", after)
            ):
                right.write(pair.translate(FIGURES), certain=True)
                return Link.CERTAIN
        return Link.NOTHING
    if _OPERATOR.fullmatch(between):
        return Link.TOGETHER
    if (found := _RANGE.fullmatch(between)) is not None:
        said = text[left.start : left.end]
        if said == "一" and text[left.start - 1 : left.start] not in ("从", "第", "由"):
            left.leave()  # 一到 also means "as soon as"
        if (left.written or "").endswith("%") and found["unit"] is None:
            if re.match(_UNIT, after):
                return Link.NOTHING
            if right.written is not None and not right.written.endswith("%"):
                right.write(f"{right.written}%", certain=True)
        return Link.TOGETHER
    if re.fullmatch("(?:到|至)百分之", between):
        return Link.TOGETHER
    return Link.NOTHING
