"""ARPA files: what is written is read again to the bit, and an altered file is refused with its line."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescoring.arpa import read_arpa, write_arpa
from rescoring.kneser_ney import train
from rescoring.lm import ArpaLM, load_lm
from tests.language_models import LMPLZ, TEXT, TEXTS
from trunkline.errors import DataError, StorageError


@pytest.fixture(scope="module")
def lmplz(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "lmplz.arpa"
    path.write_text(LMPLZ, encoding="utf-8")
    return path


@settings(max_examples=25, deadline=None)
@given(text=TEXTS, order=st.integers(1, 3), packed=st.booleans())
def test_writing_and_reading_give_the_same_model_and_the_same_bytes(
    tmp_path_factory, text, order, packed
):
    ngrams = train(text, min(order, max(map(len, text)) + 2)).ngrams
    folder = tmp_path_factory.mktemp("arpa")
    first, second = (folder / f"{x}.arpa{'.gz' if packed else ''}" for x in "12")
    write_arpa(ngrams, first)
    again = read_arpa(first)
    write_arpa(again, second)
    assert first.read_bytes() == second.read_bytes()
    assert again.vocabulary == ngrams.vocabulary
    for one, other in zip(ngrams.orders, again.orders, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(one, other, strict=True))


def test_a_model_whose_ngrams_are_out_of_order_scores_the_same(lmplz, tmp_path):
    blocks = LMPLZ.split("\n\n")
    header, *sections, end = blocks
    turned = [
        "\n".join([lines[0], *reversed(lines[1:])])
        for lines in (section.splitlines() for section in sections)
    ]
    path = tmp_path / "turned.arpa"
    path.write_text(
        "\n\n".join(["a comment of another tool", header, *turned, end]), encoding="utf-8"
    )
    assert ArpaLM.load(path).score(TEXT.splitlines()) == pytest.approx(
        ArpaLM.load(lmplz).score(TEXT.splitlines()), abs=1e-9
    )


def test_a_model_without_unk_gives_unknown_words_next_to_nothing(lmplz, tmp_path):
    path = tmp_path / "closed.arpa"
    lines = LMPLZ.replace("ngram 1=16", "ngram 1=15").splitlines(keepends=True)
    path.write_text("".join(x for x in lines if "<unk>" not in x), encoding="utf-8")
    closed, opened = ArpaLM.load(path), ArpaLM.load(lmplz)
    assert closed.word_scores([["xyz"]])[0][0] < -200
    assert closed.score(["tôi muốn khóa thẻ"]) == pytest.approx(opened.score(["tôi muốn khóa thẻ"]))


def edited(old: str, new: str) -> str:
    assert old in LMPLZ
    return LMPLZ.replace(old, new, 1)


EDITS = {
    "a count too large": (edited("ngram 2=21", "ngram 2=22"), r":46: the header says 22 2-grams"),
    "a count too small": (edited("ngram 2=21", "ngram 2=20"), r":45: the header says 20 2-grams"),
    "no end": (edited("\\end\\", ""), r"expected .end., found the end of the file"),
    "cut off": (LMPLZ[:400], r":\d+: .*(cut off|back-off)"),
    "no number": (edited("-0.25205824", "-0.2x"), r":25: '-0.2x' is no finite number"),
    "not finite": (edited("-0.25205824", "nan"), r":25: 'nan' is no finite number"),
    "a probability above one": (
        edited("-0.25205824", "0.3"),
        r":25: the log10 probability '0.3' is above 0",
    ),
    "no words": (
        edited("-0.25205824\tthẻ </s>\t0", "-0.25205824"),
        r":25: expected a number, 2 words",
    ),
    "an unknown word": (
        edited("thẻ </s>", "xyz </s>"),
        r":25: the word 'xyz' is not among the 1-grams",
    ),
    "an n-gram twice": (
        edited("khoản </s>", "thẻ </s>"),
        r":26: this 2-gram stands here a second time",
    ),
    "a word twice": (
        edited("\tkhoản\t", "\tthẻ\t"),
        r":16: the 1-gram 'thẻ' stands here a second time",
    ),
    "no beginning": (
        edited("khóa thẻ </s>", "khóa mở </s>"),
        r":48: the first 2 words of this 3-gram are not among",
    ),
    "a section missing": (
        edited("\\2-grams:", "\\3-grams:"),
        r":24: expected the section .2-grams:",
    ),
    "no start": (LMPLZ.replace("<s>", "<start>"), "has no <s> among its 1-grams"),
    "something else": ("hello\nworld\n", "is no ARPA file"),
    "nothing": ("", "is no ARPA file"),
    "no counts": ("\\data\\\n\n\\1-grams:\n", r":3: expected 'ngram 1=NUMBER'"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_file_is_refused_with_its_line(name, tmp_path):
    text, message = EDITS[name]
    path = tmp_path / "edited.arpa"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_lm(path)


def test_bytes_that_are_not_text_and_broken_archives_are_refused(tmp_path):
    path = tmp_path / "bad.arpa"
    path.write_bytes(LMPLZ.encode().replace("khoản".encode(), b"kho\xff", 1))
    with pytest.raises(DataError, match=r":16: .* is not UTF-8"):
        load_lm(path)
    packed = tmp_path / "bad.arpa.gz"
    packed.write_bytes(gzip.compress(LMPLZ.encode())[:-40])
    with pytest.raises(DataError, match="broken gzip"):
        load_lm(packed)
    with pytest.raises(StorageError, match="no such language model"):
        load_lm(tmp_path / "none.arpa")
