"""Phrases are found by their sound, offered and never forced; errors on phrases and elsewhere are told apart."""

from __future__ import annotations

import math
import random
import time
import unicodedata
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescoring import phrases as phrases_module
from rescoring.bias import (
    EXPANDED,
    StagedRescorer,
    bias_scores,
    default_threshold,
    expand,
    phrase_errors,
    tune_threshold,
)
from rescoring.combine import Rescorer
from rescoring.phonetics import sentence_distance
from rescoring.phrases import Match, PhraseList
from rescoring.simulate import Recogniser, simulate
from rescoring.weights import Weights
from trunkline.errors import DataError, StorageError, UsageError
from trunkline.nbest import Hypothesis, NBest, parse_nbest, to_json
from trunkline.syllable import parse, place_tone, split_tone, words

FAMILY = words("nguyễn trần lê phạm hoàng phan vũ đặng bùi đỗ hồ ngô dương lý đinh trịnh")
MIDDLE = words("văn thị minh thanh quốc ngọc hữu đức xuân thu kim bảo gia tuấn")
GIVEN = words(
    "an bình châu dũng giang hà hương khánh lan long mai nam nga phúc quân sơn tâm thảo trang vinh yến"
)
TALK = words(
    "tôi muốn hỏi về số dư tài khoản của mình ngày hôm qua anh chị cho biết phí chuyển tiền bao nhiêu "
    "dạ vâng xin chờ một chút em kiểm tra lại giúp thẻ này bị khóa từ tuần trước rồi cảm ơn"
)


def names(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        parts = (
            rng.choice(FAMILY),
            rng.choice(MIDDLE),
            rng.choice(MIDDLE + GIVEN),
            rng.choice(GIVEN),
        )
        found[" ".join(parts[: rng.choice([3, 4])]).title()] = None
    return list(found)


def misheard(word: str, rng: random.Random) -> str:
    """The word with another tone and, where that gives a syllable, another onset of another VnSoundex class."""
    letters, _ = split_tone(word) or (word, "")
    onset, other = rng.choice(
        [("m", "n"), ("h", "kh"), ("t", "th"), ("đ", "t"), ("b", "m"), ("l", "r")]
    )
    changed = other + letters[len(onset) :] if letters.startswith(onset) else letters
    changed = place_tone(changed, rng.choice(["", "f", "s", "r", "x", "j"]))
    return changed if parse(changed) else word


def one(text: str, *others: str, **fields) -> NBest:
    hyps = tuple(Hypothesis(x, -10.0 - i) for i, x in enumerate((text, *others)))
    return NBest("u1", hyps, **fields)


# -- lists


def test_phrases_are_found_by_sound_nearest_first():
    listed = PhraseList(["Nguyễn Văn Sinh", "Trần Thị Lan", "Vinhomes Ocean Park"])
    tokens = words("gặp anh nguyển văn xinh ở vinhome ocean pak")
    found = listed.find(tokens, 0.16)
    assert [(x.start, x.stop, x.phrase) for x in found] == [(2, 5, 0), (6, 9, 2)]
    for x in found:
        exact = sentence_distance(tokens[x.start : x.stop], listed.tokens[x.phrase])
        assert x.distance == pytest.approx(exact, abs=1e-6)


def test_equal_phrases_are_kept_once():
    assert PhraseList(["Hòa Bình", "HOÀ BÌNH!", "hòa bình"]).phrases == ("Hòa Bình", "HOÀ BÌNH!")


@pytest.mark.parametrize("size", [30, 400])
def test_long_lists_find_what_an_exhaustive_search_finds(monkeypatch, size):
    listed, rng = PhraseList(names(size)), random.Random(1)
    texts = []
    for _ in range(40):
        said = words(rng.choice(listed.phrases))
        said = [misheard(word, rng) for word in said]
        texts.append([*rng.sample(TALK, 4), *said, *rng.sample(TALK, 4)])
    wanted = [listed.find(text, 0.12) for text in texts]
    monkeypatch.setattr(phrases_module, "EXHAUSTIVE", 0)
    found = [listed.find(text, 0.12) for text in texts]
    assert sum(map(len, wanted)) > 20
    for exhaustive, indexed in zip(wanted, found, strict=True):
        assert set(indexed) <= set(exhaustive)
    assert sum(map(len, found)) >= 0.98 * sum(map(len, wanted))


def test_ten_thousand_phrases_are_searched_in_milliseconds():
    listed, rng = PhraseList(names(10_000)), random.Random(2)
    listed.find(words("một hai ba bốn"), 0.08)  # the index is built at the first search
    times = []
    for _ in range(30):
        text = [*rng.sample(TALK, 16), *words(rng.choice(listed.phrases))]
        start = time.process_time()
        found = listed.find(text, 0.08)
        times.append(time.process_time() - start)
        assert found[0].distance == 0
    # 5 ms on a quiet core, which benchmarks/phonetics.py measures; other work slows this one down.
    assert np.median(times) < 0.015


def test_a_list_of_a_hundred_thousand_lines_is_read_and_searched(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text(
        "\n".join(f"{a} {i // 20_000}" for i, a in enumerate(names(20_000) * 5)), encoding="utf-8"
    )
    listed = PhraseList.read(path)
    assert len(listed) == 100_000
    assert listed.same_code([*words(listed.phrases[70_000]), "ạ"])[0].phrase == 70_000


def test_nearest_cells_are_searched_where_there_are_very_many(monkeypatch):
    monkeypatch.setattr(phrases_module, "FLAT", 200)
    monkeypatch.setattr(phrases_module, "EXHAUSTIVE", 0)
    listed = PhraseList(names(600))
    for number in range(0, 600, 50):
        found = listed.find([*TALK[:5], *listed.tokens[number], *TALK[5:9]], 0.04)
        assert found[0].phrase == number


def test_a_file_of_phrases_may_have_a_mark_blank_lines_and_any_characters(tmp_path):
    path = tmp_path / "phrases.txt"
    path.write_bytes("\ufeffA.B (C)+ [d]*\r\n\r\n  \n^$ Hòa | Bình \\d\n".encode())
    listed = PhraseList.read(path)
    assert listed.phrases == ("A.B (C)+ [d]*", "^$ Hòa | Bình \\d")
    assert listed.tokens == (("a", "b", "c", "d"), ("hòa", "bình", "d"))
    assert listed.find(words("hòa bình đ"), 0.3)[0].phrase == 1


def test_a_composed_and_a_decomposed_list_are_the_same():
    name = "Nguyễn Thị Hường"
    assert PhraseList([unicodedata.normalize("NFD", name)]).tokens == PhraseList([name]).tokens


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"An\n\n.*\n", r"phrases.txt:3: '\.\*' has no word"),
        ("An\n😀\n".encode(), r"phrases.txt:2: '😀' has no word"),
        (b"An\n\xff\xfe\n", r"phrases.txt:2 is not UTF-8 text"),
        (b"\n \n", r"phrases.txt holds no phrase; it needs one a line"),
    ],
)
def test_a_wrong_list_is_refused_with_its_line(tmp_path, data, message):
    path = tmp_path / "phrases.txt"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        PhraseList.read(path)


def test_a_missing_list_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="Cannot read .*none.txt: No such file"):
        PhraseList.read(tmp_path / "none.txt")


def test_phrases_in_memory_are_counted_in_messages():
    with pytest.raises(DataError, match="Phrase 2: '' has no word"):
        PhraseList(["An", ""])
    with pytest.raises(DataError, match="holds no phrase"):
        PhraseList([])


@given(st.lists(st.text(max_size=12), max_size=5), st.text(max_size=30))
@settings(deadline=None)
def test_any_list_is_searched_or_refused(listed, text):
    try:
        found = PhraseList(listed).find(words(text), 0.2)
    except DataError:
        assert not listed or any(not words(x) for x in listed)
        return
    assert all(isinstance(x, Match) and 0 <= x.distance <= 0.21 for x in found)


# -- expansion


def test_a_candidate_is_offered_behind_the_list_flagged_and_told():
    given_ = one("Gặp anh Nguyển Văn Xinh, ạ!", "gặp anh nguyễn", ref="gặp anh Nguyễn Văn Sinh ạ")
    wider = expand(given_, ["Nguyễn Văn Sinh", "Lê Lợi"], kappa=10)
    assert wider.hyps[:2] == given_.hyps
    (added,) = wider.hyps[2:]
    assert added.text == "Gặp anh Nguyễn Văn Sinh, ạ!"
    distance = 0.2 * 0.1 + 0.3 * 0.1  # hỏi and ngã, s and x
    assert added.extra[EXPANDED] == pytest.approx(distance, abs=1e-6)
    assert added.am == pytest.approx(-10 - 10 * distance, abs=1e-5)
    (told,) = wider.extra[EXPANDED]
    assert told["hypothesis"] == 2
    assert told["replaced"][0] | {"distance": 0} == {
        "heard": "nguyển văn xinh",
        "phrase": "Nguyễn Văn Sinh",
        "distance": 0,
    }
    assert given_.extra == {} and len(given_) == 2
    assert parse_nbest(str(to_json(wider)).replace("'", '"'), "x:1").texts == wider.texts


def test_the_lists_own_phrases_are_looked_for_too():
    assert "Sinh" in expand(one("xinh ơi", bias=("Sinh",))).texts[1]


def test_nothing_near_leaves_the_very_list():
    given_ = one("tôi muốn hỏi số dư")
    assert expand(given_, ["Nguyễn Văn Sinh"]) is given_
    assert expand(given_) is given_
    assert expand(one("😀"), ["Sinh"]).texts == ["😀"]
    assert expand(one("hello, how are you"), ["Nguyễn Văn Sinh"]).texts == ["hello, how are you"]


def test_what_is_right_already_is_left_alone_unless_a_longer_phrase_fits():
    assert len(expand(one("gặp Lan nhé"), ["Lan", "Nan", "Lang"])) == 1
    wider = expand(one("gặp trần thị lan nhé"), ["Lan", "Trần Thị Nan"])
    assert wider.texts[1:] == ["gặp Trần Thị Nan nhé"]


def test_candidates_are_capped_distinct_and_start_with_all_replacements():
    near = ["Sinh", "Xin", "Sin", "Xính", "Sình", "Xỉnh", "Sĩnh"]
    wider = expand(one("xinh gặp nan", "sinh gặp lan"), [*near, "Lan"], threshold=0.3, limit=5)
    assert len(wider) == 2 + 5
    normal = [tuple(words(x)) for x in wider.texts]
    assert len(set(normal)) == len(normal)
    first = wider.extra[EXPANDED][0]["replaced"]
    assert len(first) == 1 or {x["phrase"] for x in first} > {"Lan"}
    assert len(expand(one("xinh gặp nan"), near, threshold=0.3, limit=0)) == 1


def test_a_candidate_has_the_scores_that_the_list_has():
    hyps = (
        Hypothesis("xinh ơi", -1.0, lm=-5.0, extra={"rnn": -3.0}),
        Hypothesis("ơi", -2.0, -6.0, {"rnn": -4.0}),
    )
    added = expand(NBest("u", hyps), ["Sinh"]).hyps[2]
    assert (added.lm, added.extra["rnn"]) == (-5.0, -3.0)


def test_the_acoustically_best_hypothesis_is_copied_wherever_it_stands():
    hyps = Hypothesis("tới đây", -9.0), Hypothesis("xinh ơi", -1.0)
    assert expand(NBest("u", hyps), ["Sinh"]).texts[2] == "Sinh ơi"


def test_a_candidate_competes_and_loses_without_weight():
    wider = expand(one("gặp xinh nhé"), ["Sinh"])
    assert len(wider) == 2
    assert Rescorer(Weights()).score(wider).best == "gặp xinh nhé"
    assert Rescorer(Weights(bias=1.0), phrases=["Sinh"]).score(wider).best == "gặp Sinh nhé"


@pytest.mark.parametrize(
    "wrong", [{"threshold": -0.1}, {"threshold": 2}, {"kappa": -1}, {"limit": -1}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UsageError, match="threshold must be from 0 to 1"):
        expand(one("a"), ["b"], **wrong)


def test_long_lists_have_narrow_thresholds():
    found = [default_threshold(x) for x in (1, 100, 1000, 10_000, 10**6)]
    assert found == pytest.approx([0.16, 0.16, 0.08, 0.04, 0.04])
    with pytest.raises(UsageError, match="1 phrase or more"):
        default_threshold(0)


# -- the term bias


def test_the_term_counts_words_of_phrases():
    listed = ["Nguyễn Văn Sinh", "Lan"]
    texts = ["gặp nguyễn văn sinh và lan", "gặp nguyễn văn xinh", "gặp nguyển văn xinh", "tôi", ""]
    whole, near, far, none, empty = bias_scores(texts, listed)
    assert whole == 4 and none == empty == 0
    assert 0 < far < near < 3
    assert near == pytest.approx(3 * (1 - 0.03 / 3 / 0.05), abs=1e-4)
    assert bias_scores(texts, PhraseList(listed)) == pytest.approx([whole, near, far, none, empty])


def test_overlapping_phrases_count_once():
    assert bias_scores(["trần thị lan"], ["Trần Thị Lan", "Thị Lan", "Lan"]) == pytest.approx([3])


# -- errors on phrases and elsewhere


def test_errors_are_told_apart():
    found = phrase_errors(
        ["gặp nguyễn văn an nhé", "số dư", "alo"],
        ["gặp nguyễn vân an nhé ạ", "số lan dư", "alo lan anh"],
        ["Nguyễn Văn An", "Lan Anh", "Lan"],
    )
    # Added words are errors on phrases when they are one themselves.
    assert found.biased_words.tolist() == [3, 0, 0]
    assert found.unbiased_words.tolist() == [2, 2, 1]
    assert found.biased_errors.tolist() == [1, 1, 2]
    assert found.unbiased_errors.tolist() == [1, 0, 0]
    assert found.biased_rate == pytest.approx(4 / 3) and found.unbiased_rate == pytest.approx(0.2)
    assert math.isnan(phrase_errors(["a"], ["a"], ["b"]).biased_rate)
    with pytest.raises(UsageError, match="1 references but 2 answers"):
        phrase_errors(["a"], ["a", "b"], ["c"])


# -- on simulated lists


@cache
def simulated(count: int) -> tuple[list[NBest], tuple[str, ...]]:
    """500 utterances of a simulated recogniser; half of them hold a name of the list, which it can write."""
    listed, rng = names(count, seed=3), random.Random(4)
    texts = []
    for _ in range(500):
        said = rng.choices(TALK, k=rng.randint(5, 10))
        if rng.random() < 0.5:
            place = rng.randrange(len(said) + 1)
            said[place:place] = words(rng.choice(listed))
        texts.append(" ".join(said))
    known = sorted({*TALK, *FAMILY, *MIDDLE, *GIVEN})
    confusable = words(
        "sân xân nam nang lang bính bìn dũn nguyển ngiễn trằn vân phát phúp hòa hoang xơn tân tăm"
    )
    lists = simulate(
        texts, Recogniser(size=20, noise=2.0), vocabulary=[*known, *confusable], seed=5
    )
    return list(lists), tuple(listed)


def test_a_list_of_a_hundred_phrases_halves_errors_on_them_and_adds_none_elsewhere():
    lists, listed = simulated(100)
    dev, test = lists[:120], lists[120:]
    rescorer, index = Rescorer(Weights(bias=4.0), phrases=listed), PhraseList(listed)
    threshold = tune_threshold(
        dev, index, lambda x: rescorer.score(x).best, thresholds=(0.04, 0.12)
    )
    references = [x.ref or "" for x in test]
    before = phrase_errors(references, [x.texts[0] for x in test], index)
    chosen = [rescorer.score(expand(x, index, threshold=threshold.value)).best for x in test]
    after = phrase_errors(references, chosen, index)
    assert before.biased_rate > 0.2
    assert after.biased_rate <= 0.5 * before.biased_rate
    assert after.unbiased_rate <= before.unbiased_rate


def test_the_threshold_follows_what_dev_says():
    lists, listed = simulated(100)
    rescorer, index = Rescorer(Weights(bias=4.0), phrases=listed), PhraseList(listed)
    found = tune_threshold(
        lists[:60], index, lambda x: rescorer.score(x).best, thresholds=(0.0, 0.1, 0.1)
    )
    assert [row["threshold"] for row in found.rows] == [0.0, 0.1]
    assert found.rows[1]["errors"] < found.rows[0]["errors"] and found.value == 0.1
    unheard = tune_threshold(lists[:60], index, lambda x: x.texts[0], thresholds=(0.0, 0.1))
    assert unheard.value == 0.0  # the smallest of equals
    with pytest.raises(DataError, match="No list has a reference"):
        tune_threshold([one("a")], index, lambda x: x.texts[0])


# -- meaning first, sound second


def test_sound_is_asked_only_where_meaning_does_not_settle():
    class Fixed:
        def score(self, texts):
            return np.array([-1.0 if "số dư" in text else -5.0 for text in texts])

        def oov_rate(self, texts):
            return 0.0

    listed = PhraseList(["Sinh"])
    staged = StagedRescorer(
        Rescorer(Weights(beta=1.0), Fixed()),
        Rescorer(Weights(bias=2.0), phrases=["Sinh"]),
        listed,
        sure=2.0,
    )
    settled = staged.score(one("hỏi số đư", "hỏi số dư"))
    assert (settled.stage, settled.result.best) == ("meaning", "hỏi số dư")
    open_ = staged.score(one("gặp xinh nhé", "gặp xin nhé"))
    assert (open_.stage, open_.result.best) == ("sound", "gặp Sinh nhé")
    with pytest.raises(UsageError, match="sure must be 0 or more"):
        StagedRescorer(staged.meaning, staged.sound, listed, sure=-1)
