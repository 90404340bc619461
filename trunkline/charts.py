"""Charts as inline SVG, for pages that must open anywhere: no script, no font, no network.

Written here because a plotting library would be the heaviest dependency of the toolkit, for axes, polylines, bars and
squares. Colours come from the page (`STYLE`), which has a light and a dark set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from statistics import NormalDist
from typing import NamedTuple

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
svg.chart .whisker {{ stroke: var(--ink); stroke-width: 1.2; }}
svg.chart .ideal {{ stroke: var(--ink); stroke-width: 1; stroke-dasharray: 4 4; opacity: 0.6; }}
svg.chart .line {{ fill: none; stroke-width: 1.8; stroke-linejoin: round; }}
.legend {{ font-size: 12px; line-height: 1.7; }}
.legend span {{ margin-right: 1em; white-space: nowrap; }}
.legend i {{ display: inline-block; width: 14px; height: 3px; margin: 0 5px 3px 0; }}
"""


class Axis(NamedTuple):
    """One side of a chart: its range, the marks (value, text) within, and what is measured along it."""

    low: float
    high: float
    marks: Sequence[tuple[float, str]]
    name: str = ""


class Bar(NamedTuple):
    """A bar with its 95 % interval; without one `low` and `high` are None."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None


def line_chart(
    series: Mapping[str, Points],
    *,
    percent: bool = False,
    name: str = "",
    x_name: str = "step",
    x_percent: bool = False,
    ideal: bool = False,
) -> str:
    """Return an SVG of lines over steps, its axes and a legend with the last value of each line.

    Args:
        series: finite points (step, value) of each line, steps rising.
        percent: label values as percentages.
        name: what is shown, for readers of the page that do not see pictures.
        x_name: what is measured along the page.
        x_percent: label steps as percentages.
        ideal: also draw the line on which both are equal.
    """
    points = [point for line in series.values() for point in line]
    x_ticks = ticks(min(x for x, _ in points), max(x for x, _ in points), 5)
    y_ticks = ticks(min(y for _, y in points), max(y for _, y in points), 5)
    x_axis = Axis(
        min(x_ticks[0], points[0][0]),
        max(x_ticks[-1], max(x for x, _ in points)),
        [(tick, number(tick, x_ticks[1] - x_ticks[0], x_percent)) for tick in x_ticks],
        x_name,
    )
    y_axis = Axis(
        y_ticks[0],
        y_ticks[-1],
        [(tick, number(tick, y_ticks[1] - y_ticks[0], percent)) for tick in y_ticks],
    )
    parts, place = _axes(x_axis, y_axis, name)
    if ideal:
        low, high = max(x_axis.low, y_axis.low), min(x_axis.high, y_axis.high)
        parts.append(_segment(place(low, low), place(high, high), "ideal"))
    parts += _lines(list(series.values()), place)
    last = {line_name: line[-1][1] for line_name, line in series.items()}
    shown = {key: number(value, abs(value) / 100, percent) for key, value in last.items()}
    return "".join(parts) + "</svg>" + _legend(shown)


def det_chart(series: Mapping[str, Points], *, name: str = "") -> str:
    """Return an SVG of detection error trade-off curves: misses over false alarms, both on a normal-deviate scale.

    Args:
        series: points (false alarm rate, miss rate) of each system; rates of 0 and 1 lie beyond the picture.
        name: what is shown.

    Source: Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
    """
    deviate = NormalDist().inv_cdf
    low, high = 0.001, 0.8
    rates = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
    marks = [(deviate(rate), f"{100 * rate:g} %") for rate in rates]
    parts, place = _axes(
        Axis(deviate(low), deviate(high), marks, "false alarms"),
        Axis(deviate(low), deviate(high), marks),
        name,
    )
    parts.append(
        _segment(place(deviate(low), deviate(low)), place(deviate(high), deviate(high)), "ideal")
    )
    lines = [
        sorted(
            (deviate(min(max(x, low), high)), deviate(min(max(y, low), high))) for x, y in points
        )
        for points in series.values()
    ]
    parts += _lines(lines, place)
    return "".join(parts) + "</svg>" + _legend(dict.fromkeys(series, ""))


def bar_chart(
    bars: Sequence[Bar], *, percent: bool = False, name: str = "", x_name: str = ""
) -> str:
    """Return an SVG of bars from 0 up, each with its interval as a whisker."""
    top = max([bar.high if bar.high is not None else bar.value for bar in bars])
    y_ticks = ticks(0.0, top, 5)
    y_axis = Axis(
        0.0,
        y_ticks[-1],
        [(tick, number(tick, y_ticks[1] - y_ticks[0], percent)) for tick in y_ticks],
    )
    marks = [(index + 0.5, bar.label) for index, bar in enumerate(bars)]
    parts, place = _axes(Axis(0.0, float(len(bars)), marks, x_name), y_axis, name)
    for index, bar in enumerate(bars):
        left, y = place(index + 0.2, bar.value)
        right, bottom = place(index + 0.8, 0.0)
        parts.append(
            f'<rect x="{left}" y="{y}" width="{right - left:.1f}" height="{bottom - y:.1f}" fill="var(--line0)" '
            f'opacity="0.75"><title>{escape(bar.label)}: {number(bar.value, bar.value / 100, percent)}</title></rect>'
        )
        if bar.low is not None and bar.high is not None:
            middle = index + 0.5
            parts.append(_segment(place(middle, bar.low), place(middle, bar.high), "whisker"))
    return "".join(parts) + "</svg>"


def heat_map(
    matrix: Sequence[Sequence[int]], names: Sequence[str], *, name: str = "", across: str, down: str
) -> str:
    """Return an SVG of counts (down, across) as squares, darker for a larger share of their row."""
    size = min(46, max(14, 420 // len(names)))
    longest = max(map(len, names))
    left, top = 7 * min(longest, 18) + 24, 7 * min(longest, 18) + 24
    width, height = left + size * len(names) + 10, top + size * len(names) + 10
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" style="max-width: {width}px" role="img" '
        f'aria-label="{escape(name)}">',
        f'<text x="{left}" y="12">{escape(across)} \u2192, {escape(down)} \u2193</text>',
    ]
    for index, label in enumerate(names):
        middle = size * index + size / 2
        short = escape(label if len(label) <= 18 else label[:17] + "\u2026")
        parts.append(
            f'<text x="{left - 6}" y="{top + middle + 4}" text-anchor="end">{short}</text>'
        )
        turned = f"translate({left + middle + 4} {top - 6}) rotate(-90)"
        parts.append(f'<text transform="{turned}">{short}</text>')
    for row, counts in enumerate(matrix):
        total = sum(counts) or 1
        for column, count in enumerate(counts):
            x, y = left + size * column, top + size * row
            hint = f"{names[row]} \u2192 {names[column]}: {count}"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{size - 1}" height="{size - 1}" stroke="var(--faint)" '
                f'fill="var(--line{0 if row == column else 1})" fill-opacity="{0.7 * count / total:.3f}">'
                f"<title>{escape(hint)}</title></rect>"
            )
            if count and size >= 24:
                parts.append(
                    f'<text x="{x + size / 2}" y="{y + size / 2 + 4}" text-anchor="middle">{count}</text>'
                )
    return "".join(parts) + "</svg>"


Place = Callable[[float, float], tuple[float, float]]


def _axes(x_axis: Axis, y_axis: Axis, name: str) -> tuple[list[str], Place]:
    """Return the beginning of a chart and where a point lies in it."""

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_axis.low) / (x_axis.high - x_axis.low) * (WIDTH - LEFT - RIGHT)
        up = (y - y_axis.low) / (y_axis.high - y_axis.low) * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + across, 1), round(HEIGHT - BOTTOM - up, 1)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">'
    ]
    for value, label in y_axis.marks:
        _, y = place(x_axis.low, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        text = escape(label)
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>')
    for value, label in x_axis.marks:
        x, y = place(value, y_axis.low)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{y}" y2="{y + 4}"/>')
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{escape(label)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    title = escape(x_axis.name)
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{title}</text>')
    return parts, place


def _lines(lines: Sequence[Points], place: Place) -> list[str]:
    parts = []
    for index, line in enumerate(lines):
        colour = f"var(--line{index % COLOURS})"
        drawn = [place(x, y) for x, y in thinned(line)]
        path = " ".join(f"{x},{y}" for x, y in drawn)
        parts.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        if len(drawn) <= MARKED_POINTS:
            parts += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in drawn]
    return parts


def _segment(start: tuple[float, float], end: tuple[float, float], style: str) -> str:
    return f'<line class="{style}" x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}"/>'


def _legend(entries: Mapping[str, str]) -> str:
    parts = []
    for index, (name, value) in enumerate(entries.items()):
        swatch = f'<i style="background: var(--line{index % COLOURS})"></i>'
        parts.append(f"<span>{swatch}{escape(name)} <b>{value}</b></span>")
    return f'<div class="legend">{"".join(parts)}</div>'


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
