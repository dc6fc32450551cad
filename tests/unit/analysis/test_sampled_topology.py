"""The topology and the code of models that take one candidate of each edge a step."""

from __future__ import annotations

from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn

import toponas_fx
from sampled.draws import OfTwo
from sampled.parts import Chain, Edge, Head, sample
from sampled.readings import IndexOfAList
from sampled.shown import FEW, chain, gdas, images, simplified


def edges_of(graph: nx.MultiDiGraph) -> list[Any]:
    return [edge for edge in graph.edges(data=True) if edge[2]["kind"] == "candidate"]


def test_candidates_lead_from_the_value_that_they_read_to_the_select() -> None:
    graph = toponas_fx.topology(IndexOfAList(), images())
    found = sorted(edges_of(graph), key=lambda edge: (edge[1], edge[2]["position"]))
    assert [(source, target, data["position"]) for source, target, data in found] == [
        (source, target, k)
        for source, target in (("x", "select"), ("select", "select_1"), ("select_1", "select_2"))
        for k in range(3)
    ]
    assert all(data["drawn"] is True for *_, data in found)
    assert [data["name"] for *_, data in found[:3]] == list(FEW)
    assert found[2][2]["ops"] == ("ReLU", "Conv2d 3x3", "BatchNorm2d")
    assert graph.nodes["select"]["sum"] == "select"
    assert str(graph).startswith("MultiDiGraph named '3 edges that draw one of 9 candidates'")
    assert len(edges_of(chain().topology())) == 9


def test_drawn_values_that_are_added_up_know_their_sum() -> None:
    graph = gdas().topology()
    sums = {data["sum"] for _, data in graph.nodes(data=True) if "sum" in data}
    assert len(edges_of(graph)) == 30
    assert len(sums) == 4  # nodes 1 and 2 of two cells
    assert all(
        graph.has_edge(name, data["sum"]) for name, data in graph.nodes(data=True) if data.get("sum", name) != name
    )


class Inputs(Chain):
    """What is drawn is which of two values an edge reads; both are weighted alike."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList([Edge([nn.Tanh(), nn.Sigmoid()])])
        self.alphas, self.head = nn.Parameter(torch.zeros(1, 2)), Head()

    def forward(self, x: Tensor) -> Tensor:
        _, index = sample(self.alphas, self.tau)
        states = [op(x) for op in self.edges[0].ops]
        return self.head(states[index[0].item()])


def test_what_always_runs_is_no_part_of_a_candidate() -> None:
    graph = toponas_fx.topology(Inputs(), images())
    assert [(source, data["nodes"], data["modules"]) for source, _, data in edges_of(graph)] == [("x", (), ())] * 2


# -- code --------------------------------------------------------------------------------------------------------------


def test_code_has_the_arms_of_choices_below() -> None:
    fast = simplified(OfTwo())
    main_, *others = fast.code.split("\ndef ")[1:]
    assert main_.startswith("forward(self, x):")
    assert "choice_0_of_edges_0_ops(" in main_
    assert "edges" not in main_.replace("choice_0_of_edges_0_ops", "").split("choice_1")[0]
    titles = [other.partition("(")[0] for other in others]
    assert titles[:2] == ["choice_0_of_edges_0_ops_0", "choice_0_of_edges_0_ops_1"]
    assert 'getattr(getattr(self.edges, "0").ops, "1")' in others[1]
    compile(fast.code, "code", "exec")
    assert fast.code in str(fast)
    text = fast.print_readable(print_output=False)
    assert text.count("def choice_0_of_edges_0_ops_1(self, ") == 1
    assert text.index("def forward(self, x):") < text.index("def choice_0_of_edges_0_ops_0(self, ")


def test_code_tells_what_is_computed_by_the_first_arm_that_reads_it() -> None:
    names = [line[4:].partition("(")[0] for line in gdas().code.splitlines() if line.startswith("def ")]
    assert "choice_0_of_cells_0_edges_1_0_ops_3" in names
    assert any(name.startswith("delayed_cells_0_edges_1_0_ops_") for name in names)
    assert len(set(names)) == len(names)
    assert "toponas_fx_runtime" not in gdas().code


class TakesASum(nn.Module):
    """What is drawn is one of three values that others read as well, of which two are the same mixed sum."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.ReLU()])
        self.alphas = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        mixed = sum(weight * op(x) for weight, op in zip(self.alphas.softmax(0), self.ops, strict=True))
        return mixed + [mixed, x, mixed][mixed.mean((2, 3)).argmax() % 3]


def test_a_sum_that_is_drawn_as_a_whole_is_not_taken_apart() -> None:
    graph = toponas_fx.topology(TakesASum(), torch.randn(2, 3, 8, 8))
    assert sorted((data["drawn"], data["position"]) for *_, data in edges_of(graph) if "drawn" in data)[-3:] == [
        (True, 0),
        (True, 1),
        (True, 2),
    ]
