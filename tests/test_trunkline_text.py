"""Transcripts become the words that were said: golden cases, properties, real texts, bad input."""

from __future__ import annotations

import json
import lzma
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trunkline import syllable
from trunkline.errors import DataError, StorageError, UsageError
from trunkline.text import TAGS, Normalised, Normaliser, decode, load_readings, normalise
from trunkline.text.numbers import DIGITS, cardinal, digits, read_number, roman

CASES = Path(__file__).parent / "data" / "normaliser_cases.tsv"
DATA = Path(__file__).parent.parent.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")

VIETNAMESE = Normaliser()
NORMALISERS = {
    "vi": VIETNAMESE,
    "new": Normaliser(tone_mark="new", annotations="drop", spell_acronyms=True),
    "keep": Normaliser(tone_mark="keep", readings={"GTTK": "giấy tờ tài khoản"}),
    "neutral": Normaliser("neutral"),
}
HIDDEN = re.compile(r"\\u([0-9a-f]{4})|\\x([0-9a-f]{2})|\\U([0-9a-f]{8})")


def cases() -> list[tuple[str, str, str]]:
    rows = []
    for line in CASES.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("# "):
            line = HIDDEN.sub(lambda m: chr(int(m[1] or m[2] or m[3], 16)), line)
            rows.append((*line.split("\t"), "")[:3])
    return rows


def marks(result: Normalised) -> str:
    return " ".join(f"{mark.kind}:{mark.text}" for mark in result.flags + result.tags)


def squeeze(text: str) -> str:
    return "".join(text.split())


def rebuild(text: str, result: Normalised) -> str:
    """Return the text given with the reported changes made, without white space."""
    out, at = [], 0
    for change in result.changes:
        assert text[change.start : change.end] == change.before
        assert at <= change.start <= change.end
        out += [text[at : change.start], change.after]
        at = change.end
    return squeeze("".join(out) + text[at:])


# --- golden cases


def test_there_are_enough_golden_cases_and_no_text_twice():
    written = [row[0] for row in cases()]
    assert len(written) >= 300
    assert len(set(written)) == len(written)


@pytest.mark.parametrize(("written", "spoken", "marked"), cases(), ids=range(len(cases())))
def test_golden_case(written, spoken, marked):
    result = VIETNAMESE.explain(written)
    assert (result.text, marks(result)) == (spoken, marked)
    assert VIETNAMESE(spoken) == spoken
    assert rebuild(written, result) == squeeze(spoken)


# --- numbers


@given(st.integers(0, 10**18 - 1))
def test_every_number_is_read_unlike_every_other(number):
    words = cardinal(number)
    assert _parse(words) == number
    assert all(syllable.parse(word) for word in words.split())


def _parse(words: str) -> int:
    """The reading turned back into a number, by other means than the reading."""
    values = {name: i for i, name in enumerate(DIGITS)} | {"mốt": 1, "lăm": 5}
    total = billions = group = digit = 0
    for word in words.split():
        if word == "linh":
            continue
        if word in values:
            digit = values[word]
            continue
        if word == "mười":
            group += 10
        elif word == "mươi":
            group += 10 * digit
        elif word == "trăm":
            group += 100 * digit
        elif word in ("nghìn", "triệu"):
            total += (group + digit) * (1000 if word == "nghìn" else 10**6)
            group = 0
        else:
            assert word == "tỷ"
            billions, total, group = (billions + total + group + digit), 0, 0
            billions *= 10**9
        digit = 0
    return billions + total + group + digit


@pytest.mark.parametrize("number", [-1, 10**18])
def test_a_number_without_a_name_is_refused(number):
    with pytest.raises(ValueError, match=str(number)):
        cardinal(number)


@given(st.integers(0, 10**12))
def test_grouping_does_not_change_a_number(number):
    dotted = f"{number:,}".replace(",", ".")
    assert read_number(dotted) == cardinal(number)


@given(st.text("0123456789", min_size=1, max_size=20))
def test_digits_are_read_one_by_one(text):
    assert [DIGITS.index(word) for word in digits(text).split()] == [int(x) for x in text]


def test_roman_numerals_up_to_399():
    def write(number: int) -> str:
        steps = [(100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V")]
        out = ""
        for value, letters in [*steps, (4, "IV"), (1, "I")]:
            out += letters * (number // value)
            number %= value
        return out

    assert [roman(write(number)) for number in range(1, 400)] == list(range(1, 400))
    assert [roman(text) for text in ("IIII", "VX", "IC", "", "A")] == [None] * 5


# --- properties

_WORDS = """
km g tr tỷ triệu km/h USD VND đồng ngày tháng năm thứ quý III IV X lần thế kỷ STK OTP HCM TP. Q. P. QĐ-TTg v.v.
PGS.TS A B Đ N. hoà TÒAN Việt NGÂN mN KO [cười] (ho) <unk> [x] iPhone VinID abc@x.vn ờ à xxxx **** 0901 1900 84 +84
Hoa\u0300 ti\u0435ng ＡＴＭ ПРИВЕТ हिन्दी 5G 24/7 m2 CO2 Covid-19 9h30 20/11 12h8 ❤\ufe0f 😀
"""
_SIGNS = "0123456789.,:/-–%$đ()[]<>{}#*+&@'\"…_ ~^°²½\u200b\u00a0\u0301\u0323\u0338\x96İßﬁ"
ATOMS = (*_WORDS.split(), *_SIGNS)
messy = st.lists(st.sampled_from(ATOMS) | st.just(" ") | st.characters(), max_size=8).map("".join)


@pytest.mark.parametrize("name", NORMALISERS)
@settings(max_examples=300, deadline=None)
@given(text=messy)
@example(text="<cười\n> < > [x  Y]" + "(ồn" + 50 * " " + ") <" + 90 * " " + "ho>")
@example(text="STK 0011\u200b004 \x96 mN, 12h8 phút İ̸^tỷVinID'CO2")
def test_a_second_pass_changes_nothing_and_the_report_tells_every_change(name, text):
    normaliser = NORMALISERS[name]
    result = normaliser.explain(text)
    again = normaliser.explain(result.text)
    assert again.text == result.text
    assert rebuild(text, result) == squeeze(result.text)
    assert result.text == " ".join(result.text.split())
    for mark in result.flags + result.tags:
        assert result.text[mark.start : mark.end] == mark.text


@settings(max_examples=300, deadline=None)
@given(text=messy)
def test_nothing_is_left_out_but_punctuation_and_what_cannot_be_seen(text):
    for change in VIETNAMESE.explain(text).changes:
        assert change.after or set(change.rules) <= {"punctuation", "characters"}, change
        if "punctuation" in change.rules and not change.after:
            assert not any(x.isalnum() for x in unicodedata.normalize("NFKC", change.before))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["hòa", "tôi", "ờ", "ngân", "hàng", "thủy", "quý"]), max_size=6))
def test_plain_syllables_stay_as_they_are(words):
    text = " ".join(words)
    result = VIETNAMESE.explain(text)
    assert result.text == text
    assert not result.changes
    assert [tag.text for tag in result.tags] == [word for word in words if word == "ờ"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_every_recorded_syllable_survives_in_either_unicode_form(form):
    words = ["tiếng", "được", "nghiêng", "khuỷu", "thuở", "quyết", "giếng", "ngoằn"]
    assert normalise(unicodedata.normalize(form, " ".join(words))) == " ".join(words)


# --- settings


def test_tone_marks_go_where_they_are_asked_to():
    text = "hoà hòa thuý qúy toán"
    assert Normaliser(tone_mark="old")(text) == "hòa hòa thúy quý toán"
    assert Normaliser(tone_mark="new")(text) == "hoà hoà thuý quý toán"
    assert Normaliser(tone_mark="keep")(text) == text


def test_annotations_can_be_left_out_and_the_report_still_has_them():
    result = Normaliser(annotations="drop").explain("dạ [cười] vâng")
    assert result.text == "dạ vâng"
    assert [(c.rules, c.before, c.after) for c in result.changes] == [
        (("annotation",), "[cười]", "")
    ]
    assert all(normalise(tag) == tag for tag in TAGS)


def test_acronyms_can_be_spelt():
    assert Normaliser(spell_acronyms=True)("FLC và HPG") == "ép lờ xê và hát pê giê"


def test_neutral_leaves_numbers_and_other_alphabets():
    result = Normaliser("neutral").explain("Привет, İstanbul! 9h30 1.500 [laugh] STK don't")
    assert result.text == "привет i̇stanbul 9h30 1.500 <laugh> stk don't"
    assert [mark.kind for mark in result.flags] == ["mixed", "number"]


@pytest.mark.parametrize(
    ("setting", "value"), [("language", "v"), ("tone_mark", "middle"), ("annotations", "x")]
)
def test_an_unknown_setting_is_answered_with_those_there_are(setting, value):
    with pytest.raises(UsageError, match=f"{setting} '{value}' is not known"):
        Normaliser(**{setting: value})


def test_a_report_counts_rules():
    result = VIETNAMESE.explain("Hoà, 5% và 6%")
    assert result.counts() == {
        "case": 1,
        "tone_mark": 1,
        "punctuation": 1,
        "percent": 2,
    }


# --- short forms


def test_own_short_forms_come_first_and_do_not_leak_into_others(tmp_path):
    file = tmp_path / "readings.tsv"
    file.write_text(
        "# ours\nGTTK\tgiấy tờ tài khoản\nk\tkhông\tchat\nxyz#Xin Chào\nthùng\tthùng\tunit\n",
        encoding="utf-8-sig",
    )
    own = Normaliser(readings=file)
    assert own("GTTK k XYZ 5thùng") == "giấy tờ tài khoản không xin chào năm thùng"
    assert VIETNAMESE("GTTK") == "GTTK"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a", "readings.tsv:1 must be written<TAB>reading"),
        ("a b\tc", "one word without spaces"),
        ("a\t", "words with one space"),
        ("a\tb1", "words with one space"),
        ("a\tb\tunits", "unknown kind 'units'. Did you mean 'unit'"),
        ("TV\tko tivi", "holds 'ko', itself short for 'không'"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_wrong_table_of_short_forms_is_refused(tmp_path, line, message):
    file = tmp_path / "readings.tsv"
    file.write_bytes(line if isinstance(line, bytes) else line.encode())
    with pytest.raises(DataError, match=message):
        load_readings(file)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(StorageError, match="none.tsv"):
        load_readings(tmp_path / "none.tsv")


def test_the_built_in_table_reads_nothing_twice():
    own = load_readings({})  # checks it
    for table in vars(own).values():
        for reading in table.values():
            assert normalise(reading) == reading


@needs_data
def test_readings_are_those_of_the_lexicon_but_for_deliberate_ones():
    def read(name: str) -> dict[str, str]:
        lines = (DATA / "vi_lexicon" / f"norm_{name}.txt").read_text(encoding="utf-8-sig")
        pairs = (line.split("#", 1) for line in lines.splitlines() if "#" in line)
        return {a.strip(): b.strip().lower() for a, b in pairs if a and b.strip()}

    own = load_readings()
    acronyms = read("acronyms_shorten")
    common = {form for form in own.forms if form.lower() in acronyms}
    other = {form for form in common if acronyms[form.lower()] != own.forms[form]}
    assert len(common) > 100
    assert other == {"TKTK", "TKTT", "ck", "HĐTV", "XHCN"}
    letters = read("lettersoundvn")
    assert {x for x in letters if own.letters[x.upper()] != letters[x]} == {"d", "o"}
    units = {form: own.unit(form) for form in read("baseunit") if own.unit(form)}
    assert len(units) > 40
    different = {form for form in units if units[form] != read("baseunit")[form]}
    # ki lô where the lexicon has kí lô and ki lo by turns; bai; đồng after an amount; nm is not newton metre
    assert different == {
        "Pa", "atm", "kB", "gb", "mb", "kb", "kg", "cc", "km2", "km", "Nm", "kW", "kWh", "vnđ", "vnd",
    }  # fmt: skip


# --- bytes


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_bytes_of_unicode_files_are_read(encoding):
    text = "Tiếng Việt hôm nay\nđược"
    data = text.encode(encoding)
    if encoding in ("utf-16-le", "utf-16-be"):
        data = "\ufeff".encode(encoding) + data
    assert decode(data)[0] == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_known_without_its_mark(encoding):
    text = "dạ em chào anh chị ạ"
    assert decode(text.encode(encoding)) == (text, encoding)
    assert decode(f"a\0{text}".encode()) == (f"a\0{text}", "utf-8")


def test_windows_1258_is_told_from_other_encodings():
    text = "Tôi hỏi số dư tài khoản của mình"
    decomposed = "".join(_for_windows(x) for x in text)
    assert decode(decomposed.encode("cp1258")) == (text, "cp1258")
    with pytest.raises(DataError, match=r"calls.txt:2 is neither UTF-8"):
        decode("ok\nÐåêæøßÿ öäü".encode("latin-1"), "calls.txt")


def _for_windows(letter: str) -> str:
    """A letter as Windows-1258 has it: the base composed, the tone after it."""
    base, tone = syllable.TONED.get(letter.lower(), (letter.lower(), ""))
    if not tone:
        return letter
    return (base.upper() if letter.isupper() else base) + syllable.MARKS[tone]


@pytest.mark.parametrize("data", [b"\xff\xfea", b"\xff\xfe\x00\xd8\x41\x00"])
def test_a_torn_utf_16_file_is_refused(data):
    with pytest.raises(DataError, match="is not valid utf-16"):
        decode(data)


# --- real texts


def read_lines(path: str) -> list[str]:
    return lzma.open(DATA / path, "rt", encoding="utf-8").read().splitlines()


@needs_data
def test_real_texts_are_understood_repeatable_and_fully_reported():
    news = [line.split("\t", 2)[-1] for line in read_lines("vi_news_unc/news.tsv.xz")[1::20]]
    bank = (DATA / "vi_bank_ubs/test.jsonl").read_text(encoding="utf-8").splitlines()
    texts = news + [json.loads(line)["text"] for line in bank]
    digits_left = 0
    for text in texts:
        result = VIETNAMESE.explain(text)
        assert VIETNAMESE(result.text) == result.text
        assert rebuild(text, result) == squeeze(result.text)
        flagged = sum(any(x.isdecimal() for x in mark.text) for mark in result.flags)
        left = sum(any(x.isdecimal() for x in word) for word in result.text.split())
        assert (left > 0) == (flagged > 0), text  # a digit that stays is always flagged
        digits_left += flagged
    assert digits_left < 0.05 * len(texts)


@needs_data
def test_read_transcripts_change_only_where_the_tone_mark_stands():
    for line in read_lines("vi_vivos_text/vivos_text.jsonl.xz")[::4]:
        text = json.loads(line)["text"]
        result = VIETNAMESE.explain(text)
        rules = {rule for change in result.changes for rule in change.rules}
        if rules <= {"tone_mark"}:
            for before, after in zip(text.split(), result.text.split(), strict=True):
                assert syllable.parse(before) == syllable.parse(after)
        else:
            assert rules <= {"tone_mark", "abbreviation", "punctuation", "number"}, text
