"""Add up the weights of equal terms.

Before::

    %0 = input x
    %1 = relu(%0)
    %2 = tanh(%0)
    %3 = attr alphas
    %4 = .unbind(%3, 0)
    %5 = getitem(%4, 0)
    %6 = getitem(%4, 1)
    %7 = getitem(%4, 2)
    %8 = mixed_sum([%1, %1, %2], [%5, %6, %7], (0, 0, 0))
    return %8

After::

    %0 = input x
    %1 = relu(%0)
    %2 = tanh(%0)
    %3 = attr alphas
    %4 = .unbind(%3, 0)
    %5 = getitem(%4, 0)
    %6 = getitem(%4, 1)
    %7 = getitem(%4, 2)
    %8 = add(%5, %6)
    %9 = mixed_sum([%1, %2], [%8, %7], (0, 0))
    return %9

``w_1 t + w_2 t = (w_1 + w_2) t``. All shares of one float group add up to 1 by definition, so they leave the term bare.

Refuses:

1. terms of different edges: each keeps its own.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.analysis.mixed_ops import is_mixed_sum
from toponas_fx.rewriting.pass_base import Pass, Plan, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter
from toponas_fx.rewriting.sum_terms import SumTerms


@dataclass(frozen=True)
class EqualTerms:
    """Terms of one sum that are one value, by position."""

    sum_node: fx.Node
    positions: tuple[int, ...]

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The sum and the term."""
        terms: Any = self.sum_node.args[0]
        return (terms[self.positions[0]], self.sum_node)

    def describe(self) -> str:
        """Say how many terms there were."""
        return f"{len(self.positions)} equal terms become one, their weights added"


@dataclass(frozen=True)
class CombineTerms(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "combine-terms"
    semantics: ClassVar[Semantics] = Semantics.ROUNDING
    stage: ClassVar[Stage] = Stage.SHARE

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find the first set of equal terms of each sum."""
        matches: list[EqualTerms] = []
        for node in gm.graph.nodes:
            if not is_mixed_sum(node):
                continue
            groups: dict[Any, list[int]] = {}
            for position, (term, edge) in enumerate(zip(node.args[0], node.args[2], strict=True)):
                if isinstance(term, fx.Node):
                    groups.setdefault((term, edge), []).append(position)
            matches += [EqualTerms(node, tuple(group)) for group in groups.values() if len(group) > 1][:1]
        return Plan(tuple(matches))

    def apply(self, match: EqualTerms, rewriter: Rewriter) -> None:
        """Keep the first term with the sum of the weights."""
        found = SumTerms(match.sum_node)
        first, *rest = match.positions
        chosen = [found.weights[i] for i in match.positions]
        with rewriter.before(match.sum_node, *match.nodes):
            found.weights[first] = 1.0 if _are_all_shares(chosen) else _add(rewriter, chosen)
        found.drop(rest)
        found.write(rewriter)


def _add(rewriter: Rewriter, weights: list[Any]) -> Any:
    total: Any = weights[0]
    for weight in weights[1:]:
        known = [part.meta["type"] for part in (total, weight) if isinstance(part, fx.Node)]
        both_plain = not known
        total = total + weight if both_plain else rewriter.call_function(operator.add, (total, weight), type=known[0])
    return total


def _are_all_shares(weights: list[Any]) -> bool:
    """Return whether weights are the shares of one float group, each once."""
    if not all(isinstance(weight, fx.Node) and weight.target is operator.getitem for weight in weights):
        return False
    parent = weights[0].args[0]
    if any(weight.args[0] is not parent for weight in weights) or parent.target is not ops.group_shares:
        return False
    return sorted(weight.args[1] for weight in weights) == list(range(len(parent.args[0])))


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(x)
            total: Tensor = sum(w * t for w, t in zip(self.alphas, (y, y, torch.tanh(x)), strict=True))
            return total

    return Example(), torch.ones(1, 2)
