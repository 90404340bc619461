"""Frames of a store stand in for the encoder when heads are trained."""

from __future__ import annotations

import numpy as np
import pytest
from training_heads import save_backbone, settings, write_turns

from embstore.frames import open_frames
from embstore.schema import FRAMES, Space
from embstore.store import EmbeddingStore
from embstore.writer import Record
from encoder import Context, load_backbone
from heads.frames import OUTPUT, KeptFrames
from heads.run import HeadsRun
from trunkline.errors import DataError
from trunkline.manifest import load_manifest


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Turns, a backbone, and a store with the frames of all turns but one, output and layers."""
    folder = tmp_path_factory.mktemp("stored")
    manifest = load_manifest(write_turns(folder / "data", 9, dev=3))
    save_backbone(folder / "backbone")
    backbone = load_backbone(folder / "backbone")
    store = EmbeddingStore.create(folder / "store")
    encoded = {
        cut.id: (cut, backbone.encode(str(cut.audio_filepath), layers="all"))
        for cut in list(manifest)[1:]
    }
    for layer in ("last", "0", "1", "2"):
        space = Space(backbone.fingerprint, backbone.d_model, layer=layer, pooling=FRAMES)
        store.append(
            space,
            [
                Record(
                    cut.call_id,
                    cut.id,
                    frames=(x.frames if layer == "last" else x.layers[int(layer)])[0].numpy(),
                )
                for cut, x in encoded.values()
            ],
        )
    return folder


def test_a_cut_is_read_as_the_encoder_gives_it_and_one_that_is_not_there_is_none(home):
    backbone, manifest = load_backbone(home / "backbone"), load_manifest(home / "data/turns.jsonl")
    stored = open_frames(str(home / "store"), backbone)
    assert stored.rows == (OUTPUT, 0, 1, 2)
    assert stored.context == Context.full()
    cut = manifest[4]
    alone = backbone.encode(str(cut.audio_filepath), layers="all")
    expected = np.concatenate([alone.frames, *alone.layers]).transpose(1, 0, 2)
    assert np.allclose(stored.read(cut), expected, atol=1e-5)
    assert stored.read(manifest[0]) is None


def test_heads_are_trained_on_a_store_and_only_what_it_lacks_is_computed(
    home, tmp_path, monkeypatch
):
    computed = []
    encoded = KeptFrames._encoded

    def counted(self, batch, context):
        computed.extend(batch)
        return encoded(self, batch, context)

    monkeypatch.setattr(KeptFrames, "_encoded", counted)
    turns, backbone = home / "data/turns.jsonl", home / "backbone"
    summary = HeadsRun(
        settings(turns, backbone, tmp_path / "a", "train.steps=4", f"data.store={home / 'store'}")
    ).run()
    assert len(computed) == 1
    online = HeadsRun(settings(turns, backbone, tmp_path / "b", "train.steps=4")).run()
    assert summary["loss"] == pytest.approx(online["loss"], abs=1e-4)


def test_a_store_of_another_backbone_is_refused(home):
    backbone = load_backbone(home / "backbone")
    backbone.fingerprint = "0" * 64
    with pytest.raises(DataError, match="no frames of the backbone 000000000000"):
        open_frames(str(home / "store"), backbone)
