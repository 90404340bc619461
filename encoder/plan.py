"""Which layers are computed when several ways through the encoder share a recording: each once.

A *way* is the encoder as one head sees it, with the adapters of that head. Ways share a layer when it is the same
module and all below it is shared too, so a plan is a tree: a trunk up to the lowest adapted layer, and a branch for
each way from there on.

    features - embed - 1 - 2 - 3 - 4      way 0, not adapted
                           \\
                            3' - 4'       way 1, adapted from layer 3 on: 6 layer passes instead of 8
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

if TYPE_CHECKING:
    from encoder.conformer import Conformer


class Node(NamedTuple):
    """One module that runs once."""

    number: int
    """0 is the subsampling, n layer n."""
    module: nn.Module
    parent: int
    """Place in the plan of the node whose frames it takes; -1 for the features."""


class Way(NamedTuple):
    """One way through the encoder."""

    path: tuple[int, ...]
    """Places in the plan of layers 0, 1, ..."""
    norm: nn.LayerNorm
    """What follows the last layer."""
    wanted: tuple[int, ...]
    """Layers to return beside the frames, in rising order."""


class Plan(NamedTuple):
    """Every node stands behind its parent."""

    nodes: tuple[Node, ...]
    ways: tuple[Way, ...]
    kernel: int
    dropout: nn.Module
    """Of the subsampled frames."""

    @property
    def depth(self) -> int:
        """Number of layers of every way."""
        return len(self.ways[0].path) - 1

    @property
    def layers(self) -> tuple[Node, ...]:
        """The nodes that are layers, each with a state of its own in a stream."""
        return tuple(node for node in self.nodes if node.number)

    def last_uses(self) -> Iterator[tuple[int, ...]]:
        """Yield for each node the places whose frames nobody needs once it has run."""
        needed = {place: place for place in range(len(self.nodes))}
        for place, node in enumerate(self.nodes):
            needed[node.parent] = place
        kept = {way.path[number] for way in self.ways for number in (*way.wanted, self.depth)}
        for place in range(len(self.nodes)):
            yield tuple(
                p for p, last in needed.items() if last == place and p >= 0 and p not in kept
            )


def make_plan(conformers: Sequence[Conformer], wanted: Sequence[Collection[int]]) -> Plan:
    """Return the plan for encoders that are views of one backbone's, each with the layers it has to return."""
    nodes: list[Node] = []
    places: dict[tuple[int, int], int] = {}
    ways = []
    for conformer, numbers in zip(conformers, wanted, strict=True):
        path: list[int] = []
        for number, module in enumerate([conformer.embed, *conformer.layers]):
            parent = path[-1] if path else -1
            key = (parent, id(module))
            if key not in places:
                places[key] = len(nodes)
                nodes.append(Node(number, module, parent))
            path.append(places[key])
        ways.append(Way(tuple(path), conformer.after_norm, tuple(sorted(numbers))))
    return Plan(tuple(nodes), tuple(ways), conformers[0].kernel, conformers[0].embed_dropout)
