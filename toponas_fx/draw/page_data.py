"""What the script of a page reads: cells, edges and passes as JSON, everything that repeats written once."""

from __future__ import annotations

import json
from typing import Any

from toponas_fx.draw.drawing import FATES, Candidate, Cell, Drawing, Edge, Key


def as_json(data: Any) -> str:
    """Write data so that nothing in it can end the element that it is in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class _Table:
    """Values that are written once and named by their number."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def add(self, value: Any) -> int:
        return self.numbers.setdefault(value, len(self.numbers))


def data_of(drawing: Drawing) -> dict[str, Any]:
    """Return what the script shows, as lists, dicts, strings and numbers; texts and flows by their place in a list."""
    texts, flows = _Table(), _Table()
    where = {edge.key: (c, e) for c, cell in enumerate(drawing.cells) for e, edge in enumerate(cell.edges)}
    kinds = {place: number for number, kind in enumerate(drawing.kinds) for place in kind.cells}
    cells = [
        {
            "path": cell.path,
            "kind": kinds[place],
            "edges": [_edge(cell, edge, where, texts, flows) for edge in cell.edges],
        }
        for place, cell in enumerate(drawing.cells)
    ]
    steps = [[[s.label, s.fate, s.column, s.row] for s in steps] for steps, _ in flows.numbers]
    links = [links for _, links in flows.numbers]
    return {
        "fates": FATES,
        "passes": [[p.name, p.about, p.promise, p.changes, p.before, p.after] for p in drawing.passes],
        "cells": cells,
        "texts": list(texts.numbers),
        "flows": [list(pair) for pair in zip(steps, links, strict=True)],
    }


def _edge(cell: Cell, edge: Edge, where: dict[Key, tuple[int, int]], texts: _Table, flows: _Table) -> dict[str, Any]:
    source, target = cell.values[edge.source], cell.values[edge.target]
    candidates = [_candidate(part, texts) for part in edge.candidates]
    terms = [
        {
            "covers": term.covers,
            "label": term.label,
            "fate": term.fate,
            "flow": flows.add((term.steps, term.links)),
            "partners": [where[key] for key in term.partners if key in where],
        }
        for term in edge.terms
    ]
    costs = [
        None if cost is None else [cost.convolutions, cost.norms, cost.flops] for cost in (edge.before, edge.after)
    ]
    ends = [source.label, target.label, source.type, target.type]
    return {
        "name": edge.name,
        "ends": ends,
        "candidates": candidates,
        "around": None if edge.around is None else _candidate(edge.around, texts),
        "terms": terms,
        "costs": costs,
        "algebra": [texts.add(text) for text in edge.algebra],
        "how": edge.how,
    }


def _candidate(part: Candidate, texts: _Table) -> dict[str, Any]:
    return {
        "name": texts.add(part.name),
        "ops": texts.add(" \N{RIGHTWARDS ARROW} ".join(part.ops)),
        "weight": texts.add(part.weight),
        "value": None if part.value is None else round(part.value, 5),
        "fate": part.fate,
        "changes": [[deed.by, texts.add(deed.text)] for deed in part.changes],
        "refusals": [[deed.by, texts.add(deed.text)] for deed in part.refusals],
    }
