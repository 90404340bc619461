"""Vietnamese text, token by token: normalisation, letters, tones, and what a syllable is made of.

A syllable is an onset, a glide w, a nucleus, a coda and a tone; only nucleus and tone are obligatory. The inventory
is that of written Vietnamese, without regard to dialect (`rescoring.dialects` tells how it sounds where).
Sources: Đoàn Thiện Thuật, "Ngữ âm tiếng Việt" (1977), for the analysis; the rimes are those of Hồ Ngọc Đức's list
of syllables, with the rarer ones of names and loans marked as extended.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

TONES = {
    "\N{COMBINING GRAVE ACCENT}": "f",
    "\N{COMBINING ACUTE ACCENT}": "s",
    "\N{COMBINING HOOK ABOVE}": "r",
    "\N{COMBINING TILDE}": "x",
    "\N{COMBINING DOT BELOW}": "j",
}
"""Combining tone mark -> its Telex key: huyền f, sắc s, hỏi r, ngã x, nặng j. Ngang has neither."""

VOWELS = "aăâeêioôơuưy"
MARKS = {key: mark for mark, key in TONES.items()}
TONED = {
    unicodedata.normalize("NFC", vowel + mark): (vowel, key)
    for vowel in VOWELS
    for mark, key in TONES.items()
}
"""Letter with a tone mark -> (the letter, the tone's key). Marks on consonants, as in ñ, are no tones."""

# Eth and African D look like Đ in legacy text; zero-width marks and soft hyphens are not seen at all.
_LOOKALIKES = str.maketrans(
    {"\u00d0": "Đ", "\u0189": "Đ", "\u00f0": "đ", "\u0256": "đ"}
    | dict.fromkeys("\u200b\u200c\u200d\ufeff\u00ad")
)
_ODD = re.compile(f"[{''.join(map(chr, _LOOKALIKES))}]")
_TOKEN = re.compile(r"[^\W\d_]+|\d+|\s+|.", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+|\d+")
# Words of texts up to so many letters are remembered: every term of an N-best list asks for them.
_UTTERANCE = 1000

# The longest first.
_ONSET = re.compile("ngh|ng|nh|gh|gi|kh|ph|qu|th|tr|ch|[bcdđghklmnprstvx]|")
# Onset, vowels, consonants; the i of gì, gìn, giếng counts as a vowel, so does no u after q.
_SPELLED = re.compile(rf"(qu|gi(?=[{VOWELS}])(?!ê)|[^{VOWELS}]*)([{VOWELS}]*)(.*)")
_PHONOLOGICAL_ONSET = {"c": "k", "qu": "k", "gh": "g", "ngh": "ng"}
_CODAS = ("ng", "nh", "ch", "kk", "m", "n", "p", "t", "c", "k")
_STOPS = ("p", "t", "c", "ch", "k")

# Glide, nucleus, rimes; those after the bar are extended: found in names, loans and dialect words.
_RIME_TABLE = """
- a   a ai ao ac ach am an ang anh ap at | ak
- ă   ay au ăc ăm ăn ăng ăp ăt | ăk ăkk
- â   ây âu âc âm ân âng âp ât |
- e   e eo ec em en eng ep et | enh ech
- ê   ê êu êch êm ên ênh êp êt | êng êc
- i   i y iu ich im in inh ip it | ing ic
- o   o oi oc om on ong op ot |
- oo  oong ooc |
- ô   ô ôi ôc ôm ôn ông ôp ôt |
- ôô  | ôông ôôc
- ơ   ơ ơi ơm ơn ơp ơt | ơng ơc
- u   u ui uc um un ung up ut |
- ư   ư ưi ưu ưc ưn ưng ưt | ưm ưp
- iê  ia iêu iêc iêm iên iêng iêp iêt yêu yêc yêm yên yêng yêp yêt |
- ươ  ưa ươi ươu ươc ươm ươn ương ươp ươt |
- uô  ua uôi uôc uôm uôn uông uôt | uôp
w a   oa oai oao oac oach oam oan oang oanh oap oat |
w ă   oay oăc oăm oăn oăng oăt | oau oăp
w â   uây uân uâng uât | uâm uâc uâp uâu
w e   oe oeo oen oet | oem oec oeng oep
w ê   uê uêu uêch uênh uên uêt | uêm
w i   uy uyu uych uyn uynh uyp uyt | uym
w iê  uya uyên uyêt | uyêm uyêp
w ơ   uơ | uơi uơn uơt uơm
"""


class Syllable(NamedTuple):
    """The parts of a syllable, in the order of speech; "" where there is none.

    `onset` is one of 24: b ch d đ g gi h k kh l m n ng nh p ph r s t th tr v x and "" (c, k, qu are k; gh is g;
    ngh is ng). `glide` is "w" or "". `nucleus` is one of a ă â e ê i o oo ô ôô ơ u ư iê ươ uô. `coda` is m n ng nh
    p t c ch k, j (written i, y), w (written u, o) or "". `tone` is a Telex key, f s r x j, or "" for ngang.
    `ext` tells an extended syllable: rare rimes, onset p, or a stop coda without a tone (hat, top: often English).
    """

    onset: str
    glide: str
    nucleus: str
    coda: str
    tone: str
    ext: bool = False


class _Rime(NamedTuple):
    glide: str
    nucleus: str
    coda: str
    ext: bool


def _coda(rime: str) -> str:
    """Return the coda of a rime as it is written: a consonant, j, w or ""."""
    for consonant in _CODAS:
        if rime.endswith(consonant):
            return "k" if consonant == "kk" else consonant
    if len(rime) == 1 or rime == "uy":
        return ""
    return {"i": "j", "y": "j", "u": "w", "o": "w"}.get(rime[-1], "")


def _read_rimes() -> dict[str, _Rime]:
    rimes = {}
    for line in _RIME_TABLE.strip().splitlines():
        glide, nucleus, listed = line.split(maxsplit=2)
        standard, _, extended = listed.partition("|")
        for spelled, ext in ((standard, False), (extended, True)):
            for rime in spelled.split():
                rimes[rime] = _Rime(glide.strip("-"), nucleus, _coda(rime), ext)
    return rimes


def _after_qu() -> dict[str, _Rime]:
    """Return what may follow `qu`, which spells the glide: a bare u after q is never a nucleus."""
    excluded = ("u", "ư", "ia", "iê", "yê", "oo", "ôô")
    found = {
        spelled: rime._replace(glide="w")
        for spelled, rime in RIMES.items()
        # In quoắt and quoàng the o writes the glide a second time.
        if (not rime.glide and not spelled.startswith(excluded))
        or spelled.startswith(("oa", "oă", "oe"))
    }
    for spelled in ("y", "ya", "yt", "ych", "ynh", "yn", "yp", "yu", "yên", "yêt", "yêu"):
        # qu + yên is written like the rime uyên; yêu has no such fellow.
        found[spelled] = RIMES.get("u" + spelled) or RIMES[spelled]._replace(glide="w")
    return found


def _after_gi() -> dict[str, _Rime]:
    """Return what may follow `gi`, whose i is also the nucleus of gì, gìn and giếng."""
    found = dict(RIMES)
    found |= {coda: RIMES["i" + coda] for coda in ("", "n", "m", "p", "t", "nh", "ch")}
    # giêng is gi + iêng; only the bare ê of Giê-su is left to itself.
    longer = {x for x in found if x.startswith("ê") and x != "ê"}
    found = {spelled: rime for spelled, rime in found.items() if spelled not in longer}
    return found | {
        spelled[1:]: rime for spelled, rime in RIMES.items() if spelled.startswith("iê")
    }


RIMES = _read_rimes()
"""Rime as it is written, without its tone -> glide, nucleus, coda, and whether it is extended."""

_RIMES_AFTER = {"qu": _after_qu(), "gi": _after_gi()}


def normalise(text: str) -> str:
    """Return `text` in lower case and NFC, with look-alikes of Đ mended and invisible characters left out.

    NFC also mends the orders in which Windows-1258 and some keyboards write marks (ê + dot below).
    """
    return unicodedata.normalize("NFC", mend(text).lower())


def mend(text: str) -> str:
    """Return `text` as `normalise` does, but in its own case."""
    text = unicodedata.normalize("NFC", text)
    if _ODD.search(text) is None:  # nearly always, and much cheaper than translating
        return text
    return unicodedata.normalize("NFC", text.translate(_LOOKALIKES))


def tokens(text: str) -> list[str]:
    """Return the normalised text cut into runs of letters, runs of digits, runs of spaces, and single other characters.

    Nothing is lost: ``"".join(tokens(text)) == normalise(text)``.
    """
    return _TOKEN.findall(normalise(text))


def words(text: str) -> list[str]:
    """Return the runs of letters and of digits: what word errors and language models count."""
    return list(_words(text)) if len(text) <= _UTTERANCE else _WORD.findall(normalise(text))


@lru_cache(maxsize=1024)
def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(normalise(text)))


def word_spans(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return `text` with its marks mended and where in it each of `words` stands: (start, stop).

    The text keeps its case, unless some letter changes its length in lower case; then it is `normalise`d.
    """
    mended = mend(text)
    found = [match.span() for match in _WORD.finditer(mended)]
    if [mended[start:stop].lower() for start, stop in found] == words(text):
        return mended, found
    mended = normalise(text)
    return mended, [match.span() for match in _WORD.finditer(mended)]


def split_tone(token: str) -> tuple[str, str] | None:
    """Return (letters without the tone mark, tone key) of a normalised token; None when it has two tone marks."""
    letters, tone = [], ""
    for letter in token:
        base, key = TONED.get(letter, (letter, ""))
        if key and tone:
            return None
        letters.append(base)
        tone = tone or key
    return "".join(letters), tone


def place_tone(letters: str, tone: str, *, old: bool = True) -> str:
    """Return the letters of one syllable with the mark of `tone` (f s r x j, or "") on the right vowel.

    The mark stands on ă â ê ô ơ ư where there is one (on the last), else on the last vowel before a coda consonant,
    else on the last but one; open oa, oe, uy take it on the first vowel (`old`: hòa, thủy) or the second (hoà, thuỷ).
    """
    onset, vowels, after = _SPELLED.findall(letters)[0]
    if not tone or not vowels:
        return letters
    at = len(onset) + _bearer(vowels, closed=bool(after), old=old)
    return (
        letters[:at] + unicodedata.normalize("NFC", letters[at] + MARKS[tone]) + letters[at + 1 :]
    )


def _bearer(vowels: str, *, closed: bool, old: bool) -> int:
    """Return which of the vowels bears the mark; `closed` tells that a consonant follows."""
    marked = [place for place, letter in enumerate(vowels) if letter in "ăâêôơư"]
    if marked:
        return marked[-1]
    if closed:
        return len(vowels) - 1
    if vowels in ("oa", "oe", "uy"):
        return 0 if old else 1
    return max(0, len(vowels) - 2)


@lru_cache(maxsize=65536)
def parse(token: str, *, strict_spelling: bool = False) -> Syllable | None:
    """Return the syllable that `token` spells, or None when it is not one Vietnamese syllable.

    Case, Unicode form and the place of the tone mark do not matter (HÒA is hoà). Letters are not checked against
    each other, as names and loans break the rule (gen, ka, Kôn); with `strict_spelling` k, gh, ngh must stand
    before e ê i y, and c, g, ng before other letters.
    """
    split = split_tone(normalise(token))
    if split is None:
        return None
    letters, tone = split
    onset = _ONSET.findall(letters)[0]
    rest = letters[len(onset) :]
    rime = _RIMES_AFTER.get(onset, RIMES).get(rest)
    if rime is None or (strict_spelling and not _is_standard(onset, rest)):
        return None
    stopped = rime.coda in _STOPS
    if stopped and tone in ("f", "r", "x"):
        return None
    ext = rime.ext or onset == "p" or (stopped and not tone)
    phonological = _PHONOLOGICAL_ONSET.get(onset, onset)
    return Syllable(phonological, rime.glide, rime.nucleus, rime.coda, tone, ext)


def _is_standard(onset: str, rest: str) -> bool:
    front = rest.startswith(("e", "ê", "i", "y"))
    return front if onset in ("k", "gh", "ngh") else not (front and onset in ("c", "g", "ng"))
