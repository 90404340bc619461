"""Simulated lists are reproducible, sound like what was said, and say that they are simulated."""

from __future__ import annotations

import numpy as np
import pytest

from rescoring.phonetics import phonetic_distance
from rescoring.simulate import Recogniser, simulate
from trunkline.errors import DataError, UsageError
from trunkline.syllable import words

TEXTS = [
    "tôi muốn hỏi số dư tài khoản",
    "chị cho em xin số điện thoại ạ",
    "em muốn chuyển tiền sang ngân hàng khác",
    "thẻ của anh bị khóa từ hôm qua",
    "lãi suất tiết kiệm bây giờ là bao nhiêu",
    "Vâng, cảm ơn chị!",
] * 5


def test_the_same_seed_gives_the_same_lists_and_another_does_not():
    assert list(simulate(TEXTS, seed=1)) == list(simulate(TEXTS, seed=1))
    assert list(simulate(TEXTS, seed=1)) != list(simulate(TEXTS, seed=2))


def test_lists_are_distinct_texts_in_the_order_of_am():
    for nbest, text in zip(simulate(TEXTS), TEXTS, strict=True):
        scores = [x.am for x in nbest.hyps]
        assert scores == sorted(scores, reverse=True)
        assert len(set(nbest.texts)) == len(nbest) <= 100
        assert nbest.ref == " ".join(words(text))
        assert nbest.extra["simulated"] in ("north", "centre", "south")


def test_what_is_misheard_sounds_alike():
    found = list(simulate(TEXTS, seed=3))
    heard = [phonetic_distance(x.ref, x.texts[0]) for x in found]
    rng = np.random.default_rng(0)
    others = [phonetic_distance(x.ref, found[rng.integers(len(found))].texts[0]) for x in found]
    assert 0 < np.mean(heard) < 0.25 < np.mean(others)


def test_without_noise_the_text_itself_is_first():
    recogniser = Recogniser(noise=0.0)
    assert all(x.texts[0] == x.ref for x in simulate(TEXTS, recogniser))


def test_more_noise_makes_more_errors():
    def wrong(noise: float) -> int:
        return sum(x.texts[0] != x.ref for x in simulate(TEXTS, Recogniser(noise=noise), seed=5))

    assert wrong(0.2) < wrong(1.0) <= wrong(3.0)


def test_words_are_dropped_and_added():
    found = list(simulate(TEXTS, Recogniser(noise=2.0), seed=4))
    lengths = [len(words(text)) - len(words(x.ref)) for x in found for text in x.texts]
    assert min(lengths) < 0 < max(lengths)


def test_a_word_that_is_not_in_the_vocabulary_is_always_misheard():
    vocabulary = {word for text in TEXTS for word in words(text)} - {"khoản"}
    found = list(simulate(TEXTS, vocabulary=vocabulary))
    assert not any("khoản" in words(text) for x in found for text in x.texts)
    assert any("khoản" in words(x.ref) for x in found)


def test_foreign_words_and_empty_lines_do_not_stop_it():
    found = list(simulate(["", "mở app ZaloPay 😀 ngay", "   "], seed=1))
    assert [x.utt_id for x in found] == ["simulated-000001"]
    assert any("zalopay" in text for text in found[0].texts)
    assert all(
        "zalopay" not in x.texts[0] for x in simulate(["zalopay"], vocabulary=["xin", "chào"])
    )


def test_lists_of_a_call_share_its_group_and_voice():
    found = list(simulate(TEXTS, groups=["a"] * 10 + ["b"] * 20))
    assert {x.group for x in found[:10]} == {"a"}
    assert len({x.extra["simulated"] for x in found[:10]}) == 1


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(DataError, match="No text holds words"):
        list(simulate(["", "..."]))
    with pytest.raises(DataError, match="vocabulary is empty"):
        list(simulate(["một"], vocabulary=[]))
    with pytest.raises(UsageError, match="1 texts but 2 groups"):
        list(simulate(["một"], groups=["a", "b"]))
    with pytest.raises(UsageError, match="1 or more"):
        Recogniser(size=0)
    with pytest.raises(UsageError, match="from 0 to 1e.06 nats"):
        Recogniser(noise=-1.0)
