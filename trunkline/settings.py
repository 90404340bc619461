"""Settings: frozen dataclasses, filled from a YAML file and ``key=value`` overrides.

Types are checked by jsonargparse. Nothing in a file can name a class or run code. Every mistake is a `ConfigError`
that says where it stands (file and line, or the override), what is wrong and, for a key, what was probably meant.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from trunkline.errors import ConfigError, nearest

T = TypeVar("T")
Origins = dict[str, str]  # dotted key -> "file.yaml:7" or "override 'key=value'"


def load_settings(cls: type[T], path: str | Path | None = None, overrides: Sequence[str] = ()) -> T:
    """Return `cls` (a dataclass, may be nested) from its defaults, then the YAML file, then ``a.b=value`` overrides.

    Raises:
        ConfigError: a key is unknown, missing or given twice, a value has another type, or `cls` refuses it.
    """
    values: dict[str, Any] = {}
    origins: Origins = {"": str(path) if path is not None else "the command line"}
    if path is not None:
        values = _read_yaml(Path(path), origins)
    for override in overrides:
        _apply(override, values, origins)
    return _build(cls, values, "", origins, None)


def read_settings(cls: type[T], values: Mapping[str, Any], where: str = "the settings") -> T:
    """Return `cls` from plain data, such as what `settings_to_dict` gave; `where` stands before every complaint.

    Raises:
        ConfigError: as `load_settings`.
    """
    return _build(cls, values, "", {"": where}, None)


def settings_to_dict(settings: Any) -> dict[str, Any]:
    """Return a settings dataclass as plain dictionaries, lists, strings and numbers (ready for JSON and YAML)."""
    return {
        field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)
    }


def settings_to_yaml(settings: Any) -> str:
    """Return a settings dataclass as the YAML text that `load_settings` reads back."""
    import yaml

    return yaml.safe_dump(settings_to_dict(settings), sort_keys=False, allow_unicode=True)


def changed_settings(old: Any, new: Any, path: str = "") -> list[str]:
    """Return the names, with dots, of settings that differ between two trees, as JSON would keep them."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [
            name
            for key in keys
            for name in changed_settings(
                old.get(key), new.get(key), f"{path}.{key}" if path else key
            )
        ]
    return [] if json.loads(json.dumps(old)) == json.loads(json.dumps(new)) else [path]


def describe_settings(cls: type) -> str:
    """Return one line per setting, ``key: type = default``, for the help text of a command."""
    return "".join(f"  {line}\n" for line in _describe_fields(cls, ""))


def _read_yaml(path: Path, origins: Origins) -> dict[str, Any]:
    import yaml

    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        _locate(node, "", path, origins)
        values = loader.construct_document(node) if node is not None else {}
    except OSError as error:
        raise ConfigError(f"Cannot read the settings file {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a UTF-8 text file: {error.reason}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        raise ConfigError(
            f"{where}: not valid YAML: {getattr(error, 'problem', error)}."
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no 'key: value' settings but a {type(values).__name__}.")
    return values


def _locate(node: Any, prefix: str, path: Path, origins: Origins) -> None:
    """Note the line of every key below a YAML node; a key given twice is refused (YAML would keep the last)."""
    if node is None or node.id == "scalar":
        return
    seen: set[str] = set()
    pairs = node.value if node.id == "mapping" else enumerate(node.value)
    for key, child in pairs:
        name = str(key) if isinstance(key, int) else str(key.value)
        where = f"{path}:{(child if isinstance(key, int) else key).start_mark.line + 1}"
        if name in seen:
            raise ConfigError(f"{where}: {prefix}{name} is given twice; keep one.")
        seen.add(name)
        origins[f"{prefix}{name}"] = where
        _locate(child, f"{prefix}{name}.", path, origins)


def _apply(override: str, values: dict[str, Any], origins: Origins) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{override!r} is not a setting; write key=value, such as seed=1.")
    *parents, last = key.split(".")
    for name in parents:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    values[last] = text
    for below in [name for name in origins if name.startswith(f"{key}.")]:
        del origins[below]
    origins[key] = f"override {override!r}"


def _build(cls: type[T], values: Mapping[str, Any], key: str, origins: Origins, base: Any) -> T:
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    given: dict[str, Any] = {}
    for name, value in values.items():
        full = f"{key}.{name}" if key else str(name)
        if name not in fields:
            raise ConfigError(
                f"{_where(full, origins)}: unknown setting {full!r}.{nearest(str(name), fields)}"
            )
        default = getattr(base, name) if base is not None else _default(fields[name])
        given[name] = _read(hints[name], value, full, origins, default)
    if base is not None:
        given = {name: getattr(base, name) for name in fields} | given
    missing = [name for name, field in fields.items() if name not in given and _required(field)]
    if missing:
        full = ", ".join(f"{key}.{name}" if key else name for name in missing)
        raise ConfigError(
            f"{_where(key, origins)}: no value for {full}; set it in the file or as key=value."
        )
    try:
        return cls(**given)
    except ValueError as error:
        subject = str(error).split(" ")[0].rstrip(":,").strip("'\"`")
        full = f"{key}.{subject}".strip(".") if subject in given else key
        raise ConfigError(f"{_where(full, origins)}: {error}") from error


def _read(hint: Any, value: Any, key: str, origins: Origins, default: Any) -> Any:
    hint = _listing_in(hint, value, key, origins) or hint
    nested = _dataclass_in(hint)
    if nested is not None and isinstance(value, str):
        value = _read_text(value, key, origins)
    if nested is not None and isinstance(value, Mapping):
        return _build(nested, value, key, origins, default if isinstance(default, nested) else None)
    element = next((arg for arg in typing.get_args(hint) if dataclasses.is_dataclass(arg)), None)
    if (
        typing.get_origin(hint) in (tuple, list)
        and element is not None
        and isinstance(value, Sequence | str)
    ):
        items = _read_text(value, key, origins) if isinstance(value, str) else value
        pairs = enumerate(items)
        return typing.get_origin(hint)(
            _read(element, x, f"{key}.{i}", origins, None) for i, x in pairs
        )
    if typing.get_origin(hint) is dict and element is not None and isinstance(value, str):
        value = _read_text(value, key, origins)
    if typing.get_origin(hint) is dict and element is not None and isinstance(value, Mapping):
        return {
            str(x): _read(element, item, f"{key}.{x}", origins, None) for x, item in value.items()
        }
    if dataclasses.is_dataclass(hint):
        raise ConfigError(
            f"{_where(key, origins)}: {key} holds settings of its own ({key}.name=value), not {value!r}."
        )
    if hint == dict[str, Any]:
        return _read_free(value, key, origins)
    return _convert(hint, value, key, origins)


def _read_free(value: Any, key: str, origins: Origins) -> dict[str, Any]:
    """Return settings whose names are not known here; the text of an override becomes a value."""
    if isinstance(value, str):
        value = _read_text(value, key, origins)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{_where(key, origins)}: {key} holds settings of its own ({key}.name=value), not {value!r}."
        )
    values = {}
    for name, item in value.items():
        full = f"{key}.{name}"
        if isinstance(item, Mapping):
            item = _read_free(item, full, origins)
        elif isinstance(item, str) and _where(full, origins).startswith("override "):
            item = _read_text(item, full, origins)
        values[str(name)] = item
    return values


def _read_text(text: str, key: str, origins: Origins) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{_where(key, origins)}: {text!r} is not valid YAML for {key}."
        ) from error


def _convert(hint: Any, value: Any, key: str, origins: Origins) -> Any:
    import argparse

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_object({"value": value}).value
    except argparse.ArgumentError as error:
        raise ConfigError(
            f"{_where(key, origins)}: {key} must be {_type_name(hint)}, not {value!r}."
        ) from error


def _listing_in(hint: Any, value: Any, key: str, origins: Origins) -> Any:
    """Return the member of the union `hint` that lists dataclasses, if `value` is a list or the text of one."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return None
    for member in typing.get_args(hint):
        elements = typing.get_args(member)
        if typing.get_origin(member) in (tuple, list) and dataclasses.is_dataclass(elements[0]):
            listed = value
            if isinstance(value, str) and value.lstrip().startswith("["):
                listed = _read_text(value, key, origins)
            return member if isinstance(listed, list | tuple) else None
    return None


def _dataclass_in(hint: Any) -> type | None:
    """Return the dataclass that `hint` is, or that one member of the union `hint` is."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = typing.get_args(hint) if is_union else (hint,)
    return next(
        (
            member
            for member in members
            if isinstance(member, type) and dataclasses.is_dataclass(member)
        ),
        None,
    )


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _where(key: str, origins: Origins) -> str:
    while key and key not in origins:
        key = key.rpartition(".")[0]
    return origins[key]


def _type_name(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, typing.get_args(hint)))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type_name, typing.get_args(hint)))
    if hint is type(None):
        return "null"
    return hint.__name__ if origin is None and isinstance(hint, type) else str(hint)


def _describe_fields(cls: type, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _describe_fields(
                typing.cast(type, hints[field.name]), f"{prefix}{field.name}."
            )
        else:
            default = "(required)" if _required(field) else f"= {_plain(_default(field))}"
            yield f"{prefix}{field.name}: {_type_name(hints[field.name])} {default}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return settings_to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
