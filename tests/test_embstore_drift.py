"""Drift: alarms come as often as they should where nothing changed, and always where something did."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embstore.drift import discrepancy, drift, main, mean_shift, principal_directions, psi
from tests.made_stores import SPACE, store_of, store_of_segments
from trunkline.errors import DataError


def normal(rows: int, seed: int, shift: float = 0.0) -> np.ndarray:
    points = np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)
    points[:, 0] += shift
    return points


def test_psi_is_the_textbook_sum():
    a = np.repeat([0.0, 1.0], 50)
    b = np.repeat([0.0, 1.0], [20, 80])
    p, q = np.array([50.5, 50.5]) / 101, np.array([20.5, 80.5]) / 101
    assert psi(a, b, bins=2) == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert psi(a, a) == pytest.approx(0)
    assert psi(np.zeros(9), np.zeros(9)) == pytest.approx(0), "a constant"


def test_the_mean_shift_is_in_standard_deviations():
    a = normal(20_000, 0)
    assert mean_shift(a, a + np.float32([2, 0, 0, 0]))["shift"] == pytest.approx(1.0, abs=0.02)
    assert mean_shift(a, a)["cosine"] == pytest.approx(1)


def test_directions_are_orthonormal_by_variance():
    axes, shares = principal_directions(normal(500, 1) * [4, 3, 2, 1], 3)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    assert shares[0] > shares[1] > shares[2]
    assert np.abs(axes[0]).argmax() == 0


def test_a_change_is_seen_and_no_change_is_not_claimed_too_often():
    calls = range(60), range(100, 160)
    changed = discrepancy(normal(60, 0), normal(60, 1, 1.5), *calls, permutations=200)
    assert changed.p_value == pytest.approx(1 / 201)
    p_values = [
        discrepancy(normal(40, seed), normal(40, seed + 500), range(40), range(40, 80), permutations=99).p_value
        for seed in range(60)
    ]  # fmt: skip
    assert sum(p <= 0.1 for p in p_values) <= 12, "of 60, 6 are expected"
    assert 0.3 < np.mean(p_values) < 0.7


def grouped(calls: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """Ten rows a call that are nearly the same: as good as one row a call."""
    points = np.repeat(normal(calls, seed), 10, axis=0) + 0.01 * normal(10 * calls, seed + 1)
    return points, np.repeat(np.arange(calls) + 1000 * seed, 10).tolist()


def test_rows_of_one_call_are_not_taken_for_many_witnesses():
    p_values = []
    for seed in range(1, 31):
        (a, of_a), (b, of_b) = grouped(12, seed), grouped(12, seed + 100)
        p_values.append(discrepancy(a, b, of_a, of_b, permutations=99).p_value)
    assert sum(p <= 0.1 for p in p_values) <= 8, "segments were permuted, not calls"
    naive = discrepancy(a, b, range(120), range(200, 320), permutations=99).p_value
    assert naive == pytest.approx(0.01), "the test above could not fail"


def test_two_channels_of_a_call_are_compared_as_a_pair():
    points = 10 * normal(30, 3)
    moved = points + np.float32(0.5)
    paired = discrepancy(points, moved, range(30), range(30), permutations=200)
    unpaired = discrepancy(points, moved, range(30), range(50, 80), permutations=200)
    assert paired.p_value < 0.05 < unpaired.p_value


def test_equal_samples_have_no_distance():
    same = np.ones((5, 3), np.float32)
    found = discrepancy(same, same, range(5), range(5, 10), permutations=50)
    assert found.mmd == 0 and found.p_value == 1


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("drift") / "store", 300)


def test_a_store_says_whether_two_kinds_of_calls_differ(store):
    found = drift(store, "channel = 0", "channel = 1", space=SPACE, permutations=99)
    assert (found["rows_a"], found["rows_b"]) == (150, 150)
    assert found["p_value"] > 0.01 and len(found["tables"]["principal directions"]) == 10
    vectors, keys = store.pooled()
    chosen = (vectors[:, 0] > 0).tolist()
    names = [name for name, up in zip(keys["call_id"].to_pylist(), chosen, strict=True) if up]
    listed = ", ".join(f"'{name}'" for name in names)
    split = drift(
        store, f"call_id in [{listed}]", f"call_id not in [{listed}]", space=SPACE, permutations=99
    )
    assert split["p_value"] == 0.01 and split["largest_psi"] > 0.25


def test_the_command_works_on_segments_and_repeats_itself(tmp_path, capsys):
    store = store_of_segments(tmp_path / "store")
    words = [
        str(store.path), "channel = 0", "channel = 1", "--table", "segments", "--permutations", "50",
        "--json",
    ]  # fmt: skip
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert (first["rows_a"], first["calls_a"]) == (60, 12)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["chanel = 0", "channel = 1"], 2, "Did you mean 'channel'"),
        (["channel = 0", "channel = 5"], 1, "for which channel = 5"),
        (["channel = 0", "call_id = 'call-1'"], 1, "only one row"),
        (["channel = 0", "channel = 1", "--permutations", "3"], 2, "at least 19"),
    ],
)
def test_what_cannot_be_compared_is_refused(store, words, status, said, capsys):
    assert main([str(store.path), *words]) == status
    assert said in capsys.readouterr().err


def test_a_side_of_one_row_is_refused(store):
    with pytest.raises(DataError, match="only one row"):
        drift(store, "call_id = 'call-1'", "channel = 0", space=SPACE)
