"""Dates and times: 20/11/2026, 30/4, 8/2020, 14-18/9, 2026-11-20, 9h30, 9:30:15, 79'."""

from __future__ import annotations

import re

from trunkline.text.context import END, Before, Reading, Rule
from trunkline.text.numbers import NUMBER, cardinal, month, read_number

# After these a day needs no "ngày" of its own.
_DAY_WORDS = "ngày mùng mồng hôm sáng trưa chiều tối đêm nay qua mai kia dịp lễ rằm"
_DAY_SAID = frozenset(_DAY_WORDS.split())
_DATE_CUE = _DAY_SAID | {"trước", "sau"}
_GOES_ON = {"và", "đến", "tới", "hoặc", "hay"}
_PAPERS = {"quyết", "định", "luật", "lệnh", "tư", "số", "thị", "văn", "tỷ", "tỉ", "mục", "điều"}

_DAY_MONTH_YEAR = re.compile(
    rf"(?P<day>\d{{1,2}})(?P<mark>[/.\-])(?P<month>\d{{1,2}})(?P=mark)(?P<year>\d{{4}}){END}(?![/\-]\w)"
)
_YEAR_MONTH_DAY = re.compile(rf"(?P<year>\d{{4}})-(?P<month>\d\d)-(?P<day>\d\d){END}")
_DAYS = re.compile(
    rf"(?P<first>\d{{1,2}})(?:/(?P<first_month>\d{{1,2}}))?\s?[-–—]\s?(?P<day>\d{{1,2}})/(?P<month>\d{{1,2}})"
    rf"(?:/(?P<year>\d{{4}}))?{END}(?!/)"
)
_MONTH_YEAR = re.compile(rf"(?P<month>\d{{1,2}})[/\-](?P<year>\d{{4}}){END}(?!/)")
_DAY_MONTH = re.compile(rf"(?P<day>\d{{1,2}})[/\-](?P<month>\d{{1,2}}){END}(?![/%]|[.,]\d)")
_HOURS = re.compile(
    rf"(?P<hour>\d{{1,2}})\s?(?:[hHg]|giờ\s)\s?(?P<minute>[0-5]\d|\d(?=ph?(?:út)?(?![^\W_])))(?:\s?(?:phút|ph|p|['’′]))?{END}"
)
_CLOCK = re.compile(
    rf"(?P<hour>\d{{1,2}}):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?(?:\s?(?:giờ|phút|h)(?!\w))?{END}(?!:)"
)
_MINUTES = re.compile(rf"(?P<number>{NUMBER})['’′](?!\w)")


def _is_day(day: str, of: str) -> bool:
    return 1 <= int(day) <= 31 and 1 <= int(of) <= 12


def _day(day: str, of: str) -> str:
    return f"{cardinal(int(day))} tháng {month(int(of))}"


def _year(year: str | None) -> str:
    return f" năm {cardinal(int(year))}" if year else ""


def _prefix(before: Before) -> str:
    said = before.word in _DAY_SAID or (before.rule == "date" or before.word in _GOES_ON)
    return "" if said else "ngày "


def _date(match: re.Match[str], before: Before) -> Reading | None:
    """20/11/2026, 20-11-2026, 20.11.2026 and 2026-11-20."""
    day, of, year = match["day"], match["month"], match["year"]
    if not _is_day(day, of):
        return None
    return Reading(match.end(), f"{_prefix(before)}{_day(day, of)}{_year(year)}", "date")


def _days(match: re.Match[str], before: Before) -> Reading | None:
    """14-18/9, 30/4-1/5, 20-25/11/2026: from a day to a day."""
    day, of, first = match["day"], match["month"], match["first"]
    first_month = match["first_month"]
    if not _is_day(day, of) or not _is_day(first, first_month or of):
        return None
    if not first_month and int(first) >= int(day):
        return None
    words = _day(first, first_month) if first_month else cardinal(int(first))
    text = f"{_prefix(before)}{words} đến {_day(day, of)}{_year(match['year'])}"
    return Reading(match.end(), text, "date")


def _month_year(match: re.Match[str], before: Before) -> Reading | None:
    """8/2020; after "quý" the number is a quarter; after "nghị quyết" and the like it is no date."""
    of, year = match["month"], match["year"]
    if not (1 <= int(of) <= 12 and 1800 <= int(year) <= 2199) or before.word in _PAPERS:
        return None
    if before.word == "quý":
        return Reading(match.end(), f"{cardinal(int(of))}{_year(year)}", "date")
    prefix = "" if before.word in ("tháng", "tới", "đến") or before.rule == "date" else "tháng "
    return Reading(match.end(), f"{prefix}{month(int(of))}{_year(year)}", "date")


def _day_month(match: re.Match[str], before: Before) -> Reading | None:
    """30/4: a date where a word says so, after another date, or when the day is past 12 (1/3 is a fraction)."""
    day, of = match["day"], match["month"]
    if not _is_day(day, of) or before.word in _PAPERS:
        return None
    cued = before.word in _DATE_CUE or before.rule == "date"
    goes_on = before.word in _GOES_ON and "tháng" in before.words(5).split()
    slash = match.string[match.end(1)] == "/"
    if not (cued or (slash and (goes_on or (int(day) > 12 and len(of) <= 2)))):
        return None
    return Reading(match.end(), f"{_prefix(before)}{_day(day, of)}", "date")


def _time_words(hour: str, minute: str, second: str | None = None) -> str:
    words = f"{cardinal(int(hour))} giờ"
    if int(minute) or second:
        words += f" {cardinal(int(minute))} phút"
    return words + (f" {cardinal(int(second))} giây" if second else "")


def _hours(match: re.Match[str], before: Before) -> Reading | None:
    """9h30, 9g30, 9h30', 9 giờ 30, 12h10 phút."""
    if int(match["hour"]) > 24:
        return None
    return Reading(match.end(), _time_words(match["hour"], match["minute"]), "time")


def _clock(match: re.Match[str], before: Before) -> Reading | None:
    """9:30 and 9:30:15."""
    if int(match["hour"]) > 24:
        return None
    words = _time_words(match["hour"], match["minute"], match["second"])
    return Reading(match.end(), words, "time")


def _minutes(match: re.Match[str], before: Before) -> Reading | None:
    """79', minutes of a match."""
    minutes = "" if before.word == "phút" or "phút" in before.words(4).split() else " phút"
    return Reading(match.end(), f"{read_number(match['number'])}{minutes}", "time")


RULES: list[Rule] = [
    (_DAY_MONTH_YEAR, _date),
    (_YEAR_MONTH_DAY, _date),
    (_DAYS, _days),
    (_MONTH_YEAR, _month_year),
    (_DAY_MONTH, _day_month),
    (_HOURS, _hours),
    (_CLOCK, _clock),
    (_MINUTES, _minutes),
]
"""In the order in which they are tried where a digit stands."""
