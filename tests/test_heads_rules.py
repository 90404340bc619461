"""Rules over a call's turns: the best allowed sequence, and why a label was refused."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heads.rules import Rule, TransitionTable
from trunkline.errors import ConfigError, DataError

LABELS = ("hello", "debt", "promise", "bye")
PROMISE = Rule("promise", after=("debt",))


def test_promise_only_after_debt_says_why_it_was_refused():
    table = TransitionTable(LABELS, [PROMISE])
    call = table.decode([[0.6, 0.1, 0.2, 0.1], [0.1, 0.2, 0.6, 0.1], [0.0, 0.0, 0.1, 0.9]])
    assert call.labels == ("hello", "debt", "bye")
    (refusal,) = call.refusals
    assert (
        str(refusal)
        == "turn 2: 'promise' (0.60) gave way to 'debt' (0.20): 'promise' only after 'debt'"
    )


def test_the_condition_may_lie_many_turns_back():
    table = TransitionTable(LABELS, [PROMISE])
    rows = [
        [0.1, 0.9, 0.0, 0.0],
        [0.9, 0.1, 0.0, 0.0],
        [0.9, 0.1, 0.0, 0.0],
        [0.02, 0.02, 0.96, 0.0],
    ]
    assert table.decode(rows).labels == ("debt", "hello", "hello", "promise")
    directly = TransitionTable(LABELS, [Rule("promise", directly_after=("debt",))])
    assert directly.decode(rows).labels == ("debt", "hello", "debt", "promise")


def test_an_earlier_turn_can_give_way_so_that_a_sure_one_stands():
    table = TransitionTable(LABELS, [PROMISE])
    call = table.decode([[0.55, 0.45, 0.0, 0.0], [0.02, 0.0, 0.98, 0.0]])
    assert call.labels == ("debt", "promise")
    assert call.refusals[0].turn == 0
    assert call.refusals[0].reasons == ("'promise' only after 'debt' (turn 2)",)


def test_a_penalty_is_weighed_against_confidence():
    table = TransitionTable(LABELS, [Rule("hello", not_after=("bye",), penalty=2.0)])
    sure = [[0.0, 0.0, 0.0, 1.0], [0.95, 0.05, 0.0, 0.0]]
    unsure = [[0.0, 0.0, 0.0, 1.0], [0.6, 0.4, 0.0, 0.0]]
    assert table.decode(sure).labels == ("bye", "hello")
    call = table.decode(unsure)
    assert call.labels == ("bye", "debt")
    assert "'hello' never after 'bye', which costs 2" in str(call.refusals[0])


@st.composite
def rules(draw):
    kind = draw(st.sampled_from(["after", "directly_after", "not_after"]))
    label = draw(st.sampled_from("abc"))
    others = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=2, unique=True))
    penalty = draw(st.sampled_from([None, 0.5, 2.0]))
    return Rule(label, **{kind: tuple(others)}, penalty=penalty)


@settings(max_examples=80, deadline=None)
@given(st.lists(rules(), max_size=4), st.integers(1, 4), st.integers(0, 1000))
def test_the_labels_are_those_of_the_best_of_all_sequences(given_rules, turns, seed):
    table = TransitionTable("abc", given_rules)
    rows = np.random.default_rng(seed).dirichlet(np.ones(3), size=turns)
    scores = {
        path: sum(math.log(rows[t]["abc".index(x)]) for t, x in enumerate(path)) - table.cost(path)
        for path in itertools.product("abc", repeat=turns)
    }
    best = max(scores.values())
    if best == -math.inf:
        with pytest.raises(DataError, match="keeps the rules"):
            table.decode(rows)
        return
    call = table.decode(rows)
    assert call.log_probability == pytest.approx(best)
    assert scores[call.labels] == pytest.approx(best)
    assert all(refusal.reasons for refusal in call.refusals)
    changed = {turn for turn in range(turns) if call.labels[turn] != "abc"[rows[turn].argmax()]}
    assert {refusal.turn for refusal in call.refusals} == changed


def test_a_table_is_read_from_json_and_mistakes_are_named(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"rules": [{"label": "promise", "after": ["debt"], "penalty": 3}]}))
    assert TransitionTable.load(path, LABELS).rules == (Rule("promise", ("debt",), penalty=3.0),)
    for table, message in [
        ({"rules": [{"label": "promise", "after": ["dept"]}]}, "'dept'.*Did you mean 'debt'"),
        ({"rules": [{"label": "promise", "afterr": ["debt"]}]}, "Did you mean 'after'"),
        ({"rules": [{"label": "promise"}]}, "one of after, directly_after and not_after"),
        ({"rules": [{"label": "bye", "after": ["debt"], "penalty": -1}]}, "penalty"),
        ({"rules": ["promise after debt"]}, "is no rule"),
        ([], "no table of rules"),
    ]:
        path.write_text(json.dumps(table))
        with pytest.raises(ConfigError, match=message):
            TransitionTable.load(path, LABELS)
    path.write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        TransitionTable.load(path, LABELS)
    with pytest.raises(ConfigError, match="is missing"):
        TransitionTable.load(tmp_path / "none.json", LABELS)


def test_an_empty_call_and_probabilities_of_other_labels():
    table = TransitionTable(LABELS, [PROMISE])
    assert table.decode([]) == ((), 0.0, ())
    with pytest.raises(DataError, match="probabilities of hello; the rules are for"):
        table.decode([{"hello": 1.0}])
    with pytest.raises(DataError, match="between 0 and 1"):
        table.decode([[2.0, 0.0, 0.0, 0.0]])
    with pytest.raises(DataError, match="No label of turn 1 keeps the rules"):
        TransitionTable("a", [Rule("a", after=("a",))]).decode([[1.0]])
