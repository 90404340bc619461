"""Numbers that name something and are read digit by digit: telephones, cards, accounts, codes, plates."""

from __future__ import annotations

import re

from trunkline.text.context import END, Before, Reading, Rule
from trunkline.text.numbers import digits

_PLATE = re.compile(rf"\d{{2}}[A-ZĐ]\d?[ \-](?:\d{{3}}\.?\d{{2}}|\d{{4}}){END}")
_USSD = re.compile(r"\*\d+(?:\*\d+)*#")
_MASKED = re.compile(
    rf"(?:\d{{4}}[ \-])?(?:[*•]{{2,}}[ \-]?)+\d{{2,4}}{END}|\d{{2,6}}[*•xX]{{2,}}[*•xX\d]*{END}"
)
_CARD = re.compile(rf"\d{{4}}([ .\-])\d{{4}}\1\d{{4}}\1\d{{2,4}}{END}")
_PHONES = (
    re.compile(rf"(?:\+84|0084|0)[ .\-]?\d{{2,3}}([ .\-]?)\d{{3,4}}\1\d{{3,4}}{END}"),
    re.compile(rf"0\d{{2,3}}(?:[ .\-]\d{{2}}){{3}}{END}"),
    re.compile(rf"\(0\d{{1,3}}\) ?(?:\d[ .\-]?)?\d{{3,4}}[ .\-]?\d{{3,4}}{END}"),
)
_HOTLINE = re.compile(rf"1[89]00(?:([ .\-])\d{{2,4}}\1\d{{2,4}}|[ .\-]?\d{{4,6}}){END}(?![.,]\d)")
_RUN = re.compile(rf"\d+{END}(?![.,:/]\d)")

# What is read digit by digit says so before it, up to a few small words.
_SMALL = r"(?: (?:số|là|của|tôi|em|anh|chị|mình|này|máy|về|theo|qua|cuối|gồm))*"
_CUE = re.compile(
    r"(?:tài khoản|điện thoại|hotline|tổng đài|căn cước(?: công dân)?|chứng minh(?: thư)?(?: nhân dân)?|hộ chiếu"
    rf"|thẻ|số hợp đồng|mã|ô tê pê|pin|xê vê vê|mật khẩu|số máy){_SMALL}$"
)
_SHORT_CUE = re.compile(rf"(?:mã|ô tê pê|pin|xê vê vê|mật khẩu){_SMALL}$")
_CALL = re.compile(r"(?:gọi|tổng đài|số|hotline)(?: (?:số|đến|tới|cho|ngay|cảnh sát))*$")
_EMERGENCY = ("111", "112", "113", "114", "115", "116", "119")


def _plate(match: re.Match[str], before: Before) -> Reading | None:
    """51F-123.45, each character by its name."""
    letters = "".join(x for x in match[0] if x.isalnum())
    return Reading(match.end(), before.readings.spell(letters), "plate")


def _ussd(match: re.Match[str], before: Before) -> Reading | None:
    """*100#, what one types on a telephone."""
    names = {"*": "sao", "#": "thăng"}
    words = " ".join(names.get(x) or digits(x) for x in match[0])
    return Reading(match.end(), words, "phone")


def _phone(match: re.Match[str], before: Before) -> Reading | None:
    """0901 234 567, +84 901 234 567, (028) 3822 1234: ten or eleven digits with the zero."""
    length = sum(x.isdecimal() for x in match[0])
    plus = match[0].startswith("+")
    expected = (11, 12) if plus else (13, 14) if match[0].startswith("0084") else (10, 11)
    if length not in expected:
        return None
    return Reading(match.end(), f"{'cộng ' if plus else ''}{digits(match[0])}", "phone")


def _hotline(match: re.Match[str], before: Before) -> Reading | None:
    """1900 585885, 1800.1234; 1900-1950 is a stretch of years."""
    length = sum(x.isdecimal() for x in match[0])
    if length not in (8, 10) or (length == 8 and "-" in match[0]):
        return None
    return Reading(match.end(), digits(match[0]), "phone")


def _card(match: re.Match[str], before: Before) -> Reading | None:
    """9704 3612 3456 7890."""
    return Reading(match.end(), digits(match[0]), "card")


def _run(match: re.Match[str], before: Before) -> Reading | None:
    """A run of digits after "số tài khoản", "mã" and the like; a long one that no zeros round off; 0123."""
    text = match[0]
    follows = before.rule in ("digits", "phone", "card") and len(text) > 2
    goes_on = follows and match.string[match.start() - 1] in " .-"
    cued = _CUE.search(before.words(8)) if len(text) >= 4 else None
    short = _SHORT_CUE.search(before.words(8)) if 2 <= len(text) < 4 else None
    call = text in _EMERGENCY and _CALL.search(before.words(5))
    odd = (
        len(text) >= 7 and not text.endswith("000") or (text[0] == "0" and len(text) > 2)
    ) or len(text) > 15
    if not (goes_on or cued or short or call or odd):
        return None
    return Reading(match.end(), digits(text), "digits")


def masked(text: str, at: int) -> int | None:
    """Return where a number with hidden digits ends (**** 1234), or None: no one knows how to read it."""
    match = _MASKED.match(text, at)
    return match.end() if match else None


RULES: list[Rule] = [
    (_PLATE, _plate),
    (_CARD, _card),
    *((pattern, _phone) for pattern in _PHONES),
    (_HOTLINE, _hotline),
    (_USSD, _ussd),
]
"""Tried before dates and quantities."""

RUNS: list[Rule] = [(_RUN, _run)]
"""Tried after them."""
