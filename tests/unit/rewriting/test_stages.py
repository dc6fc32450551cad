"""Stages: each pass runs in the stage that it names, whatever its place in the list, and nothing else moves."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import fx, nn

import toponas_fx
from toponas_fx import passes
from toponas_fx.options import checked_passes
from toponas_fx.passes import DEFAULT_PASSES, Deduplicate, DetectMixedOps, EliminateDeadCode, MergeKernels, Recompute
from toponas_fx.rewriting.pass_base import Pass, Plan, Repeat, Semantics, Stage, in_stages
from wrong_passes import SwapSharedWeights, SwapWeights

CLASSES = [value for value in vars(passes).values() if inspect.isclass(value) and issubclass(value, Pass)]
CLASSES.remove(Pass)


@dataclass(frozen=True)
class Seen(Pass):
    """Keep the graph that it sees; change nothing."""

    name: ClassVar[str] = "seen"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    graphs: ClassVar[list[str]] = []

    def plan(self, gm: fx.GraphModule) -> Plan:
        self.graphs.append(toponas_fx.ir.printer.format_graph(gm))
        return Plan()

    def apply(self, match: Any, rewriter: Any) -> None:
        raise AssertionError("nothing to apply")


@dataclass(frozen=True)
class SeenLate(Seen):
    """The same once kernels are merged."""

    name: ClassVar[str] = "seen-late"
    stage: ClassVar[Stage] = Stage.MERGE


class Edge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(torch.rand(3))
        kernels = (nn.Conv2d(4, 4, size, padding=size // 2, bias=False) for size in (1, 3))
        self.ops = nn.ModuleList(nn.Sequential(nn.ReLU(), kernel, nn.BatchNorm2d(4)) for kernel in kernels)

    def forward(self, x: torch.Tensor) -> Any:
        return sum(w * op(x) for w, op in zip(self.alphas, (*self.ops, nn.Identity()), strict=True))


X = torch.randn(2, 4, 5, 5)


@pytest.mark.parametrize("class_", CLASSES, ids=lambda class_: class_.__name__)
def test_every_pass_declares_its_stage(class_: type[Pass]) -> None:
    assert isinstance(vars(class_)["stage"], Stage)


def test_the_default_passes_are_in_the_order_of_their_stages() -> None:
    assert in_stages(DEFAULT_PASSES) == DEFAULT_PASSES
    assert {entry.stage for entry in DEFAULT_PASSES} == set(Stage)
    assert checked_passes(Edge(), "share", None, "kernel") == DEFAULT_PASSES


def test_a_list_that_is_in_order_stays_as_it_is() -> None:
    given = (DetectMixedOps(), Seen(), Repeat(Deduplicate()), MergeKernels(), SeenLate(), EliminateDeadCode())
    assert checked_passes(Edge(), "share", given, "kernel") == given


def test_a_pass_comes_last_in_its_stage() -> None:
    names = [type(entry).__name__ for entry in in_stages([*DEFAULT_PASSES, Seen(), SeenLate()])]
    assert names.index("Seen") == names.index("DropZeroCandidates") + 1 == names.index("Repeat") - 1
    assert names.index("SeenLate") == names.index("MergeKernels") + 1 == names.index("DropNeutral") - 1
    first = in_stages([SeenLate(), *DEFAULT_PASSES])
    assert [type(entry).__name__ for entry in first].index("SeenLate") == names.index("MergeKernels") - 2


def test_repeated_passes_stay_together_where_the_last_of_them_belongs() -> None:
    group = Repeat(Seen(), Deduplicate())
    assert group.stage is Stage.SHARE
    assert in_stages([MergeKernels(), group, DetectMixedOps()]) == (DetectMixedOps(), group, MergeKernels())
    assert Repeat().stage is Stage.REDUCE


def test_an_appended_pass_sees_mixed_sums_over_the_users_own_modules() -> None:
    Seen.graphs.clear()
    fast = toponas_fx.simplify(Edge(), X, passes=[*DEFAULT_PASSES, Seen(), SeenLate()])
    early, late = Seen.graphs[:2]
    assert early.count("BatchNorm2d[") == 2
    assert early.count("mixed_sum(") == 1
    assert late.count("BatchNorm2d[") == 1
    assert "merge_kernels(" in late
    assert [record.name for record in fast.report.records].count("seen") == 1


def test_recompute_stays_last() -> None:
    fast = toponas_fx.simplify(Edge(), X, recompute=True, passes=[*DEFAULT_PASSES, Seen()])
    assert fast._toponas.passes[-1] == Recompute()


def test_mode_exact_keeps_a_pass_of_the_users_unless_it_shares() -> None:
    found = checked_passes(Edge(), "exact", [*DEFAULT_PASSES, SwapWeights(), SwapSharedWeights()], "kernel")
    names = [entry.name for entry in found if isinstance(entry, Pass)]
    assert "swap-weights" in names
    assert "swap-shared-weights" not in names
    assert names.index("swap-weights") < names.index("fold-weights")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Seen, r"write Seen\(\), not Seen"),
        ("seen", "instances of toponas_fx.rewriting.pass_base.Pass, which 'seen' is not"),
        (Repeat(Seen), r"write Seen\(\), not Seen"),
        (Repeat(Repeat()), "which Repeat"),
        (type("NoName", (Seen,), {"name": ""})(), "NoName needs a class attribute `name`, a str, and has ''"),
        (type("NoPromise", (Seen,), {"semantics": "exact"})(), "`semantics`, a Semantics, and has 'exact'"),
        (type("NoStage", (Seen,), {"stage": 3})(), "`stage`, a Stage, and has 3"),
    ],
    ids=["class", "text", "class in a group", "group in a group", "no name", "no semantics", "no stage"],
)
def test_what_is_no_pass_is_told_in_a_sentence(given: Any, text: str) -> None:
    with pytest.raises(toponas_fx.ArgumentError, match=text):
        toponas_fx.simplify(Edge(), X, passes=[*DEFAULT_PASSES, given])
