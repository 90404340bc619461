"""What happens to one word: case, place of the tone mark, short forms, acronyms, fillers, or a flag."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from trunkline import syllable
from trunkline.text.numbers import cardinal, ordinal, roman
from trunkline.text.readings import Readings

LATIN = re.compile(r"[A-Za-z\u00c0-\u02af\u1e00-\u1eff'’\u0300-\u036f]+")
_FILLER = re.compile(r"ờ+m*|ơ+m*|[ừư]+m+|u+h*m+|u+h+|h[ừưu]?m+|e+r+m*|ơ+h+|ớ+m+|ờ+h+")
_VOWEL = re.compile(r"[aeiouyăâêôơư]")
_CUES = "quý kỷ thứ chương khóa khoá phần tập cấp hạng loại vùng đoạn kỳ hội lần mục điều bảng nhóm khu quyển đợt"
_ROMAN_CUES = frozenset(_CUES.split())
_ACRONYM = 5  # longer words in capitals are words: FACEBOOK


class Word(NamedTuple):
    """A word as it is written out, by which rules, and why it is flagged or what it is tagged, if so."""

    out: str
    rules: tuple[str, ...] = ()
    flag: str = ""
    tag: str = ""


def read_word(written: str, readings: Readings, *, tone: str, spell: bool) -> Word:
    """Return what becomes of a run of letters on its own.

    `tone` is "old", "new" or "keep"; `spell` reads unknown acronyms letter by letter.
    """
    lower = lower_case(written)
    case = ("case",) if lower != written else ()
    reading = readings.find(written)
    if reading is None and lower in readings.chat:
        # MN in capitals may be something else than mn; KO, as it would be a syllable, is not.
        kept = written.isupper() and 1 < len(written) <= _ACRONYM and not syllable.parse(lower)
        reading = None if kept else readings.chat[lower]
    if reading is not None:
        # An acronym that is said as a word, as NASA, differs in case only.
        return Word(reading, ("abbreviation",) if reading != lower else case)
    if not LATIN.fullmatch(written):
        return Word(written, flag="script")
    if written in readings.letters and not _VOWEL.fullmatch(lower):
        return Word(readings.spell(written), ("letter",))
    if _FILLER.fullmatch(lower):
        return Word(lower, case, tag="filler")
    parsed = syllable.parse(lower)
    if parsed is None:
        return _foreign(written, lower, case, readings, spell)
    if tone == "keep" or not parsed.tone:
        return Word(lower, case)
    letters, key = syllable.split_tone(lower)  # type: ignore[misc]  # parse has seen that there is one tone
    placed = syllable.place_tone(letters, key, old=tone == "old")
    return Word(placed, (*case, "tone_mark") if placed != lower else case)


def lower_case(written: str) -> str:
    """Return a word in lower case and NFC, which lowering may undo."""
    lower = written.lower()
    return lower if lower.isascii() else unicodedata.normalize("NFC", lower)


def _foreign(
    written: str, lower: str, case: tuple[str, ...], readings: Readings, spell: bool
) -> Word:
    if len(written) == 1:
        return Word(lower, case, flag="letter")
    if written.isupper() and written.isalpha():
        if spell and (len(written) <= _ACRONYM or not _VOWEL.search(lower)):
            return Word(readings.spell(written), ("acronym",))
        if len(written) <= _ACRONYM or not _VOWEL.search(lower):
            return Word(written, flag="acronym")
    return Word(lower, case, flag="word")


def read_roman(written: str, last_word: str) -> str | None:
    """Return a Roman numeral in words, where one is to be expected: after "quý", "thế kỷ", or as II, VII, XIX.

    VI and XI alone are words in capitals; C, L and X alone are letters.
    """
    number = roman(written)
    if not number:
        return None
    word = len(written) < 2 or not set(written) <= set("IVX") or syllable.parse(written)
    if word and last_word not in _ROMAN_CUES:
        return None
    return ordinal(number) if last_word == "thứ" else cardinal(number)
