"""The report on one screen: golden texts, its length, kinds of edges, refusals with advice, both modes' passes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from test_report import C, Chain, Pooled, conv_bn, image, record, report_on
from torch import Tensor, nn

import toponas_fx
from supernets.darts import DARTSSupernet
from supernets.nasbench201 import NASBench201Supernet
from toponas_fx.passes import DEFAULT_PASSES
from toponas_fx.report.refusal_advice import _ADVICE, advice_on
from toponas_fx.report.text import WIDTH
from toponas_fx.rewriting.pass_base import Pass, Plan, Semantics, Stage
from toponas_fx.rewriting.pipeline import Change

ROOT = Path(__file__).parents[3]
TABLE = [
    "                                    before           after   ratio",
    "convolutions                             4               1    0.25",
    "norms                                    2               1    0.50",
    "activations                              0               0       -",
    "poolings                                 1               1    1.00",
    "parameters                           1,000           1,000    1.00",
    "FLOPs                           12,345,678       6,172,839    0.50",
]
LEGEND = [
    "kinds of edges (x: its input; wᵢ: the weight of candidate i; pᵢ: its share where",
    "some meet, W: their weight; K̂: a normalized kernel; dw: depthwise)",
]


def whole(model: nn.Module, inputs: Any = None, **options: Any) -> Any:
    return toponas_fx.simplify(model, image() if inputs is None else inputs, **options).report


def without_costs(report: Any) -> list[str]:
    lines = str(report).splitlines()
    return lines[:1] + lines[lines.index("", 2) :]


def test_text_of_a_chain() -> None:
    assert without_costs(whole(Chain())) == [
        "Chain, mode share: 2 edges, 8 candidate operations",
        "",
        *LEGEND,
        "  2 edges, edges.0.ops, edges.1.ops",
        "    of      1 skip_connect, 2 nor_conv_1x1, 3 nor_conv_3x3, 4 Tanh",
        "    before  w₁·x + Σ₂,₃ wᵢ·BNᵢ(convᵢ(x)) + w₄·tanh x",
        "    after   w₁·x + W·BN(conv(x; Σ₂,₃ pᵢ·K̂ᵢ)) + w₄·tanh x",
    ]


def test_text_of_refusals_and_of_edges_that_stay() -> None:
    assert without_costs(whole(Pooled())) == [
        "Pooled, mode share: 1 edge, 4 candidate operations",
        "",
        "edges whose algebra stays",
        "  1 edge, edges.0.ops: w₁·x + w₂·BN(avgpool(x)) + w₃·BN(maxpool(x)) + w₄·tanh x",
        "",
        "refused",
        "  share-modules on 1 edge (avg_pool_3x3, max_pool_3x3): what feeds",
        "    `edges.0.ops.1.1` is no convolution or linear layer whose kernel could be",
        "    normalized",
        "    you can leave out the norm behind a pooling, or let it be: it stays the",
        "            candidate's own",
    ]


def test_costs_come_first() -> None:
    assert str(report_on(Chain())).splitlines()[:9] == [
        "Chain, mode share: 2 edges, 8 candidate operations",
        "",
        *TABLE,
    ]


def test_text_without_edges() -> None:
    report = report_on(nn.Sequential(nn.Conv2d(C, C, 1)), notes=[f"note {i}" for i in range(6)])
    text = str(report)
    assert "no mixed operation found: nothing to simplify" in text
    assert text.splitlines()[-3:] == ["  note 2", "  note 3", "  and 2 more notes: report.notes"]


@pytest.mark.slow
def test_eight_cells_fit_a_screen() -> None:
    report = whole(DARTSSupernet(4, 8), torch.randn(2, 3, 32, 32))
    lines = str(report).splitlines()
    assert len(lines) <= 42
    assert max(map(len, lines)) <= WIDTH
    assert [len(kind.edges) for kind in report.kinds] == [96, 16]
    assert len(report.details().splitlines()) > 10 * len(lines)


def test_small_spaces_fit_too() -> None:
    for model in (NASBench201Supernet(4, 1), DARTSSupernet(4, 3, steps=2, multiplier=2)):
        lines = str(whole(model, torch.randn(2, 3, 16, 16))).splitlines()
        assert len(lines) <= 42
        assert max(map(len, lines)) <= WIDTH


def test_many_kinds_and_reasons_are_counted() -> None:
    model = Chain(6)
    for number in range(6):
        model.edges[number].ops[0] = nn.Sequential(*(nn.Tanh() for _ in range(number + 1)))
    report = whole(model)
    assert len(report.kinds) == 6
    assert "  and 2 more kinds on 2 edges: report.kinds" in str(report).splitlines()
    refusals = [Change(f"`{i}`, of kind {'abcdefg'[i]}, is written in place", ("edges_0_ops_1_0",)) for i in range(7)]
    refused = report_on(Chain(), [record("share-modules", refusals=refusals)])
    assert str(refused).splitlines()[-1] == "  and 4 other reasons: report.details()"


# -- kinds -----------------------------------------------------------------------------------------------------------


def test_edges_of_one_algebra_are_one_kind() -> None:
    (kind,) = whole(Chain(3)).kinds
    assert kind.edges == ("edges.0.ops", "edges.1.ops", "edges.2.ops")
    assert kind.candidates == ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "Tanh")
    assert kind.before != kind.after
    assert kind.passes[:3] == ("share-modules", "normalize-kernels", "merge-kernels")
    assert kind.refusals == ()


def test_edges_of_other_candidates_are_another_kind() -> None:
    model = Chain(3)
    model.edges[1].ops[2] = conv_bn(5)
    kinds = whole(model).kinds
    assert [kind.edges for kind in kinds] == [("edges.0.ops", "edges.2.ops"), ("edges.1.ops",)]
    assert kinds[0].after == kinds[1].after


def test_the_kind_that_changed_comes_first() -> None:
    model = Chain(3)
    for number in (0, 1):
        model.edges[number] = Pooled().edges[0]
    kinds = whole(model).kinds
    assert [(kind.before == kind.after, len(kind.edges)) for kind in kinds] == [(False, 1), (True, 2)]


def test_refusals_of_a_kind_have_advice() -> None:
    (kind,) = whole(Pooled()).kinds
    (refusal,) = kind.refusals
    assert (refusal.pass_name, refusal.edges, refusal.candidates) == (
        "share-modules",
        1,
        ("avg_pool_3x3", "max_pool_3x3"),
    )
    assert refusal.advice.startswith("leave out the norm behind a pooling")


class InPlace(Chain):
    """Its candidates end in a ReLU that works in place."""

    def __init__(self) -> None:
        super().__init__(1)
        for place in (1, 2):
            self.edges[0].ops[place] = nn.Sequential(*conv_bn(3), nn.ReLU(inplace=True))


def test_what_works_in_place_is_told_with_what_to_do() -> None:
    refusals = whole(InPlace()).refusals
    assert refusals
    assert any("inplace=False" in refusal.advice for refusal in refusals), refusals
    assert "you can write ReLU(inplace=False)" in str(whole(InPlace()))


def test_every_advice_is_on_a_reason_that_some_pass_gives() -> None:
    sources = [*(ROOT / "passes").glob("*.py"), *(ROOT / "toponas_fx").rglob("*.py")]
    texts = [re.sub(r"\{[^}]*\}", "`x`", path.read_text()) for path in sources if path.stem != "refusal_advice"]
    text = "\n".join(texts)
    for pattern, advice in _ADVICE:
        assert re.search(pattern, text), pattern
        assert advice


def test_no_advice_where_nothing_can_be_done() -> None:
    assert advice_on("nothing else keeps its input") == ""
    assert advice_on("something besides the mixed operation reads a candidate's result") == ""


# -- evaluation ------------------------------------------------------------------------------------------------------


class OnlyInEvaluation(Pass):
    """Drops a node that only the evaluation graph has."""

    name = "only-in-evaluation"
    stage = Stage.FINISH
    semantics = Semantics.EXACT

    def plan(self, gm: Any) -> Plan:
        wanted = [node for node in gm.graph.nodes if node.target is torch.abs]
        return Plan(tuple(_Dropped(node) for node in wanted))

    def apply(self, match: Any, rewriter: Any) -> None:
        rewriter.replace(match.node, match.node.args[0])


class _Dropped:
    def __init__(self, node: Any) -> None:
        self.node, self.nodes = node, (node,)

    def describe(self) -> str:
        return "dropped"


class Moded(Chain):
    """Takes another path in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found if self.training else torch.abs(torch.abs(found))


def test_what_a_pass_does_in_evaluation_only_is_told() -> None:
    report = whole(Moded(), passes=(*DEFAULT_PASSES, OnlyInEvaluation()))
    own, other = report.records[-1], report.evaluation[-1]
    assert (own.name, len(own.changes), len(other.changes)) == ("only-in-evaluation", 0, 2)
    assert "only-in-evaluation: 2 changes in the evaluation graph, none in training's" in str(report)
    assert "only-in-evaluation in evaluation (EXACT): 2 changes, 0 refusals" in report.details()
    assert report.to_dict()["evaluation"][-1]["name"] == "only-in-evaluation"


class Negated(OnlyInEvaluation):
    """Works on the training graph, after the passes that lower it."""

    name = "negated"

    def plan(self, gm: Any) -> Plan:
        return Plan(tuple(_Dropped(node) for node in gm.graph.nodes if node.target is torch.tanh))


class Tanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


def test_what_ran_after_the_algebra_was_read_is_told() -> None:
    model = Chain(1)
    model.edges[0].ops[3] = Tanh()
    report = whole(model, passes=(*DEFAULT_PASSES, Negated()))
    assert "w₄·tanh x" in report.kinds[0].after
    assert "negated ran after the algebra was read: 1 change not shown" in str(report)


def test_one_graph_for_both_modes_is_told_once() -> None:
    report = whole(Chain())
    assert report.evaluation is None
    assert "in evaluation" not in report.details()
