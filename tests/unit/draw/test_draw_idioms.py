"""``toponas_fx.draw`` takes every idiom of ``tests/support/supernets``, and loses none of its candidates."""

from __future__ import annotations

import warnings
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import toponas_fx
from collected import IDIOMS
from equality import double
from idiom import Idiom
from toponas_fx.draw.collecting import collect
from toponas_fx.draw.drawing import DROPPED
from toponas_fx.draw.page import page
from toponas_fx.draw.sheet import sheet

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", IDIOMS, ids=lambda kind: kind.__name__)
def test_every_candidate_is_drawn(kind: type[Idiom]) -> None:
    torch.manual_seed(0)
    model: Any = double(kind())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = toponas_fx.simplify(model, model.inputs(3))
        drawing = collect(fast)
    assert page(drawing).count("<script") == 2
    ElementTree.fromstring(sheet(drawing))
    assert bool(drawing.reason) == (not drawing.cells)
    edges = [edge for cell in drawing.cells for edge in cell.edges]
    around = [edge.around for edge in edges if edge.around is not None]
    assert len(edges) + len(around) == len(fast._toponas.report.mixtures) or model.as_written
    for edge in edges:
        covered = {place for term in edge.terms for place in term.covers}
        dropped = {place for place, part in enumerate(edge.candidates) if part.fate == DROPPED}
        assert covered | dropped == set(range(len(edge.candidates)))
        assert covered.isdisjoint(dropped)
        assert all(edge.candidates[place].name == "none" or "zero" in edge.candidates[place].ops for place in dropped)
        assert edge.source < edge.target
