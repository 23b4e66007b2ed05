"""Numerals in Chinese characters, as Chinese and Japanese write them, and their values."""

DIGITS = "零一二三四五六七八九"
UNITS = "十百千万亿"
FIGURES = str.maketrans(DIGITS, "0123456789")
ASCENDING = DIGITS[1:]
_VALUES = {character: n for n, character in enumerate(DIGITS)} | {"两": 2}
_SMALL = {"十": 10, "百": 100, "千": 1000}
_LARGE = {"万": 10**4, "亿": 10**8, "兆": 10**12}


def are_digits(said: str) -> bool:
    """Return whether a numeral is spoken digit by digit."""
    return all(character in DIGITS for character in said)


def is_counting(said: str) -> bool:
    """Return whether these count up or down (一二三) or come in pairs (七七八八)."""
    pairs = len(said) == 4 and said[0] == said[1] != said[2] == said[3]
    return (len(said) < 6 and (said in ASCENDING or said in ASCENDING[::-1])) or pairs


def value_of(said: str) -> int:
    """Compute the value of a well-formed numeral, such as 一万两千三百."""
    total = section = digit = 0  # of what is below the last large unit: section and digit
    beyond = 0
    for character in said:
        if character in _VALUES:
            digit = _VALUES[character]
        elif character in _SMALL:
            section, digit = section + (digit or 1) * _SMALL[character], 0
        elif character == "万":
            beyond, section, digit = (section + digit) * _LARGE[character], 0, 0
        else:
            total += (beyond + section + digit) * _LARGE[character]
            beyond = section = digit = 0
    return total + beyond + section + digit
