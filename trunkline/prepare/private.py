"""Numbers that belong to somebody: telephones, cards and accounts, in digits or spelled out.

The scanner is made to refuse, so it errs on the side of finding: nine digits in a row are somebody's
until they are known to be an amount. It knows digits with spaces, dots, commas and hyphens between them, and
Vietnamese and English digit words, with and without diacritics ("không chín không một ...",
"chín mươi", "double five"), also mixed with digits and with hesitations between.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

_LEAST = 9  # digits; shorter numbers are extensions, dates, amounts
_DIGITS = {
    "0": "không zero oh", "1": "một mốt one", "2": "hai two", "3": "ba three", "4": "bốn tư four",
    "5": "năm lăm nhăm five", "6": "sáu six", "7": "bảy bẩy seven", "8": "tám eight", "9": "chín nine",
}  # fmt: skip
_HESITATIONS = "ờ à ừ ừm ạ dạ vâng rồi là và um uh uhm and lẻ linh"
_TIMES = {"double": 2, "triple": 3, "đúp": 2}
_TENS = {"mươi", "mười", "muoi"}
_TOKEN = re.compile(r"[0-9]+|[^\W\d_]+|[^\w\s]|_")
# What is no number of anybody's: 1.500.000 or 1,500,000.00, a day, a hash.
_AMOUNT = re.compile(
    r"(?<![\d.,])[1-9]\d{0,2}(?:(?:\.\d{3}){1,3}(?:,\d+)?|(?:,\d{3}){1,3}(?:\.\d+)?)(?![\d.,]*\d)"
)
_DAY = re.compile(
    r"(?<![\d.-])(?:(?:19|20)\d\d-[01]\d-[0-3]\d|[0-3]?\d([-/.])[01]?\d\1(?:19|20)\d\d)(?!\d)"
)
_HASH = re.compile(r"\b(?=[0-9a-f]*[a-f])[0-9a-f]{32,}\b")
_SEPARATORS = frozenset(".,;-()+")
_MOBILE = re.compile(r"(?:0|84|0084)[35789]\d{8}")
_LANDLINE = re.compile(r"(?:0|84|0084)2\d{9}")
_CARD_STARTS = ("2", "3", "4", "5", "6", "9704")


class Found(NamedTuple):
    """A number that must not get out: "phone", "card" or "account", and where it stands in the text."""

    kind: str
    start: int
    end: int


class _Digit(NamedTuple):
    digits: str
    start: int
    end: int
    spelled: bool


def _plain(word: str) -> str:
    stripped = unicodedata.normalize("NFD", word.lower().replace("đ", "d"))
    return "".join(letter for letter in stripped if not unicodedata.combining(letter))


_WORDS = {
    unicodedata.normalize("NFC", word): digit
    for digit, words in _DIGITS.items()
    for word in words.split()
}
_PLAIN = {_plain(word): digit for word, digit in _WORDS.items()}
_PAUSES = {unicodedata.normalize("NFC", word) for word in _HESITATIONS.split()}


def find(text: str) -> list[Found]:
    """Return the telephone, card and account numbers of a text, in order."""
    text = unicodedata.normalize("NFKC", text)
    for pattern in (_HASH, _DAY, _AMOUNT):
        text = pattern.sub(lambda match: "#" * len(match[0]), text)
    return [
        found
        for run in _runs(text)
        if (found := _judge("".join(part.digits for part in run), run)) is not None
    ]


def find_in(value: Any) -> list[str]:
    """Return the kinds of numbers in a JSON value, its keys and strings and whole numbers included."""
    if isinstance(value, str):
        return [found.kind for found in find(value)]
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, int):
        return [found.kind for found in find(str(abs(value)))]
    if isinstance(value, dict):
        return [kind for pair in value.items() for item in pair for kind in find_in(item)]
    if isinstance(value, list | tuple):
        words = " ".join(item for item in value if isinstance(item, str))  # spelled item by item
        return [kind for item in value for kind in find_in(item)] or find_in(words)
    return []


def find_in_line(line: str) -> list[str]:
    """Return the kinds of numbers in a line of a file: as JSON where it is JSON, else as text."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = line
    return find_in(line if isinstance(value, int | float) else value)


def luhn(digits: str) -> bool:
    """Return whether the last digit checks the others (ISO/IEC 7812-1, annex B)."""
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def _judge(digits: str, run: list[_Digit]) -> Found | None:
    if len(digits) < _LEAST:
        return None
    start, end = run[0].start, run[-1].end
    if _MOBILE.fullmatch(digits) or _LANDLINE.fullmatch(digits):
        return Found("phone", start, end)
    if 13 <= len(digits) <= 19 and digits.startswith(_CARD_STARTS) and luhn(digits):
        return Found("card", start, end)
    return Found("account", start, end)


def _runs(text: str) -> Iterator[list[_Digit]]:
    """Yield runs of digits, spelled or not, with nothing but separators and hesitations between."""
    run: list[_Digit] = []
    pauses, times = 0, 1
    for match in _TOKEN.finditer(text):
        token = match[0].lower()
        digits = token if token.isdigit() else _spelled(token, run)
        if digits is not None:
            run.append(_Digit(digits * times, match.start(), match.end(), not token.isdigit()))
            pauses, times = 0, 1
        elif token in _TIMES:
            times = _TIMES[token]
        elif run and token in _PAUSES and pauses < 2:
            pauses += 1
        elif token not in _SEPARATORS:
            yield from [run] * bool(run)
            run, pauses, times = [], 0, 1
    yield from [run] * bool(run)


def _spelled(word: str, run: list[_Digit]) -> str | None:
    """Return the digits that a word adds to a run; a digit without its marks counts as one too."""
    if word in _TENS:  # chín mươi mốt is 91, mười một is 11
        return "" if run and run[-1].spelled else "1"
    return _WORDS.get(word) or (_PLAIN.get(word) if word.isascii() else None)
