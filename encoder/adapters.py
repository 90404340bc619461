"""How a head bends the encoder: adapters are an argument, and what they bend is a view, not the backbone.

A view is a module with some parts replaced; all the rest, tensors and modules, is the backbone's own. Nothing is
patched and no hook is set, so one backbone serves any number of heads at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from trunkline.errors import ConfigError

if TYPE_CHECKING:
    from encoder.conformer import Conformer

M = TypeVar("M", bound=nn.Module)


@runtime_checkable
class Adapters(Protocol):
    """What `Backbone.forward`, `encode`, `step` and the like take as `adapters`."""

    @property
    def key(self) -> str:
        """Text by which adapters are told: equal only for such as give equal frames."""
        ...

    def adapted(self, conformer: Conformer) -> Conformer:
        """Return a view of the encoder with these adapters in it; called for every pass or step, and to plan one."""
        ...

    def passed(self) -> None:
        """Hear that frames went through such a view."""
        ...


def with_parts(module: M, parts: Mapping[str, Tensor | nn.Module]) -> M:
    """Return a view of a module with the parameters and submodules at some dotted names replaced.

    Gradients flow into what is given as into what is shared. The view has the module's mode, training or not.

    Raises:
        ConfigError: the module has no such part, as when a packed layer has no weight to replace.
    """
    view = object.__new__(type(module))
    own = vars(view)
    own.update(vars(module))
    own["_parameters"], own["_modules"] = dict(own["_parameters"]), dict(own["_modules"])
    below: dict[str, dict[str, Tensor | nn.Module]] = {}
    for name, part in parts.items():
        first, _, rest = name.partition(".")
        if rest and first in own["_modules"]:
            below.setdefault(first, {})[rest] = part
            continue
        place = "_modules" if isinstance(part, nn.Module) else "_parameters"
        if rest or first not in own[place]:
            raise ConfigError(
                f"{type(module).__name__} has no {name} to adapt. An optimised backbone has packed weights: adapt the "
                "one it was made from."
            )
        own[place][first] = part
    for name, inner in below.items():
        own["_modules"][name] = with_parts(own["_modules"][name], inner)
    return view
