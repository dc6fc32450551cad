"""Write a weighted reduction over stacked candidates as products and additions.

Before::

    %0 = input x
    %1 = relu(%0)
    %2 = tanh(%0)
    %3 = stack([%1, %2])
    %4 = attr alphas
    %5 = einsum('i,i...->...', %4, %3)
    return %5

After::

    %0 = input x
    %1 = relu(%0)
    %2 = tanh(%0)
    %3 = attr alphas
    %4 = getitem(%3, 0)
    %5 = mul(%1, %4)
    %6 = getitem(%3, 1)
    %7 = mul(%2, %6)
    %8 = add(%5, %7)
    return %8

``sum_i w_i t_i`` is what all of these compute, for ``S = stack(t)`` or a ``cat`` whose axis is split by a view:
``(S * w).sum(d)`` and ``.mean(d)``, with ``w`` broadcast along every axis but ``d`` or absent; an ``einsum`` that sums
over ``d`` alone; ``tensordot``; ``matmul`` with a vector. Nothing is stacked any more, and *detect-mixed-ops* sees the
sum.

Refuses:

1. a stack, or a product with it, that something else reads;
2. terms whose type is not that of the sum;
3. terms that do not lie in the usual order, in which a stack of them does;
4. terms that are written in place before the reduction, and a sum across a switch of grad mode.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx.analysis.memory import Memory, why_not_gathered
from toponas_fx.analysis.stacked_sums import read_reduction
from toponas_fx.analysis.stacked_terms import shape_of, unexpanded
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


@dataclass(frozen=True)
class StackedSum:
    """A reduction ``number * sum_i factors[i] * terms[i]``; ``nodes`` compute it, root first."""

    terms: tuple[fx.Node, ...]
    factors: tuple[fx.Node, ...]
    number: float
    nodes: Sequence[fx.Node]

    def describe(self) -> str:
        """Say how many terms were found."""
        return f"a reduction over {len(self.terms)} stacked terms becomes a sum"


@dataclass(frozen=True)
class UnstackSums(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "unstack-sums"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    stage: ClassVar[Stage] = Stage.DETECT

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find all reductions over a stack."""
        matches: list[StackedSum] = []
        refusals: list[Refusal] = []
        memory = Memory.of(gm)
        for node in reversed(gm.graph.nodes):  # a term may be the root of an earlier sum
            read = read_reduction(node) if "type" in node.meta else None
            if read is None:
                continue
            stacked, number = read
            found = StackedSum(stacked.terms, stacked.factors, number, (node, *stacked.nodes))
            reason = _why_not(memory, found)
            if reason is None:
                matches.append(found)
            else:
                refusals.append(Refusal(tuple(found.nodes), reason))
        return Plan(tuple(matches), tuple(refusals))

    def apply(self, match: StackedSum, rewriter: Rewriter) -> None:
        """Put products and additions in the place of the reduction."""
        root = match.nodes[0]
        kind: TensorType = root.meta["type"]
        with rewriter.before(root, *match.nodes):
            vectors = [_vector(factor, len(match.terms), rewriter) for factor in match.factors]
            total: Any = None
            for index, term in enumerate(match.terms):
                product = term
                for vector in vectors:
                    weight = rewriter.item(vector, index, type=TensorType(vector.meta["type"].dtype, ()))
                    product = rewriter.call_function(operator.mul, (product, weight), type=kind)
                added = (total, product)
                total = product if total is None else rewriter.call_function(operator.add, added, type=kind)
            if match.number != 1.0:
                total = rewriter.call_function(operator.mul, (total, match.number), type=kind)
        rewriter.replace(root, total)
        rewriter.erase_unread(match.nodes[1:])


def _why_not(memory: Memory, found: StackedSum) -> str | None:
    root, *inside = found.nodes
    kind = root.meta["type"]
    if any(len(node.users) > 1 for node in inside):
        return "something else reads its stacked terms"
    if any(term.meta.get("type") != kind for term in found.terms):
        return f"its terms are not {kind}"
    if any(term.meta.get("strided") for term in found.terms):
        return "its terms do not lie in memory as a stack of them does"
    if len({node.meta.get("grad", True) for node in found.nodes}) > 1:
        return "it reaches across a switch of grad mode"
    return why_not_gathered(memory, found.nodes)


def _vector(factor: fx.Node, count: int, rewriter: Rewriter) -> fx.Node:
    """Return the numbers of a factor as ``f32[n]``: what its reshapes began with, or one more reshape."""
    factor = node = unexpanded(factor)
    while node.target in _RESHAPES and isinstance(node.args[0], fx.Node) and len(shape_of(node)) != 1:
        if math.prod(shape_of(node.args[0])) != count:
            break
        node = node.args[0]
    if shape_of(node) == (count,):
        return node
    kind = TensorType(factor.meta["type"].dtype, (count,))
    return rewriter.call_function(torch.reshape, (factor, (count,)), type=kind)


_RESHAPES = ("view", "reshape", "unsqueeze", "squeeze", torch.unsqueeze, torch.reshape, operator.getitem)


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            stacked = torch.stack([torch.relu(x), torch.tanh(x)])
            return torch.einsum("i,i...->...", self.alphas, stacked)

    return Example(), torch.ones(1, 2)
