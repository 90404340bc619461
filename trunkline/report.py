"""The report of a run: one HTML file with its curves and tables that opens anywhere."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from trunkline.charts import STYLE, line_chart
from trunkline.checkpoint import read_json, write_text
from trunkline.command import run
from trunkline.errors import StorageError

Rows = Sequence[Mapping[str, Any]]
MAX_ROWS = 200


class Panel(NamedTuple):
    """Metrics that belong in one picture: those whose whole name matches `pattern`."""

    title: str
    pattern: str
    percent: bool = False


PANELS = (
    Panel("Loss", r"(\w*_)?loss"),
    Panel("Loss when evaluated", r"evaluate/.*loss.*"),
    Panel("Accuracy", r"(\w*_)?accuracy", percent=True),
    Panel("Accuracy when evaluated", r"evaluate/(?!probe).*accuracy.*", percent=True),
    Panel("Probe accuracy", r"(evaluate/)?probe.*", percent=True),
    Panel("Accuracy by label slot", r"\w*accuracy_slot\d+", percent=True),
    Panel("Codebook coverage", r".*coverage.*", percent=True),
    Panel("Codebook entropy", r".*entropy.*"),
    Panel("Masking", r"\w*_fraction", percent=True),
    Panel("Gradient norm", r"grad(ient)?_norm"),
    Panel("Learning rate", r"lr|learning_rate"),
    Panel("Audio seen (hours)", r"audio_hours"),
    Panel("Speed (seconds of audio per second)", r"audio_seconds_per_second"),
    Panel("Waiting for data (share of the time)", r"waiting_for_data", percent=True),
    Panel("Memory (GB)", r"rss_gb"),
)
NOT_DRAWN = {"step", "epoch"}

_PAGE_STYLE = """
body { background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif;
  max-width: 1500px; margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; } h3 { font-size: 1em; margin: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(380px, 1fr)); gap: 1.6em; }
.note { font-size: 12px; }
table { border-collapse: collapse; font-size: 13px; }
td, th { border-bottom: 1px solid var(--faint); padding: 3px 14px 3px 0; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
"""


def write_report(
    folder: str | os.PathLike[str],
    *,
    title: str | None = None,
    tables: Mapping[str, Rows] | None = None,
) -> Path:
    """Write `report.html` into a run folder, or into a folder of runs, and return its path.

    Args:
        folder: holds `metrics.jsonl` and `run.json`, or folders that do (one section each).
        title: of the page; the folder's name if not given.
        tables: more tables, {title: rows}, shown first.

    Raises:
        StorageError: there is no run, or the file cannot be written.
        CheckpointError: `run.json` is damaged.
    """
    folder = Path(os.path.abspath(folder))
    runs = _runs(folder)
    body = [f"<h1>{escape(title or folder.name)}</h1>"]
    body += [_table(name, rows) for name, rows in (tables or {}).items()]
    for path in runs:
        if path != folder:
            body.append(f"<h2>{escape(str(path.relative_to(folder)))}</h2>")
        body += _section(path)
    _write_page(folder / "report.html", title or folder.name, body)
    return folder / "report.html"


def write_tables(path: str | os.PathLike[str], title: str, tables: Mapping[str, Rows]) -> None:
    """Write one HTML page of tables, {title: rows}, with no run behind it.

    Raises:
        StorageError: the file cannot be written.
    """
    write_page(path, title, tables=tables)


class Figure(NamedTuple):
    """A picture for `write_page`: its title and what `trunkline.charts` drew."""

    title: str
    chart: str


def write_page(
    path: str | os.PathLike[str],
    title: str,
    *,
    notes: Sequence[str] = (),
    tables: Mapping[str, Rows],
    figures: Sequence[Figure] = (),
) -> None:
    """Write one self-contained HTML page: notes, tables {title: rows}, and pictures after the first table.

    Raises:
        StorageError: the file cannot be written.
    """
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(note)}</p>" for note in notes)]
    shown = [_table(name, rows, limit=len(rows)) for name, rows in tables.items()]
    drawn = [
        f"<figure style='margin: 0'><h3>{escape(figure.title)}</h3>{figure.chart}</figure>"
        for figure in figures
    ]
    grid = [f'<div class="charts">{"".join(drawn)}</div>'] if drawn else []
    _write_page(Path(path), title, [*body, *shown[:1], *grid, *shown[1:]])


def _write_page(path: Path, title: str, body: Sequence[str]) -> None:
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{_PAGE_STYLE}</style></head>"
    )
    write_text(path, f"{head}<body>{''.join(body)}</body></html>\n")


def _runs(folder: Path) -> list[Path]:
    for pattern in ("metrics.jsonl", "*/metrics.jsonl", "*/*/metrics.jsonl"):
        if found := sorted(path.parent for path in folder.glob(pattern)):
            return found
    raise StorageError(f"{folder} holds no metrics.jsonl; give the folder of a run.")


def _section(folder: Path) -> list[str]:
    records, damaged = _read_lines(folder / "metrics.jsonl")
    quarantined, _ = _read_lines(folder / "quarantine.jsonl")
    about = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    settings = [{"setting": name, "value": value} for name, value in _flat(about)]
    parts = [f'<p class="note">{damaged} damaged lines of metrics.jsonl are left out.</p>'] * bool(
        damaged
    )
    parts.append(f'<div class="charts">{"".join(_figures(records))}</div>')
    if not records:
        parts.append("<p>No metrics were recorded.</p>")
    parts.append(_table("Quarantined", quarantined))
    parts.append(_table("Settings and outcome", settings, limit=len(settings)))
    return parts


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the objects of a JSONL file, and how many lines are none (a kill can cut the last)."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records, damaged = [], 0
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            damaged += 1
    return records, damaged


def _figures(records: Rows) -> Iterator[str]:
    """Yield a chart for each panel that has data, and one for each metric that no panel knows."""
    series, missing = _series(records)
    panels = list(PANELS)
    known = re.compile("|".join(f"(?:{panel.pattern})" for panel in PANELS))
    panels += [Panel(name, re.escape(name)) for name in series if not known.fullmatch(name)]
    left = dict(series)
    for panel in panels:
        lines = {name: left.pop(name) for name in list(left) if re.fullmatch(panel.pattern, name)}
        if not lines:
            continue
        gaps = [
            f"{name} was not finite at {missing[name]} steps" for name in lines if name in missing
        ]
        note = f'<p class="note">{escape("; ".join(gaps))}.</p>' if gaps else ""
        shown = {name.removeprefix("evaluate/"): line for name, line in lines.items()}
        chart = line_chart(shown, percent=panel.percent, name=panel.title)
        yield f"<figure style='margin: 0'><h3>{escape(panel.title)}</h3>{chart}{note}</figure>"


def _series(
    records: Rows,
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, int]]:
    """Return the points (step, value) of each metric, and how many of its values were not finite."""
    values: dict[str, dict[float, float]] = {}
    missing: dict[str, int] = {}
    for position, record in enumerate(records, start=1):
        step = record.get("step", position)
        for name, value in _flat(record):
            if name in NOT_DRAWN:
                continue
            if value is None or (isinstance(value, float) and not abs(value) < float("inf")):
                missing[name] = missing.get(name, 0) + 1
            elif isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(name, {})[step] = value  # a repeated step: the last record holds
    return {name: sorted(points.items()) for name, points in values.items()}, missing


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


def _table(title: str, rows: Rows, *, limit: int = MAX_ROWS) -> str:
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    header = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = [
        "<tr>" + "".join(f"<td>{_cell(row.get(name))}</td>" for name in names) + "</tr>"
        for row in rows[:limit]
    ]
    more = f'<p class="note">and {len(rows) - limit} more</p>' if len(rows) > limit else ""
    return f"<h2>{escape(title)}</h2><table><tr>{header}</tr>{''.join(lines)}</table>{more}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of a run that has ended or still goes on."""
    parser = argparse.ArgumentParser(
        prog="python -m trunkline.report", description="Write report.html into a run folder."
    )
    parser.add_argument("folder", help="run folder, or a folder of runs")
    return run(lambda arguments: {"report": str(write_report(arguments.folder))}, parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
