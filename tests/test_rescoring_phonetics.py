"""Phonetic distance: faithful to its tables, lists as single pairs, dialect by dialect; the command, the import."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescoring.alignment import align, edit_distances, string_distances
from rescoring.costs import DIALECTS, SYMBOLS, default_costs
from rescoring.phonetics import (
    distance_matrix,
    pairwise_distances,
    phonetic_distance,
    phonetic_similarity,
    sentence_distance,
    sentence_distances,
)
from trunkline.errors import UsageError
from trunkline.syllable import parse, words

ROOT = Path(__file__).parent.parent

SYLLABLES = words(
    "bánh bàn bạn xong sông sô song lan nan năng lăng trâu châu da gia ra va nguyễn nguyển quyển hòa hoà mỡ mở "
    "lưu liu rượu diệu tim tiêm xoong quan oan quý quỷ khuya thuở thủa yêu ích ít pin đắk gì giếng mai may"
)
TOKENS = [*SYLLABLES, "google", "4", "mix", "iphone"]


# Costs as the specification lists them, weights included.
@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ("sa", "xa", 0.30 * 0.10),
        ("da", "ra", 0.30 * 0.15),
        ("ba", "va", 0.30 * 0.35),
        ("ca", "ta", 0.30 * 0.50),
        ("cha", "ta", 0.30 * 0.50),
        ("ba", "la", 0.30),
        ("a", "ha", 0.30 * 0.35),
        ("hoa", "ha", 0.05),
        ("quan", "oan", 0.30 * 0.10),
        ("ca", "a", 0.30 * 0.50),
        ("toong", "tong", 0.27 * 0.10),
        ("toong", "tông", 0.27 * 0.25),
        ("tân", "tăn", 0.27 * 0.25),
        ("tơ", "tô", 0.27 * 0.35),
        ("te", "ta", 0.27 * 0.50),
        ("tim", "tiêm", 0.27 * 0.15),
        ("tin", "tiên", 0.27 * 0.25),
        ("lưu", "liu", 0.27 * 0.10),
        ("rượu", "riệu", 0.27 * 0.10),
        ("tư", "ti", 0.27 * 0.35),
        ("ông", "ong", 0.27 * 0.15),
        ("ôn", "on", 0.27 * 0.25),
        ("tan", "tang", 0.18 * 0.10),
        ("tan", "tanh", 0.18 * 0.15),
        ("tát", "tách", 0.18 * 0.15),
        ("tam", "tan", 0.18 * 0.50),
        ("tai", "ta", 0.18 * 0.50),
        ("tan", "ta", 0.18 * 0.70),
        ("tam", "tao", 0.18),
        ("tả", "tã", 0.20 * 0.10),
        ("tá", "tã", 0.20 * 0.40),
        ("tà", "tạ", 0.20 * 0.50),
        ("ta", "tạ", 0.20 * 0.60),
        ("tà", "tá", 0.20 * 0.80),
        ("tà", "tã", 0.20 * 0.60),
        ("hòa", "HOÀ", 0.0),
    ],
)
def test_distances_are_those_of_the_specification(a, b, distance):
    assert phonetic_distance(a, b) == pytest.approx(distance, abs=1e-6)
    assert phonetic_distance(b, a) == pytest.approx(distance, abs=1e-6)
    assert phonetic_similarity(a, b) == pytest.approx(1 - distance, abs=1e-6)


@pytest.mark.parametrize(
    ("anchor", "near", "far"),
    [
        ("xong", "sông", "sô"),
        ("bắc", "bắt", "ba"),
        ("nguyễn", "nguyển", "quyển"),
        ("lan", "nan", "tan"),
        ("sinh viên", "xinh viên", "sinh tiên"),
        ("chuyển khoản", "truyển khoảng", "chuyến hoàn"),
        ("google", "gogle", "facebook"),
    ],
)
def test_what_sounds_alike_is_nearer(anchor, near, far):
    assert 0 < phonetic_distance(anchor, near) < phonetic_distance(anchor, far)


@pytest.mark.parametrize(
    ("a", "b", "where"),
    [
        ("sa", "xa", ["north", "south"]),
        ("tra", "cha", ["north", "south"]),
        ("da", "gia", ["north", "centre", "south"]),
        ("da", "ra", ["north"]),
        ("lan", "nan", ["north"]),
        ("da", "va", ["south"]),
        ("tan", "tang", ["centre", "south"]),
        ("mát", "mác", ["centre", "south"]),
        ("mả", "mã", ["centre", "south"]),
        ("lưu", "liu", ["north"]),
        ("tim", "tiêm", ["centre", "south"]),
        ("quan", "oan", ["centre", "south"]),
    ],
)
def test_a_profile_keeps_only_its_own_mergers(a, b, where):
    least = phonetic_distance(a, b)
    assert {x: phonetic_distance(a, b, x) == pytest.approx(least) for x in DIALECTS[1:]} == {
        x: x in where for x in DIALECTS[1:]
    }
    assert all(phonetic_distance(a, b, x) >= least for x in DIALECTS)


def test_tables_are_metrics_of_a_kind():
    for dialect, part in itertools.product(DIALECTS, SYMBOLS):
        costs = default_costs(dialect)
        for a, b in itertools.product(SYMBOLS[part], repeat=2):
            assert costs.part(part, a, b) == costs.part(part, b, a)
            # A merger is near, but never the same.
            assert (costs.part(part, a, b) == 0) == (a == b)
            assert costs.part(part, a, b) <= 1
    assert sum(default_costs().weights.values()) == pytest.approx(1)


def test_every_symbol_in_the_tables_exists():
    for dialect in DIALECTS:
        for part, table in default_costs(dialect).tables.items():
            assert {x for pair in table for x in pair} <= set(SYMBOLS[part])


@given(st.sampled_from(TOKENS), st.sampled_from(TOKENS), st.sampled_from(DIALECTS))
def test_a_matrix_says_what_single_pairs_say(a, b, dialect):
    single = float(distance_matrix([a], [b], dialect)[0, 0])
    first, second = parse(a), parse(b)
    if first and second:
        assert single == pytest.approx(default_costs(dialect).syllables(first, second), abs=1e-6)
    else:
        assert (single == 0) == (a == b)
    assert distance_matrix(TOKENS, [b], dialect)[TOKENS.index(a), 0] == pytest.approx(single)


def plain_distance(a: list[str], b: list[str]) -> float:
    """The edit distance as it is written in textbooks."""
    if not a or not b:
        return float(max(len(a), len(b)) > 0)
    costs = distance_matrix(a, b)
    table = [[float(i + j) for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i, j in itertools.product(range(len(a)), range(len(b))):
        table[i + 1][j + 1] = min(
            table[i][j] + float(costs[i, j]), table[i][j + 1] + 1, table[i + 1][j] + 1
        )
    return table[-1][-1] / max(len(a), len(b))


sentences = st.lists(st.sampled_from(TOKENS), max_size=7)


@given(sentences, st.lists(sentences, min_size=1, max_size=6))
@settings(deadline=None)
def test_lists_are_compared_as_sentences_one_by_one(pivot, others):
    expected = [plain_distance(pivot, other) for other in others]
    assert sentence_distances(pivot, others) == pytest.approx(expected, abs=1e-5)
    assert sentence_distance(pivot, others[0]) == pytest.approx(expected[0], abs=1e-5)
    everyone = pairwise_distances([pivot, *others])
    assert everyone[0, 1:] == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(everyone, everyone.T) and not everyone.diagonal().any()


@given(st.text(max_size=20), st.text(max_size=20))
@settings(deadline=None)
def test_any_two_texts_have_a_distance(a, b):
    distance = phonetic_distance(a, b)
    assert 0 <= distance <= 1
    assert distance == pytest.approx(phonetic_distance(b, a), abs=1e-6)
    assert phonetic_distance(a, a) == 0


def test_empty_texts_are_alike_and_unlike_all_others():
    assert phonetic_distance("", "😀") == 0
    assert phonetic_distance("", "a") == 1
    assert len(sentence_distances(["a"], [])) == 0


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_how_it_is_written_does_not_matter(form):
    a = unicodedata.normalize(form, "TÒAN Quý Khách, ạ!")
    assert phonetic_distance(a, "toàn qúy khách ạ") == 0


def test_foreign_words_are_compared_by_their_letters():
    assert phonetic_distance("google", "googel") == pytest.approx(2 / 6)
    assert phonetic_distance("привет", "google") == 1
    # Its Telex is the same, but it is another word.
    assert phonetic_distance("see", "sê") == pytest.approx(0.10)


def test_an_unknown_dialect_is_refused():
    with pytest.raises(UsageError, match="no dialect 'sout'. Did you mean 'south'"):
        phonetic_distance("a", "b", "sout")


def test_string_distances_are_levenshtein_over_the_longer_one():
    found = string_distances(["kitten", "", "abc", ""], ["sitting", "ab", "abc", ""])
    assert found == pytest.approx([3 / 7, 1, 0, 0])


def test_an_alignment_costs_what_the_distance_says():
    costs = distance_matrix(["tôi", "muốn", "chuyển", "khoản"], ["tui", "muống", "khoảng"])
    pairs = align(costs)
    total = sum(1 if None in pair else costs[pair] for pair in pairs)
    lengths = np.array([4]), np.array([3])
    assert total == pytest.approx(float(edit_distances(costs[None], *lengths)[0]), abs=1e-5)
    assert [x for x, _ in pairs if x is not None] == [0, 1, 2, 3]
    assert [x for _, x in pairs if x is not None] == [0, 1, 2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_the_command_tells_why():
    result = run("-m", "rescoring.phonetics", "bánh", "bàn", "--json")
    summary = json.loads(result.stdout)
    assert summary["distance"] == pytest.approx(0.187)
    (row,) = summary["tables"]["Words side by side (weighted cost of each part)"]
    assert (row["coda"], row["tone"]) == (pytest.approx(0.027), pytest.approx(0.16))
    parts = sum(row[x] for x in ("onset", "glide", "nucleus", "coda", "tone"))
    assert parts == pytest.approx(row["distance"])


def test_the_command_refuses_what_has_no_words():
    result = run("-m", "rescoring.phonetics", "😀", "bàn")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: '😀' has no word to compare; give letters or digits.\n"


def test_the_package_is_imported_at_once_and_without_heavy_libraries():
    code = (
        "import sys, time; start = time.process_time(); import rescoring; print(time.process_time() - start);"
        "from rescoring import phonetic_similarity, to_telex, vnsoundex, PhraseList, learn_costs;"
        "print(*(x for x in ('torch', 'faiss', 'gensim', 'pyarrow', 'sklearn') if x in sys.modules))"
    )
    result = run("-c", code)
    seconds, heavy = result.stdout.splitlines()
    assert float(seconds) < 0.3 and heavy == ""


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import rescoring

    assert set(rescoring.__all__) <= set(dir(rescoring))
    assert all(getattr(rescoring, name) is not None for name in rescoring.__all__)
    with pytest.raises(AttributeError, match="no attribute 'to_telexx'"):
        rescoring.to_telexx  # noqa: B018
