"""How Vietnamese reads numbers: cardinals, ordinals, decimals, digit by digit, Roman numerals, letter names."""

from __future__ import annotations

import re
from functools import lru_cache

DIGITS = ("không", "một", "hai", "ba", "bốn", "năm", "sáu", "bảy", "tám", "chín")
LARGEST = 10**18
"""Numbers from here on have no usual reading and are read digit by digit."""

_GROUPS = ("", " nghìn", " triệu")
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
_ROMAN = re.compile(r"(?=[IVXLC])(C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")

# Grouped by points (1.500.000,5), by commas (1,500,000.5; one comma alone is a decimal), or not at all.
NUMBER = (
    r"(?:[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+)?|[1-9]\d{0,2}(?:,\d{3}){2,}(?:\.\d+)?|\d+(?:[.,]\d+)?)"
)
"""Pattern of one written number; what may follow it is up to the caller."""


def digits(text: str) -> str:
    """Return the digits of `text` one by one, other characters left out: 0901 -> không chín không một."""
    return " ".join(DIGITS[int(x)] for x in text if x.isdecimal())


@lru_cache(maxsize=65536)
def cardinal(number: int) -> str:
    """Return a number from 0 to 10^18 - 1 in words: 21 -> hai mươi mốt, 105 -> một trăm linh năm."""
    if not 0 <= number < LARGEST:
        raise ValueError(f"{number} is not between 0 and 10^18 - 1.")
    if number < 1000:
        return _below_thousand(number, padded=False)
    billions, rest = divmod(number, 10**9)
    parts = [f"{cardinal(billions)} tỷ"] if billions else []
    for power in (2, 1, 0):
        group = rest // 1000**power % 1000
        if group:
            parts.append(_below_thousand(group, padded=bool(parts)) + _GROUPS[power])
    return " ".join(parts)


def _below_thousand(number: int, padded: bool) -> str:
    """Return 0..999 in words; `padded` says "không trăm" as the lower groups of a longer number do."""
    hundreds, rest = divmod(number, 100)
    if not hundreds and not padded:
        return _below_hundred(rest)
    words = f"{DIGITS[hundreds]} trăm"
    if not rest:
        return words
    return f"{words} linh {DIGITS[rest]}" if rest < 10 else f"{words} {_below_hundred(rest)}"


def _below_hundred(number: int) -> str:
    tens, units = divmod(number, 10)
    if not tens:
        return DIGITS[units]
    words = "mười" if tens == 1 else f"{DIGITS[tens]} mươi"
    if not units:
        return words
    # One is mốt after twenty and above, five is lăm after any ten; the rest keep their names.
    last = {1: "mốt" if tens > 1 else "một", 5: "lăm"}.get(units, DIGITS[units])
    return f"{words} {last}"


def ordinal(number: int) -> str:
    """Return what follows "thứ": nhất, hai, ba, tư, năm, ..."""
    return {1: "nhất", 4: "tư"}.get(number) or cardinal(number)


def month(number: int) -> str:
    """Return what follows "tháng": the fourth month is "tư"."""
    return "tư" if number == 4 else cardinal(number)


def read_integer(text: str) -> str:
    """Return unbroken digits in words: 007 and numbers too long for a name digit by digit, one padding zero unread."""
    if len(text) > 18 or (text[0] == "0" and len(text) > 2) or text == "00":
        return digits(text)
    return cardinal(int(text))


def read_number(text: str, *, english: bool = False) -> str:
    """Return a number that `NUMBER` matches in words; the comma is "phẩy", a decimal point "chấm".

    With `english`, as before a dollar, one comma with three digits after it groups thousands (1,500 is 1500).
    """
    if re.fullmatch(r"[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+)?", text):
        whole, _, fraction = text.replace(".", "").partition(",")
        sign = "phẩy"
    elif re.fullmatch(
        r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?"
        if english
        else r"[1-9]\d{0,2}(?:,\d{3}){2,}(?:\.\d+)?",
        text,
    ):
        whole, _, fraction = text.replace(",", "").partition(".")
        sign = "chấm"
    else:
        whole, mark, fraction = re.fullmatch(r"(\d+)([.,]?)(\d*)", text).groups()  # type: ignore[union-attr]
        sign = "chấm" if mark == "." else "phẩy"
    words = read_integer(whole)
    return f"{words} {sign} {_read_fraction(fraction)}" if fraction else words


def _read_fraction(text: str) -> str:
    """Return digits after the comma: one or two as a number (14 -> mười bốn), others and 05 digit by digit."""
    return digits(text) if len(text) > 2 or text[0] == "0" else cardinal(int(text))


def value(text: str) -> float:
    """Return the value of a number that `NUMBER` matches."""
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?", text):
        return float(text.replace(".", "").replace(",", "."))
    if re.fullmatch(r"\d{1,3}(?:,\d{3}){2,}(?:\.\d+)?", text):
        return float(text.replace(",", ""))
    return float(text.replace(",", "."))


def roman(text: str) -> int | None:
    """Return the value of a Roman numeral in capitals, up to CCCXCIX, or None."""
    if not _ROMAN.fullmatch(text):
        return None
    values = [_VALUES[x] for x in text]
    return sum(-x if x < max(values[i:]) else x for i, x in enumerate(values))
