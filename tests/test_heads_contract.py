"""One contract for every registered head: what it may depend on, what it must give, and that it comes back whole."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from encoder_backbones import noise, strong_backbone
from heads_contract import EXAMPLES, bend, encoded, item_of, make_head, same, tensors

from encoder import Context
from heads import MultiHeadModel, available_heads, load_head, load_model, save_head
from heads.folder import read_head_config
from trunkline.errors import DataError

KINDS = available_heads()
LENGTHS = [12, 5, 9, 14]
LIMITS = Context(4, 6, 2)


def own_heads() -> list[str]:
    """Those of this package; a head that an installed package adds has its own tests."""
    return [kind for kind in KINDS if kind in EXAMPLES]


def test_every_head_of_ours_is_under_this_contract():
    from heads.registry import OWN

    assert set(OWN) == set(EXAMPLES), "say in tests/heads_contract.py what labels a new head has"


@pytest.mark.parametrize("kind", own_heads())
def test_outputs_are_batch_first_and_results_are_one_json_value_per_item(kind):
    head = make_head(kind)
    with torch.no_grad():
        output = head(encoded(head, LENGTHS))
    assert all(len(x) == len(LENGTHS) and x.isfinite().all() for x in tensors(output).values())
    assert output.lengths.tolist() == LENGTHS
    results = head.decode(output)
    assert len(results) == len(LENGTHS)
    assert "NaN" not in json.dumps(results)


@pytest.mark.parametrize("kind", own_heads())
def test_an_item_does_not_depend_on_its_batch_nor_on_what_stands_at_padding(kind):
    head = make_head(kind)
    batch = encoded(head, LENGTHS, garbage=1e3)
    with torch.no_grad():
        together = tensors(head(batch))
        for item in range(len(LENGTHS)):
            alone = tensors(head(item_of(batch, item)))
            for name, expected in alone.items():
                found = together[name][item : item + 1]
                found = found[tuple(slice(size) for size in expected.shape)]
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("layers", ["all", "last", (1,)])
@pytest.mark.parametrize("kind", own_heads())
def test_the_loss_is_finite_and_every_parameter_gets_a_gradient(kind, layers):
    head = make_head(kind, layers=layers).train()
    labels = EXAMPLES[kind][0]
    head.check_labels(labels)
    loss, metrics = head.loss(head(encoded(head, LENGTHS)), labels)
    assert loss.ndim == 0 and loss.isfinite()
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    loss.backward()
    # Softmax weights of a single layer have nothing to choose from.
    single = layers == (1,)
    silent = [
        name
        for name, x in head.named_parameters()
        if (x.grad is None or not x.grad.any()) and not (single and name == "mix.logits")
    ]
    assert silent == []


@pytest.mark.parametrize("length", [0, 1])
@pytest.mark.parametrize("kind", own_heads())
def test_no_frame_and_one_frame_have_a_finite_output_and_a_result(kind, length):
    head = make_head(kind)
    with torch.no_grad():
        alone = head(encoded(head, [length]))
        among = head(encoded(head, [length, 8]))
    for output in (alone, among):
        assert all(x.isfinite().all() for x in tensors(output).values())
    [result] = head.decode(alone)
    assert same(result, head.decode(among)[0])
    json.dumps(result)


@pytest.mark.parametrize("kind", own_heads())
def test_a_stream_of_any_blocks_ends_with_the_results_of_the_recording(kind):
    backbone = strong_backbone()
    model = MultiHeadModel(backbone, {"one": make_head(kind, backbone)})
    waveform = 0.1 * noise(17_000).numpy()
    expected = model.outputs(waveform, context=LIMITS)["one"]
    padded = model.forward(
        backbone.features(torch.from_numpy(waveform))[None],
        torch.tensor([backbone.features(torch.from_numpy(waveform)).shape[0]]),
        context=LIMITS,
    )["one"]
    session = model.stream(LIMITS)
    for start in range(0, len(waveform), 3_001):
        session.feed(waveform[start : start + 3_001])
    results = session.finish()
    found = session._line.end()["one"]
    for name, tensor in tensors(expected).items():
        torch.testing.assert_close(tensors(found)[name], tensor, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tensors(padded)[name].detach(), tensor, atol=1e-4, rtol=1e-4)
    assert same(results["one"], model.head("one").decode(expected)[0])


@pytest.mark.parametrize("kind", own_heads())
def test_silence_an_empty_call_and_a_tenth_of_a_second_are_served(kind):
    backbone = strong_backbone()
    model = MultiHeadModel(backbone, {"one": make_head(kind, backbone)})
    rate = backbone.sample_rate
    for samples in (0, rate // 10, 3 * rate):
        silence = np.zeros(samples, np.float32)
        result = model.run(silence, context=LIMITS)["one"]
        json.dumps(result)
        [again] = model.run([silence], context=LIMITS)
        assert same(again["one"], result)


@pytest.mark.parametrize("kind", own_heads())
def test_a_saved_head_comes_back_as_it_was(kind, tmp_path):
    backbone = strong_backbone()
    head = make_head(kind, backbone, adapter={"kind": "houlsby", "dim": 4})
    head.calibration = {"temperature": 1.5} if kind in ("intent", "sentiment") else {}
    bend(head).adapter.mark_called()
    save_head(head, tmp_path / "a", backbone, training={"metrics": {"loss": 0.25}})
    again = load_head(tmp_path / "a", backbone)
    save_head(again, tmp_path / "b", backbone, training={"metrics": {"loss": 0.25}})
    for name in ("head.json", "head.safetensors", "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not any("conformer" in name for name in again.state_dict()), "no weight of the trunk"
    card = (tmp_path / "a" / "README.md").read_text()
    assert head.label_key in card and "loss: 0.25" in card
    assert read_head_config(tmp_path / "a")["head"]["kind"] == kind
    model = load_model(backbone, [tmp_path / "a"])
    waveform = 0.1 * noise(9_000).numpy()
    expected = MultiHeadModel(backbone, {"a": head}).outputs(waveform, context=LIMITS)["a"]
    found = model.outputs(waveform, context=LIMITS)["a"]
    assert all(torch.equal(x, tensors(expected)[name]) for name, x in tensors(found).items())


@pytest.mark.parametrize("kind", own_heads())
def test_a_label_of_another_type_is_refused_by_name(kind):
    head = make_head(kind)
    strange = {"not": ["a", "label"]}
    with pytest.raises(DataError):
        head.check_labels([strange])
