"""Draw one edge of a cell before and after, as an SVG that reads on light and on dark pages.

python docs/edge_figure.py docs/_static
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

ROW, BOX, GAP, TALL, TOP = 46, 104, 26, 30, 52
"""Pixels: from row to row, a box and the gap behind it, a box's height, what lies above the first row."""

PLAIN, SHARED, GONE, INK = "#5f6b7a", "#1f6feb", "none", "#8b949e"
"""Colours of a box, of one that candidates share, of one that is left out, of lines and text; on either page."""


@dataclass(frozen=True)
class Way:
    """One path from the edge's input to its sum: boxes by their column, and the weight at its end."""

    boxes: tuple[tuple[int, str, str], ...]
    weight: str


@dataclass(frozen=True)
class Side:
    """The edge at one time: its title, its paths from top to bottom, and how many columns they have."""

    title: str
    paths: tuple[Way, ...]
    columns: int


@dataclass(frozen=True)
class Figure:
    """A picture: a name, what a screen reader says, and the edge before and after."""

    name: str
    description: str
    sides: tuple[Side, Side]


def _path(weight: str, *boxes: str, colour: str = PLAIN, first: int = 0) -> Way:
    return Way(tuple((first + column, text, colour) for column, text in enumerate(boxes)), weight)


EDGE = Figure(
    "edge",
    "An edge of a cell with five candidate operations. Before: a zero, a skip connection, ReLU, 1x1 convolution and "
    "norm, ReLU, 3x3 convolution and norm, and an average pooling, each weighted and summed. After: the zero is gone, "
    "and the two convolutions are one: one ReLU, one 3x3 convolution with a weighted sum of both kernels, one norm.",
    (
        Side(
            "before: five candidate operations",
            (
                _path("w₀", "none", colour=GONE, first=1),
                _path("w₁", "skip", first=1),
                _path("w₂", "ReLU", "conv 1x1", "norm"),
                _path("w₃", "ReLU", "conv 3x3", "norm"),
                _path("w₄", "avg pool", first=1),
            ),
            3,
        ),
        Side(
            "after: the same edge",
            (
                _path("w₁", "skip", first=1),
                _path("w₂+w₃", "ReLU", "p₂K₂+p₃K₃", "norm", colour=SHARED),
                _path("w₄", "avg pool", first=1),
            ),
            3,
        ),
    ),
)

FLOATING = Figure(
    "floating",
    "Two candidates of unlike depth: a dilated convolution of one stage and a separable convolution of two. Before: "
    "three stages. After: the first stage of the separable convolution and the stage of the dilated one are one stage, "
    "whose result is summed as it is and goes through the second stage.",
    (
        Side(
            "before: a dil_conv and a sep_conv",
            (_path("w₁", "stage d"), _path("w₂", "stage s₁", "stage s₂")),
            2,
        ),
        Side(
            "after: their first stages are one",
            (_path("w₁", "one stage", colour=SHARED), Way(((0, "", SHARED), (1, "stage s₂", PLAIN)), "w₂")),
            2,
        ),
    ),
)


def draw(figure: Figure) -> str:
    """Return the figure as the text of an SVG file."""
    rows = max(len(side.paths) for side in figure.sides)
    widths = [_width(side) for side in figure.sides]
    width, height = sum(widths) + 10, TOP + rows * ROW + 6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-labelledby="title-{figure.name}" font-family="system-ui, sans-serif" font-size="14">',
        f'<title id="title-{figure.name}">{escape(figure.description)}</title>',
    ]
    left = 5
    for side, its_width in zip(figure.sides, widths, strict=True):
        parts += _draw_side(side, left, rows)
        left += its_width
    return "\n".join([*parts, "</svg>", ""])


def _width(side: Side) -> int:
    return 40 + side.columns * (BOX + GAP) + 130


def _draw_side(side: Side, left: int, rows: int) -> Iterator[str]:
    middle = TOP + rows * ROW / 2
    start, end = left + 24, left + 40 + side.columns * (BOX + GAP) + 80
    yield _text(left + 5, 20, side.title, anchor="start", weight="bold")
    yield _text(start - 12, middle + 5, "x")
    top = middle - len(side.paths) * ROW / 2
    for row, path in enumerate(side.paths):
        y = top + (row + 0.5) * ROW
        yield from _draw_path(path, start, end, y, middle, y - ROW)
    yield f'<circle cx="{end + 15}" cy="{middle}" r="14" fill="none" stroke="{INK}" stroke-width="1.5"/>'
    yield _text(end + 15, middle + 5, "Σ")


def _draw_path(path: Way, start: int, end: int, y: float, middle: float, above: float) -> Iterator[str]:
    """Draw the line from the input, or from the path above where this one goes on from its box, and the boxes on it."""
    first, text, _ = path.boxes[0]
    x = start + 20
    dashed = ' stroke-dasharray="4 4"' if path.boxes[0][2] == GONE else ""
    line = f'fill="none" stroke="{INK}" stroke-width="1.5"{dashed}'
    if text:
        yield f'<path d="M{start} {middle} L{x} {y} H{end - 34} L{end} {middle}" {line}/>'
    else:  # goes on from the first box of the path above
        fork = x + first * (BOX + GAP) + BOX + 4
        yield f'<path d="M{fork} {above} L{fork + 18} {y} H{end - 34} L{end} {middle}" {line}/>'
    for column, label, colour in path.boxes:
        if label:
            yield from _draw_box(x + column * (BOX + GAP), y, label, colour)
    yield _text(end - 38, y - 7, path.weight, anchor="end")


def _draw_box(x: float, y: float, label: str, colour: str) -> Iterator[str]:
    if colour == GONE:
        yield f'<rect x="{x}" y="{y - TALL / 2}" width="{BOX}" height="{TALL}" rx="6" fill="{PLAIN}" opacity="0.45"/>'
    else:
        yield f'<rect x="{x}" y="{y - TALL / 2}" width="{BOX}" height="{TALL}" rx="6" fill="{colour}"/>'
    yield _text(x + BOX / 2, y + 5, label, colour="#ffffff")


def _text(x: float, y: float, text: str, *, anchor: str = "middle", weight: str = "normal", colour: str = INK) -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x}" y="{y}" {style}>{escape(text)}</text>'


def main(arguments: Sequence[str]) -> None:
    """Write all figures to the folder given."""
    for figure in (EDGE, FLOATING):
        (Path(arguments[0]) / f"{figure.name}.svg").write_text(draw(figure), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
