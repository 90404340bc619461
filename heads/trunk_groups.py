"""Named groups of a backbone's parameters: what of the trunk learns, and what is frozen."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from torch import nn

from encoder import Backbone
from trunkline.errors import ConfigError

# Group -> pattern of parameter names.
GROUPS = {
    "all": r".*",
    "subsampling": r"conformer\.embed\..*",
    "layers": r"conformer\.layers\..*",
    "attention": r"conformer\.layers\.\d+\.(self_attn|norm_mha)\..*",
    "convolution": r"conformer\.layers\.\d+\.(conv_module|norm_conv)\..*",
    "feed_forward": r"conformer\.layers\.\d+\.(feed_forward|feed_forward_macaron|norm_ff|norm_ff_macaron)\..*",
    "norms": r"(.*\.)?(norm\w*|after_norm)\..*",
    "biases": r".*bias.*",
}


def match_parameters(backbone: Backbone, groups: Sequence[str], setting: str) -> set[str]:
    """Return the names of the parameters that the groups mean.

    A group is a name of `GROUPS`, ``last N layers``, ``first N layers``, or a pattern such as
    ``conformer.layers.3.*`` over `backbone.named_parameters()`.

    Raises:
        ConfigError: a group means no parameter; `setting` is named.
    """
    names = [name for name, _ in backbone.named_parameters()]
    found: set[str] = set()
    for group in groups:
        meant = {name for name in names if _means(group, name, backbone.num_layers)}
        if not meant:
            raise ConfigError(
                f"{setting}: {group!r} means no parameter of this backbone. Groups: {', '.join(GROUPS)}, "
                f"'last 4 layers', 'first 2 layers', or a pattern of names such as {names[-1]!r}."
            )
        found |= meant
    return found


def set_trainable(module: nn.Module, names: set[str]) -> int:
    """Let the named parameters learn and freeze all others; return how many numbers learn."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in names)
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _means(group: str, name: str, layers: int) -> bool:
    if some := re.fullmatch(r"(last|first) (\d+) layers?", group):
        number = re.match(r"conformer\.layers\.(\d+)\.", name)
        if number is None:
            # The norm of the output belongs to the last layers.
            return some[1] == "last" and int(some[2]) > 0 and ".after_norm." in f".{name}"
        at, count = int(number[1]), int(some[2])
        return at < count if some[1] == "first" else at >= layers - count
    if group in GROUPS:
        return re.fullmatch(GROUPS[group], name) is not None
    return fnmatch.fnmatchcase(name, group)
