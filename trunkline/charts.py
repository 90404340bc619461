"""Line charts as inline SVG, for pages that must open anywhere: no script, no font, no network.

Written here because a plotting library would be the heaviest dependency of the toolkit, for axes
and polylines. Colours come from the page (`STYLE`), which has a light and a dark set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 28, 12, 38
MAX_POINTS = 500
MARKED_POINTS = 25
"""Lines of at most so many points show each of them."""

_LIGHT = ("#0060a8", "#c2410c", "#117a4b", "#9b2c8a", "#8a6100", "#0d7f8c", "#b91c1c", "#555555")
_DARK = ("#5db4f5", "#ff9a5c", "#4fd394", "#ee8fdc", "#e0b83f", "#4fd3e0", "#ff8080", "#bbbbbb")
COLOURS = len(_LIGHT)


def _variables(colours: Sequence[str]) -> str:
    return " ".join(f"--line{index}: {colour};" for index, colour in enumerate(colours))


STYLE = f"""
:root {{ color-scheme: light dark; --page: #ffffff; --ink: #1b1b1b; --faint: #d9d9d9;
  {_variables(_LIGHT)} }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #16181c; --ink: #e6e6e6; --faint: #3a3f47; {_variables(_DARK)} }}
}}
svg.chart {{ width: 100%; height: auto; font: 12px system-ui, sans-serif; }}
svg.chart text {{ fill: var(--ink); }}
svg.chart .grid {{ stroke: var(--faint); stroke-width: 1; }}
svg.chart .line {{ fill: none; stroke-width: 1.8; stroke-linejoin: round; }}
.legend {{ font-size: 12px; line-height: 1.7; }}
.legend span {{ margin-right: 1em; white-space: nowrap; }}
.legend i {{ display: inline-block; width: 14px; height: 3px; margin: 0 5px 3px 0; }}
"""


def line_chart(series: Mapping[str, Points], *, percent: bool = False, name: str = "") -> str:
    """Return an SVG of lines over steps, its axes and a legend with the last value of each line.

    Args:
        series: finite points (step, value) of each line, steps rising.
        percent: label values as percentages.
        name: what is shown, for readers of the page that do not see pictures.
    """
    points = [point for line in series.values() for point in line]
    x_ticks = ticks(min(x for x, _ in points), max(x for x, _ in points), 5)
    y_ticks = ticks(min(y for _, y in points), max(y for _, y in points), 5)
    x_low, x_high = min(x_ticks[0], points[0][0]), max(x_ticks[-1], max(x for x, _ in points))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + across, 1), round(HEIGHT - BOTTOM - up, 1)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">'
    ]
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        label = number(tick, y_ticks[1] - y_ticks[0], percent)
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
    for tick in x_ticks:
        x, y = place(tick, y_low)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{y}" y2="{y + 4}"/>')
        label = number(tick, x_ticks[1] - x_ticks[0])
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{label}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">step</text>')
    for index, line in enumerate(series.values()):
        colour = f"var(--line{index % COLOURS})"
        drawn = [place(x, y) for x, y in thinned(line)]
        path = " ".join(f"{x},{y}" for x, y in drawn)
        parts.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        if len(drawn) <= MARKED_POINTS:
            parts += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in drawn]
    return "".join(parts) + "</svg>" + _legend(series, percent)


def _legend(series: Mapping[str, Points], percent: bool) -> str:
    entries = []
    for index, (name, line) in enumerate(series.items()):
        swatch = f'<i style="background: var(--line{index % COLOURS})"></i>'
        last = number(line[-1][1], abs(line[-1][1]) / 100, percent)
        entries.append(f"<span>{swatch}{escape(name)} <b>{last}</b></span>")
    return f'<div class="legend">{"".join(entries)}</div>'


def ticks(low: float, high: float, about: int) -> list[float]:
    """Return round numbers that span low to high, about so many of them and at least two."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= 0.999 * rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float, step: float, percent: bool = False) -> str:
    """Return a number with the digits that a scale of `step` needs."""
    if percent:
        value, step = 100 * value, 100 * step
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0
    size = abs(value)
    if size >= 1e6 or (0 < size < 1e-3 and digits > 3):
        text = f"{value:.3g}"
    else:
        text = f"{value:,.{digits}f}".replace(",", "\u2009")
    return text.replace("-", "\u2212") + (" %" if percent else "")


def thinned(line: Points) -> Points:
    """Return at most `MAX_POINTS` of a line: the lowest and the highest of each stretch.

    Spikes stay in the picture, as they would not if stretches were averaged.
    """
    if len(line) <= MAX_POINTS:
        return line
    size = math.ceil(len(line) / (MAX_POINTS // 2))
    kept = []
    for start in range(0, len(line), size):
        stretch = line[start : start + size]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept
