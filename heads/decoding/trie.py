"""Prefixes as nodes of a tree: equal prefixes are one node, and a node knows its parent."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

ROOT = 0


class Trie:
    """Token prefixes; node 0 is the empty one."""

    def __init__(self) -> None:
        self.parents = [-1]
        self.tokens = [-1]
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.parents)

    def child(self, node: int, token: int) -> int:
        """Return the node of a prefix and one more token, made when it is not there."""
        number = self._children.setdefault((node, token), len(self.parents))
        if number == len(self.parents):
            self.parents.append(node)
            self.tokens.append(token)
        return number

    def path(self, node: int) -> tuple[int, ...]:
        """Return the tokens of a node's prefix."""
        found = []
        while node != ROOT:
            found.append(self.tokens[node])
            node = self.parents[node]
        return tuple(reversed(found))

    def pruned(self, nodes: Iterable[int]) -> tuple[Trie, np.ndarray]:
        """Return a tree of only these nodes and those above them, and their numbers in it."""
        nodes = list(nodes)
        kept = {ROOT}
        for node in nodes:
            while node not in kept:
                kept.add(node)
                node = self.parents[node]
        small = Trie()
        renamed = {ROOT: ROOT}
        for node in sorted(kept - {ROOT}):  # a parent has a smaller number than its children
            renamed[node] = small.child(renamed[self.parents[node]], self.tokens[node])
        return small, np.array([renamed[node] for node in nodes], dtype=np.int64)
