"""In which language is this transcript? A guess from letters and the most frequent words.

Made for sorting what came in (Vietnamese or not), not for telling a hundred languages apart: what
it does not know is "und", as BCP 47 says, never a wrong name.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

UNKNOWN = "und"

# Scripts of one language, or of many (und-Script).
_SCRIPTS = (
    ("he", 0x0590, 0x05FF), ("und-Cyrl", 0x0400, 0x04FF), ("und-Arab", 0x0600, 0x06FF),
    ("th", 0x0E00, 0x0E7F), ("lo", 0x0E80, 0x0EFF), ("km", 0x1780, 0x17FF), ("ko", 0xAC00, 0xD7AF),
    ("ja", 0x3040, 0x30FF), ("zh", 0x4E00, 0x9FFF),
)  # fmt: skip

# Letters that, of all Latin alphabets in use, Vietnamese alone has (or nearly so).
_VIETNAMESE = re.compile("[ăđơưạ-ỹ]")

_FREQUENT = {
    "vi": "à ạ anh bên bị cho chị có cô của dạ em được không là mà mình này nhé ông rồi thì tôi và vâng với alo",
    "en": "the of and to a in is you that it for on are with as i this be at have or from not we can but my no "
    "yes please what do me your one two three four five six seven eight nine zero",
    "fr": "le la les de des et un une je vous que qui dans est il elle pas pour ce sur au du se ne en son par",
}
_LANGUAGES = {language: frozenset(words.split()) for language, words in _FREQUENT.items()}
_MARKED = 0.15  # share of words with Vietnamese letters from which a text is Vietnamese
_KNOWN = 0.2  # share of frequent words from which a text is that language


def guess_language(text: str) -> str:
    """Return the likely language of a text as a BCP 47 tag, "und" where nothing speaks for one."""
    text = unicodedata.normalize("NFC", text).lower()
    letters = [ord(letter) for letter in text if letter.isalpha()]
    if not letters:
        return UNKNOWN
    scripts = Counter(_script(letter) for letter in letters)
    if scripts["ja"]:  # Japanese is written with Chinese characters too
        scripts["ja"] += scripts.pop("zh", 0)
    script, _ = scripts.most_common(1)[0]
    return _latin(text) if script == "" else script


def _script(letter: int) -> str:
    return next((name for name, first, last in _SCRIPTS if first <= letter <= last), "")


def _latin(text: str) -> str:
    words = re.findall(r"[^\W\d_]+", text)
    shares = {
        language: sum(word in frequent for word in words) / len(words)
        for language, frequent in _LANGUAGES.items()
    }
    marked = sum(bool(_VIETNAMESE.search(word)) for word in words) / len(words)
    if marked >= _MARKED:
        return "vi"
    best = max(shares, key=lambda language: shares[language])
    return best if shares[best] >= _KNOWN else UNKNOWN
