"""What ``toponas_fx.draw`` collects of a model, and where it is placed."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import nn

import toponas_fx
from draw_models import Gated, OwnSupernet
from supernets.darts import DARTSSupernet
from supernets.mobile import MobileSupernet
from supernets.nasbench201 import NASBench201Supernet
from toponas_fx.draw.collecting import collect
from toponas_fx.draw.drawing import DROPPED, KEPT, ONCE, SHARED, Drawing
from toponas_fx.draw.layout import lay_out


def image(size: int = 16) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def simplified(model: nn.Module, **options: object) -> nn.Module:
    return toponas_fx.simplify(model, image(), **options)


@pytest.fixture(scope="module")
def bench() -> Drawing:
    torch.manual_seed(0)
    return collect(simplified(NASBench201Supernet(C=4, N=1)))


@pytest.fixture(scope="module")
def own() -> Drawing:
    torch.manual_seed(0)
    return collect(simplified(OwnSupernet()))


# -- what is collected -------------------------------------------------------------------------------------------------


def test_a_cell_of_nasbench201(bench: Drawing) -> None:
    assert [cell.path for cell in bench.cells] == ["cells.0", "cells.2", "cells.4"]
    assert bench.links == ((0, 1), (1, 2))
    cell = bench.cells[0]
    assert [(value.label, value.role, value.leaves) for value in cell.values] == [
        ("in", "input", False),
        ("0", "sum", False),
        ("1", "sum", False),
        ("2", "sum", True),
    ]
    assert [(edge.source, edge.target) for edge in cell.edges] == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    assert cell.values[0].type == "f32[2,4,16,16]"
    edge = cell.edges[0]
    assert edge.name == "cells.0.edges.1<-0._ops"
    names = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
    assert [part.name for part in edge.candidates] == names
    assert [part.fate for part in edge.candidates] == [DROPPED, KEPT, SHARED, SHARED, ONCE]
    assert [(term.covers, term.fate) for term in edge.terms] == [((1,), KEPT), ((2, 3), SHARED), ((4,), ONCE)]
    merged = edge.terms[1]
    assert [(step.label, step.fate, step.column) for step in merged.steps] == [
        ("ReLU", ONCE, 0),
        ("Conv2d 3x3", SHARED, 1),
        ("BatchNorm2d", SHARED, 2),
    ]
    assert merged.links == ((-1, 0), (0, 1), (1, 2))
    readers = [other.key for other in cell.edges if other.source == 0 and other is not edge]
    assert sorted(merged.partners) == sorted(readers)


def test_equal_cells_are_one_kind(bench: Drawing, own: Drawing) -> None:
    assert [(kind.name, kind.cells) for kind in own.kinds] == [("A", (0, 1))]
    assert sorted(place for kind in bench.kinds for place in kind.cells) == [0, 1, 2]
    assert {kind.name.rstrip("\N{PRIME}") for kind in bench.kinds} == {"A"}
    assert len({cell.written for cell in bench.cells}) == 1


def test_passes_come_with_what_they_did(bench: Drawing) -> None:
    names = [step.name for step in bench.passes]
    edge = bench.cells[0].edges[0]
    changes = [(names[deed.by], deed.text) for deed in edge.candidates[2].changes]
    assert ("deduplicate", "ReLU computed once instead of 6 times") in changes
    assert ("merge-kernels", "3x3, 1x1 merged into 3x3") in changes
    assert [deed.by for deed in edge.candidates[2].changes] == sorted(deed.by for deed in edge.candidates[2].changes)
    merge = bench.passes[names.index("merge-kernels")]
    assert merge.about == "Merge weighted convolutions of one input into one convolution."
    assert merge.changes == 18
    assert merge.before[0] - merge.after[0] == 18
    assert {name for name, *_ in bench.costs} >= {"convolutions", "norms", "FLOPs", "bytes saved for backward"}


def test_refusals_come_with_their_reason() -> None:
    torch.manual_seed(0)
    drawing = collect(simplified(DARTSSupernet(C=4, layers=1, steps=2, multiplier=2)))
    refusals = [deed.text for part in drawing.cells[0].edges[0].candidates for deed in part.refusals]
    assert any("reads a candidate's result" in text for text in refusals)


def test_costs_of_an_edge(own: Drawing) -> None:
    edge = own.cells[0].edges[0]
    assert edge.before is not None
    pixels = 2 * 4 * 16 * 16
    assert (edge.before.convolutions, edge.before.norms) == (2, 2)
    assert edge.before.flops == 2 * pixels * 4 * (25 + 9)
    assert edge.after is not None
    assert (edge.after.convolutions, edge.after.norms, edge.after.flops) == (1, 1, 2 * pixels * 4 * 25)


def test_a_block_and_the_skip_around_it_are_one_candidate() -> None:
    torch.manual_seed(0)
    edge = collect(simplified(MobileSupernet(C=4))).cells[0].edges[0]
    assert len(edge.candidates) == 10
    assert edge.candidates[-1].name == "skip"
    assert edge.terms[-1].steps == ()
    assert edge.terms[-1].covers == (9,)
    assert {part.fate for part in edge.candidates[:-1]} == {SHARED}


def test_mode_exact_shares_nothing() -> None:
    torch.manual_seed(0)
    drawing = collect(simplified(NASBench201Supernet(C=4, N=1), mode="exact"))
    fates = {part.fate for cell in drawing.cells for edge in cell.edges for part in edge.candidates}
    assert fates == {DROPPED, KEPT}
    steps = {step.label: step.fate for term in drawing.cells[0].edges[0].terms for step in term.steps}
    assert steps["ReLU"] == ONCE
    assert drawing.mode == "exact"


# -- live weights ------------------------------------------------------------------------------------------------------


def weights(drawing: Drawing) -> list[list[float | None]]:
    return [[part.value for part in edge.candidates] for edge in drawing.cells[0].edges]


def test_weights_are_those_of_now() -> None:
    torch.manual_seed(0)
    model = OwnSupernet()
    fast = simplified(model)
    with torch.no_grad():
        model.gates.copy_(torch.randn(3, 3))
    model.temperature = fast.temperature = 0.5
    expected = torch.sigmoid(model.gates / 0.5)
    assert weights(collect(fast)) == [pytest.approx(row) for row in expected.tolist()]


def test_reading_weights_leaves_no_trace() -> None:
    torch.manual_seed(0)
    fast = simplified(NASBench201Supernet(C=4, N=1)).eval()
    assert fast.report.mixtures
    assert len(fast.graph.nodes)  # to look at it takes a copy of what training and evaluation share
    state = {name: tensor.clone() for name, tensor in fast.state_dict().items()}
    generator, captures = torch.get_rng_state(), dict(fast._toponas.captures)
    code, programs = fast.code, list(fast._toponas.programs)
    collect(fast)
    assert not fast.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in fast.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert (fast._toponas.captures, fast._toponas.programs, fast.code) == (captures, programs, code)


@pytest.mark.parametrize("fold", ["softmax", "sample"])
def test_weights_that_are_no_architecture_are_not_shown(fold: str) -> None:
    class Noisy(Gated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = self.gate.bias + torch.rand(2)
            return sum(w * path(x) for w, path in zip(logits.softmax(0), self.paths, strict=True))

    drawing = collect(simplified(Gated() if fold == "softmax" else Noisy()))
    assert weights(drawing) == [[None, None]]
    assert any("follow the input or are drawn anew" in note for note in drawing.notes)


def test_a_model_in_evaluation_mode_is_drawn_as_it_trains() -> None:
    class Short(OwnSupernet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if self.training else self.head(self.stem(x).mean((2, 3)))

    torch.manual_seed(0)
    drawing = collect(simplified(Short()).eval())
    assert [part.fate for part in drawing.cells[0].edges[0].candidates] == [SHARED, SHARED, KEPT]
    assert weights(drawing)[0][0] is not None


def test_another_path_than_the_one_that_was_simplified_shows_no_weights() -> None:
    class Shuffled(OwnSupernet):
        backwards = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights = torch.sigmoid(self.gates)
            if self.backwards:
                weights = weights.flip(1)
            early, late = self.body.values()
            return late(early(self.stem(x), weights), weights)

    fast = simplified(Shuffled())
    assert weights(collect(fast))[0][0] is not None
    fast.backwards = True
    drawing = collect(fast)
    assert all(value is None for row in weights(drawing) for value in row)
    assert any("takes another path now" in note for note in drawing.notes)


def test_a_forward_that_fails_now_shows_no_weights() -> None:
    fast = simplified(OwnSupernet())
    fast.temperature = None
    drawing = collect(fast)
    assert all(value is None for row in weights(drawing) for value in row)
    assert any("forward cannot be recorded now" in note for note in drawing.notes)


# -- layout ------------------------------------------------------------------------------------------------------------


def test_no_card_lies_on_another(bench: Drawing) -> None:
    cell = bench.cells[0]
    layout = lay_out(cell, [5] * 6, [5] * 6)
    for one, other in combinations([arc.card for arc in layout.arcs], 2):
        apart_x = abs(one.x - other.x) >= (one.width + other.width) / 2
        assert apart_x or abs(one.y - other.y) >= (one.height + other.height) / 2
    for arc in layout.arcs:
        assert arc.card.y - arc.card.height / 2 >= 0
        assert arc.card.x - arc.card.width / 2 >= 0
        assert arc.card.x + arc.card.width / 2 <= layout.width
        assert arc.card.y + arc.card.height / 2 < layout.axis - 15
    nodes = [box.x for box in layout.nodes]
    assert nodes == sorted(nodes)


def test_edges_end_at_their_own_places_on_a_node(bench: Drawing) -> None:
    cell = bench.cells[0]
    layout = lay_out(cell, [5] * 6, [5] * 6)
    at_node: dict[int, list[float]] = {}
    for edge, arc in zip(cell.edges, layout.arcs, strict=True):
        at_node.setdefault(edge.source, []).append(arc.start)
        at_node.setdefault(edge.target, []).append(arc.end)
    for place, found in at_node.items():
        box = layout.nodes[place]
        assert all(abs(x - box.x) <= box.width / 2 for x in found)
        assert all(abs(a - b) > 4 * layout.arcs[0].apart + 1 for a, b in combinations(found, 2))
    for (one, first), (other, second) in combinations(zip(cell.edges, layout.arcs, strict=True), 2):
        if one.source == other.source:  # arcs that nest do not cross
            assert (first.start < second.start) == (one.target > other.target)
        if one.target == other.target:
            assert (first.end < second.end) == (one.source > other.source)
