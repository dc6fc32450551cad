"""Where the parts of a cell's picture are: nodes on one line in the order of computation, edges as arcs above it.

Each edge carries a card at its highest point. Which card lies above which is a directed graph; its topological
generations are the levels. Lengths are CSS pixels; y grows downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx

from toponas_fx.draw.drawing import Cell

ROW, PADDING, CARD_WIDTH = 14, 5, 104
SPACING, GAP, LEVEL_GAP, MARGIN = 116, 6, 18, 14
NODE_HEIGHT, NODE_WIDTH = 30, 44
BUNDLE, STRAND = 12.0, 3.0
"""How wide the strands of an edge are together at most, and how far apart from each other."""
_BELOW = 50


@dataclass(frozen=True)
class Box:
    """A rectangle: its centre and its sides."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Arc:
    """One edge: where its strands leave and arrive, how high they rise, how far apart they are, and its card."""

    start: float
    end: float
    rise: float
    apart: float
    card: Box


@dataclass(frozen=True)
class Layout:
    """The places of a cell's parts."""

    width: float
    height: float
    axis: float
    nodes: tuple[Box, ...]
    arcs: tuple[Arc, ...]
    output: Box


def lay_out(cell: Cell, rows: Sequence[int], strands: Sequence[int]) -> Layout:
    """Place a cell.

    Args:
        cell: the cell.
        rows: how many lines each edge's card has.
        strands: how many strands each edge has.
    """
    levels = _levels(cell)
    heights = [count * ROW + 2 * PADDING for count in rows]
    tallest = [max(h for h, own in zip(heights, levels, strict=True) if own == level) for level in sorted(set(levels))]
    rises = [sum(tallest[:level]) + tallest[level] / 2 + LEVEL_GAP * (level + 1) for level in levels]
    top = sum(tallest) + LEVEL_GAP * len(tallest) + MARGIN
    axis = top + NODE_HEIGHT / 2
    apart = min(STRAND, BUNDLE / max(1, max(strands) - 1))
    sides = _sides(cell, [apart * (count - 1) for count in strands])
    widths = [max(NODE_WIDTH, _width(own) + 2 * GAP) for own in sides]
    first = MARGIN + max(widths[0], CARD_WIDTH - SPACING) / 2
    centres = [first]
    for left, right in pairwise(widths):
        centres.append(centres[-1] + max(SPACING, (left + right) / 2 + 2 * GAP))
    nodes = tuple(Box(x, axis, width, NODE_HEIGHT) for x, width in zip(centres, widths, strict=True))
    starts, ends = _ports(sides, centres)
    arcs = []
    for number, (edge, rise) in enumerate(zip(cell.edges, rises, strict=True)):
        middle = (centres[edge.source] + centres[edge.target]) / 2
        card = Box(middle, top - rise, CARD_WIDTH, heights[number])
        arcs.append(Arc(starts[number], ends[number], rise, apart, card))
    output = Box(centres[-1] + widths[-1] / 2 + 2 * MARGIN + NODE_WIDTH / 2, axis, NODE_WIDTH, NODE_HEIGHT)
    left = min(0.0, *(arc.card.x - CARD_WIDTH / 2 - MARGIN for arc in arcs))
    width = max(output.x + NODE_WIDTH / 2, *(arc.card.x + CARD_WIDTH / 2 for arc in arcs)) + MARGIN - left
    return _moved(Layout(width, axis + NODE_HEIGHT / 2 + _BELOW, axis, nodes, tuple(arcs), output), -left)


def _levels(cell: Cell) -> list[int]:
    """Return the level of each edge's card: above those of the edges that it spans, and of those it would cover."""
    spans = [(edge.source, edge.target) for edge in cell.edges]
    above = nx.DiGraph()
    above.add_nodes_from(range(len(spans)))
    for lower, (a, b) in enumerate(spans):
        for upper, (c, d) in enumerate(spans):
            is_wider = (b - a, lower) < (d - c, upper)
            covers = abs((a + b) - (c + d)) < 2 or (c <= a and b <= d)
            if is_wider and covers:
                above.add_edge(lower, upper)
    found = {number: level for level, own in enumerate(nx.topological_generations(above)) for number in own}
    return [found[number] for number in range(len(spans))]


_Side = list[tuple[int, bool, float]]
"""What ends at the top of a node, from left to right: the edge, whether it arrives, and its width."""


def _sides(cell: Cell, widths: Sequence[float]) -> list[_Side]:
    """Return the order of edges at each node in which arcs that nest do not cross."""
    found: list[_Side] = []
    for place in range(len(cell.values)):
        own = [(number, edge) for number, edge in enumerate(cell.edges) if place in (edge.source, edge.target)]
        arriving = sorted((edge.target - edge.source, number) for number, edge in own if edge.target == place)
        leaving = sorted(((edge.target - edge.source, number) for number, edge in own if edge.source == place))
        side = [(number, True) for _, number in arriving] + [(number, False) for _, number in leaving[::-1]]
        found.append([(number, arrives, widths[number]) for number, arrives in side])
    return found


def _width(side: _Side) -> float:
    return sum(width for *_, width in side) + GAP * max(0, len(side) - 1)


def _ports(sides: list[_Side], centres: list[float]) -> tuple[dict[int, float], dict[int, float]]:
    """Return where the middle of each edge leaves its source, and where it arrives."""
    starts: dict[int, float] = {}
    ends: dict[int, float] = {}
    for side, centre in zip(sides, centres, strict=True):
        x = centre - _width(side) / 2
        for number, arrives, width in side:
            (ends if arrives else starts)[number] = x + width / 2
            x += width + GAP
    return starts, ends


def _moved(layout: Layout, by: float) -> Layout:
    def box(old: Box) -> Box:
        return Box(old.x + by, old.y, old.width, old.height)

    arcs = tuple(Arc(a.start + by, a.end + by, a.rise, a.apart, box(a.card)) for a in layout.arcs)
    return Layout(layout.width, layout.height, layout.axis, tuple(map(box, layout.nodes)), arcs, box(layout.output))
