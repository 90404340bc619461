"""What the contract of heads is tested with: for every registered kind a small head, its labels, and made-up frames."""

from __future__ import annotations

from typing import Any

import torch
from encoder_backbones import noise, strong_backbone

from encoder import Backbone, Encoded
from heads import Head, TrunkSpec, attach_adapter, find_head
from trunkline.settings import read_settings

TURNS = ["một hai", "ba", "hai ba một", "bốn"]
SPANS = (
    [[0.1, 0.4, "speech"]],
    [[0.0, 0.3, "speech"], [0.5, 0.9, "noise"]],
    [],
    [[0.2, 1, "speech"]],
)

# Kind -> labels of four items, and settings that keep the head small. A new kind needs a line here.
EXAMPLES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "aed": (TURNS, {"hidden": 8, "heads": 2, "feed_forward": 16, "decoder_layers": 1}),
    "ctc": (TURNS, {"hidden": 8}),
    "intent": (["pay", "ask", "pay", "end"], {"hidden": 8}),
    "phones": ([[[a, b, n[0]] for a, b, n in span] for span in SPANS], {"hidden": 8}),
    "regression": ([1.0, 2.5, 4, 5.0], {"hidden": 8}),
    "sentiment": (["good", "bad", "good", "bad"], {"hidden": 8, "pooling": "max", "context": 3}),
    "speaker": (["an", "binh", "an", "chi"], {"hidden": 8, "embedding": 6}),
    "vad": (list(SPANS), {"hidden": 8}),
}


def make_head(kind: str, backbone: Backbone | None = None, seed: int = 0, **changes: Any) -> Head:
    """A small head in evaluation mode with weights that are not zero, its adapter attached."""
    backbone = backbone or strong_backbone()
    labels, settings = EXAMPLES[kind]
    cls = find_head(kind)
    options = read_settings(cls.Options, settings | changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = cls(options, TrunkSpec.of(backbone), cls.prepare(options, labels))
        return attach_adapter(head, backbone).eval()


def bend(head: Head, seed: int = 1) -> Head:
    """Let the adapter change something, as training would."""
    assert head.adapter is not None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.adapter.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return head


def encoded(head: Head, lengths: list[int], seed: int = 0, garbage: float = 0.0) -> Encoded:
    """Frames as the trunk gives them, each item made from its own seed; `garbage` stands at padding."""
    longest, dim = max(lengths, default=0), head.trunk.dim
    count = 0 if head.mix is None else len(head.mix.logits)
    stack = torch.full((count + 1, len(lengths), longest, dim), garbage)
    for item, length in enumerate(lengths):
        stack[:, item, :length] = noise(count + 1, length, dim, seed=100 * seed + item)
    times = torch.arange(longest, dtype=torch.float64) * head.trunk.frame_shift + 0.0825
    return Encoded(stack[0], torch.tensor(lengths), stack[1:] if count else None, times)


def item_of(batch: Encoded, item: int) -> Encoded:
    """One item of a batch, without padding."""
    length = int(batch.lengths[item])
    layers = None if batch.layers is None else batch.layers[:, item : item + 1, :length]
    frames = batch.frames[item : item + 1, :length]
    return Encoded(frames, batch.lengths[item : item + 1], layers, batch.times[:length])


def tensors(output: Any) -> dict[str, torch.Tensor]:
    """The tensors of an output by name."""
    return {name: x for name, x in output._asdict().items() if isinstance(x, torch.Tensor)}


def same(one: Any, other: Any) -> bool:
    """Whether two results say the same, numbers to four digits after the point."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-4 * max(1.0, abs(one))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
