"""Relations between the numbers of an English text: ranges, sums, amounts in two units."""

import re

from modelserver.worker.numbers_joined import Link, Number

_POWERS = (("hundred", 2), ("thousand", 3))
_UNIT = (
    r"dollars?|euros?|pounds?|hours?|minutes?|days?|weeks?|months?|years?|feet|foot|met(?:er|re)s?|"
    r"miles?|yards?|kilos?|degrees?"
)
_UNIT_BETWEEN = re.compile(rf" (?:{_UNIT})((?:,? and)?) ")
_UNIT_AFTER = re.compile(rf" (?:{_UNIT}|seconds?)\b")
_SMALLER = re.compile(
    r" (?:cents?|pence|minutes?|seconds?|hours?|days?|weeks?|months?|inch(?:es)?|ounces?|grams?|"
    r"centimet(?:er|re)s?)\b"
)
_NO_UNIT = re.compile(r"$|[^\w ]| (?:each|for|tall|please|and)\b")
_LONGEST = 40
"""Digits of two numbers that may be a range of amounts."""
_RANGE = re.compile(r"[ -](?:to|through|up to|or) |-")
_OPERATOR = re.compile(r" (?:by|times|plus|minus|out of(?: every)?|divided by|equals|versus) ")


def english_link(text: str, left: Number, right: Number) -> Link:
    """Return the link of two numbers that follow one another in a text in lower case."""
    if right.start - left.end > 24:
        return Link.NOTHING
    between, after = text[left.end : right.start], text[right.end : right.end + 32]
    if (unit := _UNIT_BETWEEN.fullmatch(between)) is not None:
        smaller = _SMALLER.match(after) or (not unit[1] and _NO_UNIT.match(after))
        return Link.TOGETHER if smaller else Link.NOTHING
    if _OPERATOR.fullmatch(between):
        return Link.TOGETHER
    if between == " in " and text[left.start : left.end] == "one" and not _UNIT_AFTER.match(after):
        return Link.TOGETHER
    if between == " and " and text.endswith("between ", 0, left.start):
        return Link.TOGETHER
    if between == " and " and not (left.certain and right.certain):
        return Link.UNCLEAR  # four and twenty
    if _RANGE.fullmatch(between):
        return _range(between, left, right, text, after)
    return Link.NOTHING


def _range(between: str, left: Number, right: Number, text: str, after: str) -> Link:
    """Return the link of numbers between which there is to or or."""
    if left.written is None or right.written is None:
        return Link.TOGETHER if left.certain or right.certain else Link.NOTHING
    low, high = left.written.rstrip("%"), right.written.rstrip("%")
    if "%" in right.written:
        return Link.TOGETHER
    if not (low.isdigit() and high.isdigit()) or len(low + high) > _LONGEST:
        return Link.TOGETHER
    scale = next((10**n for word, n in _POWERS if text.endswith(word, 0, right.end)), 1)
    if int(low) < int(high) // scale < int(high):
        return Link.UNCLEAR  # two to three hundred
    if between == " or " and int(low) < 10:
        return Link.UNCLEAR  # nine or ten
    clock = int(low) in (5, 10, 20, 25) and 0 < int(high) <= 12
    if between == " to " and clock and not text.endswith(("from ", "between "), 0, left.start):
        return Link.UNCLEAR  # ten to eleven
    return Link.TOGETHER
