"""Adapters: small trained parts that bend the trunk for one head, given to the encoder as an argument.

| kind | what is trained | at first |
|---|---|---|
| `houlsby` | a bottleneck behind every layer (Houlsby et al. 2019; `dim`) | adds zero |
| `lora` | low-rank updates of the query and value projections (Hu et al. 2021; `rank`, `alpha`) | adds zero |
| `bitfit` | copies of the biases (Ben Zaken et al. 2021) | the trunk's |
| `last` | copies of the last `layers` layers and the norm behind them | the trunk's |
| `full` | a copy of the whole encoder | the trunk's |

So a head begins with exactly the frames of the trunk. The trunk itself is never changed: copies belong to the head and
are saved with it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoder import Backbone
from encoder.adapters import with_parts
from encoder.conformer import Conformer, count_parameters
from heads.adapter_options import AdapterOptions
from heads.head import Head
from trunkline.errors import ConfigError, TrainingError, UsageError, nearest

PROJECTIONS = ("linear_q", "linear_v")
"""What LoRA updates; the authors found queries and values the best use of few parameters (table 5)."""

_classes: dict[str, type[Adapter]] = {}
A = TypeVar("A", bound="type[Adapter]")


class Adapter(nn.Module):
    """Base of adapters: `parts` says what of the encoder is replaced."""

    kind: ClassVar[str] = ""
    """The registered name; `register_adapter` sets it."""
    uses: ClassVar[tuple[str, ...]] = ()
    """The settings of `AdapterOptions` that mean something to this kind, beside `kind`."""

    def __init__(self, options: AdapterOptions, backbone: Backbone) -> None:
        """Check the options.

        Raises:
            ConfigError: a setting that this kind does not have, or more layers than there are.
        """
        super().__init__()
        self.options = options
        _check(options, self, backbone)
        first = backbone.num_layers - options.layers if options.layers else 0
        self.numbers = tuple(range(first + 1, backbone.num_layers + 1))
        """Layers that are adapted, from 1."""
        self.calls = 0
        """How often frames went through an encoder with this adapter in it."""

    @property
    def key(self) -> str:
        """Text by which this adapter is told from others."""
        return f"{self.kind}-{id(self)}"

    def adapted(self, conformer: Conformer) -> Conformer:
        """Return a view of the encoder with this adapter in it."""
        return with_parts(conformer, self.parts(conformer))

    def passed(self) -> None:
        """Count a pass."""
        self.calls += 1

    def parts(self, conformer: Conformer) -> Mapping[str, Tensor | nn.Module]:
        """Return what replaces the parts of these names."""
        raise NotImplementedError

    def uncalled(self) -> list[str]:
        """Return the parts through which no frame went since the adapter was made or loaded."""
        inner = [name for name, module in self.named_modules() if getattr(module, "calls", 1) == 0]
        return [f"{self.kind}{f'.{name}' if name else ''}" for name in inner]

    def check_called(self) -> None:
        """Raise a TrainingError if some part of the adapter was never used: it would be saved untrained."""
        if missed := self.uncalled():
            raise TrainingError(
                f"The adapter was configured but never called: no frame went through {', '.join(missed[:3])}. Give it "
                "to the encoder: backbone(features, lengths, adapters=head.adapter)."
            )

    def mark_called(self) -> None:
        """Take the adapter for used, as one that comes from a head directory has been."""
        for module in self.modules():
            if hasattr(module, "calls"):
                module.calls = max(1, module.calls)  # type: ignore[assignment, operator]

    def merged(self, backbone: Backbone) -> Backbone:
        """Return a copy of the backbone with the adapter's changes in its weights: the same frames, at no cost.

        Raises:
            UsageError: this kind adds computation that no weight can hold.
        """
        weights = self.weights(backbone.conformer)
        merged = copy.deepcopy(backbone)
        merged.fingerprint = None  # another backbone, which saving names
        own = dict(merged.conformer.named_parameters())
        with torch.no_grad():
            for name, weight in weights.items():
                own[name].copy_(weight)
        return merged

    def weights(self, conformer: Conformer) -> Mapping[str, Tensor]:
        """Return the encoder's weights as this adapter changes them, for `merged`."""
        raise UsageError(f"An adapter of kind {self.kind!r} cannot be merged into the weights.")


def register_adapter(name: str) -> Callable[[A], A]:
    """Return a class decorator that makes an adapter known as `name`; a name that is taken is a UsageError."""

    def register(cls: A) -> A:
        taken = _classes.setdefault(name, cls)
        if taken is not cls:
            raise UsageError(
                f"Two adapters are called {name!r}: {taken.__module__}:{taken.__qualname__} and "
                f"{cls.__module__}:{cls.__qualname__}; rename one of them."
            )
        cls.kind = name
        return cls

    return register


def available_adapters() -> list[str]:
    """Return the kinds of adapters, without "none"."""
    return sorted(_classes)


def make_adapter(options: AdapterOptions, backbone: Backbone) -> Adapter | None:
    """Return a new adapter that changes nothing yet, on the backbone's device; None for kind "none".

    Raises:
        ConfigError: an unknown kind, or settings that the kind does not have.
    """
    if options.kind == "none":
        _check(options, None, backbone)
        return None
    if options.kind not in _classes:
        known = ["none", *available_adapters()]
        raise ConfigError(
            f"adapter.kind={options.kind!r} is unknown.{nearest(options.kind, known)}"
        )
    return _classes[options.kind](options, backbone).to(backbone.feature_mean.device)


def attach_adapter(head: Head, backbone: Backbone) -> Head:
    """Give a head the adapter that its options ask for; raises as `make_adapter`."""
    head.adapter = make_adapter(head.options.adapter, backbone)
    return head


def weights_to_start(head: Head, start: Head) -> dict[str, Tensor]:
    """Return the weights of `start` for `head`; an adapter that only `head` has keeps its own, which change nothing."""
    weights = start.state_dict()
    if head.adapter is None or start.adapter is None:
        prefix = "adapter."
        own = {} if head.adapter is None else head.adapter.state_dict(prefix=prefix)
        weights = {k: v for k, v in weights.items() if not k.startswith(prefix)} | own
    return weights


def describe_parameters(head: Head, backbone: Backbone) -> str:
    """Return how many parameters a head trains, and how many of them bend the trunk, in one line."""
    adapter = head.adapter
    bent = 0 if adapter is None else count_parameters(adapter)
    own = count_parameters(head) - bent
    if not isinstance(adapter, Adapter):
        return f"{head.kind}: {own:,} parameters on a trunk that stays as it is"
    trunk = count_parameters(backbone.conformer)
    places = f"layers {adapter.numbers[0]}-{adapter.numbers[-1]}"
    return (
        f"{head.kind}: {own:,} parameters, and {bent:,} in a {adapter.kind} adapter on {places} "
        f"({bent / trunk:.1%} of the encoder's {trunk:,})"
    )


def _check(options: AdapterOptions, adapter: Adapter | None, backbone: Backbone) -> None:
    uses = ("kind", *(() if adapter is None else adapter.uses))
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name not in uses and value != field.default:
            raise ConfigError(
                f"adapter.{field.name}={value} means nothing to kind={options.kind!r}; leave it out."
            )
    if options.layers > backbone.num_layers:
        raise ConfigError(
            f"adapter.layers={options.layers}: this trunk has {backbone.num_layers} layers."
        )


class Bottleneck(nn.Module):
    """``x + up(SiLU(down(norm(x))))`` on frames of any type; `up` starts as zero."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.down = nn.Linear(dim, hidden)
        self.up = nn.Linear(hidden, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.calls = 0

    def forward(self, frames: Tensor) -> Tensor:
        """Return (..., dim) for frames (..., dim)."""
        self.calls += 1
        inner = self.down(self.norm(frames.to(self.up.weight.dtype)))
        return frames + self.up(functional.silu(inner)).to(frames.dtype)


class _Behind(nn.Module):
    """A module and what comes behind it."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, frames: Tensor) -> Tensor:
        return self.second(self.first(frames))


@register_adapter("houlsby")
class HoulsbyAdapter(Adapter):
    """One bottleneck behind each layer, parameter-efficient and per head."""

    uses = ("dim", "layers")

    def __init__(self, options: AdapterOptions, backbone: Backbone) -> None:
        super().__init__(options, backbone)
        self.layers = nn.ModuleDict(
            {str(number): Bottleneck(backbone.d_model, options.dim) for number in self.numbers}
        )

    def parts(self, conformer: Conformer) -> Mapping[str, Tensor | nn.Module]:
        """Put each bottleneck behind its layer's last norm."""
        return {
            f"layers.{number - 1}.norm_final": _Behind(
                conformer.get_submodule(f"layers.{number - 1}.norm_final"),
                self.layers[str(number)],
            )
            for number in self.numbers
        }


class LowRank(nn.Module):
    """The update ``(alpha / rank) up(down(x))`` of a projection; `up` starts as zero."""

    def __init__(self, dim: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.empty(rank, dim))
        self.up = nn.Parameter(torch.zeros(dim, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)  # as in the authors' code
        self.calls = 0

    def forward(self, frames: Tensor) -> Tensor:
        """Return (..., dim) for frames (..., dim)."""
        self.calls += 1
        inner = functional.linear(frames.to(self.down.dtype), self.down)
        return (functional.linear(inner, self.up) * self.scale).to(frames.dtype)

    def delta(self) -> Tensor:
        """Return what the update adds to the projection's weight, (dim, dim)."""
        return self.scale * (self.up @ self.down)


class _Beside(nn.Module):
    """The sum of two modules' outputs."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, frames: Tensor) -> Tensor:
        return self.first(frames) + self.second(frames)


@register_adapter("lora")
class LoRAAdapter(Adapter):
    """Low-rank updates of the attention's query and value projections."""

    uses = ("rank", "alpha", "layers")

    def __init__(self, options: AdapterOptions, backbone: Backbone) -> None:
        super().__init__(options, backbone)
        dim = backbone.d_model

        def updates() -> nn.ModuleDict:
            return nn.ModuleDict(
                {name: LowRank(dim, options.rank, options.alpha) for name in PROJECTIONS}
            )

        self.layers = nn.ModuleDict({str(number): updates() for number in self.numbers})

    def _updates(self) -> dict[str, LowRank]:
        """Return each update by the name of the projection that it is added to."""
        return {
            f"layers.{int(number) - 1}.self_attn.{name}": update
            for number, updates in self.layers.items()
            for name, update in updates.items()  # type: ignore[operator, attr-defined]
        }

    def parts(self, conformer: Conformer) -> Mapping[str, Tensor | nn.Module]:
        """Put each update beside its projection."""
        return {
            name: _Beside(conformer.get_submodule(name), update)
            for name, update in self._updates().items()
        }

    def weights(self, conformer: Conformer) -> Mapping[str, Tensor]:
        """Return the projections' weights with the updates added."""
        return {
            f"{name}.weight": conformer.get_parameter(f"{name}.weight") + update.delta()
            for name, update in self._updates().items()
        }


class CopyAdapter(Adapter):
    """Base of adapters that own copies of some of the encoder's weights; `learns` says which."""

    def __init__(self, options: AdapterOptions, backbone: Backbone) -> None:
        super().__init__(options, backbone)
        for name, parameter in backbone.conformer.named_parameters():
            if self.learns(name):
                _hold(self, name, nn.Parameter(parameter.detach().clone()))

    def learns(self, name: str) -> bool:
        """Return whether the parameter of this name, such as ``layers.0.norm_ff.bias``, is trained."""
        raise NotImplementedError

    def _in_layers(self, name: str) -> bool:
        head, _, rest = name.partition(".")
        return head == "layers" and int(rest.partition(".")[0]) + 1 in self.numbers

    def parts(self, conformer: Conformer) -> Mapping[str, Tensor | nn.Module]:
        """Put each copy in place of its original."""
        return dict(self.named_parameters())

    def weights(self, conformer: Conformer) -> Mapping[str, Tensor]:
        """Return the copies."""
        return dict(self.named_parameters())


@register_adapter("bitfit")
class BitFitAdapter(CopyAdapter):
    """The biases of the layers and of the last norm."""

    uses = ("layers",)

    def learns(self, name: str) -> bool:
        """Return whether this is a bias of an adapted layer, positional biases included."""
        return "bias" in name.rpartition(".")[2] and (
            self._in_layers(name) or name.startswith("after_norm.")
        )


@register_adapter("last")
class LastLayersAdapter(CopyAdapter):
    """The last layers, and the norm behind them."""

    uses = ("layers",)

    def learns(self, name: str) -> bool:
        """Return whether this belongs to the last layers."""
        return self._in_layers(name) or name.startswith("after_norm.")


@register_adapter("full")
class FullAdapter(CopyAdapter):
    """The whole encoder, subsampling included."""

    def learns(self, name: str) -> bool:
        """Return True."""
        return True


def _hold(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Register a parameter under a dotted name, so that it is saved under that of its original."""
    *path, last = name.split(".")
    for part in path:
        if part not in dict(module.named_children()):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.register_parameter(last, parameter)
