"""Pictures of models that take one candidate of each edge a step: marked as such, and no weight that is none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import toponas_fx
from draw_models import OwnSupernet
from sampled import shown
from sampled.arms import LossBeside
from sampled.draws import MultinomialItem, OfTwo
from sampled.gdas import NASNetworkGDAS
from sampled.parts import C
from sampled.readings import IndexOfAList, TensorIndexes, TwoChoicesInOne
from sampled.structures import SharedStates
from supernets.gdas import GDASSupernet
from supernets.gdas_darts import GDASDARTSSupernet
from toponas_fx.draw.collecting import collect
from toponas_fx.draw.drawing import ONE_A_STEP, Drawing
from toponas_fx.draw.page import page
from toponas_fx.draw.sheet import sheet
from toponas_fx.report.text import PER_STEP


@pytest.fixture(scope="module")
def gdas() -> Drawing:
    return collect(shown.gdas())


def edges_of(drawing: Drawing) -> list[Any]:
    return [edge for cell in drawing.cells for edge in cell.edges]


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_a_cell_has_the_nodes_that_drawn_values_are_added_up_in(gdas: Drawing) -> None:
    assert [cell.path for cell in gdas.cells] == ["cells.0", "cells.2"]
    assert len(gdas.kinds) == 1
    for cell in gdas.cells:
        assert [(value.label, value.role) for value in cell.values] == [("in", "input"), ("0", "sum"), ("1", "sum")]
        assert [(edge.source, edge.target) for edge in cell.edges] == [(0, 1), (0, 2), (1, 2)]


def test_an_edge_shows_all_its_candidates_marked_as_one_of_them(gdas: Drawing) -> None:
    for edge in edges_of(gdas):
        assert edge.drawn
        assert [part.name for part in edge.candidates] == [
            "none",
            "skip_connect",
            "avg_pool_3x3",
            "nor_conv_1x1",
            "nor_conv_3x3",
        ]
        assert [term.covers for term in edge.terms] == [(0,), (1,), (2,), (3,), (4,)]
        assert edge.algebra[0].startswith("one of 5: ")
        assert (edge.before.convolutions, edge.after.convolutions) == (0.4, 0.4)
        assert edge.before.flops == edge.after.flops > 0


def test_weights_that_are_drawn_anew_have_no_bars(gdas: Drawing) -> None:
    assert {part.value for edge in edges_of(gdas) for part in edge.candidates} == {None}
    assert any(note.startswith("architecture weights are not shown") for note in gdas.notes)
    assert 'class="bar"' not in page(gdas)
    assert 'class="bar"' not in sheet(gdas)


def test_weights_that_can_be_read_off_are_shown() -> None:
    torch.manual_seed(0)
    model = MultinomialItem()
    values = [[part.value for part in edge.candidates] for edge in edges_of(collect(shown.simplified(model)))]
    torch.testing.assert_close(torch.tensor(values), model.alphas.detach().softmax(-1))


def test_a_candidate_without_a_weight_has_none() -> None:
    assert {
        part.value for edge in edges_of(collect(shown.simplified(TensorIndexes()))) for part in edge.candidates
    } == {None}


def test_the_page_says_that_a_step_computes_one(gdas: Drawing) -> None:
    html = page(gdas)
    assert f"costs of {PER_STEP}" in html
    assert ONE_A_STEP in html
    assert html.count('class="edge drawn"') == 2 * 3  # before and after, of one kind of cell
    assert html.count(">one of 5</text>") == 2 * 3
    assert "edge from in to 0, one of 5 a step" in html
    assert all(edge["how"] == "one of 5 a step" for cell in data_of(html)["cells"] for edge in cell["edges"])


def test_the_picture_says_it_too(gdas: Drawing) -> None:
    text = sheet(gdas)
    ElementTree.fromstring(text)
    assert text.count(">one of 5</text>") == 2 * 3
    assert ONE_A_STEP in text


def test_a_page_of_mixed_operations_says_nothing_of_it() -> None:
    drawing = collect(toponas_fx.simplify(OwnSupernet(), torch.randn(2, 3, 8, 8)))
    for text in (page(drawing), sheet(drawing)):
        assert ONE_A_STEP not in text
        assert ">one of " not in text
        assert 'class="edge drawn"' not in text
    assert {edge["how"] for cell in data_of(page(drawing))["cells"] for edge in cell["edges"]} == {""}


@pytest.mark.parametrize(
    "kind", [IndexOfAList, OfTwo, SharedStates, LossBeside, TwoChoicesInOne], ids=lambda kind: kind.__name__
)
def test_idioms(kind: type[nn.Module], tmp_path: Path) -> None:
    fast = shown.simplified(kind())
    assert ">one of " in toponas_fx.draw(fast, tmp_path / "page.html").read_text()
    check(collect(fast), fast)


def check(drawing: Drawing, fast: Any) -> None:
    """Every edge is drawn, each of its candidates by one line of what is computed, from a value to a later one."""
    assert not drawing.reason
    assert len(edges_of(drawing)) == len(fast.report.edges)
    for edge in edges_of(drawing):
        assert edge.source < edge.target
        assert sorted(place for term in edge.terms for place in term.covers) == list(range(len(edge.candidates)))
    ElementTree.fromstring(sheet(drawing))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "channels"),
    [
        (GDASSupernet(C=4, N=1), 3),
        (GDASDARTSSupernet(4, layers=3), 3),
        (NASNetworkGDAS(), C),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_whole_supernets(model: nn.Module, channels: int) -> None:
    fast = toponas_fx.simplify(model, torch.randn(2, channels, 16, 16))
    drawing = collect(fast)
    check(drawing, fast)
    assert all(edge.drawn for edge in edges_of(drawing))
    assert page(drawing).count("<script") == 2
