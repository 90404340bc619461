"""Vietnamese text becomes the same syllables however it is written, and nothing else becomes one."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescoring.syllable import Syllable, normalise, parse, tokens, words
from trunkline.syllable import RIMES, TONED, mend, place_tone, split_tone, word_spans

LEXICON = Path(__file__).parents[2] / "shared" / "data" / "vi_lexicon"
needs_lexicon = pytest.mark.skipif(not LEXICON.is_dir(), reason=f"no word lists at {LEXICON}")


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("nghiêng", Syllable("ng", "", "iê", "ng", "")),
        ("quý", Syllable("k", "w", "i", "", "s")),
        ("quơ", Syllable("k", "w", "ơ", "", "")),
        ("quốc", Syllable("k", "w", "ô", "c", "s")),
        ("quyển", Syllable("k", "w", "iê", "n", "r")),
        ("quà", Syllable("k", "w", "a", "", "f")),
        ("quoắt", Syllable("k", "w", "ă", "t", "s")),
        ("gì", Syllable("gi", "", "i", "", "f")),
        ("gìn", Syllable("gi", "", "i", "n", "f")),
        ("giếng", Syllable("gi", "", "iê", "ng", "s")),
        ("giá", Syllable("gi", "", "a", "", "s")),
        ("giường", Syllable("gi", "", "ươ", "ng", "f")),
        ("giun", Syllable("gi", "", "u", "n", "")),
        ("ghế", Syllable("g", "", "ê", "", "s")),
        ("khuya", Syllable("kh", "w", "iê", "", "")),
        ("khuỷu", Syllable("kh", "w", "i", "w", "r")),
        ("thuở", Syllable("th", "w", "ơ", "", "r")),
        ("hươu", Syllable("h", "", "ươ", "w", "")),
        ("mai", Syllable("m", "", "a", "j", "")),
        ("may", Syllable("m", "", "ă", "j", "")),
        ("mua", Syllable("m", "", "uô", "", "")),
        ("mưa", Syllable("m", "", "ươ", "", "")),
        ("yêu", Syllable("", "", "iê", "w", "")),
        ("uy", Syllable("", "w", "i", "", "")),
        ("xoong", Syllable("x", "", "oo", "ng", "")),
        ("đắk", Syllable("đ", "", "ă", "k", "s", ext=True)),
        ("pin", Syllable("p", "", "i", "n", "", ext=True)),
        ("hat", Syllable("h", "", "a", "t", "", ext=True)),
    ],
)
def test_syllables_are_taken_apart_as_the_specification_says(token, expected):
    assert parse(token) == expected


@pytest.mark.parametrize(
    "token",
    [
        "google",
        "q",
        "qu",
        "quu",
        "ng",
        "bcd",
        "màá",
        "hấtf",
        "xìt",
        "bảp",
        "niño",
        "",
        "4",
        "w",
        "a b",
        "😀",
        "привет",
    ],
)
def test_what_is_no_syllable_is_none(token):
    assert parse(token) is None


def test_a_stop_coda_bears_sắc_and_nặng_only():
    assert [parse(x) is not None for x in ("cát", "cạt", "càt", "cảt", "cãt")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("a", "b"), [("hòa", "hoà"), ("QÚY", "quý"), ("tòan", "toàn"), ("gìa", "già"), ("thủy", "thuỷ")]
)
def test_the_place_of_the_tone_mark_does_not_matter(a, b):
    assert parse(a) == parse(b) is not None


@pytest.mark.parametrize(
    "written",
    [
        unicodedata.normalize("NFD", "ượng"),
        "ươ\u0323ng",  # Windows-1258: the dot stands alone
        "\u01b0\u1ecd\u031bng",  # tone before horn
        "ƯỢNG",
        "ư\u200bợ\u00adng",
    ],
)
def test_every_unicode_form_is_one_syllable(written):
    assert parse(written) == Syllable("", "", "ươ", "ng", "j")


@pytest.mark.parametrize("letter", ["\u00d0", "\u0189", "\u00f0", "\u0256"])
def test_lookalikes_of_đ_are_đ(letter):
    assert normalise(f"{letter}à nẵng") == "đà nẵng"


def test_spelling_is_judged_only_when_asked():
    broken = ["kan", "gen", "ngen", "ghan", "ci"]
    assert all(parse(token) for token in broken)
    assert not any(parse(token, strict_spelling=True) for token in broken)
    kept = ["kính", "ghé", "nghe", "can", "gan", "nga", "quen", "giêng"]
    assert all(parse(token, strict_spelling=True) for token in kept)


def test_rare_rimes_are_marked_as_extended():
    assert all(RIMES[x].ext for x in ("enh", "êng", "ơng", "ưm", "uâu", "uyêm", "ôông"))
    assert not any(RIMES[x].ext for x in ("anh", "oong", "uơ", "uyu", "yêng"))


@given(st.text(max_size=40))
def test_tokens_lose_nothing_and_words_are_among_them(text):
    assert "".join(tokens(text)) == normalise(text)
    assert set(words(text)) <= set(tokens(text))
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(max_size=40))
def test_words_are_found_again_in_the_text_itself(text):
    mended, spans = word_spans(text)
    assert [normalise(mended[start:stop]) for start, stop in spans] == words(text)


def test_words_keep_numbers_and_drop_the_rest():
    assert words("Gọi 1900-545 (TP.HCM), đ/c An_4g!") == [
        "gọi",
        "1900",
        "545",
        "tp",
        "hcm",
        "đ",
        "c",
        "an",
        "4",
        "g",
    ]


def test_mending_keeps_the_case():
    assert mend("\u00d0À NẴNG\u200b") == "ĐÀ NẴNG"


@given(st.text(max_size=12))
def test_any_token_can_be_parsed(token):
    assert parse(token) is None or isinstance(parse(token), Syllable)


@given(
    st.sampled_from(sorted(RIMES)),
    st.sampled_from(["", "b", "ng", "th", "l"]),
    st.sampled_from("fsrxj"),
)
def test_tone_marks_are_placed_where_they_are_found_again(rime, onset, tone):
    for old in (True, False):
        marked = place_tone(onset + rime, tone, old=old)
        assert split_tone(marked) == (onset + rime, tone)


def test_two_tone_marks_or_a_marked_consonant_are_no_tone():
    assert split_tone("hóà") is None
    assert split_tone("ñ") == ("ñ", "")
    assert len(TONED) == 60


@needs_lexicon
def test_the_dictionary_is_parsed_but_for_abbreviations_and_foreign_words():
    lines = (LEXICON / "hunspell_vi_DauCu.dic").read_text(encoding="utf-8").splitlines()[1:]
    listed = {normalise(line) for line in lines}
    missed = sorted(token for token in listed if parse(token) is None)
    assert len(listed) > 6600
    assert len(missed) == 34
    assert set(missed) >= {"html", "pdf", "internet", "gỵa", "palăng"}


@needs_lexicon
def test_old_and_new_placement_are_the_same_syllables():
    lists = [
        (LEXICON / f"hunspell_vi_{name}.dic").read_text(encoding="utf-8").splitlines()[1:]
        for name in ("DauCu", "DauMoi")
    ]
    old, new = ({parse(token) for token in words_} for words_ in lists)
    assert old == new
