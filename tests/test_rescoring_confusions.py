"""Costs are learnt from what a recogniser confuses, drawn to the prior, and kept in files."""

from __future__ import annotations

import json
import random

import pytest

from rescoring.confusions import aligned_pairs, learn_costs, load_costs, save_costs
from rescoring.costs import default_costs
from rescoring.phonetics import (
    phonetic_distance,
)
from trunkline.errors import DataError, UsageError


def confused(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Pairs of a recogniser that takes b for m, and nothing else but by chance."""
    known = ["ba", "ma", "ta", "la", "ca", "ha", "sa", "na"]
    pairs = []
    for _ in range(count):
        word = rng.choice(known)
        heard = word
        if rng.random() < 0.1:
            heard = rng.choice(known)
        elif word in ("ba", "ma") and rng.random() < 0.5:
            heard = "ma" if word == "ba" else "ba"
        pairs.append((word, heard))
    return pairs


def test_costs_learn_what_is_confused_and_forget_what_is_not():
    pairs = confused(random.Random(0), 4000)
    learnt, prior = learn_costs(pairs), default_costs()
    assert learnt.part("onset", "b", "m") < 0.15 < prior.part("onset", "b", "m")
    assert learnt.part("onset", "l", "n") > prior.part("onset", "l", "n") + 0.2
    assert learnt.part("onset", "b", "m") == learnt.part("onset", "m", "b") > 0
    # What was not heard stays as it was.
    assert learnt.part("onset", "d", "gi") == prior.part("onset", "d", "gi")
    assert learnt.part("tone", "f", "s") == prior.part("tone", "f", "s")
    assert phonetic_distance("bàn", "màn", learnt) < phonetic_distance("bàn", "màn")


def test_a_strong_prior_stays():
    learnt = learn_costs(confused(random.Random(0), 400), prior_strength=1e9)
    for part, table in default_costs().tables.items():
        for pair, cost in table.items():
            assert learnt.part(part, *pair) == pytest.approx(cost, abs=1e-4)


def test_few_confusions_change_little():
    learnt = learn_costs([("ba", "ta"), ("ba", "ba")])
    assert abs(learnt.part("onset", "b", "t") - 1) < 0.1


def test_costs_are_refused_for_want_of_syllables():
    with pytest.raises(DataError, match="no pair of Vietnamese syllables"):
        learn_costs([("google", "gogle")])
    with pytest.raises(UsageError, match="prior_strength must be a positive number"):
        learn_costs([("ba", "ma")], prior_strength=0)


def test_transcripts_are_aligned_by_sound():
    pairs = aligned_pairs("Tôi muốn chuyển khoản", "tui muống khoảng nhé")
    assert pairs == [("tôi", "tui"), ("muốn", "muống"), ("khoản", "khoảng")]


def test_costs_return_from_a_file(tmp_path):
    costs = learn_costs(confused(random.Random(1), 500), prior="south")
    save_costs(tmp_path / "costs.json", costs)
    again = load_costs(tmp_path / "costs.json")
    assert (again.weights, again.tables, again.contexts) == (
        costs.weights,
        costs.tables,
        costs.contexts,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.update(schema="other/1"), "holds no costs of schema"),
        (lambda x: x["tables"]["onset"].update({"b/ß": 0.5}), "'b/ß' is no pair of two symbols"),
        (lambda x: x["tables"]["onset"].update({"b/m n/l": 0.5}), "is no pair of two symbols"),
        (lambda x: x["contexts"][0].update(pairs=["b"]), "'b' is no pair of two symbols of onset"),
        (lambda x: x["contexts"][0].update(beside=["ng"]), "no glide .'ng'."),
        (lambda x: x["contexts"][0].update(part="coda"), "malformed at 'coda'"),
        (lambda x: x["contexts"][0].update(cost=-1), "contexts.cost must be a number from 0 to 1"),
        (lambda x: x["tables"]["onset"].update({"b/m": 2}), "must be a number from 0 to 1, not 2"),
        (lambda x: x["tables"].pop("tone"), "incomplete or malformed at 'tone'"),
        (lambda x: x["weights"].update(onset=0.9), "weights must sum to 1"),
    ],
)
def test_an_edited_cost_file_is_refused(tmp_path, change, message):
    path = tmp_path / "costs.json"
    save_costs(path, default_costs())
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_costs(path)
