"""Rules that are wrong on purpose: negative controls."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, fx, nn

from toponas_fx.analysis.arms import selects
from toponas_fx.analysis.mixed_ops import is_mixed_sum
from toponas_fx.passes import DEFAULT_PASSES, ShareDrawn
from toponas_fx.rewriting.pass_base import Pass, Plan, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


@dataclass(frozen=True)
class Spoiled:
    """A place that a wrong rule spoils."""

    node: fx.Node

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        return (self.node,)

    def describe(self) -> str:
        return "something is spoiled"


@dataclass(frozen=True)
class SwapWeights(Pass):
    """A wrong rule: it swaps the last two weights of the first sum that has two."""

    name: ClassVar[str] = "swap-weights"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    stage: ClassVar[Stage] = Stage.MERGE  # while terms have their weights still

    def plan(self, gm: fx.GraphModule) -> Plan:
        found = [n for n in gm.graph.nodes if is_mixed_sum(n) and len(n.args[1]) > 1]
        fresh = [] if any("swapped" in n.meta for n in found) else found[:1]
        return Plan(tuple(map(Spoiled, fresh)), ())

    def apply(self, match: Spoiled, rewriter: Rewriter) -> None:
        terms, weights, edges = match.node.args
        *others, a, b = weights  # type: ignore[misc]
        match.node.meta["swapped"] = True
        rewriter.update(match.node, (terms, [*others, b, a], edges))


@dataclass(frozen=True)
class SwapSharedWeights(SwapWeights):
    name: ClassVar[str] = "swap-shared-weights"
    semantics: ClassVar[Semantics] = Semantics.SHARES


@dataclass(frozen=True)
class SkipDrawn(SwapWeights):
    """A wrong rule: the second arm of each choice leaves out the last operation but one."""

    name: ClassVar[str] = "skip-drawn"

    def plan(self, gm: fx.GraphModule) -> Plan:
        return Plan(tuple(Spoiled(node) for node in selects(gm.graph) if "swapped" not in node.meta))

    def apply(self, match: Spoiled, rewriter: Rewriter) -> None:
        match.node.meta["swapped"] = True
        last = match.node.args[2][1]  # type: ignore[index]
        rewriter.update(last, (last.args[0].args[0],))  # type: ignore[union-attr,arg-type]


@dataclass(frozen=True)
class SkipSharedDrawn(SkipDrawn, ShareDrawn):
    """The same as a pass that shares candidates of which one is drawn."""

    name: ClassVar[str] = "skip-shared-drawn"
    semantics: ClassVar[Semantics] = Semantics.SHARES


@dataclass(frozen=True)
class Fail(SwapWeights):
    name: ClassVar[str] = "fail"

    def plan(self, gm: fx.GraphModule) -> Plan:
        raise KeyError("lost")


@dataclass(frozen=True)
class Wrong(Pass):
    """Put something between each tanh and its readers."""

    name: ClassVar[str] = "wrong"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    make: Callable[[Rewriter, fx.Node], Any] = lambda rewriter, node: node
    again: bool = False

    def plan(self, gm: fx.GraphModule) -> Plan:
        found = [n for n in gm.graph.nodes if n.target is torch.tanh and (self.again or "spoiled" not in n.meta)]
        return Plan(tuple(map(Spoiled, found)))

    def apply(self, match: Spoiled, rewriter: Rewriter) -> None:
        match.node.meta["spoiled"] = True
        readers = list(match.node.users)
        with rewriter.after(match.node, match.node):
            new = self.make(rewriter, match.node)
        new.meta["type"] = match.node.meta["type"]
        for reader in readers:
            rewriter.redirect(reader, match.node, new)


class Tanh(nn.Module):
    """A model with one of everything that a wrong rule may touch."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.unread = nn.Parameter(torch.rand(4, 1, 1)), nn.Parameter(torch.rand(1))
        self.drop, self.evaluation = nn.Dropout(0.5), InEvaluation()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x * self.scale)


class InEvaluation(nn.Module):
    """Twice the input, in evaluation only."""

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else 2 * x


def with_another_gradient(x: Tensor) -> Tensor:
    return 2 * x - x.detach()


def reading(x: Tensor, parameter: Tensor) -> Tensor:
    return x + 0 * parameter


def counting(x: Tensor, buffer: Tensor) -> Tensor:
    buffer.add_(1)
    return x + 0


def drawing(x: Tensor) -> Tensor:
    torch.rand(())
    return x + 0


def add_pass(monkeypatch: pytest.MonkeyPatch, rule: Pass) -> None:
    """Let ``simplify`` run one more rule after the default ones of its stage."""
    passes = (*DEFAULT_PASSES, rule)
    monkeypatch.setattr(importlib.import_module("toponas_fx.options"), "DEFAULT_PASSES", passes)
