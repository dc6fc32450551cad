"""What the report tells of models that take one candidate of each edge a step."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import toponas_fx
from sampled.arms import LossBeside
from sampled.draws import MaxWithIndex, MultinomialRows, OfNine, OfTwo
from sampled.gates import DSNAS
from sampled.parts import Chain, few, sample
from sampled.readings import IndexOfAList, Member, TwoChoicesInOne
from sampled.shown import FEW, gdas, images, simplified
from sampled.structures import SharedStates
from sampled.unlike import UnlikeChannels
from toponas_fx.command.cli import main
from toponas_fx.report.building import ONE_AT_A_TIME
from toponas_fx.report.text import PER_STEP

NAMES = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")
GDAS = "one of 5: w₁·0 | w₂·x | w₃·avgpool(x) | wᵢ·BNᵢ(convᵢ(relu x)), i=4,5; each + Σ₍ⱼ≠ᵢ₎ wⱼ"


class Both(Chain):
    """An edge that mixes its candidates, then one that draws."""

    count = 2

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        soft = self.alphas.softmax(-1)
        x = sum(w * op(x) for w, op in zip(soft[0], self.edges[0].ops, strict=True))
        return self.head(self.edges[1].ops[index[1].item()](x) * weights[1, index[1].item()])


# -- edges -------------------------------------------------------------------------------------------------------------


def test_each_choice_is_an_edge_and_each_arm_a_candidate() -> None:
    report = gdas().report
    assert len(report.edges) == 6
    assert all(edge.drawn for edge in report.edges)
    assert {tuple(part.name for part in edge.candidates) for edge in report.edges} == {NAMES}
    assert [edge.name for edge in report.edges][:3] == [f"cells.0.edges.{key}.ops" for key in ("1<-0", "2<-0", "2<-1")]
    (kind,) = report.kinds
    assert (kind.candidates, kind.drawn, len(kind.edges), kind.before) == (NAMES, True, 6, GDAS)
    assert [part.weight for part in report.edges[1].candidates] == [
        f"{report.edges[1].candidates[0].weight[:-3]}[{k}]" for k in range(5)
    ]


def test_what_passes_did_is_told_of_the_candidate_that_they_did_it_to() -> None:
    first = gdas().report.edges[0]
    folded = [[text for text in part.changes if text.startswith("fold-weights")] for part in first.candidates]
    assert [len(folded[k]) for k in (0, 1, 3, 4)] == [0, 0, 1, 1]  # the pooling's is the device's to decide
    assert all(f"{first.name}.{k}" in folded[k][0] for k in (3, 4))


@pytest.mark.parametrize(
    ("kind", "names", "algebra"),
    [
        (OfTwo, FEW[1:], "one of 2: w₁·BN(maxpool(x)) | w₂·BN(conv(relu x)); each + Σ₍ⱼ≠ᵢ₎ wⱼ"),
        (LossBeside, FEW, "one of 3: w₁·x | w₂·BN(maxpool(x)) | w₃·BN(conv(relu x))"),
        (MaxWithIndex, FEW, "one of 3: x | BN(maxpool(x)) | BN(conv(relu x))"),
        (Member, FEW, "one of 3: w₁·x | BN(maxpool(x)) + … | BN(conv(relu x)) + …"),
        (MultinomialRows, FEW, "one of 3: …·x | …·BN(maxpool(x)) | …·BN(conv(relu x))"),
        (DSNAS, FEW, "one of 3: w·x | w·BN(maxpool(x)) | w·BN(conv(relu x))"),
        (UnlikeChannels, None, "one of 3: wᵢ·linearᵢ(meanᵢ(BNᵢ(convᵢ(x))))"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_algebra_is_read_off_the_arms(kind: type[Chain], names: Any, algebra: str) -> None:
    (found, *others) = simplified(kind()).report.kinds
    assert (found.before, found.after, others) == (algebra, algebra, [])
    assert names in (None, found.candidates)


def test_what_two_candidates_compute_once_is_told_after() -> None:
    (kind,) = simplified(TwoChoicesInOne()).report.kinds
    assert kind.before == "one of 4: wᵢ·BNᵢ(convᵢ(relu x)), i=1,3 | wᵢ·BNᵢ(convᵢ(relu(BNᵢ(convᵢ(relu x))))), i=2,4"
    assert kind.after.endswith("w₄·BN(conv(relu(BN(v)))), u = conv(relu x), v = conv(relu x)")


class SkipAndBlock(Chain):
    """Two candidates with one weight: no block with a skip around it."""

    @staticmethod
    def make() -> list[nn.Module]:
        return few()[::2]

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        for number, ops in self.each():
            weight, k = weights[number].sum(), index[number].item()
            x = x * weight if k == 0 else weight * ops[k](x)
        return self.head(x)


def test_candidates_with_one_weight_stay_two() -> None:
    (kind,) = simplified(SkipAndBlock()).report.kinds
    assert kind.candidates == ("skip_connect", "nor_conv_3x3")


def test_edges_of_one_cell_are_one_kind_whatever_they_read() -> None:
    report = simplified(SharedStates()).report
    assert [(kind.candidates, len(kind.edges)) for kind in report.kinds] == [
        (FEW, 3),
        (("conv_3x3", "avg_pool_2x2", "max_pool_2x2"), 1),
    ]


def test_models_that_mix_and_draw() -> None:
    fast = simplified(Both())
    report = fast.report
    assert [(edge.name, edge.drawn) for edge in report.edges] == [("edges.0.ops", False), ("edges.1.ops", True)]
    text = " ".join(str(report).split())
    assert text.startswith("Both, mode share: 2 edges, 6 candidate operations, one a step on 1 edge")
    assert "edges whose algebra stays" in text or "kinds of edges (" in text
    assert "edges of which a step computes one candidate (" in text
    kinds = [data.get("drawn", False) for *_, data in fast.topology().edges(data=True) if data["kind"] == "candidate"]
    assert sorted(kinds) == [False] * 3 + [True] * 3


def test_a_choice_may_have_many_candidates() -> None:
    (kind,) = simplified(OfNine()).report.kinds
    assert len(kind.candidates) == 9
    assert kind.candidates[-1] == "conv_1x1"
    assert ", i=4,5,8 | " in kind.before


class Given(Chain):
    """The loop says which candidates run, as integers."""

    def forward(self, x: Tensor, *taken: int) -> Tensor:
        for (_, ops), k in zip(self.each(), taken, strict=True):
            x = ops[k](x)
        return self.head(x)


def test_the_report_follows_when_integers_turn_out_to_be_choices() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = toponas_fx.simplify(Given(), (images(), 2, 0, 1))
        assert not any(edge.drawn for edge in fast.report.edges)
        for taken in ((0, 1, 2), (1, 2, 0), (2, 1, 1)):
            fast(images(), *taken)
    (kind,) = fast.report.kinds
    assert (kind.candidates, kind.drawn, len(kind.edges)) == (FEW, True, 3)
    assert fast.report.before.convolutions == 1
    assert fast.report.notes == (ONE_AT_A_TIME,)
    assert [edge.name for edge in fast.report.edges] == [f"edges.{k}.ops" for k in range(3)]


class Settable(Chain):
    """Draws its candidates until the loop sets them."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        for number, ops in self.each():
            k = index[number].item() if self.taken is None else self.taken
            x = ops[k](x) * weights[number, k]
        return self.head(x)


def test_a_later_capture_of_one_path_leaves_the_report_and_the_picture(tmp_path: Path) -> None:
    fast = simplified(Settable())
    before = fast.report
    fast.taken = 2
    fast(images())
    assert len(fast._toponas.programs) > 1
    assert fast.report == before
    page = toponas_fx.draw(fast, tmp_path / "page.html").read_text()
    assert ">one of 3</text>" in page
    assert "nothing left" not in page
    assert "forward takes another path now" in page


# -- forms -------------------------------------------------------------------------------------------------------------


def test_the_text() -> None:
    lines = str(gdas().report).splitlines()
    assert all(len(line) <= 80 for line in lines)
    text = " ".join(" ".join(lines).split())
    assert text.startswith("TinyNetworkGDAS, mode share: 6 edges, 30 candidate operations, one a step on each edge")
    assert PER_STEP in text
    assert "of 1 none, 2 skip_connect, 3 avg_pool_3x3, 4 nor_conv_1x1, 5 nor_conv_3x3" in text
    assert f"before {GDAS} after the same" in text
    assert ONE_AT_A_TIME in text
    assert "no mixed operation" not in text
    assert "constant 1" not in text
    assert "leave such an edge out" not in text


def test_the_details() -> None:
    text = gdas().report.details()
    assert "cells.0.edges.1<-0.ops, from stem_1 : f32[2,4,8,8], one of 5 a step" in text
    assert f"\n\n{PER_STEP}\n" in text
    assert f"note: {ONE_AT_A_TIME}" in text
    assert "all its candidates are zero" not in text


def test_the_other_forms() -> None:
    report = gdas().report
    assert f"\n\n{PER_STEP}\n\n| | before | after | ratio |" in report.to_markdown()
    assert f"<caption>{PER_STEP}</caption>" in report._repr_html_()
    told = json.loads(report.to_json())
    assert told["costs_are"] == PER_STEP
    assert all(edge["drawn"] for edge in told["mixtures"])
    assert told["kinds"][0]["drawn"]
    assert told["before"]["convolutions"] == 5.4


def test_the_form_of_rich() -> None:
    rich = pytest.importorskip("rich.console")
    console = rich.Console(file=io.StringIO(), width=200)
    console.print(gdas().report)
    assert "a step, on average over uniform draws" in console.file.getvalue()


def test_a_report_on_mixed_operations_says_nothing_of_draws() -> None:
    told = toponas_fx.simplify(Mixed(), images(), mode="exact").report
    assert "drawn" not in told.to_json()
    assert "costs_are" not in told.to_dict()
    assert not any("draws" in text or "a step" in text for text in (str(told), told.details(), told.to_markdown()))


class Mixed(Chain):
    """One edge that mixes."""

    count = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.head(sum(w * op(x) for w, op in zip(self.alphas[0].softmax(0), self.edges[0].ops, strict=True)))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "sampled.draws:OfTwo", "--input", "2,4,8,8", "--details"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("OfTwo, mode share: 3 edges, 6 candidate operations, one a step on each edge")
    assert PER_STEP in text


def test_what_never_runs_is_told_all_the_same() -> None:
    model = IndexOfAList()
    model.spare = nn.ModuleList([nn.Identity(), nn.Tanh()])
    forward = model.forward
    model.forward = lambda x: forward(model.spare[0](x))  # type: ignore[method-assign]
    assert "`spare.1` never runs: no mixed operation uses it" in simplified(model).report.notes
