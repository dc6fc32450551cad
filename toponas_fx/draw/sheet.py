"""One static picture: each kind of cell once, before and after, as an SVG file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from xml.etree.ElementTree import Element, SubElement, tostring

from toponas_fx.draw.drawing import FATES, ONE_A_STEP, Drawing
from toponas_fx.draw.picture import draw_cell

SIDES = {"before": "As written", "after": "Simplified"}
"""The two pictures of a cell, and what they are called."""
_SEVERAL = 4


def sheet(drawing: Drawing) -> str:
    """Return one static picture: each kind of cell once, before and after."""
    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "class": "sheet", "role": "img"})
    SubElement(root, "title").text = f"{drawing.model} before and after"
    SubElement(root, "style").text = read_part("picture.css")
    width, y = 0.0, 28.0
    if drawing.reason:
        y = _line(root, drawing.reason, 16, y, "told")
        width = 16 + 7.0 * len(drawing.reason)
    for kind in drawing.kinds:
        cell = drawing.cells[kind.cells[0]]
        y = _line(root, _kind_title(drawing, kind.cells, kind.name), 16, y, "heading")
        pictures = [
            draw_cell(cell, side == "after", f"{side}: cell {kind.name}", 2 * kind.cells[0] + number)
            for number, side in enumerate(SIDES)
        ]
        height = max(float(picture.attrib["height"]) for picture in pictures)
        x = 16.0
        for picture, title in zip(pictures, SIDES.values(), strict=True):
            _line(root, title, x, y, "told")
            own = float(picture.attrib["height"])
            picture.attrib.update({"x": f"{x:.0f}", "y": f"{y + 8 + height - own:.0f}"})
            _make_static(picture)
            root.append(picture)
            x += float(picture.attrib["width"]) + 40
        width, y = max(width, x), y + height + 36
    x = 16.0
    for fate, words in FATES.items() if drawing.kinds else ():
        SubElement(
            root,
            "rect",
            {"class": f"swatch {fate}", "x": str(x), "y": str(y - 9), "width": "14", "height": "10", "rx": "2"},
        )
        _line(root, words, x + 20, y, "told")
        x += 46 + 6.2 * len(words)
    if drawing.draws:
        _line(root, ONE_A_STEP, x, y, "told")
        x += 26 + 6.2 * len(ONE_A_STEP)
    width, y = max(width, x), y + 16
    root.attrib.update({"viewBox": f"0 0 {width:.0f} {y:.0f}", "width": f"{width:.0f}", "height": f"{y:.0f}"})
    return tostring(root, encoding="unicode")


def _line(root: Element, text: str, x: float, y: float, kind: str) -> float:
    SubElement(root, "text", {"class": kind, "x": str(x), "y": str(y)}).text = text
    return y + 20


def _make_static(picture: Element) -> None:
    for part in picture.iter():
        for name in ("tabindex", "role"):
            part.attrib.pop(name, None)


def paths_of(drawing: Drawing, cells: Iterable[int]) -> str:
    """Write where some cells are in the model."""
    paths = [drawing.cells[place].path or "the whole model" for place in cells]
    more = f" and {len(paths) - _SEVERAL} more" if len(paths) > _SEVERAL + 2 else ""
    return ", ".join(paths[:_SEVERAL] if more else paths) + more


def _kind_title(drawing: Drawing, cells: tuple[int, ...], name: str) -> str:
    return f"{drawing.model}, cell {name} \N{MULTIPLICATION SIGN}{len(cells)}: {paths_of(drawing, cells)}"


def read_part(name: str) -> str:
    """Return the text of a file that lies beside this one."""
    return files("toponas_fx.draw").joinpath(name).read_text(encoding="utf-8")
