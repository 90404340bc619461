"""A page of what was found, with a snippet of each recording to listen to; one file that opens anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa
import soundfile

from trunkline import audio
from trunkline.charts import STYLE
from trunkline.checkpoint import write_text
from trunkline.errors import TrunklineError

SNIPPET_SECONDS = 10.0
SNIPPET_RATE = 8000
"""Hz; a snippet takes 16 kB a second, and a third more on the page."""

PAGE_STYLE = """
body { background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif;
  max-width: 1300px; margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.4em; } .note { font-size: 12px; }
table { border-collapse: collapse; font-size: 13px; }
td, th { border-bottom: 1px solid var(--faint); padding: 4px 14px 4px 0; text-align: left;
  vertical-align: middle; overflow-wrap: anywhere; }
audio { height: 32px; width: 260px; }
"""


def write_page(rows: pa.Table, names: Sequence[str], path: Path, *, title: str) -> None:
    """Write rows as a page of HTML.

    Args:
        rows: with the columns of `calls`, see `embstore.joined.with_calls`; `file` tells where the recording is.
        names: columns to show.
        path: of the page.
        title: its heading.

    Raises:
        StorageError: the page cannot be written.
    """
    header = "".join(f"<th>{escape(name)}</th>" for name in (*names, "listen"))
    lines = []
    for row in rows.to_pylist():
        cells = "".join(f"<td>{_cell(row[name])}</td>" for name in names)
        lines.append(f"<tr>{cells}<td>{_snippet(row)}</td></tr>")
    write_text(
        path,
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{STYLE}{PAGE_STYLE}</style><h1>{escape(title)}</h1>"
        f"<table><tr>{header}</tr>{''.join(lines)}</table>"
        f"<p class='note'>Snippets are the first {SNIPPET_SECONDS:g} s at most, at {SNIPPET_RATE} Hz. "
        "The page holds recordings of calls: treat it as you treat those.</p></html>\n",
    )


def _snippet(row: Mapping[str, Any]) -> str:
    """Return a player of a row's recording, or why there is none."""
    if row.get("file") is None:
        return "the store does not say where the recording is"
    if not Path(row["file"]).is_file():
        return "recording not found"
    start, end = _stretch(row)
    try:
        waveform = audio.read(
            row["file"], channel=_channel(row), start=start, sample_rate=SNIPPET_RATE,
            end=min(end, start + SNIPPET_SECONDS) if end > start else None,
        )  # fmt: skip
    except TrunklineError as error:
        return escape(str(error))
    data = io.BytesIO()
    whole = waveform[: round(SNIPPET_SECONDS * SNIPPET_RATE)]
    soundfile.write(data, whole, SNIPPET_RATE, format="WAV", subtype="PCM_16")
    text = base64.b64encode(data.getvalue()).decode()
    return f"<audio controls preload='none' src='data:audio/wav;base64,{text}'></audio>"


def _stretch(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return where a frame, segment or cut lies in its recording, in seconds."""
    if "t_ms" in row:
        return row["t_ms"] / 1000, row["t_ms"] / 1000 + 1.0
    start = row["start_ms"] / 1000
    return start, row["end_ms"] / 1000 if "end_ms" in row else start + row["duration_ms"] / 1000


def _channel(row: Mapping[str, Any]) -> int:
    # A recording of one channel may be stated to be the customer's.
    return row["channel"] if audio.info(row["file"]).channels > 1 else 0


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else escape(str(value))
