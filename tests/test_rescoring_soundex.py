"""VnSoundex: sounds that merge somewhere share a code, others do not."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescoring.soundex import vnsoundex
from trunkline.syllable import normalise, parse, words

LEXICON = Path(__file__).parents[2] / "shared" / "data" / "vi_lexicon" / "hunspell_vi_DauCu.dic"


@pytest.mark.parametrize(
    ("text", "code", "with_tone"),
    [
        ("nguyễn", "QwIN", "QwIN3"),
        ("quyển", "KwIN", "KwIN3"),
        ("quang", "KwaN", "KwaN1"),
        ("thanh", "O-aN", "O-aN1"),
        ("an", "0-aN", "0-aN1"),
        ("bánh mì", "B-aN.M-I0", "B-aN5.M-I02"),
        ("hươu", "H-IW", "H-IW1"),
        ("lưu", "L-IW", "L-IW1"),
        ("mua", "M-U0", "M-U01"),
        ("google 4g", "*google.*4.*g", "*google.*4.*g"),
        ("😀", "", ""),
    ],
)
def test_codes(text, code, with_tone):
    assert (vnsoundex(text), vnsoundex(text, tone=True)) == (code, with_tone)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("sinh", "xinh"),
        ("da", "gia"),
        ("da", "ra"),
        ("va", "da"),
        ("trâu", "châu"),
        ("lan", "nang"),
        ("bắt", "bắc"),
        ("mỡ", "mở"),
        ("rượu", "diệu"),
        ("pin", "bin"),
    ],
)
def test_what_merges_somewhere_shares_its_code(a, b):
    assert vnsoundex(a, tone=True) == vnsoundex(b, tone=True)


@pytest.mark.parametrize(
    ("a", "b"),
    # The first three shared a code, or a wrong one, in the prototype: ng then qu then w were rewritten in turn.
    [
        ("nguyễn", "quyển"),
        ("quang", "vang"),
        ("tha", "ta"),
        ("đa", "da"),
        ("ba", "ma"),
        ("mo", "mơ"),
    ],
)
def test_what_merges_nowhere_has_another_code(a, b):
    assert vnsoundex(a) != vnsoundex(b)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(("a", "b"), [("Hòa", "HOÀ"), ("qúy", "quý"), ("\u00d0ức", "đức")])
def test_how_it_is_written_does_not_matter(form, a, b):
    assert vnsoundex(unicodedata.normalize(form, a)) == vnsoundex(b)


@given(st.text(max_size=30))
def test_any_text_has_one_code_a_word(text):
    code = vnsoundex(text)
    assert (code.count(".") + 1 if code else 0) == len(words(text))
    assert vnsoundex(text, tone=True).replace(".", "") != "" or not words(text)


@pytest.mark.skipif(not LEXICON.is_file(), reason=f"no word list at {LEXICON}")
def test_the_number_of_codes_of_the_dictionary():
    lines = LEXICON.read_text(encoding="utf-8").splitlines()[1:]
    syllables = {
        line for line in lines if line == normalise(line) and (x := parse(line)) and not x.ext
    }
    codes = {vnsoundex(x) for x in syllables}
    toned = {vnsoundex(x, tone=True) for x in syllables}
    # The reference counts 1,057 and 3,341 codes over 6,579 syllables.
    assert (len(syllables), len(codes), len(toned)) == (6581, 1059, 3343)
