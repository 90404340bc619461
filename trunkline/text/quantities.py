"""Amounts: money, units, percent, ordinals, fractions, ranges, and numbers that are only numbers."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from trunkline import syllable
from trunkline.text.context import END, END_OF_NUMBER, Before, Reading, Rule
from trunkline.text.numbers import (
    NUMBER,
    cardinal,
    digits,
    month,
    ordinal,
    read_integer,
    read_number,
    value,
)
from trunkline.text.readings import Readings

_COMPACT = re.compile(
    rf"(\d{{1,3}})(tr|triệu|tỷ|tỉ|k|nghìn|ngàn|m)(\d{{1,3}}){END_OF_NUMBER}", re.I
)
_PREFIXED = re.compile(
    rf"(US\$|[$€£¥₫฿₩])\s?({NUMBER})(?:\s?(triệu|tỷ|tỉ|tr|nghìn|ngàn|million|billion|bn|[kKMBT])(?!\w))?"
)
_SPACED = re.compile(
    r"[1-9]\d{0,2}(?:[ \u00a0\u202f]\d{3}){2,}(?![.,]?\d)|[1-9]\d{0,2}(?:[ \u00a0\u202f]\d{3})"
)
_AMOUNT = re.compile(NUMBER)
_TIMES = re.compile(rf"({NUMBER})\s?[x×]\s?(?=\d)")
_CHAIN = re.compile(rf"\d+(?:-\d+){{2,}}{END_OF_NUMBER}")
_VERSION = re.compile(rf"\d+(?:\.\d+){{2,}}{END}(?![,]\d)")
_LIST = re.compile(rf"\d+(?:,\d+){{2,}}{END_OF_NUMBER}")
_SLASHED = re.compile(rf"({NUMBER})((?:/\d+)+)(?!/?\d)")
_RATIO = re.compile(rf"\d+(?::\d+)+{END}(?![.,:/]\d)")
_GLUED = re.compile(rf"({NUMBER})([^\W\d_]{{2,}})(?![^\W_])")
_LETTERED = re.compile(r"(\d{1,4})([A-Za-zĐđ])(?![^\W_])")
_PLAIN = re.compile(rf"{NUMBER}{END_OF_NUMBER}")

_WESTERN_SCALES = {"k": "nghìn", "K": "nghìn", "M": "triệu", "B": "tỷ", "bn": "tỷ", "T": "nghìn tỷ"} | {
    "million": "triệu", "billion": "tỷ",
}  # fmt: skip
_LOWER_SCALE = {"triệu": " nghìn", "tỷ": " triệu", "nghìn": ""}
_SPANS = "ngày tháng tuần năm quý tối đêm"
_ONE: dict[str, str] = dict.fromkeys(
    _SPANS.split(), "một"
)  # 5 triệu/tháng; other denominators: trên


class _Units(NamedTuple):
    """Patterns of what may follow a number: scales, then currencies and units, longest first."""

    scale: re.Pattern[str]
    unit: re.Pattern[str]


@lru_cache(maxsize=8)
def _units(readings: Readings) -> _Units:
    scales = rf"[ \u00a0]?(?:{_any(readings.scales)})"
    units = rf"[ \u00a0]?(?:{_any(readings.units | readings.currencies)})"
    return _Units(
        re.compile(f"(?:{scales}|{_any(readings.attached_scales)})"),
        re.compile(f"(?:{units}|{_any(readings.attached)})"),
    )


def _any(table: dict[str, str]) -> str:
    """Return a pattern of the forms; those that end in a letter or digit must end there, case as in the table."""
    parts = []
    for form in sorted(table, key=len, reverse=True):
        body = re.escape(form)
        if form == form.lower() and form.upper() != form and len(form) > 1:
            body = f"(?i:{body})"
        parts.append(body + (END if form[-1].isalnum() else ""))
    return "|".join(parts)


def _with_unit(text: str, at: int, before: Before) -> tuple[str, int, bool]:
    """Return the words of the scale, unit and denominator at `at`, where they end, and whether it is money."""
    patterns = _units(before.readings)
    words, money = "", False
    scale = patterns.scale.match(text, at)
    if scale:
        words, at = f" {before.readings.unit(scale[0].strip())}", scale.end()
    unit = patterns.unit.match(text, at)
    if unit:
        form = unit[0].strip()
        words += f" {before.readings.unit(form)}"
        at = unit.end()
        table = before.readings.currencies
        money = form in table or form.lower() in table
    if words:
        denominator = re.compile(r"/([^\W\d_]+[23²³]?)(?![^\W_])").match(text, at)
        if denominator:
            form = denominator[1]
            spoken = before.readings.units.get(form) or before.readings.attached.get(form)
            words += f" {_ONE.get(form, 'trên')}"
            # A word stays for the rules of words; only the slash is read here.
            at = denominator.end() if spoken else at + 1
            words += f" {spoken}" if spoken else ""
    return words, at, money


def _compact(match: re.Match[str], before: Before) -> Reading | None:
    """1tr5, 2k5, 1tỷ200, 1m65: what follows the unit is its next part."""
    first, unit, rest = match[1], match[2].lower(), match[3]
    if unit == "m":
        if len(first) > 1 or (len(rest) == 1 and rest in "23"):
            return None  # m2 and m3 are units of their own
        return Reading(match.end(), f"{cardinal(int(first))} mét {read_integer(rest)}", "quantity")
    scale = before.readings.unit(unit) or unit
    if len(rest) == 3:
        below = f"{cardinal(int(rest))}{_LOWER_SCALE[scale]}"
    else:
        below = digits(rest) if rest[0] == "0" else cardinal(int(rest))
    return Reading(match.end(), f"{cardinal(int(first))} {scale} {below}", "money")


def _prefixed(match: re.Match[str], before: Before) -> Reading | None:
    """$100, US$1.5 million, €3,5 tỷ: read after the amount."""
    amount = read_number(match[2], english=match[1] != "₫")
    scale = match[3]
    if scale:
        amount += f" {_WESTERN_SCALES.get(scale) or before.readings.unit(scale)}"
    elif re.match(r"[^\W_]", match.string[match.end() : match.end() + 1]):
        return None
    sign = "$" if match[1] == "US$" else match[1]
    words = f"{amount} {before.readings.currencies[sign]}"
    return Reading(match.end(), words + (" mỹ" if match[1] == "US$" else ""), "money")


def _spaced(match: re.Match[str], before: Before) -> Reading | None:
    """1 500 000, or 15 000 before a currency."""
    number = re.sub(r"\D", "", match[0])
    words, end, money = _with_unit(match.string, match.end(), before)
    if len(number) < 7 and not money:
        return None
    return Reading(
        end, cardinal(int(number)) + words, "money" if money else "number", float(number)
    )


def _amount(match: re.Match[str], before: Before) -> Reading | None:
    """3,5%, 25km/h, 100m2, 1.500.000đ, 2,5 tỷ USD, 500k."""
    words, end, money = _with_unit(match.string, match.end(), before)
    if not words:
        return None
    number = match[0]
    amount = read_number(number, english=money and "," in number and "." not in number)
    rule = "money" if money else "percent" if "phần trăm" in words else "quantity"
    return Reading(end, amount + words, rule, value(number))


def _times(match: re.Match[str], before: Before) -> Reading | None:
    """1920x1080."""
    return Reading(match.end(), f"{read_number(match[1])} nhân", "times")


def _chain(match: re.Match[str], before: Before) -> Reading | None:
    """4-2-3-1."""
    words = " ".join(read_integer(x) for x in match[0].split("-"))
    return Reading(match.end(), words, "list")


def _version(match: re.Match[str], before: Before) -> Reading | None:
    """2.0.1, 192.168.1.1; groups of three are a number."""
    if re.fullmatch(r"[1-9]\d{0,2}(?:\.\d{3})+", match[0]):
        return None
    words = " chấm ".join(read_integer(x) for x in match[0].split("."))
    return Reading(match.end(), words, "version")


def _list(match: re.Match[str], before: Before) -> Reading | None:
    """1,2,3; groups of three are a number."""
    if re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+", match[0]):
        return None
    words = " ".join(read_integer(x) for x in match[0].split(","))
    return Reading(match.end(), words, "list")


def _slashed(match: re.Match[str], before: Before) -> Reading | None:
    """2/3 is a fraction; 120/80, 115/2020 and house numbers are read with "trên"."""
    first, rest = match[1], match[2][1:].split("/")
    if len(rest) == 1 and first.isdecimal() and 0 < int(first) < int(rest[0]) <= 10:
        words = f"{cardinal(int(first))} phần {ordinal(int(rest[0]))}"
    else:
        words = " trên ".join([read_number(first), *map(read_integer, rest)])
    unit, end, _ = _with_unit(match.string, match.end(), before)
    glued = not unit and match.string[end : end + 1].isalnum()
    return None if glued else Reading(end, words + unit, "fraction")


def _lettered(match: re.Match[str], before: Before) -> Reading | None:
    """45B, 1a, 8x: a number and the name of a letter."""
    name = before.readings.spell(match[2])
    return Reading(match.end(), f"{read_integer(match[1])} {name}", "letters")


def _ratio(match: re.Match[str], before: Before) -> Reading | None:
    """16:9 and 50:50, which are no time of day."""
    words = " ".join(read_integer(x) for x in match[0].split(":"))
    return Reading(match.end(), words, "list")


def _glued(match: re.Match[str], before: Before) -> Reading | None:
    """2lần: the space is missing; the word is left to the rules of words."""
    if syllable.parse(match[2]) is None or match[2].isupper():
        return None
    return Reading(match.end(1), read_number(match[1]), "number", value(match[1]))


def _plain(match: re.Match[str], before: Before) -> Reading | None:
    """A number alone: an ordinal after "thứ", a month after "tháng", else a cardinal or decimal."""
    text, last = match[0], before.word
    small = int(text) if text.isdecimal() and len(text) < 3 else 0
    if last == "thứ" and small:
        return Reading(match.end(), ordinal(small), "ordinal", small)
    if last == "tháng" and 1 <= small <= 12:
        return Reading(match.end(), month(small), "date", small)
    rule = "number" if text.isdecimal() or re.search(r"[.,]\d{3}(?!\d)", text) else "decimal"
    return Reading(match.end(), read_number(text), rule, value(text))


FIRST: list[Rule] = [
    (_COMPACT, _compact),
    (_PREFIXED, _prefixed),
    (_SPACED, _spaced),
    (_TIMES, _times),
]
LAST: list[Rule] = [
    (_AMOUNT, _amount),
    (_CHAIN, _chain),
    (_VERSION, _version),
    (_LIST, _list),
    (_SLASHED, _slashed),
]
ALONE: list[Rule] = [(_LETTERED, _lettered), (_RATIO, _ratio), (_GLUED, _glued), (_PLAIN, _plain)]
"""In the order in which they are tried: `FIRST`, `LAST`, runs of digits, `ALONE`."""
