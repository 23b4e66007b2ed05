"""Numbers in Japanese as people write them.

A run of numeral characters is written as a whole or stays as a whole. Most single numerals are
parts of words (一緒, 十分), so one is written only beside a number that is certain and with which
it belongs together: a date, a time, a range.
"""

import re

from modelserver.worker.numbers_characters import (
    DIGITS,
    FIGURES,
    UNITS,
    are_digits,
    is_counting,
    value_of,
)
from modelserver.worker.numbers_joined import Link, Number, joined, replaced

_NUMERAL = f"{DIGITS}{UNITS}兆"
_PLAIN = str.maketrans("〇○億", "零零亿")
_RUN = re.compile(f"[{_NUMERAL}点]+")
_LONGEST = 24
"""Characters of a numeral with units; longer ones are none."""
_D = "[一二三四五六七八九]"
_BELOW_MAN = f"(?:{_D}?千)?(?:{_D}?百)?(?:{_D}?十)?{_D}?"
_WHOLE = re.compile("".join(f"(?:(?!{u}){_BELOW_MAN}{u})?" for u in "兆亿万") + _BELOW_MAN)
_SCALES = re.compile(f"([{DIGITS}]+)([万亿兆]?)")
_WORDS = re.compile(
    "五十嵐|山本五十六|八百屋|八百長|八百万の神|十二単|一万田|三十路|四十路|三千院|[四五]十肩|九十九里|"
    "三十三間堂|五十歩百歩|八十八夜|二十四節気|三千代|八千代|千一夜|五百旗頭|四十物|四十九日|"
    "十[三五]夜|三三九度|三十六計|四十雀|怪人二十面相|[一二三四五六七八九十百]{1,4}銀行|四万(?:十|温泉)|"
    "五百(?:羅漢|川|蔵|城|井)|五十(?:川|里|島|公野|沢|崎|幡|海|子|目|鈴)|四十(?:谷|川|九院)|六十谷|"
    "三千世界|百万(?:石|遍|ドルの夜景)|十万(?:石饅頭|億土)|(?<=[惑止礼外])千万|千万無量|[六七八]十路|"
    "五万と[いあ]|(?<=嘘)八百|八百(?:八町|比丘尼)|九十九(?:折|島|髪)|(?<!時)十二分[にな]|二十四軒|十三駅|"
    "[二三四五六七八九]?十[一二三四五六七八九]?(?:郎|兵衛|左衛門|右衛門)|八十(?:島|吉|助)|"
    "[三四五六七]?十五?にして(?:立|惑|天命|耳|心|学)|十八番(?![線目地])|二十四の瞳|五七五|五十音|"
    "二十日(?:大根|鼠)|三十一文字|三百代言|十一面観音|二百十日|十二指腸|十二支|七十二候|四十七士|七五三"
)
"""Words and names with a numeral that stays as it is."""
_LONE_UNIT = re.compile("円|ドル|ユーロ|パーセント|キロ|メートル|グラム")
"""Counters after which 十, 百 or 千 alone is a number."""
_PERCENT = re.compile(" ?パーセント")
_SOME = ("数", "何", "幾", "なん")
_NEXT = {
    "年": "月",
    "月": "日",
    "時": "分",
    "時間": "分",
    "分": "秒",
    "円": "銭",
    "度": "分",
    "丁目": "番",
    "メートル": "センチ",
}
"""A unit, and what follows the number after it if both are one quantity."""
_UNIT_BETWEEN = re.compile(" ?({}) ?".format("|".join(sorted(_NEXT, key=len, reverse=True))))
_RANGE = re.compile(
    "(?:円|人|年|月|日|時|分|歳|個|回|度|番|キロ|メートル|パーセント)?(?:から|ないし|対)"
)


def japanese(text: str) -> str:
    """Return the text with its numbers as people write them."""
    plain = text.translate(_PLAIN)
    numbers = list[Number]()
    words = _WORDS.finditer(plain)
    word = next(words, None)
    for run in _RUN.finditer(plain):
        said = run[0].strip("点")
        if not said:
            continue
        start = run.start() + run[0].index(said)
        number = Number(start, start + len(said))
        while word is not None and word.end() <= start:
            word = next(words, None)
        if word is None or number.end <= word.start() or word.end() < number.end:
            before, after = plain[max(0, start - 4) : start], plain[number.end : number.end + 8]
            if not _is_part(said, before, after):
                _parse(number, said, before, after)
        numbers.append(number)
    chosen = joined(numbers, lambda one, other: _link(plain, one, other))
    return replaced(text, chosen)


def _is_part(said: str, before: str, after: str) -> bool:
    """Return whether a numeral is a part of something that stays in words."""
    if before[-1:].isdigit() or after[:1].isdigit() or before.endswith((".", "%")):
        return True
    if after.startswith((*_SOME, ".", "%", "つ")) or (before.endswith(_SOME) and said[0] in UNITS):
        return True
    fraction = before.endswith("分の") or re.match(f"分の[{_NUMERAL}]", after)
    return bool(fraction) or after.startswith("時半") or ("点" in said and after.startswith("点"))


def _parse(number: Number, said: str, before: str, after: str) -> None:
    first, *others = said.split("点")
    if len(others) > 1:
        return
    whole = _whole(first)
    if others:
        scaled = _SCALES.fullmatch(others[0])
        if whole is not None and scaled is not None:
            scale = "億" if scaled[2] == "亿" else scaled[2]
            number.write(f"{whole}.{scaled[1].translate(FIGURES)}{scale}", certain=True)
    elif len(said) > 2 and are_digits(said):
        if not is_counting(said) or (len(said) == 4 and after.startswith("年")):
            number.write(said.translate(FIGURES), certain=True)
    elif whole is not None:
        number.write(str(whole), certain=len(said) > 1 or _is_certain(said, before, after))
    if number.written is not None and (percent := _PERCENT.match(after)) is not None:
        number.end += percent.end()
        number.write(f"{number.written}%", certain=True)


def _is_certain(said: str, before: str, after: str) -> bool:
    counted = _LONE_UNIT.match(after) is not None or before.endswith("第")
    return said in "十百千" and counted


def _whole(said: str) -> int | None:
    """Compute the value of a whole number; None if it is none, such as 三四十."""
    if said == "零":
        return 0
    if not said or len(said) > _LONGEST or not _WHOLE.fullmatch(said):
        return None
    return value_of(said)


def _link(text: str, left: Number, right: Number) -> Link:
    if right.start - left.end > 8:
        return Link.NOTHING
    between, after = text[left.end : right.start], text[right.end : right.end + 4]
    if (unit := _UNIT_BETWEEN.fullmatch(between)) is not None:
        if not after.lstrip(" ").startswith(_NEXT[unit[1]]):
            return Link.NOTHING
        return Link.CERTAIN if unit[1] in ("月", "時") else Link.TOGETHER
    if between == "、" and not (left.certain and right.certain):
        return Link.UNCLEAR  # 四、五十人
    one_in = between == "人に" and text.startswith("一人", right.start)
    return Link.TOGETHER if one_in or _RANGE.fullmatch(between) else Link.NOTHING
