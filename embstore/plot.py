"""`python -m embstore.plot`: vectors as points on a plane, coloured by a column; a page of HTML and a PNG.

PCA is always there; UMAP where the package `umap-learn` is installed. What a plane shows of hundreds of dimensions is
little: the share of the variance that it holds is written below the plot.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from embstore.options import add_store, chosen_space
from trunkline.charts import COLOURS, STYLE
from trunkline.command import Summary, run
from trunkline.errors import DataError, DependencyError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

WIDTH, HEIGHT, MARGIN = 900, 620, 24
POINTS = 5000
OTHER = "other"
_LIGHT = [
    tuple(bytes.fromhex(code)) for code in re.findall(r"--line\d+: #(\w{6})", STYLE)[:COLOURS]
]


class Plane(NamedTuple):
    """Points (rows, 2), each with the number of its group; the groups' names, and what the axes are."""

    points: np.ndarray
    groups: np.ndarray
    names: list[str]
    about: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(_plot, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m embstore.plot",
        description="Draw the vectors of a store on a plane, coloured by a column of the table or of its calls.",
        epilog="example: python -m embstore.plot store/ --colour meta_agent --html map.html --png map.png",
    )
    add_store(parser)
    option = parser.add_argument
    option("--colour", metavar="COLUMN", help="a column of the table or of its calls")
    option("--method", default="pca", choices=("pca", "umap"))
    option(
        "--rows",
        type=int,
        default=POINTS,
        help=f"points at most, drawn at random, default {POINTS}",
    )
    option("--seed", type=int, default=0)
    option(
        "--html", type=Path, metavar="FILE", help="write a page; point at a dot to see what it is"
    )
    option("--png", type=Path, metavar="FILE", help="write a picture (needs Pillow)")
    return parser


def pca(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Return vectors (rows, dim) along their two principal directions (rows, 2), and the variance these hold."""
    from embstore.drift import principal_directions

    axes, shares = principal_directions(vectors, 2)
    points = (vectors - vectors.mean(0)) @ axes.T
    if points.shape[1] < 2:  # vectors of one number
        points = np.c_[points, np.zeros(len(points))]
    return points, float(shares.sum())


def umap(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Return vectors (rows, dim) on a plane by UMAP (McInnes et al. 2018).

    Raises:
        DependencyError: `umap-learn` is not installed.
    """
    try:
        from umap import UMAP  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DependencyError(
            "--method umap needs umap-learn: pip install 'trunkline[umap]'; or use --method pca."
        ) from error
    return np.asarray(UMAP(metric="cosine", random_state=seed).fit_transform(vectors))


def groups_of(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Return the number of each row's group, and the groups' names.

    The commonest values are groups of their own, the rest is one; numbers of many values are cut into fifths.
    """
    import pyarrow as pa

    values = column.to_pylist()
    kind = column.type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if numeric and len(set(values)) > COLOURS:
        numbers = np.array([np.nan if value is None else value for value in values], float)
        edges = np.unique(np.nanquantile(numbers, [0.2, 0.4, 0.6, 0.8]))
        groups = np.searchsorted(edges, numbers, side="right")
        groups[np.isnan(numbers)] = len(edges) + 1
        bounds = [f"{edge:g}" for edge in edges]
        names = [f"< {bounds[0]}"]
        names += [f"{low} to {high}" for low, high in zip(bounds, bounds[1:], strict=False)]
        return groups, [*names, f">= {bounds[-1]}", "not stated"]
    shown = ["not stated" if value is None else str(value) for value in values]
    common = [name for name, _ in Counter(shown).most_common()]
    if len(common) > COLOURS:
        common = [*common[: COLOURS - 1], OTHER]
    numbers_of = {name: number for number, name in enumerate(common)}
    return np.array([numbers_of.get(name, len(common) - 1) for name in shown]), common


def scaled(points: np.ndarray) -> np.ndarray:
    """Return points (rows, 2) in pixels, the second axis upwards."""
    low, high = points.min(0), points.max(0)
    share = (points - low) / np.where(high > low, high - low, 1)
    share[:, 1] = 1 - share[:, 1]
    return MARGIN + share * [WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN]


def page(plane: Plane, labels: Sequence[str], title: str) -> str:
    """Return the plot as a page of HTML; `labels` are shown where one points at a dot."""
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="var(--line{group % COLOURS})" fill-opacity="0.6">'
        f"<title>{escape(label)}</title></circle>"
        for (x, y), group, label in zip(scaled(plane.points), plane.groups, labels, strict=True)
    )
    legend = "".join(
        f'<span><i style="background: var(--line{number % COLOURS})"></i>{escape(name)}</span>'
        for number, name in enumerate(plane.names)
        if (plane.groups == number).any()
    )
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title><style>{STYLE}"
        "body { background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; margin: 2em; }"
        f"</style><h1>{escape(title)}</h1><p class='legend'>{legend}</p>"
        f"<svg class='chart' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{escape(title, quote=True)}'>"
        f"{dots}</svg><p>{escape(plane.about)}</p></html>\n"
    )


def picture(plane: Plane) -> bytes:
    """Return the plot as a PNG.

    Raises:
        DependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise DependencyError("--png needs Pillow: pip install 'trunkline[analysis]'.") from error
    import io

    image = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), "white")
    draw = ImageDraw.Draw(image, "RGBA")
    for (x, y), group in zip(2 * scaled(plane.points), plane.groups, strict=True):
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=(*_LIGHT[group % COLOURS], 150))
    shown = [number for number in range(len(plane.names)) if (plane.groups == number).any()]
    for line, number in enumerate(shown):
        draw.rectangle((16, 16 + 30 * line, 36, 36 + 30 * line), fill=_LIGHT[number % COLOURS])
        draw.text((44, 14 + 30 * line), plane.names[number][:60], fill="black", font_size=22)
    draw.text((16, 2 * HEIGHT - 36), plane.about, fill="black", font_size=22)
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def _plot(arguments: argparse.Namespace) -> Summary:
    if not (arguments.html or arguments.png):
        raise UsageError("Give --html FILE, --png FILE, or both.")
    if arguments.rows < 2:
        raise UsageError("--rows must be at least 2.")
    from embstore.sampling import sample, unit
    from embstore.store import EmbeddingStore
    from embstore.where import check_names
    from trunkline.checkpoint import write_bytes, write_text

    store = EmbeddingStore.open(arguments.store)
    space = chosen_space(store, arguments.table, arguments.space)
    vectors, rows = sample(
        store, arguments.table, space, arguments.where, limit=arguments.rows, seed=arguments.seed
    )
    if arguments.colour:
        check_names([arguments.colour], rows.column_names, f"--colour {arguments.colour}")
    if len(vectors) < 2:
        raise DataError("One point makes no plot.")
    summary: dict[str, Any] = {"points": len(rows), "method": arguments.method}
    points, about = _placed(unit(vectors), arguments, summary)
    groups, names = (
        groups_of(rows[arguments.colour])
        if arguments.colour
        else (np.zeros(len(rows), int), ["all"])
    )
    plane = Plane(points, groups, names, about)
    if arguments.html:
        title = f"{arguments.table} of {store.path.name}" + (
            f" by {arguments.colour}" if arguments.colour else ""
        )
        write_text(arguments.html, page(plane, _labels(rows, arguments.colour), title))
        summary["html"] = str(arguments.html)
    if arguments.png:
        write_bytes(arguments.png, picture(plane))
        summary["png"] = str(arguments.png)
    return summary


def _placed(
    vectors: np.ndarray, arguments: argparse.Namespace, summary: dict[str, Any]
) -> tuple[np.ndarray, str]:
    if arguments.method == "umap":
        return umap(vectors, arguments.seed), f"UMAP of {len(vectors)} vectors, cosine distance"
    points, share = pca(vectors)
    summary["variance_shown"] = share
    return points, f"PCA of {len(vectors)} vectors; this plane holds {share:.0%} of their variance"


def _labels(rows: pa.Table, colour: str | None) -> list[str]:
    from embstore.cluster import place_of

    values = rows[colour].to_pylist() if colour else [None] * len(rows)
    return [
        place_of(rows, number) + (f", {colour} {value}" if colour else "")
        for number, value in enumerate(values)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
