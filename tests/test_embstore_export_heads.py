"""Columns and poolings from heads: what a head says of a cut stands beside its vectors."""

from __future__ import annotations

import numpy as np
import pytest
from embedding_stores import run_export, save_backbone, write_recordings
from heads_contract import make_head

from embstore import EmbeddingStore
from embstore.verify import verify
from encoder import Context, load_backbone
from heads import load_model
from heads.folder import save_head
from trunkline.manifest import load_manifest

LIMITS = Context(4, 6, 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    backbone = load_backbone(save_backbone(folder / "backbone"))
    for kind in ("intent", "speaker", "regression"):
        save_head(make_head(kind, backbone), folder / kind, backbone)
    write_recordings(folder / "recordings")
    return folder


def export(capsys, made, out, *more):
    words = ["--manifest", made / "recordings" / "calls.jsonl", "--backbone", made / "backbone"]
    return run_export(capsys, *words, "--out", out, *more)


def test_labels_and_learnt_vectors_are_those_of_the_heads(made, tmp_path, capsys):
    poolings = f"mean,attentive:{made / 'intent'},speaker:{made / 'speaker'}"
    heads = [f"--heads=intent={made / 'intent'}", f"--heads=size={made / 'regression'}"]
    status, summary, _ = export(capsys, made, tmp_path / "store", "--pooled", poolings, *heads)
    assert status == 0 and summary["added"] == 3 * 7
    store = EmbeddingStore.open(tmp_path / "store")
    names = {space.pooling.partition(":")[0]: space for space in store.spaces().values()}
    assert len(names) == 3 and verify(store) == []
    model = load_model(made / "backbone", [made / "intent", made / "speaker", made / "regression"])
    for cut in load_manifest(made / "recordings" / "calls.jsonl"):
        waveform, where = cut.load(8000), {"channel": cut.channel or 0}
        result = model.run(waveform, context=LIMITS)
        for space in names.values():
            row = store.fetch(cut.call_id, space=space, **where).to_pylist()[0]
            answer = result["intent"]
            assert row["intent_confidence"] == pytest.approx(answer.confidence, abs=1e-5)
            assert row["size_score"] == pytest.approx(result["regression"].value, abs=1e-4)
            if isinstance(answer.label, str):
                assert row["intent_label"] == answer.label
                assert row["intent_score"] == pytest.approx(
                    answer.probabilities[answer.label], abs=1e-5
                )
        voice = store.fetch(cut.call_id, space=names["speaker"], **where).to_pylist()[0]["v"]
        np.testing.assert_allclose(voice, model.embed_speaker(waveform, context=LIMITS), atol=1e-4)
        encoded = model.backbone.encode(waveform, context=LIMITS, layers="all")
        head = model.head("intent")
        expected = head.pool.finish(head.step(encoded, head.init_state(1))[1])[0]
        attended = store.fetch(cut.call_id, space=names["attentive"], **where).to_pylist()[0]["v"]
        np.testing.assert_allclose(attended, expected.detach().numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--heads", "who={speaker}"], 2, "gives no label for a cut"),
        (["--pooled", "speaker:{intent}"], 2, "knows no speakers"),
        (["--pooled", "atentive:{intent}"], 2, "Did you mean 'attentive'?"),
        (["--heads", "intent={recordings}"], 1, "head.json"),
    ],
)
def test_a_head_that_cannot_do_it_is_named(made, tmp_path, capsys, more, status, message):
    words = [word.format(**{path.name: path for path in made.iterdir()}) for word in more]
    found, _, said = export(capsys, made, tmp_path / "store", *words)
    assert found == status and message in said
