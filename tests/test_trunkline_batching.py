"""Batches are a pure function of (seed, epoch), and a place in the stream is all that must be remembered."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_task import Items, collate

from trunkline.batching import Batches, BatchPlan, Microbatch, item_rng
from trunkline.errors import ConfigError, DataError

plans = st.builds(
    BatchPlan,
    durations=st.lists(st.floats(0, 60), min_size=1, max_size=60).map(np.array),
    batch_seconds=st.floats(1, 100),
    max_seconds=st.floats(0.5, 30),
    seed=st.integers(0, 9),
    shuffle=st.booleans(),
)


def take(batches: Batches, count: int, **place: int) -> list[Microbatch]:
    stream = batches.stream(**place)
    found = list(itertools.islice(stream, count))
    stream.close()
    return found


def made(items: Items, seconds: float = 12.0, workers: int = 0) -> Batches:
    return Batches(
        items, BatchPlan(items.durations, seconds, 4.0, seed=1), collate, workers=workers
    )


@settings(max_examples=60, deadline=None)
@given(plan=plans, epoch=st.integers(0, 5))
def test_an_epoch_holds_each_item_once_in_batches_within_the_budget(
    plan: BatchPlan, epoch: int
) -> None:
    batches = plan.epoch(epoch)
    assert sorted(np.concatenate(batches)) == list(range(len(plan.durations)))
    for batch in batches:
        seconds = np.minimum(plan.durations[batch], plan.max_seconds).sum()
        assert len(batch) == 1 or seconds <= plan.batch_seconds * (1 + 1e-9)
    for batch, again in zip(batches, plan.epoch(epoch), strict=True):
        assert np.array_equal(batch, again)


def test_items_of_a_batch_are_of_like_length() -> None:
    plan = BatchPlan(np.random.default_rng(0).uniform(1, 16, 5000), 80.0, 8.0)
    spread = [np.ptp(np.minimum(plan.durations[batch], 8.0)) for batch in plan.epoch(0)]
    assert np.mean(spread) < 0.5


def test_epochs_and_seeds_shuffle_differently_and_no_shuffle_does_not() -> None:
    durations = np.full(50, 2.0)
    orders = [
        np.concatenate(BatchPlan(durations, 10.0, seed=s).epoch(e)).tolist()
        for s in (0, 1)
        for e in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4
    fixed = BatchPlan(durations, 10.0, shuffle=False)
    assert (
        np.concatenate(fixed.epoch(0)).tolist()
        == np.concatenate(fixed.epoch(7)).tolist()
        == list(range(50))
    )


def test_weights_say_how_often_an_item_is_drawn() -> None:
    weights = np.array([3.0] * 10 + [1.0] * 20 + [0.0] * 10)
    plan = BatchPlan(np.full(40, 1.0), 5.0, weights=weights)
    counts = Counter(
        np.concatenate([item for epoch in range(50) for item in plan.epoch(epoch)]).tolist()
    )
    drawn = np.array([counts[index] for index in range(40)])
    expected = 50 * 40 * weights / weights.sum()
    assert np.all(np.abs(drawn - expected) <= 50)
    assert drawn[30:].sum() == 0
    assert drawn[:10].sum() == pytest.approx(expected[:10].sum(), rel=0.03)


def test_equal_weights_give_each_item_once() -> None:
    plan = BatchPlan(np.full(7, 1.0), 2.0, weights=np.full(7, 0.3))
    assert sorted(np.concatenate(plan.epoch(3))) == list(range(7))


def test_batches_grow_with_the_epoch() -> None:
    plan = BatchPlan(np.full(100, 1.0), ((0, 5.0), (2, 20.0)))
    assert [len(plan.epoch(epoch)) for epoch in range(4)] == [20, 20, 5, 5]


@pytest.mark.parametrize(
    ("durations", "change", "error", "message"),
    [
        ([], {}, DataError, "no items"),
        ([1.0, float("nan")], {}, DataError, "Item 1 has the duration nan"),
        ([1.0], {"batch_seconds": 0.0}, ConfigError, "batch_seconds is 0.0"),
        ([1.0], {"batch_seconds": ((1, 5.0),)}, ConfigError, "must rise from 0"),
        ([1.0], {"max_seconds": 0.0}, ConfigError, "max_seconds is 0.0"),
        ([1.0, 2.0], {"weights": np.array([0.0, 0.0])}, ConfigError, "2 numbers >= 0, not all 0"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    durations: list, change: dict, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        BatchPlan(np.array(durations), **{"batch_seconds": 5.0, **change})


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 40), world=st.integers(1, 4))
def test_the_processes_share_one_stream_that_starts_anywhere(start: int, world: int) -> None:
    batches = made(Items(12, bad=(3,)), 6.0)
    whole = take(batches, start * world + 3 * world)
    place = whole[start * world - 1].after if start else (0, 0)
    parts = [
        take(batches, 3, epoch=place[0], position=place[1], rank=rank, world=world)
        for rank in range(world)
    ]
    for number, expected in enumerate(whole[start * world :]):
        got = parts[number % world][number // world]
        assert got.ids == expected.ids
        assert got.batch["audio"].equal(expected.batch["audio"])
    assert len({part[-1].after for part in parts}) == 1


def test_starting_in_the_middle_reads_nothing_before(monkeypatch: pytest.MonkeyPatch) -> None:
    items = Items(30)
    plan = BatchPlan(items.durations, 12.0, 4.0, seed=1)
    asked: list[tuple[int, int]] = []
    batches = Batches(items, plan, lambda found: asked.extend(found) or found)
    monkeypatch.setattr(Items, "__getitem__", lambda self, key: key)
    take(batches, 1, epoch=9, position=2)
    assert asked == [(9, index) for index in plan.epoch(9)[2]]


def test_workers_read_the_same_audio_in_the_same_order() -> None:
    streams = [take(made(Items(bad=(3,)), workers=workers), 30) for workers in (0, 1, 2)]
    for entries in zip(*streams, strict=True):
        for entry in entries[1:]:
            assert entry.ids == entries[0].ids
            assert entry.faults == entries[0].faults
            assert entry.after == entries[0].after
            assert entry.batch["audio"].equal(entries[0].batch["audio"])


def test_an_items_randomness_depends_on_seed_epoch_and_id_alone() -> None:
    draws = {
        key: item_rng(*key).standard_normal()
        for key in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (0, 0, "á")]
    }
    assert len(set(draws.values())) == 5
    assert draws[0, 0, "a"] == item_rng(0, 0, "a").standard_normal()


def test_an_unreadable_item_is_left_out_and_named() -> None:
    faults = [fault for entry in take(made(Items(bad=(3,))), 20) for fault in entry.faults]
    assert faults[0] == {
        "id": "cut-3",
        "file": "call-3.wav",
        "line": 4,
        "reason": "call-3.wav holds no samples.",
    }


def test_a_microbatch_without_a_readable_item_is_none() -> None:
    entries = take(made(Items(5, bad=(0, 1, 2, 3, 4))), 3)
    assert [entry.batch for entry in entries] == [None] * 3


def test_a_plan_for_other_items_is_refused() -> None:
    with pytest.raises(ConfigError, match="37 items, its plan 2"):
        Batches(Items(), BatchPlan(np.ones(2), 5.0), collate)


def test_a_wide_bucket_mixes_lengths_and_a_narrow_one_does_not():
    durations = np.linspace(1.0, 8.0, 200)

    def spread(ratio):
        plan = BatchPlan(durations, 20.0, bucket_ratio=ratio)
        return max(durations[batch].max() / durations[batch].min() for batch in plan.epoch(0)[:-1])

    assert spread(1.05) < 2 < spread(9.0)
    assert "bucket_ratio" not in BatchPlan(durations, 20.0).describe()
    assert BatchPlan(durations, 20.0, bucket_ratio=2.0).describe()["bucket_ratio"] == 2.0
    with pytest.raises(ConfigError, match="bucket_ratio is 1"):
        BatchPlan(durations, 20.0, bucket_ratio=1.0)
