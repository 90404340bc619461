"""Evaluation for a while, with every module's own mode kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluating(*roots: object) -> Iterator[None]:
    """Switch dropout off in all modules below `roots` (others than modules are passed over), then restore modes."""
    modules = (module for root in roots if isinstance(root, nn.Module) for module in root.modules())
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
