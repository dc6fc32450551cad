"""Rules that are wrong on purpose: negative controls."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import ClassVar

import pytest
from torch import fx

from toponas_fx.mixtures import is_mixed_sum
from toponas_fx.pass_contract import Pass, Plan, Semantics, Stage
from toponas_fx.passes import DEFAULT_PASSES
from toponas_fx.rewriter import Rewriter


@dataclass(frozen=True)
class Spoiled:
    """The last two weights of a sum."""

    node: fx.Node

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        return (self.node,)

    def describe(self) -> str:
        return "two weights are swapped"


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


class SwapSharedWeights(SwapWeights):
    name: ClassVar[str] = "swap-shared-weights"
    semantics: ClassVar[Semantics] = Semantics.SHARES


class Fail(SwapWeights):
    name: ClassVar[str] = "fail"

    def plan(self, gm: fx.GraphModule) -> Plan:
        raise KeyError("lost")


def add_pass(monkeypatch: pytest.MonkeyPatch, rule: Pass) -> None:
    """Let ``simplify`` run one more rule after the default ones of its stage."""
    passes = (*DEFAULT_PASSES, rule)
    monkeypatch.setattr(importlib.import_module("toponas_fx.options"), "DEFAULT_PASSES", passes)
