"""The network as a row of its cells, as SVG: the same letter for equal cells, arrows where one reads another."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

from toponas_fx.draw.drawing import Drawing

_WIDTH, _HEIGHT, _STEP, _MARGIN = 46, 30, 74, 12


def draw_network(drawing: Drawing) -> Element:
    """Draw all cells in the order of computation; each can be chosen."""
    kinds = {place: (number, kind.name) for number, kind in enumerate(drawing.kinds) for place in kind.cells}
    longest = max((b - a for a, b in drawing.links), default=1)
    top = _MARGIN + (14 * (longest - 1) if longest > 1 else 0)
    width, height = _STEP * len(drawing.cells) - _STEP + _WIDTH + 2 * _MARGIN, top + _HEIGHT + _MARGIN
    root = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "class": "strip",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "role": "group",
            "aria-label": "cells in order",
        },
    )
    for a, b in drawing.links:
        _draw_link(root, a, b, top)
    for place, cell in enumerate(drawing.cells):
        number, letter = kinds[place]
        name = cell.path or "the whole model"
        group = SubElement(
            root,
            "g",
            {
                "class": "part",
                "data-cell": str(place),
                "tabindex": "0",
                "role": "button",
                "aria-pressed": "false",
                "aria-label": f"cell {letter}: {name}",
            },
        )
        SubElement(group, "title").text = name
        SubElement(
            group,
            "rect",
            {
                "class": f"kind-{number % 6}",
                "x": str(_MARGIN + place * _STEP),
                "y": str(top),
                "width": str(_WIDTH),
                "height": str(_HEIGHT),
                "rx": "6",
            },
        )
        label = SubElement(
            group,
            "text",
            {
                "class": "label",
                "x": str(_MARGIN + place * _STEP + _WIDTH / 2),
                "y": str(top + _HEIGHT / 2 + 4.5),
            },
        )
        label.text = letter
    return root


def _draw_link(root: Element, a: int, b: int, top: int) -> None:
    start, end, middle = _MARGIN + a * _STEP + _WIDTH, _MARGIN + b * _STEP, top + _HEIGHT / 2
    if b - a == 1:
        path, tip, y = f"M{start} {middle}H{end - 5}", end, middle
        head = f"M{tip - 6} {y - 4}L{tip} {y}L{tip - 6} {y + 4}Z"
    else:
        left, right = start - _WIDTH / 2 + 8, end + _WIDTH / 2 - 8
        path = f"M{left} {top}A{(right - left) / 2} {14 * (b - a - 1)} 0 0 1 {right} {top - 4}"
        head = f"M{right - 4} {top - 6}h8L{right} {top}Z"
    SubElement(root, "path", {"class": "leaves", "d": path})
    SubElement(root, "path", {"class": "head", "d": head})
