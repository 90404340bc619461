"""Heads by name: our own, those of installed packages (entry points `trunkline.heads`), and ``module:Class``."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TypeVar

from heads.head import Head, HeadOptions
from trunkline.errors import ConfigError, UsageError, nearest

GROUP = "trunkline.heads"
"""Entry points of this group name heads of other packages: ``name = "package.module:Class"``."""

# Our own heads by name -> the module that registers them, imported when the name is asked for.
OWN: dict[str, str] = {
    "aed": "heads.aed",
    "ctc": "heads.ctc",
    "intent": "heads.classification",
    "phones": "heads.frame",
    "regression": "heads.regression",
    "sentiment": "heads.classification",
    "speaker": "heads.speaker",
    "vad": "heads.frame",
}

_classes: dict[str, type[Head]] = {}
H = TypeVar("H", bound=type[Head])


def register_head(name: str) -> Callable[[H], H]:
    """Return a class decorator that makes a head known as `name`, which becomes its `kind`.

    Raises:
        UsageError: the name is taken (both classes are named), is no identifier, or the class is no head with a frozen
            dataclass `Options`.
    """

    def register(cls: H) -> H:
        _check(name, cls)
        taken = _classes.get(name)
        if taken is not None and _path(taken) != _path(cls):
            raise UsageError(
                f"Two heads are called {name!r}: {_path(taken)} and {_path(cls)}; rename one of them."
            )
        cls.kind = name
        _classes[name] = cls
        return cls

    return register


def available_heads() -> list[str]:
    """Return the names of all heads that can be asked for: our own, those registered so far, and entry points."""
    return sorted({*OWN, *_classes, *(point.name for point in entry_points(group=GROUP))})


def find_head(name: str) -> type[Head]:
    """Return the class of a head by its name, or by ``module:Class``, which is imported.

    Raises:
        ConfigError: there is no such head (the nearest name is given) or no such class.
        UsageError: a name that two heads claim.
    """
    if ":" in name:
        return _imported(name)
    points = list(entry_points(group=GROUP, name=name))
    if name in OWN and name not in _classes:
        importlib.import_module(OWN[name])
    for point in points:
        theirs = _imported(point.value)
        if theirs.kind != name:
            raise UsageError(
                f"The entry point {name!r} loads {_path(theirs)}, which registers itself as {theirs.kind!r}; the two "
                "names must be the same."
            )
    if name not in _classes:
        raise ConfigError(
            f"There is no head {name!r}.{nearest(name, available_heads())} A head of your own is named by "
            "module:Class, such as examples.custom_head:PromiseHead."
        )
    return _classes[name]


def _imported(path: str) -> type[Head]:
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The head {path!r} cannot be imported: {error}. Run from the folder that holds the module, or put that "
            "folder on PYTHONPATH."
        ) from error
    cls = getattr(module, class_name, None)
    if cls is None:
        names = [x for x, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(f"{module_name} has no class {class_name!r}.{nearest(class_name, names)}")
    if not (isinstance(cls, type) and issubclass(cls, Head)):
        raise ConfigError(f"{path} is no head: derive it from heads.Head.")
    if not cls.kind or cls.kind not in _classes:
        raise ConfigError(
            f'{path} is not registered: put @register_head("a name") above the class.'
        )
    return cls


def _check(name: str, cls: type[Head]) -> None:
    if not name.isidentifier():
        raise UsageError(
            f"{name!r} is no name for a head: letters, digits and _ only, as in a setting."
        )
    options = getattr(cls, "Options", None)
    if not (isinstance(cls, type) and issubclass(cls, Head)):
        raise UsageError(f"{cls!r} is no head: derive it from heads.Head.")
    frozen = dataclasses.is_dataclass(options) and options.__dataclass_params__.frozen  # type: ignore[attr-defined]
    if not (frozen and issubclass(options, HeadOptions)):  # type: ignore[arg-type]
        raise UsageError(
            f"{_path(cls)}.Options must be a frozen dataclass derived from heads.HeadOptions."
        )


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"
