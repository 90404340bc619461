"""VnSoundex: one code for all that sounds alike somewhere in Vietnam, to find names by their sound."""

from __future__ import annotations

from functools import cache, lru_cache

from rescoring.tables import load_table, symbol
from trunkline.syllable import Syllable, parse, words


def vnsoundex(text: str, tone: bool = False) -> str:
    """Return the code of a syllable, word or phrase; "" for a text without words.

    A syllable gives onset class, glide (w or -), nucleus class, coda class and, with `tone`, tone class; the codes
    are joined by dots. A token that is no Vietnamese syllable gives ``*token``. Without tone the code is a blocking
    key for retrieval; with tone, equal codes mean "the same sound somewhere".
    """
    return ".".join(_code(token, tone) for token in words(text))


@lru_cache(maxsize=65536)
def _code(token: str, tone: bool) -> str:
    syllable = parse(token)
    return f"*{token}" if syllable is None else _syllable_code(syllable, tone)


def _syllable_code(syllable: Syllable, tone: bool) -> str:
    classes = _classes()
    # ưu and ươu are heard as iu and iêu in the North.
    nuclei = classes["nucleus"] | (classes["nucleus_before_w"] if syllable.coda == "w" else {})
    code = (
        classes["onset"][syllable.onset]
        + (syllable.glide or "-")
        + nuclei[syllable.nucleus]
        + classes["coda"][syllable.coda]
    )
    return code + classes["tone"][syllable.tone] if tone else code


@cache
def _classes() -> dict[str, dict[str, str]]:
    """Return, for each part of a syllable, symbol -> class."""
    return {
        part: {symbol(x): name for name, members in table.items() for x in members.split()}
        for part, table in load_table("soundex").items()
        if isinstance(table, dict)
    }
