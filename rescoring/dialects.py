"""How a Vietnamese syllable sounds in the North (Hanoi), the Centre (Huế) and the South (Saigon): surface phonemes.

Two syllables are homophones in a dialect when their phonemes are equal. Only mergers that a dialect's speakers
make throughout are applied; others (Northern rural l = n, Southern ch = tr) are left to the distances.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

from rescoring.tables import load_table, symbol
from trunkline.errors import UsageError, nearest
from trunkline.syllable import Syllable, parse, words

DIALECTS = ("north", "centre", "south")


class Phonemes(NamedTuple):
    """The parts of a syllable in IPA, "" where there is none; `tone` is "1" ngang to "6" nặng, merged tones are one."""

    onset: str
    glide: str
    nucleus: str
    coda: str
    tone: str


@lru_cache(maxsize=65536)
def phonemes(syllable: Syllable, dialect: str) -> Phonemes:
    """Return how `syllable` is spoken in a dialect: "north", "centre" or "south"."""
    if dialect not in DIALECTS:
        raise UsageError(f"There is no dialect {dialect!r}.{nearest(dialect, DIALECTS)}")
    table = load_table("dialects")
    changes = table["dialects"][dialect]
    onset, glide, nucleus, coda, tone, _ = syllable
    if (glide, nucleus, coda) == ("w", "ơ", "") and onset != "k" and changes["uơ_as_ua"]:
        glide, nucleus = "", "uô"
    nucleus, coda = _rimes(dialect).get((nucleus, coda), (nucleus, coda))
    if glide and (onset or "0") in changes["w_onsets"].split():
        onset_ipa, glide = "w", ""
    else:
        onset_ipa = (table["onset"] | changes["onset"])[onset or "0"]
    nucleus_ipa = table["nucleus"].get(nucleus, nucleus)
    coda_ipa = table["coda"].get(coda or "0", coda)
    if nucleus_ipa in table["rounded_after"]["nuclei"].split():
        coda_ipa = table["rounded_after"]["codas"].get(coda_ipa, coda_ipa)
    return Phonemes(
        onset_ipa, glide, nucleus_ipa, coda_ipa, (table["tone"] | changes["tone"])[tone or "-"]
    )


@cache
def _rimes(dialect: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the changed rimes of a dialect: (nucleus, coda) -> (nucleus, coda)."""
    all_changes: dict[str, Any] = load_table("dialects")["dialects"]
    rules = all_changes[dialect]["rimes"]
    if isinstance(rules, str):
        return _rimes(rules)
    changed: dict[tuple[str, str], tuple[str, str]] = {}
    for nuclei, codas, new_nucleus, new_coda in rules:
        for nucleus in nuclei.split():
            for coda in map(symbol, codas.split()):
                after = (
                    nucleus if new_nucleus == "=" else new_nucleus,
                    coda if new_coda == "=" else symbol(new_coda),
                )
                changed.setdefault((nucleus, coda), after)
    return changed


def transcribe(text: str, dialect: str) -> str:
    """Return the words of `text` in IPA, each followed by its tone number; what is no syllable stands in <>."""
    spoken = ((word, parse(word)) for word in words(text))
    return " ".join(
        "".join(phonemes(syllable, dialect)) if syllable else f"<{word}>"
        for word, syllable in spoken
    )


def homophones(a: str, b: str, dialect: str) -> bool:
    """Tell whether two texts sound the same in a dialect; what is no syllable equals itself only."""
    return transcribe(a, dialect) == transcribe(b, dialect)
