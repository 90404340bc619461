"""One walk over a text: which rule reads which characters, and what each stretch becomes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from trunkline.text import dates, identifiers, quantities
from trunkline.text.annotations import tag_of
from trunkline.text.context import Before, Rule
from trunkline.text.numbers import NUMBER, cardinal
from trunkline.text.readings import Readings
from trunkline.text.words import Word, read_roman

_LETTERS = r"(?:[^\W\d_][\u0300-\u036f]*)+"
_TOKEN = re.compile(
    rf"(?P<space>\s+)|(?P<word>{_LETTERS}(?:['’]{_LETTERS})*)|(?P<number>\d)"
    r"|(?P<annotation>\[[^\[\]]+\]|<[^<>]+>|\{[^{}]+\}|\([^()]+\))|(?P<other>.)",
    re.DOTALL,
)
_LINK = re.compile(
    r"(?:https?://|www\.)[^\s<>\"]+[\w/]|[\w.+\-]+@[A-Za-z0-9\-]+(?:\.[a-z0-9\-]+)+"
    r"|(?<![\w.])[\w\-]+(?:\.[\w\-]+)*\.(?:com|vn|net|org|edu|gov|info)(?:/[^\s<>\"]*[\w/])?(?![\w.]*\w)"
)
_ALNUM = r"(?:[^\W_][\u0300-\u036f]*)+"
_CHUNK = re.compile(rf"{_ALNUM}(?:[-./_:]{_ALNUM})*")
_RUN = re.compile(_ALNUM)
_UNREAD = re.compile(rf"\d+(?:[.,:/\-]?{_ALNUM})*")
_SCRIPT = re.compile(r"[^\s\d!-/:-@\[-`{-~…“”‘’–—]+")
_LETTER = re.compile(r"[^\W\d_]")
_ANNOTATION = 60  # characters; longer stretches in brackets are text
_HASHTAG = re.compile(r"#\w+")
_JOINED = re.compile(rf"{_LETTERS}(?:[.&/\-]{_LETTERS})+")
_INITIALS = re.compile(r"[A-ZĐ](?:\.[A-ZĐ])+(?![^\W_])")
_PLACE = re.compile(r"([QPH])\.(?:\s?(?=\d)|(?=[^\W\d_]{2}))")
_ROAD = re.compile(r"(QL|TL|ĐT)\.?\s?(?=\d)")
_LETTER_NUMBER = re.compile(r"([A-ZĐ])(\d{1,3})(?![^\W_]|[.,]\d)")
_MONEY_CODE = re.compile(rf"([A-Z]{{3}})\s?({NUMBER})(?![^\W_]|[.,]?\d)")
_YEAR = re.compile(r"/([12]\d{3})(?![\w/])")
_BELOW_ZERO = re.compile(rf"-(?={NUMBER}\s?(?:%|°|độ))")
_PUNCTUATION = frozenset(".,;:!?…\"'“”‘’‚„«»‹›()[]{}-–—‐‑‒―/\\|_*~•·`´^¿¡、。，；：！？「」『』")
_PLACES = {"Q": "quận", "P": "phường", "H": "huyện"}
_ROADS = {"QL": "quốc lộ", "TL": "tỉnh lộ", "ĐT": "tỉnh lộ"}
_RULES: list[Rule] = [
    *identifiers.RULES, *dates.RULES, *quantities.FIRST, *quantities.LAST, *identifiers.RUNS, *quantities.ALONE,
]  # fmt: skip
_NUMERIC = frozenset(
    {"number", "decimal", "percent", "money", "quantity", "date", "time", "ordinal"}
)
_NEXT_NUMBER = re.compile(rf"\s?({NUMBER})")
_KNOWN = _PUNCTUATION | frozenset("&@+=±×÷%$€£₫#<")
_SCORES = {"số", "thắng", "thua", "hòa", "hoà", "đồ", "thức", "dẫn", "gỡ"}


class Piece(NamedTuple):
    """What the stretch [start, end) becomes ("" where it is left out), by which rules, and its flag or tag."""

    start: int
    end: int
    out: str
    rules: tuple[str, ...] = ()
    flag: str = ""
    tag: str = ""


class Language(NamedTuple):
    """What a walk needs to know: how words are read, and whether numbers and short forms are."""

    read: Callable[[str], Word]
    readings: Readings
    spoken: bool  # numbers and short forms are read out
    digital: re.Pattern[str]  # short forms that begin with a digit
    drop_annotations: bool


class Scan:
    """The walk over one mended text; white space is in no piece."""

    def __init__(self, text: str, language: Language) -> None:
        self.text = text
        self.language = language
        self.pieces: list[Piece] = []
        self.out: list[str] = []
        self.rule = ""
        self.value: float | None = None

    def run(self) -> list[Piece]:
        """Return what each stretch becomes."""
        text, match_token, read = self.text, _TOKEN.match, self.language.read
        pieces, out, spoken = self.pieces, self.out, self.language.spoken
        links = _links(text)
        at, length = 0, len(text)
        while at < length:
            token = match_token(text, at)
            kind, end = token.lastgroup, token.end()  # type: ignore[union-attr]
            if kind == "space":
                at = end
            elif at in links:
                at = self._keep(at, links[at], "link")
            elif kind == "word":
                if special := self._joined(at, end):
                    at = special
                    continue
                word = read(token[0])  # type: ignore[index]
                if word.flag == "script":
                    whole = _SCRIPT.match(text, at)
                    at = self._keep(at, max(end, whole.end() if whole else end), "script")
                    continue
                tag = word.tag
                if spoken and not tag and word.out == "à" and self._between_pauses(end):
                    tag = "filler"
                pieces.append(Piece(at, end, word.out, word.rules, word.flag, tag))
                out.append(word.out)
                self.rule = "word"
                at = end
            elif kind == "number":
                at = self._number(at)
            elif kind == "annotation":
                at = self._annotation(at, end)
            else:
                at = self._symbol(at)
        return pieces

    def _put(
        self, start: int, end: int, out: str, *rules: str, flag: str = "", rule: str = ""
    ) -> int:
        self.pieces.append(Piece(start, end, out, rules, flag))
        if out:
            self.out.append(out)
        self.rule = rule or (rules[0] if rules else flag)
        return end

    def _keep(self, start: int, end: int, flag: str) -> int:
        """Leave a stretch as it is, flagged."""
        return self._put(start, end, " ".join(self.text[start:end].split()), flag=flag)

    def _between_pauses(self, end: int) -> bool:
        """Whether a word stands by itself between commas or dots: "à, tôi muốn hỏi"."""
        following = self.text[end : end + 2].lstrip()[:1]
        return bool(following) and following in ",….-" and self.rule in ("", "punctuation")

    def _joined(self, at: int, end: int) -> int:
        """Read letters that are more than one word: PGS.TS, TP.HCM, QĐ-TTg, P.T.H, Q.1, U23, USD 500; 0 if none."""
        text = self.text
        following = text[end : end + 1]
        if following.isdecimal() and _RUN.match(text, at).end() < end:  # type: ignore[union-attr]
            return 0  # an apostrophe is in between, as in See's1
        if not self.language.spoken:
            return self._mixed(at) if following.isdecimal() else 0
        if text[at] in "IVXLC":
            number = read_roman(text[at:end], self.out[-1].rsplit(" ", 1)[-1] if self.out else "")
            if number:
                year = _YEAR.match(text, end)
                if year:
                    number, end = f"{number} năm {cardinal(int(year[1]))}", year.end()
                if not text[end : end + 1].isdecimal():
                    return self._put(at, end, number, "roman")
        if following in ".&/-" and following:
            return self._dotted(at)
        if following == "$" and text[at:end] == "US":
            return self._by_rule(at)
        if following.isdecimal():
            return self._alphanumeric(at)
        if following in ("", " ", "\u00a0"):
            for pattern, read in ((_ROAD, self._road), (_MONEY_CODE, self._money_code)):
                match = pattern.match(text, at)
                if match and (done := read(match)):
                    return done
        return 0

    def _dotted(self, at: int) -> int:
        text, find = self.text, self.language.readings.find
        joined = _JOINED.match(text, at)
        if joined:
            # The longest known form: of PGS.TS.Nguyễn the first two parts.
            ends = [m.start() + at for m in re.finditer(r"[.&/\-]", joined[0])] + [joined.end()]
            for end in reversed(ends[1:]):
                reading = find(text[at:end])
                if reading:
                    return self._put(at, end, reading, "abbreviation")
        initials = _INITIALS.match(text, at)
        if initials:
            return self._put(
                at,
                initials.end(),
                self.language.readings.spell(initials[0].replace(".", "")),
                "letter",
            )
        place = _PLACE.match(text, at)
        if place:
            return self._put(at, place.end(), _PLACES[place[1]], "abbreviation")
        road = _ROAD.match(text, at)
        return self._road(road) if road else 0

    def _alphanumeric(self, at: int) -> int:
        """Read a word with digits in it: m2, CO2, U23, QL1A; others stay, flagged."""
        text, readings = self.text, self.language.readings
        run = _RUN.match(text, at)
        assert run, "a letter stands here"
        reading = readings.find(run[0])
        if reading:
            return self._put(at, run.end(), reading, "abbreviation")
        road = _ROAD.match(text, at)
        if road:
            return self._road(road)
        numbered = _LETTER_NUMBER.match(text, at)
        if numbered:
            words = f"{readings.spell(numbered[1])} {cardinal(int(numbered[2]))}"
            return self._put(at, numbered.end(), words, "letter")
        money = _MONEY_CODE.match(text, at)
        if money and (done := self._money_code(money)):
            return done
        return self._mixed(at)

    def _mixed(self, at: int) -> int:
        chunk = _CHUNK.match(self.text, at)
        assert chunk, "a letter stands here"
        return self._keep(at, chunk.end(), "mixed")

    def _road(self, match: re.Match[str]) -> int:
        return self._put(match.start(), match.end(), _ROADS[match[1]], "abbreviation")

    def _money_code(self, match: re.Match[str]) -> int:
        """USD 1,500: the currency is read after the amount."""
        currency = self.language.readings.currencies.get(match[1].lower())
        if not currency:
            return 0
        amount = quantities.read_number(match[2], english="," in match[2])
        return self._put(match.start(), match.end(), f"{amount} {currency}", "money")

    def _number(self, at: int) -> int:
        """Read what begins with a digit (or a sign before one) by the first rule that fits."""
        text = self.text
        hidden = identifiers.masked(text, at)
        if hidden:
            return self._keep(at, hidden, "masked")
        if not self.language.spoken:
            return self._unread(at)
        short = self.language.digital.match(text, at)
        if short:
            return self._put(
                at, short.end(), self.language.readings.find(short[0]) or "", "abbreviation"
            )
        if done := self._by_rule(at):
            return done
        return self._unread(at)

    def _unread(self, at: int) -> int:
        unread = _UNREAD.match(self.text, at)
        assert unread, "a digit stands here"
        return self._keep(at, unread.end(), "mixed" if _LETTER.search(unread[0]) else "number")

    def _by_rule(self, at: int) -> int:
        before = Before(self.out, self.language.readings, self.rule, self.value)
        for pattern, read in _RULES:
            match = pattern.match(self.text, at)
            reading = read(match, before) if match else None
            if reading:
                self.value = reading.value
                return self._put(at, reading.end, reading.words, reading.rule)
        return 0

    def _annotation(self, at: int, end: int) -> int:
        """Write a known annotation as its tag; leave an unknown one, flagged, but parentheses are punctuation."""
        written = self.text[at:end]
        tag = tag_of(written)
        if tag:
            out = "" if self.language.drop_annotations else tag
            return self._put(
                at, end, out, *(("annotation",) if out != written else ()), rule="annotation"
            )
        if written[0] != "(" and len(" ".join(written.split())) <= _ANNOTATION:
            return self._keep(at, end, "annotation")
        return self._symbol(at)

    def _symbol(self, at: int) -> int:
        text, sign, spoken = self.text, self.text[at], self.language.spoken
        if sign in "*•":
            hidden = identifiers.masked(text, at)
            if hidden:
                return self._keep(at, hidden, "masked")
        if spoken and (sign in "*+$€£¥₫฿₩(") and (done := self._by_rule(at)):
            return done
        if sign == "#" and (hashtag := _HASHTAG.match(text, at)):
            return self._keep(at, hashtag.end(), "symbol")
        if spoken and sign in "-–—" and (done := self._dash(at)):
            return done
        if sign in _PUNCTUATION:
            return self._put(at, at + 1, "", "punctuation")
        reading = self.language.readings.symbols.get(sign) if spoken else None
        if reading:
            return self._put(at, at + 1, reading, "symbol")
        end = at + 1
        while end < len(text) and not (
            text[end].isspace() or text[end].isalnum() or text[end] in _KNOWN
        ):
            end += 1
        return self._keep(at, end, "symbol")

    def _dash(self, at: int) -> int:
        """Read a dash as "âm" before a temperature or percentage, as "đến" between two amounts; 0 otherwise."""
        text = self.text
        spaced = at == 0 or text[at - 1] in " ("
        if spaced and self.rule not in _NUMERIC and _BELOW_ZERO.match(text, at):
            return self._put(at, at + 1, "âm", "symbol")
        following = _NEXT_NUMBER.match(text, at + 1)
        if self.rule not in _NUMERIC or not following or not self._adjacent(at):
            return 0
        if self.rule == "number" and self.value is not None:
            score = set(" ".join(self.out[-3:]).split()[-4:]) & _SCORES
            if score or quantities.value(following[1]) <= self.value:
                return 0
        return self._put(at, at + 1, "đến", "range")

    def _adjacent(self, at: int) -> bool:
        """Whether the last piece ends right before `at`, or one space before."""
        end = self.pieces[-1].end
        return end == at or (end == at - 1 and self.text[end] == " ")


def _links(text: str) -> dict[int, int]:
    if "." not in text and "@" not in text and "://" not in text:
        return {}
    return {match.start(): match.end() for match in _LINK.finditer(text)}
