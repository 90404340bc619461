"""Adapters: nothing at first, one number in every way of encoding, shared layers once, never forgotten."""

from __future__ import annotations

import copy

import pytest
import torch
from encoder_backbones import noise, strong_backbone
from heads_contract import bend, make_head

from encoder import Backbone, Context, StreamingSession
from encoder.adapters import Adapters, with_parts
from encoder.shared import Branch, SharedTrunk
from heads import AdapterOptions, MultiHeadModel, available_adapters, describe_parameters, save_head
from heads.adapter import Adapter, make_adapter, register_adapter
from trunkline.errors import ConfigError, TrainingError, UsageError

LIMITS = Context(4, 6, 2)
SMALL = {"houlsby": {"dim": 4}, "lora": {"rank": 2}, "last": {"layers": 1}}
KINDS = available_adapters()


def adapter_of(kind: str, backbone: Backbone, changed: bool = True) -> Adapter:
    adapter = make_adapter(AdapterOptions(kind=kind, **SMALL.get(kind, {})), backbone)
    assert adapter is not None
    if changed:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return adapter


def whole(backbone: Backbone, features: torch.Tensor, **options):
    with torch.no_grad():
        lengths = torch.tensor([len(features)])
        return backbone(features[None], lengths, context=LIMITS, layers="all", **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_changes_no_bit_of_any_frame(kind):
    backbone, features = strong_backbone(), noise(200, 15)
    adapter = adapter_of(kind, backbone, changed=False)
    assert isinstance(adapter, Adapters)
    plain, bent = whole(backbone, features), whole(backbone, features, adapters=adapter)
    assert torch.equal(plain.frames, bent.frames) and torch.equal(plain.layers, bent.layers)


@pytest.mark.parametrize("kind", KINDS)
def test_with_an_adapter_every_way_of_encoding_gives_the_same_frames(kind):
    backbone = strong_backbone()
    adapter = adapter_of(kind, backbone)
    waveform = 0.1 * noise(20_000).numpy()
    features = backbone.features(torch.from_numpy(waveform))
    expected = whole(backbone, features, adapters=adapter)
    assert (expected.frames - whole(backbone, features).frames).abs().max() > 0.05

    options = {"context": LIMITS, "adapters": adapter}
    mates = [noise(60, 15), features, noise(9, 15)]
    padded = torch.nn.utils.rnn.pad_sequence(mates, batch_first=True, padding_value=50.0)
    lengths = torch.tensor([len(item) for item in mates])
    session = StreamingSession(backbone, LIMITS, adapters=adapter)
    parts = [session.feed(waveform[n : n + 2_777]) for n in range(0, len(waveform), 2_777)]
    found = {
        "recording": backbone.encode(waveform, **options).frames,
        "blocks": torch.cat(
            [x.frames for x in backbone.encode_blocks(waveform, block=7, **options)], dim=1
        ),
        "packed batch": backbone.encode_batch(mates, **options)[1].frames,
        "padded batch": backbone(padded, lengths, **options).frames[
            1:2, : expected.frames.shape[1]
        ],
        "stream": torch.cat([x.frames for x in [*parts, session.finish()]], dim=1),
    }
    for way, frames in found.items():
        torch.testing.assert_close(frames.detach(), expected.frames, atol=1e-5, rtol=0, msg=way)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_an_adapter_gets_a_gradient_and_the_trunk_stays(kind):
    backbone = strong_backbone().requires_grad_(False)
    before = copy.deepcopy(backbone.state_dict())
    adapter = adapter_of(kind, backbone).requires_grad_(True)
    encoded = backbone(noise(2, 90, 15), torch.tensor([90, 50]), context=LIMITS, adapters=adapter)
    # Not a plain sum: the norms' outputs add up to a constant.
    (encoded.frames * noise(*encoded.frames.shape, seed=5)).sum().backward()
    silent = [n for n, p in adapter.named_parameters() if p.grad is None or not p.grad.any()]
    # Softmax over keys does not see what is added to all of them, unless positions are biased: u, v and q.
    assert [name for name in silent if "linear_k.bias" not in name] == []
    assert all(torch.equal(before[name], x) for name, x in backbone.state_dict().items())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "houlsby"])
def test_a_merged_adapter_gives_the_same_frames_without_being_called(kind):
    backbone, features = strong_backbone(), noise(150, 15)
    adapter = adapter_of(kind, backbone)
    merged = adapter.merged(backbone)
    assert merged.fingerprint is None
    expected = whole(backbone, features, adapters=adapter)
    torch.testing.assert_close(
        whole(merged, features).frames, expected.frames, atol=1e-5, rtol=1e-5
    )


def test_a_bottleneck_cannot_be_merged():
    backbone = strong_backbone()
    with pytest.raises(UsageError, match="houlsby"):
        adapter_of("houlsby", backbone).merged(backbone)


def test_branches_share_the_layers_below_the_lowest_adapted_one_and_get_what_they_get_alone():
    backbone, features = strong_backbone(layers=4), noise(260, 15)
    last = make_adapter(AdapterOptions(kind="last", layers=2), backbone)
    lora = make_adapter(AdapterOptions(kind="lora", rank=2, layers=1), backbone)
    assert last is not None and lora is not None
    for adapter in (last, lora):
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.3)
    branches = [
        Branch(),
        Branch(last, [1, 4]),
        Branch(lora, "all"),
        Branch(None, [0]),
        Branch(lora),
    ]
    trunk = SharedTrunk(backbone, branches)
    # Layers 1-4 for two branches, 3'-4' for `last`, 4'' for the two of `lora`.
    assert (trunk.layer_passes, trunk.layer_passes_alone) == (7, 20)
    calls = []
    hooks = [
        layer.register_forward_hook(lambda *_, n=n: calls.append(n))
        for n, layer in enumerate(backbone.conformer.layers)
    ]
    with torch.no_grad():
        together = trunk.forward(features[None], torch.tensor([260]), context=LIMITS)
    for hook in hooks:
        hook.remove()
    assert calls[:3] == [0, 1, 2] and calls.count(0) == calls.count(1) == 1
    packed = trunk.encode_batch([features, features[:40]], context=LIMITS)
    state, parts = trunk.init_state(1, LIMITS), []
    for start in range(0, 260, 37):
        encoded, state = trunk.step(features[None, start : start + 37], state)
        parts.append(encoded)
    parts.append(trunk.finish(state)[0])
    for n, branch in enumerate(branches):
        with torch.no_grad():
            alone = backbone(
                features[None],
                torch.tensor([260]),
                context=LIMITS,
                layers=branch.layers,
                adapters=branch.adapters,
            )
        assert torch.equal(together[n].frames, alone.frames)
        ways = [together[n].layers, packed[0][n].layers]
        if alone.layers is None:
            assert ways == [None, None]
        else:
            ways.append(torch.cat([part[n].layers for part in parts], dim=2))
            for layers in ways:
                torch.testing.assert_close(layers, alone.layers, atol=1e-5, rtol=1e-5)
        frames = torch.cat([part[n].frames for part in parts], dim=1)
        torch.testing.assert_close(frames, alone.frames, atol=1e-5, rtol=1e-5)


def test_a_stream_keeps_to_the_adapters_it_began_with():
    backbone = strong_backbone()
    one, other = (adapter_of("lora", backbone) for _ in range(2))
    state = backbone.init_state(1, LIMITS, adapters=one)
    before = [tensor.clone() for tensor in state.layers[0]]
    _, after = backbone.step(noise(1, 60, 15), state, adapters=one)
    assert all(torch.equal(a, b) for a, b in zip(before, state.layers[0], strict=True))
    for wrong in (None, other):
        with pytest.raises(UsageError, match="adapters"):
            backbone.step(noise(1, 60, 15), after, adapters=wrong)


def test_dropout_is_off_in_a_recording_whatever_the_mode_and_modes_come_back():
    backbone = strong_backbone(dropout=0.5).train()
    adapter = adapter_of("full", backbone).train()
    first, second = (backbone.encode(noise(9_000), context=LIMITS, adapters=adapter) for _ in "ab")
    assert torch.equal(first.frames, second.frames)
    assert backbone.training and adapter.training and backbone.conformer.layers[0].training


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_was_configured_but_never_called_is_not_saved(kind, tmp_path):
    backbone = strong_backbone()
    head = make_head("intent", backbone, adapter={"kind": kind, **SMALL.get(kind, {})})
    head(backbone(noise(1, 90, 15), torch.tensor([90]), layers="all"))
    # Planning, an idle stream and a recording without frames are no calls.
    assert "layer passes" in MultiHeadModel(backbone, {"intent": head}).describe()
    backbone.step(
        noise(1, 9, 15),
        backbone.init_state(1, LIMITS, adapters=head.adapter),
        adapters=head.adapter,
    )
    with pytest.raises(TrainingError, match="never called.*adapters=head.adapter"):
        save_head(head, tmp_path / "head", backbone)
    assert not (tmp_path / "head").exists()
    backbone(noise(1, 90, 15), torch.tensor([90]), layers="all", adapters=head.adapter)
    save_head(head, tmp_path / "head", backbone)


def test_an_adapter_of_which_a_part_is_passed_by_is_named():
    backbone = strong_backbone()
    adapter = adapter_of("houlsby", backbone)
    bent = adapter.adapted(backbone.conformer)
    plain = with_parts(bent, {"layers.1": backbone.conformer.layers[1]})
    plain(noise(1, 60, 15), torch.tensor([60]), LIMITS)
    with pytest.raises(TrainingError, match=r"houlsby\.layers\.2"):
        adapter.check_called()


def test_settings_that_a_kind_does_not_have_and_unknown_kinds_are_refused():
    backbone = strong_backbone()
    with pytest.raises(ConfigError, match="rank=3 means nothing to kind='houlsby'"):
        make_adapter(AdapterOptions(kind="houlsby", rank=3), backbone)
    with pytest.raises(ConfigError, match="means nothing to kind='none'"):
        make_adapter(AdapterOptions(dim=3), backbone)
    with pytest.raises(ConfigError, match="Did you mean 'houlsby'"):
        make_adapter(AdapterOptions(kind="hulsby"), backbone)
    with pytest.raises(ConfigError, match="this trunk has 2 layers"):
        make_adapter(AdapterOptions(kind="lora", layers=3), backbone)
    with pytest.raises(ConfigError, match="say how many"):
        AdapterOptions(kind="last")
    with pytest.raises(UsageError, match="heads.adapter:HoulsbyAdapter.*Forged"):

        @register_adapter("houlsby")
        class Forged(Adapter):
            pass


def test_optimised_backbones_take_additions_and_refuse_what_needs_their_weights():
    backbone = strong_backbone(dim=64, feed_forward=64, heads=4)
    features = noise(120, 15)
    fast = backbone.optimize()
    for kind in ("houlsby", "lora"):
        adapter = adapter_of(kind, backbone)
        expected = whole(backbone, features, adapters=adapter)
        found = whole(fast, features, adapters=adapter)
        torch.testing.assert_close(found.frames, expected.frames, atol=1e-3, rtol=1e-3)


def test_how_many_parameters_an_adapter_trains_is_told():
    backbone = strong_backbone()
    text = describe_parameters(
        make_head("intent", backbone, adapter={"kind": "lora", "rank": 2}), backbone
    )
    # Two projections in two layers, each with two matrices of rank 2 and width 16.
    assert "256 in a lora adapter on layers 1-2" in text
    assert "a trunk that stays as it is" in describe_parameters(make_head("intent"), backbone)


def test_heads_with_equal_adapters_share_one_pass():
    backbone = strong_backbone()
    heads = {
        name: bend(make_head(kind, backbone, adapter={"kind": "lora", "rank": 2}))
        for name, kind in (("a", "intent"), ("b", "sentiment"))
    }
    heads["b"].adapter.load_state_dict(heads["a"].adapter.state_dict())
    heads["c"] = make_head("speaker", backbone)
    model = MultiHeadModel(backbone, heads)
    assert len(model.trunk.branches) == 2
    assert model.saved_layer_passes == 6 - 4
    assert "4 layer passes instead of 6: 2 saved" in model.describe()
