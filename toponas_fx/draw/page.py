"""The page: pictures, tables and data of a drawing in one HTML file that needs nothing else."""

from __future__ import annotations

from xml.etree.ElementTree import Element, tostring

from toponas_fx.draw.drawing import FATES, ONE_A_STEP, Cell, Drawing, Edge, Term
from toponas_fx.draw.page_data import as_json, data_of
from toponas_fx.draw.picture import draw_cell, edge_title
from toponas_fx.draw.sheet import SIDES, paths_of, read_part
from toponas_fx.draw.strip import draw_network

_PROMISES = {
    "share": "simplified in mode share: every one-hot architecture computes what it did",
    "exact": "simplified in mode exact: the same function for all weights and inputs",
}
_SMALLEST, _LARGEST = 0.6, 1.15
"""How much smaller than drawn a picture gets before it scrolls, and how much larger on a wide screen."""


def page(drawing: Drawing) -> str:
    """Return the HTML of a drawing."""
    parts = {
        "title": _html(_element("title", f"{drawing.model}, simplified")),
        "style": read_part("picture.css") + read_part("page.css"),
        "header": _html(_header(drawing)),
        "main": _html(_main(drawing)),
        "notes": _html(_notes(drawing.notes)),
        "data": as_json(data_of(drawing)),
        "script": read_part("page.js"),
    }
    filled = read_part("page.html")
    pieces = filled.split("<!-- fill ")
    return pieces[0] + "".join(
        parts[name] + rest for name, _, rest in (piece.partition(" -->") for piece in pieces[1:])
    )


def _element(tag: str, text: str = "", /, **attributes: str) -> Element:
    found = Element(tag, {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()})
    found.text = text
    return found


def _add(parent: Element, tag: str, text: str = "", /, **attributes: str) -> Element:
    found = _element(tag, text, **attributes)
    parent.append(found)
    return found


def _html(element: Element) -> str:
    return tostring(element, encoding="unicode", method="html")


def _header(drawing: Drawing) -> Element:
    header = _element("header")
    _add(header, "h1", drawing.model)
    if drawing.reason:
        return header
    _add(header, "p", _PROMISES[drawing.mode], class_="told")
    if drawing.caption:
        _add(header, "p", f"costs of {drawing.caption}", class_="told")
    costs = _add(header, "dl", class_="costs")
    for title, before, after in drawing.costs:
        item = _add(costs, "div")
        _add(item, "dt", title)
        told = _add(item, "dd")
        _add(told, "span", _short(before), class_="old", title=f"{before:,} before")
        _add(told, "span", " \N{RIGHTWARDS ARROW} ", class_="to")
        _add(told, "strong", _short(after), title=f"{after:,} after")
        if before and before != after:
            _add(told, "span", f"\N{MULTIPLICATION SIGN}{after / before:.2f}", class_="ratio")
    return header


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if letter == 'k' else size):.3g} {letter}"
    return f"{number:,}"


def _main(drawing: Drawing) -> Element:
    if drawing.reason:
        main = _element("main", class_="empty")
        _add(main, "h2", "Nothing to draw")
        _add(main, "p", drawing.reason, class_="reason")
        return main
    main = _element("main")
    network = _add(main, "section", class_="network", aria_label="the network, cell by cell")
    _add(network, "h2", "The network")
    network.append(_kinds(drawing))
    if len(drawing.cells) > 1:
        _add(network, "div", class_="scroll").append(draw_network(drawing))
    main.append(_walk())
    figures = _add(main, "section", class_="figures", aria_label="a cell before and after")
    figures.append(_legend(drawing))
    for number, kind in enumerate(drawing.kinds):
        figures.append(_figure(drawing, number, kind.name, kind.cells))
    for number, kind in enumerate(drawing.kinds):
        figures.append(_table(drawing.cells[kind.cells[0]], number, kind.name))
    return main


def _kinds(drawing: Drawing) -> Element:
    found = _element("ul", class_="kinds")
    for number, kind in enumerate(drawing.kinds):
        button = _add(_add(found, "li"), "button", type="button", data_kind=str(number), aria_pressed="false")
        _add(button, "span", kind.name, class_=f"letter kind-{number % 6}")
        _add(button, "strong", f"\N{MULTIPLICATION SIGN}{len(kind.cells)}")
        _add(button, "span", paths_of(drawing, kind.cells), class_="paths")
    return found


def _walk() -> Element:
    walk = _element("section", class_="walk", aria_label="the passes, one by one")
    row = _add(walk, "div", class_="steps")
    _add(row, "button", "\N{LEFTWARDS ARROW}", type="button", id="back", aria_label="previous pass")
    _add(row, "button", "\N{RIGHTWARDS ARROW}", type="button", id="next", aria_label="next pass")
    _add(row, "ol", id="passes")
    _add(walk, "div", id="told", aria_live="polite")
    return walk


def _figure(drawing: Drawing, number: int, name: str, cells: tuple[int, ...]) -> Element:
    cell = drawing.cells[cells[0]]
    pair = _element("div", class_="pair", data_kind=str(number))
    for side in SIDES:
        figure = _add(pair, "figure", class_=side)
        caption = _add(figure, "figcaption")
        _add(caption, "strong", SIDES[side])
        _add(caption, "span", "", class_="where")
        scroll = _add(figure, "div", class_="scroll")
        number_of_picture = 2 * number + (side == "after")
        picture = draw_cell(cell, side == "after", f"cell {name} {side} simplification", number_of_picture)
        width = float(picture.attrib["width"])
        picture.attrib["style"] = f"min-width: {_SMALLEST * width:.0f}px; max-width: {_LARGEST * width:.0f}px"
        scroll.append(picture)
    return pair


def _legend(drawing: Drawing) -> Element:
    legend = _element("ul", class_="legend", aria_label="colours")
    for fate, words in {**FATES, **({"drawn": ONE_A_STEP} if drawing.draws else {})}.items():
        item = _add(legend, "li")
        _add(item, "span", class_=f"swatch {fate}")
        _add(item, "span", words)
    return legend


def _table(cell: Cell, number: int, name: str) -> Element:
    """Return the same as the picture in words."""
    details = _element("details", class_="as-table", data_kind=str(number))
    _add(details, "summary", f"Cell {name} as a table")
    table = _add(details, "table")
    head = _add(_add(table, "thead"), "tr")
    for title in ("edge", "candidate operations", "computed now as"):
        _add(head, "th", title, scope="col")
    body = _add(table, "tbody")
    for edge in cell.edges:
        row = _add(body, "tr")
        _add(row, "th", edge_title(cell, edge) + (f", {edge.how}" if edge.drawn else ""), scope="row")
        _add(row, "td", ", ".join(part.name for part in edge.candidates))
        _add(row, "td", "; ".join(_term_words(edge, term) for term in edge.terms) or "nothing")
    return details


def _term_words(edge: Edge, term: Term) -> str:
    names = " + ".join(edge.candidates[place].name for place in term.covers) or term.label
    return f"{names} ({FATES[term.fate]})"


def _notes(notes: tuple[str, ...]) -> Element:
    found = _element("details", class_="notes")
    _add(found, "summary", f"Notes ({len(notes)})")
    items = _add(found, "ul")
    for note in notes:
        _add(items, "li", note)
    return found if notes else _element("span")
