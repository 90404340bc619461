"""What every command line shares: common options, one-line errors, exit status, the summary at the end."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trunkline import log
from trunkline.errors import ConfigError, TrunklineError, UsageError

Summary = dict[str, Any]


def run(
    function: Callable[[argparse.Namespace], Summary | None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse `argv`, call `function` and return the exit status: 0, 1 (failed), 2 (asked wrongly), 130 (Ctrl-C).

    `function` gets the parsed arguments (with ``debug``, ``json`` and ``quiet``) and may return a summary: a dictionary
    that goes to stdout as a table or, with ``--json``, as JSON. In it ``exit_status`` (int) is not printed but
    becomes the exit status, and ``tables`` ({title: [row, ...]}) are printed below the rest.
    """
    arguments = _parse(parser, argv)
    log.setup(debug=arguments.debug, quiet=arguments.quiet)
    try:
        summary = dict(function(arguments) or {})
        status = int(summary.pop("exit_status", 0))
        if summary and os.environ.get("RANK", "0") == "0":
            sys.stdout.write(_to_json(summary) if arguments.json else format_summary(summary))
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (such as `head`) has gone; without this Python complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001  (the outermost frame: a user gets a sentence, --debug the traceback)
        return _report(error, arguments.debug)


def _report(error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    if isinstance(error, TrunklineError):
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError | ConfigError) else 1
    advice = "" if debug else " (run again with --debug for the traceback)"
    print(f"error: {type(error).__name__}: {error}{advice}", file=sys.stderr)
    return 1


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    subcommands = list(_subparsers(parser))
    for each in [parser, *subcommands]:
        _add_common_options(each)
    # `config.yaml --json key=value` needs intermixed parsing, which argparse lacks for parsers with subcommands.
    arguments = parser.parse_args(argv) if subcommands else parser.parse_intermixed_args(argv)
    for name in ("debug", "json", "quiet"):
        setattr(arguments, name, getattr(arguments, name, False))
    return arguments


def _subparsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:  # noqa: SLF001  (argparse has no public way to list subcommands)
        if isinstance(action.choices, Mapping):
            for child in action.choices.values():
                yield child
                yield from _subparsers(child)


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("common options")
    # Suppressed defaults: a subcommand's default would overwrite what stood before the subcommand.
    switch: dict[str, Any] = {"action": "store_true", "default": argparse.SUPPRESS}
    group.add_argument("--json", help="print the summary as JSON", **switch)
    group.add_argument("--quiet", help="only warnings, no progress", **switch)
    group.add_argument("--debug", help="more messages, and tracebacks", **switch)


def format_summary(summary: Mapping[str, Any]) -> str:
    """Return a summary as aligned text: one ``name  value`` a line, then each of its ``tables``."""
    tables = summary.get("tables", {})
    rows = [
        [name, _cell(value)] for name, value in _flatten(summary) if not name.startswith("tables.")
    ]
    blocks = [_align(rows)] if rows else []
    for title, records in tables.items():
        header = list(dict.fromkeys(name for record in records for name in record))
        cells = [header, *([_cell(record.get(name)) for name in header] for record in records)]
        blocks.append(f"{title}\n{_align(cells)}" if records else f"{title}\n(none)\n")
    return "\n".join(blocks)


def _flatten(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in summary.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _align(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _cell(value: Any) -> str:
    value = _plain(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "-"
    return str(value)


def _plain(value: Any) -> Any:
    """Return `value` in JSON's own types; numbers that JSON cannot hold (NaN, infinity) become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def _to_json(summary: Summary) -> str:
    return json.dumps(_plain(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
