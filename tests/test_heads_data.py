"""The data of heads: frames kept on disk, what is wrong with labels and recordings, stored frames, groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from encoder_backbones import strong_backbone
from hypothesis import given
from hypothesis import strategies as st
from training_heads import RATE, read_rows, save_backbone, settings, write_rows, write_turns

from encoder import Context, Encoded
from heads.config import NOTHING, ContextsConfig, augments
from heads.frames import OUTPUT, KeptFrames, Reader, Variant
from heads.run import HeadsRun
from heads.task import crop
from heads.trunk import open_trunk
from heads.trunk_groups import GROUPS, match_parameters
from trunkline.augment.config import Masking, Speed
from trunkline.errors import ConfigError, DataError, TrainingError
from trunkline.manifest import load_manifest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with turns and a backbone."""
    folder = tmp_path_factory.mktemp("heads")
    write_turns(folder / "data", 12, dev=6)
    save_backbone(folder / "backbone")
    return folder


@pytest.fixture
def config(home, tmp_path):
    def make(*changes, **options):
        turns = home / "data/turns.jsonl"
        return settings(turns, home / "backbone", tmp_path / "run", *changes, **options)

    return make


def edited(home, name, change):
    """Write the turns with every row changed."""
    rows = [change(index, row) for index, row in enumerate(read_rows(home / "data/turns.jsonl"))]
    return write_rows(home / f"data/{name}.jsonl", rows)


def with_intent(row, intent):
    return row | {"labels": {**row["labels"], "intent": intent}}


def test_a_label_that_no_cut_has_is_an_error_with_the_nearest(config):
    with pytest.raises(DataError, match=r"'intnet' of head 'intent'.*Did you mean 'intent'"):
        HeadsRun(config("heads.intent.options.label=intnet"))


def test_one_class_only_is_an_error(home, config):
    path = edited(home, "one", lambda _, row: with_intent(row, "low"))
    with pytest.raises(DataError, match=r"heads\.intent: All 12 .* 'low'"):
        HeadsRun(config(f"data.train={path}"))


def test_a_split_that_is_not_there_is_an_error(config):
    with pytest.raises(DataError, match=r"no cut of split 'trian'. Did you mean 'train'"):
        HeadsRun(config("data.split=trian"))


def test_labels_of_dev_that_training_lacks_get_no_loss_but_stop_nothing(home, config):
    def change(index, row):
        return with_intent(row, "new") if index == 15 else row

    run = HeadsRun(config(f"data.train={edited(home, 'unseen', change)}", "train.steps=4"))
    assert run.run()["without_dev_loss"] == {"intent": 1}


def test_a_transcript_longer_than_its_frames_is_left_out_or_stops(home, config):
    def change(index, row):
        return row | {
            "text": "a very long transcript for so short a turn" if index == 4 else row["text"]
        }

    path = edited(home, "long", change)
    given_ = (f"data.train={path}", "heads.ctc.kind=ctc", "train.steps=6", "choose.metric=ctc/cer")
    summary = HeadsRun(config(*given_, head="ctc")).run()
    assert summary["loss"] < float("inf")
    strict = config(
        *given_, "heads.ctc.options.too_long=error", f"out={home / 'strict'}", head="ctc"
    )
    with pytest.raises(TrainingError, match="needs .* frames, its audio has"):
        HeadsRun(strict).run()


def test_unreadable_recordings_are_left_out_up_to_a_share(home, config):
    soundfile.write(home / "data/empty.wav", np.zeros(0, np.float32), RATE)

    def change(index, row):
        return row | ({"audio_filepath": "empty.wav"} if index == 3 else {})

    path = edited(home, "empty", change)
    HeadsRun(config(f"data.train={path}", "train.steps=4")).run()
    bad = edited(
        home, "bad", lambda i, row: row | ({"audio_filepath": "empty.wav"} if i < 4 else {})
    )
    with pytest.raises(TrainingError, match=r"4 of 12 cuts cannot be read.*empty\.wav"):
        HeadsRun(config(f"data.train={bad}", f"out={home / 'worse'}")).run()


def test_shared_frames_bring_no_unreadable_recordings_of_other_corpora(home, config):
    soundfile.write(home / "data/empty.wav", np.zeros(0, np.float32), RATE)
    path = edited(
        home, "some", lambda i, row: row | ({"audio_filepath": "empty.wav"} if i < 4 else {})
    )
    shared = (f"data.train={path}", f"data.cache={home / 'shared'}", "train.steps=2")
    HeadsRun(config(*shared, "train.max_bad_fraction=0.5")).run()
    clean = (*shared, "data.split=dev", "train.max_bad_fraction=0", f"out={home / 'clean'}")
    HeadsRun(config(*clean)).run()


def test_a_turn_of_a_tenth_of_a_second_has_a_frame(home):
    backbone = open_trunk(str(home / "backbone"))
    soundfile.write(home / "data/short.wav", np.full(RATE // 10, 0.1, np.float32), RATE)
    path = write_rows(home / "data/short.jsonl", [{"audio_filepath": "short.wav"}])
    kept = keeper(home / "short", load_manifest(path), backbone)
    variant = Variant(Context.full(), 0)
    kept.keep(np.array([0]), variant)
    assert kept.read(0, variant).shape == (4, 1, backbone.d_model)


def keeper(folder, manifest, backbone, **options):
    reader = Reader(backbone, NOTHING, 0, 60.0)
    return KeptFrames(folder, manifest, backbone, reader, layers=(0, 1, 2), **options)


def test_kept_frames_equal_those_of_the_encoder_and_are_computed_once(home, tmp_path, monkeypatch):
    backbone = open_trunk(str(home / "backbone"))
    manifest = load_manifest(home / "data/turns.jsonl")
    kept = keeper(tmp_path, manifest, backbone)
    variants = [Variant(Context.full(), 0), Variant(Context(4, 8, 0), 0)]
    for variant in variants:
        kept.keep(np.arange(9), variant)
    for place in (0, 8):
        for variant in variants:
            alone = backbone.encode(
                str(manifest[place].audio_filepath), context=variant.context, layers="all"
            )
            expected = torch.cat([alone.frames, *alone.layers])
            assert np.allclose(kept.read(place, variant), expected, atol=1e-4)
    monkeypatch.setattr(KeptFrames, "_encoded", None)
    again = keeper(tmp_path, manifest, backbone)
    again.keep(np.arange(9), variants[0])
    assert np.array_equal(again.read(3, variants[0]), kept.read(3, variants[0]))
    with pytest.raises(TypeError):
        again.keep(np.arange(10), variants[0])


def test_frames_of_another_trunk_or_manifest_lie_elsewhere(home, tmp_path):
    manifest = load_manifest(home / "data/turns.jsonl")
    variant = Variant(Context.full(), 0)
    one = keeper(tmp_path, manifest, open_trunk(str(home / "backbone")))
    other = keeper(tmp_path, manifest, strong_backbone(seed=1))
    half = keeper(tmp_path, manifest, open_trunk(str(home / "backbone")), kind="float16")
    part = keeper(tmp_path, manifest[:4], open_trunk(str(home / "backbone")))
    folders = {str(x.folder_of(variant)) for x in (one, other, half, part)}
    assert len(folders) == 4
    assert one.folder_of(variant) != one.folder_of(Variant(Context(4, 8, 0), 0))


class Store:
    """Frames that are there already, of one layer and the output."""

    context = Context.full()

    def __init__(self, rows):
        self.rows = rows
        self.asked = 0

    def read(self, cut):
        self.asked += 1
        return np.full((5, len(self.rows), 16), 7.0, np.float32)


def test_stored_frames_are_taken_instead_of_computing_them(home, tmp_path):
    manifest, backbone = load_manifest(home / "data/turns.jsonl"), strong_backbone()
    store, variant = Store((OUTPUT, 0, 1, 2)), Variant(Context.full(), 0)
    kept = keeper(tmp_path, manifest, backbone, stored=store)
    kept.keep(np.arange(3), variant)
    assert store.asked == 3
    assert np.all(kept.read(1, variant) == 7)
    kept.keep(np.arange(3), Variant(Context(4, 8, 0), 0))
    assert store.asked == 3, "another context is not what the store has"
    few = keeper(tmp_path, manifest, backbone, stored=Store((OUTPUT,)))
    with pytest.raises(ConfigError, match=r"no layers \[0, 1, 2\].*last"):
        few.keep(np.arange(4), variant)


def test_a_reader_of_stores_that_is_none_is_named(config):
    with pytest.raises(ConfigError, match=r"data.store_reader 'nowhere:open'"):
        HeadsRun(config("data.store=store", "data.store_reader=nowhere:open")).run()


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 10), st.integers(0, 99))
def test_a_crop_is_a_stretch_of_each_item(lengths, frames, seed):
    counts = torch.tensor(lengths)
    rows = torch.arange(12.0).expand(len(lengths), -1)[..., None] + 1
    valid = torch.arange(12) < counts[:, None]
    encoded = Encoded(rows * valid[..., None], counts, None, torch.arange(12))
    torch.manual_seed(seed)
    cropped = crop(encoded, frames)
    for row, length in enumerate(lengths):
        kept = cropped.frames[row, :, 0][: int(cropped.lengths[row])]
        assert len(kept) == min(frames, length)
        assert torch.equal(kept, kept[0] + torch.arange(len(kept)))
        assert kept[0] >= 1
        assert kept[-1] <= length


@given(st.floats(0, 1, exclude_max=True))
def test_contexts_are_drawn_in_their_shares(draw):
    contexts = ContextsConfig(full=0.4, limited=((8, 40, 0), (4, 40, 0), (16, 40, 8)))
    chosen = contexts.choose(draw)
    assert chosen.is_full == (draw < 0.4)
    assert chosen in contexts.all()


def test_every_group_means_something_and_the_last_layers_are_the_last():
    backbone = strong_backbone()
    for group in GROUPS:
        assert match_parameters(backbone, [group], "trunk.train")
    names = match_parameters(backbone, ["last 1 layers"], "trunk.train")
    assert all(x.startswith(("conformer.layers.1.", "conformer.after_norm.")) for x in names)
    assert "conformer.after_norm.weight" in names
    first = match_parameters(backbone, ["first 1 layers"], "trunk.train")
    assert all(name.startswith("conformer.layers.0.") for name in first)
    assert match_parameters(backbone, ["conformer.embed.*"], "x") == match_parameters(
        backbone, ["subsampling"], "x"
    )


def test_an_untrained_trunk_has_the_shape_and_normalisation_of_another(home):
    trained, untrained = (open_trunk(f"{x}{home / 'backbone'}") for x in ("", "random:"))
    assert untrained.config == trained.config
    assert torch.equal(untrained.feature_mean, trained.feature_mean)
    assert not any(
        torch.equal(a, b)
        for a, b in zip(untrained.parameters(), trained.parameters(), strict=True)
        if a.ndim > 1
    )
    again = open_trunk(f"random:{home / 'backbone'}")
    assert all(
        torch.equal(a, b) for a, b in zip(untrained.parameters(), again.parameters(), strict=True)
    )


def test_nothing_is_augmented_unless_asked_for():
    assert not augments(NOTHING)
    assert augments(replace(NOTHING, speed=Speed(0.1)))
    assert augments(replace(NOTHING, masking=Masking(time_masks=0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("heads.intent.weight=0", "weight=0"),
        ("choose.metric=mood/loss", "choose.metric"),
        ("data.fraction=2", "fraction"),
        ("contexts.full=2", "share"),
        ("search.rates=[0.1]", "two numbers"),
        ("heads.intent.kind=intnet", "Did you mean 'intent'"),
        ("heads.intent.options.poling=mean", "Did you mean 'pooling'"),
        ("heads.intent.options.hidden=-4", "hidden=-4 must be 0 or more"),
        ("heads.intent.options.dropout=3", "dropout=3"),
    ],
)
def test_settings_that_cannot_be_are_named(config, change, message):
    with pytest.raises(ConfigError, match=message):
        HeadsRun(config(change))


def test_the_command_trains_and_answers_mistakes_with_one_line(home, tmp_path):
    def command(*words):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "heads.train", str(ROOT / "configs/heads/intent.yaml"), *words],
            env=environment, capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip

    given_ = (
        f"backbone={home / 'backbone'}", f"data.train={home / 'data/turns.jsonl'}",
        f"out={tmp_path / 'run'}", "train.steps=4", "train.trackers=[]", "contexts.full=1.0",
    )  # fmt: skip
    done = command(*given_, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tables"]["Heads on dev"][0]["head"] == "intent"
    wrong = command(*given_, "heads.intent.options.hiden=3")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "hiden" in wrong.stderr
    assert "Traceback" not in wrong.stderr
