"""The corpus of pretraining: features that stay right, crops that stay aligned, files that are left out and named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pretraining import call, features_config, make_crops, prepare, write_calls

from encoder import Backbone, BackboneConfig
from encoder.config import RECEPTIVE_FIELD, SUBSAMPLING
from encoder.features import LogMel, num_features
from encoder.subsampling import num_frames
from ssl import clustering, corpus
from ssl.clustering import Stretches, cluster_layer
from ssl.corpus import Labels, cut_features
from ssl.crops import Crops, collate, hold_out
from ssl.masking import MaskConfig
from trunkline.batching import Batches, BatchPlan
from trunkline.errors import CheckpointError, DataError, TrainingError
from trunkline.manifest import load_manifest, write_manifest


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return write_calls(tmp_path / "calls", number=6)


def write_labels(folder: Path, labels: list[tuple[int, np.ndarray]], **about) -> Labels:
    slots = labels[0][1].shape[1]
    written = {"clusters": 100_000, **about}
    Labels.write(folder, iter(labels), slots, lambda: written, np.zeros((1, 1), np.float32))
    return Labels(folder)


def test_kept_features_are_those_of_the_audio(calls, tmp_path):
    features, manifest = prepare(calls, tmp_path / "features"), load_manifest(calls)
    log_mel = LogMel(features_config())
    every = []
    for cut in range(len(manifest)):
        fresh = log_mel(torch.from_numpy(manifest[cut].load(8000))).numpy()
        kept = features.rows(cut, 0, len(fresh))
        assert features.length(cut) == len(fresh)
        np.testing.assert_allclose(kept, fresh, rtol=1e-3, atol=1e-3)
        every.append(fresh)
    np.testing.assert_allclose(features.mean, np.concatenate(every).mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(features.variance, np.concatenate(every).var(axis=0), rtol=1e-3)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_crops_read_from_audio_are_those_of_the_kept_features(tmp_path, rate):
    manifest = write_calls(tmp_path / "calls", number=3, rate=rate)
    kept, _, _ = make_crops(manifest, tmp_path / "kept")
    read, _, _ = make_crops(manifest, tmp_path / "read", keep=False)
    assert kept.ids == read.ids
    for epoch in range(3):
        for index in range(len(kept.ids)):
            ours, theirs = kept[epoch, index], read[epoch, index]
            np.testing.assert_array_equal(ours["masked"], theirs["masked"])
            assert (ours["targets"] == theirs["targets"]).mean() > 0.8
            assert ours["features"].shape == theirs["features"].shape
            # Resampled anew, very soft bins differ a little.
            difference = np.abs(ours["features"] - theirs["features"])
            assert np.quantile(difference, 0.99) < (0.01 if rate == 8000 else 0.1)


def test_features_and_labels_of_a_crop_are_of_the_same_place(calls, tmp_path):
    _, features, _ = make_crops(calls, tmp_path)
    numbers = [
        (cut, np.arange(num_frames(features.length(cut)))[:, None])
        for cut in features.cuts.tolist()
    ]
    labels = write_labels(tmp_path / "numbered", numbers)
    crops = Crops(
        load_manifest(calls),
        features,
        labels,
        MaskConfig(),
        features_config(),
        cuts=features.cuts,
        crop=12,
        seed=0,
    )
    seen: dict[int, set[int]] = {}
    for epoch in range(30):
        for index in range(len(crops.ids)):
            item, cut = crops[epoch, index], int(crops.cuts[index])
            places = item["targets"][:, 0]
            first = SUBSAMPLING * int(places[0])
            expected = features.rows(cut, first, SUBSAMPLING * int(places[-1]) + RECEPTIVE_FIELD)
            np.testing.assert_array_equal(np.diff(places), 1)
            np.testing.assert_array_equal(item["features"], expected)
            assert len(places) == len(item["masked"]) <= 12
            seen.setdefault(cut, set()).update(places.tolist())
    assert seen == {cut: set(range(len(rows))) for cut, rows in numbers}


def test_a_label_too_few_shortens_the_cut_and_two_are_an_error(calls, tmp_path):
    crops, features, _ = make_crops(calls, tmp_path)

    def shortened(by: int) -> Crops:
        rows = [
            (cut, np.full((num_frames(features.length(cut)) - by, 1), cut))
            for cut in features.cuts.tolist()
        ]
        labels = write_labels(tmp_path / f"short-{by}", rows)
        options = {"cuts": features.cuts, "crop": 100, "seed": 0}
        return Crops(crops.manifest, features, labels, MaskConfig(), features_config(), **options)

    item = shortened(1)[0, 1]
    assert len(item["targets"]) == num_frames(features.length(1)) - 1
    assert set(item["targets"][:, 0]) == {1}
    with pytest.raises(DataError, match=r"Cut call-0 has \d+ frames but \d+ labels"):
        shortened(2)


def test_items_are_the_same_for_any_number_of_workers(calls, tmp_path):
    crops, _, _ = make_crops(calls, tmp_path)
    plan = BatchPlan(crops.durations, 5.0, seed=1)

    def first(workers: int, number: int = 5) -> list[dict]:
        stream = Batches(crops, plan, collate, workers=workers).stream()
        found = [next(stream).batch for _ in range(number)]
        stream.close()
        return found

    for alone, shared in zip(first(0), first(2), strict=True):
        assert alone["ids"] == shared["ids"]
        for key in ("features", "lengths", "masked", "targets"):
            assert torch.equal(alone[key], shared[key])


def test_a_crop_begins_elsewhere_in_every_epoch(calls, tmp_path):
    crops, _, _ = make_crops(calls, tmp_path, crop=10)
    starts = {crops[epoch, 0]["features"].tobytes() for epoch in range(10)}
    assert len(starts) >= 3
    np.testing.assert_array_equal(crops[4, 0]["features"], crops[4, 0]["features"])


def test_unreadable_files_are_left_out_with_file_line_and_reason(calls, tmp_path):
    soundfile.write(calls.parent / "call-2.wav", np.full(8000, np.nan), 8000, subtype="FLOAT")
    (calls.parent / "call-4.wav").unlink()
    features = prepare(calls, tmp_path / "features")
    assert features.cuts.tolist() == [0, 1, 3, 5]
    nan, gone = features.quarantined
    assert (nan["id"], Path(nan["file"]).name, nan["line"]) == ("call-2", "call-2.wav", 3)
    assert "NaN" in nan["reason"]
    assert (gone["line"], gone["reason"]) == (5, f"{calls.parent / 'call-4.wav'} does not exist.")


def test_too_many_unreadable_files_stop_and_are_named(calls, tmp_path):
    for number in (1, 2, 3, 4):
        (calls.parent / f"call-{number}.wav").write_bytes(b"")
    with pytest.raises(
        TrainingError, match=r"4 of 6 cuts cannot be read.*line 2: .*call-1\.wav is empty"
    ):
        prepare(calls, tmp_path / "features")


def test_the_only_recording_being_unreadable_is_said_so(tmp_path):
    (tmp_path / "calls").mkdir()
    (tmp_path / "calls/only.wav").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"1 of 1 cuts cannot be read.*only\.wav is empty"):
        prepare(tmp_path / "calls", tmp_path / "features")


def test_files_that_vanish_before_they_are_labelled_are_left_out_and_named(calls, tmp_path):
    features, manifest = prepare(calls, tmp_path / "features", keep=False), load_manifest(calls)
    (calls.parent / "call-3.wav").unlink()
    backbone = Backbone(BackboneConfig.preset("tiny")).eval()
    stretches = Stretches(manifest, features, backbone, max_bad_fraction=0.5)
    labels = cluster_layer(stretches, 2, 4, 100, tmp_path / "targets", seed=0)
    assert labels.cuts.tolist() == [0, 1, 2, 4, 5]
    (fault,) = labels.about["quarantined"]
    assert (fault["id"], fault["line"]) == ("call-3", 4)
    options = {"cuts": features.cuts, "crop": 20, "seed": 0}
    crops = Crops(manifest, features, labels, MaskConfig(), features_config(), **options)
    assert 3 not in crops.cuts


def test_stretches_of_audio_are_those_of_the_kept_features(calls, tmp_path, monkeypatch):
    monkeypatch.setattr(clustering, "STRETCH", 7)
    monkeypatch.setattr(corpus, "BLOCK_SECONDS", 0.31)
    manifest, backbone = load_manifest(calls), Backbone(BackboneConfig.preset("tiny"))
    kept, read = (
        Stretches(manifest, prepare(calls, tmp_path / str(keep), keep=keep), backbone)
        for keep in (True, False)
    )
    for cut in range(3):
        ours, theirs = list(kept.of_cut(cut)), list(read.of_cut(cut))
        assert [len(block) for block in ours] == [len(block) for block in theirs]
        assert max(len(block) for block in ours) == 7 * SUBSAMPLING + RECEPTIVE_FIELD - SUBSAMPLING
        for one, two in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)


def test_a_long_file_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "BLOCK_SECONDS", 2.0)
    soundfile.write(tmp_path / "long.wav", call(0, 21.0), 8000)
    write_manifest([{"audio_filepath": str(tmp_path / "long.wav")}], tmp_path / "long.jsonl")
    (cut,) = load_manifest(tmp_path / "long.jsonl")
    blocks = list(cut_features(cut, LogMel(features_config())))
    assert max(map(len, blocks)) <= 202
    whole = LogMel(features_config())(torch.from_numpy(cut.load(8000))).numpy()
    assert len(whole) == num_features(21 * 8000, features_config())
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-4)


def test_an_interrupted_pass_goes_on_with_the_parts_that_are_missing(calls, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PART_SECONDS", 5.0)
    unbroken = prepare(calls, tmp_path / "unbroken")
    read = corpus.cut_features

    def interrupted(cut, log_mel):
        if cut.id == "call-3":
            raise KeyboardInterrupt
        return read(cut, log_mel)

    monkeypatch.setattr(corpus, "cut_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(calls, tmp_path / "features")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").glob("part-*/*")}
    assert before
    monkeypatch.setattr(corpus, "cut_features", read)
    features = prepare(calls, tmp_path / "features")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    np.testing.assert_array_equal(features.cuts, unbroken.cuts)
    np.testing.assert_array_equal(features.mean, unbroken.mean)
    for cut in range(6):
        np.testing.assert_array_equal(features.rows(cut, 0, 400), unbroken.rows(cut, 0, 400))


def test_features_of_another_manifest_are_refused(calls, tmp_path):
    prepare(calls, tmp_path / "features")
    other = load_manifest(calls).select([1, 0, 2, 3, 4, 5])
    message = re.escape("was made from another manifest or with other feature settings")
    with pytest.raises(CheckpointError, match=message):
        prepare(other, tmp_path / "features")


def test_features_of_another_manifest_are_refused_before_anything_is_added(
    calls, tmp_path, monkeypatch
):
    manifest = load_manifest(calls)
    prepare(manifest.select([0, 1]), tmp_path / "features")
    monkeypatch.setattr(corpus, "PART_SECONDS", 5.0)
    with pytest.raises(CheckpointError, match="another manifest"):
        prepare(manifest, tmp_path / "features")
    assert [path.name for path in (tmp_path / "features").iterdir()] == ["part-00000"]


def test_more_data_hardly_changes_what_is_held_out(tmp_path):
    rows = [{"id": f"call-{n}", "audio_filepath": "call.wav", "duration": 1.0} for n in range(600)]
    write_manifest(rows[:400], tmp_path / "some.jsonl")
    write_manifest(rows[::-1], tmp_path / "more.jsonl")

    def held_out(name: str, most: int) -> set[str]:
        manifest = load_manifest(tmp_path / name)
        training, validation = hold_out(manifest, np.arange(len(manifest)), most)
        assert sorted([*training, *validation]) == list(range(len(manifest)))
        return set(manifest.ids[validation])

    old = {f"call-{n}" for n in range(400)}
    some, more = held_out("some.jsonl", 64), held_out("more.jsonl", 64)
    assert (len(some), len(more)) == (8, 12)
    assert some <= more or more & old <= some
    assert len(held_out("more.jsonl", 5)) == 5
    assert held_out("more.jsonl", 5) <= more
    assert held_out("some.jsonl", 0) == set()


def test_cuts_of_one_frame_are_left_out_and_counted(tmp_path):
    for index, seconds in enumerate([0.1, 0.17, 0.3, 3.0]):
        soundfile.write(tmp_path / f"call-{index}.wav", call(index, seconds), 8000)
    rows = [{"audio_filepath": str(tmp_path / f"call-{n}.wav")} for n in range(4)]
    write_manifest(rows, tmp_path / "calls.jsonl")
    crops, _, _ = make_crops(tmp_path / "calls.jsonl", tmp_path)
    assert crops.left_out == 2
    assert set(crops.cuts) == {2, 3}
    assert all(crops[0, index]["masked"].any() for index in range(len(crops.ids)))
