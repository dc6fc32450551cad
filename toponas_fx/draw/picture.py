"""The picture of a cell, before or after, as SVG: built as a tree of elements, so that every name is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from toponas_fx.draw.drawing import ONCE, SHARED, Cell, Edge
from toponas_fx.draw.layout import CARD_WIDTH, GAP, PADDING, ROW, Arc, Box, Layout, lay_out

_LONGEST = 14
_BAR = CARD_WIDTH - 15
"""How long the bar of a weight of 1 is."""


@dataclass(frozen=True)
class Strand:
    """One line of an edge: what became of it, the candidates that it computes, and what it is called without any."""

    fate: str
    covers: tuple[int, ...]
    label: str = ""


def strands_of(edge: Edge, after: bool) -> list[Strand]:
    """Return the lines of an edge: its candidates before, its terms after."""
    if not after:
        return [Strand(part.fate, (place,)) for place, part in enumerate(edge.candidates)]
    return [Strand(term.fate, term.covers, term.label) for term in edge.terms]


def draw_cell(cell: Cell, after: bool, title: str, number: int) -> Element:
    """Draw a cell; each edge is a group with ``data-edge``, which can be focused.

    Args:
        cell: the cell.
        after: whether as it is now, rather than as it was written.
        title: what the whole picture is called.
        number: tells apart the ids of several pictures on one page.
    """
    strands = [strands_of(edge, after) for edge in cell.edges]
    rows = [max(1, sum(max(1, len(strand.covers)) for strand in own)) for own in strands]
    rows = [count + edge.drawn for count, edge in zip(rows, cell.edges, strict=True)]
    layout = lay_out(cell, rows, [max(1, len(own)) for own in strands])
    root = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "class": "cell after" if after else "cell before",
            "viewBox": f"0 0 {_n(layout.width)} {_n(layout.height)}",
            "width": _n(layout.width),
            "height": _n(layout.height),
            "role": "group",
            "aria-labelledby": f"title-{number}",
        },
    )
    SubElement(root, "title", id=f"title-{number}").text = title
    _draw_below(root, cell, layout)
    order = sorted(range(len(cell.edges)), key=lambda place: -layout.arcs[place].rise)
    for place in order:
        kind = "edge drawn" if cell.edges[place].drawn else "edge"
        group = SubElement(root, "g", {"class": kind, "data-edge": str(place)})
        _draw_arc(group, layout.arcs[place], layout, strands[place])
    for place, edge in enumerate(cell.edges):  # no arc lies above a card
        group = SubElement(root, "g", _edge_attributes(cell, edge, place, after))
        _draw_card(group, layout.arcs[place].card, edge, strands[place], after)
    for value, box in zip(cell.values, layout.nodes, strict=True):
        _draw_node(root, box, value.label, value.role, value.type)
    return root


def edge_title(cell: Cell, edge: Edge) -> str:
    """Return what an edge is called: ``edge from 0 to 2``."""
    return f"edge from {cell.values[edge.source].label} to {cell.values[edge.target].label}"


def _edge_attributes(cell: Cell, edge: Edge, place: int, after: bool) -> dict[str, str]:
    names = ", ".join(part.name for part in edge.candidates)
    count = len(edge.terms)
    told = f"computed as {count} term{'' if count == 1 else 's'}" if after else f"candidate operations {names}"
    told += f", {edge.how}" if edge.drawn else ""
    return {
        "class": "edge face",
        "data-edge": str(place),
        "tabindex": "0",
        "role": "button",
        "aria-label": f"{edge_title(cell, edge)}: {told}",
    }


def _draw_arc(group: Element, arc: Arc, layout: Layout, strands: Sequence[Strand]) -> None:
    top = layout.axis - layout.nodes[0].height / 2
    radius = (arc.end - arc.start) / 2
    whole = f"M{_n(arc.start)} {_n(top)}A{_n(radius)} {_n(arc.rise)} 0 0 1 {_n(arc.end)} {_n(top)}"
    SubElement(group, "path", {"class": "hit", "d": whole})
    half = arc.apart * (len(strands) - 1) / 2
    for index, strand in enumerate(strands):
        shift = half - arc.apart * index
        path = (
            f"M{_n(arc.start - shift)} {_n(top)}A{_n(radius + shift)} {_n(arc.rise + shift)} 0 0 1 "
            f"{_n(arc.end + shift)} {_n(top)}"
        )
        covers = " ".join(map(str, strand.covers))
        SubElement(group, "path", {"class": f"strand {strand.fate}", "d": path, "data-covers": covers})
    tip = max(3.5, half + 2)
    head = f"M{_n(arc.end - tip)} {_n(top - 6)}L{_n(arc.end + tip)} {_n(top - 6)}L{_n(arc.end)} {_n(top)}Z"
    SubElement(group, "path", {"class": "head", "d": head})


def _draw_card(group: Element, card: Box, edge: Edge, strands: Sequence[Strand], after: bool) -> None:
    left, y = card.x - card.width / 2, card.y - card.height / 2
    SubElement(
        group,
        "rect",
        {"class": "card", "x": _n(left), "y": _n(y), "width": _n(card.width), "height": _n(card.height), "rx": "5"},
    )
    y += PADDING
    if edge.drawn:
        _text(group, f"one of {len(edge.candidates)}", left + 13, y + ROW - 4, "how")
        y += ROW
    if not strands:
        _text(group, "nothing left", left + GAP, y + ROW - 4, "name dropped")
    for strand in strands:
        height = ROW * max(1, len(strand.covers))
        if after and strand.fate in (SHARED, ONCE):
            SubElement(
                group,
                "rect",
                {
                    "class": f"merged {strand.fate}",
                    "x": _n(left + 2.5),
                    "y": _n(y + 0.5),
                    "width": _n(card.width - 5),
                    "height": _n(height - 1),
                    "rx": "3",
                },
            )
        mark = {"x": _n(left + 5), "y": _n(y + 3), "width": "3.4", "height": _n(height - 6), "rx": "1.5"}
        SubElement(group, "rect", {"class": f"swatch {strand.fate}", **mark})
        for place, name in _lines(edge, strand):
            row = SubElement(group, "g", {"class": f"row {strand.fate}", "data-candidate": str(place)})
            if not after:
                _draw_bar(row, edge, place, left + 11, y)
            _text(row, name, left + 13, y + ROW - 4, "name")
            y += ROW


def _lines(edge: Edge, strand: Strand) -> Iterator[tuple[int, str]]:
    """Yield the candidates of a strand with their names; a term that covers none is named by what it computes."""
    for place in strand.covers:
        yield place, edge.candidates[place].name
    if not strand.covers:
        yield -1, strand.label


def _draw_bar(row: Element, edge: Edge, place: int, x: float, y: float) -> None:
    value = edge.candidates[place].value
    if value is None:
        return
    SubElement(
        row,
        "rect",
        {
            "class": "bar",
            "x": _n(x),
            "y": _n(y + 1),
            "width": _n(_BAR * min(1.0, abs(value))),
            "height": _n(ROW - 2),
            "rx": "2",
            "data-bar": str(_BAR),
        },
    )


def _draw_node(root: Element, box: Box, label: str, role: str, told: str) -> None:
    group = SubElement(root, "g", {"class": f"node {role}"})
    SubElement(group, "title").text = told
    SubElement(
        group,
        "rect",
        {
            "x": _n(box.x - box.width / 2),
            "y": _n(box.y - box.height / 2),
            "width": _n(box.width),
            "height": _n(box.height),
            "rx": "6",
        },
    )
    _text(group, label, box.x, box.y + 4.5, "label")


def _draw_below(root: Element, cell: Cell, layout: Layout) -> None:
    """Draw what has no choice: computations between nodes, and what leaves the cell."""
    bottom = layout.axis + layout.nodes[0].height / 2
    for source, target, count in cell.plain:
        start, end = layout.nodes[source].x, layout.nodes[target].x
        path = f"M{_n(start)} {_n(bottom)}A{_n((end - start) / 2)} 26 0 0 0 {_n(end)} {_n(bottom)}"
        line = SubElement(root, "path", {"class": "plain", "d": path})
        SubElement(line, "title").text = f"{count} operation{'' if count == 1 else 's'} without a choice"
    leaving = [box for box, value in zip(layout.nodes, cell.values, strict=True) if value.leaves]
    rail, out = bottom + 18, layout.output
    for box in leaving:
        path = f"M{_n(box.x)} {_n(bottom)}V{_n(rail - 6)}q0 6 6 6H{_n(out.x - 6)}q6 0 6 -6V{_n(out.y + out.height / 2)}"
        SubElement(root, "path", {"class": "leaves", "d": path})
    if leaving:
        tip, y = out.x, out.y + out.height / 2
        SubElement(root, "path", {"class": "head", "d": f"M{_n(tip - 4)} {_n(y + 6)}h8L{_n(tip)} {_n(y)}Z"})
        _draw_node(root, out, "out", "output", "what is read outside of the cell")


def _text(parent: Element, text: str, x: float, y: float, kind: str) -> None:
    shown = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
    element = SubElement(parent, "text", {"class": kind, "x": _n(x), "y": _n(y)})
    element.text = shown
    if shown != text:
        SubElement(element, "title").text = text


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
