"""Canonical Telex: the golden cases, round trips over word lists and texts, and what is documented not to return."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
import unicodedata
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescoring.telex import from_telex, to_telex
from trunkline.errors import UsageError
from trunkline.syllable import RIMES, normalise, parse, place_tone, split_tone, words

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
GOLDEN = SHARED / "golden" / "telex" / "cases.tsv"
DATA = SHARED / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no text data at {DATA}")


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


@cache
def texts(name: str) -> list[str]:
    if name == "vivos":
        path = DATA / "vi_vivos_text" / "vivos_text.jsonl.xz"
        return [json.loads(line)["text"] for line in lzma.open(path, "rt", encoding="utf-8")]
    path = DATA / "vi_news_unc" / "news.tsv.xz"
    return [line.split("\t")[2] for line in lzma.open(path, "rt", encoding="utf-8")]


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"the golden cases are not at {GOLDEN}")
def test_every_golden_case_is_met():
    cases = rows(GOLDEN)
    assert len(cases) == 400
    assert [(text, to_telex(text)) for text, *_ in cases] == [(x, y) for x, y, *_ in cases]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("nguyễn", "nguyeenx"),
        ("Đà Nẵng", "ddaf nawngx"),
        ("hươu", "huwowu"),
        ("thuở", "thuowr"),
        ("xoong moóc ôông", "xooong mooocs oooong"),
        ("vắcxin karaôkê café", "vawscxin karaookee cafes"),
        ("google mix covid", "google mix covid"),
        ("đ/c 4g\u00a0!", "dd/c 4g\u00a0!"),
    ],
)
def test_canonical_codes(text, keys):
    assert to_telex(text) == keys


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize("change", [str.lower, str.upper, str.title])
def test_form_and_case_do_not_matter(form, change):
    text = "Cộng hòa xã hội chủ nghĩa Việt Nam, thuở ấy quý khách"
    assert to_telex(unicodedata.normalize(form, change(text))) == to_telex(text)


@pytest.mark.parametrize(
    ("a", "b"), [("hòa", "hoà"), ("qúy", "quý"), ("tòan", "toàn"), ("gìa", "già"), ("khỏe", "khoẻ")]
)
def test_misplaced_tone_marks_have_the_same_code(a, b):
    assert to_telex(a) == to_telex(b)


@pytest.mark.parametrize(
    ("old", "new"),
    [("hòa", "hoà"), ("thúy", "thuý"), ("khỏe", "khoẻ"), ("lũy", "luỹ"), ("ủy", "uỷ")],
)
def test_both_styles_of_placement(old, new):
    assert from_telex(to_telex(new)) == old
    assert from_telex(to_telex(old), style="new") == new


@pytest.mark.parametrize(
    "word",
    words("quý quà toàn hoặc khuỷu xoài ngoèo muối kìa thuở giếng gìn già của"),
)
def test_both_styles_agree_elsewhere(word):
    assert from_telex(to_telex(word), "old") == from_telex(to_telex(word), "new") == word


@given(
    st.sampled_from(sorted(RIMES)),
    st.sampled_from(
        ["", *words("b c ch d đ g gh gi h k kh l m n ng ngh nh p ph qu r s t th tr v x")]
    ),
    st.sampled_from(["", "f", "s", "r", "x", "j"]),
)
def test_every_syllable_returns(rime, onset, tone):
    written = place_tone(onset + rime, tone)
    if parse(written) is None:
        return
    assert split_tone(from_telex(to_telex(written))) == split_tone(written)
    assert parse(from_telex(to_telex(written))) == parse(written)


@given(st.text(max_size=30))
def test_any_text_can_be_encoded_and_decoded(text):
    assert isinstance(from_telex(to_telex(text)), str)
    assert to_telex(normalise(text)) == to_telex(text)


def test_ascii_words_may_equal_a_syllables_code_as_documented():
    assert to_telex("see") == to_telex("sê") == "see"
    assert from_telex("see mix google ns") == "sê mĩ google ns"


def test_single_letters_return():
    assert from_telex(to_telex("ă ắ â đ ơ ữ")) == "ă ắ â đ ơ ữ"


def test_an_unknown_style_is_refused():
    with pytest.raises(UsageError, match="no tone placement 'modern'"):
        from_telex("hoaf", style="modern")  # type: ignore[arg-type]


@needs_data
@pytest.mark.parametrize(("name", "style"), [("DauCu", "old"), ("DauMoi", "new")])
def test_the_dictionary_returns_letter_by_letter(name, style):
    listed = rows(DATA / "vi_lexicon" / f"hunspell_vi_{name}.dic")[1:]
    syllables = [normalise(row[0]) for row in listed if parse(row[0])]
    assert len(syllables) > 6600
    assert [from_telex(to_telex(x), style) for x in syllables] == syllables


@needs_data
def test_what_does_not_return_is_no_syllable():
    listed = {normalise(row[0]) for row in rows(DATA / "vi_lexicon" / "hunspell_vi_DauCu.dic")[1:]}
    changed = {x for x in listed if from_telex(to_telex(x)) != x}
    assert changed == {"gif", "hđnd", "gỵa", "palăng"}


@needs_data
def test_recorded_syllables_have_their_codes():
    listed = rows(DATA / "vi_lexicon" / "syllables_recorded.tsv")[1:]
    unequal = {row[0] for row in listed if to_telex(row[0]) != row[1]}
    # That list writes a literal double o with two keys, and dýn, xýt with the key at the end; both are no rimes.
    assert all(
        "oo" in x or "oó" in x or "oò" in x or "oọ" in x or x in ("dýn", "xýt") for x in unequal
    )
    assert len(listed) == 6221 and len(unequal) == 16


@needs_data
@pytest.mark.parametrize("name", ["vivos", "news"])
def test_every_parsed_word_of_real_text_returns(name):
    vocabulary = {word for text in texts(name) for word in words(text)}
    syllables = [word for word in vocabulary if parse(word)]
    assert len(syllables) > 3000
    for word in syllables:
        assert split_tone(from_telex(to_telex(word))) == split_tone(word)


@needs_data
def test_keys_typed_by_people_agree_where_they_are_canonical():
    listed = rows(DATA / "vi_telex_keys" / "telex_keys.tsv")[1:]
    canonical = [(keys, word) for keys, word, _ in listed if keys == to_telex(word)]
    assert len(canonical) > 600
    unequal = [(keys, word) for keys, word in canonical if from_telex(keys) != normalise(word)]
    assert unequal == [("aloo", "alô"), ("oddp", "ođp")]  # no syllables: google must stay google


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rescoring.telex", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_command_writes_and_reads_telex():
    written = json.loads(run("--json", "số dư", "khả dụng").stdout)
    assert written == {
        "text": "số dư khả dụng",
        "telex": "soos duw khar dungj",
        "read_back": "số dư khả dụng",
    }
    read = json.loads(run("--json", "--decode", "--style", "new", "hoaf").stdout)
    assert read["text"] == "hoà"


def test_the_command_says_what_is_missing():
    result = run()
    assert result.returncode == 2 and "text" in result.stderr and "Traceback" not in result.stderr
